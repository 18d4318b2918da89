"""Whether a machine computes what it should: every kernel of a step, forward and backward, against its definition in fp64.

What a bad GPU or a compiler's mistake costs otherwise is a run: wrong gradients train, for a while. It takes seconds, most of them
spent on compiling kernels that the training then finds compiled.
"""

import importlib.metadata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

from model.config import ModelConfig
from model.ffn.swiglu.checks import swiglu_checks
from model.kernel_check import CheckTerms, Compute, KernelCheck
from model.layers.checks import layer_checks
from model.mixers.registry import MIXERS
from model.optim.checks import adamw_checks
from model.parallel.config import ParallelConfig

TOLERANCE = 2e-2
"""Largest ‖found − exact‖ / ‖exact‖ of a tensor in bf16. Right kernels stay under 1e-2; a wrong tile or a broken unit is 1e-1 and more."""
NUM_TOKENS = 1024


def runs_kernels(model: ModelConfig, device: torch.device) -> bool:
    """Whether anything of a step on this device is a kernel rather than plain torch, which is the definition."""
    return device.type != "cpu" or any(MIXERS[kind].runs_kernels(model, device.type) for kind in set(model.layer_kinds))


def find_wrong_kernel(
    model: ModelConfig, parallel: ParallelConfig, *, device: torch.device, is_packed: bool = True, num_tokens: int = NUM_TOKENS
) -> str:
    """One line that names the kernel, the tensor and how far off it is; "" if every kernel is right, run after run.

    Checked are the kernels of one rank of `parallel`, with its share of the heads. `is_packed`: rows hold several documents.
    """
    terms = CheckTerms(parallel=parallel, device=device, is_packed=is_packed, num_tokens=num_tokens)
    checks = list(_checks(model, terms))
    num_threads = 1 if device.type == "cpu" else len(checks)  # most of the time goes to compilers, which run side by side
    with ThreadPoolExecutor(num_threads) as pool:
        for check, wrong in zip(checks, list(pool.map(_examine(device), checks)), strict=True):
            if wrong:
                about = "".join(f"{part}, " for part in (check.about,) if part)
                return f"{_name(device)}: {check.name}, {wrong}; {about}torch {torch.__version__}{_triton_version()}"
    return ""


def _checks(model: ModelConfig, terms: CheckTerms) -> Iterator[KernelCheck]:
    """Each kernel once, though several kinds of layer of one part may run it."""
    yield from layer_checks(model.d_model, terms)
    yield from swiglu_checks(model.ffn_width, terms)
    mixers = [MIXERS[kind] for kind in dict.fromkeys(model.layer_kinds)]
    yield from {(mixer.part, check.name): check for mixer in mixers for check in mixer.checks(model, terms)}.values()
    yield from adamw_checks(terms)


def _examine(device: torch.device) -> Callable[[KernelCheck], str]:
    """What is wrong with one kernel, in a thread of its own: its device, and its backward too, which torch would do in another one."""

    def examine(check: KernelCheck) -> str:
        try:
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), torch.autograd.set_multithreading_enabled(False):
                return _compare(check)
        except Exception as error:  # noqa: BLE001 whatever driver, compiler or kernel throws is the finding
            return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"

    return examine


def _compare(check: KernelCheck) -> str:
    """What is wrong; "" if nothing is."""
    found, again = (_run(check.compute, check.inputs) for _ in range(2))
    exact = _run(check.exact, {name: x.double() for name, x in check.inputs.items()})
    for name, x in found.items():
        distance = ((x.double() - exact[name]).norm() / exact[name].norm()).item()
        if not distance <= TOLERANCE:
            return f"{name}: {distance:.2g} off, {TOLERANCE:g} allowed"
        if not torch.equal(x, again[name]):
            return f"{name}: two runs differ"
    return ""


def _run(compute: Compute, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and, unless it has none, gradients by name."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    outs = compute(**leaves)
    by_name = {f"output {i}": out.detach() for i, out in enumerate(outs)}
    if not outs[0].requires_grad:
        return by_name
    weights = [torch.linspace(1, 3e3, out.numel(), device=out.device, dtype=torch.float64).sin().view(out.shape) for out in outs]
    gradients = torch.autograd.grad(outs, list(leaves.values()), [w.bfloat16().to(out.dtype) for w, out in zip(weights, outs, strict=True)])
    return by_name | {f"gradient of {name}": grad for name, grad in zip(leaves, gradients, strict=True)}


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    found = torch.cuda.get_device_properties(device)
    return f"GPU {device.index} ({found.name}, {found.uuid})"


def _triton_version() -> str:
    try:
        return f", triton {importlib.metadata.version('triton')}"
    except importlib.metadata.PackageNotFoundError:
        return ""
