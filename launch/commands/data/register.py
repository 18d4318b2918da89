"""`braid data register`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.store.open import open_beside, open_store
from launch.commands.bars import bars
from launch.commands.data.name import refuse_bad_name
from launch.commands.options import Endpoint, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of
from launch.errors import UserError
from launch.units import count

if TYPE_CHECKING:
    from data_pipeline.dataset.register import Registered, Vocabulary

DTYPES = ("uint16", "uint32")


def register(
    name: Annotated[str, typer.Argument(help="The dataset's name, for data.dataset.")],
    places: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Token files, directories of .npy and .bin, globs in quotes, s3://bucket/prefix/**.npy."),
    ],
    tokenizer: Annotated[Path | None, typer.Option(help="The Hugging Face tokenizer.json that made the tokens.")] = None,
    eos_token: Annotated[str, typer.Option(help="The token that ends documents; empty: the tokenizer's usual one.")] = "",
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Without a tokenizer: one more than the largest token.")] = None,
    eos_id: Annotated[int | None, typer.Option(min=0, help="Without a tokenizer: the token that ends documents.")] = None,
    dtype: Annotated[str, typer.Option(help="uint16 or uint32; empty: as .npy headers say, or the smallest for the vocabulary.")] = "",
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Make a dataset of token files as they are, such as OLMo's and Dolma's: every one is read and checked once, and none is copied."""
    from data_pipeline.dataset.register import register_dataset

    refuse_bad_name(name)
    if dtype not in ("", *DTYPES):
        raise UserError(f"--dtype {dtype}: use {' or '.join(DTYPES)}, which are little-endian")
    vocabulary = _vocabulary(tokenizer, eos_token, vocab_size, eos_id)
    where = storage_of(storage, endpoint_url)
    with bars(of_bytes=True) as begin:
        done = register_dataset(
            store=open_store(where),
            elsewhere=open_beside(where),
            name=name,
            places=places,
            vocabulary=vocabulary,
            dtype=dtype,
            progress=begin("reading token files"),
        )
    typer.echo(name)
    _tell_registered(done)
    if storage_hint(where):
        tell(f"look into it with `braid data inspect {name}{storage_hint(where)}`")


def _tell_registered(done: Registered) -> None:
    from data_pipeline.dataset.inspect import warnings_of
    from data_pipeline.dataset.token_files import in_words

    manifest = done.manifest
    if done.left_out:
        tell(f"left out: {in_words(done.left_out)}")
    for warning in warnings_of(manifest, done.tokens):
        tell(f"warning: {warning}")
    if directories := sorted({shard.root for shard in manifest.shards if shard.root.startswith("/")}):
        tell(f"the files stay where they are: every node that trains must see {', '.join(directories)}")
    documents, files = count(done.tokens.num_documents, "document"), count(len(manifest.shards), "file")
    tell(f"{manifest.num_tokens:,} tokens of {documents} in {files} of {manifest.dtype}; use it with data.dataset={manifest.name}")


def _vocabulary(tokenizer: Path | None, eos_token: str, vocab_size: int | None, eos_id: int | None) -> Vocabulary:
    """Raises UserError where it is not said, or said twice, what the tokens are; TokenizerInvalid."""
    from data_pipeline.dataset.register import Vocabulary
    from data_pipeline.dataset.tokenizer import eos_id_of, load_tokenizer, vocab_size_of

    if tokenizer is not None:
        if vocab_size is not None or eos_id is not None:
            raise UserError("--tokenizer: says --vocab-size and --eos-id by itself; leave them out (--eos-token names another eos)")
        made, file = load_tokenizer(tokenizer)
        return Vocabulary(size=vocab_size_of(made), eos_id=eos_id_of(made, eos_token), tokenizer_file=file)
    if eos_token or vocab_size is None or eos_id is None:
        raise UserError("--tokenizer: give the tokenizer.json that made the tokens, or --vocab-size and --eos-id")
    if eos_id >= vocab_size:
        raise UserError(f"--eos-id {eos_id}: is beyond --vocab-size {vocab_size}; every token is smaller than that")
    return Vocabulary(size=vocab_size, eos_id=eos_id)
