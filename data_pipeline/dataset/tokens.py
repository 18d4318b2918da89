"""Whether a shard's bytes are the tokens that its manifest says: digests can be right where the meaning is wrong. Pure."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.sources.content import not_text

HEAD_BYTES = 64 * 2**10
"""Of a shard's beginning, for `oddity_of`."""
_FEWEST_TOKENS = 64
"""To say something about the tokens of a shard by how they are spread."""
_HEADERS = {
    b"\x93NUMPY": "an .npy file: register it with `braid data register`, which knows its header",
    b"PK\x03\x04": "a zip or .npz archive: unpack it",
    b"\x1f\x8b\x08": "a gzip file: unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it",
    b"BZh": "a bzip2 file: unpack it",
    b"\xfd7zXZ": "an xz file: unpack it",
    b"PAR1": "a Parquet file: build from it with `braid data build`",
    b"ARROW1": "an Arrow file: build from it with `braid data build`",
    b"\x89HDF": "an HDF5 file: write its tokens flat",
    b"MMIDIDX\x00\x00": "a Megatron index: name its .bin",
}
"""What files of other kinds begin with, and what to do with them."""


class TokenForm(Protocol):
    """How tokens are to be read: a manifest, or what is to become one."""

    @property
    def dtype(self) -> str: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


def oddity_of(head: bytes, form: TokenForm) -> str:
    """What speaks against the beginning of a shard being its tokens, with the remedy; "" for nothing."""
    for header, kind in _HEADERS.items():
        if head.startswith(header):
            return f"begins like {kind}"
    if len(head) >= 2 * _FEWEST_TOKENS and not not_text(head[:4096]):
        return "is text, not tokens: build from it with `braid data build`"
    tokens = whole_tokens(head, form.dtype)
    return _oddity_of_spread(tokens, form.dtype) if len(tokens) >= _FEWEST_TOKENS else ""


def _oddity_of_spread(tokens: NDArray[np.unsignedinteger], dtype: str) -> str:
    """Integers that are wider than the dtype show as a small number in every second place, and as anything between them."""
    highest = 16 if dtype == "uint16" else 0  # vocabularies have up to a million tokens, so a high half is below 16
    even, odd = tokens[0 : len(tokens) // 2 * 2 : 2], tokens[1::2]
    wider = "uint32, or int64" if dtype == "uint16" else "int64"
    for high, low, order in ((odd, even, ""), (even, odd, ", big-endian")):
        if (high <= highest).mean() > 0.99 and (low <= highest).mean() < 0.9:
            return f"every second token is {'almost ' * bool(highest)}0, as if {wider}{order}, were read as {dtype}: fix its dtype"
    return ""


@dataclass(kw_only=True, slots=True)
class TokenCount:
    """What was counted in the tokens of some shards."""

    num_tokens: int = 0
    num_eos: int = 0
    num_documents: int = 0
    """Eos ends a document, and so does the end of a shard."""
    max_token: int = -1

    @property
    def eos_share(self) -> float:
        return self.num_eos / self.num_tokens if self.num_tokens else math.nan


@dataclass(kw_only=True, slots=True)
class ShardTokens:
    """The tokens of one shard, taken in a chunk at a time."""

    form: TokenForm
    count: TokenCount
    """Of all shards so far; this one's are added."""
    num_read: int = 0
    num_beyond: int = 0
    """Tokens that the vocabulary does not have."""
    first_beyond: str = ""
    ends_with_eos: bool = True
    fits_halved: bool = True
    """Both halves of every token are tokens."""

    def add(self, chunk: bytes | memoryview) -> None:
        tokens = whole_tokens(chunk, self.form.dtype)
        if not len(tokens):
            return
        eos, largest = int(np.count_nonzero(tokens == self.form.eos_id)), int(tokens.max())
        if largest >= self.form.vocab_size:
            self._add_beyond(tokens)
        if self.fits_halved and tokens.itemsize > 2:
            self.fits_halved = int(tokens.view(file_dtype("uint16")).max()) < self.form.vocab_size
        self.num_read += len(tokens)
        self.ends_with_eos = int(tokens[-1]) == self.form.eos_id
        self.count.num_tokens += len(tokens)
        self.count.num_eos += eos
        self.count.num_documents += eos
        self.count.max_token = max(self.count.max_token, largest)

    def _add_beyond(self, tokens: NDArray[np.unsignedinteger]) -> None:
        beyond = np.flatnonzero(tokens >= self.form.vocab_size)
        if not self.num_beyond:
            self.first_beyond = f"token {tokens[beyond[0]]} at {self.num_read + beyond[0]:,}"
        self.num_beyond += len(beyond)

    def end(self) -> str:
        """To be called after the last chunk: what is wrong with the shard's tokens; "" for nothing."""
        self.count.num_documents += not self.ends_with_eos
        if not self.num_beyond:
            return ""
        dtype, vocab_size = self.form.dtype, self.form.vocab_size
        others = f", and {self.num_beyond - 1:,} more" if self.num_beyond > 1 else ""
        guess = ", as if uint16 were read as uint32" if dtype == "uint32" and self.fits_halved else ""
        return f"{self.first_beyond}{others}, but vocab_size={vocab_size}{guess}: fix the dtype {dtype} or vocab_size"


def whole_tokens(data: bytes | memoryview, dtype: str) -> NDArray[np.unsignedinteger]:
    """A damaged shard may end within a token."""
    numpy_dtype = file_dtype(dtype)
    return np.frombuffer(data, dtype=numpy_dtype, count=len(data) // numpy_dtype.itemsize)
