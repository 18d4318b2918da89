"""A run of several datasets and phases, killed and moved to another layout: it trains on what its plan says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import DataConfig, PhaseConfig, SourceConfig
from data_pipeline.store.local import LocalStore
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import EvalConfig, RunConfig, training_digest
from orchestrator.messages import Committed, Outcome
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.ledger import read_ledger
from orchestrator.records.manifest import read_manifest
from tests.data_pipeline.datasets import put_dataset
from tests.orchestrator.worker.tiny_run import (
    SEQ_LEN,
    VOCAB_SIZE,
    create_run,
    proof_on,
    run_store_of,
    start_attempt,
    tiny_config,
)

DATA = DataConfig(
    seq_len=SEQ_LEN,
    sources=(SourceConfig(dataset="noise", ratio=2), SourceConfig(dataset="code", ratio=1)),
    phases=(PhaseConfig(steps=2, batch_rows=2), PhaseConfig(steps=3), PhaseConfig(seq_len=2 * SEQ_LEN, ratios={"code": 1})),
)


def mixed(root: Path) -> RunConfig:
    config = replace(tiny_config(root, every_steps=2), data=DATA)
    create_run(config)
    tokens = np.random.default_rng(5).integers(0, VOCAB_SIZE, 900).tolist()
    put_dataset(LocalStore(root), tokens, name="code", vocab_size=VOCAB_SIZE)
    return config


def test_a_mixed_run_that_is_killed_and_moved_is_proved_across_the_borders_of_its_phases(tmp_path: Path):
    config = mixed(tmp_path / "store")
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
    tokens = {record.step: record.tokens for records in read_ledger(run_store_of(config)).values() for record in records}
    assert tokens == {step: SEQ_LEN * (2 if step <= 2 else 4 if step <= 5 else 8) for step in range(1, 9)}
    checkpoint = read_manifest(run_store_of(config), open_commit_log(run_store_of(config)).trusted()[0])
    assert checkpoint.training is not None
    assert checkpoint.training.order_digest
    assert checkpoint.training.data_position.index == 2 * 2 + 6 * 4


def test_rows_at_once_may_change_with_the_layout_in_every_phase(tmp_path: Path):
    config = replace(tiny_config(tmp_path), data=DATA)
    other = replace(DATA, phases=(replace(DATA.phases[0], micro_rows=2), *DATA.phases[1:]))
    assert training_digest(replace(config, data=other)) == training_digest(config)
    longer = replace(DATA, phases=(replace(DATA.phases[0], steps=3), *DATA.phases[1:]))
    assert training_digest(replace(config, data=longer)) != training_digest(config)


def test_held_out_text_is_read_in_batches_that_every_layout_can_share(tmp_path: Path):
    config = replace(tiny_config(tmp_path), data=replace(DATA, phases=tuple(replace(phase, batch_rows=4) for phase in DATA.phases)))
    odd = replace(config.train, batch_rows=7)
    assert replace(config, train=odd, parallel=ParallelConfig(dp_shard=2)).train == odd, "nobody reads such a batch"
    with pytest.raises(ValueError, match=r"train\.batch_rows=7: eval\.dataset is read in such batches; use a multiple of 2"):
        replace(config, train=odd, parallel=ParallelConfig(dp_shard=2), eval=EvalConfig(dataset="held-out"))
