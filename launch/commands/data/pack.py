"""`braid data pack`."""

from typing import Annotated

import typer

from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.store.open import open_beside, open_store
from launch.commands.bars import bars
from launch.commands.data.name import refuse_bad_name
from launch.commands.options import Endpoint, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at


def pack(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="The length of a row, data.seq_len of the run.")],
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Pack a dataset's documents whole into rows, for data.packing=best_fit: a table is made, no token is copied. Interrupted or
    killed, the same command goes on; typed again later, it mends what is missing or damaged."""
    from data_pipeline.dataset.pack import pack_dataset

    refuse_bad_name(name)
    where = storage_to_look_at(storage, endpoint_url)
    store = open_store(where)
    manifest = load_manifest(store, name, setting="NAME")
    with bars(of_bytes=True) as begin:
        packing = pack_dataset(
            shards=ShardStore(store, open_beside(where)), manifest=manifest, seq_len=seq_len, progress=begin("packing documents")
        )
    typer.echo(packing.in_words())
    tell(f"use it with data.dataset={name} data.seq_len={seq_len} data.packing=best_fit")
