"""After the last worker of a failed attempt is gone: another attempt and when, or the end of the run and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.causes import Cause
from orchestrator.control.incidents import in_a_row, speaks_of_all
from orchestrator.control.state import Incident, RunState
from orchestrator.control.verdicts import VERDICTS, backoff_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Either a reason to end, or how long to wait before the next attempt."""

    ends_because: str = ""
    wait_s: float = 0.0
    restarts_in_row: int = 0


def judge(state: RunState, *, spares: int) -> Judgement:
    """What a run deserves whose attempt is over. `spares`: usable nodes that the attempt was not on."""
    assert state.terms is not None
    incident = state.incidents[-1] if state.incidents else None
    if incident is None or incident.attempt != state.attempt:
        return Judgement(restarts_in_row=state.restarts_in_row)  # nothing failed: a stop was taken back
    verdict, recovery = VERDICTS[incident.cause], state.terms.recovery
    ends_because = _deterministic(state, incident, spares) or _worn_out(state, incident)
    if ends_because:
        return Judgement(ends_because=ends_because)
    in_row = state.restarts_in_row + verdict.counts
    wait_s = backoff_s(max(in_row, _uncounted_restarts(state, incident)), recovery.backoff_s, recovery.backoff_limit_s)
    if incident.cause in (Cause.PEER_LOST, Cause.ABORTED):
        wait_s = max(wait_s, recovery.peer_grace_s)
    return Judgement(wait_s=wait_s, restarts_in_row=in_row)


def _deterministic(state: RunState, incident: Incident, spares: int) -> str:
    """Why the next attempt would fail in the same way; "" where it may not. While nodes are free, a fault may be one node's."""
    assert state.terms is not None
    verdict = VERDICTS[incident.cause]
    agreed = incident.num_nodes > 1 or incident.num_ranks >= state.terms.world_size
    if verdict.ends_if_agreed and agreed:
        return f"{incident.cause.value}: {incident.detail}; no restart can help"
    if incident.cause is Cause.DIVERGED and state.terms.recovery.on_nonfinite == "fail":
        return f"{incident.cause.value}: {incident.detail}"
    row = in_a_row(state)
    if verdict.same_step_limit is None or len(row) < verdict.same_step_limit:
        return ""
    machines = {one.machine for one in row}
    may_be_its_own = state.terms.num_nodes == 1 or not speaks_of_all(incident, state.terms)
    if len(machines) == 1 and spares and may_be_its_own:
        return ""
    told = f"{incident.cause.value} {len(row)} times in a row at step {incident.at_step}"
    if len(machines) > 1:
        told += f" on {len(machines)} machines"
    cordoned = sorted({machine for one in row for machine in one.cordons})
    remedy = f"; it may not be the hardware: `braid nodes clear` gives back {', '.join(cordoned)}" if cordoned else ""
    return f"{told}: {incident.detail}{remedy}"


def _worn_out(state: RunState, incident: Incident) -> str:
    """Why the run has tried for long enough; "" where it has not."""
    assert state.terms is not None
    recovery = state.terms.recovery
    if incident.cause is Cause.ACCESS and state.waited_s >= recovery.access_timeout_s:
        return f"access: refused for longer than recovery.access_timeout_s={recovery.access_timeout_s:g}: {incident.detail}"
    if VERDICTS[incident.cause].counts and state.restarts_in_row >= recovery.max_restarts:
        limit = f"recovery.max_restarts={recovery.max_restarts}"
        return f"{limit} restarts without a new checkpoint; last: {incident.cause.value}: {incident.detail}"
    return ""


def _uncounted_restarts(state: RunState, incident: Incident) -> int:
    """Restarts in a row of a cause that may end no run: they count for the wait between them only."""
    return 0 if VERDICTS[incident.cause].counts else len(in_a_row(state))
