"""The chunked delta rule against the step-by-step definition, forward and every gradient."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels.chunked import gated_delta_rule_chunked
from model.kernels.reference import gated_delta_rule_reference

NUM_ROWS, NUM_HEADS, KEY, VALUE = 2, 3, 8, 12
DECAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "usual decay": lambda noise: -F.softplus(noise),
    "no decay": torch.zeros_like,
    "strong decay": lambda noise: torch.full_like(noise, -20.0),
    "weak behind strong decay": lambda noise: torch.where(noise > 0, -20.0, -1e-3),
}


def inputs(num_tokens: int, decay: str, dtype: torch.dtype, *, correlated: bool = False) -> dict[str, Tensor]:
    """Normalised q and k, beta over all of [0, 2]; correlated keys are those that break a doubling inverse."""
    generator = torch.Generator().manual_seed(num_tokens)

    def noise(*shape: int) -> Tensor:
        return torch.randn(NUM_ROWS, num_tokens, NUM_HEADS, *shape, generator=generator, dtype=torch.float64)

    k = noise(KEY) * 0.05 + noise(KEY)[:, :1] if correlated else noise(KEY)
    parts = {
        "q": F.normalize(noise(KEY), dim=-1) * KEY**-0.5,
        "k": F.normalize(k, dim=-1),
        "v": noise(VALUE),
        "log_decay": DECAYS[decay](noise()),
        "beta": 2 * (3 * noise()).sigmoid(),
    }
    return {name: x.to(dtype).requires_grad_() for name, x in parts.items()}


def forward_and_gradients(delta_rule: Callable[..., Tensor], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    out = delta_rule(**parts)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).cos().view_as(out)
    return {"out": out.detach()} | dict(zip(parts, torch.autograd.grad((out * weight).sum(), list(parts.values())), strict=True))


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Relative to each tensor's norm, or to the output's where a gradient all but vanishes (that of a decay of e^-20)."""
    for name in theirs:
        scale = theirs[name].norm() + 1e-3 * theirs["out"].norm()
        distance = ((ours[name].double() - theirs[name]).norm() / scale).item()
        assert distance < tolerance, f"{name} is {distance:.1e} off"


@pytest.mark.parametrize("num_tokens", [1, 5, 16, 37])
@pytest.mark.parametrize("decay", DECAYS)
def test_chunks_agree_with_the_definition(num_tokens: int, decay: str) -> None:
    exact = forward_and_gradients(gated_delta_rule_reference, inputs(num_tokens, decay, torch.float64))
    chunked = forward_and_gradients(lambda **parts: gated_delta_rule_chunked(**parts, chunk=16), inputs(num_tokens, decay, torch.float64))
    assert_close(chunked, exact, 1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("correlated", [False, True])
def test_fp32_loses_no_more_than_rounding(decay: str, correlated: bool) -> None:
    num_tokens = 131  # two full chunks of 64 and an odd rest
    exact = forward_and_gradients(gated_delta_rule_reference, inputs(num_tokens, decay, torch.float64, correlated=correlated))
    single = forward_and_gradients(gated_delta_rule_chunked, inputs(num_tokens, decay, torch.float32, correlated=correlated))
    assert_close(single, exact, 3e-6)


def test_rewriting_one_key_replaces_its_value() -> None:
    """With beta 1 and no decay the state is a memory: reading a key gives what was last written to it."""
    key = F.one_hot(torch.tensor([0, 1, 0]), 2).float().view(1, 3, 1, 2)
    value = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    out = gated_delta_rule_reference(q=key, k=key, v=value, log_decay=torch.zeros(1, 3, 1), beta=torch.ones(1, 3, 1))
    assert out.flatten().tolist() == [1.0, 2.0, 3.0]


def test_a_beta_of_two_reflects_what_a_key_held() -> None:
    """The negative eigenvalue: writing 0 with beta 2 turns the stored value's sign."""
    key = torch.ones(1, 2, 1, 1)
    value = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    beta = torch.tensor([1.0, 2.0]).view(1, 2, 1)
    out = gated_delta_rule_chunked(q=key, k=key, v=value, log_decay=torch.zeros(1, 2, 1), beta=beta)
    assert out.flatten().tolist() == [1.0, -1.0]
