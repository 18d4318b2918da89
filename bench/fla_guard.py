"""flash-linear-attention's guard against Triton on Hopper."""

import importlib


def lift_fla_guard() -> bool:
    """Whether there was something to lift: fla 0.6 refuses its gated backward on Hopper under Triton 3.4 to 3.7.0.

    For comparisons only: K = 96 was measured to be right there, other widths of a key were not looked at. For the rest of the process.
    """
    try:
        kernels = importlib.import_module("fla.ops.common.chunk_o")
    except ImportError:
        return False
    is_guarded = bool(kernels.TRITON_ABOVE_3_4_0 and not kernels.TRITON_ABOVE_3_7_1)
    if is_guarded:
        vars(kernels)["TRITON_ABOVE_3_7_1"] = True  # of that module alone, where nothing but the guard reads it
    return is_guarded
