"""The object store as everybody sees it: one small protocol, its errors, its rules for keys.

Pure: no torch, no s3fs, no I/O. `open.open_store` makes the real ones.
Keys are relative to the store's root, parts separated by '/'.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

INCOMING = ".incoming"
"""A part that no key may have: a store in a directory keeps there what is not yet complete."""
MARKER = ".braid-store"
"""What no part of a key begins with: it says which store a directory is."""
MAX_KEY_BYTES = 900
"""The longest key, in bytes of UTF-8. S3 allows 1024, of which the root's prefix takes some."""


class StoreError(Exception):
    """Something went wrong with the object store. The message is one line that names the object and the remedy."""


class InvalidKey(StoreError):
    """The key could lead out of its prefix, or some store can't hold it."""


class KeyMissing(StoreError):
    """There is no object with this key."""


class KeyExists(StoreError):
    """`create` found an object there already: another writer was first."""


class BucketMissing(StoreError):
    """The bucket that storage.root names does not exist."""


class AccessDenied(StoreError):
    """There are no credentials, or wrong ones, or they do not permit this operation."""


class StoreUnavailable(StoreError):
    """The store gave no usable answer before the deadline."""


MAY_PASS = (StoreUnavailable, AccessDenied)
"""Errors that a later try may not meet: the store may be there again, or the credentials renewed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """What a listing tells of one object."""

    key: str
    size_bytes: int
    modified_at_s: float
    """Seconds since 1970, by the store's clock."""


class ObjectStore(Protocol):
    """Whole objects, written at once: a reader sees an object completely or not at all. Safe to use from any thread."""

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes the object, over an older one if there is one."""

    def create(self, key: str, data: bytes) -> None:
        """Writes the object if there is none. Of any number of concurrent callers exactly one succeeds, the others get KeyExists."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises KeyMissing."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer where the object ends before. Raises KeyMissing."""

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        """Objects whose key begins with the string `prefix` and sorts after `after`, sorted by key."""

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where there is none."""

    def abort_writes(self, prefix: str, is_abandoned: Callable[[str], bool], *, begun_before_s: float = math.inf) -> int:
        """Removes what killed writers left of objects that never became whole, and returns how many these were.

        Only of keys that begin with `prefix` and for which `is_abandoned` holds, and begun before a moment by the store's clock: a writer
        that is still at one of them gets an error. Some stores know only the first 200 characters of a key, or nothing of it: "" then.
        """

    def url(self, key: str) -> str:
        """Where the object is, for messages."""


@functools.lru_cache(4096)
@functools.lru_cache(maxsize=2**14)
def check_key(key: str) -> str:
    """Returns `key` if every store can hold it and it can't lead out of its prefix. Raises InvalidKey otherwise."""
    parts = key.split("/")
    if (
        any(part in ("", ".", "..", INCOMING) or part.startswith(MARKER) for part in parts)
        or not all(character.isprintable() for character in key)
        or len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES
    ):
        raise InvalidKey(f"object key {key!r}: use non-empty parts joined by '/', no '.', '..' or control characters")
    return key


def check_prefix(prefix: str) -> str:
    """Returns `prefix` if a key can begin with it; it may be empty or end anywhere in a part. Raises InvalidKey otherwise."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def check_range(start: int, length: int) -> None:
    """Raises ValueError where the range of `get_range` is negative."""
    if start < 0 or length < 0:
        raise ValueError(f"get_range(start={start}, length={length}): neither may be negative")


@dataclass(frozen=True, slots=True)
class ScopedStore:
    """The part of a store under one prefix. Nothing outside can be reached through it."""

    store: ObjectStore
    prefix: str
    """Ends with '/'."""

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.store.put(self._full(key), data)

    def create(self, key: str, data: bytes) -> None:
        self.store.create(self._full(key), data)

    def get(self, key: str) -> bytes:
        return self.store.get(self._full(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.store.get_range(self._full(key), start, length)

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        found = self.store.list(self.prefix + check_prefix(prefix), self.prefix + check_prefix(after) if after else "")
        return [
            ObjectInfo(key=info.key.removeprefix(self.prefix), size_bytes=info.size_bytes, modified_at_s=info.modified_at_s)
            for info in found
        ]

    def delete(self, key: str) -> None:
        self.store.delete(self._full(key))

    def abort_writes(self, prefix: str, is_abandoned: Callable[[str], bool], *, begun_before_s: float = math.inf) -> int:
        return self.store.abort_writes(
            self.prefix + check_prefix(prefix), lambda key: is_abandoned(key.removeprefix(self.prefix)), begun_before_s=begun_before_s
        )

    def url(self, key: str) -> str:
        return self.store.url(self._full(key))

    def _full(self, key: str) -> str:
        return self.prefix + check_key(key)


def with_prefix(store: ObjectStore, prefix: str) -> ObjectStore:
    """The sub-store of `store` under `prefix`, for example `runs/first`. Raises InvalidKey."""
    return ScopedStore(store, check_key(prefix.removesuffix("/")) + "/")
