"""A small dataset that is built from text."""

from collections.abc import Iterable

from tokenizers import Tokenizer

from data_pipeline.dataset.build import build_dataset
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.store.protocol import ObjectStore

DOCUMENTS = [f"def function_{number}(argument):\n    return argument + {number}\n" for number in range(40)]


def build(
    store: ObjectStore, tokenizer: Tokenizer, documents: Iterable[str] = DOCUMENTS, name: str = "tiny", shard_size_tokens: int = 120
) -> DatasetManifest:
    return build_dataset(
        store=store,
        name=name,
        documents=documents,
        tokenizer=tokenizer,
        shard_size_tokens=shard_size_tokens,
        progress=lambda progress: None,
    )
