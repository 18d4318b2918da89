"""Chooses the delta rule's configurations by measuring: `python -m bench.gdn_configs --head-dims 96x192 128x128`.

Each of the four kernels is tried by itself, in every tile, number of warps and of stages worth trying, on one row of 8192 tokens in
bf16. First every candidate is compiled, in processes side by side, and compared with the definition in fp64 on a shorter row: what the
compiler gets wrong, or the GPU has no room for, drops out. What is left is timed. Printed are the ranking, and what to paste into
CONFIGS of model/kernels/delta_rule/configs.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.gdn import Sizes, make_inputs
from bench.timing import describe_gpu
from model.kernels.delta_rule.chunked import gated_delta_rule_chunked
from model.kernels.delta_rule.configs import HOPPER, KernelConfig, Launch, choose_config
from model.kernels.delta_rule.launch import delta_rule_backward, delta_rule_forward
from model.kernels.delta_rule.sizes import TRITON_KEY_DIMS, TRITON_VALUE_DIMS

Kernel = Literal["prepare", "forward", "backward", "gradients"]
KERNELS: dict[Kernel, str] = {
    "prepare": "prepare_chunks",
    "forward": "scan_forward",
    "backward": "scan_backward",
    "gradients": "chunk_gradients",
}
"""By field of `KernelConfig`, the kernel's name: the profiler's too."""
TOLERANCE = 1e-2
"""Largest ‖found − exact‖ / ‖exact‖ of a right kernel; they are at 4e-3."""
CHECKED_TOKENS = 1040
"""16 whole chunks and a part of one; like 8192 a multiple of 16, for which Triton compiles apart."""
REPEATS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    kernel: Kernel
    value_block: int
    """BV; 0 for `prepare`, which has none."""
    launch: Launch

    def within(self, config: KernelConfig) -> KernelConfig:
        """The configuration with this kernel's part of it replaced."""
        match self.kernel:
            case "prepare":
                return replace(config, prepare=self.launch)
            case "forward":
                return replace(config, scan_value_block=self.value_block, forward=self.launch)
            case "backward":
                return replace(config, scan_value_block=self.value_block, backward=self.launch)
            case "gradients":
                return replace(config, gradient_value_block=self.value_block, gradients=self.launch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    parts: dict[str, Tensor]
    grad_out: Tensor
    config: KernelConfig
    """Configurations of the kernels that are not tried."""
    kept: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """What the forward leaves for the backward."""


def candidates(value_dim: int) -> list[Candidate]:
    """All that are tried. A block is a power of two that divides V: 16 where none of those worth trying does. One stage can crash."""

    def blocks(*sizes: int) -> list[int]:
        return [size for size in sizes if value_dim % size == 0] or [16]

    def launches(stages: Iterable[int]) -> list[Launch]:
        return [Launch(warps=warps, stages=count) for warps, count in product((4, 8), stages)]

    capped = [Launch(warps=4, max_registers=registers) for registers in (168, 128)]  # three and four programs on a multiprocessor
    prepare = [Candidate(kernel="prepare", value_block=0, launch=launch) for launch in [*launches((1,)), Launch(warps=2), *capped]]
    kernels: tuple[Kernel, ...] = ("forward", "backward")
    scans = [
        Candidate(kernel=kernel, value_block=block, launch=launch)
        for kernel, block, launch in product(kernels, blocks(32, 64, 128), launches(range(2, 5)))
    ]
    gradients = [
        Candidate(kernel="gradients", value_block=block, launch=launch) for block, launch in product(blocks(32, 64), launches(range(2, 5)))
    ]
    return prepare + scans + gradients


def choose(times_us: Mapping[Candidate, float]) -> KernelConfig:
    """The fastest of each kernel; of the scans, which share their block, the fastest pair. ValueError where there is none."""
    prepare, forward, backward, gradients = (_fastest_by_block(kernel, times_us) for kernel in KERNELS)
    pairs = [(forward[block], backward[block]) for block in forward if block in backward]
    for found, name in ((prepare, "prepare_chunks"), (pairs, "the scans in one value block"), (gradients, "chunk_gradients")):
        if not found:
            raise ValueError(f"{name}: no candidate is left; the ranking says why. Try another Triton, or more candidates")
    forwards, backwards = min(pairs, key=lambda pair: times_us[pair[0]] + times_us[pair[1]])
    best_prepare, best_gradients = (min(found.values(), key=times_us.__getitem__) for found in (prepare, gradients))
    return KernelConfig(
        scan_value_block=forwards.value_block,
        gradient_value_block=best_gradients.value_block,
        prepare=best_prepare.launch,
        forward=forwards.launch,
        backward=backwards.launch,
        gradients=best_gradients.launch,
    )


def _fastest_by_block(kernel: Kernel, times_us: Mapping[Candidate, float]) -> dict[int, Candidate]:
    """The slowest first, so that the fastest of each block is what stays."""
    slowest_first = sorted((one for one in times_us if one.kernel == kernel), key=times_us.__getitem__, reverse=True)
    return {one.value_block: one for one in slowest_first}


def ranking(times_us: Mapping[Candidate, float], faults: Mapping[Candidate, str]) -> str:
    """By kernel, the fastest first; then what dropped out, and why."""
    lines = []
    for kernel, name in KERNELS.items():
        lines.append(f"{name:<18}{'µs':>10}{'BV':>6}{'warps':>7}{'stages':>8}{'registers':>11}")
        timed = sorted((one for one in times_us if one.kernel == kernel), key=times_us.__getitem__)
        lines += [_row(one, f"{times_us[one]:.1f}") for one in timed]
        lines += [_row(one, "-") + f"   {fault}" for one, fault in faults.items() if one.kernel == kernel]
    return "\n".join(lines)


def _row(one: Candidate, time: str) -> str:
    launch = one.launch
    return f"{'':18}{time:>10}{one.value_block or '':>6}{launch.warps:>7}{launch.stages:>8}{launch.max_registers or '':>11}".rstrip()


def entry(*, architecture: int, sizes: Sizes, config: KernelConfig, times_us: Mapping[Candidate, float], measured_on: str) -> str:
    """Lines of CONFIGS."""
    chosen = [one for one in times_us if one.within(config) == config]
    took = ", ".join(f"{one.kernel} {times_us[one]:.0f}" for one in chosen)
    launches = [f"        {kernel}={_launch(getattr(config, kernel))}," for kernel in KERNELS]
    return "\n".join(
        [
            f"    # {measured_on}, {sizes}:",
            f"    # {took} µs.",
            f"    ({'HOPPER' if architecture == HOPPER else architecture}, {sizes.key_dim}, {sizes.value_dim}): KernelConfig(",
            f"        scan_value_block={config.scan_value_block},",
            f"        gradient_value_block={config.gradient_value_block},",
            *launches,
            "    ),",
        ]
    )


def _launch(launch: Launch) -> str:
    stages = f", stages={launch.stages}" if launch.stages > 1 else ""
    registers = f", max_registers={launch.max_registers}" if launch.max_registers else ""
    return f"Launch(warps={launch.warps}{stages}{registers})"


def build_problem(sizes: Sizes, device: torch.device) -> Problem:
    leaves, grad_out = make_inputs(sizes, device, torch.bfloat16)
    parts = {name: x.detach() for name, x in leaves.items()}
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    config = choose_config(architecture=10 * major + minor, key_dim=sizes.key_dim, value_dim=sizes.value_dim, is_exact=False)
    q, k, v, log_decay, beta = parts.values()
    kept = delta_rule_forward(q, k, v, log_decay, beta, None, None, False, config=config)[2:]
    return Problem(parts=parts, grad_out=grad_out, config=config, kept=kept)


def run(problem: Problem, candidate: Candidate) -> dict[str, Tensor]:
    """What comes of the direction that the kernel belongs to: the output, or the gradients."""
    config, (q, k, v, log_decay, beta) = candidate.within(problem.config), problem.parts.values()
    if candidate.kernel in ("prepare", "forward"):
        return {"out": delta_rule_forward(q, k, v, log_decay, beta, None, None, False, config=config)[0]}
    gradients = delta_rule_backward(problem.grad_out, None, q, k, v, *problem.kept, None, False, config=config)
    return {f"gradient of {name}": gradient for name, gradient in zip(problem.parts, gradients, strict=False)}


def exact_results(problem: Problem) -> dict[str, Tensor]:
    parts = {name: x.double().requires_grad_() for name, x in problem.parts.items()}
    q, k, v, log_decay, beta = parts.values()
    out = gated_delta_rule_chunked(q=q, k=k, v=v, log_decay=log_decay, beta=beta)
    gradients = torch.autograd.grad(out, list(parts.values()), problem.grad_out.double())
    return {"out": out.detach()} | {f"gradient of {name}": gradient for name, gradient in zip(parts, gradients, strict=True)}


@lru_cache(maxsize=1)
def _short_problem(sizes: Sizes, device: torch.device) -> tuple[Problem, dict[str, Tensor]]:
    problem = build_problem(sizes, device)
    return problem, exact_results(problem)


def find_fault(sizes: Sizes, candidate: Candidate, device: torch.device) -> str:
    """Compiles and runs the candidate; what is wrong with it, "" if nothing is. After a crash of the GPU its process says so of all."""
    try:
        problem, exact = _short_problem(sizes, device)
        found = run(problem, candidate)
        distances = {name: ((x.double() - exact[name]).norm() / exact[name].norm()).item() for name, x in found.items()}
    except Exception as error:  # noqa: BLE001 whatever compiler, driver or kernel throws is the finding
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    return ", ".join(f"{name} is {distance:.1e} off" for name, distance in distances.items() if not distance <= TOLERANCE)


def find_faults(tried: Mapping[Sizes, Sequence[Candidate]], device: torch.device) -> dict[Sizes, dict[Candidate, str]]:
    """Compiles every candidate on short rows, in processes side by side; Triton's cache on disk keeps the results for this one."""
    num_workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {
            sizes: {one: pool.submit(find_fault, replace(sizes, num_tokens=CHECKED_TOKENS), one, device) for one in ones}
            for sizes, ones in tried.items()
        }
        return {sizes: {one: _fault_of(future) for one, future in futures.items()} for sizes, futures in waiting.items()}


def _fault_of(future: Future[str]) -> str:
    try:
        return future.result()
    except BrokenProcessPool:
        return "not tried: a compiling process died, with this candidate or another"


def time_us(problem: Problem, candidate: Candidate) -> float:
    """Device seconds of the candidate's kernel alone, the median of REPEATS. Raises RuntimeError where the profiler does not see it."""
    for _ in range(3):
        run(problem, candidate)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(REPEATS):
            run(problem, candidate)
        torch.cuda.synchronize()
    name = KERNELS[candidate.kernel]
    times = [event.time_range.elapsed_us() for event in profiler.events() if event.name == name and event.device_type == DeviceType.CUDA]
    if not times:
        raise RuntimeError(f"torch's profiler saw no {name} on the GPU; run where CUPTI may trace it")
    return statistics.median(times)


def time_all_us(sizes: Sizes, right: Sequence[Candidate]) -> dict[Candidate, float]:
    if not right:
        return {}
    problem = build_problem(sizes, torch.device("cuda"))
    return {one: time_us(problem, one) for one in right}


def tune(sizes: Sizes, faults: Mapping[Candidate, str]) -> None:
    """Prints the ranking and the entry. ValueError where a kernel has no candidate left."""
    major, minor = torch.cuda.get_device_capability()
    right = [one for one, fault in faults.items() if not fault]
    _tell(f"{sizes}: {len(right)} of {len(faults)} candidates are right; timing them")
    times_us = time_all_us(sizes, right)
    print(f"{sizes}, bf16\n{ranking(times_us, {one: fault for one, fault in faults.items() if fault})}", flush=True)
    config = choose(times_us)
    print(entry(architecture=10 * major + minor, sizes=sizes, config=config, times_us=times_us, measured_on=describe_gpu()), flush=True)


def parse_head_dims(text: str) -> Sizes:
    """From 96x192, with the heads of the model that has such. Raises ArgumentTypeError."""
    key_dim, _, value_dim = text.partition("x")
    if not (key_dim.isdigit() and value_dim.isdigit() and int(key_dim) in TRITON_KEY_DIMS and int(value_dim) in TRITON_VALUE_DIMS):
        known = "K of 32 to 128 in steps of 16, or 256, and V of 16 to 256 in steps of 16"
        raise argparse.ArgumentTypeError(f"{text!r}: give {known}: 96x192")
    return Sizes(num_heads=30 if text == "96x192" else 32, key_dim=int(key_dim), value_dim=int(value_dim))


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gdn_configs", description=(__doc__ or "").partition("\n")[0])
    default = [parse_head_dims(text) for text in ("96x192", "128x128", "128x256")]
    parser.add_argument("--head-dims", nargs="+", type=parse_head_dims, default=default, metavar="KxV", help="as in 96x192 128x128")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        _tell("bench.gdn_configs chooses by measuring, and there is no CUDA GPU here; run it on one of the kind to train on")
        return 2
    tried = {sizes: candidates(sizes.value_dim) for sizes in options.head_dims}
    _tell(f"compiling {sum(map(len, tried.values()))} candidates")
    status = 0
    for sizes, faults in find_faults(tried, torch.device("cuda")).items():
        try:
            tune(sizes, faults)
        except ValueError as error:
            _tell(f"{sizes}: {error}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
