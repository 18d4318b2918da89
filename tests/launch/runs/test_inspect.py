"""What `braid verify` asks for: whatever a run is doing while its records are read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.dataset.plan import plan_of, planned_samples
from data_pipeline.order.samples import digest_of
from data_pipeline.store.protocol import ObjectInfo, ObjectStore
from launch.errors import WrongMoment
from launch.runs.inspect import proof_of
from launch.runs.record import RunRecord, read_run, run_store_of
from orchestrator.control.state import Ending, Stage
from orchestrator.records.commit_log import Commit, last_fence, open_commit_log
from tests.launch.stored_runs import put_dataset, put_steps, store_at, stored_run


def a_run(root: Path) -> tuple[RunRecord, Callable[[int], str]]:
    """(a run of 40 steps as it goes on, the digest of a step's samples by its plan)."""
    config = stored_run(root, (), "train.num_steps=40")
    plan = plan_of((put_dataset(root),), config.data, batch_rows=config.train.batch_rows)

    def samples(step: int) -> str:
        return digest_of(planned_samples(plan, step))

    return read_run(StorageConfig(root=str(root)), "first"), samples


def commit(record: RunRecord, *steps: int) -> None:
    """By attempt 1, which begins with its first."""
    log = open_commit_log(record.run_store)
    if not last_fence(log.entries):
        log.fence(1)
    for step in steps:
        log.commit(Commit(attempt=1, step=step, manifest_key="", manifest_sha256=""))


def ended(record: RunRecord, ending: Ending) -> RunRecord:
    return replace(record, state=replace(record.state, stage=Stage.ENDED, ending=ending))


class MovesOn:
    """A store on which something happens right after its commit log or its ledger was listed, whichever is first."""

    def __init__(self, store: ObjectStore, event: Callable[[], object]) -> None:
        self._store = store
        self._event = event
        self._moved = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        found = self._store.list(prefix, after)
        if prefix in ("commits/", "ledger/") and not self._moved:
            self._moved = True
            self._event()
        return found


def test_a_run_that_goes_on_while_it_is_looked_at_is_verified(tmp_path: Path) -> None:
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 13), samples)
    commit(record, 10)

    def recover() -> None:
        open_commit_log(run_store_of(store_at(tmp_path), "first")).fence(2)
        put_steps(tmp_path, 2, range(11, 15), samples)

    proof = proof_of(replace(record, run_store=MovesOn(record.run_store, recover)))

    assert proof.line.startswith("VERIFIED so far: run first: 10 of 40 steps, 10,240 tokens, 1 attempt,"), proof.problems


def test_a_checkpoint_that_is_committed_while_it_is_looked_at_has_its_records(tmp_path: Path) -> None:
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 11), samples)
    commit(record, 10)

    def commit_one_more() -> None:
        put_steps(tmp_path, 1, range(11, 21), samples)
        commit(record, 20)

    assert proof_of(replace(record, run_store=MovesOn(record.run_store, commit_one_more))).ok


def test_records_that_no_attempt_of_an_ended_run_made_are_found_out(tmp_path: Path) -> None:
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 11), samples)
    commit(record, 10)
    put_steps(tmp_path, 2, range(11, 12), samples)

    assert not proof_of(ended(record, Ending.STOPPED)).ok


def test_a_stop_after_a_fallback_is_judged_by_what_still_counts(tmp_path: Path) -> None:
    """Committed up to 30; that and 20 were refused, and the attempt that continued 10 was stopped at 15."""
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 35), samples)
    commit(record, 10, 20, 30)
    log = open_commit_log(record.run_store)
    log.fence(2)
    for refused in log.trusted()[:2]:
        log.reject(refused, "corrupt", attempt=2)
    put_steps(tmp_path, 2, range(11, 16), samples)
    stopped = replace(record, state=replace(record.state, committed_step=30))

    assert proof_of(ended(stopped, Ending.STOPPED)).line.startswith("VERIFIED so far: run first: 10 of 40 steps")


def test_a_finished_run_must_have_all_its_steps(tmp_path: Path) -> None:
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 31), samples)
    commit(record, 30)

    proof = proof_of(ended(record, Ending.FINISHED))

    assert proof.line == "NOT VERIFIED run first: 10 steps never ran, the first is step 31"


def test_a_finished_run_must_have_had_a_checkpoint_of_its_last_step(tmp_path: Path) -> None:
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 41), samples)
    commit(record, 30)

    proof = proof_of(ended(record, Ending.FINISHED))

    assert proof.line == "NOT VERIFIED run first: it has finished, and no checkpoint of its last step, 40, was ever committed"


def test_before_the_first_commit_there_is_nothing_to_verify(tmp_path: Path) -> None:
    record, samples = a_run(tmp_path)
    put_steps(tmp_path, 1, range(1, 3), samples)

    with pytest.raises(WrongMoment, match=r"^run first: has not committed a checkpoint yet"):
        proof_of(record)
