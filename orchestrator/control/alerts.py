"""What a person should hear of at once, one line each with what to do. A line stays the same until there is news. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from model.train.metrics import StepMetrics
from orchestrator.control.cluster import Observation
from orchestrator.control.observe import next_placement, shortage
from orchestrator.control.state import RunState, Stage


def alerts(state: RunState, seen: Observation | None, in_stage_s: float) -> tuple[str, ...]:
    """() when all is well. `seen` is None when the cluster is gone."""
    if state.terms is None or state.stage is Stage.ENDED:
        return ()
    return (*_waiting(state, seen, in_stage_s), *_checkpoints(state), *_cordons(state))


def not_finite(step: int, metrics: StepMetrics | None) -> tuple[str, ...]:
    """What there is to say of a run's newest numbers, whether it still goes on or not."""
    if metrics is None or metrics.is_finite:
        return ()
    numbers = f"step {step} is not finite: loss {metrics.loss:g}, gradient norm {metrics.grad_norm:g}"
    return (f"{numbers}; its update was {'withheld' if metrics.skipped else 'applied, and the weights are not finite either'}",)


def _waiting(state: RunState, seen: Observation | None, in_stage_s: float) -> Iterator[str]:
    assert state.terms is not None
    limit_s = state.terms.recovery.nodes_alarm_s
    if state.stage is Stage.WAITING and state.wants_nodes and in_stage_s >= limit_s:
        text = shortage(state, seen) if seen is not None and not next_placement(state, seen) else state.reason
        yield f"for over {limit_s:,.0f} s {text}; add nodes, or `braid stop` the run"


def _checkpoints(state: RunState) -> Iterator[str]:
    lost = state.lost_checkpoints
    if lost:
        where = f" (ranks {', '.join(map(str, lost[-1].ranks))}{f' on {lost[-1].machine}' if lost[-1].machine else ''})"
        row = f" and {len(lost) - 1} before it" if len(lost) > 1 else ""
        told = f"the checkpoint of step {lost[-1].step}{row} came to nothing{where}: {lost[-1].text}"
        yield f"{told}; the newest that counts is of step {state.committed_step}"


def _cordons(state: RunState) -> Iterator[str]:
    """Machines that this run took out of use since it was last resumed."""
    assert state.terms is not None
    ours = [machine for one in state.incidents if one.attempt > state.resumed_after_attempt for machine in one.cordons]
    if ours:
        limit = state.terms.recovery.max_cordons
        full = f"; with recovery.max_cordons={limit} it cordons no more" if len(set(ours)) >= limit else ""
        yield f"this run cordoned {', '.join(sorted(set(ours)))}{full}; `braid nodes` says why, `braid nodes clear` gives back"
