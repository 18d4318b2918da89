"""Cases of the Triton delta rule: inputs, the definition in fp64, and how far the kernels' outputs and gradients are from it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels.delta_rule.launch import delta_rule_backward, delta_rule_forward

DECAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "usual": lambda noise: -F.softplus(noise - 1),
    "none": torch.zeros_like,
    "strong": lambda noise: torch.full_like(noise, -20.0),
    "weak behind strong": lambda noise: torch.where(noise > 0, -20.0, -1e-3),
}
BETAS: dict[str, Callable[[Tensor], Tensor]] = {
    "usual": lambda noise: 2 * (3 * noise).sigmoid(),
    "zero": torch.zeros_like,
    "two": lambda noise: torch.full_like(noise, 2.0),
    "ends": lambda noise: torch.where(noise > 0, 2.0, 0.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    num_tokens: int
    key_dim: int = 32
    value_dim: int = 32
    num_rows: int = 1
    num_key_heads: int = 1
    group: int = 1
    """Value heads per key head."""
    dtype: torch.dtype = torch.float32
    decay: str = "usual"
    beta: str = "usual"
    starts: tuple[int, ...] | None = None
    """Where documents start, over all rows; None is one document per row."""
    has_states: bool = True
    """An initial state is given and the final one asked for."""
    device: str = "cpu"

    @property
    def offsets(self) -> list[int]:
        rows = [row * self.num_tokens for row in range(self.num_rows)]
        return [*(rows if self.starts is None else self.starts), self.num_rows * self.num_tokens]

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    parts: dict[str, Tensor]
    """q, k, v, log_decay, beta, initial_state."""
    grad_out: Tensor
    grad_final_state: Tensor


def draw(case: Case, seed: int = 0) -> Inputs:
    """Each tensor lies between NaNs, so that what is read beside it shows."""
    generator = torch.Generator().manual_seed(seed + case.num_tokens)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tokens = (case.num_rows, case.num_tokens)
    num_heads, state = case.num_key_heads * case.group, (case.key_dim, case.value_dim)
    parts = {
        "q": (F.normalize(noise(*tokens, case.num_key_heads, case.key_dim), dim=-1) * case.key_dim**-0.5).to(case.dtype),
        "k": F.normalize(noise(*tokens, case.num_key_heads, case.key_dim), dim=-1).to(case.dtype),
        "v": noise(*tokens, num_heads, case.value_dim).to(case.dtype),
        "log_decay": DECAYS[case.decay](noise(*tokens, num_heads)),
        "beta": BETAS[case.beta](noise(*tokens, num_heads)),
        "initial_state": noise(case.num_documents, num_heads, *state) * float(case.has_states),
    }
    return Inputs(
        parts={name: fenced(x.to(case.device)) for name, x in parts.items()},
        grad_out=fenced(noise(*tokens, num_heads, case.value_dim).to(case.dtype).to(case.device)),
        grad_final_state=fenced(noise(case.num_documents, num_heads, *state).to(case.device) * float(case.has_states)),
    )


def fenced(x: Tensor) -> Tensor:
    fence = x.new_full((4096,), torch.nan)
    return torch.cat([fence, x.flatten(), fence])[4096:-4096].view(x.shape)


def definition(case: Case, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """out_BTMV and the final states, token by token."""
    q, k, v, log_decay, beta = (parts[name].flatten(0, 1) for name in ("q", "k", "v", "log_decay", "beta"))
    q, k = (x.repeat_interleave(case.group, dim=1) for x in (q, k))
    outs, final_states = [], []
    for document, (start, end) in enumerate(zip(case.offsets[:-1], case.offsets[1:], strict=True)):
        state_MKV = parts["initial_state"][document]
        for t in range(start, end):
            state_MKV = state_MKV * log_decay[t, :, None, None].exp()
            recalled_MV = (state_MKV * k[t].unsqueeze(-1)).sum(1)
            state_MKV = state_MKV + k[t].unsqueeze(-1) * (beta[t].unsqueeze(-1) * (v[t] - recalled_MV)).unsqueeze(1)
            outs.append((state_MKV * q[t].unsqueeze(-1)).sum(1))
        final_states.append(state_MKV)
    return torch.stack(outs).view(parts["v"].shape), torch.stack(final_states)


def exact_results(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    parts = {name: x.double().requires_grad_() for name, x in inputs.parts.items()}
    out, final_state = definition(case, parts)
    weights = [inputs.grad_out.double(), inputs.grad_final_state.double()]
    gradients = torch.autograd.grad([out, final_state], list(parts.values()), weights)
    return {"out": out.detach(), "final_state": final_state.detach()} | dict(zip(parts, gradients, strict=True))


def kernel_results(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    parts = dict(inputs.parts)
    initial_state = parts.pop("initial_state")
    offsets = None if case.starts is None else torch.tensor(case.offsets, dtype=torch.int32)
    out, final_state, *saved = delta_rule_forward(*parts.values(), offsets, initial_state if case.has_states else None, case.has_states)
    grad_final_state = inputs.grad_final_state if case.has_states else None
    q, k, v = (parts[name] for name in "qkv")
    gradients = delta_rule_backward(inputs.grad_out, grad_final_state, q, k, v, *saved, offsets, case.has_states)
    results = {"out": out, "final_state": final_state} | dict(zip(inputs.parts, gradients, strict=True))
    if not case.has_states:
        assert results.pop("final_state").numel() == results.pop("initial_state").numel() == 0
    return results


def distances(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """In L2, relative to each tensor's norm, or to a hundredth of the largest gradient's where it all but vanishes."""
    scale = 0.01 * max(x.norm().item() for x in exact.values())
    return {name: ((x.double() - exact[name]).norm().item() / max(exact[name].norm().item(), scale)) for name, x in ours.items()}
