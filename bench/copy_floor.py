"""The floor under a checkpoint's transfers: bytes from memory to files with a digest, by several threads, and back. Not for people."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_pipeline.store.protocol import ObjectStore

FILE_BYTES = 2**26


def directory_floor(directory: Path, *, size_bytes: int, num_threads: int) -> dict[str, Any]:
    """Bytes a second, synced as a checkpoint's are, and read while they are still in the kernel's memory, as the bench's are."""
    directory.mkdir(parents=True, exist_ok=True)

    def write(number: int, data: bytearray) -> None:
        with (directory / str(number)).open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())

    def read(number: int, into: bytearray) -> None:
        with (directory / str(number)).open("rb", buffering=0) as file:
            file.readinto(into)

    return _floor(write, read, lambda number: (directory / str(number)).unlink(), size_bytes=size_bytes, num_threads=num_threads)


def store_floor(store: ObjectStore, *, size_bytes: int, num_threads: int) -> dict[str, Any]:
    """The same by whole objects."""

    def read(number: int, into: bytearray) -> None:
        into[:] = store.get(f"floor/{number}")

    return _floor(
        lambda number, data: store.put(f"floor/{number}", memoryview(data)),
        read,
        lambda number: store.delete(f"floor/{number}"),
        size_bytes=size_bytes,
        num_threads=num_threads,
    )


def _floor(
    write: Callable[[int, bytearray], None],
    read: Callable[[int, bytearray], None],
    remove: Callable[[int], None],
    *,
    size_bytes: int,
    num_threads: int,
) -> dict[str, Any]:
    numbers = range(max(num_threads, size_bytes // FILE_BYTES))
    memory = [bytearray(os.urandom(2**20) * (FILE_BYTES // 2**20)) for _ in range(num_threads)]

    def put(number: int) -> None:
        data = memory[number % num_threads]
        hashlib.sha256(data).digest()
        write(number, data)

    def get(thread: int) -> None:
        for number in numbers[thread::num_threads]:
            read(number, memory[thread])
            hashlib.sha256(memory[thread]).digest()

    with ThreadPoolExecutor(num_threads) as pool:
        took_s = [_seconds(lambda: list(pool.map(put, numbers))), _seconds(lambda: list(pool.map(get, range(num_threads))))]
        list(pool.map(remove, numbers))
    total = len(numbers) * FILE_BYTES
    return {"write_bytes_per_s": total / took_s[0], "read_bytes_per_s": total / took_s[1], "bytes": total, "threads": num_threads}


def _seconds(act: Callable[[], object]) -> float:
    started_s = time.monotonic()
    act()
    return time.monotonic() - started_s
