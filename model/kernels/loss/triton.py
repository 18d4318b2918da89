# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Triton kernels of the cross-entropy: what a row of logits is reduced to, and its gradient in its place.

Each program walks one row, a tile of [LANES, WIDTH] at a time: WIDTH elements are 16 bytes, what a thread loads at once. Every lane keeps
a maximum and a sum of its own, so that nothing crosses threads before the row's end, and an element costs 1 + 1 / WIDTH exponentials.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES, NUM_WARPS = 512, 8
"""Lanes and warps of a program: two loads in flight per thread, and full multiprocessors."""
LOWEST = tl.constexpr(-3.4028234663852886e38)
"""Where a maximum begins. Finite: from −∞ a lane that has seen nothing, or only −∞, would subtract −∞ from itself."""


def row_statistics(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """peak_C, sum_exp_C and target_logit_C of `operator`. Rows may lie apart, the elements of one may not."""
    peak_C, sum_exp_C, target_logit_C = (logits_CX.new_empty(logits_CX.shape[0], dtype=torch.float32) for _ in range(3))
    tensors = (logits_CX, target_C, is_valid_C, peak_C, sum_exp_C, target_logit_C)
    _launch(loss_statistics, logits_CX, tensors)
    return peak_C, sum_exp_C, target_logit_C


def gradient(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, peak_C: Tensor, scale_C: Tensor) -> None:
    """Overwrites the logits with their gradient. Rows may lie apart, the elements of one may not."""
    _launch(loss_gradient, logits_CX, (logits_CX, target_C, is_valid_C, peak_C, scale_C))


def _launch(kernel, logits_CX: Tensor, tensors: tuple[Tensor, ...]) -> None:
    num_rows, num_columns = logits_CX.shape
    assert logits_CX.stride(1) == 1, "the logits of a row must be neighbours"
    tile = {"LANES": LANES, "WIDTH": 16 // logits_CX.element_size()}
    with torch.cuda.device_of(logits_CX):
        kernel[(num_rows,)](*tensors, logits_CX.stride(0), num_columns, **tile, num_warps=NUM_WARPS)


@triton.jit
def loss_statistics(
    logits_ptr,
    target_ptr,
    is_valid_ptr,
    peak_ptr,
    sum_exp_ptr,
    target_logit_ptr,
    row_stride,
    num_columns,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A row's peak, sum of exponentials and target logit. A row that is not valid is not read: 0, 1 and 0, whose logarithm is finite."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * row_stride
    peak, total, target_logit = 0.0, 1.0, 0.0
    if tl.load(is_valid_ptr + row) != 0:
        target = tl.load(target_ptr + row)
        target_logit = tl.load(logits_ptr + target, mask=(target >= 0) & (target < num_columns), other=0.0).to(tl.float32)
        peaks, sums = tl.full([LANES], LOWEST, tl.float32), tl.zeros([LANES], tl.float32)
        for start in range(0, num_columns, LANES * WIDTH):
            column = start + _columns(LANES, WIDTH)
            x = tl.load(logits_ptr + column, mask=column < num_columns, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(peaks, tl.max(x, axis=1))
            sums = sums * tl.exp(peaks - higher) + tl.sum(tl.exp(x - higher[:, None]), axis=1)
            peaks = higher
        peak = tl.max(peaks, axis=0)
        total = tl.sum(sums * tl.exp(peaks - peak), axis=0)
    tl.store(peak_ptr + row, peak)
    tl.store(sum_exp_ptr + row, total)
    tl.store(target_logit_ptr + row, target_logit)


@triton.jit
def loss_gradient(
    logits_ptr,
    target_ptr,
    is_valid_ptr,
    peak_ptr,
    scale_ptr,
    row_stride,
    num_columns,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Overwrites a row with exp(x − peak) · scale, less 1 at the target; with 0 where it is not valid, and then does not read it."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * row_stride
    dtype: tl.constexpr = logits_ptr.dtype.element_ty
    if tl.load(is_valid_ptr + row) != 0:
        target = tl.load(target_ptr + row)
        peak, scale = tl.load(peak_ptr + row), tl.load(scale_ptr + row)
        for start in range(0, num_columns, LANES * WIDTH):
            column = start + _columns(LANES, WIDTH)
            x = tl.load(logits_ptr + column, mask=column < num_columns, other=0.0).to(tl.float32)
            grad = tl.exp(x - peak) * scale - tl.where(column == target, 1.0, 0.0)
            tl.store(logits_ptr + column, grad.to(dtype), mask=column < num_columns)
    else:
        for start in range(0, num_columns, LANES * WIDTH):
            column = start + _columns(LANES, WIDTH)
            tl.store(logits_ptr + column, tl.zeros([LANES, WIDTH], dtype), mask=column < num_columns)


@triton.jit
def _columns(LANES: tl.constexpr, WIDTH: tl.constexpr):
    """The columns of a tile, [LANES, WIDTH]."""
    return tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
