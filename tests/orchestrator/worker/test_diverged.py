"""Two workers, of which one alone meets numbers that are not finite: both withhold the update, and neither commits what is ruined."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.store.protocol import ObjectStore
from model.optim.config import OptimizerConfig
from orchestrator.config import RecoveryConfig, RunConfig
from orchestrator.messages import Failed, Outcome
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.ledger import read_ledger
from tests.orchestrator.worker.test_spike_skipping import state_after
from tests.orchestrator.worker.tiny_run import create_run, proof_on, run_attempt, start_attempt, tiny_config

WORKER = "tests.orchestrator.worker.spike_worker"


def failures(config: RunConfig, directory: Path, *, module: str = WORKER) -> set[tuple[str, str]]:
    """What the workers of attempt 1 say as they end: the same, as a rule."""
    with start_attempt(config, 1, directory, module=module) as attempt:
        assert attempt.finish() == [1, 1], attempt.log
        said = [worker.last(Failed) for worker in attempt.workers]
        return {(failed.error_type, failed.text) for failed in said}


def steps_committed(run_store: ObjectStore) -> list[int]:
    return sorted(commit.step for commit in open_commit_log(run_store).trusted())


def test_an_update_that_is_not_finite_is_withheld_and_the_checkpoint_of_its_step_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Under Muon, which has state of both kinds, and without a guard against spikes."""
    monkeypatch.setenv("SPIKE", "nan")
    config = tiny_config(tmp_path / "store", dp_shard=2, every_steps=1, keep_latest=9)
    config = replace(config, optimizer=OptimizerConfig(name="muon", lr=1e-2, warmup_steps=2))
    run_store = create_run(config)

    assert run_attempt(config, 1, tmp_path, module=WORKER).ended.outcome is Outcome.FINISHED

    assert [record.step for record in read_ledger(run_store)[1] if record.skipped] == [6]
    assert steps_committed(run_store) == [1, 2, 3, 4, 5, 7, 8]
    before, after = state_after(5, run_store), state_after(7, run_store)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert before["optimizer.embed.weight.step"] + 1 == after["optimizer.embed.weight.step"], "step 6 counts for nothing"
    assert not torch.equal(before["model.head.weight"], after["model.head.weight"])
    proof = proof_on(config)
    assert proof.ok, proof.line
    assert "1 update withheld as not finite (step 6), no sample skipped" in proof.line


def test_a_run_that_stays_so_ends_with_its_good_checkpoints_and_the_steps_that_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It skips with a guard against spikes as without: such steps are no spikes that would pass."""
    monkeypatch.setenv("SPIKE", "inf")
    monkeypatch.setenv("SPIKE_STEPS", "4 5 6 7 8")
    config = tiny_config(tmp_path / "store", dp_shard=2, every_steps=1)
    config = replace(config, recovery=RecoveryConfig(max_nonfinite=2), optimizer=replace(config.optimizer, skip_sigma=6.0))
    run_store = create_run(config)

    [(error, text)] = failures(config, tmp_path)

    assert error == "Diverged"
    assert text.startswith("step 6: loss inf, gradient norm ")
    assert "the updates of 3 steps in a row were withheld (recovery.max_nonfinite=2)" in text
    assert steps_committed(run_store) == [1, 2, 3]
    assert [record.skipped for record in read_ledger(run_store)[1]] == [False] * 3 + [True] * 3


def test_weights_that_are_not_finite_are_never_committed(tmp_path: Path):
    """An update of finite gradients, by a rate that no weight survives."""
    config = tiny_config(tmp_path / "store", num_steps=1, dp_shard=2)
    config = replace(config, optimizer=OptimizerConfig(lr=3e38, warmup_steps=1, weight_decay=100.0))
    run_store = create_run(config)

    [(error, text)] = failures(config, tmp_path, module="orchestrator.worker.main")

    assert error == "Diverged"
    assert text.startswith("step 1: model.")
    assert "is not finite, the checkpoint is not committed; lower optimizer.lr" in text
    assert steps_committed(run_store) == []
