"""An object store in memory, which tests may hand to anything and break at will."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from data_pipeline.store.protocol import KeyExists, KeyMissing, ObjectInfo, check_key, check_prefix, check_range


def no_fault(operation: str, key: str) -> None:
    """The default hook: every operation works."""


@dataclass(slots=True)
class MemoryStore:
    """Keeps the rules of the ObjectStore protocol.

    `fault(operation, key)` is called before every operation, which is named like its method, and may raise, sleep or count.
    Tests may read and change `objects` directly, for example to flip a byte; `incomplete` are the keys of writes that never completed.
    """

    fault: Callable[[str, str], None] = no_fault
    clock: Callable[[], float] = time.time
    objects: dict[str, bytes] = field(default_factory=dict)
    modified_at_s: dict[str, float] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.fault("put", check_key(key))
        with self.lock:
            self._write(key, bytes(data))

    def create(self, key: str, data: bytes) -> None:
        self.fault("create", check_key(key))
        with self.lock:
            if key in self.objects:
                raise KeyExists(f"{self.url(key)}: exists already; another writer was first")
            self._write(key, data)

    def get(self, key: str) -> bytes:
        self.fault("get", check_key(key))
        return self._read(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        self.fault("get_range", check_key(key))
        return self._read(key)[start : start + length]

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        self.fault("list", check_prefix(prefix))
        with self.lock:
            return [
                ObjectInfo(key=key, size_bytes=len(self.objects[key]), modified_at_s=self.modified_at_s.get(key, 0.0))
                for key in sorted(self.objects)
                if key.startswith(prefix) and key > after
            ]

    def delete(self, key: str) -> None:
        self.fault("delete", check_key(key))
        with self.lock:
            self.objects.pop(key, None)
            self.modified_at_s.pop(key, None)

    def abort_writes(self, prefix: str, is_abandoned: Callable[[str], bool], *, begun_before_s: float = math.inf) -> int:
        self.fault("abort_writes", check_prefix(prefix))
        with self.lock:
            old = {key for key in self.incomplete if self.modified_at_s.get(key, 0.0) < begun_before_s}
            aborted = {key for key in old if key.startswith(prefix) and is_abandoned(key)}
            self.incomplete -= aborted
            return len(aborted)

    def url(self, key: str) -> str:
        return f"memory:{key}"

    def _write(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(data)
        self.modified_at_s[key] = self.clock()

    def _read(self, key: str) -> bytes:
        with self.lock:
            if key not in self.objects:
                raise KeyMissing(f"{self.url(key)}: no such object; check the name and storage.root")
            return self.objects[key]
