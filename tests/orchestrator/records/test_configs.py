"""A run's configurations: numbered, and never overwritten."""

from dataclasses import replace
from pathlib import Path

from orchestrator.records.configs import add_config, is_newest_config, newest_config, newest_version, read_config
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import tiny_config


def test_a_run_that_never_started_has_none():
    store = MemoryStore()

    assert (newest_version(store), newest_config(store), is_newest_config(store, tiny_config(Path("/nowhere")))) == (0, None, False)


def test_the_newest_counts_and_older_ones_stay():
    store, first = MemoryStore(), tiny_config(Path("/nowhere"))
    second = replace(first, train=replace(first.train, num_steps=9))

    assert [add_config(store, first), add_config(store, second)] == [1, 2]
    assert (newest_config(store), read_config(store, 1)) == (second, first)
    assert (is_newest_config(store, second), is_newest_config(store, first)) == (True, False)
