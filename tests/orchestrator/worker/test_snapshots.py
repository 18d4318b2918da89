"""Snapshots in memory that outlives an attempt: what the next one goes on from, and what it must not."""

import io
import itertools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_pipeline.store.protocol import StoreUnavailable
from model.build import build_model
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from orchestrator.config import CheckpointConfig
from orchestrator.image_header import ImageHeader, Word
from orchestrator.messages import Resumed, Source
from orchestrator.records.commit_log import Snapshot, open_commit_log
from orchestrator.records.keys import checkpoint_directory
from orchestrator.worker import snapshots
from orchestrator.worker.checkpoint import Checkpointer
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.image import build_image, files_of, new_memory
from orchestrator.worker.pace import Pace
from orchestrator.worker.reporter import build_reporter
from orchestrator.worker.saver import Saver
from orchestrator.worker.training_state import training_state
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.worker.ranks import Training, begin, on_ranks, state_at
from tests.orchestrator.worker.tiny_run import MODEL


class Node:
    """An agent's memory: that of each rank, which outlives the attempts on it."""

    def __init__(self, num_ranks: int = 1) -> None:
        self.memory = [new_memory(["first", "second"]) for _ in range(num_ranks)]

    def begin(self, store: MemoryStore, exchange: Exchange, attempt: int) -> Training:
        return begin(store, exchange, attempt, memory=self.memory[exchange.rank])

    def close(self) -> None:
        for fd in (fd for files in self.memory for fd in files):
            os.close(fd)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@contextmanager
def node_of(num_ranks: int) -> Iterator[Node]:
    node = Node(num_ranks)
    yield node
    node.close()


def trains(training: Training, *steps: int) -> None:
    """Each of the steps, with a snapshot of each, that is recorded."""
    for step in steps:
        training.record(step)
        training.snapshots.take(step, state_at(step)).result()
    if training.attempt.ledger is not None:
        training.attempt.ledger.flush(max(steps))


def saver_of(training: Training, exchange: Exchange) -> Saver:
    """Of checkpoints after every second step."""
    return Saver(
        config=CheckpointConfig(every_steps=2),
        state=state_at(4),
        snapshots=training.snapshots,
        checkpointer=training.checkpointer,
        pace=Pace(every_s=0, last_s=0.0),
        exchange=exchange,
        reporter=build_reporter(None),
        ledger=training.attempt.ledger,
    )


def test_the_next_attempt_goes_on_from_the_newest_snapshot(exchange: Exchange, node: Node):
    store = MemoryStore()
    trains(node.begin(store, exchange, 1), 1, 2, 3)

    resumed, state = node.begin(store, exchange, 2).load()

    assert resumed == Resumed(step=3, source=Source.MEMORY)
    assert torch.equal(state["model.weight"], torch.full((4, 3), 3.0))
    assert open_commit_log(store).entries[-1] == Snapshot(attempt=1, step=3)


def test_a_checkpoint_that_is_newer_than_every_snapshot_is_taken(exchange: Exchange, node: Node):
    store = MemoryStore()
    first = node.begin(store, exchange, 1)
    trains(first, 1, 2)
    begin(store, exchange, 2).save(7)

    assert node.begin(store, exchange, 3).load()[0] == Resumed(step=7)


def test_a_snapshot_that_was_uploaded_need_not_be_read_from_the_store(exchange: Exchange, node: Node):
    store = MemoryStore()
    node.begin(store, exchange, 1).save(3)

    assert node.begin(store, exchange, 2).load()[0] == Resumed(step=3, source=Source.MEMORY)


def test_steps_without_a_record_are_not_gone_on_from(exchange: Exchange, node: Node):
    """Their proof died with the first rank."""
    store = MemoryStore()
    training = node.begin(store, exchange, 1)
    trains(training, 1, 2)
    training.snapshots.take(3, state_at(3)).result()

    passed_over = "snapshot of step 3 (attempt 1) passed over: steps after 2 were not recorded"
    assert node.begin(store, exchange, 2).load()[0] == Resumed(step=2, source=Source.MEMORY, rejected=(passed_over,))


def test_while_the_store_is_away_what_may_be_gone_on_from_is_not_written_over(
    exchange: Exchange, node: Node, monkeypatch: pytest.MonkeyPatch
):
    """However long that is, and though a checkpoint is due: a worker that is killed meanwhile costs what is not recorded, and no more."""
    monkeypatch.setattr("orchestrator.worker.saver.CHECKPOINT_AWAITED_S", 0.01)
    store, is_away = MemoryStore(), threading.Event()
    training = node.begin(store, exchange, 1)
    saver, ledger = replace(saver_of(training, exchange), config=CheckpointConfig(every_steps=3)), training.attempt.ledger
    assert ledger is not None

    def fail(operation: str, key: str) -> None:
        if is_away.is_set() and operation == "create":
            raise StoreUnavailable("it is away")

    def train(step: int) -> None:
        votes = saver.votes(step, step_s=0.1)
        training.record(step)
        saver.after(step, votes, is_end=False, is_finite=True)
        wait_for(lambda: not training.snapshots.is_busy, "the snapshot")

    wait_for(lambda: not training.snapshots.is_busy, "the memory")
    train(1)
    ledger.flush(1)
    store.fault = fail
    is_away.set()
    for step in range(2, 9):
        train(step)
    assert sorted(snapshot.held.step for snapshot in training.snapshots.whole()) == [1, 2]

    is_away.clear()
    wait_for(lambda: ledger.is_durable(8), "the records")
    train(9)
    training.checkpointer.wait()
    assert training.committed == [9]


def test_a_snapshot_has_its_steps_recorded_at_once(exchange: Exchange, node: Node):
    """Else the newest one would count for nothing until the ledger writes again by itself."""
    training = node.begin(MemoryStore(), exchange, 1)
    saver, ledger = saver_of(training, exchange), training.attempt.ledger
    assert ledger is not None
    ledger._interval_s = 3600.0
    training.record(1)
    assert not ledger.is_durable(1)
    saver.after(1, (1.0, 0.0, 0.0), is_end=False, is_finite=True)
    wait_for(lambda: ledger.is_durable(1), "the record")


@pytest.mark.parametrize("place", ["model.weight", "optimizer.weight.step"])
def test_a_snapshot_that_holds_what_is_no_number_is_passed_over(place: str, exchange: Exchange, node: Node):
    """No checkpoint would be made of it either: the one before is taken."""
    store = MemoryStore()
    training = node.begin(store, exchange, 1)
    trains(training, 1, 2)
    training.record(3)
    training.snapshots.take(3, state_at(3) | {place: torch.full_like(state_at(3)[place], torch.nan)}).result()
    assert training.attempt.ledger is not None
    training.attempt.ledger.flush(3)

    resumed, state = node.begin(store, exchange, 2).load()

    why = f"snapshot of step 3 (attempt 1) passed over, rank 0: {place} is not finite in it"
    assert resumed == Resumed(step=2, source=Source.MEMORY, rejected=(why,))
    assert torch.equal(state["model.weight"], torch.full((4, 3), 2.0))


def test_after_a_step_that_is_not_finite_the_checkpoint_is_taken_since_the_weights_may_be_to_blame(exchange: Exchange, node: Node):
    store = MemoryStore()
    training = node.begin(store, exchange, 1)
    training.save(1)
    trains(training, 2, 3)
    assert training.attempt.ledger is not None
    training.record(4, loss=math.nan)
    training.attempt.ledger.flush(4)

    assert node.begin(store, exchange, 2).load()[0] == Resumed(step=1)


def test_what_only_some_ranks_have_is_gone_on_from_by_none():
    """Rank 1 dies while it takes the last one: the one before is still whole everywhere."""
    store = MemoryStore()

    with node_of(2) as node:

        def train(exchange: Exchange) -> None:
            training = node.begin(store, exchange, 1)
            trains(training, 1, 2)
            if exchange.rank == 0:
                training.record(3)
                training.snapshots.take(3, state_at(3)).result()
                assert training.attempt.ledger is not None
                training.attempt.ledger.flush(3)

        assert on_ranks(2, train) == [None, None]
        loaded = on_ranks(2, lambda exchange: node.begin(store, exchange, 2).load()[0])

    assert loaded == [Resumed(step=2, source=Source.MEMORY)] * 2


def test_a_snapshot_of_which_a_byte_changed_is_passed_over_for_the_one_before(exchange: Exchange, node: Node):
    store = MemoryStore()
    training = node.begin(store, exchange, 1)
    trains(training, 1, 2)
    newest = training.snapshots.whole()[0]
    newest.image.tensors["model.weight"][0, 0] += 1

    resumed, state = node.begin(store, exchange, 2).load()

    assert (resumed.step, resumed.source, state["model.weight"].max()) == (1, Source.MEMORY, 1.0)
    assert "snapshot of step 2 (attempt 1) passed over" in resumed.rejected[0]
    assert "look at its memory" in resumed.rejected[0]


def test_where_one_ranks_memory_is_damaged_no_rank_takes_anything_of_it():
    """There is no checkpoint: the run begins anew, with none of the old moments."""
    store = MemoryStore()

    with node_of(2) as node:

        def train(exchange: Exchange) -> None:
            training = node.begin(store, exchange, 1)
            trains(training, 1)
            if exchange.rank == 1:
                training.snapshots.whole()[0].image.tensors["model.weight"][0, 0] += 1

        on_ranks(2, train)
        loaded = on_ranks(2, lambda exchange: node.begin(store, exchange, 2).load())

    for resumed, state in loaded:
        assert resumed.step == 0
        assert torch.equal(state["optimizer.weight.step"], torch.tensor(-1.0)), "what it was before"


def test_what_was_gone_on_from_is_written_over_last(exchange: Exchange, node: Node):
    """Until the next one is whole, it is all that there is."""
    store = MemoryStore()
    first = node.begin(store, exchange, 1)
    trains(first, 1, 2)
    first.snapshots.whole()[0].image.tensors["model.weight"][0, 0] += 1

    second = node.begin(store, exchange, 2)
    assert second.load()[0].step == 1
    assert [one.held.step for one in second.snapshots.whole()] == [1]
    second.snapshots.take(2, state_at(2)).result()
    assert [one.held.step for one in second.snapshots.whole()] == [2, 1]


def test_what_an_attempt_left_behind_is_not_gone_on_from(exchange: Exchange, node: Node):
    """Attempt 2 trained elsewhere, from the checkpoint of step 3: attempt 1's step 5 is no part of the run any more."""
    store = MemoryStore()
    first = node.begin(store, exchange, 1)
    first.save(3)
    trains(first, 4, 5)
    second = begin(store, exchange, 2)
    second.record(4)
    assert second.attempt.ledger is not None
    second.attempt.ledger.flush(4)

    assert node.begin(store, exchange, 3).load()[0] == Resumed(step=3)


def test_an_attempt_that_dies_before_its_first_snapshot_leaves_the_one_that_it_began_with(exchange: Exchange, node: Node):
    store = MemoryStore()
    trains(node.begin(store, exchange, 1), 1, 2)
    second = node.begin(store, exchange, 2)
    second.load()
    second.record(3)
    assert second.attempt.ledger is not None
    second.attempt.ledger.flush(3)

    assert node.begin(store, exchange, 3).load()[0] == Resumed(step=2, source=Source.MEMORY)


def test_a_snapshot_of_another_rank_or_run_is_none(exchange: Exchange, node: Node):
    store = MemoryStore()
    trains(node.begin(store, exchange, 1), 1)
    for fd in node.memory[0]:  # what this rank's place holds is of other terms
        image = build_image(fd, state_at(0), files=files_of({}, prefix="", file_size_bytes=1))
        held = image.held()
        image.hold(held and replace(held, terms="rank 7"))

    assert node.begin(store, exchange, 2).load()[0] == Resumed(step=0)


def test_the_next_snapshot_waits_until_the_agent_has_copied_the_last_to_another_node(exchange: Exchange, node: Node):
    headers = [ImageHeader(fd) for fd in node.memory[0]]
    for header in headers:
        header.say(Word(is_mirrored=True))
    training = node.begin(MemoryStore(), exchange, 1)
    wait_for(lambda: not training.snapshots.is_busy, "the memory")

    trains(training, 1)
    assert training.snapshots.is_busy

    for header in headers:
        header.say(replace(header.word(), mirrored=header.digest() or bytes(32)))
    assert not training.snapshots.is_busy


def test_a_checkpoint_waits_for_that_too_and_is_late(exchange: Exchange, node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.worker.saver.CHECKPOINT_AWAITED_S", 0.05)
    training = node.begin(MemoryStore(), exchange, 1)
    for fd in node.memory[0]:
        ImageHeader(fd).say(Word(is_mirrored=True))
    trains(training, 1)

    assert not saver_of(training, exchange).after(2, (0.0, 1.0, 0.0), is_end=False, is_finite=True)


def test_a_snapshot_from_another_node_is_waited_for_and_gone_on_from(node: Node, exchange: Exchange, monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()
    with node_of(1) as lost:
        trains(lost.begin(store, exchange, 1), 1, 2)

        def arrive(memory: Sequence[int]) -> None:
            for fd, of_lost in zip(memory, lost.memory[0], strict=True):
                os.pwrite(fd, os.pread(of_lost, os.fstat(of_lost).st_size, 0), 0)
                header = ImageHeader(fd)
                header.say(Word(fetched=header.digest()))

        monkeypatch.setattr(snapshots, "wait_for_arrivals", arrive)

        resumed, state = node.begin(store, exchange, 2).load()

    assert resumed == Resumed(step=2, source=Source.OTHER_MEMORY)
    assert torch.equal(state["model.weight"], torch.full((4, 3), 2.0))


def test_where_one_rank_has_its_snapshot_from_another_node_every_rank_knows():
    store = MemoryStore()
    with node_of(2) as node:
        assert on_ranks(2, lambda exchange: trains(node.begin(store, exchange, 1), 1, 2)) == [None, None]
        for header in map(ImageHeader, node.memory[1]):
            header.say(Word(fetched=header.digest()))

        loaded = on_ranks(2, lambda exchange: node.begin(store, exchange, 2).load()[0])

    assert loaded == [Resumed(step=2, source=Source.OTHER_MEMORY)] * 2


def test_files_of_an_image_are_torchs_own_and_the_same_bytes_when_laid_out_again(exchange: Exchange, node: Node):
    store = MemoryStore()
    node.begin(store, exchange, 1).save(3)
    name = checkpoint_directory(3, 1) + "__0_0.distcp"
    training = node.begin(store, exchange, 2)
    snapshot = training.snapshots.whole()[0]

    [span, _] = snapshot.image.spans
    assert bytes(snapshot.image.data(span)) == store.objects[name]
    place = snapshot.image.places["model.weight"]
    frame = store.objects[name][place.start - span.start :][: place.size_bytes]
    assert torch.equal(torch.load(io.BytesIO(frame), weights_only=True), torch.full((4, 3), 3.0))


def test_tensors_are_spread_over_files_of_about_the_size_that_is_asked_for():
    sizes = {"a": 5, "b": 6, "c": 1, "d": 20, "e": 3}
    assert files_of(sizes, prefix="__2_", file_size_bytes=10) == {
        "__2_0.distcp": ["a", "b"],
        "__2_1.distcp": ["c", "d"],
        "__2_2.distcp": ["e"],
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_no_update_is_made_before_the_last_snapshot_is_copied(name: str):
    """A GPU copies beside what it computes: what the optimizer calls first is what waits for that."""
    model = build_model(MODEL, None, device=torch.device("cpu"), seed=0)
    optimizer = build_optimizer(model, model.declared, OptimizerConfig(lr=1e-2, warmup_steps=1, name=name))
    before = {key: tensor.clone() for key, tensor in training_state(model, optimizer).items()}
    seen: list[bool] = []

    def wait(*_: object) -> None:
        seen.append(all(torch.equal(tensor, before[key]) for key, tensor in training_state(model, optimizer).items()))

    optimizer.register_step_pre_hook(wait)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

    assert seen == [True]
    assert not torch.equal(training_state(model, optimizer)["model.embed.weight"], before["model.embed.weight"])


def test_a_snapshot_is_due_as_often_as_it_is_cheap():
    pace = Pace(every_s=None, last_s=100.0)

    def is_due(
        now_s: float, *, cost_s: float = 0.0, sealed_after_s: float = 0.1, checkpoint_in_s: float = 60.0, is_saving: bool = False
    ) -> bool:
        return pace.wants(now_s, cost_s=cost_s, sealed_after_s=sealed_after_s, checkpoint_in_s=checkpoint_in_s, is_saving=is_saving)

    assert [is_due(100.4), is_due(100.5)] == [False, True]
    assert [is_due(104.9, cost_s=0.05), is_due(105.0, cost_s=0.05)] == [False, True]  # a hundredth of training's time
    assert [is_due(108.0, sealed_after_s=4.5), is_due(109.0, sealed_after_s=4.5)] == [False, True]
    assert not is_due(109.0, sealed_after_s=4.5, checkpoint_in_s=8.0)
    assert is_due(109.0, sealed_after_s=4.5, checkpoint_in_s=8.0, is_saving=True)
    assert Pace(every_s=0, last_s=100.0).wants(100.0, cost_s=9.0, sealed_after_s=0.0, checkpoint_in_s=1.0, is_saving=False)


class SlowStore:
    """Holds up what is written of checkpoints until `let`, which does so for the one under way."""

    def __init__(self, training: Training, store: MemoryStore) -> None:
        self._training = training
        self._is_open = threading.Event()
        store.fault = self._hold_up

    def _hold_up(self, operation: str, key: str) -> None:
        if operation == "put" and key.endswith(".distcp"):
            self._is_open.wait(30)

    def let(self) -> None:
        self._is_open.set()
        wait_for(lambda: not self._training.checkpointer.is_saving, "the checkpoint")
        self._is_open.clear()


def test_while_checkpoints_are_late_snapshots_are_taken_however_often_they_are_due(
    exchange: Exchange, node: Node, monkeypatch: pytest.MonkeyPatch
):
    """A worker that is killed meanwhile costs the steps since the last snapshot, not those since the upload began."""
    monkeypatch.setattr("orchestrator.worker.saver.CHECKPOINT_AWAITED_S", 0.01)
    store = MemoryStore()
    training = node.begin(store, exchange, 1)
    saver, slow = saver_of(training, exchange), SlowStore(training, store)

    def train(step: int) -> None:
        wait_for(lambda: not training.snapshots.is_busy and saver._is_recorded(), "the memory")
        training.snapshots.sealed_after_s = 5.0
        votes = saver.votes(step, step_s=0.1)
        training.record(step)
        saver.after(step, votes, is_end=False, is_finite=True)

    for step in (2, 3, 4, 5):
        train(step)
        wait_for(lambda: not training.snapshots.is_busy, "the snapshot")
    assert sorted(snapshot.held.step for snapshot in training.snapshots.whole()) == [2, 5]
    slow.let()
    training.checkpointer.wait()


def test_a_slow_store_is_waited_for_once_until_a_checkpoint_is_in_time_again(
    exchange: Exchange, node: Node, monkeypatch: pytest.MonkeyPatch
):
    store, waited = MemoryStore(), []
    training = node.begin(store, exchange, 1)
    saver, slow = saver_of(training, exchange), SlowStore(training, store)
    saver.ledger = None

    def ends_within(self: Checkpointer, timeout_s: float) -> bool:
        waited.append(timeout_s)
        return False

    monkeypatch.setattr(Checkpointer, "ends_within", ends_within)

    def train(*steps: int) -> list[int]:
        """After which of them a checkpoint is taken."""
        saved = []
        for step in steps:
            wait_for(lambda: not training.snapshots.is_busy, "the memory")
            training.record(step)
            if saver.after(step, saver.votes(step, step_s=0.1), is_end=False, is_finite=True):
                saved.append(step)
        return saved

    assert train(2, 3, 4, 5, 6, 7, 8) == [2]
    assert len(waited) == 1, "at step 4"
    slow.let()
    assert train(9, 10, 11, 12) == [9]
    assert len(waited) == 1, "it is as slow as before"
    slow.let()
    assert train(13) == [13]
    slow.let()
    assert train(14, 15, 16) == [14]
    assert len(waited) == 2, "the one before was in time"
    slow.let()
    training.checkpointer.wait()


def test_where_one_rank_is_in_the_way_none_waits_twice():
    """Ranks that differed in that would wait for each other for ever."""
    store = MemoryStore()

    with node_of(2) as node:

        def train(exchange: Exchange) -> list[bool]:
            training = node.begin(store, exchange, 1)
            wait_for(lambda: not training.snapshots.is_busy, "the memory")
            if exchange.rank == 1:
                ready = training.snapshots._ready
                training.snapshots._ready = dict.fromkeys(ready, Future())
            saver, busy = replace(saver_of(training, exchange), ledger=None), (0.0, 1.0, 0.0)
            rounds = []
            for step in (2, 4, 6):
                assert not saver.after(step, busy, is_end=False, is_finite=True)
                rounds.append(exchange._round)
            return [later > earlier for earlier, later in itertools.pairwise(rounds)]

        assert on_ranks(2, train) == [[False, False]] * 2


def test_a_checkpoint_whose_memory_is_not_ready_is_late_and_holds_nobody_up(
    exchange: Exchange, node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.worker.saver.CHECKPOINT_AWAITED_S", 0.0)
    store = MemoryStore()
    training = node.begin(store, exchange, 1)
    saver = saver_of(training, exchange)
    training.snapshots._ready, are_ready = dict.fromkeys(training.snapshots._ready, Future()), training.snapshots._ready

    assert saver.votes(4, step_s=1.0)[1] == 1.0
    assert not saver.after(4, (1.0, 1.0, 0.0), is_end=False, is_finite=True)
    training.snapshots._ready = are_ready
    training.snapshots.take(4, state_at(4)).result()
    assert saver.after(5, (1.0, 0.0, 0.0), is_end=False, is_finite=True)
    training.checkpointer.wait()

    assert training.committed == [5]


def test_a_snapshot_is_whole_while_a_checkpoint_is_written_slowly(exchange: Exchange, node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.worker.snapshots.NUM_HANDS", 1)
    store, is_writing, may_write = MemoryStore(), threading.Event(), threading.Event()
    training = node.begin(store, exchange, 1)

    def hold_up(operation: str, key: str) -> None:
        if operation == "put" and key.endswith(".distcp"):
            is_writing.set()
            may_write.wait(30)

    store.fault = hold_up
    training.checkpointer.save(3, state_at(3))
    assert is_writing.wait(10)
    taken = training.snapshots.take(4, state_at(4), spares_uploaded=True)

    assert taken.result(timeout=10).held.step == 4
    assert training.checkpointer.is_saving
    may_write.set()
    training.checkpointer.wait()


def test_no_memory_is_left_when_its_owner_closes_it(exchange: Exchange):
    before = len(os.listdir("/proc/self/fd"))
    with node_of(1) as node:
        state: dict[str, Tensor] = node.begin(MemoryStore(), exchange, 1).load()[1]
        assert state
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # those that the images of this process still map
