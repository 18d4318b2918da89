"""`braid data`: makes datasets, and looks into them."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from data_pipeline.config import check_name
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore, StoreError
from launch.commands.options import Endpoint, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of, storage_to_look_at
from launch.errors import UserError
from launch.units import human
from orchestrator.records.leftovers import remove_abandoned

app = typer.Typer(no_args_is_help=True, help="Make datasets, and look into them.")


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="The dataset's name, for data.dataset.")],
    corpus: Annotated[
        Path | None,
        typer.Argument(help="A file, or a directory of text, .jsonl (.gz, .zst) and .parquet; without it, Python's own source."),
    ] = None,
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

    _refuse_bad_name(name)
    where = storage_of(storage, endpoint_url)
    store = open_store(where)
    refuse_existing(store, name)
    _tidy(store)
    documents = open_corpus(corpus)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("training a tokenizer" if tokenizer is None else "reading the tokenizer")
        made = load_tokenizer(tokenizer) if tokenizer else train_tokenizer(documents, vocab_size)

        def show(done: BuildProgress) -> None:
            progress.update(task, description=f"{done.num_documents:,} documents, {human(done.num_tokens)}tokens, {done.num_shards} shards")

        manifest = build_dataset(
            store=store, name=name, documents=documents, tokenizer=made, eos_token=eos_token, shard_size_tokens=shard_tokens, progress=show
        )
    typer.echo(name)
    tell(f"{manifest.num_tokens:,} tokens in {len(manifest.shards)} shards; use it with data.dataset={name}")
    if storage_hint(where):
        tell(f"look into it with `braid data inspect {name}{storage_hint(where)}`")


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every shard and check its digest.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """What a dataset holds; exit status 1 where a shard is missing or damaged."""
    from data_pipeline.dataset.inspect import inspect_dataset

    _refuse_bad_name(name)
    report = inspect_dataset(store=open_store(storage_to_look_at(storage, endpoint_url)), name=name, verify_digests=verify)
    manifest = report.manifest
    typer.echo(
        f"{name}: {manifest.num_tokens:,} tokens, {manifest.size_bytes:,} bytes in {len(manifest.shards)} shards of {manifest.dtype}"
    )
    typer.echo(f"vocabulary {manifest.vocab_size}, eos {manifest.eos_id}, tokenizer {manifest.tokenizer_key}")
    typer.echo(f"begins with: {report.first_text[:200]!r}")
    for problem in report.problems:
        tell(f"braid: {problem}")
    if report.problems:
        raise typer.Exit(1)
    if verify:
        typer.echo(f"verified: all {len(manifest.shards)} shards match their digests")


def _tidy(store: ObjectStore) -> None:
    """Removes what builds that were killed left incomplete, where one is allowed to."""
    with suppress(StoreError):
        remove_abandoned(store, now_s=time.time())


def _refuse_bad_name(name: str) -> None:
    """Raises UserError for a name that could reach outside of the store's datasets."""
    try:
        check_name(name, key="NAME")
    except ValueError as error:
        raise UserError(str(error)) from error
