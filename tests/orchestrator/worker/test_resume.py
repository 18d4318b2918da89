"""Loading: what is refused, by whose word, and what is used instead. One process; the object store is in memory."""

import os
import pickle
import re
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from data_pipeline.store.protocol import KeyMissing, StoreUnavailable
from orchestrator.codec import DecodeError
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, Fenced, HostCorrupts, NoCheckpoint, PeerFailed
from orchestrator.messages import Resumed
from orchestrator.records.commit_log import Doubt, Reject, open_commit_log
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.manifest import read_manifest
from orchestrator.worker.dcp import open_checkpoint
from orchestrator.worker.exchange import Exchange
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.ranks import DIGEST, PLAN, begin, flip_a_byte, on_ranks, state_at


def saved(*steps: int, num_ranks: int = 1) -> MemoryStore:
    """A store with the checkpoints of these steps."""
    store = MemoryStore()
    assert on_ranks(num_ranks, lambda exchange: begin(store, exchange, 1).save(*steps)) == [None] * num_ranks
    return store


def steps_refused(store: MemoryStore) -> list[int]:
    return [entry.step for entry in open_commit_log(store).entries if isinstance(entry, Reject)]


@dataclass(slots=True)
class Misreading(MemoryStore):
    """The store as one host sees it that flips a bit of each file of this name, so many times."""

    name: str = field(kw_only=True)
    times: int = 1000

    def get(self, key: str) -> bytes:
        return self._misread(key, super(Misreading, self).get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._misread(key, super(Misreading, self).get_range(key, start, length))

    def _misread(self, key: str, data: bytes) -> bytes:
        if not key.endswith(self.name) or self.times == 0:
            return data
        self.times -= 1
        return bytes([data[0] ^ 1]) + data[1:]


def test_a_run_without_a_checkpoint_starts_afresh(exchange: Exchange):
    resumed, state = begin(MemoryStore(), exchange, 1).load()

    assert resumed == Resumed(step=0)
    assert torch.equal(state["model.weight"], state_at(-1)["model.weight"])


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "manifest.json"])
def test_one_flipped_byte_costs_a_checkpoint_and_the_one_before_is_used(exchange: Exchange, name: str, caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    begin(store, exchange, 1).save(3, 6)
    flip_a_byte(store, checkpoint_directory(6, 1) + name)

    resumed, state = begin(store, exchange, 2).load()

    assert resumed.step == 3
    assert torch.equal(state["model.weight"], torch.full((4, 3), 3.0))
    assert len(resumed.rejected) == 1
    assert resumed.rejected[0].startswith(
        "checkpoint of step 6 (attempt 1) passed over, no other node could look at it: "
        f"memory:checkpoints/step-000000006-a0001/{name} is not what"
    )
    assert resumed.rejected[0] in caplog.text
    assert isinstance(open_commit_log(store).entries[-1], Doubt)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "manifest.json"])
def test_a_missing_file_costs_a_checkpoint(exchange: Exchange, name: str):
    store = MemoryStore()
    begin(store, exchange, 1).save(3, 6)
    store.delete(checkpoint_directory(6, 1) + name)

    resumed, _ = begin(store, exchange, 2).load()

    assert resumed.step == 3
    assert f"{name} is missing" in resumed.rejected[0]


@pytest.mark.parametrize("name", ["model.weight", "optimizer.weight.step"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_checkpoint_of_an_earlier_version_that_is_not_finite_is_refused(
    exchange: Exchange, name: str, number: float, monkeypatch: pytest.MonkeyPatch
):
    store, ruined = MemoryStore(), state_at(6)
    ruined[name].view(-1)[-1] = number
    training = begin(store, exchange, 1)
    training.save(3)
    with monkeypatch.context() as earlier:
        earlier.setattr("orchestrator.worker.checkpoint._require_finite", lambda *_: None)
        training.record(6)
        training.checkpointer.save(6, ruined)
        training.checkpointer.wait()

    resumed, state = begin(store, exchange, 2).load()

    assert (resumed.step, steps_refused(store)) == (3, [6])
    assert f"refused: {name} is not finite in the checkpoint of step 6: training had diverged" in resumed.rejected[0]
    assert torch.equal(state["model.weight"], torch.full((4, 3), 3.0))


def test_a_checkpoint_that_was_refused_once_is_never_considered_again(exchange: Exchange):
    store = saved(3, 6)
    good = store.objects[checkpoint_directory(6, 1) + "__0_0.distcp"]
    flip_a_byte(store, checkpoint_directory(6, 1) + "__0_0.distcp")
    two = on_ranks(2, lambda exchange: begin(store, exchange, 2).load())
    assert all(resumed.rejected[0].startswith("checkpoint of step 6 (attempt 1) refused: ") for resumed, _ in two)
    store.objects[checkpoint_directory(6, 1) + "__0_0.distcp"] = good

    resumed, _ = begin(store, exchange, 3).load()

    assert resumed == Resumed(step=3)


def test_a_half_written_checkpoint_is_never_considered(exchange: Exchange):
    """Every file is there, the manifest too: without its commit it is nothing."""
    store = MemoryStore()
    training = begin(store, exchange, 1)
    training.save(3)

    def die_before_the_commit(operation: str, key: str) -> None:
        if operation == "create" and key.startswith("commits/"):
            raise StoreUnavailable("killed")

    store.fault = die_before_the_commit
    with pytest.raises(StoreUnavailable):
        training.save(6)
    store.fault = lambda operation, key: None
    assert checkpoint_directory(6, 1) + "manifest.json" in store.objects

    assert begin(store, exchange, 2).load()[0] == Resumed(step=3)


def test_when_no_checkpoint_is_left_the_run_does_not_silently_start_again(caplog: pytest.LogCaptureFixture):
    """Two hosts agree that none is left. The end names the last one that was tried, the log each."""
    store = saved(3, 6)
    for step in (3, 6):
        flip_a_byte(store, checkpoint_directory(step, 1) + ".metadata")

    whys = {2: r"checkpoint of step 3 \(attempt 1\) refused: .*", 3: "all were refused by earlier attempts"}
    for attempt, why in whys.items():  # nor does the attempt after, when none is left to refuse
        for error in on_ranks(2, lambda exchange, attempt=attempt: begin(store, exchange, attempt).load()):
            assert isinstance(error, NoCheckpoint)
            assert re.fullmatch(
                rf"no committed checkpoint of this run can be used \({why}\); restore its files .* and run "
                r"`braid checkpoints first --trust STEP`, or start a new run",
                str(error),
            )
    assert steps_refused(store) == [6, 3]
    assert all(f"checkpoint of step {step} (attempt 1) refused: " in caplog.text for step in (6, 3))


@pytest.mark.parametrize(("name", "node"), [(".metadata", 1), ("manifest.json", 0), ("__1_0.distcp", 1)])
def test_a_host_that_flips_bits_refuses_nothing(name: str, node: int):
    """Two nodes of two ranks, of which one misreads: its first rank says so, the other node's first was the witness, and all is kept."""
    store = saved(3, 6, num_ranks=4)
    misreading = Misreading(name=name, objects=store.objects, lock=store.lock)
    complaining, witness = (2, 0) if node == 1 else (0, 2)

    def resume(exchange: Exchange) -> object:
        return begin(misreading if exchange.rank // 2 == node else store, exchange, 2).load(ranks_per_node=2)

    errors = on_ranks(4, resume)

    assert [type(error) for error in errors] == [HostCorrupts if rank == complaining else PeerFailed for rank in range(4)]
    told = str(errors[complaining])
    assert told.startswith(f"host {socket.gethostname()}: memory:checkpoints/step-000000006-a0001/{name} is not what was written: SHA-256 ")
    assert told.endswith(f"; rank {witness}, which looked as well, reads it as it was written")
    assert steps_refused(store) == []
    assert [loaded[0].step for loaded in on_ranks(4, lambda exchange: begin(store, exchange, 3).load())] == [6] * 4


def test_a_host_that_lost_its_mount_refuses_nothing():
    store = saved(3, 6)

    def lost(operation: str, key: str) -> None:
        if operation.startswith("get") and key.endswith(".distcp"):
            raise KeyMissing("no such object")

    without_mount = replace(store, fault=lost)
    errors = on_ranks(2, lambda exchange: begin(store if exchange.rank == 1 else without_mount, exchange, 2).load())

    assert [type(error) for error in errors] == [HostCorrupts, PeerFailed]
    assert "__0_0.distcp is missing; rank 1, which looked as well, reads it as it was written" in str(errors[0])
    assert steps_refused(store) == []


def test_a_host_that_reads_well_at_another_look_refuses_nothing(exchange: Exchange):
    store = saved(3, 6)
    misreading = Misreading(name=".metadata", objects=store.objects, lock=store.lock, times=2)

    with pytest.raises(HostCorrupts, match=r"; rank 0, which looked as well, reads it as it was written$"):
        begin(misreading, exchange, 2).load()

    assert steps_refused(store) == []


def test_a_witness_that_can_not_reach_the_store_refuses_nothing():
    store = saved(3, 6)
    flip_a_byte(store, checkpoint_directory(6, 1) + "__0_0.distcp")
    looks: list[str] = []

    def away_at_the_second_look(operation: str, key: str) -> None:
        if operation.startswith("get") and key.endswith("__0_0.distcp"):
            looks.append(key)
            if len(looks) > 2:
                raise StoreUnavailable("no answer")

    witness = replace(store, fault=away_at_the_second_look)
    errors = on_ranks(2, lambda exchange: begin(store if exchange.rank == 0 else witness, exchange, 2).load())

    assert [type(error) for error in errors] == [PeerFailed, StoreUnavailable]
    assert steps_refused(store) == []


def test_what_one_host_alone_finds_unfit_is_that_hosts_own():
    """It may have another version of braid; where all find it unfit, all say so, and the run ends."""
    store = saved(3)

    def resume_as_another(exchange: Exchange, *ranks: int) -> object:
        return begin(store, exchange, 2 + len(ranks)).load(digest="e" * 64 if exchange.rank in ranks else DIGEST)

    assert [type(error) for error in on_ranks(3, lambda one: resume_as_another(one, 1))] == [PeerFailed, ConfigMismatch, PeerFailed]
    assert [type(error) for error in on_ranks(3, lambda one: resume_as_another(one, 0, 1, 2))] == [ConfigMismatch] * 3


def test_what_the_first_host_alone_reads_and_can_not_decode_is_that_hosts_own():
    """Its bits flip, or another version of braid is installed there: another host may be tried."""
    store = saved(3, num_ranks=2)
    misreading = Misreading(name="000001.json", objects=store.objects, lock=store.lock)

    reading = on_ranks(2, lambda exchange: begin(misreading if exchange.rank == 0 else store, exchange, 2).load())

    def save_after_a_newer_version(exchange: Exchange) -> None:
        training = begin(store, exchange, 3)
        store.put("commits/000004.json", b'{"kind": "of a newer version"}')
        training.save(6)

    for first, second in (reading, on_ranks(2, save_after_a_newer_version)):
        assert isinstance(first, DecodeError)
        assert repr(second) == 'PeerFailed("rank 0 can\'t go on, see its error")'


def test_a_store_that_is_away_refuses_nothing(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3, 6)
    training = begin(store, exchange, 2)

    def away(operation: str, key: str) -> None:
        if key.endswith(".distcp"):
            raise StoreUnavailable("no answer")

    store.fault = away
    with pytest.raises(StoreUnavailable):
        training.load()
    store.fault = lambda operation, key: None

    assert begin(store, exchange, 3).load()[0] == Resumed(step=6)


class Malicious:
    """A pickle that runs code where it is loaded."""

    def __init__(self, evidence: Path) -> None:
        self._evidence = evidence

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._evidence),)


def test_nothing_is_unpickled_before_its_digest_matches(exchange: Exchange, tmp_path: Path):
    store, evidence = MemoryStore(), tmp_path / "executed"
    begin(store, exchange, 1).save(3, 6)
    store.objects[checkpoint_directory(6, 1) + ".metadata"] = pickle.dumps(Malicious(evidence))

    resumed, _ = begin(store, exchange, 2).load()

    assert resumed.step == 3
    assert not evidence.exists()
    pickle.loads(store.objects[checkpoint_directory(6, 1) + ".metadata"])
    assert evidence.exists(), "the test's own pickle must be able to do harm"


def test_a_file_that_the_manifest_does_not_name_is_not_read(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3)
    manifest = read_manifest(store, open_commit_log(store).trusted()[0])

    with pytest.raises(CheckpointCorrupt, match=r"\.metadata is not in the checkpoint's manifest$"):
        open_checkpoint(store, replace(manifest, files=()))


def test_a_frozen_worker_that_wakes_up_can_not_commit(exchange: Exchange):
    store = MemoryStore()
    zombie = begin(store, exchange, 1)
    zombie.save(3)
    begin(store, exchange, 2)

    with pytest.raises(Fenced, match=r"^attempt 2 of this run has begun; this worker belongs to attempt 1 and stops$"):
        zombie.save(6)

    assert begin(store, exchange, 3).load()[0] == Resumed(step=3)


def test_a_worker_of_an_older_attempt_does_not_even_begin(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 2)

    with pytest.raises(Fenced, match=r"^attempt 2 of this run has begun; this worker belongs to attempt 1 and stops$"):
        begin(store, exchange, 1)


def test_other_settings_than_the_checkpoints_are_one_line(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3)

    with pytest.raises(ConfigMismatch) as caught:
        begin(store, exchange, 2).load(digest="e" * 64)

    assert str(caught.value) == (
        "run first: model, data, optimizer, start, train.batch_rows or train.seed differs from what the checkpoint of step 3 was "
        "trained with; restore them, or start a new run under another name "
        "(with data.document_masking: or go on with the version of braid that began it, which learns other labels)"
    )


def test_a_rebuilt_dataset_is_one_line(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3)

    with pytest.raises(ConfigMismatch) as caught:
        begin(store, exchange, 2).load(dataset="b" * 64)

    assert str(caught.value) == (
        "run first: its dataset was rebuilt under the same name after the checkpoint of step 3; "
        "restore the dataset's old manifest and shards, or start a new run under another name"
    )


def test_another_order_of_samples_is_one_line(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3)
    other = replace(PLAN, order=replace(PLAN.order, seed=2))

    assert begin(store, exchange, 2).load()[0].step == 3
    with pytest.raises(
        ConfigMismatch, match="this version of braid orders samples in another way than the one that wrote the checkpoint of step 3"
    ):
        begin(store, exchange, 3).load(plan=other)


def test_checkpoints_that_retention_removed_are_not_refused_one_by_one(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1, keep_latest=2).save(3, 6, 9, 12)
    for step in (9, 12):
        flip_a_byte(store, checkpoint_directory(step, 1) + "__0_0.distcp")

    for error in on_ranks(2, lambda exchange: begin(store, exchange, 2).load()):
        assert isinstance(error, NoCheckpoint)

    assert steps_refused(store) == [12, 9]


MISFITS = {
    "a tensor more": ({"model.bias": torch.zeros(3)}, "checkpoint of step 3: model.bias is missing, the configured model has one"),
    "another shape": ({"model.weight": torch.zeros(3, 4)}, "model.weight is float32[4, 3], the configured model has float32[3, 4]"),
    "another dtype": (
        {"model.weight": torch.zeros(4, 3).bfloat16()},
        "model.weight is float32[4, 3], the configured model has bfloat16[4, 3]",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_model_that_a_checkpoint_does_not_fit_is_one_line(exchange: Exchange, name: str):
    changes, line = MISFITS[name]
    store = MemoryStore()
    begin(store, exchange, 1).save(3)

    with pytest.raises(ConfigMismatch) as caught:
        begin(store, exchange, 2).load(into=state_at(-1) | changes)

    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_the_model_lacks_is_not_ignored(exchange: Exchange):
    store = MemoryStore()
    begin(store, exchange, 1).save(3)
    state = state_at(-1)
    del state["model.weight"]

    with pytest.raises(ConfigMismatch, match=r"^checkpoint of step 3: model.weight is there, the configured model has none"):
        begin(store, exchange, 2).load(into=state)
