"""`braid data build`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore, StoreError
from launch.commands.data.building import shown, tell_built
from launch.commands.data.name import refuse_bad_name
from launch.commands.options import Endpoint, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of
from launch.errors import UserError
from launch.runs.connection import reachable
from orchestrator.records.leftovers import remove_abandoned

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from data_pipeline.dataset.batches import Encode
    from data_pipeline.sources.corpus import Corpus

SMALL_BYTES = 2**22
"""Of a corpus that is tokenized before processes have started."""
CorpusPath = Annotated[
    Path | None,
    typer.Argument(
        metavar="CORPUS",
        help="A file, or a directory of text, .jsonl, .json (also .gz, .zst, .bz2, .xz), .parquet, MDS; without it, Python's own source.",
    ),
]

TokenizerPath = Annotated[Path | None, typer.Option(help="A Hugging Face tokenizer.json; without it, a BPE is trained on the corpus.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that tokenize; 0: one for each core that there is to use.")]
ClusterAddress = Annotated[
    str, typer.Option("--address", metavar="HOST:PORT", help="A Ray cluster, to tokenize on all of its cores; empty: on this machine.")
]


def build(
    name: Annotated[str, typer.Argument(help="The dataset's name, for data.dataset.")],
    corpus: CorpusPath = None,
    tokenizer: TokenizerPath = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Of the BPE that is trained where no tokenizer is given; without it, 4096.")
    ] = None,
    eos_token: Annotated[str, typer.Option(help="The token that ends documents; empty: the tokenizer's usual one.")] = "",
    shard_tokens: Annotated[int, typer.Option(min=1, help="Tokens in one shard.")] = 2**26,
    workers: Workers = 0,
    address: ClusterAddress = "",
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Tokenize a corpus into shards on the store. Interrupted or killed, the same command goes on."""
    from data_pipeline.dataset.build import build_dataset, refuse_existing
    from data_pipeline.sources.open import open_corpus

    refuse_bad_name(name)
    store = open_store(where := storage_of(storage, endpoint_url))
    refuse_existing(store, name)
    _tidy(store)
    opened = open_corpus(corpus)
    with _encoding(workers, address, opened) as encode, shown(f"{'reading the' if tokenizer else 'training a'} tokenizer") as progress:
        made, file = _tokenizer(tokenizer, vocab_size, store, name, opened)
        build_dataset(
            store=store,
            name=name,
            corpus=opened,
            tokenizer=made,
            tokenizer_file=file,
            eos_token=eos_token,
            shard_size_tokens=shard_tokens,
            encode=encode,
            progress=progress.show,
        )
    typer.echo(name)
    tell_built(name, progress)
    if storage_hint(where):
        tell(f"look into it with `braid data inspect {name}{storage_hint(where)}`")


def _tokenizer(path: Path | None, vocab_size: int | None, store: ObjectStore, name: str, corpus: Corpus) -> tuple[Tokenizer, bytes]:
    """The one that is given, with its file, or one that is trained. Raises UserError where both are asked for, TokenizerInvalid."""
    from data_pipeline.dataset.build import DEFAULT_VOCAB_SIZE
    from data_pipeline.dataset.tokenizer import load_tokenizer
    from data_pipeline.dataset.unfinished import trained_tokenizer

    if path is None:
        return trained_tokenizer(store, name, corpus, DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size), b""
    if vocab_size is not None:
        raise UserError("--tokenizer: has a vocabulary of its own; leave out --vocab-size")
    return load_tokenizer(path)


@contextmanager
def _encoding(workers: int, address: str, corpus: Corpus) -> Iterator[Encode]:
    """Where to tokenize: a corpus that is done in a moment needs no processes. Raises NotReachable."""
    from data_pipeline.dataset.batches import encode_here  # costs numpy and tokenizers
    from data_pipeline.dataset.processes import encode_in_processes, num_usable_cores

    with reachable(address) if address else nullcontext() as cluster:
        if cluster is not None:
            yield cluster.encode(workers)
        elif not workers and corpus.size_bytes < SMALL_BYTES:
            yield encode_here
        else:
            yield partial(encode_in_processes, num_workers=workers or num_usable_cores())


def _tidy(store: ObjectStore) -> None:
    """Removes what builds that were killed left incomplete, where one is allowed to."""
    with suppress(StoreError):
        remove_abandoned(store, now_s=time.time())
