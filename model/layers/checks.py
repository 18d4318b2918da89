"""The kernels that every model has, norms and loss, beside their definitions."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.declare import Cut, norm_weight
from model.kernel_check import CheckTerms, Compute, KernelCheck
from model.layers.head import IGNORED, cross_entropy_sum, head_loss_sum
from model.layers.norm import RMSNorm

LOSS_TOKENS, LOSS_VOCABULARY, LOSS_Z = 256, 5008, 1e-3
"""Rows of more than one tile, which loads as wide as the training's fit."""


def layer_checks(d_model: int, terms: CheckTerms) -> Iterator[KernelCheck]:
    """Norms, which in fp64 take no kernel, and the loss."""
    noise = terms.noise()
    inputs = {"x": noise(1, terms.num_tokens, d_model), "y": noise(1, terms.num_tokens, d_model), "weight": noise(d_model)}
    yield KernelCheck(name="norms", compute=_norms, exact=_norms, inputs=inputs)
    labels = torch.arange(LOSS_TOKENS, device=terms.device).unsqueeze(0) * 9973 % LOSS_VOCABULARY
    labels[:, ::7] = IGNORED
    inputs = {"x": noise(1, LOSS_TOKENS, 64), "weight": noise(LOSS_VOCABULARY, 64) / 4}
    yield KernelCheck(name="loss", compute=_loss(labels), exact=_exact_loss(labels), inputs=inputs)


def _norms(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Alone, of a sum, and added to something."""
    return functional_call(_Norms(x.shape[-1]), {"norm.weight": weight}, (x, y))


class _Norms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(norm_weight(width, Cut.NOTHING), eps=1e-6)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return self.norm(x), *self.norm.of_sum(x, y), self.norm.added_to(x, y)


def _loss(labels: Tensor) -> Compute:
    """With the head, since that is where its kernels are; in two chunks."""

    def compute(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return head_loss_sum(x, weight, labels, z_loss=LOSS_Z, chunk_tokens=LOSS_TOKENS // 2, tp=None)[:1]

    return compute


def _exact_loss(labels: Tensor) -> Compute:
    def compute(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return (cross_entropy_sum(F.linear(x, weight), labels, LOSS_Z)[0],)

    return compute
