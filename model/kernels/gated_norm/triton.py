# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Triton kernels of RMSNorm over V, with one weight for all heads, times SiLU(gate).

A head of a token is a row (R in all). V is PARTS blocks of WIDTH, a power of two, so that 192 is 3 × 64 and nothing is padded; tuples hold
one [ROWS, WIDTH] tile per part. In the backward each program takes REPEATS such tiles and sums the weight's gradient over them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.triton_tiles import parts_dot, parts_load, parts_scale, parts_store, parts_widen, parts_zeros, sigmoid


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What one program works on at once: `rows` heads of `parts` × `width` channels; `repeats` times."""

    parts: int
    width: int
    rows: int
    repeats: int
    num_warps: int


def choose_tile(value_dim: int, *, repeats: int) -> Tile:
    """Each thread loads 8 elements of a part at once, or fewer where there are many parts."""
    width = min(value_dim & -value_dim, 256)
    parts, num_warps = value_dim // width, 4
    at_once = min(8 if parts <= 3 else 4 if parts <= 7 else 2, width)
    return Tile(parts=parts, width=width, rows=max(1, at_once * 32 * num_warps // width), repeats=repeats, num_warps=num_warps)


def forward(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, *, eps: float) -> Tensor:
    """out_BTNV in gate's dtype, from contiguous tensors."""
    tile, out_BTNV, num_rows = choose_tile(x_BTNV.shape[-1], repeats=1), torch.empty_like(gate_BTNV), x_BTNV.shape[:-1].numel()
    with torch.cuda.device_of(x_BTNV):
        gated_norm_forward[_grid(num_rows, tile)](
            x_BTNV, gate_BTNV, weight_V, out_BTNV, num_rows, eps, tile.parts, tile.width, tile.rows, num_warps=tile.num_warps
        )
    return out_BTNV


def backward(grad_BTNV: Tensor, x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gate and weight; the weight's is summed per program (Z), then over the programs in a fixed order."""
    tile, num_rows = choose_tile(x_BTNV.shape[-1], repeats=16), x_BTNV.shape[:-1].numel()
    grad_x_BTNV, grad_gate_BTNV = torch.empty_like(x_BTNV), torch.empty_like(gate_BTNV)
    grid = _grid(num_rows, tile)
    partial_ZV = x_BTNV.new_empty(grid[0], x_BTNV.shape[-1], dtype=torch.float32)
    tensors = (grad_BTNV, x_BTNV, gate_BTNV, weight_V, grad_x_BTNV, grad_gate_BTNV, partial_ZV)
    with torch.cuda.device_of(x_BTNV):
        gated_norm_backward[grid](*tensors, num_rows, eps, tile.parts, tile.width, tile.rows, tile.repeats, num_warps=tile.num_warps)
    return grad_x_BTNV, grad_gate_BTNV, partial_ZV.sum(0).to(weight_V.dtype)


def _grid(num_rows: int, tile: Tile) -> tuple[int]:
    return (triton.cdiv(num_rows, tile.rows * tile.repeats),)


@triton.jit(do_not_specialize=["num_rows", "eps"])
def gated_norm_forward(x_ptr, gate_ptr, weight_ptr, out_ptr, num_rows, eps, PARTS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = row < num_rows
    offset = row.to(tl.int64) * (PARTS * WIDTH) + tl.arange(0, WIDTH)[None, :]
    xs = parts_widen(parts_load(x_ptr + offset, inside, PARTS, WIDTH), PARTS)
    gates = parts_widen(parts_load(gate_ptr + offset, inside, PARTS, WIDTH), PARTS)
    weights = _load_weights(weight_ptr, PARTS, WIDTH)
    inverse = tl.rsqrt(parts_dot(xs, xs, PARTS) / (PARTS * WIDTH) + eps)
    for part in tl.static_range(PARTS):
        out = xs[part] * inverse * weights[part] * (gates[part] * sigmoid(gates[part]))
        tl.store(out_ptr + offset + part * WIDTH, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows", "eps"])
def gated_norm_backward(
    grad_ptr,
    x_ptr,
    gate_ptr,
    weight_ptr,
    grad_x_ptr,
    grad_gate_ptr,
    partial_ptr,
    num_rows,
    eps,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    weights = _load_weights(weight_ptr, PARTS, WIDTH)
    grad_weights = parts_zeros(PARTS, ROWS, WIDTH)
    for repeat in range(REPEATS):
        row = (tl.program_id(0) * REPEATS + repeat) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = row < num_rows
        offset = row.to(tl.int64) * (PARTS * WIDTH) + tl.arange(0, WIDTH)[None, :]
        grads = parts_widen(parts_load(grad_ptr + offset, inside, PARTS, WIDTH), PARTS)
        xs = parts_widen(parts_load(x_ptr + offset, inside, PARTS, WIDTH), PARTS)
        gates = parts_widen(parts_load(gate_ptr + offset, inside, PARTS, WIDTH), PARTS)
        inverse = tl.rsqrt(parts_dot(xs, xs, PARTS) / (PARTS * WIDTH) + eps)
        normed = parts_scale(xs, inverse, PARTS)
        parts_store(grad_gate_ptr + offset, _grad_of_gate(grads, normed, gates, weights, PARTS), inside, PARTS, WIDTH)
        through = _times_silu(grads, gates, PARTS)
        grad_weights = _add_products(grad_weights, through, normed, PARTS)
        parts_store(grad_x_ptr + offset, _grad_of_norm(through, normed, weights, inverse, PARTS, WIDTH), inside, PARTS, WIDTH)
    column = tl.arange(0, WIDTH)
    for part in tl.static_range(PARTS):
        at = tl.program_id(0).to(tl.int64) * (PARTS * WIDTH) + part * WIDTH + column
        tl.store(partial_ptr + at, tl.sum(grad_weights[part], axis=0))


@triton.jit
def _load_weights(weight_ptr, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The weight in fp32, [1, WIDTH] per part."""
    weights = ()
    for part in tl.static_range(PARTS):
        weights += (tl.load(weight_ptr + part * WIDTH + tl.arange(0, WIDTH)[None, :]).to(tl.float32),)
    return weights


@triton.jit
def _times_silu(parts, gates, PARTS: tl.constexpr):
    """Every part times SiLU of its gate."""
    outs = ()
    for part in tl.static_range(PARTS):
        outs += (parts[part] * (gates[part] * sigmoid(gates[part])),)
    return outs


@triton.jit
def _grad_of_gate(grads, normed, gates, weights, PARTS: tl.constexpr):
    """The gate's gradient, by SiLU'(g) = s + g·s·(1 − s), s = sigmoid(g)."""
    outs = ()
    for part in tl.static_range(PARTS):
        sigmoid_g = sigmoid(gates[part])
        outs += (grads[part] * normed[part] * weights[part] * (sigmoid_g + gates[part] * sigmoid_g * (1.0 - sigmoid_g)),)
    return outs


@triton.jit
def _add_products(sums, left, right, PARTS: tl.constexpr):
    """sums + left · right, elementwise."""
    added = ()
    for part in tl.static_range(PARTS):
        added += (sums[part] + left[part] * right[part],)
    return added


@triton.jit
def _grad_of_norm(grads, normed, weights, inverse, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """x's gradient: with n = x·r, r = (mean x² + eps)^−½, it is r·(dn − n·mean(dn·n))."""
    weighted = ()
    for part in tl.static_range(PARTS):
        weighted += (grads[part] * weights[part],)
    along = parts_dot(weighted, normed, PARTS) / (PARTS * WIDTH)
    outs = ()
    for part in tl.static_range(PARTS):
        outs += ((weighted[part] - normed[part] * along) * inverse,)
    return outs
