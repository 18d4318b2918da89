"""Two ranks that train under NCCL alone: no gloo anywhere, objects by way of the store, a checkpoint, and a second attempt from it."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from data_pipeline.store.local import LocalStore
from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import ResourcesConfig, RunConfig
from orchestrator.records.commit_log import open_commit_log
from orchestrator.worker.agreement import on_every_rank
from orchestrator.worker.build import build_trainer
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.world import build_world
from tests.orchestrator.worker.tiny_run import VOCAB_SIZE, create_run, free_port, proof_on, run_store_of, tiny_config

pytestmark = [
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs"),
    pytest.mark.filterwarnings("default"),  # Triton's own
]
MODEL = ModelConfig(
    vocab_size=VOCAB_SIZE,
    d_model=128,
    num_layers=2,
    layer_pattern="gdn attn",
    num_heads=4,
    head_dim=32,
    gdn_key_dim=96,
    gdn_value_dim=192,
    ffn_width=256,
    gdn_backend="torch",
)
LAYOUTS = (ParallelConfig(dp_shard=2), ParallelConfig(tp=2), ParallelConfig(cp=2))


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_two_gpus_train_save_and_resume_without_gloo(parallel: ParallelConfig, tmp_path: Path) -> None:
    """Steps 1 to 3, then to 6 from the checkpoint; the ledger proves that the ranks' votes summed up to the samples of each step."""
    config = replace(
        tiny_config(tmp_path / "store", num_steps=6),
        model=MODEL,
        parallel=parallel,
        resources=ResourcesConfig(device="cuda", workers_per_node=2),
    )
    create_run(config)
    for attempt, num_steps in ((1, 3), (2, 6)):
        settings = codec.to_json(replace(config, train=replace(config.train, num_steps=num_steps)))
        mp.spawn(_train, args=(settings, attempt, free_port(), tmp_path), nprocs=2)

    assert [(commit.attempt, commit.step) for commit in open_commit_log(run_store_of(config)).trusted()] == [(2, 6), (1, 3)]
    proof = proof_on(config)
    assert proof.ok, proof.problems


def _train(rank: int, settings: bytes, attempt: int, port: int, directory: Path) -> None:
    config = codec.from_json(RunConfig, settings)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world = build_world(config, {name: str(value) for name, value in variables.items()})
    assert {backend for backend, _ in dist.distributed_c10d._world.pg_map.values()} == {"nccl"}
    assert on_every_rank(world.exchange, lambda: rank) == rank
    assert world.exchange.gather(rank) == ([0, 1] if rank == 0 else None)

    trainer = build_trainer(
        config,
        world,
        LocalStore(directory / "store"),
        attempt_number=attempt,
        reporter=Reporter(None),
        stop=threading.Event(),
        cache_dir=directory / "cache",
    )
    assert trainer.resumed.step == (0 if attempt == 1 else 3)
    assert trainer.run().step == config.train.num_steps
    assert {backend for backend, _ in dist.distributed_c10d._world.pg_map.values()} == {"nccl"}, "nor did training make another"
    world.leave()
    sys.stdout.flush()
    os._exit(0)
