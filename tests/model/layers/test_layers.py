"""What activations in bf16 lose in the small layers: nothing but the rounding of the result, because these compute in fp32."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.declare import Cut, norm_weight
from model.kernels.conv.definition import l2_normalise
from model.kernels.rotary.definition import rotary_tables
from model.layers.norm import FullWidthRMSNorm, RMSNorm
from model.mixers.attention.layer import rotate
from model.mixers.context import Rotary
from model.mixers.gdn.layer import GatedHeadNorm

ROWS, TOKENS, HEADS, WIDTH = 2, 128, 4, 64
EPS = 1e-2
"""Large, so that leaving it out shows."""
ROTARY: Rotary = rotary_tables(torch.arange(TOKENS).unsqueeze(0), head_dim=WIDTH, theta=5e5, dtype=torch.float32)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


X, GATE = (noise(ROWS, TOKENS, HEADS, WIDTH, seed=seed) for seed in (1, 2))
WEIGHT = 1 + noise(WIDTH, seed=3) / 4


def weighted(norm: nn.Module) -> nn.Module:
    norm.weight = nn.Parameter(WEIGHT)
    return norm


def normalised(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * WEIGHT.double()


def rotated(x: Tensor) -> Tensor:
    """Each pair of channels as a complex number, times that of its angle."""
    turned = torch.complex(*x.chunk(2, -1)) * torch.complex(*(part.double() for part in ROTARY))
    return torch.cat([turned.real, turned.imag], -1)


DECLARED = norm_weight(WIDTH, Cut.NOTHING)
OURS_AND_DEFINITION: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]] = {
    "RMSNorm": (lambda: weighted(RMSNorm(DECLARED, EPS))(X), normalised),
    "FullWidthRMSNorm": (lambda: weighted(FullWidthRMSNorm(DECLARED, EPS, None))(X), normalised),
    "GatedHeadNorm": (
        lambda: weighted(GatedHeadNorm(DECLARED, EPS))(X, GATE, "torch"),
        lambda x: normalised(x) * F.silu(GATE.double()),
    ),
    "l2_normalise": (lambda: l2_normalise(X, scale=WIDTH**-0.5), lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() / 8),
    "rotate": (lambda: rotate(X, ROTARY), rotated),
}


@pytest.mark.parametrize("name", OURS_AND_DEFINITION)
def test_it_is_computed_in_fp32_and_rounded_once(name: str) -> None:
    compute, define = OURS_AND_DEFINITION[name]
    ours, exact = compute(), define(X.double()).bfloat16()
    assert ours.dtype == torch.bfloat16
    off = (rank(ours) - rank(exact)).abs()
    assert (off == 0).double().mean() >= 0.995
    assert off.max() <= 1


def rank(x: Tensor) -> Tensor:
    """Of each element among all numbers of bf16: neighbours differ by 1."""
    bits = x.detach().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
