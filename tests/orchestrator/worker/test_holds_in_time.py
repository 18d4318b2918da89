"""Retention removes, somebody else is about to read: whoever is first, what was settled on is there."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from data_pipeline.store.protocol import StoreError, with_prefix
from orchestrator.errors import NoCheckpoint
from orchestrator.records import holds
from orchestrator.records.holds import held_checkpoints, held_while_read
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.worker.exchange import Exchange
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.ranks import Training, begin, state_at


@dataclass
class Meanwhile:
    """Has `act` begin right before the operation of this number, and lets the store go on once it is done or has to wait."""

    number: int
    act: Callable[[], None]
    count: int = 0
    waits: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def __call__(self, operation: str, key: str) -> None:
        if threading.current_thread() is self.thread:
            return
        self.count += 1
        if self.count == self.number:
            self.thread = threading.Thread(target=self._act)
            self.thread.start()
            assert self.waits.wait(60)

    def _act(self) -> None:
        self.act()
        self.waits.set()


def save(training: Training, *steps: int) -> None:
    for step in steps:
        training.record(step)
        training.checkpointer.save(step, state_at(step))
        training.checkpointer.wait()


def is_whole(store: MemoryStore, manifest: CheckpointManifest) -> bool:
    directory = f"checkpoints/step-{manifest.step:09d}-a{manifest.attempt:04d}/"
    return {directory + file.name for file in manifest.files} | {directory + "manifest.json"} <= store.objects.keys()


def meet(exchange: Exchange, step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, list[int]]:
    """A run that keeps two removes step 3 when it saves step 9; a reader comes before operation `number` of that.

    Whether there are as many operations, and the step that the reader was given, if it was.
    """
    store, given, may_end = MemoryStore(), list[CheckpointManifest](), threading.Event()
    training = begin(store, exchange, 1)
    save(training, 3, 6)

    def read() -> None:
        try:
            with held_while_read(store, step, who="run first") as manifest:
                given.append(manifest)
                meanwhile.waits.set()
                assert may_end.wait(60)
        except NoCheckpoint:
            assert step == 3

    store.fault = meanwhile = Meanwhile(number, read)
    monkeypatch.setattr(holds.time, "sleep", lambda _: meanwhile.waits.set())
    save(training, 9)
    if meanwhile.thread is None:
        return False, []
    assert meanwhile.waits.wait(60)
    for manifest in given:
        assert is_whole(store, manifest), f"step {manifest.step} was removed under a reader that came before operation {number}"
    may_end.set()
    meanwhile.thread.join()
    assert held_checkpoints(store) == set()
    save(training, 12)
    assert sorted({key.split("/")[1] for key in store.objects if key.startswith("checkpoints/")}) == [
        "step-000000009-a0001",
        "step-000000012-a0001",
    ]
    return True, [manifest.step for manifest in given]


@pytest.mark.parametrize("step", [3, -1])
def test_whenever_a_reader_comes_what_it_is_given_stays_until_it_is_done(exchange: Exchange, step: int, monkeypatch: pytest.MonkeyPatch):
    found: list[int] = []
    number = 1
    while (met := meet(exchange, step, number, monkeypatch))[0]:
        found += met[1]
        number += 1
    assert number > 15
    assert set(found) == ({3} if step == 3 else {6, 9})


def test_a_mark_of_a_run_that_was_killed_over_it_keeps_nobody_from_reading(exchange: Exchange, monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()
    training = begin(store, exchange, 1)
    save(training, 3, 6)
    store.put("checkpoints/step-000000003-a0001/doomed", b"")
    monkeypatch.setattr(holds, "DECIDED_WITHIN_S", 0.0)
    with held_while_read(store, 3, who="run first") as manifest:
        save(training, 9, 12)
        assert is_whole(store, manifest)


def test_where_nothing_can_be_written_one_reads_all_the_same(exchange: Exchange):
    store = MemoryStore()
    save(begin(store, exchange, 1), 3)

    def refuse(operation: str, key: str) -> None:
        if operation in ("put", "delete"):
            raise StoreError("read-only file system")

    store.fault = refuse
    with held_while_read(store, -1, who="run first") as manifest:
        assert manifest.step == 3


def test_holds_of_what_never_became_a_run_lapse():
    """A submission and a reader that were killed. What a run holds that waits stays: it may yet begin."""
    now_s = [1000.0]
    root = MemoryStore(clock=lambda: now_s[0])
    run_store = with_prefix(root, "runs/first")
    for name in ("holds/step-000000003-a0001/killed", "holds/step-000000006-a0001/waits", "holds/step-000000009-a0001/reader-17"):
        run_store.put(name, b"")
    root.put("runs/waits/journal/000000000001.json", b"{}")

    holds.remove_void_holds(root, "first", now_s=now_s[0] + 3600.0)
    assert len(held_checkpoints(run_store)) == 3
    holds.remove_void_holds(root, "first", now_s=now_s[0] + 25 * 3600.0)
    assert held_checkpoints(run_store) == {(6, 1)}
