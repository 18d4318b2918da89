"""From an exit status and an error to a cause, and what each cause deserves. Pure."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from enum import Enum

from orchestrator.messages import Failed


class Cause(Enum):
    KILLED = "killed"
    """A signal ended the process (the kernel's out-of-memory killer included)."""
    CRASHED = "crashed"
    """An exception nobody expected."""
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    KERNELS = "kernels"
    """A GPU's kernels compute something else than they should: the GPU is bad, or the compiler."""
    HARDWARE = "hardware"
    """A fault of the node: its device, its links, its disk."""
    PEER_LOST = "peer_lost"
    """A collective failed because another worker vanished: a consequence; the root cause is elsewhere."""
    NODE_LOST = "node_lost"
    AGENT_LOST = "agent_lost"
    FROZEN = "frozen"
    """The process exists but sends nothing: stopped, or stuck in the kernel."""
    HUNG = "hung"
    """The process is alive, its training loop does not move."""
    STORE = "store"
    """The object store did not answer within its deadline."""
    ACCESS = "access"
    """The object store refuses: credentials, or a bucket that is gone."""
    CONFIG = "config"
    """No restart can help: configuration, data or checkpoint do not fit."""
    FENCED = "fenced"
    """A newer attempt of the run exists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    restart: bool = True
    same_step_limit: int | None = None
    """So many times in a row at the same step make it deterministic, and end the run."""
    strikes: int = 0
    """Held against the node: others are preferred to it."""
    bars_node: bool = False
    """The node is not used again by this run."""


VERDICTS: dict[Cause, Verdict] = {
    Cause.KILLED: Verdict(same_step_limit=3, strikes=1),
    Cause.CRASHED: Verdict(same_step_limit=3),
    Cause.GPU_OUT_OF_MEMORY: Verdict(same_step_limit=3),
    Cause.KERNELS: Verdict(same_step_limit=3, strikes=3),
    Cause.HARDWARE: Verdict(bars_node=True),
    Cause.PEER_LOST: Verdict(),
    Cause.NODE_LOST: Verdict(strikes=1),
    Cause.AGENT_LOST: Verdict(strikes=1),
    Cause.FROZEN: Verdict(strikes=2),
    Cause.HUNG: Verdict(strikes=1),
    Cause.STORE: Verdict(),
    Cause.ACCESS: Verdict(same_step_limit=5),
    Cause.CONFIG: Verdict(restart=False),
    Cause.FENCED: Verdict(),
}

_PERMANENT = frozenset(
    {
        "ConfigMismatch",
        "NoCheckpoint",
        "DatasetMissing",
        "DatasetTooSmall",
        "ManifestInvalid",
        "ShardMissing",
        "DecodeError",
    }
)
_NODES_OWN = frozenset({"CacheUnusable"})
_XID = re.compile(r"\bxid\b")
_NAMED = {
    "StoreUnavailable": Cause.STORE,
    "AccessDenied": Cause.ACCESS,
    "BucketMissing": Cause.ACCESS,
    "Fenced": Cause.FENCED,
    "KernelsWrong": Cause.KERNELS,
}
_PEER = ("connection closed by peer", "connection reset by peer", "broken pipe", "connection refused", "remote process exited",
         "nccl communicator was aborted", "unhandled system error", "socket timeout", "read timeout", "timed out after")  # fmt: skip
_HARDWARE = (
    "uncorrectable",
    "ecc error",
    "nvlink",
    "device-side hardware",
    "gpu has fallen off",
    "cuda error: unspecified launch failure",
)


def classify(exit_code: int | None, failed: Failed | None) -> tuple[Cause, str]:
    """The cause of one worker's end, and one line that says it.

    The worker's own word counts more than its exit status; a worker that said nothing was ended from outside.
    """
    if failed is not None:
        return _classify_error(failed), f"{failed.error_type}: {failed.text}"
    if exit_code is not None and exit_code < 0:
        return Cause.KILLED, f"killed by {_signal_name(-exit_code)}"
    return Cause.CRASHED, f"exit status {exit_code} without a word; see its log"


def _classify_error(failed: Failed) -> Cause:
    text = failed.text.lower()
    if failed.error_type in _PERMANENT:
        return Cause.CONFIG
    if failed.error_type in _NAMED:
        return _NAMED[failed.error_type]
    if failed.error_type == "OutOfMemoryError" or "out of memory" in text:
        return Cause.GPU_OUT_OF_MEMORY
    if failed.error_type in _NODES_OWN or any(mark in text for mark in _HARDWARE) or _XID.search(text):
        return Cause.HARDWARE
    if failed.error_type.startswith("Dist") or any(mark in text for mark in _PEER):
        return Cause.PEER_LOST
    return Cause.CRASHED


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def backoff_s(restarts_in_row: int, base_s: float, limit_s: float) -> float:
    """Seconds to wait before restart number `restarts_in_row` (1 is the first, and immediate)."""
    if restarts_in_row <= 1:
        return 0.0
    return min(limit_s, base_s * 2.0 ** min(restarts_in_row - 2, 60))
