"""Times building a dataset against the bare tokenizer on the same text and cores: `python -m bench.build`."""

from __future__ import annotations

import itertools
import json
import tempfile
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from bench.timing import medians_s, print_ratios
from data_pipeline.config import StorageConfig
from data_pipeline.dataset.build import build_dataset
from data_pipeline.dataset.processes import encode_in_processes, num_usable_cores
from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.sources.open import open_corpus
from data_pipeline.sources.stdlib import stdlib_corpus
from data_pipeline.store.open import open_store

VOCAB_SIZE = 16384
BYTES_PER_CORE = 24 * 10**6
DOCUMENT_CHARACTERS = 4000


def main() -> None:
    cores = num_usable_cores()
    source = list(stdlib_corpus())
    tokenizer = train_tokenizer(source, VOCAB_SIZE)
    texts = [text[start : start + DOCUMENT_CHARACTERS] for text in source for start in range(0, len(text), DOCUMENT_CHARACTERS)]
    texts = list(itertools.islice(itertools.cycle(texts), cores * BYTES_PER_CORE // DOCUMENT_CHARACTERS))
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus.jsonl"
        corpus.write_text("".join(json.dumps({"id": f"document {number}", "text": text}) + "\n" for number, text in enumerate(texts)))

        def build() -> None:
            build_in(f"{directory}/store", f"built-{next(numbers)}", corpus, tokenizer, cores)

        bare = "encode_batch_fast"
        candidates = {bare: lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False), "build": build}
        times_s = medians_s(candidates, rounds=3)
    size_bytes = sum(len(text.encode()) for text in texts)
    print_ratios(f"{size_bytes / 1e6:.0f} MB of text in {len(texts):,} documents, {cores} cores", times_s)
    print(f"  build: {size_bytes / times_s['build'] / 1e6:.1f} MB/s, {times_s[bare] / times_s['build']:.2f} of the bare tokenizer")


def build_in(root: str, name: str, corpus: Path, tokenizer: Tokenizer, cores: int) -> None:
    build_dataset(
        store=open_store(StorageConfig(root=root)),
        name=name,
        corpus=open_corpus(corpus),
        tokenizer=tokenizer,
        encode=partial(encode_in_processes, num_workers=cores),
        progress=lambda _: None,
    )


if __name__ == "__main__":
    main()
