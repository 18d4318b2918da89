# mypy: allow-untyped-defs
"""Triton kernels of the gated delta rule's log_decay and beta, and of their gradients.

Tokens of all rows are one long row (M in all). Each program takes TOKENS of them for HEADS heads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.triton_tiles import load_fp32

MAX_HEADS, TILE, NUM_WARPS = 64, 1024, 4
"""Most heads of a program, its elements, its warps."""
SOFTPLUS_IS_LINEAR_FROM = tl.constexpr(20.0)
"""Where torch's softplus(x) becomes x."""


def forward(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    """log_decay_BTN and beta_BTN in fp32, from contiguous tensors."""
    log_decay_BTN, beta_BTN = (x.new_empty(x.shape, dtype=torch.float32) for x in (a_BTN, b_BTN))
    num_tokens, num_heads = a_BTN.shape[:-1].numel(), a_BTN.shape[-1]
    tensors = (a_BTN, b_BTN, A_log_N, dt_bias_N, log_decay_BTN, beta_BTN)
    with torch.cuda.device_of(a_BTN):
        gates_forward[_grid(num_tokens, num_heads)](*tensors, num_tokens, num_heads, **_constants(num_heads), num_warps=NUM_WARPS)
    return log_decay_BTN, beta_BTN


def backward(
    grad_log_decay_BTN: Tensor, grad_beta_BTN: Tensor, a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, b, A_log and dt_bias; the last two are summed per program (Z), then over the programs in a fixed order."""
    num_tokens, num_heads = a_BTN.shape[:-1].numel(), a_BTN.shape[-1]
    grid = _grid(num_tokens, num_heads)
    grad_a_BTN, grad_b_BTN = torch.empty_like(a_BTN), torch.empty_like(b_BTN)
    partial_2ZN = a_BTN.new_empty(2, grid[0], num_heads, dtype=torch.float32)
    tensors = (grad_log_decay_BTN, grad_beta_BTN, a_BTN, b_BTN, A_log_N, dt_bias_N, grad_a_BTN, grad_b_BTN, *partial_2ZN)
    with torch.cuda.device_of(a_BTN):
        gates_backward[grid](*tensors, num_tokens, num_heads, **_constants(num_heads), num_warps=NUM_WARPS)
    grad_A_log_N, grad_dt_bias_N = partial_2ZN.sum(1)
    # Copies: an operator's outputs sigmoid_b no memory.
    return grad_a_BTN, grad_b_BTN, grad_A_log_N.to(A_log_N.dtype, copy=True), grad_dt_bias_N.to(dt_bias_N.dtype, copy=True)


def _grid(num_tokens: int, num_heads: int) -> tuple[int, int]:
    tile = _constants(num_heads)
    return triton.cdiv(num_tokens, tile["TOKENS"]), triton.cdiv(num_heads, tile["HEADS"])


def _constants(num_heads: int) -> dict[str, int]:
    heads = min(triton.next_power_of_2(num_heads), MAX_HEADS)
    return {"TOKENS": TILE // heads, "HEADS": heads}


@triton.jit(do_not_specialize=["num_tokens"])
def gates_forward(
    a_ptr, b_ptr, A_log_ptr, dt_bias_ptr, log_decay_ptr, beta_ptr, num_tokens, num_heads, TOKENS: tl.constexpr, HEADS: tl.constexpr
):
    head, offset, inside = _tokens_and_heads(num_tokens, num_heads, TOKENS, HEADS)
    rate = tl.exp(load_fp32(A_log_ptr + head, head < num_heads))
    step, _ = _softplus(load_fp32(a_ptr + offset, inside) + load_fp32(dt_bias_ptr + head, head < num_heads))
    tl.store(log_decay_ptr + offset, -rate * step, mask=inside)
    tl.store(beta_ptr + offset, 2.0 * tl.sigmoid(load_fp32(b_ptr + offset, inside)), mask=inside)


@triton.jit(do_not_specialize=["num_tokens"])
def gates_backward(
    grad_log_decay_ptr,
    grad_beta_ptr,
    a_ptr,
    b_ptr,
    A_log_ptr,
    dt_bias_ptr,
    grad_a_ptr,
    grad_b_ptr,
    partial_A_log_ptr,
    partial_dt_bias_ptr,
    num_tokens,
    num_heads,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
):
    head, offset, inside = _tokens_and_heads(num_tokens, num_heads, TOKENS, HEADS)
    rate = tl.exp(load_fp32(A_log_ptr + head, head < num_heads))
    step, slope = _softplus(load_fp32(a_ptr + offset, inside) + load_fp32(dt_bias_ptr + head, head < num_heads))
    grad_scaled = -rate * load_fp32(grad_log_decay_ptr + offset, inside)
    grad_a = grad_scaled * slope
    tl.store(grad_a_ptr + offset, grad_a.to(grad_a_ptr.dtype.element_ty), mask=inside)
    sigmoid_b = tl.sigmoid(load_fp32(b_ptr + offset, inside))
    grad_b = load_fp32(grad_beta_ptr + offset, inside) * 2.0 * sigmoid_b * (1.0 - sigmoid_b)
    tl.store(grad_b_ptr + offset, grad_b.to(grad_b_ptr.dtype.element_ty), mask=inside)
    at = tl.program_id(0) * num_heads + head
    tl.store(partial_A_log_ptr + at, tl.sum(grad_scaled * step, axis=0, keep_dims=True), mask=head < num_heads)
    tl.store(partial_dt_bias_ptr + at, tl.sum(grad_a, axis=0, keep_dims=True), mask=head < num_heads)


@triton.jit
def _tokens_and_heads(num_tokens, num_heads, TOKENS: tl.constexpr, HEADS: tl.constexpr):
    """This program's heads, [1, HEADS], its elements' offsets, [TOKENS, HEADS], and which of them exist."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None]
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[None, :]
    return head, token.to(tl.int64) * num_heads + head, (token < num_tokens) & (head < num_heads)


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) and its slope, with exp(−|x|), which cannot overflow."""
    small = tl.exp(-tl.abs(x))
    rounded = 1.0 + small
    # What the sum's rounding took from `small`, the logarithm of a sum near 1 is multiplied back by.
    logarithm = tl.where(rounded == 1.0, small, tl.log(rounded) * (small / (rounded - 1.0)))
    value = tl.maximum(x, 0.0) + logarithm
    is_linear = x > SOFTPLUS_IS_LINEAR_FROM
    return tl.where(is_linear, x, value), tl.where(is_linear, 1.0, tl.sigmoid(x))
