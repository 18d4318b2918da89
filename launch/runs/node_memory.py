"""Whether the nodes of a cluster hold what a run keeps in their memory. Pure."""

from collections.abc import Sequence

from launch.config.budget import memory_of_each_node
from launch.runs.connection import ClusterNode
from launch.units import count, human
from orchestrator.config import RunConfig


def lack_of_memory(config: RunConfig, nodes: Sequence[ClusterNode]) -> str:
    """One line where too few nodes have enough for the run's snapshots, by Ray's count; "" where enough have, or none says."""
    if not config.snapshot.enabled:
        return ""
    needed = memory_of_each_node(config)
    known = [node.memory_bytes for node in nodes if node.is_alive and node.memory_bytes]
    small = [memory_bytes for memory_bytes in known if memory_bytes < needed.total]
    if not small or len(known) - len(small) >= config.num_nodes:
        return ""
    told = f"snapshots take {human(needed.total)}B of each node's memory, too much for {len(small)} of {count(len(known), 'node')}"
    remedy = "snapshot.mirror=false halves that" if needed.mirrored else "snapshot.enabled=false halves that"
    return f"{told}, the least has {human(min(small))}B: where they find no room the run does without; {remedy}"
