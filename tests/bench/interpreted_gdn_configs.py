"""Candidates of the delta rule's kernels, run in Triton's interpreter; prints what is not as it should be. Argument: one of PARTS.

A process of its own, because Triton decides at import whether it interprets. TRITON_INTERPRET=1 must be set. Untaught, the interpreter
multiplies the bits of bf16 as integers: it is the compiler that miscompiles.
"""

import sys
import warnings
from collections.abc import Callable

import torch

from bench.gdn import Sizes
from bench.gdn_configs import Candidate, candidates, find_fault, find_faults
from tests.model.kernels.delta_rule.interpreted_delta_rule import teach_bf16

CPU = torch.device("cpu")
SIZES = Sizes(num_heads=1, key_dim=32, value_dim=64, num_tokens=80)


def few() -> list[Candidate]:
    """Each kernel in each block."""
    return [one for one in candidates(SIZES.value_dim) if one.launch.warps == 4 and one.launch.stages == 1]


def right() -> None:
    teach_bf16()
    for one in few():
        fault = find_fault(SIZES, one, CPU)
        if fault:
            print(f"{one}: {fault}")


def miscompiled() -> None:
    for one in few():
        fault = find_fault(SIZES, one, CPU)
        if "off" not in fault or ("gradient of" in fault) != (one.kernel in ("backward", "gradients")):
            print(f"{one}: {fault!r}")


def side_by_side() -> None:
    tried = [one for one in few() if one.value_block != 64][:2]
    for one, fault in find_faults({SIZES: tried}, CPU)[SIZES].items():
        if "out is" not in fault or "off" not in fault:
            print(f"{one}: {fault!r}")


PARTS: dict[str, Callable[[], None]] = {"right": right, "miscompiled": miscompiled, "side by side": side_by_side}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # NumPy's, of overflows in the interpreter
    PARTS[sys.argv[1]]()
