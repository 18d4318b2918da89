"""Memory of batches, which is taken again once nobody holds anything of the batch: fresh memory costs a page fault for every 4 KiB."""

import weakref

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """As many as are held at once. Safe to use from any thread."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, num_rows: int, num_tokens: int) -> NDArray[np.int64]:
        """Memory for so many, whatever it holds. It is the caller's for as long as this array, a view or a tensor of it lives."""
        size_bytes = 8 * num_rows * num_tokens
        memory = self._take(size_bytes) or bytearray(size_bytes)
        array = np.frombuffer(memory, np.int64)  # what every view of it keeps alive
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array.reshape(num_rows, num_tokens)

    def _take(self, size_bytes: int) -> bytearray | None:
        """One of this size; those of others, of an earlier phase, go."""
        while self._free:
            memory = self._free.pop()
            if len(memory) == size_bytes:
                return memory
        return None
