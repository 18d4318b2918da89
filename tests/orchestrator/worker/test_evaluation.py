"""Held-out text in runs of real workers: the same loss under every layout, and a training that knows nothing of it."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_pipeline.dataset.manifest import load_manifest, manifest_key, manifest_to_json
from data_pipeline.store.local import LocalStore
from orchestrator.config import EvalConfig, RunConfig
from orchestrator.messages import Beat, Failed
from orchestrator.records.ledger import StepRecord, read_ledger
from orchestrator.worker.evaluation import build_evaluation
from tests.orchestrator.worker.test_spike_skipping import state_after
from tests.orchestrator.worker.tiny_run import create_run, proof_on, run_attempt, run_store_of, start_attempt, timeless, tiny_config

BYTES_PER_TOKEN = 4


def with_held_out_text(config: RunConfig, *, every_steps: int = 3, num_batches: int = 2) -> RunConfig:
    return replace(config, eval=EvalConfig(dataset="held-out", every_steps=every_steps, num_batches=num_batches))


def create(config: RunConfig) -> None:
    """With a second dataset, which knows the bytes of its text."""
    create_run(config)
    store = LocalStore(Path(config.storage.root))
    noise = load_manifest(store, "noise")
    held_out = replace(noise, name="held-out", num_text_bytes=BYTES_PER_TOKEN * noise.num_tokens)
    store.create(manifest_key("held-out"), manifest_to_json(held_out))


def trained(config: RunConfig, directory: Path) -> list[StepRecord]:
    directory.mkdir()
    create(config)
    attempt = run_attempt(config, 1, directory)
    last = attempt.workers[0].last(Beat).metrics
    assert attempt.workers[0].last(Beat).evaluated == (6 if config.eval.dataset else 0), "a long look at it is no pause"
    records = read_ledger(run_store_of(config))[1]
    assert last.eval_loss == records[-1].eval_loss, "what was measured last stays told"
    assert proof_on(config).ok
    return records


def test_held_out_text_gives_the_same_loss_under_every_layout_and_changes_nothing(tmp_path: Path):
    plain = tiny_config(tmp_path / "plain" / "store", every_steps=8)
    one = with_held_out_text(tiny_config(tmp_path / "one" / "store", every_steps=8))
    without, alone = trained(plain, tmp_path / "plain"), trained(one, tmp_path / "one")

    assert [record.step for record in alone if record.eval_loss is not None] == [3, 6, 8]
    assert [record.step for record in alone if record.eval_s > 0] == [3, 6, 8], "and how long it took"
    blind = [timeless(replace(record, eval_loss=None, eval_bits_per_byte=None)) for record in alone]
    assert blind == [timeless(record) for record in without]
    weights = [state_after(8, run_store_of(config)) for config in (plain, one)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for record in alone:
        if record.eval_loss is not None:
            assert record.eval_loss == pytest.approx(math.log(256), rel=0.2)
            assert record.eval_bits_per_byte == pytest.approx(record.eval_loss / math.log(2) / BYTES_PER_TOKEN)

    for number, layout in enumerate(({"dp_shard": 2}, {"tp": 2})):
        name = f"layout{number}"
        other = with_held_out_text(tiny_config(tmp_path / name / "store", every_steps=3, **layout))
        losses = [record.eval_loss for record in trained(other, tmp_path / name)]
        assert losses[2] == pytest.approx(alone[2].eval_loss, rel=1e-4)
        assert losses[7] == pytest.approx(alone[7].eval_loss, rel=1e-3)


def test_the_samples_are_the_same_however_the_runs_own_rows_are_shuffled(tmp_path: Path):
    plain = with_held_out_text(tiny_config(tmp_path / "store"))
    create(plain)
    store, world = LocalStore(tmp_path / "store"), SimpleNamespace(mesh=SimpleNamespace(dp_rank=0))
    blocks = replace(plain, data=replace(plain.data, shuffle="blocks"))
    first, second = (build_evaluation(config, world, store, tmp_path) for config in (plain, blocks))
    assert first.loader.read(1).samples == second.loader.read(1).samples
    first.loader.close()
    second.loader.close()


def test_a_run_whose_rows_are_shuffled_by_blocks_is_proved(tmp_path: Path):
    config = tiny_config(tmp_path / "store", dp_shard=2)
    config = replace(config, data=replace(config.data, shuffle="blocks", shuffle_window=1))
    create_run(config)
    run_attempt(config, 1, tmp_path)
    assert proof_on(config).ok


def test_too_little_held_out_text_is_one_line(tmp_path: Path):
    config = with_held_out_text(tiny_config(tmp_path / "store"), num_batches=7)
    create(config)
    with start_attempt(config, 1, tmp_path) as attempt:
        assert attempt.finish() == [1]
        failed = attempt.workers[0].last(Failed)
    assert failed.error_type == "ConfigMismatch"
    assert failed.text == "eval.num_batches=7: dataset held-out has samples for 6 batches; use 6 or less, or more text"
