# mypy: allow-untyped-defs
"""The Triton kernel of rotary positions: turns the pairs of channels i and i + HALF of every head by the angle of its token.

A program takes HEADS heads of one token, so that cosines and sines are read once for all of them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
"""Most pairs of a program, unless one head has more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What one program works on: `heads` heads of `width` pairs, both powers of two."""

    heads: int
    width: int
    num_warps: int


def choose_tile(num_heads: int, head_dim: int) -> Tile:
    """16 pairs per thread, four loads of 16 bytes in bf16."""
    width = triton.next_power_of_2(head_dim // 2)
    heads = max(1, min(triton.next_power_of_2(num_heads), TILE // width))
    return Tile(heads=heads, width=width, num_warps=min(max(heads * width // 512, 1), 8))


def rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor, *, backwards: bool) -> Tensor:
    """out_BTNK from contiguous tensors; cos and sin are (1 or B) × T × 1 × K/2. `backwards` turns by the opposite angle."""
    num_rows, num_tokens, num_heads, head_dim = x_BTNK.shape
    tile, out_BTNK = choose_tile(num_heads, head_dim), torch.empty_like(x_BTNK)
    grid = (num_rows * num_tokens, triton.cdiv(num_heads, tile.heads))
    tensors, sizes = (x_BTNK, cos, sin, out_BTNK), (num_heads, head_dim // 2, tile.heads, tile.width)
    with torch.cuda.device_of(x_BTNK):
        rotate_kernel[grid](*tensors, cos.shape[:2].numel(), -1.0 if backwards else 1.0, *sizes, num_warps=tile.num_warps)
    return out_BTNK


@triton.jit(do_not_specialize=["num_positions", "sign"])
def rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    num_positions,
    sign,
    N: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """`num_positions` is T, or B·T where the rows' positions differ; tokens of all rows are counted in one."""
    token = tl.program_id(0)
    pair = tl.arange(0, WIDTH)[None, :]
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    inside = (head < N) & (pair < HALF)
    offset = token.to(tl.int64) * (N * 2 * HALF) + head * (2 * HALF) + pair
    first = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + offset + HALF, mask=inside, other=0.0).to(tl.float32)
    at = (token % num_positions).to(tl.int64) * HALF + pair
    cos = tl.load(cos_ptr + at, mask=pair < HALF, other=0.0)
    sin = tl.load(sin_ptr + at, mask=pair < HALF, other=0.0) * sign
    tl.store(out_ptr + offset, (first * cos - second * sin).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + offset + HALF, (second * cos + first * sin).to(out_ptr.dtype.element_ty), mask=inside)
