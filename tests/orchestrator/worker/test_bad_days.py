"""A whole run, from data to checkpoints, through an S3 server that has bad days: it comes out as one that had none."""

import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.messages import Beat, CheckpointLost, Outcome
from orchestrator.records.ledger import StepRecord, read_ledger
from tests.data_pipeline.datasets import put_dataset
from tests.data_pipeline.store.conftest import ceph, faulty_s3, s3_server, spoiled_bucket
from tests.fakes.faulty_s3 import FaultyS3, failing, flipped, portal, reset_after, reset_before, silent, throttled, truncated
from tests.orchestrator.worker.tiny_run import VOCAB_SIZE, proof_on, run_attempt, run_store_of, start_attempt, timeless, tiny_config

__all__ = ["ceph", "faulty_s3", "s3_server", "spoiled_bucket"]

pytestmark = pytest.mark.timeout(120)
NUM_STEPS = 20


def a_run(storage: StorageConfig) -> RunConfig:
    """With a dataset of six shards in its store."""
    config = replace(tiny_config(Path(), num_steps=NUM_STEPS, every_steps=5), storage=storage)
    shards = [np.random.default_rng(number).integers(0, VOCAB_SIZE, 40_000).tolist() for number in range(6)]
    put_dataset(open_store(storage), *shards, name="noise", vocab_size=VOCAB_SIZE)
    run_store_of(config).create("config/0001.json", codec.to_json(config))
    return config


def steps_of(config: RunConfig) -> list[StepRecord]:
    (records,) = read_ledger(run_store_of(config)).values()
    return [timeless(record) for record in records]


@pytest.fixture
def undisturbed(tmp_path: Path) -> list[StepRecord]:
    """The records of a run that had no trouble."""
    (tmp_path / "good").mkdir()
    config = a_run(StorageConfig(root=str(tmp_path / "store")))
    assert run_attempt(config, 1, tmp_path / "good").ended.outcome is Outcome.FINISHED
    return steps_of(config)


def on_s3(faulty_s3: FaultyS3, *, deadline_s: float) -> RunConfig:
    root = f"s3://braid-faults/{uuid.uuid4().hex}"
    return a_run(StorageConfig(root=root, endpoint_url=faulty_s3.endpoint_url, deadline_s=deadline_s))


def assert_proved(config: RunConfig, records: list[StepRecord]) -> None:
    """That a run has these records, and trained on what its dataset holds."""
    assert steps_of(config) == records
    proof = proof_on(config)
    assert proof.line.startswith(f"VERIFIED run first: {NUM_STEPS} steps"), proof.problems
    assert proof.line.endswith("nothing skipped or repeated, every token as in the dataset")


@pytest.mark.usefixtures("spoiled_bucket")
def test_a_run_through_every_trouble_is_verified_and_the_same_as_one_without(
    faulty_s3: FaultyS3, undisturbed: list[StepRecord], tmp_path: Path
):
    config = on_s3(faulty_s3, deadline_s=8.0)
    for fault in (throttled(), truncated, flipped(bit=9), silent, throttled(), flipped(bit=77), portal(), truncated, flipped(bit=3)):
        faulty_s3.spoil(fault, method="GET", key="datasets/noise/shards", times=1)
    for fault in (failing(500), reset_after, throttled(retry_after="1"), reset_before):
        faulty_s3.spoil(fault, method="PUT", times=2)
    with start_attempt(config, 1, tmp_path) as attempt:
        assert attempt.finish() == [0], attempt.log
    # one of the three flipped answers may come when the client has given its request up
    assert attempt.log.count("what came is not what the dataset has, it is fetched again") >= 2
    assert_proved(config, undisturbed)


@pytest.mark.usefixtures("spoiled_bucket")
def test_a_run_whose_server_is_down_for_20_s_goes_on_as_if_it_had_not_been(
    faulty_s3: FaultyS3, undisturbed: list[StepRecord], tmp_path: Path
):
    config = on_s3(faulty_s3, deadline_s=60.0)
    with start_attempt(config, 1, tmp_path) as attempt:
        attempt.until(lambda worker: isinstance(beat := worker.last(Beat), Beat) and beat.step >= 7)
        faulty_s3.go_down()
        time.sleep(20.0)
        assert attempt.workers[0].process.poll() is None, "it waits"
        faulty_s3.come_up()
        assert attempt.finish() == [0], attempt.log
        assert attempt.workers[0].last(CheckpointLost) is None, "no checkpoint is given up"
    assert_proved(config, undisturbed)
