# mypy: allow-untyped-defs
"""Triton kernels of `swiglu_triton`: silu(gate)·up and back, over elements in a row (their number is `size`)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.triton_tiles import sigmoid

BLOCK, NUM_WARPS = 4096, 8
"""Elements and warps of a program: 16 elements per thread, two loads of 16 bytes of each input in bf16."""


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """Both of them contiguous."""
    out = torch.empty_like(gate)
    with torch.cuda.device_of(gate):
        swiglu_forward[_grid(gate)](gate, up, out, gate.numel(), BLOCK, num_warps=NUM_WARPS)
    return out


def backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    with torch.cuda.device_of(gate):
        swiglu_backward[_grid(gate)](grad, gate, up, grad_gate, grad_up, gate.numel(), BLOCK, num_warps=NUM_WARPS)
    return grad_gate, grad_up


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)


@triton.jit
def swiglu_forward(gate_ptr, up_ptr, out_ptr, size, BLOCK: tl.constexpr):
    offset, inside = _place(size, BLOCK)
    gate, up = _load(gate_ptr + offset, inside), _load(up_ptr + offset, inside)
    out = gate * sigmoid(gate) * up
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(grad_ptr, gate_ptr, up_ptr, grad_gate_ptr, grad_up_ptr, size, BLOCK: tl.constexpr):
    """SiLU'(g) = s + g·s·(1 − s), s = sigmoid(g)."""
    offset, inside = _place(size, BLOCK)
    grad, gate, up = _load(grad_ptr + offset, inside), _load(gate_ptr + offset, inside), _load(up_ptr + offset, inside)
    share = sigmoid(gate)
    silu = gate * share
    grad_gate = grad * up * (share + silu * (1.0 - share))
    tl.store(grad_gate_ptr + offset, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_up_ptr + offset, (grad * silu).to(grad_up_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _place(size, BLOCK: tl.constexpr):
    """This program's elements, and which of them exist."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offset, offset < size


@triton.jit
def _load(ptrs, inside):
    return tl.load(ptrs, mask=inside, other=0.0).to(tl.float32)
