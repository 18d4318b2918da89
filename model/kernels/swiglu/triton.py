# mypy: allow-untyped-defs
"""Triton kernels of silu(gate)·up and its gradients, over all elements in a row (their number is `size`)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.triton_tiles import load_fp32, sigmoid

BLOCK, NUM_WARPS = 4096, 8
"""Elements and warps of a program: 16 elements per thread, two loads of 16 bytes of each input in bf16."""


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up of contiguous tensors."""
    out = torch.empty_like(gate)
    with torch.cuda.device_of(gate):
        swiglu_forward[_grid(gate)](gate, up, out, gate.numel(), BLOCK, num_warps=NUM_WARPS)
    return out


def backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up, from contiguous tensors."""
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    with torch.cuda.device_of(gate):
        swiglu_backward[_grid(gate)](grad, gate, up, grad_gate, grad_up, gate.numel(), BLOCK, num_warps=NUM_WARPS)
    return grad_gate, grad_up


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)


@triton.jit
def swiglu_forward(gate_ptr, up_ptr, out_ptr, size, BLOCK: tl.constexpr):
    offset, inside = _elements(size, BLOCK)
    gate, up = load_fp32(gate_ptr + offset, inside), load_fp32(up_ptr + offset, inside)
    out = gate * sigmoid(gate) * up
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(grad_ptr, gate_ptr, up_ptr, grad_gate_ptr, grad_up_ptr, size, BLOCK: tl.constexpr):
    """Gradients, by SiLU'(g) = s + g·s·(1 − s), s = sigmoid(g)."""
    offset, inside = _elements(size, BLOCK)
    grad, gate, up = load_fp32(grad_ptr + offset, inside), load_fp32(gate_ptr + offset, inside), load_fp32(up_ptr + offset, inside)
    sigmoid_g = sigmoid(gate)
    silu = gate * sigmoid_g
    grad_gate = grad * up * (sigmoid_g + silu * (1.0 - sigmoid_g))
    tl.store(grad_gate_ptr + offset, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_up_ptr + offset, (grad * silu).to(grad_up_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _elements(size, BLOCK: tl.constexpr):
    """This program's elements, and which of them exist."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offset, offset < size
