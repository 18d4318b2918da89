"""Runs cases of the Triton delta rule in Triton's interpreter on the CPU; prints what is off, and nothing else.

A process of its own, because Triton decides at import whether it interprets. TRITON_INTERPRET=1 must be set. Argument: a group of CASES.
"""

import sys
import warnings
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from tests.model.kernels.delta_rule.cases import Case, distances, draw, exact_results, kernel_results

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
ODD_STARTS = (0, 1, 1, 2, 66, 129, 130, 131)
"""One of the documents is empty: it hands on its initial state. `build_documents` refuses such, the kernels take them."""
HEAD_DIMS = ((32, 256), (48, 64), (64, 80), (80, 48), (96, 192), (112, 16), (128, 16), (256, 80))
CASES = {
    "lengths": [
        *(Case(num_tokens=num_tokens, num_rows=2) for num_tokens in (1, 63, 64, 65, 130)),
        *(Case(num_tokens=num_tokens, num_key_heads=4, dtype=torch.bfloat16) for num_tokens in (1, 130)),
    ],
    "head dims": [
        *(Case(num_tokens=70, key_dim=key_dim, value_dim=value_dim) for key_dim, value_dim in HEAD_DIMS),
        *(
            Case(num_tokens=70, key_dim=key_dim, value_dim=value_dim, dtype=torch.bfloat16)
            for key_dim, value_dim in ((48, 80), (96, 192), (112, 16), (128, 256), (256, 32))
        ),
    ],
    "documents": [
        Case(num_tokens=130, num_rows=2, starts=ODD_STARTS),
        Case(num_tokens=130, num_rows=2, starts=ODD_STARTS, has_states=False),
        Case(num_tokens=130, num_rows=2, starts=ODD_STARTS, dtype=torch.bfloat16),
        Case(num_tokens=65, has_states=False),
    ],
    "groups of value heads": [
        Case(num_tokens=70, num_key_heads=2, group=3),
        Case(num_tokens=70, num_key_heads=2, group=2, dtype=torch.bfloat16),
        Case(num_tokens=66, group=5, dtype=torch.bfloat16, beta="ends"),
    ],
    "extreme gates": [
        *(Case(num_tokens=100, decay=decay) for decay in ("none", "strong", "weak behind strong")),
        *(Case(num_tokens=100, beta=beta) for beta in ("zero", "two", "ends")),
        Case(num_tokens=100, decay="weak behind strong", beta="ends", num_key_heads=2),
        *(Case(num_tokens=100, decay=decay, beta="ends", dtype=torch.bfloat16) for decay in ("none", "strong", "weak behind strong")),
        *(Case(num_tokens=100, beta=beta, dtype=torch.bfloat16) for beta in ("zero", "two")),
    ],
}


def teach_bf16() -> None:
    """The interpreter multiplies the bits of bf16 as integers, and rounds to bf16 towards zero: as a GPU does it instead."""
    builder = interpreter.InterpreterBuilder
    plain_dot, plain_cast = builder.create_dot, builder.cast_impl

    def widen(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain_dot(self, widen(a), widen(b), *rest)

    def cast(self: Any, x: Any, dtype: Any) -> Any:
        if x.dtype.scalar != tl.float32 or dtype.scalar != tl.bfloat16:
            return plain_cast(self, x, dtype)
        bits = np.ascontiguousarray(x.data).view(np.uint32)
        return interpreter.TensorHandle(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), tl.bfloat16)

    builder.create_dot, builder.cast_impl = dot, cast


def faults(case: Case) -> list[str]:
    inputs = draw(case)
    found = distances(kernel_results(case, inputs), exact_results(case, inputs))
    return [f"{name} is {distance:.1e} off" for name, distance in found.items() if not distance < TOLERANCE[case.dtype]]


def main() -> None:
    warnings.simplefilter("ignore")  # NumPy's, of overflows in the interpreter
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    teach_bf16()
    for case in CASES[sys.argv[1]]:
        for fault in faults(case):
            print(f"{case}: {fault}")


if __name__ == "__main__":
    main()
