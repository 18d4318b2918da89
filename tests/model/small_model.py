"""A model whose kernels are checked in a moment."""

from dataclasses import replace

import torch

from model.config import ModelConfig
from model.kernels.delta_rule.sizes import Backend
from model.parallel.config import ParallelConfig
from model.self_check import find_wrong_kernel

MODEL = ModelConfig(vocab_size=64, d_model=40, num_layers=4, num_heads=2, head_dim=20, gdn_key_dim=32, gdn_value_dim=48, ffn_width=56)
CPU = torch.device("cpu")


def wrong_kernel(backend: Backend, model: ModelConfig = MODEL, parallel: ParallelConfig | None = None, *, num_tokens: int = 130) -> str:
    """What the self-check says of this process."""
    return find_wrong_kernel(replace(model, gdn_backend=backend), parallel or ParallelConfig(), device=CPU, num_tokens=num_tokens)
