"""`braid data build`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore, StoreError
from launch.commands.data.name import refuse_bad_name
from launch.commands.options import Endpoint, Storage
from launch.commands.terminal import console, tell
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of
from launch.units import human
from orchestrator.records.leftovers import remove_abandoned

Corpus = Annotated[
    Path | None,
    typer.Argument(
        help="A file, or a directory of text, .jsonl, .json (each also .gz, .zst, .bz2, .xz) and .parquet; without it, Python's own source."
    ),
]


def build(
    name: Annotated[str, typer.Argument(help="The dataset's name, for data.dataset.")],
    corpus: Corpus = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A Hugging Face tokenizer.json; without it, a BPE is trained on the corpus.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Of the BPE that is trained where no tokenizer is given.")] = 4096,
    eos_token: Annotated[str, typer.Option(help="The token that ends documents; empty: the tokenizer's usual one.")] = "",
    shard_tokens: Annotated[int, typer.Option(min=1, help="Tokens in one shard.")] = 2**26,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Tokenize a corpus into shards on the store."""
    from data_pipeline.dataset.build import build_dataset, refuse_existing
    from data_pipeline.dataset.tokenizer import load_tokenizer, train_tokenizer
    from data_pipeline.sources.open import open_corpus

    refuse_bad_name(name)
    where = storage_of(storage, endpoint_url)
    store = open_store(where)
    refuse_existing(store, name)
    _tidy(store)
    documents = open_corpus(corpus)
    with _shown("reading the tokenizer" if tokenizer else "training a tokenizer") as shown:
        made, file = load_tokenizer(tokenizer) if tokenizer else (train_tokenizer(documents, vocab_size), b"")
        build_dataset(
            store=store,
            name=name,
            documents=documents,
            tokenizer=made,
            tokenizer_file=file,
            eos_token=eos_token,
            shard_size_tokens=shard_tokens,
            progress=shown.show,
        )
    typer.echo(name)
    _tell_built(name, shown.last)
    if storage_hint(where):
        tell(f"look into it with `braid data inspect {name}{storage_hint(where)}`")


def _tell_built(name: str, done: BuildProgress) -> None:
    tell(f"{done.num_tokens:,} tokens in {done.num_shards} shards; use it with data.dataset={name}")
    if done.num_unknown:
        tell(f"{done.num_unknown:,} of them ({done.num_unknown / done.num_tokens:.2%}) stand for text that the tokenizer doesn't know")


class _Shown:
    """How far a build is, on a terminal."""

    def __init__(self, describe: Callable[[str], None]) -> None:
        self._describe = describe
        self.last = BuildProgress(num_documents=0, num_tokens=0, num_shards=0)

    def show(self, done: BuildProgress) -> None:
        self.last = done
        self._describe(f"{done.num_documents:,} documents, {human(done.num_tokens)}tokens, {done.num_shards} shards")


@contextmanager
def _shown(first: str) -> Iterator[_Shown]:
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(first)
        yield _Shown(lambda description: progress.update(task, description=description))


def _tidy(store: ObjectStore) -> None:
    """Removes what builds that were killed left incomplete, where one is allowed to."""
    with suppress(StoreError):
        remove_abandoned(store, now_s=time.time())
