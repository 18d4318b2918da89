"""Real worker processes on the CPU: killed, stopped, misconfigured, moved to another layout."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from data_pipeline.store.protocol import ObjectStore
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import RunConfig, SnapshotConfig
from orchestrator.messages import Beat, Committed, Outcome, Phase, Source
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.ledger import read_ledger
from orchestrator.records.manifest import read_manifest
from orchestrator.worker.dcp import open_checkpoint
from orchestrator.worker.image import new_memory
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.worker.agents import AgentProcess, agents, begin
from tests.orchestrator.worker.tiny_run import Attempt, Worker, create_run, proof_on, run_attempt, run_store_of, start_attempt, tiny_config


@dataclass(frozen=True)
class Reference:
    """A run of two data-parallel workers that nothing disturbed."""

    config: RunConfig
    directory: Path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    directory = tmp_path_factory.mktemp("reference")
    config = tiny_config(directory / "store", dp_shard=2)
    create_run(config)
    attempt = run_attempt(config, 1, directory)
    assert attempt.ended.outcome is Outcome.FINISHED
    return Reference(config=config, directory=directory)


def final_digests(run_store: ObjectStore) -> tuple[int, dict[str, str]]:
    """(step, digest of every whole tensor) of the newest checkpoint, read by one process without any mesh."""
    reader = open_checkpoint(run_store, read_manifest(run_store, open_commit_log(run_store).trusted()[0]))
    state = {name: torch.empty(saved.size, dtype=saved.properties.dtype) for name, saved in reader.metadata.state_dict_metadata.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it assumes a single process, which is so
        dcp.load(state, storage_reader=reader, no_dist=True)
    return open_commit_log(run_store).trusted()[0].step, {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()
    }


def bits_by_step(run_store: ObjectStore) -> dict[int, tuple[str, str]]:
    """Loss and grad norm of every step, of the last attempt that did it."""
    records = read_ledger(run_store)
    return {one.step: (one.loss.hex(), one.grad_norm.hex()) for attempt in sorted(records) for one in records[attempt]}


def has_committed_3_and_done_5(worker: Worker) -> bool:
    committed, beat = worker.last(Committed), worker.last(Beat)
    return committed is not None and beat is not None and beat.step >= 5


def test_a_killed_run_ends_with_the_same_bits_as_one_that_was_left_alone(reference: Reference, tmp_path: Path):
    config = tiny_config(tmp_path / "store", dp_shard=2)
    run_store = create_run(config)

    with start_attempt(config, 1, tmp_path) as first:
        first.until(has_committed_3_and_done_5)
        first.kill()
    assert first.ended is None, "killed too late to be a test"
    second = run_attempt(config, 2, tmp_path)

    assert second.resumed.step in (3, 6)
    assert second.resumed.rejected == ()
    expected = run_store_of(reference.config)
    assert final_digests(run_store) == final_digests(expected)
    assert bits_by_step(run_store) == bits_by_step(expected)
    verdict = proof_on(config)
    assert verdict.ok, verdict.problems
    assert "VERIFIED run first: 8 steps, 512 tokens, 2 attempts" in verdict.line


def test_a_killed_run_goes_on_from_memory_with_the_same_bits(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twice: before its first checkpoint, and from a snapshot that is newer than one."""
    config = replace(tiny_config(tmp_path / "store", dp_shard=2, every_steps=5), snapshot=SnapshotConfig(every_s=0))
    run_store, memory = create_run(config), [new_memory(["first", "second"]) for _ in range(2)]
    module, starts = "tests.orchestrator.worker.standing_worker", []

    for number, last_step in ((1, 3), (2, 7)):
        monkeypatch.setenv("BRAID_TEST_LAST_STEP", str(last_step))
        with start_attempt(config, number, tmp_path, module=module, memory=memory) as attempt:
            wait_for_snapshot(attempt, run_store, number, last_step)
            starts.append(attempt.resumed)
    last = run_attempt(config, 3, tmp_path, memory=memory)
    for fd in (fd for files in memory for fd in files):
        os.close(fd)

    assert [(one.step, one.source) for one in (*starts, last.resumed)] == [(0, Source.STORE), (3, Source.MEMORY), (7, Source.MEMORY)]
    assert all(one.joining_s > 0 and one.loading_s > 0 for one in (*starts, last.resumed))
    assert final_digests(run_store) == final_digests(run_store_of(reference.config))
    assert bits_by_step(run_store) == bits_by_step(run_store_of(reference.config))
    verdict = proof_on(config)
    assert verdict.ok, verdict.problems
    assert "VERIFIED run first: 8 steps, 512 tokens, 3 attempts" in verdict.line


def test_a_run_whose_last_checkpoint_is_being_written_when_it_is_killed_writes_it_from_memory(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All steps are done by then. Where the next attempt just ended, nothing would be left of the last ones."""
    monkeypatch.setenv("BRAID_TEST_SLOW_STEP", "8")
    config = tiny_config(tmp_path / "store", dp_shard=2, every_steps=5)
    run_store, memory = create_run(config), [new_memory(["first", "second"]) for _ in range(2)]

    with start_attempt(config, 1, tmp_path, module="tests.orchestrator.worker.slow_store_worker", memory=memory) as first:
        wait_for_snapshot(first, run_store, 1, 8)
        first.kill()
    assert first.ended is None
    second = run_attempt(config, 2, tmp_path, memory=memory)
    for fd in (fd for files in memory for fd in files):
        os.close(fd)

    assert (second.resumed.step, second.resumed.source, second.ended.outcome) == (8, Source.MEMORY, Outcome.FINISHED)
    assert open_commit_log(run_store).trusted()[0].step == 8
    assert final_digests(run_store) == final_digests(run_store_of(reference.config))
    assert proof_on(config).ok, proof_on(config).problems


def wait_for_snapshot(attempt: Attempt, run_store: ObjectStore, number: int, step: int) -> None:
    """Until every rank has that of the step, and the step is recorded."""
    while not (
        all(f"snapshot of step {step}:" in worker.log.read_text() for worker in attempt.workers)
        and any(record.step == step for record in read_ledger(run_store).get(number, ()))
    ):
        assert attempt.workers[0].listen(timeout_s=0.05), attempt.log


def test_a_run_that_loses_a_node_goes_on_from_anothers_memory_and_one_that_loses_all_from_the_store(reference: Reference, tmp_path: Path):
    """With the same bits."""
    config = replace(tiny_config(tmp_path / "store", dp_shard=2, every_steps=6), snapshot=SnapshotConfig(every_s=0))
    run_store, resumed = create_run(config), []

    with agents(config, tmp_path, "abcde") as (a, b, c, d, e):
        for number, placed, step, newest, lost in ((1, (a, b), 3, 3, (a,)), (2, (c, b), 7, 6, (b, c))):
            begin(config, number, placed, BRAID_TEST_LAST_STEP=str(step))
            wait_for_copies(run_store, placed, number=number, step=step, newest=newest)
            resumed.append(placed[0].worker().resumed)
            for agent in lost:
                agent.kill()
        begin(config, 3, (d, e), BRAID_TEST_LAST_STEP="8")
        wait_for(lambda: d.worker().ended, "the end of the run")
        resumed.append(d.worker().resumed)

    assert [(one.step, one.source) for one in resumed] == [(0, Source.STORE), (3, Source.OTHER_MEMORY), (6, Source.STORE)]
    assert final_digests(run_store) == final_digests(run_store_of(reference.config))
    assert bits_by_step(run_store) == bits_by_step(run_store_of(reference.config))
    assert proof_on(config).ok, proof_on(config).problems


def wait_for_copies(run_store: ObjectStore, placed: Sequence[AgentProcess], *, number: int, step: int, newest: int) -> None:
    """Until the attempt has recorded the step, and both nodes have the other's newest snapshot."""

    def are_there() -> bool:
        copied = [buddy.copies_of(rank) for rank, buddy in enumerate(reversed(placed))]
        recorded = [record.step for record in read_ledger(run_store).get(number, ())]
        return all(newest in steps for steps in copied) and step in recorded

    wait_for(are_there, f"step {step}, its record and its copies")


def test_an_undisturbed_run_is_verified_and_leaves_the_last_two_checkpoints(reference: Reference):
    run_store = run_store_of(reference.config)

    assert (
        proof_on(reference.config).line
        == "VERIFIED run first: 8 steps, 512 tokens, 1 attempt, nothing skipped or repeated, every token as in the dataset"
    )
    assert {info.key.split("/")[1] for info in run_store.list("checkpoints/")} == {"step-000000006-a0001", "step-000000008-a0001"}


def test_records_say_when_steps_ended_and_what_they_waited_for(reference: Reference):
    """A checkpoint every three steps: how long it held training up stands with the step after it."""
    records = read_ledger(run_store_of(reference.config))[1]
    ends_s = [record.ended_at_s for record in records]

    assert ends_s == sorted(ends_s)
    assert all(record.data_wait_s > 0 for record in records)
    assert records[0].checkpoint_s == 0
    assert all(records[step].checkpoint_s > 0 for step in (3, 6)), "of steps 4 and 7"
    parts_s = [record.data_wait_s + record.checkpoint_s + record.eval_s for record in records]
    assert all(part_s < end_s - before_s for part_s, before_s, end_s in zip(parts_s[1:], ends_s, ends_s[1:], strict=False))


def test_a_checkpoint_loads_into_another_layout_bit_for_bit(reference: Reference, tmp_path: Path):
    """Written by two data-parallel ranks; read by two tensor-parallel ones, and by one alone."""
    run_store = run_store_of(reference.config)
    expected_step, expected = final_digests(run_store)
    for number, parallel in enumerate((ParallelConfig(tp=2), ParallelConfig()), start=2):
        config = replace(reference.config, parallel=parallel)
        run_store.create(f"config/{number:04d}.json", codec.to_json(config))

        with start_attempt(config, number, tmp_path, config_version=number, module="tests.orchestrator.worker.layout_probe") as probe:
            assert probe.finish() == [0] * parallel.world_size, probe.log

        found = json.loads(probe.log.splitlines()[-1])
        assert found == {"step": expected_step, "digests": expected}


@pytest.mark.parametrize(("tell", "by_signal"), [(Attempt.stop, False), (Attempt.terminate, True)], ids=["its agent", "a signal"])
def test_who_is_told_to_stop_saves_first(tmp_path: Path, tell: Callable[[Attempt], None], by_signal: bool):
    config = tiny_config(tmp_path / "store", num_steps=100_000, every_steps=50_000)
    run_store = create_run(config)

    with start_attempt(config, 1, tmp_path) as attempt:
        attempt.until(lambda worker: worker.last(Beat) is not None and worker.last(Beat).step >= 2)
        tell(attempt)
        assert attempt.finish() == [0], attempt.log

    assert attempt.ended.outcome is Outcome.STOPPED
    assert attempt.workers[0].last(Beat).told_to_leave is by_signal
    assert attempt.workers[0].last(Committed).step == attempt.ended.step
    assert open_commit_log(run_store).trusted()[0].step == attempt.ended.step
    phases = [message.phase for message in attempt.workers[0].said if isinstance(message, Beat)]
    assert [phase for phase in Phase if phase in phases] == sorted(set(phases), key=list(Phase).index)
    assert Phase.SAVING in phases
    assert phases[-1] is Phase.DONE


def test_a_slow_store_makes_checkpoints_late_and_holds_training_up_only_at_its_end(tmp_path: Path):
    """There it is no training that stands still: how long it may take is another limit's."""
    config = tiny_config(tmp_path / "store", every_steps=3)
    run_store = create_run(config)

    with start_attempt(config, 1, tmp_path, module="tests.orchestrator.worker.slow_store_worker") as attempt:
        attempt.until(lambda worker: (beat := worker.last(Beat)) is not None and (beat.phase, beat.step) == (Phase.SAVING, 8))
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home" / "go").touch()
        assert attempt.finish() == [0], attempt.log

    assert attempt.ended.outcome is Outcome.FINISHED
    assert "the checkpoint of step 6 is late" in attempt.log
    assert [commit.step for commit in open_commit_log(run_store).trusted()] == [8, 3]


def test_ranks_that_trained_on_the_same_rows_are_found_out(tmp_path: Path):
    """The records tell what was read, not what was planned."""
    config = tiny_config(tmp_path / "store", num_steps=2, dp_shard=2)
    create_run(config)

    run_attempt(config, 1, tmp_path, module="tests.orchestrator.worker.same_rows_worker")

    others = "samples than the plan's", "tokens than its dataset has"
    assert proof_on(config).problems == tuple(f"attempt 1: step {step} trained on other {other}" for other in others for step in (1, 2))


def test_an_outage_for_one_rank_costs_all_of_them_that_checkpoint_and_no_more(tmp_path: Path):
    config = tiny_config(tmp_path / "store", num_steps=8, tp=2)
    run_store = create_run(config)

    attempt = run_attempt(config, 1, tmp_path, module="tests.orchestrator.worker.outage_worker")

    assert [commit.step for commit in open_commit_log(run_store).trusted()] == [8, 6]
    assert all("a checkpoint is LOST" in worker.log.read_text() for worker in attempt.workers)
    assert proof_on(config).ok


def test_a_changed_model_is_one_line_and_exit_status_1(reference: Reference, tmp_path: Path):
    config = replace(reference.config, parallel=ParallelConfig(), optimizer=replace(reference.config.optimizer, lr=0.5))
    run_store_of(config).create("config/0009.json", codec.to_json(config))

    with start_attempt(config, 9, tmp_path, config_version=9) as attempt:
        assert attempt.finish() == [1]

    assert attempt.failed.error_type == "ConfigMismatch"
    assert attempt.failed.text.startswith("run first: model, data, optimizer, start, train.batch_rows or train.seed differs")
    assert "Traceback" not in attempt.log
    assert attempt.log.count(attempt.failed.text) == 1
