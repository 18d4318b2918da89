"""A checkpoint's weights as a WeightSource, and any WeightSource as a checkpoint that holds weights only.

Neither way needs the model in memory: what is written is read from its source file by file, and what is read lies in files that are mapped.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem, WriteItem

from data_pipeline.errors import CacheUnusable
from data_pipeline.store.protocol import ObjectStore
from model.config import ModelConfig
from model.weights.own_directory import own_directory, remove_orphans
from model.weights.source import TensorInfo, WeightSource
from orchestrator.records.commit_log import Commit, open_commit_log
from orchestrator.records.keys import CHECKPOINTS, checkpoint_directory
from orchestrator.records.manifest import CheckpointManifest, FileDigest, read_verified, write_manifest
from orchestrator.records.retention import directories_to_delete, is_abandoned
from orchestrator.worker.dcp import FILE_SIZE_BYTES, StoreWriter, load_into, open_checkpoint, write_alone

PREFIX = "model."
"""What the names of weights begin with among a checkpoint's tensors."""
SCRATCH = "weights-"
"""What the names of directories begin with that weights are mapped in."""
COMPANIONS = "companions/"
"""What the names of foreign files begin with among a checkpoint's files: a tokenizer that came with imported weights."""
CHUNK_ELEMENTS = 2**18
"""How many elements are held in fp64 at a time while weights are averaged."""
Progress = Callable[[int, int], None]
"""Called with how many bytes of weights are done, and how many there are."""


def write_weights(
    run_store: ObjectStore,
    source: WeightSource,
    *,
    run: str,
    model: ModelConfig,
    origin: str,
    companions: Mapping[str, bytes],
    file_size_bytes: int = FILE_SIZE_BYTES,
) -> CheckpointManifest:
    """Commits the weights of `source`, in its own dtypes, as the checkpoint of step 0 of a run; `companions` by file name.

    Holds about two files of `file_size_bytes` in memory, or the largest tensor twice. Raises Fenced, StoreError and what the source raises.
    """
    commit_log = open_commit_log(run_store)
    attempt = commit_log.fence_next()
    writer = StoreWriter(run_store, step=0, attempt=attempt, file_size_bytes=file_size_bytes)
    state = {PREFIX + name: torch.empty(info.shape, dtype=info.dtype, device="meta") for name, info in source.tensors.items()}
    write_alone(state, writer, _FromSource(source))
    files = [*writer.digests, *(_put_companion(run_store, attempt, name, data) for name, data in companions.items())]
    manifest = CheckpointManifest(
        run=run,
        attempt=attempt,
        step=0,
        origin=origin,
        model=model,
        training=None,
        files=tuple(sorted(files, key=lambda file: file.name)),
        torch_version=torch.__version__,
        created_at_s=time.time(),
    )
    commit_log.commit(write_manifest(run_store, manifest))
    _remove_debris(run_store, commit_log.trusted(), attempt)
    return manifest


def read_companions(run_store: ObjectStore, manifest: CheckpointManifest) -> dict[str, bytes]:
    """The files that were written along, by name. Raises CheckpointCorrupt, StoreError."""
    directory = checkpoint_directory(manifest.step, manifest.attempt)
    companions = [file for file in manifest.files if file.name.startswith(COMPANIONS)]
    return {file.name.removeprefix(COMPANIONS): read_verified(run_store, directory + file.name, file.sha256) for file in companions}


class CheckpointWeights:
    """The weights of a checkpoint, mapped from files on the local disk. Make it with `open_weights`."""

    def __init__(self, mapped: Mapping[str, Tensor]) -> None:
        self._mapped = mapped

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in self._mapped.items()}

    def read(self, name: str) -> Tensor:
        return self._mapped[name]


@contextmanager
def open_weights(run_store: ObjectStore, manifest: CheckpointManifest, *, scratch: Path, progress: Progress) -> Iterator[CheckpointWeights]:
    """The weights of a checkpoint of any layout, as long as the context lasts.

    Every file of it is fetched once and checked, and what it has of each tensor copied to `scratch`, which must have room for the weights.
    Raises CheckpointCorrupt, CacheUnusable, StoreError.
    """
    reader = open_checkpoint(run_store, manifest)
    with scratch_directory(scratch) as directory:
        state = {name: _map(Path(directory, name), info) for name, info in _saved_weights(reader.metadata).items()}
        weights = CheckpointWeights({name.removeprefix(PREFIX): tensor for name, tensor in state.items()})
        planner = _Told(progress, weights_size_bytes(weights))
        load_into(state, reader, planner)
        yield weights


class Watched:
    """A source that tells how much has been read of it."""

    def __init__(self, source: WeightSource, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._done_bytes = 0

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._source.tensors

    def read(self, name: str) -> Tensor:
        tensor = self._source.read(name)
        self._done_bytes += tensor.nbytes
        self._progress(self._done_bytes, weights_size_bytes(self))
        return tensor


class AverageWeights:
    """The mean of the weights of sources that have the same tensors: summed in fp64, rounded once to fp32."""

    def __init__(self, sources: Sequence[WeightSource]) -> None:
        self._sources = sources

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(info.shape, torch.float32) for name, info in self._sources[0].tensors.items()}

    def read(self, name: str) -> Tensor:
        tensors = [source.read(name) for source in self._sources]
        mean = torch.empty(tensors[0].shape, dtype=torch.float32)
        for chunk, *parts in zip(*(tensor.view(-1).split(CHUNK_ELEMENTS) for tensor in (mean, *tensors)), strict=True):
            total = torch.zeros(chunk.shape, dtype=torch.float64)
            for part in parts:
                total += part
            chunk.copy_(total / len(parts))
        return mean


class _FromSource(DefaultSavePlanner):
    """Plans from tensors without data, and takes the data from a source when it is written."""

    def __init__(self, source: WeightSource) -> None:
        super().__init__()
        self._source = source

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._source.read(write_item.index.fqn.removeprefix(PREFIX))


class _Told(DefaultLoadPlanner):
    """Loads, and tells how far it is."""

    def __init__(self, progress: Progress, size_bytes: int) -> None:
        super().__init__()
        self._progress = progress
        self._done_bytes, self._size_bytes = 0, size_bytes

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        self._done_bytes += tensor.nbytes
        self._progress(self._done_bytes, self._size_bytes)


def weights_size_bytes(source: WeightSource) -> int:
    """Size of all tensors of the source together."""
    return sum(_size_bytes(info) for info in source.tensors.values())


def _saved_weights(metadata: Metadata) -> dict[str, TensorInfo]:
    saved = metadata.state_dict_metadata.items()
    return {
        name: TensorInfo(tuple(one.size), one.properties.dtype)
        for name, one in saved
        if name.startswith(PREFIX) and isinstance(one, TensorStorageMetadata)
    }


def _put_companion(run_store: ObjectStore, attempt: int, name: str, data: bytes) -> FileDigest:
    run_store.put(checkpoint_directory(0, attempt) + COMPANIONS + name, data)
    return FileDigest(name=COMPANIONS + name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _remove_debris(run_store: ObjectStore, trusted: Sequence[Commit], attempt: int) -> None:
    """Removes what an import that died had uploaded before its manifest, and aborts what it was uploading."""
    run_store.abort_writes(CHECKPOINTS, partial(is_abandoned, attempt=attempt))
    keys = [info.key for info in run_store.list(CHECKPOINTS)]
    for directory in directories_to_delete(keys, committed=trusted, trusted=trusted, keep_latest=len(trusted) + 1, attempt=attempt):
        for key in keys:
            if key.startswith(directory):
                run_store.delete(key)


@contextmanager
def scratch_directory(scratch: Path) -> Iterator[Path]:
    """One below `scratch`, as long as the block lasts; those of commands that were killed are removed. Raises CacheUnusable."""
    with ExitStack() as exits:
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            remove_orphans(scratch.glob(f"{SCRATCH}????????"))
            directory = exits.enter_context(own_directory(scratch / f"{SCRATCH}{uuid.uuid4().hex[:8]}"))
        except OSError as error:
            raise CacheUnusable(f"{scratch}: can't be written ({error.strerror}); set BRAID_HOME to a directory of yours") from error
        yield directory


def _map(path: Path, info: TensorInfo) -> Tensor:
    """A tensor in a file of its own, whose pages the kernel may take back at any time. Its room is reserved: none later is a SIGBUS."""
    size_bytes = _size_bytes(info)
    try:
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size_bytes))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise CacheUnusable(f"{path.parent.parent}: no room for the weights; free some, or set BRAID_HOME to a larger disk") from error
    return torch.from_file(str(path), shared=True, size=math.prod(info.shape), dtype=info.dtype).view(info.shape)


def _size_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize
