"""A whole training step, ours and with flash-linear-attention's kernels: `python -m bench.train_step`.

On a GPU: eight layers of Olmo Hybrid 7B (2.4 B parameters), 2 rows of 8192 tokens, bf16. Without one, the tiny preset, so that the
command can be tried. Each candidate runs in a process of its own, with empty caches of compiled kernels: its first step is a cold one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist

from model.batch import build_batches
from model.config import ComputeConfig, ModelConfig, OptimizerConfig, ParallelConfig
from model.mesh import build_mesh
from model.optim import build_optimizer
from model.parallelize import build_model
from model.parameters import flops_per_token, num_params
from model.presets import PRESETS
from model.step import train_step

PEAK_FLOPS = 989e12
"""Dense bf16 of one H100 or H200, for the model FLOPs utilisation."""
NUM_STEPS = 20
CANDIDATES = {
    "cuda": {"fla": ("fla", False), "ours": ("triton", False), "fla, compiled": ("fla", True), "ours, compiled": ("triton", True)},
    "cpu": {"torch": ("torch", False)},
}
"""By device: the delta rule's backend, and whether blocks are compiled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    model: ModelConfig
    num_rows: int
    num_tokens: int


def workload(device_type: str) -> Workload:
    if device_type == "cpu":
        return Workload(model=PRESETS["tiny"], num_rows=2, num_tokens=256)
    return Workload(model=replace(PRESETS["olmo_hybrid_7b"], num_layers=8), num_rows=2, num_tokens=8192)


Backend = Literal["auto", "torch", "fla", "triton"]


def measure(backend: Backend, compiles: bool, device_type: str) -> dict[str, float]:
    """Seconds of the first step and the median of later ones, and the most memory; in a process without a default process group."""
    work, device = workload(device_type), torch.device(device_type)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = build_mesh(ParallelConfig(), device_type)
    compute = ComputeConfig(compile=compiles)
    dtype = torch.bfloat16 if device_type == "cuda" else torch.float32
    model = build_model(replace(work.model, gdn_backend=backend), mesh, device=device, seed=0, compute=compute, compute_dtype=dtype)
    config = OptimizerConfig()
    optimizer = build_optimizer(model, config)
    tokens = torch.randint(work.model.vocab_size, (work.num_rows, work.num_tokens + 1))
    batches = build_batches(
        tokens_BT=tokens[:, :-1], labels_BT=tokens[:, 1:], offsets_P=None, micro_rows=work.num_rows, mesh=mesh, device=device
    )
    seconds = []
    for _ in range(NUM_STEPS):
        start_s = time.perf_counter()
        train_step(model, optimizer, batches, lr=1e-5, config=config, chunk_tokens=compute.loss_chunk_tokens, mesh=mesh)
        seconds.append(time.perf_counter() - start_s)  # the step ends with a synchronisation
    peak_bytes = torch.cuda.max_memory_allocated() if device_type == "cuda" else 0
    dist.destroy_process_group()
    return {"first_s": seconds[0], "step_s": statistics.median(seconds[NUM_STEPS // 4 :]), "peak_bytes": peak_bytes}


def measure_cold(backend: str, compiles: bool, device_type: str) -> dict[str, Any]:
    """`measure` in a new process with empty caches; raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as caches:
        variables = os.environ | {"TRITON_CACHE_DIR": f"{caches}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
        command = [sys.executable, "-m", "bench.train_step", "--one", backend, str(int(compiles)), device_type]
        done = subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def show(measured: Mapping[str, Mapping[str, float]], work: Workload) -> None:
    tokens = work.num_rows * work.num_tokens
    flops = flops_per_token(work.model, work.num_tokens) * tokens
    base_s = next(iter(measured.values()))["step_s"]
    print(f"training step, {num_params(work.model):,} parameters, {work.num_rows} × {work.num_tokens} tokens")
    for name, found in measured.items():
        step_s = found["step_s"]
        utilisation = f"{flops / step_s / PEAK_FLOPS:6.1%} of peak" if found["peak_bytes"] else ""
        rate = f"{tokens / step_s:10,.0f} tokens/s {base_s / step_s:6.2f} ×"
        print(f"  {name:<16}{rate}  first step {found['first_s']:7.1f} s  {found['peak_bytes'] / 2**30:6.1f} GiB {utilisation}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train_step", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("BACKEND", "COMPILES", "DEVICE"), help="measure one candidate here and print JSON")
    options = parser.parse_args()
    if options.one:
        backend, compiles, device_type = options.one
        print(json.dumps(measure(backend, compiles == "1", device_type)))
        return
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    show({name: measure_cold(*how, device_type) for name, how in CANDIDATES[device_type].items()}, workload(device_type))


if __name__ == "__main__":
    main()
