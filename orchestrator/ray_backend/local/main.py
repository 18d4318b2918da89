"""The process that holds a local Ray cluster until it is killed, or gets its notice. Arguments: its directory, the number of nodes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray.cluster_utils import Cluster

from orchestrator.node.notice import hold_node, keep_sigterm_off
from orchestrator.node.processes import look_at
from orchestrator.ray_backend.local.cluster import LocalNode, LocalState, write_state
from orchestrator.ray_backend.machines import LABEL

OBJECT_STORE_BYTES = 75 * 2**20
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""A killed node is noticed after 0.6 s, a frozen one after 6.6 s; with Ray's defaults it takes 14 and 64.

How often Ray asks is cheap, and a node that only is slow to answer has the same time; to give it less would end it for being busy.
"""


def main(directory: Path, num_nodes: int) -> None:
    keep_sigterm_off()
    node_options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "node_ip_address": "127.0.0.1"}
    head_options = {"num_gpus": visible_gpus(), "include_dashboard": False, "include_log_monitor": False, "_system_config": HEALTH_CHECKS}
    cluster = Cluster(initialize_head=True, head_node_args=node_options | head_options | known_as(0))
    others = [cluster.add_node(wait=False, **node_options, **known_as(index)) for index in range(1, num_nodes)]
    cluster.wait_for_nodes()
    nodes = tuple(_local_node(node, is_head=node is cluster.head_node) for node in (cluster.head_node, *others))
    me = look_at(os.getpid())
    assert me is not None, "a process that runs is in /proc"
    write_state(
        directory,
        LocalState(address=cluster.address, pid=me.pid, start_ticks=me.start_ticks, ray_dir=os.environ["RAY_TMPDIR"], nodes=nodes),
    )
    hold_node()


def known_as(index: int) -> dict[str, Any]:
    """The option of a node by which it is the same machine whenever the cluster is started again: `local-0` is the head."""
    return {"labels": {LABEL: f"local-{index}"}}


def visible_gpus() -> int:
    """How many GPUs this machine has, as far as CUDA_VISIBLE_DEVICES allows. The head has them all: there is only one set."""
    visible = NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids()
    count: int = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return count if visible is None else min(count, len(visible))


def _local_node(node: Any, *, is_head: bool) -> LocalNode:
    return LocalNode(node=node.node_id, raylet_pid=node.all_processes["raylet"][0].process.pid, is_head=is_head)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
