"""A Hugging Face directory as a module to compute with."""

from pathlib import Path

import torch

from model.lm import HybridLM
from model.weights.hf.dtypes import cast_dtype
from model.weights.hf.files import open_hf
from model.weights.source import load_weights


def load_pretrained(path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> HybridLM:
    """The model of a Hugging Face directory in one process: module(tokens_BT) gives logits_BTX.

    Weights and activations are of `dtype`; A_log and dt_bias are fp32. The module comes in training mode and its parameters with
    gradients on, which changes no logit: there is no dropout; to generate, call it under torch.inference_mode().
    Raises HFFormatError as `open_hf` does, TypeError for a `dtype` that is none of floating-point numbers.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype={dtype!r}: no torch.dtype of floating-point numbers; use torch.bfloat16 or torch.float32")
    source = open_hf(Path(path))
    with torch.device("meta"):
        module = HybridLM(source.config, dtype=dtype)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(cast_dtype(name, torch.float32, dtype))
    module.to_empty(device=torch.device(device))
    load_weights(module, source)
    return module
