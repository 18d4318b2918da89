"""Whether the nodes' memory holds the snapshots that are wanted: where it does not, the kernel would end a process for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from torch import Tensor

from orchestrator.host_memory import host_memory
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.training_state import shards_of

BLOCK_BYTES = 512
"""That `st_blocks` counts in."""
log = logging.getLogger(__name__)


def memory_that_fits(memory: Sequence[int], state: Mapping[str, Tensor], *, exchange: Exchange, ranks_per_node: int) -> Sequence[int]:
    """The files of `memory`, or none where a node of the run can't hold those of its ranks: then no rank has any, and the log says why.

    All ranks call it, before any of them takes memory.
    """
    missing, host = ranks_per_node * _missing_bytes(memory, state), host_memory()
    lacks = missing > host.room
    if lacks:
        log.warning(
            "there are no snapshots in memory: this node has %.1f GB of it left, and those of its %d workers take %.1f more; "
            "use nodes with more memory, or set snapshot.enabled=false; recovery goes on from checkpoints",
            host.available / 1e9,
            ranks_per_node,
            missing / 1e9,
        )
    num_lacking = exchange.count(lacks)
    if num_lacking and not lacks:
        log.warning("there are no snapshots in memory: the nodes of %d workers lack room for them, see their logs", num_lacking)
    return () if num_lacking else memory


def _missing_bytes(memory: Sequence[int], state: Mapping[str, Tensor]) -> int:
    """Of this rank, beyond what its files have taken already."""
    state_bytes = sum(shard.nbytes for shard in shards_of(state).values())
    return sum(max(0, state_bytes - os.fstat(fd).st_blocks * BLOCK_BYTES) for fd in memory)
