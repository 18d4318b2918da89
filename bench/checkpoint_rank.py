"""One rank of `bench.checkpoint`: the model, the real training step, and the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from bench.train_step import build_on_device, require_right
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from model.parallel.mesh import build_mesh
from model.presets import PRESETS
from model.self_check import find_wrong_kernel
from model.train.batch import build_batches
from model.train.metrics import StepMetrics
from model.train.step import train_step
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.training_state import training_state

PATIENCE = timedelta(seconds=300)
MODELS = {"small": replace(PRESETS["tiny"], vocab_size=32768, d_model=256, ffn_width=704), **PRESETS}
"""`small` has steps that a CPU makes in a fraction of a second, and more state than its caches hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    model: ModelConfig
    num_rows: int
    num_tokens: int


def workload(device_type: str, preset: str, num_layers: int) -> Workload:
    """Rows of each rank: many tokens on a GPU, few on a CPU, where state is what matters."""
    model = MODELS[preset]
    model = replace(model, num_layers=num_layers) if num_layers else model
    return Workload(model=model, num_rows=2, num_tokens=8192) if device_type == "cuda" else Workload(model=model, num_rows=1, num_tokens=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One process that trains, and what its step needs."""

    number: int
    world_size: int
    device: torch.device
    state: dict[str, Tensor]
    step: Callable[[list[float]], tuple[StepMetrics, list[float]]]
    """Trains one, with the sums of what the ranks vote."""
    before_update: Callable[[Callable[[], None]], object]
    """What is given is called before each update from now on."""
    store: dist.Store

    def say(self, line: str) -> None:
        if self.number == 0:
            print(line, file=sys.stderr, flush=True)

    def exchange(self, name: str) -> Exchange:
        return Exchange(dist.PrefixStore(name, self.store.clone()), rank=self.number, world_size=self.world_size)  # type: ignore[attr-defined]

    def together(self) -> None:
        """Returns when every rank has come and no device has anything left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier()


def join(preset: str, num_layers: int) -> Rank:
    """This process as RANK, WORLD_SIZE and MASTER_PORT say, on this host."""
    number, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda", number) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), world_size, number == 0, PATIENCE)
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"  # torch's own saving asks for both
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=number, world_size=world_size, timeout=PATIENCE)
    work = workload(device_type, preset, num_layers)
    parallel, compute, config = ParallelConfig(dp_shard=world_size), ComputeConfig(), OptimizerConfig()
    mesh = build_mesh(parallel, device_type)
    if device_type == "cuda":
        require_right(find_wrong_kernel(work.model, parallel, device=device, is_packed=False))
    model = build_on_device(work.model, mesh, compute=compute, device=device)
    optimizer = build_optimizer(model, model.declared, config)
    tokens = torch.randint(work.model.vocab_size, (work.num_rows, work.num_tokens + 1))

    def step(votes: list[float]) -> tuple[StepMetrics, list[float]]:
        batches = build_batches(
            tokens_BT=tokens[:, :-1], labels_BT=tokens[:, 1:], offsets_P=None, micro_rows=work.num_rows, mesh=mesh, device=device
        )
        chunk_tokens = compute.loss_chunk_tokens
        return train_step(model, optimizer, batches, lr=1e-5, config=config, chunk_tokens=chunk_tokens, mesh=mesh, votes=votes)

    return Rank(
        number=number,
        world_size=world_size,
        device=device,
        state=training_state(model, optimizer),
        step=step,
        before_update=lambda call: optimizer.register_step_pre_hook(lambda *_: call()),
        store=store,
    )
