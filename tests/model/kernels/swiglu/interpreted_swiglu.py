"""Runs the Triton kernels of SwiGLU in Triton's interpreter on the CPU against the definition in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

import itertools
from collections.abc import Iterator

import torch

from model.kernels.swiglu import definition, operator
from tests.model.kernels.comparisons import compare, noise, transposed, view_faults, with_gradients
from tests.model.kernels.interpreter import print_failures


def gated() -> Iterator[str]:
    for shape, dtype in itertools.product([(2, 0, 16), (1, 1, 1), (2, 3, 17), (1, 5, 1024)], (torch.float32, torch.bfloat16)):
        inputs = [3 * noise(*shape, dtype=dtype, seed=seed) for seed in (1, 2)]
        yield from compare(f"{shape}, {dtype}", operator.swiglu, definition.swiglu, inputs)
    far = torch.tensor([-3e38, -1e4, -90.0, -30.0, 0.0, 30.0, 90.0, 1e4])
    for out in with_gradients(operator.swiglu, [far, torch.ones(8)]):
        if not out.isfinite().all():
            yield f"gates far from 0: {out.tolist()}"


def views() -> Iterator[str]:
    yield from view_faults(torch.ops.braid.swiglu.default, (transposed(2, 7, 12), transposed(2, 7, 12, seed=1)), "test_schema")


CHECKS = {check.__name__: check for check in (gated, views)}


if __name__ == "__main__":
    print_failures(CHECKS)
