"""From a worker's exit status and its last words to a cause. Pure."""

from __future__ import annotations

import re
import signal
from enum import Enum

from orchestrator.errors import ERRORS
from orchestrator.messages import Failed


class Cause(Enum):
    """Why a worker or a node is gone. What each cause deserves is in `verdicts`."""

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


_BY_NAME = {name: Cause(kind.cause) for name, kind in ERRORS.items() if kind.cause}
_BY_TEXT = {
    Cause.GPU_OUT_OF_MEMORY: re.compile(r"out of memory"),
    Cause.HARDWARE: re.compile(
        r"uncorrectable|ecc error|nvlink|device-side hardware|gpu has fallen off|cuda error: unspecified launch failure|\bxid\b"
    ),
    Cause.PEER_LOST: re.compile(
        r"connection closed by peer|connection reset by peer|broken pipe|connection refused|remote process exited"
        r"|nccl communicator was aborted|unhandled system error|socket timeout|read timeout|timed out after"
    ),
}
"""What the words of an error betray, in lower case; the first that fits counts."""


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
    """A name that stands for a cause which texts betray too is weighed together with its text."""
    named = _cause_of_name(failed.error_type)
    if named is not None and named not in _BY_TEXT:
        return named
    text = failed.text.lower()
    return next((cause for cause, words in _BY_TEXT.items() if cause is named or words.search(text)), Cause.CRASHED)


def _cause_of_name(error_type: str) -> Cause | None:
    """The errors of torch.distributed (DistBackendError, DistNetworkError, …) all say that a peer is gone."""
    return Cause.PEER_LOST if error_type.startswith("Dist") else _BY_NAME.get(error_type)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
