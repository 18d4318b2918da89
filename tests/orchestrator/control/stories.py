"""A vocabulary for telling what happens to a run: `play(...)` plays events, `seen(...)` is what a cluster shows, the rest makes both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.config import RecoveryConfig
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.events import (
    AttemptStarted,
    CheckpointCommitted,
    CheckpointLost,
    Event,
    FaultsSeen,
    RunSubmitted,
    StepReached,
    StopRequested,
    TrainingResumed,
    WorkersEnded,
    WorkersGone,
)
from orchestrator.control.observe import events_of, next_placement
from orchestrator.control.placement import Node, Placed
from orchestrator.control.state import Fault, RunState, Terms
from orchestrator.control.summary import summarise
from orchestrator.control.transition import transition
from orchestrator.messages import AgentReport, Outcome, Phase, Resumed, WorkerReport
from orchestrator.records.nodes import Standing

TERMS = Terms(
    num_steps=1000,
    num_nodes=2,
    workers_per_node=1,
    world_size=2,
    config_version=1,
    recovery=RecoveryConfig(max_restarts=3, backoff_s=10.0, backoff_limit_s=25.0, peer_grace_s=5.0),
)
STEADY = WorkerReport(rank=0, pid=100, phase=Phase.TRAINING, step=7, resumed=Resumed(step=0))
NOTHING_KNOWN: Mapping[str, Standing] = {}


def play(*events: Event, state: RunState | None = None) -> RunState:
    """The state after the events, a second apart where they carry no time."""
    now = state or RunState()
    for second, event in enumerate(events):
        now = transition(now, event if event.at_s else replace(event, at_s=float(second)))
    return now


# --- events ------------------------------------------------------------------------------------------------------------


def submitted(terms: Terms = TERMS) -> RunSubmitted:
    return RunSubmitted(at_s=0.0, terms=terms)


def machine(node: str) -> str:
    """Machines have the name of their node, as a capital letter."""
    return node.upper()


def placed(attempt: int, on: str) -> Event:
    return AttemptStarted(at_s=0.0, attempt=attempt, placement=tuple(Placed(node=name, machine=machine(name)) for name in on))


def resumed(attempt: int, step: int, rejected: tuple[str, ...] = ()) -> Event:
    return TrainingResumed(at_s=0.0, attempt=attempt, from_step=step, rejected=rejected)


def stepped(attempt: int, step: int, at_s: float = 0.0) -> Event:
    return StepReached(at_s=at_s, attempt=attempt, step=step)


def committed(attempt: int, step: int) -> Event:
    return CheckpointCommitted(at_s=0.0, attempt=attempt, step=step)


def lost_checkpoint(attempt: int, step: int, node: str | None, spares: int = 1, ranks: tuple[int, ...] = (1,)) -> Event:
    return CheckpointLost(at_s=0.0, attempt=attempt, step=step, node=node, ranks=ranks, text="no answer for 60 s", spares=spares)


def fault(
    cause: Cause = Cause.KILLED, node: str | None = "a", rank: int | None = 0, detail: str = "it broke", ranks: int = 1, nodes: int = 1
) -> Fault:
    return Fault(
        cause=cause, node=node, machine=machine(node) if node else None, rank=rank, detail=detail, num_ranks=ranks, num_nodes=nodes
    )


def failed(attempt: int, *faults: Fault, at_step: int = 0, at_s: float = 0.0, silent_s: float = 0.2) -> Event:
    return FaultsSeen(at_s=at_s, attempt=attempt, faults=faults, at_step=at_step, silent_s=silent_s)


def gone(attempt: int, at_s: float = 0.0, spares: int = 1) -> Event:
    return WorkersGone(at_s=at_s, attempt=attempt, spares=spares)


def ended(attempt: int, outcome: Outcome, step: int, num_skipped: int = 0, told: str = "") -> Event:
    return WorkersEnded(at_s=0.0, attempt=attempt, outcome=outcome, step=step, num_skipped=num_skipped, told=tuple(told))


def stop(now: bool = False, at_s: float = 0.0) -> Event:
    return StopRequested(at_s=at_s, now=now)


def running(attempt: int = 1, on: str = "ab") -> tuple[Event, ...]:
    """An attempt up to its first step; the first one with the submission before it."""
    before = (submitted(),) if attempt == 1 else ()
    return *before, placed(attempt, on), resumed(attempt, 0), stepped(attempt, 1)


# --- what is seen ------------------------------------------------------------------------------------------------------


def rank(number: int, **known: object) -> WorkerReport:
    """What is seen of a worker that trains; `known` replaces what is said of it."""
    return replace(STEADY, rank=number, pid=100 + number, **known)  # type: ignore[arg-type]


def agent(node: str, *workers: WorkerReport, attempt: int = 1, age_s: float = 0.0, **known: object) -> AgentSeen:
    """An agent and the workers that it reports."""
    report = AgentReport(node=node, attempt=attempt, workers=workers, is_empty=not workers)
    report = replace(report, **{name: known.pop(name) for name in ("is_empty", "stuck", "levels") if name in known})  # type: ignore[arg-type]
    return AgentSeen(node=node, report=report, summary=summarise(workers), age_s=age_s, **known)  # type: ignore[arg-type]


def seen(
    *agents: AgentSeen, alive: str = "abc", standings: Mapping[str, Standing] = NOTHING_KNOWN, slots: int = 1, at_s: float = 50.0
) -> Observation:
    nodes = tuple(Node(node=name, machine=machine(name), slots=slots) for name in alive)
    return Observation(at_s=at_s, nodes=nodes, agents=agents, standings=standings)


def see(state: RunState, look: Observation, in_stage_s: float = 0.0) -> RunState:
    """The state after a look of the controller."""
    return play(*events_of(state, look, in_stage_s), state=state)


def next_on(state: RunState, alive: str = "abc", standings: Mapping[str, Standing] = NOTHING_KNOWN) -> str:
    """The nodes that the next attempt would get; "" for none."""
    return "".join(one.node for one in next_placement(state, seen(alive=alive, standings=standings)))
