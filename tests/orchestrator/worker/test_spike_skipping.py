"""A spike in a run of two workers, of which one alone meets it: neither updates, and a replay of the step decides the same."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from data_pipeline.store.protocol import ObjectStore
from model.optim.config import OptimizerConfig
from orchestrator.messages import Beat
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.ledger import read_ledger
from orchestrator.records.manifest import read_manifest
from orchestrator.worker.dcp import open_checkpoint
from tests.orchestrator.worker.spike_worker import SPIKE_STEP
from tests.orchestrator.worker.tiny_run import create_run, proof_on, run_attempt, tiny_config

WINDOW = 8


def state_after(step: int, run_store: ObjectStore) -> dict[str, Tensor]:
    """The whole tensors of a checkpoint, read by one process."""
    commit = next(commit for commit in open_commit_log(run_store).trusted() if commit.step == step)
    reader = open_checkpoint(run_store, read_manifest(run_store, commit))
    state = {name: torch.empty(saved.size, dtype=saved.properties.dtype) for name, saved in reader.metadata.state_dict_metadata.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it assumes a single process, which is so
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def remove_checkpoints(steps: range, run_store: ObjectStore) -> None:
    for step in steps:
        for info in run_store.list(checkpoint_directory(step, 1)):
            run_store.delete(info.key)


def test_a_spike_changes_nothing_and_is_decided_alike_when_it_is_replayed(tmp_path: Path):
    """Under Muon, which has state of both kinds."""
    config = tiny_config(tmp_path / "store", dp_shard=2, every_steps=1, keep_latest=8)
    optimizer = OptimizerConfig(name="muon", lr=1e-2, warmup_steps=2, skip_sigma=100.0, skip_window=WINDOW)
    config = replace(config, optimizer=optimizer)
    run_store = create_run(config)
    run_attempt(config, 1, tmp_path, module="tests.orchestrator.worker.spike_worker")

    records = read_ledger(run_store)[1]
    assert [record.step for record in records if record.skipped] == [SPIKE_STEP]
    before, after, last = (state_after(step, run_store) for step in (SPIKE_STEP - 1, SPIKE_STEP, SPIKE_STEP + 1))
    changed = {key for key, tensor in after.items() if not torch.equal(tensor.nan_to_num(), before[key].nan_to_num())}
    assert changed == {"spikes.history"}
    assert after["spikes.history"][-1].tolist() == [records[SPIKE_STEP - 1].loss, records[SPIKE_STEP - 1].grad_norm]
    assert after["spikes.history"].isnan().all(1).tolist() == [True] * (WINDOW - SPIKE_STEP) + [False] * SPIKE_STEP
    assert not torch.equal(last["model.head.weight"], after["model.head.weight"])

    remove_checkpoints(range(SPIKE_STEP, config.train.num_steps + 1), run_store)
    attempt = run_attempt(config, 2, tmp_path, module="tests.orchestrator.worker.spike_worker")

    assert attempt.resumed.step == SPIKE_STEP - 1
    assert [max(message.num_skipped for message in worker.said if isinstance(message, Beat)) for worker in attempt.workers] == [1, 1]
    verdict = proof_on(config)
    assert verdict.ok, verdict.line
    assert f"3 steps replayed bit for bit, 1 update skipped as a spike (step {SPIKE_STEP}), no sample skipped" in verdict.line
