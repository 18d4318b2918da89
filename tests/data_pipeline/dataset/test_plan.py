"""The order of a run, from its configuration and its dataset's manifest."""

import pytest

from data_pipeline.config import DataConfig, PhaseConfig
from data_pipeline.dataset.plan import plan_of, planned_digest, planned_samples
from data_pipeline.errors import DatasetTooSmall
from data_pipeline.order.samples import digest_of, digest_of_sums, sample_at, sample_sums
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

TOKENS = list(range(900))


def test_the_order_of_runs_that_say_nothing_of_a_shuffle_is_what_it_always_was():
    manifest = put_dataset(MemoryStore(), TOKENS, TOKENS[:400])
    plan = plan_of((manifest,), DataConfig(seq_len=10, seed=7), batch_rows=6)
    for step in (1, 2, 21, 22, 1000):
        expected = tuple(sample_at(6 * (step - 1) + row, num_samples=manifest.num_samples(10), seed=7) for row in range(6))
        assert planned_samples(plan, step, range(6)) == expected
        assert planned_samples(plan, step, range(2, 4)) == expected[2:4]


def test_the_plan_has_a_digest_in_either_form_that_ledgers_hold():
    plan = plan_of((put_dataset(MemoryStore(), TOKENS),), DataConfig(seq_len=10), batch_rows=4)
    samples = planned_samples(plan, 3, range(4))
    assert planned_digest(plan, 3, like=digest_of([])) == digest_of(samples)
    assert planned_digest(plan, 3, like=digest_of_sums(sample_sums([]))) == digest_of_sums(sample_sums(enumerate(samples, 8)))


def test_another_shuffle_or_window_is_another_order():
    manifest = put_dataset(MemoryStore(), TOKENS, TOKENS)
    configs = [DataConfig(seq_len=10), DataConfig(seq_len=10, shuffle="blocks"), DataConfig(seq_len=10, seed=8)]
    orders = {
        tuple(planned_samples(plan_of((manifest,), config, batch_rows=2), step, range(2)) for step in range(1, 40)) for config in configs
    }
    assert len(orders) == len(configs)


def test_a_dataset_without_a_whole_row_is_refused():
    manifests = (put_dataset(MemoryStore(), TOKENS),)
    with pytest.raises(DatasetTooSmall, match=r"^data\.seq_len=1000: the longest shard"):
        plan_of(manifests, DataConfig(seq_len=1000), batch_rows=2)
    phases = (PhaseConfig(steps=5), PhaseConfig(steps=5, seq_len=2000), PhaseConfig(seq_len=10))
    with pytest.raises(DatasetTooSmall, match=r"^data\.phases: phase 2: seq_len=2000: the longest shard"):
        plan_of(manifests, DataConfig(seq_len=10, phases=phases), batch_rows=2)
    with pytest.raises(DatasetTooSmall, match=r"^data\.seq_len=1000: the longest shard"):
        plan_of(manifests, DataConfig(seq_len=1000, phases=phases), batch_rows=2)
