"""Copies the logs of ended workers to the object store, from a thread of its own: the store may be slow or away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore, StoreError
from orchestrator.records.keys import certain_of_run, store_of_run

TAIL_BYTES = 8 * 2**20
log = logging.getLogger(__name__)


class LogUploader:
    """Best effort: a log that can't be uploaded stays on its node, with one line in the agent's log."""

    def __init__(self, storage: StorageConfig, run: str) -> None:
        self._storage = storage
        self._run = run
        self._changed = threading.Condition()
        self._waiting: list[tuple[str, Callable[[], bytes]]] = []
        self._busy = False
        self._warned = False
        self._thread = threading.Thread(target=self._serve, name="log-uploader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def upload(self, key: str, read: Callable[[], bytes]) -> None:
        """Returns at once; `read` is called later, from the uploader's thread."""
        with self._changed:
            self._waiting.append((key, read))
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """True when everything so far is uploaded or given up."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def _serve(self) -> None:
        store: ObjectStore | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                key, read = self._waiting.pop(0)
                self._busy = True
            try:
                # not before it is needed: importing an S3 client takes the time of workers that start
                store = store or store_of_run(open_store(self._storage, holds=certain_of_run(self._run)), self._run)
                store.put(key, read())
            except (StoreError, OSError) as error:
                if not self._warned:
                    log.warning("logs stay on this node: %s", error)
                self._warned = True
            except Exception:  # the thread must live, for logs to come
                log.exception("%s stays on this node: unexpected error", key)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
