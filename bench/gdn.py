"""The gated delta rule, forward and backward: `python -m bench.gdn`. On a GPU fla's kernel too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.timing import medians_s, print_ratios
from model.kernels.delta_rule import gated_delta_rule
from model.kernels.reference import gated_delta_rule_reference

SHAPES = {"cpu": (1, 256, 4, 32, 64), "cuda": (1, 8192, 30, 96, 192)}
"""Rows, tokens, heads, key and value width."""


def make_inputs(device: str) -> dict[str, Tensor]:
    rows, tokens, heads, key_dim, value_dim = SHAPES[device]
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, tokens, heads, *shape, generator=generator, device=device)

    parts = {
        "q": (F.normalize(noise(key_dim), dim=-1) * key_dim**-0.5).to(dtype),
        "k": F.normalize(noise(key_dim), dim=-1).to(dtype),
        "v": noise(value_dim).to(dtype),
        "log_decay": -F.softplus(noise() - 2),
        "beta": 2 * noise().sigmoid(),
    }
    return {name: part.requires_grad_() for name, part in parts.items()}


def forward_backward(delta_rule: Callable[..., Tensor], parts: dict[str, Tensor]) -> Callable[[], None]:
    def run() -> None:
        out = delta_rule(**parts)
        torch.autograd.grad(out.float().square().sum(), list(parts.values()))
        if out.is_cuda:
            torch.cuda.synchronize()

    return run


def main() -> None:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = make_inputs(device)
    candidates = {"chunked, torch": forward_backward(partial(gated_delta_rule, documents=None, backend="torch"), parts)}
    if device == "cuda":
        candidates["fla"] = forward_backward(partial(gated_delta_rule, documents=None, backend="fla"), parts)
    else:
        candidates = {"step by step, torch": forward_backward(gated_delta_rule_reference, parts)} | candidates
    rows, tokens, heads, key_dim, value_dim = SHAPES[device]
    print_ratios(
        f"gated delta rule, forward + backward, {rows} × {tokens} tokens, {heads} heads × ({key_dim}, {value_dim}), {device}",
        medians_s(candidates),
    )


if __name__ == "__main__":
    main()
