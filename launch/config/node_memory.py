"""What training's state takes of a node's memory, beside the GPUs'. Pure."""

from dataclasses import dataclass

NUM_SNAPSHOTS = 2
"""Of each rank: one is always whole. Checkpoints alone take one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeMemory:
    """Bytes of one node, at most."""

    own: int
    """For its own ranks."""
    mirrored: int
    """For another node's."""

    @property
    def total(self) -> int:
        return self.own + self.mirrored


def node_memory(state_bytes: int, *, num_ranks: int, num_nodes: int, snapshots: bool, mirror: bool) -> NodeMemory:
    """Of a node with so many ranks, of which the fullest has `state_bytes`; see `SnapshotConfig`."""
    own = num_ranks * state_bytes * (NUM_SNAPSHOTS if snapshots else 1)
    return NodeMemory(own=own, mirrored=own if snapshots and mirror and num_nodes > 1 else 0)
