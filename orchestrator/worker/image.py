"""A rank's training state in a file of memory: laid out once, copied into again and again. What lies there are a checkpoint's files.

    0            what is held, once it is whole: see `image_header`
    1 MiB …      files in torch's distributed format, in which only the tensors' data is left open
    …            tensors that another rank writes into checkpoints, as they are

The memory belongs to whoever made the file: an agent's outlives its workers.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.serialization import skip_data

from orchestrator.image_header import HEADER_BYTES, Held, ImageHeader, Span
from orchestrator.records.manifest import FileDigest

ALIGNMENT = 4096
PIECE_BYTES = 2**27
"""About what a GPU is told of at once: all at once would hold training up."""
_FRAME_BYTES = 2**12
"""More than lies before a tensor's data in torch's format."""
_LOCAL_HEADER_BYTES = 30
"""Of a zip archive's member, before its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a tensor is: its frame within a file, for torch, and its data."""

    file: str
    """"" for one that no file has."""
    start: int
    size_bytes: int
    """Frame and data; from `start` in the image."""
    data: int


class Image:
    """Made by `build_image`. For one thread at a time, except reading."""

    def __init__(self, fd: int, *, spans: Sequence[Span], places: Mapping[str, Place], shards: Mapping[str, Tensor]) -> None:
        self.header = ImageHeader(fd)
        self._memory = memoryview(mmap.mmap(fd, os.fstat(fd).st_size))
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self.spans = tuple(spans)
        self.places = dict(places)
        self.tensors = {name: self._view(places[name].data, shard) for name, shard in shards.items()}
        """The memory of each tensor, on the CPU."""

    @property
    def size_bytes(self) -> int:
        return self._bytes.numel()

    def pieces(self) -> tuple[Tensor, ...]:
        """All of it, each tensor wholly in one of them: a GPU copies no more than what it was told of at once."""
        bounds = [0]
        for start in sorted(place.start for place in self.places.values()):
            if start - bounds[-1] >= PIECE_BYTES:
                bounds.append(start)
        return self._bytes.split([end - start for start, end in pairwise([*bounds, self.size_bytes])])

    def data(self, span: Span) -> memoryview:
        return self._memory[span.start : span.start + span.size_bytes]

    def digests(self, hands: Executor) -> dict[str, str]:
        found = hands.map(lambda span: hashlib.sha256(self.data(span)).hexdigest(), self.spans)
        return {span.name: digest for span, digest in zip(self.spans, found, strict=True)}

    def files(self, held: Held) -> tuple[FileDigest, ...]:
        """What a checkpoint's manifest says of this rank's files."""
        named = (span for span in self.spans if span.name)
        return tuple(FileDigest(name=span.name, size_bytes=span.size_bytes, sha256=held.digests[span.name]) for span in named)

    def held(self) -> Held | None:
        """None where nothing is held, or not wholly."""
        return self.header.held()

    def hold(self, held: Held | None) -> None:
        """Says what the image holds from now on; None, that it is about to change."""
        self.header.hold(held)

    def _view(self, start: int, shard: Tensor) -> Tensor:
        return self._bytes[start : start + shard.nbytes].view(shard.dtype).view(shard.shape)


def build_image(fd: int, shards: Mapping[str, Tensor], *, files: Mapping[str, Sequence[str]]) -> Image:
    """Lays out the empty file `fd`, or one that was laid out like this before, for `shards`: a rank's parts of its tensors, by name.

    `files` names those that each file of a checkpoint has. Memory is taken only as it is filled. Raises OSError.
    """
    spans, places = [], {}
    with os.fdopen(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), "wb") as out:  # with a place of its own, which nobody else moves
        out.seek(HEADER_BYTES)
        for file, names in files.items():
            start = out.tell()
            for name in names:
                places[name] = _frame(out, fd, file, shards[name])
            spans.append(Span(name=file, start=start, size_bytes=out.tell() - start))
            _align(out)
        start = out.tell()
        for name in [name for name in shards if name not in places]:
            _align(out)
            places[name] = Place(file="", start=out.tell(), size_bytes=shards[name].nbytes, data=out.tell())
            out.seek(shards[name].nbytes, io.SEEK_CUR)
        end = out.tell()
    os.ftruncate(fd, end)
    return Image(fd, spans=[*spans, Span(name="", start=start, size_bytes=end - start)], places=places, shards=shards)


def _frame(out: io.BufferedWriter, fd: int, file: str, shard: Tensor) -> Place:
    """What torch.save writes of a tensor, without its data."""
    start = _align(out)
    with skip_data():
        torch.save(torch.empty(shard.shape, dtype=shard.dtype), out)
    out.flush()
    return Place(file=file, start=start, size_bytes=out.tell() - start, data=start + data_in_frame(os.pread(fd, _FRAME_BYTES, start)))


def data_in_frame(head: bytes) -> int:
    """Where a tensor's data begin in what torch.save wrote, of which `head` is the beginning."""
    name = head.index(b"archive/data/0")
    header = head[name - _LOCAL_HEADER_BYTES : name]
    return name + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def tensor_in_frame(frame: memoryview) -> Tensor:
    """What torch.save wrote, in the memory that it was given: no copy is made."""
    with skip_data():
        saved = torch.load(io.BufferedReader(_Frame(frame)), map_location="cpu", weights_only=True)
    size_bytes = saved.untyped_storage().nbytes()
    if size_bytes == 0:
        return saved
    data = torch.frombuffer(frame, dtype=torch.uint8, count=size_bytes, offset=data_in_frame(bytes(frame[:_FRAME_BYTES])))
    if data.data_ptr() % saved.element_size():
        data = data.clone()
    return data.view(saved.dtype).as_strided(saved.size(), saved.stride(), saved.storage_offset())


class _Frame(io.RawIOBase):
    """A file over memory of others."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        piece = self._data[self._at : self._at + len(into)]
        into[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at


def _align(out: io.BufferedWriter) -> int:
    return out.seek(-(-out.tell() // ALIGNMENT) * ALIGNMENT)


def files_of(sizes: Mapping[str, int], *, prefix: str, file_size_bytes: int) -> dict[str, list[str]]:
    """Which tensors go into which file, of about so many bytes each: in order, so that it is the same each time."""
    files: dict[str, list[str]] = {}
    names: list[str] = []
    filled = file_size_bytes
    for name, size_bytes in sizes.items():
        if filled >= file_size_bytes:
            names, filled = files.setdefault(f"{prefix}{len(files)}.distcp", []), 0
        names.append(name)
        filled += size_bytes
    return files


def new_memory(names: Iterable[str]) -> list[int]:
    """An empty file of memory for each name; gone with the last process that has it."""
    return [os.memfd_create(name, os.MFD_CLOEXEC) for name in names]
