"""`braid data inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.dataset.manifest import DatasetManifest, rows_in_words
from data_pipeline.store.open import open_beside, open_store
from launch.commands.bars import bars
from launch.commands.data.name import refuse_bad_name
from launch.commands.options import Endpoint, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at

if TYPE_CHECKING:
    from data_pipeline.dataset.inspect import DatasetReport

ROW_LENGTHS = (1024, 4096, 8192)
"""Usual ones, for a dataset that nobody has named a length for."""


def inspect(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything: digests, every token, tables of documents and of packed rows.")
    ] = False,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=1, help="The length of a row, data.seq_len: how many tokens do rows reach?")
    ] = None,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """What a dataset holds; exit status 1 where a shard is missing, damaged, or not made of its vocabulary's tokens."""
    from data_pipeline.dataset.inspect import inspect_dataset

    refuse_bad_name(name)
    where = storage_to_look_at(storage, endpoint_url)
    with bars() as begin:
        reading = begin("reading shards") if verify else None
        report = inspect_dataset(store=open_store(where), name=name, elsewhere=open_beside(where), reading=reading)
    manifest, tokens, num_shards = report.manifest, report.tokens, len(report.manifest.shards)
    typer.echo(f"{name}: {manifest.num_tokens:,} tokens, {manifest.size_bytes:,} bytes in {num_shards} shards of {manifest.dtype}")
    for root in sorted({shard.root for shard in manifest.shards} - {""}):
        typer.echo(f"registered where its files are: {root}")
    typer.echo(f"vocabulary {manifest.vocab_size}, eos {manifest.eos_id}, {_tokenizer_in_words(manifest)}")
    typer.echo(f"begins with: {repr(report.first_text[:200]) if manifest.tokenizer_key else list(report.first_tokens[:32])}")
    for length in ROW_LENGTHS if seq_len is None else (seq_len,):
        typer.echo(rows_in_words(manifest, length))
    if tokens is not None and tokens.num_tokens:
        typer.echo(
            f"documents: {tokens.num_documents:,}; {100 * tokens.eos_share:.3g} % of the tokens are eos; the largest is {tokens.max_token}"
        )
    for warning in report.warnings:
        tell(f"warning: {warning}")
    for problem in report.problems:
        tell(f"braid: {problem}")
    if report.problems:
        raise typer.Exit(1)
    if verify:
        typer.echo(_verified(report))


def _verified(report: DatasetReport) -> str:
    """What was found right, in words."""
    shards = report.manifest.shards
    tables = ", and the table of each has its documents" * any(shard.documents for shard in shards)
    packed = "".join(f", rows of {length:,} tokens are as they were packed" for length in report.packed)
    return f"verified: all {len(shards)} shards match their digests, every token is in the vocabulary{tables}{packed}"


def _tokenizer_in_words(manifest: DatasetManifest) -> str:
    return f"tokenizer {manifest.tokenizer_key}" if manifest.tokenizer_key else "no tokenizer: tokens are shown by their ids"
