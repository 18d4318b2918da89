"""A vocabulary for telling what happens to a run: `play(...)` folds events, the rest makes them."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.config import RecoveryConfig
from orchestrator.control.actions import Action
from orchestrator.control.causes import Cause
from orchestrator.control.events import (
    BackoffElapsed,
    CheckpointCommitted,
    Event,
    NodesChanged,
    RunSubmitted,
    StepReached,
    StopRequested,
    TrainingResumed,
    WorkerFailed,
    WorkersEnded,
    WorkersGone,
)
from orchestrator.control.placement import Node
from orchestrator.control.state import RunState, Terms
from orchestrator.control.transition import transition
from orchestrator.messages import Outcome, Phase, WorkerReport

TERMS = Terms(
    num_steps=1000,
    num_nodes=2,
    workers_per_node=1,
    world_size=2,
    config_version=1,
    recovery=RecoveryConfig(max_restarts=3, backoff_s=10.0, backoff_limit_s=25.0, peer_grace_s=5.0),
)
STEADY = WorkerReport(rank=0, pid=100, phase=Phase.TRAINING, step=7)


def play(*events: Event, state: RunState | None = None) -> tuple[RunState, list[Action]]:
    """The state after the events, a second apart where they carry no time, and every action on the way."""
    now = state or RunState()
    actions: list[Action] = []
    for second, event in enumerate(events):
        timed = event if event.at_s else replace(event, at_s=float(second))
        now, more = transition(now, timed)
        actions.extend(more)
    return now, actions


def submitted(terms: Terms = TERMS) -> Event:
    return RunSubmitted(at_s=0.0, terms=terms)


def nodes(names: str, at_s: float = 0.0) -> Event:
    return NodesChanged(at_s=at_s, joined=tuple(Node(node=name, slots=1) for name in names))


def node_lost(name: str, at_step: int = 0, at_s: float = 0.0) -> Event:
    return NodesChanged(at_s=at_s, lost=(name,), at_step=at_step, silent_s=1.5)


def resumed(attempt: int, step: int, rejected: tuple[str, ...] = ()) -> Event:
    return TrainingResumed(at_s=0.0, attempt=attempt, from_step=step, rejected=rejected)


def stepped(attempt: int, step: int, at_s: float = 0.0) -> Event:
    return StepReached(at_s=at_s, attempt=attempt, step=step)


def committed(attempt: int, step: int) -> Event:
    return CheckpointCommitted(at_s=0.0, attempt=attempt, step=step)


def failed(attempt: int, node: str, cause: Cause = Cause.KILLED, at_step: int = 0, at_s: float = 0.0, rank: int = 0) -> Event:
    return WorkerFailed(at_s=at_s, attempt=attempt, rank=rank, node=node, cause=cause, detail="it broke", at_step=at_step, silent_s=0.2)


def gone(attempt: int, at_s: float = 0.0) -> Event:
    return WorkersGone(at_s=at_s, attempt=attempt)


def waited(at_s: float) -> Event:
    return BackoffElapsed(at_s=at_s)


def ended(attempt: int, outcome: Outcome, step: int, num_skipped: int = 0) -> Event:
    return WorkersEnded(at_s=0.0, attempt=attempt, outcome=outcome, step=step, num_skipped=num_skipped)


def stop(now: bool = False, at_s: float = 0.0) -> Event:
    return StopRequested(at_s=at_s, now=now)


def running(on: str = "abc") -> tuple[Event, ...]:
    """Submitted, nodes there, and the first step of attempt 1 done."""
    return submitted(), nodes(on), resumed(1, 0), stepped(1, 1)


def rank(number: int, **known: object) -> WorkerReport:
    """What is seen of a worker that trains; `known` replaces what is said of it."""
    return replace(STEADY, rank=number, pid=100 + number, **known)  # type: ignore[arg-type]
