"""Nodes that can't hold what a run keeps in their memory are told of when it is submitted."""

import pytest

from launch.config.budget import budget_lines, memory_of_each_node
from launch.config.load import load_config
from launch.config.node_memory import NodeMemory, node_memory
from launch.runs.connection import ClusterNode
from launch.runs.node_memory import lack_of_memory

TWO_NODES = ("parallel.dp_shard=4", "train.batch_rows=16", "resources.workers_per_node=2")


def node(gigabytes: float, *, is_alive: bool = True) -> ClusterNode:
    return ClusterNode(
        node="f", machine="gpu07", address="10.0.0.7", is_alive=is_alive, num_cpus=96, num_gpus=8, memory_bytes=gigabytes * 1e9
    )


@pytest.mark.parametrize(
    ("snapshots", "mirror", "num_nodes", "own", "mirrored"),
    [(True, True, 2, 160, 160), (True, True, 1, 160, 0), (True, False, 2, 160, 0), (False, True, 2, 80, 0)],
)
def test_two_images_of_each_rank_and_as_much_for_another_node(snapshots: bool, mirror: bool, num_nodes: int, own: int, mirrored: int):
    found = node_memory(10, num_ranks=8, num_nodes=num_nodes, snapshots=snapshots, mirror=mirror)

    assert found == NodeMemory(own=own, mirrored=mirrored)
    assert found.total == own + mirrored


def test_the_plan_of_a_run_says_what_it_takes_of_a_node():
    lines = [line for line in budget_lines(load_config("tiny", TWO_NODES)) if "node's memory" in line]
    assert lines == ["snapshots: 24.7 MB of each node's memory for its own ranks, and 24.7 MB for another node's (snapshot.mirror)"]

    (line,) = [line for line in budget_lines(load_config("tiny", [*TWO_NODES, "snapshot.enabled=false"])) if "node's memory" in line]
    assert line == "checkpoints pass through 12.4 MB of each node's memory; there are no snapshots (snapshot.enabled)"


def test_a_cluster_whose_nodes_are_large_enough_is_no_matter():
    config = load_config("tiny", TWO_NODES)

    assert lack_of_memory(config, [node(1), node(1)]) == ""
    assert lack_of_memory(config, [node(1), node(1), node(0.001)]) == "", "a third is not needed"
    assert lack_of_memory(config, [node(0), node(1)]) == "", "one that does not say is not doubted"
    assert lack_of_memory(config, [node(1), node(1), node(0.001, is_alive=False)]) == ""


def test_nodes_that_are_too_small_are_told_with_what_helps():
    config = load_config("tiny", TWO_NODES)
    needed = memory_of_each_node(config)
    assert needed.own == needed.mirrored > 0

    assert lack_of_memory(config, [node(1), node(0.03)]) == (
        "snapshots take 49.4 MB of each node's memory, too much for 1 of 2 nodes, the least has 30 MB: "
        "where they find no room the run does without; snapshot.mirror=false halves that"
    )
    alone = load_config("tiny", [*TWO_NODES, "snapshot.mirror=false"])
    assert lack_of_memory(alone, [node(1), node(0.02)]).endswith("snapshot.enabled=false halves that")
    assert lack_of_memory(load_config("tiny", [*TWO_NODES, "snapshot.enabled=false"]), [node(0.001)]) == ""
