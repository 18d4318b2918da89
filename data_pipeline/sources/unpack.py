"""Packed files as streams of bytes: every frame of them, and a truncated one is noticed, whatever the format."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import zstandard

_LARGEST_ZSTD_WINDOW = 2**31
"""What `zstd --long=31` writes, in bytes; less is read without being asked for."""
_READ_BYTES = 2**16
_BEGIN: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW).decompressobj(),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}
"""Packing → what unpacks one frame: `decompress`, `eof`, and `unused_data` behind its end."""
PACKING_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz"}
UNPACK_ERRORS = (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError)
"""What reading packed data raises, beside OSError, where it is damaged."""
_ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60)))
_MAGIC: dict[str, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b",),
    "zstd": _ZSTD_MAGIC,
    "bzip2": tuple(b"BZh%d" % level + block for level in range(1, 10) for block in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")),
    "xz": (b"\xfd7zXZ\x00",),
}


def packing_of(head: bytes) -> str:
    """How data that begins with these bytes is packed; empty for data which is not."""
    return next((packing for packing, beginnings in _MAGIC.items() if head.startswith(beginnings)), "")


def unpacked(file: IO[bytes], packing: str) -> IO[bytes]:
    """The content of a packed file; reading it raises OSError or UNPACK_ERRORS where it is damaged or ends within a frame."""
    return io.BufferedReader(_Stream(_frames(file, _BEGIN[packing])))


def _frames(file: IO[bytes], begin: Callable[[], Any]) -> Iterator[bytes]:
    frame = None
    while data := file.read(_READ_BYTES):
        while data:
            if frame is None and not (data := data.lstrip(b"\0")):  # some writers pad what is behind a frame
                break
            frame = frame or begin()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it ends in the middle of its packed data")


class _Stream(io.RawIOBase):
    """Chunks of any size as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
