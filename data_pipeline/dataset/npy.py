"""The header of an .npy file, where there is one: Dolma's token files have that name and no header. Pure."""

from dataclasses import dataclass
from io import BytesIO
from tokenize import TokenError

import numpy as np

from data_pipeline.dataset.shard_format import file_dtype

MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True, slots=True)
class NpyHeader:
    """What the header says of the tokens behind it."""

    dtype: str
    """`uint16` or `uint32`, little-endian."""
    num_tokens: int
    offset_bytes: int
    """Where they begin."""


def npy_header(head: bytes) -> NpyHeader | None:
    """The header that a file begins with; None where it has none. Raises ValueError for an array that is not a row of tokens."""
    if not head.startswith(MAGIC):
        return None
    file = BytesIO(head)
    try:
        shape, is_fortran, dtype = _READERS[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError, TypeError, SyntaxError, TokenError) as error:
        raise ValueError("begins like an .npy file, and its header can't be read; write it again with numpy.save") from error
    found = next((word for word in ("uint16", "uint32") if file_dtype(word) == dtype), None)
    if found is None:
        raise ValueError(f"is an .npy file of {_in_words(dtype)}; write it as little-endian uint16 or uint32")
    if len(shape) != 1 or is_fortran:
        raise ValueError(f"is an .npy file of shape {shape}{' in Fortran order' * is_fortran}; write its tokens as one row (ravel)")
    return NpyHeader(dtype=found, num_tokens=shape[0], offset_bytes=file.tell())


def _in_words(dtype: np.dtype) -> str:
    return f"{'big-endian ' * (dtype.byteorder == '>')}{dtype.name}"
