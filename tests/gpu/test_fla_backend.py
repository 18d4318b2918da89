"""fla's kernel, as the GDN layer calls it, against the step-by-step definition on the same GPU."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import PRESETS
from model.gdn import GatedDeltaNet, delta_rule_fla
from model.init import init_weights
from model.kernels.reference import gated_delta_rule_reference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's and fla's own
]


def inputs(num_tokens: int, key_dim: int, value_dim: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """q, k, v in `dtype` as under mixed precision; the gates stay fp32."""
    generator = torch.Generator("cuda").manual_seed(num_tokens)

    def noise(*shape: int) -> Tensor:
        return torch.randn(2, num_tokens, 4, *shape, generator=generator, device="cuda")

    return {
        "q": (F.normalize(noise(key_dim), dim=-1) * key_dim**-0.5).to(dtype).requires_grad_(),
        "k": F.normalize(noise(key_dim), dim=-1).to(dtype).requires_grad_(),
        "v": noise(value_dim).to(dtype).requires_grad_(),
        "log_decay": (-F.softplus(noise() - 2)).requires_grad_(),
        "beta": (2 * noise().sigmoid()).requires_grad_(),
    }


def forward_and_gradients(delta_rule: Callable[..., Tensor], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    out = delta_rule(**parts)
    weight = torch.linspace(-1, 1, out.numel(), device="cuda").cos().view_as(out)
    return {"out": out.detach()} | dict(zip(parts, torch.autograd.grad((out * weight).sum(), list(parts.values())), strict=True))


def relative_distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(("key_dim", "value_dim"), [(96, 192), (128, 256), (24, 48)])
@pytest.mark.parametrize("num_tokens", [64, 200, 1])
def test_fla_agrees_with_the_definition(num_tokens: int, key_dim: int, value_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    parts = inputs(num_tokens, key_dim, value_dim, dtype)
    exact_parts = {name: x.detach().double().requires_grad_() for name, x in parts.items()}

    ours = forward_and_gradients(delta_rule_fla, parts)
    exact = forward_and_gradients(gated_delta_rule_reference, exact_parts)

    for name in exact if num_tokens > 1 else exact.keys() - {"log_decay"}:  # one token has nothing to forget
        distance = relative_distance(ours[name], exact[name])
        assert distance < tolerance, f"{name} is {distance:.1e} off"


def test_a_layer_gives_the_same_with_either_backend() -> None:
    x_BTD = torch.randn(2, 100, PRESETS["tiny"].d_model, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    outputs = []
    for backend in ("torch", "fla"):
        layer = GatedDeltaNet(replace(PRESETS["tiny"], gdn_backend=backend), tp=None).cuda()
        init_weights(layer, seed=0)
        outputs.append(layer(x_BTD).detach())
    assert relative_distance(outputs[1], outputs[0]) < 1e-2
