"""Runs the Triton kernels of rotary positions in Triton's interpreter on the CPU against the definition in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

import itertools
from collections.abc import Iterator
from functools import partial

import torch

from model.kernels.rotary import definition, operator
from tests.model.kernels.comparisons import compare, noise, transposed, view_faults
from tests.model.kernels.interpreter import print_failures


def rotation() -> Iterator[str]:
    """Heads of all widths, more than a program takes and fewer; positions of all rows the same or each its own."""
    for (num_tokens, num_heads, head_dim), dtype in itertools.product(
        [(0, 3, 16), (1, 1, 2), (5, 3, 6), (3, 33, 128)], (torch.float32, torch.bfloat16)
    ):
        x_BTNK = noise(2, num_tokens, num_heads, head_dim, dtype=dtype)
        position_BT = torch.arange(2 * num_tokens).view(2, num_tokens) * 7
        for position in (position_BT, position_BT[:1]):
            cos, sin = definition.rotary_tables(position, head_dim=head_dim, theta=5e5, dtype=torch.float32)
            name = f"T {num_tokens}, N {num_heads}, K {head_dim}, {dtype}, positions {list(position.shape)}"
            ours, exact = (partial(of.rotate, cos=cos, sin=sin) for of in (operator, definition))
            yield from compare(name, ours, exact, [x_BTNK])


def views() -> Iterator[str]:
    cos, sin = (noise(1, 7, 1, 8, seed=seed)[..., ::2] for seed in (1, 2))
    yield from view_faults(torch.ops.braid.rotate.default, (transposed(2, 7, 3, 8), cos, sin, False), "test_schema")


CHECKS = {check.__name__: check for check in (rotation, views)}


if __name__ == "__main__":
    print_failures(CHECKS)
