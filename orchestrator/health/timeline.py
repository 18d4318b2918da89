"""A run's time from entry to entry of its journal: attempts, and what lies between them. Pure.

The entries' clocks are those of several machines. An entry that is told to be earlier than the one before it counts as of the same moment,
so that nothing is negative and nothing overlaps, whatever the clocks say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.control import events
from orchestrator.control.causes import Cause
from orchestrator.control.earlier import WorkerFailed
from orchestrator.control.events import Event
from orchestrator.control.state import ACTIVE, Ending, Stage
from orchestrator.health.classes import TimeClass
from orchestrator.messages import Source
from orchestrator.records.journal import Entry, Lost

STORE_CAUSES = (Cause.STORE.value, Cause.ACCESS.value)
STAGES_OF_EARLIER: dict[type, Stage] = {
    events.AttemptStarted: Stage.STARTING,
    events.StepReached: Stage.RUNNING,
    WorkerFailed: Stage.DRAINING,
    events.WorkersEnded: Stage.DRAINING,
    events.WorkersGone: Stage.WAITING,
    events.ResumeRequested: Stage.WAITING,
}
"""What follows from an event in a journal of earlier versions, whose entries do not say what was decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """A stretch of time without workers, or while they are being ended. All times are seconds since the run was submitted."""

    begin_s: float
    end_s: float
    kind: TimeClass
    blame: int
    """The attempt whose failure it is due to; 0 for none."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """From its beginning until it was over, or until now."""

    number: int
    begin_s: float
    blame: int
    """The attempt whose failure made it begin; 0 for none."""
    over_s: float = math.inf
    over: Event | None = None
    """The event that ended it; None while it goes on."""
    resumed_s: float | None = None
    resumed: events.TrainingResumed | None = None
    stepped_s: float | None = None
    """When its first step was noticed."""
    saving_s: float | None = None
    """When it was told to save and end."""
    away_s: list[tuple[float, float]] = field(default_factory=list)
    """From the last entry before to the one with which another controller began: nobody is known to have watched meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """An entry of the journal, and what the workers were about after it."""

    at_s: float
    event: Event
    stage: Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    begin_s: float
    """The submission, seconds since the epoch."""
    end_s: float
    """The end or now, since the submission."""
    told_s: float
    """The last entry, since the submission."""
    moments: tuple[Moment, ...]
    stretches: tuple[Between | Attempt, ...]
    """One behind the other, without a gap."""
    is_settled: bool
    """No worker of the last attempt is left, that may still record a step."""

    @property
    def attempts(self) -> list[Attempt]:
        return [one for one in self.stretches if isinstance(one, Attempt)]


def timeline(entries: Sequence[Entry[Event]], *, now_s: float) -> Timeline:
    """What the journal of a run that was submitted tells; of one that has ended, up to its end."""
    begin_s = entries[0].event.at_s
    walk = _Walk(begin_s)
    for entry in entries:
        walk.on(entry)
    end_s = walk.at_s if walk.stage is Stage.ENDED else max(walk.at_s, now_s - begin_s)
    walk.finish(end_s)
    is_settled = walk.stage not in (*ACTIVE, Stage.DRAINING)
    return Timeline(
        begin_s=begin_s,
        end_s=end_s,
        told_s=walk.at_s,
        moments=tuple(walk.moments),
        stretches=tuple(walk.stretches),
        is_settled=is_settled,
    )


class _Walk:
    """Goes through the entries and keeps what the next one needs."""

    def __init__(self, begin_s: float) -> None:
        self._begin_s = begin_s
        self.at_s = 0.0
        self.stage = Stage.WAITING
        self.moments: list[Moment] = []
        self.stretches: list[Between | Attempt] = []
        self._attempt: Attempt | None = None
        self._ending = ""
        self._is_new = True
        """No attempt since a person submitted or resumed it."""
        self._wants_nodes = False
        self._cause = ""
        self._blame = 0

    def on(self, entry: Entry[Any]) -> None:
        event = entry.event
        if isinstance(event, Lost):
            return  # its time is that of the repair
        at_s = max(self.at_s, event.at_s - self._begin_s)
        if self._attempt is None:
            self._add_between(at_s, event)
        was_active = self._attempt is not None
        self._learn(entry)
        if self._attempt is not None and (self.stage not in ACTIVE or isinstance(event, events.AttemptStarted)):
            self._attempt.over_s, self._attempt.over, self._attempt = at_s, event, None
        if self._attempt is None and self.stage in ACTIVE:
            self._begin(getattr(event, "attempt", 0), at_s)
        if self._attempt is not None and was_active:
            self._mark(self._attempt, event, at_s)
        self.moments.append(Moment(at_s=at_s, event=event, stage=self.stage))
        self.at_s = at_s

    def finish(self, end_s: float) -> None:
        """What goes on goes on until then."""
        if self._attempt is not None:
            self._attempt.over_s = end_s
        else:
            self._add_between(end_s, None)

    def _begin(self, number: int, at_s: float) -> None:
        self._attempt = Attempt(number=number, begin_s=at_s, blame=self._blame)
        self.stretches.append(self._attempt)
        self._is_new = self._wants_nodes = False

    def _mark(self, attempt: Attempt, event: Event, at_s: float) -> None:
        match event:
            case events.TrainingResumed() if attempt.resumed is None:
                attempt.resumed, attempt.resumed_s = event, at_s
            case events.StepReached() if attempt.stepped_s is None:
                attempt.stepped_s = at_s
            case events.ControllerStarted():
                attempt.away_s.append((self.at_s, at_s))
        if self.stage is Stage.SAVING and attempt.saving_s is None:
            attempt.saving_s = at_s

    def _add_between(self, end_s: float, closing: Event | None) -> None:
        if end_s > self.at_s:
            self.stretches.append(Between(begin_s=self.at_s, end_s=end_s, kind=self._kind(closing), blame=self._blame))

    def _kind(self, closing: Event | None) -> TimeClass:
        """What the time was, given the entry that ends it: a controller that begins tells that there was none for a part of it."""
        if self.stage is Stage.ENDED:
            return TimeClass.DECIDING if self._ending == Ending.FAILED.value else TimeClass.STOPPED
        if self.stage is Stage.WAITING and self._is_new:
            return TimeClass.QUEUED
        if self.stage is Stage.WAITING and self._wants_nodes:
            return TimeClass.WAITING_FOR_NODES
        if isinstance(closing, events.ControllerStarted):
            return TimeClass.CONTROLLER_AWAY
        return TimeClass.STORE_WAIT if self._blame and self._cause in STORE_CAUSES else TimeClass.DECIDING

    def _learn(self, entry: Entry[Any]) -> None:
        """What was decided because of the event."""
        event, decided = entry.event, entry.decided
        if isinstance(event, events.NodesShort):
            self._wants_nodes = True
        if isinstance(event, events.ResumeRequested) and self.stage is Stage.ENDED:
            self._is_new, self._blame = True, 0
        if decided is None:
            self.stage = STAGES_OF_EARLIER.get(type(event), self.stage)
            if isinstance(event, WorkerFailed):
                self._cause, self._blame = event.cause, event.attempt
            elif isinstance(event, events.StepReached):
                self._blame = 0
            return
        if "stage" in decided:
            self.stage = Stage(decided["stage"]["is"])
        if "ending" in decided:
            self._ending = decided["ending"]["is"] or ""
        for incident in decided.get("incidents", {}).get("add", ())[-1:]:
            self._cause = incident["cause"]
            self._blame = incident["attempt"] if incident.get("recovered_after_s") is None else 0


def source_class(resumed: events.TrainingResumed) -> TimeClass:
    """From where an attempt loaded."""
    return {
        Source.MEMORY: TimeClass.LOADING_MEMORY,
        Source.OTHER_MEMORY: TimeClass.LOADING_OTHER_MEMORY,
        Source.STORE: TimeClass.LOADING_STORE,
    }[resumed.source]
