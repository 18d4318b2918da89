"""Checkpoints that other runs are to begin from."""

from dataclasses import replace
from pathlib import Path

from orchestrator.config import StartConfig
from orchestrator.control.events import FoundDead, RunSubmitted, StopRequested
from orchestrator.control.history import new_history
from orchestrator.control.state import terms_of
from orchestrator.records.holds import held_checkpoints, release_start, remove_void_holds
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


def test_the_hold_of_a_run_that_ended_before_it_saved_lapses_a_day_later():
    now_s = [1000.0]
    root, config = MemoryStore(clock=lambda: now_s[0]), replace(tiny_config(Path("/nowhere")), name="second")
    run_store, history = store_of_run(root, "first"), new_history(store_of_run(root, "second"))
    run_store.put("holds/step-000000006-a0001/second", b"")

    def left_after(hours: float) -> set[tuple[int, int]]:
        now_s[0] += hours * 3600.0
        remove_void_holds(root, "first", now_s=now_s[0])
        return held_checkpoints(run_store)

    history.append(RunSubmitted(at_s=now_s[0], terms=terms_of(config, 1)))
    assert left_after(48) == {(6, 1)}, "it waits"
    history.append(StopRequested(at_s=now_s[0], now=True))
    history.append(FoundDead(at_s=now_s[0]))
    assert left_after(23) == {(6, 1)}
    assert left_after(2) == set()
