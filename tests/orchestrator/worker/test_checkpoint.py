"""Saving: what counts, when, and what is removed. One process; the object store is in memory."""

import threading
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.store.protocol import AccessDenied, BucketMissing, StoreError, StoreUnavailable
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from model.train.spikes import build_spike_guard
from orchestrator.errors import Diverged, Fenced
from orchestrator.messages import CheckpointLost, Resumed
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.ledger import read_ledger
from orchestrator.records.manifest import read_manifest
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.training_state import training_state
from tests.fakes.memory_store import MemoryStore
from tests.model.toys import declared
from tests.orchestrator.worker.ranks import DIGEST, Training, begin, flip_a_byte, on_ranks, state_at, steps_on_store
from tests.orchestrator.worker.tiny_run import MODEL


def test_what_is_saved_is_loaded(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3, 6)

    resumed, state = begin(store, exchange, 2).load()

    assert resumed == Resumed(step=6)
    assert torch.equal(state["model.weight"], torch.full((4, 3), 6.0))
    assert state["optimizer.weight.step"].item() == 6.0


def test_a_manifest_says_what_the_checkpoint_is(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(7)

    manifest = read_manifest(store, open_commit_log(store).trusted()[0])

    assert (manifest.run, manifest.attempt, manifest.step, manifest.model) == ("first", 1, 7, MODEL)
    assert manifest.training is not None
    assert manifest.training.training_digest == DIGEST
    assert (manifest.training.data_position.epoch, manifest.training.data_position.index) == (1, 4)
    assert [file.name for file in manifest.files] == [".metadata", "__0_0.distcp"]
    assert all(file.size_bytes == len(store.objects[checkpoint_directory(7, 1) + file.name]) for file in manifest.files)


def test_training_goes_on_while_a_checkpoint_is_written(exchange: Exchange):
    """The snapshot is taken at once; what happens to the weights afterwards does not reach the files."""
    store, may_write = MemoryStore(), threading.Event()
    training = begin(store, exchange, 1)
    training.record(3)
    store.fault = lambda operation, key: None if operation != "put" else (may_write.wait(timeout=30), None)[1]
    state = state_at(3)

    training.checkpointer.save(3, state)
    state["model.weight"].fill_(99.0)
    training.checkpointer.check()
    assert training.committed == []
    may_write.set()
    training.checkpointer.wait()

    assert training.committed == [3]
    assert begin(store, exchange, 2).load()[1]["model.weight"].max() == 3.0


def test_a_save_that_comes_too_early_waits(exchange: Exchange):
    store = MemoryStore()
    training = begin(store, exchange, 1)
    slow = threading.Event()
    store.fault = lambda operation, key: None if operation != "put" else (slow.wait(timeout=0.2), None)[1]
    training.record(3)
    training.checkpointer.save(3, state_at(3))
    training.checkpointer.save(6, state_at(6))
    training.checkpointer.wait()

    assert training.committed == [3, 6]


@pytest.mark.parametrize("name", ["model.weight", "optimizer.weight.step"])
def test_what_is_not_finite_on_one_rank_is_committed_by_none_and_removes_nothing(name: str):
    """Not even where it would be the newest of those that are kept."""
    store = MemoryStore()

    def save(exchange: Exchange) -> None:
        training = begin(store, exchange, 1, keep_latest=2)
        training.save(3, 6)
        training.record(9)
        state = state_at(9)
        if exchange.rank == 1:
            state[name].view(-1)[0] = torch.nan
        training.checkpointer.save(9, state)
        training.check_after_its_end()

    errors = on_ranks(2, save)

    assert [(type(error), str(error)) for error in errors] == [(Diverged, str(errors[0]))] * 2
    assert str(errors[0]).startswith(f"step 9: {name} is not finite, the checkpoint is not committed")
    assert [commit.step for commit in open_commit_log(store).trusted()] == [6, 3]
    assert {"step-000000003-a0001", "step-000000006-a0001"} <= steps_on_store(store)


def test_a_failed_save_shows_at_the_next_step(exchange: Exchange):
    store = MemoryStore()
    training = begin(store, exchange, 1)

    def refuse(operation: str, key: str) -> None:
        if operation == "put":
            raise BucketMissing("no such bucket")

    store.fault = refuse
    training.checkpointer.save(3, state_at(3))

    with pytest.raises(BucketMissing, match=r"^no such bucket$"):
        training.check_after_its_end()
    assert (training.committed, training.lost) == ([], [])


def away(operation: str, key: str) -> None:
    if operation in ("put", "create"):
        raise StoreUnavailable("no answer")


def test_a_store_that_is_away_costs_a_checkpoint_and_not_the_run(exchange: Exchange, caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    training = begin(store, exchange, 1)
    store.fault = away
    training.record(3)
    training.checkpointer.save(3, state_at(3))
    training.check_after_its_end()
    training.record(6)
    training.checkpointer.save(6, state_at(6))
    training.record(9)
    store.fault = lambda operation, key: away(operation, key) if "/step-000000006-" in key else None
    training.checkpointer.save(9, state_at(9))  # finds that of step 6 lost as well
    training.checkpointer.wait()

    assert training.committed == [9]
    assert caplog.text.count("a checkpoint is LOST, the store is away") == 2
    assert training.lost == [CheckpointLost(step=step, ranks=(0,), text="no answer") for step in (3, 6)]
    assert [record.step for record in read_ledger(store)[1]] == [3, 6, 9]
    assert begin(store, exchange, 2).load()[0] == Resumed(step=9)


def test_one_rank_that_never_reaches_the_store_is_named_at_every_checkpoint_that_it_costs():
    store = MemoryStore()

    def train(exchange: Exchange) -> Training:
        training = begin(store if exchange.rank != 1 else replace(store, fault=away), exchange, 1, like=of_every_rank(0))
        for step in (3, 6, 9):
            training.record(step)
            training.checkpointer.save(step, of_every_rank(step))
            training.check_after_its_end()
        return training

    def of_every_rank(step: int) -> dict[str, Tensor]:
        """So many tensors that each rank writes some."""
        return {f"model.{number}": torch.full((2,), float(step)) for number in range(20)}

    first, second, third = on_ranks(3, train)

    assert first.lost == [CheckpointLost(step=step, ranks=(1,), text="no answer") for step in (3, 6, 9)]
    assert (first.committed, second.lost, third.lost) == ([], [], [])


def test_a_commit_that_fails_is_the_first_ranks_loss():
    store = MemoryStore()

    def train(exchange: Exchange) -> Training:
        training = begin(store, exchange, 1)
        store.fault = lambda operation, key: away(operation, key) if key.startswith("commits/") else None
        training.record(3)
        training.checkpointer.save(3, state_at(3))
        training.check_after_its_end()
        return training

    first, _ = on_ranks(2, train)

    assert first.lost == [CheckpointLost(step=3, ranks=(0,), text="no answer")]


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
def test_what_may_pass_costs_a_periodic_checkpoint_but_the_last_one_is_not_dropped(exchange: Exchange, error: type[StoreError]):
    """Credentials hiccup too, where they are renewed."""
    store = MemoryStore()
    training = begin(store, exchange, 1)

    def refuse(operation: str, key: str) -> None:
        if operation == "put":
            raise error("not now")

    store.fault = refuse
    training.checkpointer.save(3, state_at(3))
    training.check_after_its_end()
    assert training.lost == [CheckpointLost(step=3, ranks=(0,), text="not now")]

    training.checkpointer.save(6, state_at(6))
    with pytest.raises(error, match=r"^not now$"):
        training.checkpointer.wait()


class Weighed:
    """A store that weighs what goes into it."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._num_bytes = 0

    def set(self, key: str, value: bytes) -> None:
        self._num_bytes += len(value)
        self._store.set(key, value)  # type: ignore[arg-type]

    def taken(self) -> int:
        """Bytes since the last call."""
        taken, self._num_bytes = self._num_bytes, 0
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_only_the_first_checkpoint_of_an_attempt_is_planned_by_all_ranks():
    """What ranks tell of each later one does not grow with the tensors, and what is loaded is the later state."""
    store, told_bytes = MemoryStore(), {step: 0 for step in (3, 6, 9)}

    def state_of_many(step: int) -> dict[str, Tensor]:
        return {f"model.{number}": torch.full((2,), float(step)) for number in range(500)}

    def train(exchange: Exchange) -> None:
        training = begin(store, exchange, 1, like=state_of_many(0))
        exchange._store = weighed = Weighed(exchange._store)  # type: ignore[assignment]
        for step in (3, 6, 9):
            training.record(step)
            training.checkpointer.save(step, state_of_many(step))
            training.checkpointer.wait()
            told_bytes[step] += weighed.taken()

    assert on_ranks(2, train) == [None, None]
    assert told_bytes[3] > 50_000
    assert 0 < told_bytes[6] < 2_000
    assert 0 < told_bytes[9] < 2_000
    loaded = begin(store, Exchange(dist.HashStore(), rank=0, world_size=1), 2, like=state_of_many(0)).load(into=state_of_many(-1))[1]
    assert all(torch.equal(tensor, state_of_many(9)[name]) for name, tensor in loaded.items())


def test_a_rank_that_lost_a_checkpoint_is_planned_with_as_before():
    """The places that it told of the lost one count for the next."""
    store = MemoryStore()
    broken = replace(store, fault=lambda operation, key: away(operation, key) if "/step-000000003-" in key else None)

    def train(exchange: Exchange) -> Training:
        training = begin(store if exchange.rank != 1 else broken, exchange, 1)
        for step in (3, 6):
            training.record(step)
            training.checkpointer.save(step, state_at(step))
            training.check_after_its_end()
        return training

    first, _ = on_ranks(2, train)

    assert (first.committed, [lost.step for lost in first.lost]) == ([6], [3])
    resumed, state = begin(store, Exchange(dist.HashStore(), rank=0, world_size=1), 2).load()
    assert (resumed.step, state["model.weight"].unique().tolist(), state["optimizer.weight.step"].item()) == (6, [6.0], 6.0)


def test_a_state_that_changes_its_tensors_within_an_attempt_is_not_saved_as_the_old_one(exchange: Exchange):
    training = begin(MemoryStore(), exchange, 1)
    training.save(3)
    training.record(6)

    with pytest.raises(ValueError, match=r"^this rank's tensors are others than those that its snapshots were laid out for$"):
        training.checkpointer.save(6, state_at(6) | {"model.bias": torch.zeros(3)})


def test_the_records_of_its_steps_are_durable_before_a_checkpoint_counts(exchange: Exchange):
    store, order = MemoryStore(), []
    training = begin(store, exchange, 1)
    store.fault = lambda operation, key: order.append(key.split("/")[0]) if operation == "create" else None
    training.save(3)

    assert order == ["ledger", "commits", "ledger-upto"]
    assert [record.step for record in read_ledger(store)[1]] == [3]


def test_retention_keeps_the_last_good_ones(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1, keep_latest=2).save(3, 6, 9, 12)

    assert steps_on_store(store) == {"step-000000009-a0001", "step-000000012-a0001"}


def test_retention_does_not_count_on_a_refused_one(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3, 6, 9)
    flip_a_byte(store, checkpoint_directory(9, 1) + "__0_0.distcp")
    second = begin(store, exchange, 2)
    second.load()
    second.save(8)

    assert {"step-000000006-a0001", "step-000000008-a0002"} <= steps_on_store(store)
    flip_a_byte(store, checkpoint_directory(8, 2) + "__0_0.distcp")
    assert begin(store, exchange, 3).load()[0].step == 6


def test_manifests_are_deleted_before_what_they_name(exchange: Exchange):
    store, deleted = MemoryStore(), []
    training = begin(store, exchange, 1)
    store.fault = lambda operation, key: deleted.append(key) if (operation, key[:11]) == ("delete", "checkpoints") else None
    training.save(3, 6, 9)

    assert deleted[0] == checkpoint_directory(3, 1) + "manifest.json"
    assert len(deleted) > 2


def test_a_frozen_worker_that_wakes_up_removes_nothing(exchange: Exchange):
    """It freezes right after its commit; what the newer attempt may fall back on is no longer its business."""
    store = MemoryStore()
    zombie = begin(store, exchange, 1, keep_latest=2)
    zombie.save(3, 6)

    def begin_a_newer_one(operation: str, key: str) -> None:
        if operation == "list":
            store.fault = lambda operation, key: None
            open_commit_log(store).fence(2)

    store.fault = begin_a_newer_one
    with pytest.raises(Fenced, match=r"^attempt 2 of this run has begun"):
        zombie.save(9)

    assert steps_on_store(store) == {f"step-{step:09d}-a0001" for step in (3, 6, 9)}


def test_what_a_dead_attempt_left_behind_is_cleared_away(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3)
    store.put(checkpoint_directory(6, 1) + "__0_0.distcp", b"half")
    begin(store, exchange, 2).save(6)

    assert steps_on_store(store) == {"step-000000003-a0001", "step-000000006-a0002"}


def test_a_store_that_forbids_deleting_does_not_end_the_run(exchange: Exchange, caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    training = begin(store, exchange, 1)

    def forbid(operation: str, key: str) -> None:
        if operation == "delete":
            raise StoreUnavailable("not allowed")

    store.fault = forbid
    training.save(3, 6, 9)

    assert training.committed == [3, 6, 9]
    assert "old checkpoints could not be removed" in caplog.text


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_fresh_optimizer_has_the_state_of_a_stepped_one_to_load_into(name: Literal["adamw", "muon"]):
    def names_and_shapes(*, stepped: bool) -> dict[str, tuple[torch.Size, torch.dtype]]:
        model = torch.nn.ModuleDict({"layers": torch.nn.Linear(3, 2)})
        optimizer = build_optimizer(model, declared(model), OptimizerConfig(name=name, groups=()))
        if stepped:
            model["layers"](torch.ones(1, 3)).sum().backward()
            optimizer.step()
        return {name: (tensor.shape, tensor.dtype) for name, tensor in training_state(model, optimizer).items()}

    assert names_and_shapes(stepped=False) == names_and_shapes(stepped=True)
    assert ("optimizer.layers.weight.momentum_buffer" in names_and_shapes(stepped=False)) == (name == "muon")


def test_an_attempt_removes_once_what_earlier_ones_left(exchange: Exchange):
    store = MemoryStore(incomplete={checkpoint_directory(3, 1) + "__0_0.distcp"})
    store.put("logs/a0001/rank-00000.log", b"")
    looked: list[str] = []
    store.fault = lambda operation, key: looked.append(operation) if operation == "abort_writes" else None
    begin(store, exchange, 11).save(3, 6)

    assert looked == ["abort_writes"]
    assert store.incomplete == set()
    assert store.list("logs/") == []


def test_an_optimizer_without_state_is_a_mistake():
    model = torch.nn.Linear(3, 2)

    with pytest.raises(ValueError, match=r"^weight: the optimizer has no state for it; make the optimizer with build_optimizer$"):
        training_state(model, torch.optim.AdamW(model.parameters()))


def test_what_a_spike_guard_remembers_is_part_of_a_checkpoint(exchange: Exchange):
    """Half empty as it is: what is not known yet is NaN there too."""
    config = OptimizerConfig(skip_sigma=2.0, skip_window=4)
    before, after = build_spike_guard(config), build_spike_guard(config)
    assert before is not None
    assert after is not None
    before.skips(2.0, 1.0)
    before.skips(2.5, 1.5)
    store, state = MemoryStore(), {"spikes.history": before.history}
    training = begin(store, exchange, 1, like=state)
    training.record(3)
    training.checkpointer.save(3, state)
    before.skips(3.0, 2.0)
    training.checkpointer.wait()

    begin(store, exchange, 2, like=state).load(into={"spikes.history": after.history})

    assert after.history[2:].tolist() == [[2.0, 1.0], [2.5, 1.5]]
    assert after.history[:2].isnan().all()
