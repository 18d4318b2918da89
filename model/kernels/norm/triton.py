# mypy: allow-untyped-defs
"""Triton kernels of RMSNorm over a row of D, with what is added before it or after it.

A program holds ROWS rows at once, each padded to WIDTH, a power of two; what lies beyond D is neither read nor written. In the backward
a fixed number of programs share the rows and each sums the weight's gradient over its own in registers, so that the bits are those of
every GPU; loads of the next rows are in flight meanwhile.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Elements of a tile that holds several rows."""
BACKWARD_PROGRAMS, STAGES, STAGES_BYTES = 2 * 132, 3, 96 * 1024
"""The backward's programs, two for each multiprocessor of an H100, as their registers allow; its tiles in flight or in use, and the bytes
of shared memory that must hold them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What one program works on at once: `rows` rows, each padded to `width`."""

    rows: int
    width: int
    num_warps: int


def choose_tile(row_width: int) -> Tile:
    """16 elements per thread, two loads of 16 bytes in bf16, as long as 16 warps are enough."""
    width = triton.next_power_of_2(row_width)
    rows = max(1, TILE // width)
    return Tile(rows=rows, width=width, num_warps=min(rows * width // 512, 16))


def forward(
    x: Tensor, weight_D: Tensor, *, eps: float, added_before: Tensor | None = None, added_after: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(x + added_before, its norm · weight + added_after); where nothing is added before, the former is x. All of them contiguous."""
    tile, num_rows = choose_tile(x.shape[-1]), x.shape[:-1].numel()
    total, out = x if added_before is None else torch.empty_like(x), torch.empty_like(x)
    tensors = (x, added_before, added_after, weight_D, total, out)
    with torch.cuda.device_of(x):
        rms_norm_forward[(triton.cdiv(num_rows, tile.rows),)](
            *tensors, num_rows, eps, x.shape[-1], tile.width, tile.rows, num_warps=tile.num_warps
        )
    return total, out


def backward(grad: Tensor, x: Tensor, weight_D: Tensor, grad_x: Tensor | None, *, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x, `grad_x` added to what comes through the norm, and of the weight.

    The weight's is summed per program (Z), then over the programs in a fixed order.
    """
    tile, num_rows = choose_tile(x.shape[-1]), x.shape[:-1].numel()
    num_programs = min(BACKWARD_PROGRAMS, triton.cdiv(num_rows, tile.rows))
    out, partial_ZD = torch.empty_like(x), x.new_empty(num_programs, x.shape[-1], dtype=torch.float32)
    tensors = (grad, x, weight_D, grad_x, out, partial_ZD)
    in_flight_bytes = (STAGES - 1) * 3 * tile.rows * tile.width * x.element_size()
    stages = STAGES if in_flight_bytes <= STAGES_BYTES else 1
    with torch.cuda.device_of(x):
        rms_norm_backward[(num_programs,)](*tensors, num_rows, eps, x.shape[-1], tile.width, tile.rows, stages, num_warps=tile.num_warps)
    return out, partial_ZD.sum(0).to(weight_D.dtype)


@triton.jit(do_not_specialize=["num_rows", "eps"])
def rms_norm_forward(
    x_ptr,
    before_ptr,
    after_ptr,
    weight_ptr,
    total_ptr,
    out_ptr,
    num_rows,
    eps,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    column = tl.arange(0, WIDTH)[None, :]
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (row < num_rows) & (column < D)
    offset = row.to(tl.int64) * D + column
    x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    if after_ptr is not None:
        after = tl.load(after_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    if before_ptr is not None:
        total = x + tl.load(before_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        rounded = total.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + offset, rounded, mask=inside)
        x = rounded.to(tl.float32)  # the norm is that of the sum as the backward finds it
    out = x * tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) * (1.0 / D) + eps) * weight
    if after_ptr is not None:
        out += after
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows", "eps"])
def rms_norm_backward(
    grad_ptr,
    x_ptr,
    weight_ptr,
    grad_x_ptr,
    out_ptr,
    partial_ptr,
    num_rows,
    eps,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradients: with n = x·r, r = (mean x² + eps)^−½, h = grad·weight: dx = r·(h − n·r·mean(h·x)), dweight = Σ grad·n."""
    column = tl.arange(0, WIDTH)[None, :]
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in tl.range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = first + tl.arange(0, ROWS)[:, None]
        inside = (row < num_rows) & (column < D)
        offset = row.to(tl.int64) * D + column
        x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) * (1.0 / D) + eps)
        along = tl.sum(grad * weight * x, axis=1, keep_dims=True) * inverse * (1.0 / D)
        normed = x * inverse
        grad_weight += grad * normed
        out = (grad * weight - normed * along) * inverse
        if grad_x_ptr is not None:
            out += tl.load(grad_x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)
    at = tl.program_id(0).to(tl.int64) * D + column
    tl.store(partial_ptr + at, tl.sum(grad_weight, axis=0, keep_dims=True), mask=column < D)
