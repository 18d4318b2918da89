"""Checkpoints that other runs are to begin from."""

from dataclasses import replace
from pathlib import Path

from orchestrator.config import StartConfig
from orchestrator.records.holds import held_checkpoints, release_start
from orchestrator.records.keys import hold_key, store_of_run
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import tiny_config


def test_a_run_lets_go_of_what_it_held_itself_and_of_nothing_else():
    root, config = MemoryStore(), replace(tiny_config(Path("/nowhere")), name="second")
    older = store_of_run(root, "first")
    for key in (hold_key(3, 1, "second"), hold_key(3, 1, "third"), hold_key(6, 2, "second"), hold_key(9, 2, "fourth"), "holds/notes.txt"):
        older.put(key, b"")
    release_start(root, config)  # begins from no run
    assert held_checkpoints(older) == {(3, 1), (6, 2), (9, 2)}

    release_start(root, replace(config, start=StartConfig(run="first", step=6)))

    assert held_checkpoints(older) == {(3, 1), (9, 2)}
