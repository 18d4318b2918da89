"""What a person does about a failure, by its cause: one line with the command to type. Pure. The long form: docs/runbook.md."""

from __future__ import annotations

from orchestrator.control.causes import Cause
from orchestrator.control.state import Incident

ALONE = "nothing: the run sees to it"
REMEDIES: dict[Cause, str] = {
    Cause.LEAVING: ALONE,
    Cause.NODE_LOST: "look at {machine}; `braid nodes clear {machine}` once it is well",
    Cause.HARDWARE: "drain and repair {machine}, then `braid nodes clear {machine}`",
    Cause.DISK_FULL: "make room on {machine}, then `braid nodes clear {machine}`",
    Cause.KERNELS: "`braid doctor` on {machine} repeats the check; take that GPU out, or change torch and Triton",
    Cause.CUT_OFF: "look at the way from {machine} to the store; `braid nodes clear {machine}` once it is well",
    Cause.AGENT_LOST: "look at the agent's log on {machine}, and at its memory (`dmesg`)",
    Cause.KILLED: "`dmesg` on {machine}: if it was memory, smaller train.micro_rows or fewer workers there",
    Cause.FROZEN: "look at {machine}: a dead file system, a wedged driver, or a debugger",
    Cause.FENCED: ALONE,
    Cause.CONFIG: "`braid logs {run} --rank {rank} --attempt {attempt}`, put it right, then `braid resume {run}`",
    Cause.DIVERGED: "another run from an earlier step (start.run={run}) with a lower optimizer.lr, or without the data to blame",
    Cause.ACCESS: "renew the credentials on the nodes; once the run has ended, `braid resume {run}`",
    Cause.STORE: "`braid doctor --storage ROOT`: is the store there, and has it room?",
    Cause.GPU_OUT_OF_MEMORY: "`braid resume {run} train.micro_rows=…` with fewer, or compute.activation_checkpointing=full",
    Cause.CRASHED: "`braid logs {run} --rank {rank} --attempt {attempt}`",
    Cause.HUNG: "where the workers stood is told above; if steps are just slow, raise recovery.progress_timeout_s",
    Cause.ABORTED: "look at the network between the nodes",
    Cause.PEER_LOST: "look at the network between the nodes; raise recovery.peer_grace_s if nodes die slowly",
}


def remedy(incident: Incident, run: str) -> str:
    """For one incident of a run."""
    machine, rank = incident.machine or "the node", 0 if incident.rank is None else incident.rank
    return REMEDIES[incident.cause].format(machine=machine, rank=rank, attempt=incident.attempt, run=run)
