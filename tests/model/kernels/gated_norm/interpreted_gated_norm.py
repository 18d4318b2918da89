"""Runs the Triton kernels of the gated norm in Triton's interpreter on the CPU against the definition in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

from collections.abc import Iterator
from functools import partial

import torch

from model.kernels.gated_norm import definition, operator
from tests.model.kernels.comparisons import compare, noise, transposed, view_faults
from tests.model.kernels.interpreter import print_failures


def gated_norm() -> Iterator[str]:
    ours, exact = (partial(of.gated_norm, eps=1e-5) for of in (operator, definition))
    wide, narrow = torch.float32, torch.bfloat16
    cases = [(length, 192, wide, wide) for length in (0, 1, 3, 63, 65)]
    cases += [(65, 80, wide, wide), (4, 112, wide, wide), (3, 256, wide, wide), (2, 6, wide, wide)]
    narrow_cases = [(3, 192, wide, narrow), *((length, 192, narrow, narrow) for length in (1, 3, 65)), (65, 80, narrow, narrow)]
    for num_tokens, value_dim, x_dtype, gate_dtype in [*cases, *narrow_cases]:
        shape = (2, num_tokens, 3, value_dim)
        inputs = [noise(*shape, dtype=x_dtype), noise(*shape, dtype=gate_dtype, seed=1), noise(value_dim) + 1]
        name = f"T {num_tokens}, V {value_dim}, {x_dtype}, gate {gate_dtype}"
        yield from compare(name, ours, exact, inputs)


def views() -> Iterator[str]:
    x_BTNV, gate_BTNV, weight_V = transposed(2, 3, 2, 16), transposed(2, 3, 2, 16, seed=1), noise(32)[::2].requires_grad_()
    yield from view_faults(torch.ops.braid.gated_norm.default, (x_BTNV, gate_BTNV, weight_V, 1e-5))


CHECKS = {check.__name__: check for check in (gated_norm, views)}


if __name__ == "__main__":
    print_failures(CHECKS)
