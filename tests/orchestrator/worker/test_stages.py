"""Two stages in real worker processes: the second begins where the first ended, on another layout, and then stands on its own."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.read.loader import build_loader
from data_pipeline.store.local import LocalStore
from model.build import build_model
from model.parallel.config import ParallelConfig
from model.weights.source import load_weights
from orchestrator import codec
from orchestrator.config import RunConfig, StartConfig
from orchestrator.records.ledger import read_ledger
from orchestrator.records.manifest import find_checkpoint
from orchestrator.worker.dcp import open_checkpoint
from orchestrator.worker.weights import open_weights
from tests.orchestrator.worker.tiny_run import BATCH_ROWS, create_run, proof_on, run_attempt, run_store_of, start_attempt, tiny_config


@dataclass(frozen=True)
class First:
    """The first stage: three steps on two data-parallel workers."""

    config: RunConfig
    directory: Path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    directory = tmp_path_factory.mktemp("first")
    config = tiny_config(directory / "store", dp_shard=2, num_steps=3)
    create_run(config)
    run_attempt(config, 1, directory)
    return First(config=config, directory=directory)


def second_stage(first: First, *, optimizer: str) -> RunConfig:
    """One step on two tensor-parallel workers, with another seed for weights that must not matter."""
    start = StartConfig(run="first", optimizer=optimizer)  # type: ignore[arg-type]
    train = replace(first.config.train, seed=99, num_steps=1)
    config = replace(first.config, name=f"second-{optimizer}", parallel=ParallelConfig(tp=2), start=start, train=train)
    run_store_of(config).create("config/0001.json", codec.to_json(config))
    return config


def loss_of_the_first_stages_weights(first: First, scratch: Path) -> float:
    """On the batch of step 1, by one process."""
    store, run_store = LocalStore(Path(first.config.storage.root)), run_store_of(first.config)
    module = build_model(first.config.model, None, device=torch.device("cpu"), seed=5)
    with open_weights(run_store, find_checkpoint(run_store, -1, who="run first"), scratch=scratch, progress=lambda *_: None) as weights:
        load_weights(module, weights)
    manifest = load_manifest(store, first.config.data.dataset)
    loader = build_loader(manifests=(manifest,), config=first.config.data, store=store, cache_dir=scratch, batch_rows=BATCH_ROWS)
    batch = loader.batch(1)
    loader.close()
    _, (cross_entropy, _) = module.loss_sum(batch.tokens_BT, batch.labels_BT, z_loss=first.config.optimizer.z_loss, chunk_tokens=1024)
    return cross_entropy.item() / batch.labels_BT.numel()


def optimizer_steps(config: RunConfig) -> set[float]:
    """The step counts of AdamW in the newest checkpoint."""
    reader = open_checkpoint(run_store_of(config), find_checkpoint(run_store_of(config), -1, who=config.name))
    names = [name for name in reader.metadata.state_dict_metadata if name.endswith(".step")]
    state: dict[str, Tensor] = {name: torch.zeros(()) for name in names}
    torch.distributed.checkpoint.load(state, storage_reader=reader, no_dist=True)
    return {tensor.item() for tensor in state.values()}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_new_stage_goes_on_with_the_weights_and_moments_and_counts_from_one(first: First, tmp_path: Path):
    config = second_stage(first, optimizer="keep")

    attempt = run_attempt(config, 1, tmp_path)

    assert attempt.resumed.step == 0
    (record,) = read_ledger(run_store_of(config))[1]
    assert record.step == 1
    assert record.loss == pytest.approx(loss_of_the_first_stages_weights(first, tmp_path), rel=1e-6)
    assert optimizer_steps(config) == {4.0}
    assert proof_on(config).ok


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_stage_that_has_a_checkpoint_of_its_own_needs_the_older_run_no_more(first: First, tmp_path: Path):
    shutil.copytree(first.directory / "store", tmp_path / "store")
    moved = First(config=tiny_config(tmp_path / "store", dp_shard=2, num_steps=3), directory=tmp_path)
    config = second_stage(moved, optimizer="reset")
    run_attempt(config, 1, tmp_path)
    assert optimizer_steps(config) == {1.0}
    shutil.rmtree(tmp_path / "store" / "runs" / "first")
    longer = replace(config, train=replace(config.train, num_steps=2))
    run_store_of(config).create("config/0002.json", codec.to_json(longer))

    with start_attempt(longer, 2, tmp_path, config_version=2) as second:
        assert second.finish() == [0, 0], second.log

    assert second.resumed.step == 1
    assert optimizer_steps(config) == {2.0}
