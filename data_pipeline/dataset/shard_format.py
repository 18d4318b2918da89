"""How tokens lie in a shard: flat, little-endian, one after the other and nothing else, as in OLMo's and Dolma's token files."""

import functools

import numpy as np


@functools.cache
def file_dtype(dtype: str) -> np.dtype:
    """The numpy dtype of tokens in a shard; `dtype` is the manifest's `uint16` or `uint32`."""
    return np.dtype(dtype).newbyteorder("<")


def smallest_dtype(vocab_size: int) -> str:
    """The manifest's word for the smallest integers that hold every token below `vocab_size`."""
    return "uint16" if vocab_size <= 2**16 else "uint32"
