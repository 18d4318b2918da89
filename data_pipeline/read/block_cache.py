"""A cache of blocks on the local disk, shared by the processes of a node and bounded in bytes.

Nothing in it is trusted: who reads a block checks its pages. So a file that a power cut or a disk has spoilt costs a fetch, and nothing is
synced. The least recently used blocks go first; a process that has one open reads on. The bound may be passed by the blocks that are being
written: one for each read in flight.
"""

import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.errors import CacheUnusable
from data_pipeline.read.file_systems import network_file_system
from data_pipeline.read.kept import PART, kept, remove_abandoned

log = logging.getLogger(__name__)
BLOCK = ".block"
_WHOLE_SHARD = re.compile(r"[0-9a-f]{64}")
"""What earlier versions kept."""
_SHARE_BETWEEN_LOOKS = 1 / 64
"""Of the bound, that one process writes between two looks at the directory."""
_SHARE_LEFT = 7 / 8
"""Of the bound, that a look leaves: what eight processes write until their next looks has room."""


@dataclass(kw_only=True, slots=True)
class BlockCache:
    """One process's hold of the cache. Make it with `open_cache`. Safe to use from any thread."""

    directory: Path
    limit_bytes: int
    _written: int = 0
    """Since this process last looked how full the directory is."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _complained: bool = False

    def read(self, name: str, start: int, length: int) -> bytes | None:
        """Bytes of a block; None where it is not here in full. It counts as used just now."""
        try:
            file = os.open(f"{self.directory}/{name}{BLOCK}", os.O_RDONLY)
            try:
                os.utime(file)
                data = os.pread(file, length, start)
            finally:
                os.close(file)
        except OSError:  # not there, or on a disk that can't read it
            return None
        return data if len(data) == length else None

    def fetched(self, name: str, fetch: Callable[[], bytes]) -> tuple[bytes, bool]:
        """The whole block, and whether it is what `fetch` gave just now. One of several processes fetches it, the others wait for that.

        Raises what `fetch` raises.

        A disk that takes nothing more costs a warning: training goes on without what it would have kept.
        """
        made: list[bytes] = []

        def make() -> bytes:
            made.append(fetch())
            return made[0]

        try:
            data = kept(self.directory / (name + BLOCK), make)
        except OSError as error:
            if _is_full(error):
                self.halve()
            self._complain(error)
            return (made[0] if made else fetch()), True
        if made:
            self._count(len(data))
        return data, bool(made)

    def has(self, name: str, size_bytes: int) -> bool:
        """Whether a block is here in its size."""
        try:
            return os.stat(f"{self.directory}/{name}{BLOCK}").st_size == size_bytes
        except OSError:
            return False

    def drop(self, name: str) -> None:
        """Forgets a block that is not what it should be."""
        with suppress(OSError):
            (self.directory / (name + BLOCK)).unlink()

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._written += num_bytes
            if self._written < self.limit_bytes * _SHARE_BETWEEN_LOOKS:
                return
            self._written = 0
        self._make_room(int(self.limit_bytes * _SHARE_LEFT))

    def halve(self) -> None:
        """Removes half of what is kept: the disk is full, of whatever."""
        self._make_room(sum(size for _, size, _ in self._look()) // 2)

    def _make_room(self, limit_bytes: int) -> None:
        """Removes blocks, the least recently used first, until no more than `limit_bytes` are left."""
        blocks = self._look()
        total = sum(size for _, size, _ in blocks)
        for _, size, path in sorted(blocks):
            if total <= limit_bytes:
                return
            with suppress(OSError):
                os.unlink(path)
            total -= size

    def _look(self) -> list[tuple[int, int, str]]:
        """(time of use, bytes, path) of every block. What killed processes left of others is removed."""
        blocks = []
        with suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.endswith(PART):
                    remove_abandoned(Path(entry.path))
                elif entry.name.endswith(BLOCK) or _WHOLE_SHARD.fullmatch(entry.name):
                    with suppress(OSError):
                        found = entry.stat()
                        blocks.append((found.st_mtime_ns, found.st_size, entry.path))
        return blocks

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s: blocks can't be kept here (%s), every one is fetched anew; free space", self.directory, _words(error))


def open_cache(directory: Path, *, limit_bytes: int) -> BlockCache:
    """On a full disk blocks make room. Raises CacheUnusable where nothing can be written, or where that is no disk of this machine.

    Who writes for the first time looks at once: many short runs that each write little would never look.
    """
    cache = BlockCache(directory=directory, limit_bytes=limit_bytes, _written=limit_bytes)
    try:
        try:
            _probe(directory)
        except OSError as error:
            if not _is_full(error):
                raise
            cache.halve()
            _probe(directory)
    except OSError as error:
        raise CacheUnusable(f"{directory}: can't keep blocks here ({_words(error)}); free space, or set BRAID_CACHE") from error
    if kind := network_file_system(directory):
        raise CacheUnusable(f"{directory}: is on {kind}, which is no disk of this machine; set BRAID_CACHE to a directory on one")
    return cache


def _probe(directory: Path) -> None:
    """Raises OSError where nothing can be written."""
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f"probe-{os.getpid()}-{threading.get_ident()}{PART}"
    try:
        probe.write_bytes(b"\0")
    finally:
        probe.unlink(missing_ok=True)


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _words(error: OSError) -> str:
    return "no space left" if _is_full(error) else error.strerror or type(error).__name__
