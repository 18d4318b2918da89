"""Reads tokens out of a shard's file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import ShardCorrupt


def read_tokens(path: Path, *, dtype: str, start: int, count: int) -> NDArray[np.int64]:
    """Tokens [start, start + count) of a flat little-endian file of `dtype`, shape (count,).

    A plain read rather than a memory map: as fast for a sample's few kilobytes, and a truncated file is an error instead of a SIGBUS.
    Raises ShardCorrupt where the file ends before.
    """
    file_dtype = np.dtype(dtype).newbyteorder("<")
    tokens = np.fromfile(path, dtype=file_dtype, count=count, offset=start * file_dtype.itemsize)
    if len(tokens) != count:
        raise ShardCorrupt(f"{path}: ends before token {start + count}; delete this cached file, and it is fetched again")
    return tokens.astype(np.int64)
