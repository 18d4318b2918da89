"""Runs of real workers on rows that documents are packed into."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import DataConfig, PhaseConfig
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.store.local import LocalStore
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import EvalConfig, RunConfig
from orchestrator.messages import Committed, Outcome
from orchestrator.records.ledger import read_ledger
from tests.data_pipeline.datasets import put_dataset
from tests.data_pipeline.packed import pack
from tests.orchestrator.worker.tiny_run import SEQ_LEN, VOCAB_SIZE, create_run, proof_on, run_store_of, start_attempt, tiny_config

PHASES = (PhaseConfig(steps=5), PhaseConfig(seq_len=2 * SEQ_LEN))


def packed(root: Path) -> RunConfig:
    """A run of two lengths on documents of 2 to 40 tokens, which is not packed yet."""
    data = DataConfig(dataset="documents", seq_len=SEQ_LEN, phases=PHASES, packing="best_fit", shuffle="blocks", document_masking=True)
    config = replace(tiny_config(root, every_steps=2), data=data, eval=EvalConfig(dataset="documents", every_steps=4, num_batches=1))
    create_run(config)
    numbers = np.random.default_rng(5)
    shards = [
        [token for size in numbers.integers(1, 40, 30) for token in (*numbers.integers(1, VOCAB_SIZE, size).tolist(), 0)] for _ in range(2)
    ]
    put_dataset(LocalStore(root), *shards, name="documents", vocab_size=VOCAB_SIZE)
    return config


def pack_for(config: RunConfig) -> float:
    """The largest share of padding in rows of any length."""
    store = LocalStore(Path(config.storage.root))
    manifest = load_manifest(store, "documents")
    return max(pack(store, manifest, length).padding_share for length in (SEQ_LEN, 2 * SEQ_LEN))


def test_a_run_on_packed_rows_that_is_killed_and_moved_is_proved_with_its_tokens(tmp_path: Path):
    config = packed(tmp_path / "store")
    padding_share = pack_for(config)
    with start_attempt(config, 1, tmp_path) as first:
        first.until(lambda worker: worker.last(Committed) is not None)
        first.kill()
    moved = replace(config, parallel=ParallelConfig(dp_shard=2))
    run_store_of(config).create("config/0002.json", codec.to_json(moved))
    with start_attempt(moved, 2, tmp_path, config_version=2) as second:
        assert second.finish() == [0, 0], second.log
    assert second.ended.outcome is Outcome.FINISHED
    proof = proof_on(config)
    assert proof.ok, proof.line
    records = [record for records in read_ledger(run_store_of(config)).values() for record in records]
    planned = sum(config.stage_at(record.step).tokens_per_step for record in records)
    assert 0.8 * planned < sum(record.tokens for record in records) < planned, "eos and padding ask for nothing"
    assert padding_share < 0.1


def test_a_run_does_not_go_on_with_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = packed(tmp_path / "store")
    pack_for(config)
    with start_attempt(config, 1, tmp_path) as first:
        first.until(lambda worker: worker.last(Committed) is not None)
        first.kill()
    monkeypatch.setattr("data_pipeline.order.best_fit.MOST_ROWS", 4)
    pack_for(config)
    with start_attempt(config, 2, tmp_path) as other:
        assert other.finish() == [1]
    assert other.failed.error_type == "ConfigMismatch"
    assert "order" in other.failed.text
