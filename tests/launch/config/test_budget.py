"""What can be run, but is hardly meant."""

import numpy as np
import pytest

from data_pipeline.order import blocks
from data_pipeline.order.plan import Order, Phase, Source, build_plan
from launch.config.budget import BLOCK_TOKENS, times_fetched, warnings_of
from launch.config.load import load_config

BLOCKS = ("storage.root=s3://bucket/x", "data.shuffle=blocks", "train.batch_rows=512", "train.micro_rows=1", "parallel.dp_shard=2")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("resources.workers_per_node=1",), ""),
        (("resources.workers_per_node=1", "data.cache_limit=10_000_000_000"), "256 rows are 17.2 GB, and data.cache_limit=10 GB"),
        (("resources.workers_per_node=2", "data.cache_limit=20_000_000_000"), "512 rows are 34.4 GB, and data.cache_limit=20 GB"),
        (("resources.workers_per_node=1", "data.cache_limit=20_000_000_000", "data.shuffle_window=64"), "256 rows are 34.4 GB"),
        (("data.cache_limit=10_000_000_000", "storage.root=/disk"), ""),
        (("data.cache_limit=10_000_000_000", "data.shuffle=full"), ""),
    ],
)
def test_a_window_of_blocks_that_the_cache_cant_hold_is_told(changes: tuple[str, ...], told: str):
    warnings = warnings_of(load_config("tiny", [*BLOCKS, *changes]))
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)


def test_a_block_is_as_large_as_it_is_taken_for():
    assert BLOCK_TOKENS == blocks.BLOCK_TOKENS


@pytest.mark.parametrize("rows", [64, 32, 16, 48, 40, 56, 60])
def test_how_often_a_block_is_fetched_is_what_the_plan_itself_comes_to(rows: int):
    """Each of 4 nodes keeps all that it fetched, through a whole window of every lane."""
    lanes, num_nodes, window, seq_len = 64, 4, 4, 8192
    phases = [Phase(steps=window * 128 * lanes // rows, batch_rows=rows, seq_len=seq_len, ratios=(1,))]
    phases.append(Phase(steps=1, batch_rows=lanes, seq_len=seq_len, ratios=(1,)))
    order = Order(seed=1, shuffle="blocks", window=window, lanes=lanes)
    plan = build_plan(order=order, sources=[Source(name="web", shard_tokens=[500_000_000] * 10)], phases=phases)
    table = plan.table(0, seq_len)
    fetched: list[tuple[int, int]] = []
    for node in range(num_nodes):
        own = range(node * rows // num_nodes, (node + 1) * rows // num_nodes)
        samples = np.concatenate([plan.rows(step, own).indices for step in range(1, (phases[0].steps or 0) + 1)])
        shards = np.searchsorted(table.shard_ends, samples, side="right")
        within = samples - np.where(shards > 0, table.shard_ends[shards - 1], 0)
        fetched += {*zip(shards.tolist(), (within // table.block_samples).tolist(), strict=True)}
    assert len(fetched) / len(set(fetched)) == pytest.approx(times_fetched(rows, lanes=lanes, num_nodes=num_nodes), rel=0.02)


def test_a_batch_that_does_not_divide_the_largest_is_told():
    phases = "data.phases=[{steps: 5, batch_rows: 256}, {steps: 5, batch_rows: 384}, {}]"
    (warning,) = warnings_of(load_config("tiny", [*BLOCKS, "resources.workers_per_node=1", phases]))
    assert warning.startswith("a batch of 384 rows does not divide the largest, 512: while it lasts each of 2 nodes fetches 2 times")
