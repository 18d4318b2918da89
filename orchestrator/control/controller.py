"""reconcile → poll → events → transition → journal, until the run has ended."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.attended import AttendedClock
from orchestrator.control.cluster import Cluster, Observation
from orchestrator.control.desired import desired
from orchestrator.control.events import ControllerStarted, Event, FoundDead
from orchestrator.control.history import History
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage
from orchestrator.deadlines import JOURNAL_RETRY_S, POLL_S
from orchestrator.errors import Superseded

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """What a status query sees: replaced whole, never changed, so that readers need no lock."""

    state: RunState
    seen: Observation | None
    in_stage_s: float = 0.0
    """How long this controller has watched the run in its present stage."""
    store_trouble: str = ""
    """Why the journal can't be written, while the controller waits for that."""


class Controller:
    """Keeps one run alive. Only `request` and `view` may be called from other threads."""

    def __init__(
        self,
        *,
        run: str,
        history: History,
        cluster: Cluster,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        poll_s: float = POLL_S,
    ) -> None:
        self._run = run
        self._history = history
        self._cluster = cluster
        self._wall_clock = wall_clock
        self._attended = AttendedClock(clock, max_gap_s=1.0 + poll_s)
        self._sleep = sleep
        self._poll_s = poll_s
        self._since_s = 0.0
        self._is_attached = False
        self._has_moved = False
        """The last look led to another stage: what follows from that waits for no news."""
        self._requests: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.view = View(state=history.state, seen=None)

    def request(self, event: Event) -> None:
        """Something that a person asks for."""
        self._requests.put(event)

    def run(self) -> RunState:
        """Returns the state that the run ended in. Raises Superseded when another controller took over; the workers are then its own.

        Where the other one ended the run without reaching this cluster, nobody else can end the workers here.
        """
        try:
            self._open()
            while self._history.state.stage is not Stage.ENDED:
                self._tick()
        except Superseded:
            self._leave_to(self._patiently(self._history.reopen).state)
            raise
        self._cluster.reconcile(desired(self._run, self._history.state))  # what is held against machines in the end is recorded
        self._cluster.close()
        return self._history.state

    def _leave_to(self, other: RunState) -> None:
        """`other`: the run as another controller, or a person, has it now."""
        has_ended = other.stage is Stage.ENDED
        if not self._is_attached:  # the agents that are here obey the controller before this one, which has lost the run as well
            before = self._history.state
            wanted = desired(self._run, other if has_ended else before)
            self._cluster.attach(epoch=before.epoch, desired=replace(wanted, may_start=False))
        if has_ended:
            self._cluster.close()
        else:
            self._cluster.step_down()

    def _open(self) -> None:
        """An entry of its own comes first: from here on every older controller fails to write, and agents refuse it."""
        self._since_s = self._attended.look()
        self._take_over()
        state = self._history.state
        self._cluster.attach(epoch=state.epoch, desired=desired(self._run, state))
        self._is_attached = True

    def _take_over(self) -> None:
        """What a person, or the controller before this one, writes at the same moment is heard: only a newer controller is left the run."""
        while True:
            epoch = self._history.state.epoch
            try:
                return self._append(ControllerStarted(at_s=self._wall_clock(), epoch=epoch + 1))
            except Superseded:
                now = self._patiently(self._history.reopen)
                if now.state.stage is Stage.ENDED or now.state.epoch > epoch:
                    raise
                self._history = now

    def _tick(self) -> None:
        self._cluster.reconcile(desired(self._run, self._history.state))
        seen = self._cluster.poll(timeout_s=0.0 if self._has_moved else self._poll_s)
        self._has_moved = False
        in_stage_s = self._attended.look() - self._since_s
        self.view = View(state=self._history.state, seen=seen, in_stage_s=in_stage_s)
        for event in events_of(self._history.state, seen, in_stage_s):
            self._append(event)
        while not self._requests.empty() and self._history.state.stage is not Stage.ENDED:  # a run that has ended goes on under another
            self._append(self._requests.get())

    def _append(self, event: Event) -> None:
        """Journal before acting: what is not durable has not happened."""
        before = self._history.state
        if self._patiently(lambda: self._history.append(event)):
            log.info("%s", event)
        state = self._history.state
        if (state.stage, state.attempt) != (before.stage, before.attempt):
            self._since_s = self._attended.look()
            self._has_moved = True
        self.view = View(state=state, seen=self.view.seen, in_stage_s=self._attended.now() - self._since_s)

    def _patiently(self, act: Callable[[], T]) -> T:
        """What it returns, once the store answers. The workers train on meanwhile; the controller must not act on what is not written."""
        while True:
            try:
                return act()
            except StoreUnavailable as error:
                log.warning("the journal can't be reached, trying again: %s", error)
                self.view = replace(self.view, store_trouble=str(error))
                self._sleep(JOURNAL_RETRY_S)


def stop_without_cluster(history: History, at_s: float) -> None:
    """Ends a run of which no process is left, in one entry. Raises Superseded when a controller writes at the same moment."""
    history.append(FoundDead(at_s=at_s))
