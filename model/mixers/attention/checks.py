"""The kernels of an attention layer beside their definitions. Attention itself is torch's."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.kernel_check import CheckTerms, KernelCheck
from model.kernels.rotary.definition import rotary_tables
from model.mixers.attention import layer
from model.mixers.attention.config import AttentionConfig


def attention_checks(config: AttentionConfig, terms: CheckTerms) -> Iterator[KernelCheck]:
    """The rotation of queries and keys, where there is one; in fp64 it takes no kernel."""
    if not config.rope_theta:
        return
    position_BT = torch.arange(terms.num_tokens, device=terms.device).unsqueeze(0)
    rotary = rotary_tables(position_BT, head_dim=config.head_dim, theta=config.rope_theta, dtype=torch.float32)

    def rotated(x: Tensor) -> tuple[Tensor, ...]:
        return (layer.rotate(x, rotary),)

    inputs = {"x": terms.noise()(1, terms.num_tokens, config.num_heads // terms.num_head_ranks, config.head_dim)}
    yield KernelCheck(name="rotation", compute=rotated, exact=rotated, inputs=inputs)
