"""A thread that reads the registry of nodes again and again and writes it, so that the controller never waits for the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.deadlines import FINDINGS_WRITTEN_WITHIN_S, REGISTRY_READ_EVERY_S, REGISTRY_READ_WITHIN_S
from orchestrator.errors import is_expected
from orchestrator.records.nodes import NodeEvent, NodeRegistry, Standing, is_told, standings

log = logging.getLogger(__name__)


class RegistryWatch:
    """`standings` and `record` never wait for the store; `start` and `stop` do for a while, and the thread runs between them."""

    def __init__(self, registry: NodeRegistry, *, every_s: float = REGISTRY_READ_EVERY_S) -> None:
        self._registry = registry
        self._every_s = every_s
        self._events: Sequence[NodeEvent] | None = None
        """The registry as last read; None before that."""
        self._standings: Mapping[str, Standing] = {}
        self._lock = threading.Lock()
        self._told: list[NodeEvent] = []
        """Everything that was ever asked for."""
        self._waiting: list[NodeEvent] = []
        """Those of them that are not in the registry yet."""
        self._looked = threading.Event()
        self._news = threading.Event()
        self._stopping = False
        self._is_away = False
        self._thread = threading.Thread(target=self._watch, name="registry of nodes", daemon=True)

    @property
    def standings(self) -> Mapping[str, Standing]:
        """By machine, as last read, with what this run has found since; empty before the first reading."""
        return self._standings

    def record(self, events: Iterable[NodeEvent]) -> None:
        """Returns at once; asking for the same again changes nothing."""
        with self._lock:
            new = [event for event in events if not is_told(event, self._told)]
            self._told.extend(new)
            self._waiting.extend(new)
            if new:
                self._publish()
        if new:
            self._news.set()

    def start(self) -> None:
        """Waits up to REGISTRY_READ_WITHIN_S for the first reading, so that no attempt is placed on a machine that is cordoned already."""
        self._thread.start()
        self._looked.wait(REGISTRY_READ_WITHIN_S)

    def stop(self) -> None:
        """Ends the thread after one more try to write what waits; gives it FINDINGS_WRITTEN_WITHIN_S for that."""
        self._stopping = True
        self._news.set()
        self._thread.join(FINDINGS_WRITTEN_WITHIN_S)

    def _publish(self) -> None:
        """What this run holds against a machine counts for it at once, whenever the store has it.

        Not before the first reading: until then nobody knows what people have cleared since.
        """
        if self._events is not None:
            self._standings = standings([*self._events, *self._waiting])

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            is_last = self._stopping
            self._look()
            self._looked.set()
            if is_last:
                return
            self._news.wait(self._every_s)
            self._news.clear()

    def _look(self) -> None:
        try:
            self._read()
            for finding in list(self._waiting):
                self._registry.record(finding)
            if self._waiting:
                self._read()
            self._is_away = False
        except Exception as error:  # whatever it is: a thread that ended would leave the standings as they are for good
            if not self._is_away:
                told = "the registry of nodes can't be read or written, trying again every %g s: %s"
                log.warning(told, self._every_s, error, exc_info=not is_expected(error))
            self._is_away = True

    def _read(self) -> None:
        """What is in the registry need not be written any more."""
        events = self._registry.read()
        with self._lock:
            self._events = events
            self._waiting = [event for event in self._waiting if not is_told(event, events)]
            self._publish()
