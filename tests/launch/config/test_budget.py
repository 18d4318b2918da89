"""What can be run, but is hardly meant."""

import pytest

from data_pipeline.order import blocks
from launch.config.budget import BLOCK_TOKENS, warnings_of
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
