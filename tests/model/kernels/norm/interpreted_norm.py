"""Runs the Triton kernels of the norms in Triton's interpreter on the CPU against plain torch in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from model.kernels.norm import operator
from model.kernels.norm import triton as kernels
from tests.model.kernels.comparisons import compare, noise, transposed, view_faults
from tests.model.kernels.interpreter import print_failures

WIDE, NARROW = torch.float32, torch.bfloat16
EPS = 1e-2
"""Large, so that leaving it out shows."""


def normalise(x: Tensor, weight_D: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight_D


def normalise_sum(x: Tensor, y: Tensor, weight_D: Tensor) -> tuple[Tensor, Tensor]:
    return x + y, normalise(x + y, weight_D)


def add_normalised(x: Tensor, y: Tensor, weight_D: Tensor) -> Tensor:
    return x + normalise(y, weight_D)


def norms() -> Iterator[str]:
    """Widths of all kinds, as many rows as a program takes at once, fewer and more."""
    cases = [(0, 240, WIDE), (1, 240, WIDE), (65, 240, WIDE), (65, 256, NARROW), (3, 3840, NARROW), (2, 3840, WIDE)]
    cases += [(65, 100, WIDE), (65, 100, NARROW), (5, 6, NARROW), (3, 1, WIDE), (1, 5000, WIDE)]
    for (num_tokens, width, dtype), weight_dtype in itertools.product(cases, (WIDE, NARROW)):
        x, y = (noise(2, num_tokens, width, dtype=dtype, seed=seed) for seed in (1, 2))
        weight_D = noise(width, dtype=weight_dtype, seed=3) + 1
        name = f"T {num_tokens}, D {width}, {dtype}, weight {weight_dtype}"
        yield from compare(name, partial(operator.rms_norm, eps=EPS), normalise, [x, weight_D])
        yield from compare(f"{name}, of a sum", partial(operator.norm_of_sum, eps=EPS), normalise_sum, [x, y, weight_D.to(dtype)])
        yield from compare(f"{name}, added", partial(operator.add_norm, eps=EPS), add_normalised, [x, y, weight_D])


def views() -> Iterator[str]:
    x, y, weight_D = transposed(2, 7, 12), transposed(2, 7, 12, seed=1), noise(24)[::2].requires_grad_()
    yield from view_faults(torch.ops.braid.rms_norm.default, (x, weight_D, EPS), "test_schema")
    yield from view_faults(torch.ops.braid.norm_of_sum.default, (x, y, weight_D, EPS), "test_schema")
    yield from view_faults(torch.ops.braid.add_norm.default, (x, y, weight_D, EPS), "test_schema")


CHECKS = {check.__name__: check for check in (norms, views)}


if __name__ == "__main__":
    kernels.BACKWARD_PROGRAMS = 2  # so that few rows are many for one program
    kernels.TILE = 1024
    print_failures(CHECKS)
