"""poll → events → transition → journal → execute, until the run has ended."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control.cluster import Cluster, Observation
from orchestrator.control.events import ControllerStarted, Event, StopRequested, WorkersGone
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage
from orchestrator.control.transition import fold, transition
from orchestrator.deadlines import JOURNAL_RETRY_S, POLL_S
from orchestrator.errors import Superseded
from orchestrator.records.journal import Journal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """What a status query sees: replaced whole, never changed, so that readers need no lock."""

    state: RunState
    seen: Observation | None


class Controller:
    """Keeps one run alive. Only `request` and `view` may be called from other threads."""

    def __init__(
        self,
        *,
        journal: Journal[Event],
        cluster: Cluster,
        clock: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
        poll_s: float = POLL_S,
    ) -> None:
        self._journal = journal
        self._cluster = cluster
        self._clock = clock
        self._sleep = sleep
        self._poll_s = poll_s
        self._requests: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.view = View(state=fold(journal.events), seen=None)

    def request(self, event: Event) -> None:
        """Something that a person asks for."""
        self._requests.put(event)

    def run(self) -> RunState:
        """Returns the state that the run ended in. Raises Superseded when another controller took over; the workers are then its own.

        Where the other one ended the run without reaching this cluster, nobody else can end the workers here.
        """
        try:
            self._open()
            while self.view.state.stage is not Stage.ENDED:
                self._tick()
        except Superseded:
            if fold(self._journal.reread()).stage is Stage.ENDED:
                self._cluster.close()
            raise
        self._cluster.close()
        return self.view.state

    def _open(self) -> None:
        """An entry of its own comes first: from here on every older controller fails to write, and agents refuse it."""
        before = self.view.state
        event = ControllerStarted(at_s=self._clock(), epoch=before.epoch + 1)
        state, actions = transition(before, event)
        self._append(event)
        self.view = View(state=state, seen=None)
        self._cluster.attach(epoch=state.epoch, attempt=state.attempt, nodes=state.placement)
        for action in actions:
            self._cluster.execute(action)

    def _tick(self) -> None:
        seen = self._cluster.poll(timeout_s=self._poll_s)
        self.view = View(state=self.view.state, seen=seen)
        for event in events_of(self.view.state, seen):
            self._apply(event)
        while not self._requests.empty():
            self._apply(self._requests.get())

    def _apply(self, event: Event) -> None:
        """Journal before acting: what is not durable has not happened."""
        state, actions = transition(self.view.state, event)
        if state == self.view.state and not actions:
            return
        self._append(event)
        log.info("%s", event)
        self.view = replace(self.view, state=state)
        for action in actions:
            self._cluster.execute(action)

    def _append(self, event: Event) -> None:
        """The workers train on while the store is away; the controller waits for it, as it must not act on what is not written."""
        while True:
            try:
                return self._journal.append(event)
            except StoreUnavailable as error:
                log.warning("the journal can't be written, trying again: %s", error)
                self._sleep(JOURNAL_RETRY_S)


def stop_without_cluster(journal: Journal[Event], at_s: float) -> None:
    """Ends a run of which no process is left. Raises Superseded when a controller writes at the same moment."""
    journal.append(StopRequested(at_s=at_s, now=True))
    stopping = fold(journal.events)
    if stopping.stage is not Stage.ENDED:
        journal.append(WorkersGone(at_s=at_s, attempt=stopping.attempt))
