"""torch's distributed checkpoint format on our object store. With `parts`, the one place that knows the insides of
torch.distributed.checkpoint (DCP), of which planner and format are used, but not how it talks between ranks.

Files of at most about half a gigabyte are made in memory, digested and uploaded whole; on the way back a file's digest is compared with the
manifest before a byte of it is interpreted (`verified.py`): `.metadata` is a pickle.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import queue
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
    _item_size,
    _split_by_size_and_type,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from data_pipeline.store.protocol import ObjectStore
from orchestrator.errors import ConfigMismatch
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.manifest import CheckpointManifest, FileDigest
from orchestrator.records.verified import VerifiedFiles
from orchestrator.worker.image import Image, tensor_in_frame

METADATA = ".metadata"
FILE_SIZE_BYTES = 512 * 2**20
"""About how much goes into one file; a single larger tensor makes a larger one."""


class UploadedFiles(FileSystem):
    """Where DCP writes: a file is uploaded when its stream ends."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.digests: list[FileDigest] = []

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        buffer = io.BytesIO()
        yield _KeptOpen(buffer)
        self.upload(str(path), buffer.getvalue())

    def upload(self, key: str, data: bytes) -> None:
        name, sha256 = key.rpartition("/")[2], hashlib.sha256(data).hexdigest()
        self._store.put(key, data)
        self.digests.append(FileDigest(name=name, size_bytes=len(data), sha256=sha256))

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{path}{suffix}"


class _KeptOpen(io.BufferedIOBase):
    """Writes into a buffer that outlives it: DCP closes its streams before we are done with them."""

    def __init__(self, buffer: io.BytesIO) -> None:
        self._buffer = buffer

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._buffer.write(data)  # type: ignore[arg-type]

    def tell(self) -> int:
        return self._buffer.tell()


class StoreWriter(FileSystemWriter):
    """Writes one checkpoint; `digests` are those of the files of this rank."""

    def __init__(self, store: ObjectStore, *, step: int, attempt: int, file_size_bytes: int = FILE_SIZE_BYTES) -> None:
        super().__init__("", sync_files=False, per_thread_copy_ahead=0)
        self._file_size_bytes = file_size_bytes
        self.path = self._directory = checkpoint_directory(step, attempt)
        self.fs = self._files = UploadedFiles(store)

    @property
    def digests(self) -> list[FileDigest]:
        return self._files.digests

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Nothing to prepare: no directory to make, and no attempt writes the same step twice."""
        return plan

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """One file after the other, so that only one is held in memory beside the snapshot."""
        num_files = max(1, -(-sum(map(_size_bytes, plan.items)) // self._file_size_bytes))
        files: queue.Queue[tuple[str, str, list[WriteItem]]] = queue.Queue()
        for number, items in enumerate(_split_by_size_and_type(num_files, plan.items)):
            if items:
                name = f"{plan.storage_data.prefix}{number}.distcp"
                files.put((self._directory + name, name, items))
        return self._write_data(planner, files)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        completed = _completed(metadata, results)
        completed.storage_meta = self.storage_meta()
        self._files.upload(self._directory + METADATA, pickle.dumps(completed))


def local_plan(state: Mapping[str, torch.Tensor], names: Collection[str], *, is_first: bool) -> SavePlan:
    """What this rank writes of `state`: its part of the tensors `names`."""
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(state), None, is_first)
    plan = planner.create_local_plan()
    return replace(plan, items=[item for item in plan.items if item.index.fqn in names])


def with_places(plan: SavePlan, image: Image) -> SavePlan:
    """The same, and where in which file of the checkpoint each part will be."""
    spans = {span.name: span for span in image.spans}
    results = []
    for item in plan.items:
        place = image.places[item.index.fqn]
        info = _StorageInfo(place.file, place.start - spans[place.file].start, place.size_bytes)
        results.append(WriteResult(index=item.index, size_in_bytes=place.size_bytes, storage_data=info))
    return replace(plan, storage_data=results)


def metadata_of(plans: Sequence[SavePlan]) -> Metadata:
    """Of the whole checkpoint, from what each rank writes and where."""
    planner = DefaultSavePlanner()
    planner.set_up_planner({}, None, True)
    _, metadata = planner.create_global_plan(list(plans))
    return _completed(metadata, [plan.storage_data for plan in plans])


def put_metadata(store: ObjectStore, directory: str, metadata: Metadata) -> FileDigest:
    files = UploadedFiles(store)
    files.upload(directory + METADATA, pickle.dumps(metadata))
    return files.digests[-1]


def _completed(metadata: Metadata, results: Sequence[Sequence[WriteResult]]) -> Metadata:
    metadata.version = CURRENT_DCP_VERSION
    metadata.storage_data = {result.index: result.storage_data for of_rank in results for result in of_rank}
    return metadata


def write_alone(state: Mapping[str, torch.Tensor], writer: StoreWriter, planner: SavePlanner) -> None:
    """Writes all of `state` from this process. Raises StoreError, and what the planner raises where it resolves data."""
    planner.set_up_planner(dict(state), writer.storage_meta(), True)
    local = writer.prepare_local_plan(planner.create_local_plan())
    final, metadata = planner.create_global_plan([local])
    (plan,) = writer.prepare_global_plan(final)
    writer.finish(metadata, [writer.write_data(planner.finish_plan(plan), planner).wait()])


def _size_bytes(item: WriteItem) -> int:
    return 0 if item.type is WriteItemType.BYTE_IO else int(_item_size(item))


class StoreReader(FileSystemReader):
    """Reads one checkpoint: files of tensors side by side. Make it with `open_checkpoint`."""

    def __init__(self, files: VerifiedFiles, metadata: Metadata) -> None:
        super().__init__("")
        self._verified = files
        self.metadata = metadata

    def read_metadata(self) -> Metadata:
        return self.metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Of each file that the plan needs, in threads of their own; the planner hears of one tensor at a time."""
        items: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            items.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        turn = threading.Lock()

        def fill(name: str, data: memoryview) -> None:
            for item in items[name]:
                place = self.storage_data[item.storage_index]
                saved = tensor_in_frame(data[place.offset : place.offset + place.length])
                target = planner.resolve_tensor(item).detach()
                target.copy_(narrow_tensor_by_index(saved, item.storage_offsets, item.lengths))
                with turn:
                    planner.commit_tensor(item, target)

        self._verified.read_each(items, fill)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def open_checkpoint(store: ObjectStore, manifest: CheckpointManifest) -> StoreReader:
    """Raises CheckpointCorrupt where the metadata is not what the manifest says."""
    files = VerifiedFiles(store, manifest)
    metadata: Metadata = pickle.loads(files.read(METADATA))
    return StoreReader(files, metadata)


def load_into(state: dict[str, torch.Tensor], reader: StoreReader, planner: LoadPlanner | None = None) -> None:
    """Fills this process's part of every tensor of `state`, which no other process has a say in. Raises CheckpointCorrupt, StoreError."""
    planner = planner or DefaultLoadPlanner()
    planner.set_up_planner(state, reader.metadata, True)
    reader.set_up_storage_reader(reader.metadata, True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(planner.finish_plan(plan), planner).wait()


def check_fits(metadata: Metadata, state: Mapping[str, torch.Tensor], *, step: int) -> None:
    """The checkpoint holds exactly the tensors of `state`, in their shapes and dtypes, or ConfigMismatch: DCP itself ignores and casts."""
    saved = metadata.state_dict_metadata
    different = sorted(saved.keys() ^ state.keys())
    if different:
        name = different[0]
        raise ConfigMismatch(
            _mismatch(step, name, "is there" if name in saved else "is missing", "has none" if name in saved else "has one")
        )
    for name, tensor in state.items():
        found, wanted = _describe_saved(saved[name]), _describe(tensor.dtype, tensor.shape)
        if found != wanted:
            raise ConfigMismatch(_mismatch(step, name, f"is {found}", f"has {wanted}"))


def check_begins(metadata: Metadata, state: Mapping[str, torch.Tensor], *, start: str) -> None:
    """The checkpoint holds every tensor of `state` in its shape, exactly representable in its dtype, or ConfigMismatch. It may hold more.

    `start` names the checkpoint in the message.
    """
    for name, tensor in state.items():
        saved = metadata.state_dict_metadata.get(name)
        wanted = _describe(tensor.dtype, tensor.shape)
        if not isinstance(saved, TensorStorageMetadata):
            remedy = "set optimizer.name as it was there, or start.optimizer=reset" if name.startswith("optimizer.") else "name another run"
            raise ConfigMismatch(f"{start}: has no {name}, this run needs {wanted}; {remedy}")
        if saved.size != tensor.shape or torch.promote_types(saved.properties.dtype, tensor.dtype) != tensor.dtype:
            raise ConfigMismatch(f"{start}: {name} is {_describe_saved(saved)}, this run needs {wanted}; set model.* as it was there")


def _mismatch(step: int, name: str, found: str, wanted: str) -> str:
    remedy = "restore the model's and optimizer's settings, or start a new run"
    return f"checkpoint of step {step}: {name} {found}, the configured model {wanted}; {remedy}"


def _describe_saved(saved: object) -> str:
    return _describe(saved.properties.dtype, saved.size) if isinstance(saved, TensorStorageMetadata) else "not a tensor"


def _describe(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
