"""Runs the Triton kernels of the gates in Triton's interpreter on the CPU against the definition in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

import itertools
from collections.abc import Iterator

import torch

from model.kernels.gates import definition, operator
from tests.model.kernels.comparisons import compare, noise, transposed, view_faults, with_gradients
from tests.model.kernels.interpreter import print_failures


def gates() -> Iterator[str]:
    for num_tokens, num_heads, dtype in itertools.product((0, 1, 3, 63, 65), (30, 70), (torch.float32, torch.bfloat16)):
        a_BTN, b_BTN = (noise(2, num_tokens, num_heads, dtype=dtype, seed=seed) for seed in (1, 2))
        A_log_N, dt_bias_N = noise(num_heads, seed=3), noise(num_heads, seed=4) - 4
        name = f"T {num_tokens}, N {num_heads}, {dtype}"
        yield from compare(name, operator.decay_and_beta, definition.decay_and_beta, [a_BTN, b_BTN, A_log_N, dt_bias_N])
    far = torch.tensor([-1e4, -90.0, -30.0, -17.0, 0.0, 15.0, 19.9, 20.1, 90.0, 1e4]).view(1, 10, 1)
    inputs = [far, far.clone(), torch.zeros(1), torch.zeros(1)]
    for out in with_gradients(operator.decay_and_beta, inputs):
        if not out.isfinite().all():
            yield f"gates far from 0: {out.flatten().tolist()}"
    yield from compare("gates far from 0", operator.decay_and_beta, definition.decay_and_beta, inputs)


def views() -> Iterator[str]:
    a_BTN, b_BTN = transposed(2, 7, 3), transposed(2, 7, 3, seed=1)
    A_log_N, dt_bias_N = (noise(6, seed=seed)[::2].requires_grad_() for seed in (3, 4))
    yield from view_faults(torch.ops.braid.gates.default, (a_BTN, b_BTN, A_log_N, dt_bias_N))


CHECKS = {check.__name__: check for check in (gates, views)}


if __name__ == "__main__":
    print_failures(CHECKS)
