"""From a worker's exit status and its last words to a cause. Pure."""

from __future__ import annotations

import functools
import re
import signal
from enum import Enum

from orchestrator.errors import ERRORS
from orchestrator.messages import Failed


class Cause(Enum):
    """Why a worker or a node is gone, the one that explains most first: a power cut explains an abort, an abort explains nothing."""

    LEAVING = "leaving"
    """The node is to be left: somebody cordoned it, or its workers got SIGTERM from outside. They saved first."""
    NODE_LOST = "node_lost"
    HARDWARE = "hardware"
    """A fault of the node: its device, its links, its memory, a process that survives SIGKILL."""
    DISK_FULL = "disk_full"
    """The node's disk or a quota is full."""
    KERNELS = "kernels"
    """A GPU's kernels compute something else than they should: the GPU is bad, or the compiler."""
    CUT_OFF = "cut_off"
    """The node can't write its part of checkpoints, again and again, while the others can."""
    AGENT_LOST = "agent_lost"
    KILLED = "killed"
    """SIGKILL from outside, such as the kernel's out-of-memory killer."""
    FROZEN = "frozen"
    """The process exists but sends nothing: stopped, or stuck in the kernel."""
    FENCED = "fenced"
    """A newer attempt of the run exists."""
    CONFIG = "config"
    """Configuration, data or checkpoint do not fit."""
    DIVERGED = "diverged"
    """Loss, gradients or weights are not finite, or update after update is left out as a spike."""
    ACCESS = "access"
    """The object store refuses: credentials, or a bucket that is gone."""
    STORE = "store"
    """The object store did not answer within its deadline."""
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    CRASHED = "crashed"
    """An exception nobody expected, or a signal such as SIGSEGV."""
    HUNG = "hung"
    """The process is alive, its training loop does not move."""
    ABORTED = "aborted"
    """SIGABRT: how a watchdog ends a process whose collective does not come back. As a rule a consequence."""
    PEER_LOST = "peer_lost"
    """A collective failed because another worker vanished: a consequence; the root cause is elsewhere."""


_BY_NAME = {name: Cause(kind.cause) for name, kind in ERRORS.items() if kind.cause}
_BY_TEXT = {
    Cause.DISK_FULL: re.compile(r"no space left on device|disk quota exceeded|errno 28|errno 122"),
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
_BY_SIGNAL: dict[int, Cause] = {signal.SIGKILL: Cause.KILLED, signal.SIGABRT: Cause.ABORTED, signal.SIGTERM: Cause.LEAVING}


@functools.lru_cache(maxsize=1024)
def classify(exit_code: int | None, failed: Failed | None) -> tuple[Cause, str]:
    """The cause of one worker's end, and one line that says it.

    The worker's own word counts more than its exit status; a worker that said nothing was ended from outside.
    """
    if failed is not None:
        return _classify_error(failed), f"{failed.error_type}: {failed.text}"
    if exit_code is not None and exit_code < 0:
        return _BY_SIGNAL.get(-exit_code, Cause.CRASHED), f"killed by {_signal_name(-exit_code)}"
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
