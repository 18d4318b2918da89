"""What many ask for within a moment is made once."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any


class Memo:
    """Keeps what was made for `max_age_s`. Safe to use from any thread: who asks while it is made waits for it."""

    def __init__(self, max_age_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_age_s, self._clock = max_age_s, clock
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._made: dict[Hashable, tuple[float, Any]] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Raises what `make` raises, and keeps nothing then."""
        with self._lock:
            self._forget()
            making = self._locks.setdefault(key, threading.Lock())
        with making:
            made = self._made.get(key)
            if made is None or self._clock() - made[0] > self._max_age_s:
                value = make()
                made = self._made[key] = (self._clock(), value)
            return made[1]

    def _forget(self) -> None:
        old = [key for key, (at_s, _) in self._made.items() if self._clock() - at_s > self._max_age_s]
        for key in old:
            del self._made[key]
            self._locks.pop(key, None)
