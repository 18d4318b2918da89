"""The first bytes of a file of memory that holds a snapshot: what is in it, and a word of the agent that owns it. No torch.

    0            what is held, once it is whole: see `Held`. Written by who fills the file
    1 MiB − 4 K  the agent's word to its worker: see `Word`
    1 MiB        the image

Each of the two has one writer at a time, and readers believe nothing that is half written.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass

from orchestrator import codec

HEADER_BYTES = 2**20
_WORD_AT = HEADER_BYTES - 2**12
_DIGEST_BYTES, _LENGTH_BYTES = 32, 8
_MAX_TEXT_BYTES = _WORD_AT - _DIGEST_BYTES - _LENGTH_BYTES
_WORD = struct.Struct("<??Q32s32s")
_NOTHING = bytes(_DIGEST_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Bytes of an image."""

    name: str
    start: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What an image holds: the state after a step."""

    attempt: int
    step: int
    terms: str
    """Digest of what must be the same for a tensor to be the same piece in the same place."""
    spans: tuple[Span, ...]
    digests: dict[str, str]
    """SHA-256 of each span, by name; "" is the rest."""

    @property
    def name(self) -> tuple[int, int]:
        """Attempt and step: of two snapshots of a rank the higher is the newer."""
        return self.attempt, self.step

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return max((span.start + span.size_bytes for span in self.spans), default=HEADER_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """What an agent says in a file of memory to the worker that has it too. What is named by its digest is a header."""

    is_mirrored: bool = False
    """Snapshots are copied to another node: the next one waits until the last is there."""
    is_arriving: bool = False
    """A snapshot is on its way into the file, or will be: leave it alone."""
    pulse: int = 0
    """Another number whenever some of it has arrived."""
    mirrored: bytes = _NOTHING
    """What another node has, or need not have."""
    fetched: bytes = _NOTHING
    """What came from another node."""


class ImageHeader:
    """Of the file of memory `fd`, which is its maker's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def digest(self) -> bytes:
        """Of what is held; empty where nothing is, or not wholly."""
        return self._whole()[0]

    def held(self) -> Held | None:
        """None where nothing is held, or not wholly."""
        _, text = self._whole()
        return codec.from_json(Held, text, "a snapshot") if text else None

    def hold(self, held: Held | None) -> None:
        """Says what the image holds from now on; None, that it is about to change."""
        text = b"" if held is None else codec.to_json(held)
        header = hashlib.sha256(text).digest() + len(text).to_bytes(_LENGTH_BYTES, "little") + text
        if held is not None and len(text) > _MAX_TEXT_BYTES:
            raise ValueError(f"{len(held.spans)} files are too many for a snapshot's header of {HEADER_BYTES} bytes")
        os.pwrite(self.fd, header, 0)

    def word(self) -> Word:
        told = os.pread(self.fd, _WORD.size, _WORD_AT)
        if len(told) < _WORD.size:
            return Word()
        is_mirrored, is_arriving, pulse, mirrored, fetched = _WORD.unpack(told)
        return Word(is_mirrored=is_mirrored, is_arriving=is_arriving, pulse=pulse, mirrored=mirrored, fetched=fetched)

    def say(self, word: Word) -> None:
        """The agent's only."""
        told = _WORD.pack(word.is_mirrored, word.is_arriving, word.pulse, word.mirrored, word.fetched)
        os.pwrite(self.fd, told, _WORD_AT)

    @property
    def is_awaited(self) -> bool:
        """Whether what it holds is still to be copied to another node."""
        word = self.word()
        return word.is_mirrored and self.digest() not in (b"", word.mirrored)

    @property
    def is_fetched(self) -> bool:
        """Whether what it holds came from another node."""
        return self.word().fetched == self.digest()

    def _whole(self) -> tuple[bytes, bytes]:
        """Digest and text of what is held; both empty where nothing is, or not wholly. No length is believed before the digest is right."""
        seal = os.pread(self.fd, _DIGEST_BYTES + _LENGTH_BYTES, 0)
        digest, length = seal[:_DIGEST_BYTES], int.from_bytes(seal[_DIGEST_BYTES:], "little")
        if not 0 < length <= _MAX_TEXT_BYTES:
            return b"", b""
        text = os.pread(self.fd, length, len(seal))
        return (digest, text) if hashlib.sha256(text).digest() == digest else (b"", b"")
