"""What a person is woken for, as values: one line each with the command to type. Pure.

`conditions` says what holds at one look, and of what it can't tell now, so that it stays as it was. Who is told, and how often, is the
affair of `alerting`; a condition's key is the same for as long as it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from model.train.metrics import StepMetrics
from orchestrator.config import RunConfig
from orchestrator.control.cluster import Observation, leader_of
from orchestrator.control.incidents import open_incidents
from orchestrator.control.observe import next_placement, shortage
from orchestrator.control.state import Ending, Incident, RunState, Stage
from orchestrator.control.transition import terms_in
from orchestrator.health.recent import NOTHING_KNOWN, Range, Recent, range_of, usual_step_s
from orchestrator.health.totals import Totals

GOODPUT_JUDGED_AFTER_S = 3600.0


class Severity(Enum):
    CRITICAL = "critical"
    """Nothing is trained, or soon no more."""
    WARNING = "warning"
    INFO = "info"
    """Told once; that it is over is no news."""


class Kind(Enum):
    """What a condition is about. docs/runbook.md has what to do for each."""

    INCIDENT = "incident"
    RECOVERING = "recovering"
    STUCK = "stuck"
    NODES = "nodes"
    STORE = "store"
    CHECKPOINTS = "checkpoints"
    NOT_FINITE = "not_finite"
    LOSS = "loss"
    GRAD_NORM = "grad_norm"
    PACE = "pace"
    GOODPUT = "goodput"
    CORDON = "cordon"
    ENDED = "ended"
    TEST = "test"
    """Nothing: `braid alerts test` asks whether receivers take messages."""


TOLD_BY_STATUS = (Kind.INCIDENT, Kind.ENDED)
"""What `braid status` shows anyway, with all that is known of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Something that a person should hear of."""

    key: str
    """Stable while it holds, and another one when the same happens anew."""
    kind: Kind
    severity: Severity
    line: str
    command: str
    """What to type, less the options that name the store."""
    attempt: int = 0
    step: int = 0
    cause: str = ""
    """Value of the `Cause`, of an incident."""
    node: str = ""
    machine: str = ""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """All that is known of a run at one moment."""

    run: str
    config: RunConfig
    state: RunState
    now_s: float
    """Seconds since the epoch."""
    seen: Observation | None = None
    """None when the cluster is gone."""
    in_stage_s: float = 0.0
    recent: Recent = NOTHING_KNOWN
    recorded: StepMetrics | None = None
    """Of the newest step in the ledger, where no worker can be asked."""
    step: int = 0
    """Of `recorded`."""
    totals: Totals | None = None
    """Where its time went, as far as that was read."""
    store_trouble: str = ""
    """Why the controller can't write what it decides; empty where it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What holds, and what may: of those kinds nothing can be said now."""

    holding: tuple[Condition, ...]
    undecided: frozenset[Kind] = frozenset()
    recovered: tuple[Condition, ...] = ()
    """Incidents that are over: one that nobody has heard of came and went between two looks, or two controllers."""


def conditions(look: Look) -> Judgement:
    """What there is to say of a run."""
    state = look.state
    if state.terms is None:
        return Judgement(holding=())
    if state.stage is Stage.ENDED:
        return Judgement(holding=(*_not_finite(look), _ended(look)), recovered=tuple(_recovered(look)))
    found = [*_store(look), *_waiting(look), *_incidents(look), *_checkpoints(look), *_cordons(look), *_not_finite(look)]
    undecided = set()
    for kind, judged in ((Kind.STUCK, _stuck(look)), (Kind.PACE, _pace(look)), (Kind.GOODPUT, _goodput(look)), *_ranges(look)):
        if judged is None:
            undecided.add(kind)
        else:
            found += judged
    return Judgement(holding=tuple(found), undecided=frozenset(undecided), recovered=tuple(_recovered(look)))


def status_lines(holding: Iterable[Condition]) -> list[str]:
    """Those that `braid status` shows as alerts."""
    return [one.line for one in holding if one.kind not in TOLD_BY_STATUS]


def over_line(condition: Condition, state: RunState) -> str:
    """How it ended, for a condition that holds no more."""
    incident = next((one for one in state.incidents if one.attempt == condition.attempt), None)
    if condition.kind in (Kind.INCIDENT, Kind.RECOVERING) and incident is not None and incident.recovered_after_s is not None:
        where = f"without {', '.join(incident.left)}" if incident.left else "on the same nodes"
        replayed = f", {incident.steps_replayed} steps replayed" if incident.steps_replayed else ""
        return f"training again after {incident.recovered_after_s:.1f} s, from {_source(incident)}, {where}{replayed}"
    return f"the run has ended: {state.label}" if state.stage is Stage.ENDED else "it is over"


def _source(incident: Incident) -> str:
    return f"{incident.source.value} (step {incident.resumed_from_step})"


# --- what the state says -----------------------------------------------------------------------------------------------


def _ended(look: Look) -> Condition:
    state, has_failed = look.state, look.state.ending is Ending.FAILED
    return Condition(
        key=f"ended-{state.attempt}-{state.label}",
        kind=Kind.ENDED,
        severity=Severity.CRITICAL if has_failed else Severity.INFO,
        line=f"{state.label}, last checkpoint at step {state.committed_step}: {state.reason}",
        command=f"braid {'verify' if state.ending is Ending.FINISHED else 'status'} {look.run}",
        attempt=state.attempt,
        step=state.committed_step,
    )


def _incidents(look: Look) -> Iterator[Condition]:
    """Failure after failure without a step between them is one incident, told as its first one."""
    row = open_incidents(look.state)
    if not row:
        return
    first = row[0]
    yield _incident(first, look)
    limit_s = look.config.alerts.recovering_after_s
    if look.now_s - first.at_s >= limit_s:
        left = max(0, terms_in(look.state).recovery.max_restarts - look.state.restarts_in_row)
        told = f"no step for over {limit_s:,.0f} s since attempt {first.attempt} ended ({first.cause.value})"
        line = f"{told}; failures in a row: {len(row)}, restarts left: {left}"
        yield _of_incident(first, kind=Kind.RECOVERING, severity=Severity.CRITICAL, look=look, line=line)


def _recovered(look: Look) -> Iterator[Condition]:
    """Since the run was last resumed. Those that were recovered from at the same moment are one, told as its first."""
    moments_s: list[float] = []
    for one in look.state.incidents:
        if one.recovered_after_s is not None and one.attempt > look.state.resumed_after_attempt:
            moment_s = one.at_s + one.recovered_after_s
            if not any(math.isclose(moment_s, known_s, rel_tol=0.0, abs_tol=0.01) for known_s in moments_s):
                moments_s.append(moment_s)
                yield _incident(one, look)


def _incident(one: Incident, look: Look) -> Condition:
    where = f"{one.machine or one.node or 'no node that can be named'}{f', rank {one.rank}' if one.rank is not None else ''}"
    line = f"attempt {one.attempt} ended after step {one.at_step}: {one.cause.value} on {where}: {one.detail}; it recovers by itself"
    return _of_incident(one, kind=Kind.INCIDENT, severity=Severity.WARNING, look=look, line=line)


def _of_incident(one: Incident, *, kind: Kind, severity: Severity, look: Look, line: str) -> Condition:
    logs = f"braid logs {look.run} --rank {one.rank or 0} --attempt {one.attempt}"
    return Condition(
        key=f"{kind.value}-{one.attempt}",
        kind=kind,
        severity=severity,
        line=line,
        command=logs if kind is Kind.INCIDENT else f"braid status {look.run}",
        attempt=one.attempt,
        step=one.at_step,
        cause=one.cause.value,
        node=one.node or "",
        machine=one.machine or "",
        rank=one.rank,
    )


def _waiting(look: Look) -> Iterator[Condition]:
    state, seen, limit_s = look.state, look.seen, terms_in(look.state).recovery.nodes_alarm_s
    if state.stage is Stage.WAITING and state.wants_nodes and look.in_stage_s >= limit_s:
        text = shortage(state, seen) if seen is not None and not next_placement(state, seen) else state.reason
        line = f"for over {limit_s:,.0f} s {text}; add nodes, or `braid stop` the run"
        yield _of_run(look, Kind.NODES, Severity.CRITICAL, line, "braid nodes")


def _checkpoints(look: Look) -> Iterator[Condition]:
    state, every = look.state, look.config.checkpoint.every_steps
    step = look.recent.step if look.recent.attempt == state.attempt else 0
    if lost := state.lost_checkpoints:
        where = f" (ranks {', '.join(map(str, lost[-1].ranks))}{f' on {lost[-1].machine}' if lost[-1].machine else ''})"
        row = f" and {len(lost) - 1} before it" if len(lost) > 1 else ""
        told = f"the checkpoint of step {lost[-1].step}{row} came to nothing{where}: {lost[-1].text}"
        line = f"{told}; the newest that counts is of step {state.committed_step}"
    elif state.stage is Stage.RUNNING and step - state.committed_step >= look.config.alerts.checkpoints_behind * every:
        line = f"no checkpoint since step {state.committed_step}, though one is due every {every} steps"
    else:
        return
    yield _of_run(look, Kind.CHECKPOINTS, Severity.WARNING, line, "braid doctor")


def _cordons(look: Look) -> Iterator[Condition]:
    """Machines that this run took out of use since it was last resumed."""
    state, limit = look.state, terms_in(look.state).recovery.max_cordons
    ours = sorted({machine for one in state.incidents if one.attempt > state.resumed_after_attempt for machine in one.cordons})
    full = f"; with recovery.max_cordons={limit} it cordons no more" if len(ours) >= limit else ""
    for machine in ours:
        line = f"this run cordoned {machine}{full}; `braid nodes` says why, `braid nodes clear` gives back"
        yield _of_run(look, Kind.CORDON, Severity.WARNING, line, "braid nodes", of=machine)


def _store(look: Look) -> Iterator[Condition]:
    if look.store_trouble:
        line = f"what the controller decides can't be written, so that nothing can recover: {look.store_trouble}"
        yield _of_run(look, Kind.STORE, Severity.CRITICAL, line, "braid doctor")


# --- what the numbers say ----------------------------------------------------------------------------------------------


def _not_finite(look: Look) -> Iterator[Condition]:
    """Of a run's newest numbers, whether it still goes on or not."""
    leader = leader_of(look.seen.agents_of(look.state.attempt)) if look.seen is not None else None
    step, metrics = (leader.step, leader.metrics) if leader is not None else (look.step, look.recorded)
    if metrics is not None and not metrics.is_finite:
        numbers = f"step {step} is not finite: loss {metrics.loss:g}, gradient norm {metrics.grad_norm:g}"
        update = "withheld" if metrics.skipped else "applied, and the weights are not finite either"
        yield _of_run(look, Kind.NOT_FINITE, Severity.WARNING, f"{numbers}; its update was {update}", f"braid status {look.run}")


def _stuck(look: Look) -> list[Condition] | None:
    """None where nothing is known of how long steps take."""
    agents = look.seen.agents_of(look.state.attempt) if look.seen is not None else []
    leader, usual_s = leader_of(agents), usual_step_s(look.recent, look.config)
    if look.state.stage is not Stage.RUNNING or leader is None:
        return []
    if usual_s is None:
        return None
    limit_s = max(look.config.alerts.stuck_after_s, look.config.alerts.stuck_after * usual_s)
    quiet_s = min(one.summary.leader.last_progress_s + one.age_s for one in agents if one.summary is not None)
    if quiet_s < limit_s:
        return []
    line = f"no step for over {limit_s:,.0f} s after step {leader.step}, which take {usual_s:.3g} s as a rule"
    return [_of_run(look, Kind.STUCK, Severity.CRITICAL, line, f"braid status {look.run}")]


def _pace(look: Look) -> list[Condition] | None:
    part = look.config.alerts.pace_below
    speed = range_of(look.recent.tokens_per_s) if look.state.stage is Stage.RUNNING else None
    if speed is None:
        return None
    if speed.newest >= part * speed.median:
        return []
    line = f"{speed.newest:,.0f} tokens/s, {speed.newest / speed.median:.0%} of its own usual {speed.median:,.0f}"
    return [_of_run(look, Kind.PACE, Severity.WARNING, line, f"braid status {look.run}")]


def _ranges(look: Look) -> Iterator[tuple[Kind, list[Condition] | None]]:
    recent = look.recent
    for kind, what, samples in ((Kind.LOSS, "loss", recent.losses), (Kind.GRAD_NORM, "gradient norm", recent.grad_norms)):
        judged = range_of(samples) if look.state.stage is Stage.RUNNING else None
        yield kind, None if judged is None else _above(look, kind, what, judged)


def _above(look: Look, kind: Kind, what: str, judged: Range) -> list[Condition]:
    if judged.spreads_above < look.config.alerts.spread_above:
        return []
    usual = f"{judged.median:.4g} ± {judged.spread:.2g} over its last steps"
    line = f"{what} is {judged.newest:.4g} at step {look.recent.step}, usually {usual}"
    return [_of_run(look, kind, Severity.WARNING, line, f"braid status {look.run}")]


def _goodput(look: Look) -> list[Condition] | None:
    bound = look.config.alerts.goodput_below
    goodput = look.totals.goodput if look.totals is not None else None
    if look.totals is None or goodput is None or look.totals.wall_s < GOODPUT_JUDGED_AFTER_S:
        return None
    if goodput >= bound:
        return []
    return [_of_run(look, Kind.GOODPUT, Severity.WARNING, f"goodput is {goodput:.1%}, below {bound:.0%}", f"braid goodput {look.run}")]


def _of_run(look: Look, kind: Kind, severity: Severity, line: str, command: str, of: str = "") -> Condition:
    state = look.state
    return Condition(
        key=f"{kind.value}-{of}" if of else kind.value,
        kind=kind,
        severity=severity,
        line=line,
        command=command,
        attempt=state.attempt,
        step=max(look.recent.step, look.step, state.committed_step),
        machine=of,
    )
