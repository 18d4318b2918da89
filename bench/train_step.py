"""A whole training step, ours and OLMo-core's: `python -m bench.train_step`.

On a GPU: eight layers of Olmo Hybrid 7B (2.4 B parameters), 2 rows of 8192 tokens, bf16. Without one, the tiny preset, so that the
command can be tried. Each candidate runs in a process of its own, with empty caches of compiled kernels: its first step is a cold one,
and ours counts the self-check, as a worker begins with it. OLMo-core is left out where it is not installed (pip install ai2-olmo-core).
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist

from bench.fla_guard import lift_fla_guard
from bench.timing import describe_gpu
from model.build import shard_model
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.costs.flops import flops_per_token
from model.kernels.delta_rule.sizes import Backend
from model.lm import HybridLM
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from model.parallel.collectives import local
from model.parallel.config import ParallelConfig
from model.parallel.mesh import Mesh, build_mesh
from model.parameters import num_params
from model.presets import PRESETS
from model.self_check import find_wrong_kernel
from model.train.batch import build_batches
from model.train.step import train_step

PEAK_FLOPS = 989e12
"""Dense bf16 of one H100 or H200, for the model FLOPs utilisation."""
NUM_STEPS = 20
CANDIDATES = {
    "cuda": {
        "OLMo-core": ("olmo_core", True),
        "ours": ("triton", False),
        "ours, compiled": ("triton", True),
        "ours, on fla's kernels": ("fla", False),
    },
    "cpu": {"torch": ("torch", False)},
}
"""By device: whose step, or the delta rule's backend in ours, and whether blocks are compiled. Ratios are to the first that ran."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    model: ModelConfig
    num_rows: int
    num_tokens: int


def workload(device_type: str) -> Workload:
    if device_type == "cpu":
        return Workload(model=PRESETS["tiny"], num_rows=2, num_tokens=256)
    return Workload(model=replace(PRESETS["olmo_hybrid_7b"], num_layers=8), num_rows=2, num_tokens=8192)


def measure(backend: Backend, compiles: bool, device_type: str) -> list[float]:
    """Seconds of each step, of the first with the self-check; in a process without a default process group."""
    work, device = workload(device_type), torch.device("cuda", 0) if device_type == "cuda" else torch.device(device_type)
    if device_type == "cuda":
        torch.cuda.set_device(device)
        lift_fla_guard()
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel, compute, config = ParallelConfig(), ComputeConfig(compile=compiles), OptimizerConfig()
    mesh = build_mesh(parallel, device_type)
    model = build_on_device(replace(work.model, gdn_backend=backend), mesh, compute=compute, device=device)
    optimizer = build_optimizer(model, model.declared, config)
    tokens = torch.randint(work.model.vocab_size, (work.num_rows, work.num_tokens + 1))
    seconds = []
    for step in range(NUM_STEPS):
        start_s = time.perf_counter()
        if step == 0 and device_type == "cuda":
            require_right(find_wrong_kernel(replace(work.model, gdn_backend=backend), parallel, device=device, is_packed=False))
            print(f"self-check: {time.perf_counter() - start_s:.1f} s", file=sys.stderr, flush=True)
        batches = build_batches(
            tokens_BT=tokens[:, :-1], labels_BT=tokens[:, 1:], offsets_P=None, micro_rows=work.num_rows, mesh=mesh, device=device
        )
        train_step(model, optimizer, batches, lr=1e-5, config=config, chunk_tokens=compute.loss_chunk_tokens, mesh=mesh)
        seconds.append(time.perf_counter() - start_s)  # a step waits for its own gradient, so for the update of the one before
    dist.destroy_process_group()
    return seconds


def build_on_device(model_config: ModelConfig, mesh: Mesh, *, compute: ComputeConfig, device: torch.device) -> HybridLM:
    """With weights that are drawn there at once: `build_model` draws them on the CPU, the same in every layout."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = shard_model(model_config, mesh, device=device, compute=compute, compute_dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            shard = local(parameter)
            shard.normal_(0, 0.02) if parameter.ndim > 1 else shard.fill_(1)
    return model


def require_right(wrong: str) -> None:
    if wrong:
        raise SystemExit(wrong)


def measure_one(candidate: str, compiles: bool, device_type: str) -> dict[str, float]:
    """Seconds of the first step and the median of later ones, and the most memory."""
    if candidate == "olmo_core":
        from bench.olmo_core import measure_peer_step

        work = workload(device_type)
        seconds = measure_peer_step(
            num_layers=work.model.num_layers, num_rows=work.num_rows, num_tokens=work.num_tokens, num_steps=NUM_STEPS
        )
    else:
        seconds = measure(cast(Backend, candidate), compiles, device_type)
    peak_bytes = torch.cuda.max_memory_allocated() if device_type == "cuda" else 0
    return {"first_s": seconds[0], "step_s": statistics.median(seconds[NUM_STEPS // 4 :]), "peak_bytes": peak_bytes}


def measure_cold(candidate: str, compiles: bool, device_type: str) -> dict[str, Any] | None:
    """`measure_one` in a new process with empty caches; None where it can't run, and says why."""
    with tempfile.TemporaryDirectory() as caches:
        variables = os.environ | {"TRITON_CACHE_DIR": f"{caches}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
        command = [sys.executable, "-m", "bench.train_step", "--one", candidate, str(int(compiles)), device_type]
        done = subprocess.run(command, env=variables, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{candidate}: exit status {done.returncode}; left out", file=sys.stderr, flush=True)
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def title(work: Workload) -> str:
    where = describe_gpu() if torch.cuda.is_available() else "cpu"
    return f"training step, {num_params(work.model):,} parameters, {work.num_rows} × {work.num_tokens} tokens, {where}"


def line(name: str, found: Mapping[str, float], base_s: float, work: Workload) -> str:
    tokens, step_s = work.num_rows * work.num_tokens, found["step_s"]
    flops = flops_per_token(work.model, work.num_tokens) * tokens
    utilisation = f"{flops / step_s / PEAK_FLOPS:6.1%} of peak" if found["peak_bytes"] else ""
    rate = f"{tokens / step_s:10,.0f} tokens/s {base_s / step_s:6.2f} ×"
    return f"  {name:<24}{rate}  first step {found['first_s']:7.1f} s  {found['peak_bytes'] / 2**30:6.1f} GiB {utilisation}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where ours didn't run, or nothing."""
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    candidates = CANDIDATES[device_type]
    parser = argparse.ArgumentParser(prog="python -m bench.train_step", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=list(candidates), help="may be given again; all where none is")
    parser.add_argument("--one", nargs=3, metavar=("CANDIDATE", "COMPILES", "DEVICE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        candidate, compiles, device_type = options.one
        print(json.dumps(measure_one(candidate, compiles == "1", device_type)))
        return 0
    work, base_s, is_whole = workload(device_type), 0.0, True
    for name in options.only or candidates:
        found = measure_cold(*candidates[name], device_type)
        if found is None:
            is_whole &= candidates[name][0] in ("olmo_core", "fla")  # a peer that doesn't run here is a finding
            continue
        if not base_s:  # not before: what tells the GPU's name takes memory on it
            base_s = found["step_s"]
            print(title(work))
        print(line(name, found, base_s, work), flush=True)
    return 0 if is_whole and base_s else 1


if __name__ == "__main__":
    sys.exit(main())
