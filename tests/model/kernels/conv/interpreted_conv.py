"""Runs the Triton kernels of the convolution in Triton's interpreter on the CPU against the definition in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from model.documents import Documents, build_documents
from model.kernels.conv import definition, operator
from tests.model.kernels.comparisons import compare, noise, transposed, view_faults
from tests.model.kernels.interpreter import print_failures

SHORT = (1, 2, 3, 5)
"""Lengths of which not all of the convolution's 4 taps lie in the row."""


def packed(num_tokens: int) -> Documents:
    """Two rows, of documents of 1, 2, 5, … tokens and of one."""
    lengths = itertools.cycle((1, 2, 5, 1, 1, 7, 30))
    starts = [start for start in itertools.accumulate(itertools.islice(lengths, num_tokens), initial=0) if start < num_tokens]
    return build_documents(
        torch.tensor([*starts, num_tokens, 2 * num_tokens]), num_rows=2, num_tokens=num_tokens, device=torch.device("cpu")
    )


def convolution_and_norm() -> Iterator[str]:
    wide, narrow = torch.float32, torch.bfloat16
    for num_tokens, head_dim, num_heads, is_packed, dtype in [
        (1, 96, 1, True, wide),
        (65, 96, 1, True, wide),
        (63, 96, 1, True, narrow),
        (65, 96, 1, False, wide),
        (5, 48, 1, True, wide),
        (300, 128, 1, True, wide),
        (4, 256, 1, True, wide),
        *((num_tokens, 32, 2 if num_tokens == 5 else 1, True, narrow) for num_tokens in SHORT),
    ]:
        name, position_BT = (
            f"T {num_tokens}, K {head_dim}, packed {is_packed}, {dtype}",
            packed(num_tokens).position_BT if is_packed else None,
        )
        settings = {"position_BT": position_BT, "head_dim": head_dim, "scale": head_dim**-0.5}
        ours, exact = (partial(of.conv_silu_norm, **settings) for of in (operator, definition))
        yield from compare(name, ours, exact, convolution_inputs(num_tokens, num_heads * head_dim, dtype))


def convolution_inputs(num_tokens: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    return [noise(2, num_tokens, channels, dtype=dtype), noise(channels, 1, 4, dtype=dtype)]


def convolution() -> Iterator[str]:
    wide, narrow = torch.float32, torch.bfloat16
    cases = [(num_tokens, 64, False, wide) for num_tokens in (0, 1, 65)] + [(num_tokens, 64, True, narrow) for num_tokens in SHORT]
    for num_tokens, channels, is_packed, dtype in [*cases, (65, 64, True, wide), (65, 48, True, wide), (4, 2, False, wide)]:
        name, position_BT = (
            f"T {num_tokens}, C {channels}, packed {is_packed}, {dtype}",
            packed(num_tokens).position_BT if is_packed else None,
        )
        ours, exact = (partial(of.conv_silu, position_BT=position_BT) for of in (operator, definition))
        yield from compare(name, ours, exact, convolution_inputs(num_tokens, channels, dtype))


def views() -> Iterator[str]:
    x_BTC, weight_C1W, position_BT = transposed(1, 7, 32), transposed(32, 1, 4), packed(14).position_BT[:1, ::2]
    yield from view_faults(torch.ops.braid.causal_conv.default, (x_BTC, weight_C1W, position_BT, 32, 1.0))


CHECKS = {check.__name__: check for check in (convolution_and_norm, convolution, views)}


if __name__ == "__main__":
    print_failures(CHECKS)
