"""The dtypes in which weights are stored."""

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The dtypes of weights that can be read, by the names that safetensors has for them."""


def cast_dtype(name: str, own: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """What the parameter `name` of dtype `own` becomes when `wanted` is asked for; A_log and dt_bias never lose precision."""
    return torch.promote_types(own, wanted) if name.startswith("gates.") else wanted
