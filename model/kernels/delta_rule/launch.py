"""The chunked gated delta rule in Triton: the memory, the launches and the sizes around the kernels.

Forward: `prepare_chunks` over all chunks at once, then `scan_forward` through the chunks of each document.
Backward: `scan_backward` from the last chunk to the first, then `chunk_gradients` over all chunks at once.
No atomics anywhere: the same inputs give the same bits.

The letters of docs/kernels.md in this code: A is `below`, P `scores`, T = (1 + A)⁻¹ diag(β) `inverse`, U `updates`, S `states`;
e^g is `from_start`, e^(g_C − g) `to_end` and e^(g_C) `chunk_decay`, together with β the `gates`.
"""

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.delta_rule.configs import KernelConfig, choose_config
from model.kernels.delta_rule.plan import ChunkPlan, max_chunks, plan_chunks
from model.kernels.delta_rule.sizes import GDN_CHUNK, TRITON_KEY_DIMS, TRITON_VALUE_DIMS
from model.kernels.operators import contiguous_like

Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The outputs out and final_state, then for the backward inverse, scores, gates, updates and states."""
Backward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Gradients of q, k, v, log_decay, beta and initial_state."""


def delta_rule_forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor,
    offsets_cpu_P: Tensor | None, initial_state: Tensor | None, output_final_state: bool, *, config: KernelConfig | None = None,
) -> Forward:  # fmt: skip
    """out_BTMV and final_state_DMKV, then what the backward needs.

    q_BTNK and k_BTNK come L2-normalised and q scaled; they and v_BTMV are all bf16 or all fp32. log_decay_BTM (≤ 0) and beta_BTM
    (0…2) are fp32. Value head m belongs to key head m // (M / N). Each document D, a row where there are no offsets, starts from
    its initial_state_DMKV in fp32, or from zero. The final states are fp32; where they are not asked for, D is 0.
    Without a `config` it is `choose_config`'s. ValueError for sizes and dtypes that the kernels do not take, documents of other rows, and
    initial states of another shape, dtype or device.
    """
    _check(q, k, v, log_decay, beta)
    _check_documents(offsets_cpu_P, v.shape[0], v.shape[1])
    _check_state(initial_state, (_num_documents(v, offsets_cpu_P), v.shape[2], q.shape[3], v.shape[3]), v.device)
    from model.kernels.delta_rule.triton_prepare import prepare_chunks  # Triton: absent on a CPU
    from model.kernels.delta_rule.triton_scan import scan_forward

    q, k, v, log_decay, beta = (x.contiguous() for x in (q, k, v, log_decay, beta))
    problem = _problem(q, v, offsets_cpu_P, config)
    plan, config, num_tokens = problem.plan, problem.config, problem.num_tokens
    out, final_state, inverse, scores, gates, updates, states = empty_forward(q, v, offsets_cpu_P, output_final_state)
    prepare_chunks[(plan.num_chunks * v.shape[2],)](
        q, k, log_decay, beta, plan.start_Z, inverse, scores, gates, num_tokens,
        LOG_C=GDN_CHUNK.bit_length() - 1, REFINE_PRECISION=problem.refine_precision, **problem.constants, num_warps=config.prepare.warps,
        maxnreg=config.prepare.max_registers,
    )  # fmt: skip
    scan_forward[(plan.num_documents * v.shape[2] * v.shape[3] // config.scan_value_block,)](
        q, k, v, inverse, scores, gates, plan.first_chunk_P, plan.start_Z,
        None if initial_state is None else initial_state.contiguous(), out, updates, states,
        final_state if output_final_state else None, num_tokens, **problem.constants, V=v.shape[3], BV=config.scan_value_block,
        STAGES=config.forward.stages, num_warps=config.forward.warps,
    )  # fmt: skip
    return out, final_state, inverse, scores, gates, updates, states


def delta_rule_backward(
    grad_out: Tensor, grad_final_state: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
    inverse: Tensor, scores: Tensor, gates: Tensor, updates: Tensor, states: Tensor,
    offsets_cpu_P: Tensor | None, has_initial_state: bool, *, config: KernelConfig | None = None,
) -> Backward:  # fmt: skip
    """All gradients, from grad_out_BTMV, grad_final_state_DMKV (fp32), the forward's q, k and v and what it kept.

    The gradient of the initial state is fp32; without such a state its D is 0.
    """
    from model.kernels.delta_rule.triton_gradients import chunk_gradients
    from model.kernels.delta_rule.triton_scan import scan_backward

    grad_out, q, k, v = (x.contiguous() for x in (grad_out, q, k, v))
    problem = _problem(q, v, offsets_cpu_P, config)
    plan, config, num_tokens = problem.plan, problem.config, problem.num_tokens
    num_heads, value_dim = v.shape[2:]
    grad_v, grad_states = torch.empty_like(v), torch.empty_like(states)
    grad_initial_state = _states_of_documents(v, q.shape[-1], plan.num_documents if has_initial_state else 0)
    scan_backward[(plan.num_documents * num_heads * value_dim // config.scan_value_block,)](
        q, k, inverse, scores, gates, plan.first_chunk_P, plan.start_Z, grad_out,
        None if grad_final_state is None else grad_final_state.contiguous(), grad_v, grad_states,
        grad_initial_state if has_initial_state else None, num_tokens, **problem.constants, V=value_dim, BV=config.scan_value_block,
        STAGES=config.backward.stages, num_warps=config.backward.warps,
    )  # fmt: skip
    group = num_heads // q.shape[2]
    per_head = [q.new_empty(*v.shape[:3], q.shape[-1], dtype=q.dtype if group == 1 else torch.float32) for _ in range(2)]
    grad_log_decay, grad_beta = (v.new_empty(v.shape[:3], dtype=torch.float32) for _ in range(2))
    chunk_gradients[(plan.num_chunks * num_heads,)](
        q, k, v, gates, plan.start_Z, updates, states, grad_out, grad_v, grad_states,
        per_head[0], per_head[1], grad_log_decay, grad_beta, num_tokens, **problem.constants, V=value_dim,
        BV=config.gradient_value_block, STAGES=config.gradients.stages, num_warps=config.gradients.warps,
    )  # fmt: skip
    grad_q, grad_k = _sum_groups(per_head[0], group, q.dtype), _sum_groups(per_head[1], group, q.dtype)
    return grad_q, grad_k, grad_v, grad_log_decay, grad_beta, grad_initial_state


def _sum_groups(x_BTMK: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """BTNK in `dtype`: the sum over the value heads of each key head."""
    return x_BTMK if group == 1 else x_BTMK.unflatten(2, (-1, group)).sum(3).to(dtype)


def empty_forward(q: Tensor, v: Tensor, offsets_cpu_P: Tensor | None, output_final_state: bool) -> Forward:
    """The forward's outputs, unfilled: their shapes follow from the inputs' shapes alone.

    inverse and scores, BTMC, updates, BTMV, and states, ZMVK, have k's dtype; gates, 5 × M × (B · T), is fp32.
    With documents, Z counts as many chunks as there could be.
    """
    num_rows, num_tokens, num_heads, value_dim = v.shape
    num_documents = _num_documents(v, offsets_cpu_P)
    num_chunks = max_chunks(num_rows=num_rows, num_tokens=num_tokens, offsets_cpu_P=offsets_cpu_P)
    square = (num_rows, num_tokens, num_heads, GDN_CHUNK)
    return (
        torch.empty_like(v),
        _states_of_documents(v, q.shape[-1], num_documents if output_final_state else 0),
        v.new_empty(square),
        v.new_empty(square),
        v.new_empty(5, num_heads, num_rows * num_tokens, dtype=torch.float32),
        torch.empty_like(v),
        v.new_empty(num_chunks, num_heads, value_dim, q.shape[-1]),
    )


def empty_backward(
    grad_out: Tensor, grad_final_state: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
    inverse: Tensor, scores: Tensor, gates: Tensor, updates: Tensor, states: Tensor,
    offsets_cpu_P: Tensor | None, has_initial_state: bool,
) -> Backward:  # fmt: skip
    """The backward's outputs, unfilled, from its own arguments."""
    grad_log_decay, grad_beta = (v.new_empty(v.shape[:3], dtype=torch.float32) for _ in range(2))
    grad_initial_state = _states_of_documents(v, q.shape[-1], _num_documents(v, offsets_cpu_P) if has_initial_state else 0)
    return contiguous_like(q), contiguous_like(k), contiguous_like(v), grad_log_decay, grad_beta, grad_initial_state


def _num_documents(v: Tensor, offsets_cpu_P: Tensor | None) -> int:
    """How many documents the rows hold; without offsets each row is one."""
    return v.shape[0] if offsets_cpu_P is None else offsets_cpu_P.shape[0] - 1


def _states_of_documents(v: Tensor, key_dim: int, num_documents: int) -> Tensor:
    return v.new_empty(num_documents, v.shape[2], key_dim, v.shape[3], dtype=torch.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """What the launches of both directions have in common."""

    plan: ChunkPlan
    config: KernelConfig
    num_tokens: int
    """Tokens of all rows together."""
    constants: dict[str, int | str]
    """The sizes that the kernels are compiled for, by the kernels' own names."""
    refine_precision: str | None
    """Precision of the inverse's last step; None where it is exact without one."""


def _problem(q: Tensor, v: Tensor, offsets_cpu_P: Tensor | None, config: KernelConfig | None) -> _Problem:
    (num_rows, num_tokens, num_key_heads, key_dim), (num_heads, value_dim) = q.shape, v.shape[2:]
    is_exact = q.dtype == torch.float32
    major, minor = torch.cuda.get_device_capability(q.device) if q.is_cuda else (0, 0)
    return _Problem(
        plan=plan_chunks(num_rows=num_rows, num_tokens=num_tokens, offsets_cpu_P=offsets_cpu_P, device=q.device),
        config=config or choose_config(architecture=10 * major + minor, key_dim=key_dim, value_dim=value_dim, is_exact=is_exact),
        num_tokens=num_rows * num_tokens,
        constants={"N": num_key_heads, "M": num_heads, "K": key_dim, "C": GDN_CHUNK, "PRECISION": "ieee" if is_exact else "tf32"},
        refine_precision=None if is_exact else "bf16x3" if q.is_cuda else "ieee",
    )


def _check(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> None:
    key_dim, value_dim = q.shape[-1], v.shape[-1]
    if key_dim not in TRITON_KEY_DIMS or value_dim not in TRITON_VALUE_DIMS:
        remedy = "take 32 to 128 in steps of 16, or 256, and 16 to 256 in steps of 16; or another gdn_backend"
        raise ValueError(f"head dims {key_dim} and {value_dim}: the Triton delta rule has no such kernels; {remedy}")
    if q.dtype not in (torch.bfloat16, torch.float32) or q.dtype != v.dtype:
        raise ValueError(f"q in {q.dtype} and v in {v.dtype}: the Triton delta rule takes both in bfloat16 or both in float32")
    if (k.shape, k.dtype) != (q.shape, q.dtype) or q.shape[:2] != v.shape[:2] or not log_decay.shape == beta.shape == v.shape[:3]:
        shapes = ", ".join(f"{list(x.shape)} {x.dtype}" for x in (q, k, v, log_decay, beta))
        raise ValueError(f"q, k, v, log_decay, beta: {shapes}; k is as q, and log_decay and beta have v's rows, tokens and heads")
    if not log_decay.dtype == beta.dtype == torch.float32:
        raise ValueError(f"log_decay in {log_decay.dtype} and beta in {beta.dtype}: the Triton delta rule takes both in float32")
    if importlib.util.find_spec("triton") is None:
        raise ValueError("model.gdn_backend=triton: Triton is not installed; install torch's CUDA build, or use torch")
    if v.shape[2] % q.shape[2]:
        raise ValueError(f"{v.shape[2]} value heads over {q.shape[2]} key heads: the former must be a multiple of the latter")


def _check_documents(offsets_cpu_P: Tensor | None, num_rows: int, num_tokens: int) -> None:
    """Documents of other rows would have the kernels pass over tokens, or past the last one."""
    if offsets_cpu_P is not None and int(offsets_cpu_P[-1]) != num_rows * num_tokens:
        raise ValueError(f"documents of {int(offsets_cpu_P[-1])} tokens for {num_rows} × {num_tokens}: build them for these rows")


def _check_state(state: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    if state is not None and (state.shape, state.dtype, state.device) != (shape, torch.float32, device):
        found = f"{list(state.shape)} in {state.dtype} on {state.device}"
        raise ValueError(f"initial state {found}: give {list(shape)} (documents or rows, value heads, K, V) in float32 on {device}")
