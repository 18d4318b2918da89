"""Runs as they lie in a store, made by the same code that real ones are made by, without workers."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, manifest_key, manifest_to_json
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore
from launch.config.load import load_config
from launch.config.storage import storage_of
from launch.runs.record import create_run, read_run, recorded_status, run_store_of
from model.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import RunConfig, training_digest
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.control.history import open_history
from orchestrator.messages import Outcome
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.ledger import StepRecord, segment_key
from orchestrator.records.manifest import CheckpointManifest, DataPosition, FileDigest, TrainingTerms, write_manifest
from tests.orchestrator.control.stories import committed, ended, failed, fault, gone, placed, resumed, stepped, stop

RUNNING: tuple[Event, ...] = (placed(1, "ab"), resumed(1, 0), stepped(1, 1), committed(1, 20))
"""One attempt on two nodes, with a checkpoint of step 20."""
FINISHED: tuple[Event, ...] = (
    placed(1, "ab"),
    resumed(1, 0),
    stepped(1, 1),
    committed(1, 20),
    failed(1, fault(Cause.KILLED, "b", rank=1), at_step=33),
    gone(1),
    placed(2, "ac"),
    resumed(2, 20),
    stepped(2, 21),
    committed(2, 40),
    ended(2, Outcome.FINISHED, 40),
    gone(2),
)
"""One worker is killed after step 33 and the run goes on from step 20 to its end at step 40."""
STOPPED: tuple[Event, ...] = (*FINISHED[:4], committed(1, 25), stop(), ended(1, Outcome.STOPPED, 25), gone(1))
"""Stopped on request at step 25 of its first attempt."""


def config_at(root: Path, *overrides: str) -> RunConfig:
    return load_config("tiny", ["name=first", f"storage.root={root}", *overrides])


def store_at(root: Path) -> ObjectStore:
    return open_store(storage_of(str(root)))


def stored_run(root: Path, events: Sequence[Event] = (), *overrides: str) -> RunConfig:
    """A run that was submitted, and to which `events` then happened."""
    config = config_at(root, *overrides)
    create_run(store_at(root), config, at_s=1.0)
    history = open_history(run_store_of(store_at(root), config.name))
    for second, event in enumerate(events, start=2):
        history.append(event if event.at_s else replace(event, at_s=float(second)))
    return config


def put_steps(
    root: Path,
    attempt: int,
    steps: range,
    samples: Callable[[int], str] = str,
    tokens: Callable[[int], str] = lambda step: "",
    **changes: Any,
) -> None:
    """Records of the steps of an attempt: step n has loss 9 − n / 10, and `changes` what else they are to say."""
    records = [
        replace(
            StepRecord(
                step=step,
                attempt=attempt,
                loss=9.0 - step / 10,
                grad_norm=1.0,
                tokens=1024,
                samples=samples(step),
                layout=ParallelConfig(dp_shard=2),
                deterministic=True,
                setting="default",
                token_digest=tokens(step),
            ),
            **changes,
        )
        for step in steps
    ]
    data = b"".join(codec.to_json(record) + b"\n" for record in records)
    run_store_of(store_at(root), "first").create(segment_key(attempt, steps[0], steps[-1]), data)


def put_checkpoint(root: Path, config: RunConfig, *, attempt: int, step: int) -> None:
    """A committed checkpoint of one small file."""
    run_store = run_store_of(store_at(root), config.name)
    data = f"weights after step {step}".encode()
    run_store.put(checkpoint_directory(step, attempt) + "__0_0.distcp", data)
    manifest = CheckpointManifest(
        run=config.name,
        attempt=attempt,
        step=step,
        origin="trained",
        model=config.model,
        training=TrainingTerms(
            data_position=DataPosition(epoch=0, index=step),
            layout=config.parallel,
            training_digest=training_digest(config),
            dataset_digest="0" * 64,
        ),
        files=(FileDigest(name="__0_0.distcp", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),),
        torch_version="2.13.0",
        created_at_s=float(step),
    )
    log = open_commit_log(run_store)
    log.fence(attempt)
    log.commit(write_manifest(run_store, manifest))


def put_dataset(root: Path, vocab_size: int = 4096) -> DatasetManifest:
    """A dataset under the default name, whose shard holds nothing but eos and is not what its digest says."""
    shard = ShardRef(key="datasets/python-stdlib/shards/0.bin", num_tokens=100_000, size_bytes=200_000, sha256="0" * 64)
    manifest = DatasetManifest(
        name="python-stdlib",
        dtype="uint16",
        eos_id=0,
        vocab_size=vocab_size,
        tokenizer_key="datasets/python-stdlib/t.json",
        shards=(shard,),
    )
    store_at(root).put(shard.key, bytes(shard.size_bytes))
    store_at(root).put(manifest_key(manifest.name), manifest_to_json(manifest))
    return manifest


def status_of(root: Path, **changes: object) -> dict[str, Any]:
    """The recorded status of the run `first`, with some of its values changed."""
    return recorded_status(read_run(config_at(root).storage, "first"), 100.0) | changes
