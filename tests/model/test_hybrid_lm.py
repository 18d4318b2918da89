"""The whole network against an independent, naive definition, and what its dtypes may not lose."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.build import build_model
from model.config import ModelConfig
from model.lm import HybridLM
from tests.model.naive_hybrid import naive_logits

CONFIG = ModelConfig(vocab_size=31, d_model=16, num_layers=4, num_heads=2, head_dim=6, gdn_key_dim=5, gdn_value_dim=9, ffn_width=20)
GROUPED = replace(CONFIG, gdn_num_key_heads=3, gdn_num_value_heads=6)
"""Values in groups of two heads that share a key head, and other key heads than attention has."""


def build(dtype: torch.dtype, config: ModelConfig = CONFIG) -> HybridLM:
    """Weights large enough that every nonlinearity bends; norm weights other than one."""
    model = build_model(config, None, device=torch.device("cpu"), seed=1, compute_dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 or parameter.unique().numel() == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4 + (parameter.ndim == 1))
    return model


def logits_and_gradients(model: HybridLM, tokens_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits_BTX = model(tokens_BT)
    F.cross_entropy(logits_BTX[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    return logits_BTX.detach(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def naive_logits_and_gradients(model: HybridLM, tokens_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    weights = {name: parameter.detach().double().requires_grad_() for name, parameter in model.named_parameters()}
    logits_BTX = torch.stack([naive_logits(weights, model.config, row.tolist()) for row in tokens_BT])
    F.cross_entropy(logits_BTX[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    return logits_BTX.detach(), {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


@pytest.mark.parametrize("config", [CONFIG, GROUPED], ids=["plain", "grouped values"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_logits_and_every_gradient_are_those_of_the_definition(dtype: torch.dtype, tolerance: float, config: ModelConfig) -> None:
    model = build(dtype, config)
    tokens_BT = torch.randint(0, CONFIG.vocab_size, (2, 9), generator=torch.Generator().manual_seed(2))

    logits_BTX, gradients = logits_and_gradients(model, tokens_BT)
    naive_BTX, naive_gradients = naive_logits_and_gradients(model, tokens_BT)

    assert (logits_BTX - naive_BTX).abs().max() < tolerance
    assert gradients.keys() == naive_gradients.keys() == dict(model.named_parameters()).keys()
    for name, naive in naive_gradients.items():
        distance = ((gradients[name] - naive).norm() / naive.norm()).item()
        assert distance < tolerance, f"{name} is {distance:.1e} off"


def test_no_token_sees_a_later_one() -> None:
    model = build(torch.float64)
    tokens_BT = torch.randint(0, CONFIG.vocab_size, (1, 9), generator=torch.Generator().manual_seed(2))
    changed_BT = tokens_BT.clone()
    changed_BT[0, 6] = (tokens_BT[0, 6] + 1) % CONFIG.vocab_size
    with torch.no_grad():
        before_BTX, after_BTX = model(tokens_BT), model(changed_BT)
    torch.testing.assert_close(after_BTX[:, :6], before_BTX[:, :6], rtol=0, atol=1e-12)
    assert (after_BTX[:, 6:] - before_BTX[:, 6:]).abs().amin(dim=(0, 2)).min() > 0


def test_bf16_takes_fp32_weights_rounded_and_does_not_round_their_gradients() -> None:
    tokens_BT = torch.randint(0, CONFIG.vocab_size, (2, 9), generator=torch.Generator().manual_seed(2))
    mixed, exact = build(torch.bfloat16), build(torch.float32)
    with torch.no_grad():
        for parameter in (*mixed.parameters(), *exact.parameters()):
            parameter *= 0.5  # milder than what finds a wrong formula: here rounding is not to be amplified
        for name, parameter in exact.named_parameters():
            if not name.startswith("gates."):
                parameter.copy_(parameter.bfloat16())

    (logits_BTX, gradients), (exact_BTX, exact_gradients) = (logits_and_gradients(model, tokens_BT) for model in (mixed, exact))

    assert {parameter.dtype for parameter in mixed.parameters()} == {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert logits_BTX.dtype == torch.bfloat16
    assert (logits_BTX - exact_BTX).norm() / exact_BTX.norm() < 0.05
    for name, gradient in exact_gradients.items():
        distance = ((gradients[name] - gradient).norm() / gradient.norm()).item()
        assert distance < 0.1, f"{name} is {distance:.1e} off"
    wide = {name for name, gradient in gradients.items() if not torch.equal(gradient, gradient.bfloat16().float())}
    assert wide >= {name for name in gradients if "_proj." in name or name in ("embed.weight", "head.weight")}
