"""The peers of `bench/data.py`: each makes its own form of a corpus, and gives int64 batches of it in shuffled order, on one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bench.olmo_core import admit_olmo_core

MDS_SHARD_BYTES = 64 * 2**20
LITDATA_CHUNK_TOKENS = 32 * 2**20


def make_form(name: str, shards: Sequence[Path], directory: Path, seq_len: int) -> None:
    """What a peer reads of these token files, made in `directory`; OLMo-core reads the files themselves."""
    files = [np.fromfile(path, "<u2") for path in shards]
    rows = [row for tokens in files for row in tokens[: len(tokens) // seq_len * seq_len].reshape(-1, seq_len)]
    if name == "mosaic":
        admit_mosaic()
        from streaming import MDSWriter

        with MDSWriter(out=str(directory), columns={"tokens": f"ndarray:uint16:{seq_len}"}, size_limit=MDS_SHARD_BYTES) as writer:
            for row in rows:
                writer.write({"tokens": row})
    else:
        from litdata import TokensLoader, optimize

        optimize(
            fn=_as_tensor,
            inputs=rows,
            output_dir=str(directory),
            chunk_size=LITDATA_CHUNK_TOKENS,
            item_loader=TokensLoader(block_size=seq_len),
            num_workers=1,
            verbose=False,
        )


def _as_tensor(row: Any) -> torch.Tensor:
    return torch.from_numpy(row)


def admit(name: str) -> None:
    """Imports a peer, which is not to be timed."""
    if name == "olmo_core":
        admit_olmo_core()
        import olmo_core.data  # noqa: F401
    elif name == "mosaic":
        admit_mosaic()
        import streaming  # noqa: F401
    else:
        from litdata.streaming import downloader

        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # its client refuses a server without TLS


def batches(name: str, place: str, cache: Path, *, rows: int, seq_len: int, skip: int) -> Iterator[torch.Tensor]:
    """Batches of `rows` from a directory or an s3:// prefix, from the `skip`-th on."""
    cache.mkdir(parents=True, exist_ok=True)
    return {"olmo_core": _olmo_core, "mosaic": _mosaic, "litdata": _litdata}[name](place, cache, rows, seq_len, skip)


def _olmo_core(place: str, cache: Path, rows: int, seq_len: int, skip: int) -> Iterator[torch.Tensor]:
    """With no threads of its own, which is what is fastest from a disk; from S3 with its default of threads."""
    from olmo_core.data import DataCollator, NumpyFSLDataLoader, NumpyFSLDataset

    paths = os.environ["BENCH_SHARDS"].split()
    dataset = NumpyFSLDataset(
        *(f"{place}/{path}" for path in paths),
        sequence_length=seq_len,
        pad_token_id=0,
        eos_token_id=0,
        vocab_size=2**16,
        dtype=np.uint16,
    )
    dataset.work_dir = cache
    loader = NumpyFSLDataLoader(
        dataset,
        collator=DataCollator(pad_token_id=0),
        global_batch_size=rows * seq_len,
        work_dir=cache,
        num_workers=0,
        num_threads=None if place.startswith("s3:") else 0,
    )
    loader.reshuffle(epoch=1)
    loader.batches_processed = skip
    return (batch["input_ids"] for batch in loader)


def _mosaic(place: str, cache: Path, rows: int, seq_len: int, skip: int) -> Iterator[torch.Tensor]:
    from streaming import StreamingDataset

    remote = {"remote": place, "local": str(cache)} if place.startswith("s3:") else {"local": place}
    dataset = StreamingDataset(**remote, batch_size=rows, shuffle=True, num_canonical_nodes=1)
    dataset.load_state_dict(
        {"epoch": 0, "sample_in_epoch": skip * rows, "num_canonical_nodes": 1, "shuffle_seed": 9176, "initial_physical_nodes": 1}
    )
    return _stacked((torch.from_numpy(sample["tokens"].astype(np.int64)) for sample in dataset), rows)


def _litdata(place: str, cache: Path, rows: int, seq_len: int, skip: int) -> Iterator[torch.Tensor]:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    remote = {"cache_dir": str(cache)} if place.startswith("s3:") else {}
    dataset = StreamingDataset(place, item_loader=TokensLoader(block_size=seq_len), shuffle=True, drop_last=True, **remote)
    loader = StreamingDataLoader(dataset, batch_size=rows, num_workers=0)
    if skip:
        state = {"num_samples_yielded": skip * rows, "num_workers": 0, "batch_size": rows, "current_epoch": 1}
        dataset.load_state_dict(dataset.state_dict(skip * rows, 0, rows) | state)
    return (batch.to(torch.int64) for batch in loader)


def _stacked(samples: Iterator[torch.Tensor], rows: int) -> Iterator[torch.Tensor]:
    while batch := [sample for _, sample in zip(range(rows), samples, strict=False)]:
        if len(batch) == rows:
            yield torch.stack(batch)


def admit_mosaic() -> None:
    """Before its first import: its datasets of images, which no text needs, want torchvision."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets")
        sys.modules.update({name: ModuleType(name) for name in names})
        for name in names:
            sys.modules[name].__spec__ = ModuleSpec(name, None)
        vars(sys.modules["torchvision.transforms.functional"]).update(to_tensor=None)
        vars(sys.modules["torchvision.datasets"]).update(VisionDataset=object)
