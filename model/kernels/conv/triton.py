# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Triton kernels of the causal convolution of width 4, SiLU and, per head, L2 normalisation.

Each program walks ROWS segments of LENGTH consecutive tokens at once over one group of channels (a head, where it normalises), and keeps
the last three tokens in registers: every element is read once, but for three tokens per segment. A group is PARTS blocks of WIDTH, a
power of two, so that 96 channels are 3 × 32 and nothing is padded. Tuples hold one [ROWS, WIDTH] tile per part, and where they also hold
taps, tap `back` of `part` is at back · PARTS + part.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.triton_tiles import parts_dot, parts_load, parts_scale, parts_store, parts_widen, parts_zeros, sigmoid

TAPS = tl.constexpr(4)
NORM_EPS = tl.constexpr(1e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """What one program works on: `rows` segments of `length` tokens, of a group of `parts` × `width` channels."""

    parts: int
    width: int
    rows: int
    length: int
    unroll: int
    """Tokens of each segment whose loads are issued together: 1, 2 or 4, as `length` is a multiple of 4."""
    num_warps: int


def forward_tile(group_width: int) -> Tile:
    return _tile(group_width, max_channels_per_thread=14, length=32, unroll=4, num_warps=4)


def backward_tile(group_width: int) -> Tile:
    """Few channels per thread: its registers hold each one's taps, weights and both gradients, and spill with more."""
    return _tile(group_width, max_channels_per_thread=10, length=32, unroll=2, num_warps=4)


def _tile(group_width: int, *, max_channels_per_thread: int, length: int, unroll: int, num_warps: int) -> Tile:
    """Loads of up to 8 channels of a part at once, as far as the thread's channels of all parts allow."""
    width = min(group_width & -group_width, 128)
    parts = group_width // width
    at_once = next((count for count in (8, 4, 2) if count * parts <= max_channels_per_thread and count <= width), 1)
    return Tile(parts=parts, width=width, rows=max(1, at_once * 32 * num_warps // width), length=length, unroll=unroll, num_warps=num_warps)


def forward(x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None, *, head_dim: int | None, scale: float) -> Tensor:
    """out_BTC from contiguous tensors; normalised per `head_dim` channels, unless that is None."""
    group_width = head_dim or _block_width(x_BTC)
    tile, out_BTC = forward_tile(group_width), torch.empty_like(x_BTC)
    with torch.cuda.device_of(x_BTC):
        conv_forward[_grid(x_BTC, group_width, tile)](
            x_BTC, weight_C1W, position_BT, out_BTC, *x_BTC.shape[1:], scale, NORMALISE=head_dim is not None, **_constants(tile)
        )
    return out_BTC


def backward(
    grad_BTC: Tensor, x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None, *, head_dim: int | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x_BTC and of weight_C1W; the weight's is summed per program, and those sums (Z) in a fixed order."""
    group_width = head_dim or _block_width(x_BTC)
    tile, grad_x_BTC = backward_tile(group_width), torch.empty_like(x_BTC)
    grid = _grid(x_BTC, group_width, tile)
    partial_ZCW = x_BTC.new_empty(grid[1] * grid[2], x_BTC.shape[2], 4, dtype=torch.float32)
    tensors = (grad_BTC, x_BTC, weight_C1W, position_BT, grad_x_BTC, partial_ZCW)
    with torch.cuda.device_of(x_BTC):
        conv_backward[grid](*tensors, *x_BTC.shape[1:], scale, NORMALISE=head_dim is not None, **_constants(tile))
    return grad_x_BTC, partial_ZCW.sum(0).view(weight_C1W.shape).to(weight_C1W.dtype)


def _block_width(x_BTC: Tensor) -> int:
    """Channels per program where no norm ties them to a head: a power of two that divides them."""
    num_channels = x_BTC.shape[2]
    return min(num_channels & -num_channels, 64)


def _grid(x_BTC: Tensor, group_width: int, tile: Tile) -> tuple[int, int, int]:
    num_rows, num_tokens, num_channels = x_BTC.shape
    return num_channels // group_width, triton.cdiv(num_tokens, tile.rows * tile.length), num_rows


def _constants(tile: Tile) -> dict[str, int]:
    names = {"PARTS": tile.parts, "WIDTH": tile.width, "ROWS": tile.rows, "LENGTH": tile.length, "UNROLL": tile.unroll}
    return names | {"num_warps": tile.num_warps}


@triton.jit(do_not_specialize=["num_tokens", "scale"])
def conv_forward(
    x_ptr,
    weight_ptr,
    position_ptr,
    out_ptr,
    num_tokens,
    num_channels,
    scale,
    NORMALISE: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    UNROLL: tl.constexpr,
):
    token, row_start, offset = _segments(num_tokens, num_channels, PARTS, WIDTH, ROWS, LENGTH)
    x_ptr, out_ptr = x_ptr + offset, out_ptr + offset
    weights = _load_filter(weight_ptr, PARTS, WIDTH)
    earlier = _load_earlier(x_ptr, token, num_tokens, num_channels, PARTS, WIDTH)
    for start in tl.range(0, LENGTH, UNROLL, num_stages=2):
        group = parts_widen(_load_group(x_ptr, token, start, num_tokens, num_channels, PARTS, WIDTH, UNROLL), UNROLL * PARTS)
        for ahead in tl.static_range(UNROLL):
            step = start + ahead
            inside = _is_within(token + step, num_tokens)
            taps = group[ahead * PARTS : (ahead + 1) * PARTS] + earlier
            earlier = taps[: 3 * PARTS]
            taps = _within_document(taps, _load_position(position_ptr, row_start + token + step, inside), PARTS)
            outs = _silu(_convolve(taps, weights, PARTS), PARTS)
            if NORMALISE:
                norm = tl.rsqrt(parts_dot(outs, outs, PARTS) + NORM_EPS) * scale
                outs = parts_scale(outs, norm, PARTS)
            parts_store(out_ptr + step * num_channels, outs, inside, PARTS, WIDTH)


@triton.jit(do_not_specialize=["num_tokens", "scale"])
def conv_backward(
    grad_ptr,
    x_ptr,
    weight_ptr,
    position_ptr,
    grad_x_ptr,
    partial_ptr,
    num_tokens,
    num_channels,
    scale,
    NORMALISE: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    UNROLL: tl.constexpr,
):
    token, row_start, offset = _segments(num_tokens, num_channels, PARTS, WIDTH, ROWS, LENGTH)
    grad_ptr, x_ptr, grad_x_ptr = grad_ptr + offset, x_ptr + offset, grad_x_ptr + offset
    weights = _load_filter(weight_ptr, PARTS, WIDTH)
    earlier = _load_earlier(x_ptr, token, num_tokens, num_channels, PARTS, WIDTH)
    pending, grad_weights = parts_zeros(3 * PARTS, ROWS, WIDTH), parts_zeros(TAPS * PARTS, ROWS, WIDTH)
    coming = _load_group(x_ptr, token, 0, num_tokens, num_channels, PARTS, WIDTH, UNROLL)
    coming_grads = _load_group(grad_ptr, token, 0, num_tokens, num_channels, PARTS, WIDTH, UNROLL)
    # Past the segment's end: the next three tokens' gradients belong to its last ones too. A group is on its way while one is worked on.
    for start in range(0, LENGTH + TAPS, UNROLL):
        group, grad_group = parts_widen(coming, UNROLL * PARTS), parts_widen(coming_grads, UNROLL * PARTS)
        following = start + UNROLL
        end = tl.where(following < LENGTH + TAPS, num_tokens, 0)
        coming = _load_group(x_ptr, token, following, end, num_channels, PARTS, WIDTH, UNROLL)
        coming_grads = _load_group(grad_ptr, token, following, end, num_channels, PARTS, WIDTH, UNROLL)
        for ahead in tl.static_range(UNROLL):
            step = start + ahead
            taps = group[ahead * PARTS : (ahead + 1) * PARTS] + earlier
            earlier = taps[: 3 * PARTS]
            position = _load_position(position_ptr, row_start + token + step, token + step < num_tokens)
            taps = _within_document(taps, position, PARTS)
            grads = grad_group[ahead * PARTS : (ahead + 1) * PARTS]
            grads = _grad_of_conv(grads, _convolve(taps, weights, PARTS), scale, NORMALISE, PARTS)
            grad_weights = _add_filter_gradients(grad_weights, grads, taps, step < LENGTH, PARTS)
            gathered = _gather_gradients(grads, pending, weights, position, PARTS)
            pending = gathered[: 3 * PARTS]
            inside = (token + step - 3 < num_tokens) & (step >= 3) & (step < LENGTH + 3)
            parts_store(grad_x_ptr + (step - 3) * num_channels, gathered[3 * PARTS :], inside, PARTS, WIDTH)
    _store_partial(partial_ptr, grad_weights, num_channels, PARTS, WIDTH)


@triton.jit
def _segments(num_tokens, num_channels, PARTS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, LENGTH: tl.constexpr):
    """This program's segments: their first tokens, [ROWS, 1]; where the row starts in tokens; the offsets of the first tokens' part 0."""
    token = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]) * LENGTH
    row_start = tl.program_id(2).to(tl.int64) * num_tokens
    channel = tl.program_id(0) * (PARTS * WIDTH) + tl.arange(0, WIDTH)[None, :]
    return token, row_start, (row_start + token) * num_channels + channel


@triton.jit
def _is_within(token, num_tokens):
    return (token >= 0) & (token < num_tokens)


@triton.jit
def _load_group(ptrs, token, start, num_tokens, num_channels, PARTS: tl.constexpr, WIDTH: tl.constexpr, UNROLL: tl.constexpr):
    """UNROLL tokens of each segment from its token `start`, in their dtype; part `part` of token `ahead` is at ahead · PARTS + part."""
    group = ()
    for ahead in tl.static_range(UNROLL):
        step = start + ahead
        group += parts_load(ptrs + step * num_channels, _is_within(token + step, num_tokens), PARTS, WIDTH)
    return group


@triton.jit
def _load_earlier(x_ptr, token, num_tokens, num_channels, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The three tokens before each segment in fp32, the nearest first."""
    taps = ()
    for back in tl.static_range(1, TAPS):
        taps += parts_widen(parts_load(x_ptr - back * num_channels, _is_within(token - back, num_tokens), PARTS, WIDTH), PARTS)
    return taps


@triton.jit
def _load_filter(weight_ptr, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The weight of every tap in fp32, in the order of the taps."""
    channel = tl.program_id(0) * (PARTS * WIDTH) + tl.arange(0, WIDTH)[None, :]
    weights = ()
    for back in tl.static_range(TAPS):
        for part in tl.static_range(PARTS):
            weights += (tl.load(weight_ptr + (channel + part * WIDTH) * TAPS + (TAPS - 1 - back)).to(tl.float32),)
    return weights


@triton.jit
def _load_position(position_ptr, index, inside):
    """Tokens since the document's start, [ROWS, 1]; None where there are no documents."""
    position = None
    if position_ptr is not None:
        position = tl.load(position_ptr + index, mask=inside, other=0)
    return position


@triton.jit
def _within_document(taps, position, PARTS: tl.constexpr):
    """The taps without those before the document's start."""
    kept = taps
    if position is not None:
        kept = taps[:PARTS]
        for tap in tl.static_range(PARTS, TAPS * PARTS):
            kept += (tl.where(position >= tap // PARTS, taps[tap], 0.0),)
    return kept


@triton.jit
def _convolve(taps, weights, PARTS: tl.constexpr):
    """The convolution at one token of each segment, before SiLU."""
    sums = ()
    for part in tl.static_range(PARTS):
        total = taps[part] * weights[part]
        for back in tl.static_range(1, TAPS):
            total += taps[back * PARTS + part] * weights[back * PARTS + part]
        sums += (total,)
    return sums


@triton.jit
def _silu(parts, PARTS: tl.constexpr):
    outs = ()
    for part in tl.static_range(PARTS):
        outs += (parts[part] * sigmoid(parts[part]),)
    return outs


@triton.jit
def _grad_of_conv(grads, convs, scale, NORMALISE: tl.constexpr, PARTS: tl.constexpr):
    """Back through the norm (y·r, r = (Σy² + eps)^−½: dy = r·(dn − y·r²·Σ dn·y)) and through SiLU."""
    outs = _silu(convs, PARTS)
    if NORMALISE:
        inverse = tl.rsqrt(parts_dot(outs, outs, PARTS) + NORM_EPS)
        along, inverse = parts_dot(grads, outs, PARTS) * inverse * inverse, inverse * scale
    through = ()
    for part in tl.static_range(PARTS):
        grad = grads[part]
        if NORMALISE:
            grad = (grad - outs[part] * along) * inverse
        slope = sigmoid(convs[part])
        through += (grad * (slope + outs[part] * (1.0 - slope)),)
    return through


@triton.jit
def _add_filter_gradients(sums, grads, taps, is_mine, PARTS: tl.constexpr):
    """Adds each tap's gradient · x to its sum, unless the token is another segment's."""
    added = ()
    for tap in tl.static_range(TAPS * PARTS):
        added += (sums[tap] + tl.where(is_mine, grads[tap % PARTS], 0.0) * taps[tap],)
    return added


@triton.jit
def _gather_gradients(grads, pending, weights, position, PARTS: tl.constexpr):
    """The gradients of this token and the three before it as far as they are known: that of the one three back is whole."""
    gathered = ()
    for tap in tl.static_range(TAPS * PARTS):
        grad = grads[tap % PARTS] * weights[tap]
        if tap >= PARTS:
            if position is not None:
                grad = tl.where(position >= tap // PARTS, grad, 0.0)
            grad += pending[tap - PARTS]
        gathered += (grad,)
    return gathered


@triton.jit
def _store_partial(partial_ptr, grad_weights, num_channels, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """Stores this program's sum of the weight's gradient."""
    block = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    channel = tl.program_id(0) * (PARTS * WIDTH) + tl.arange(0, WIDTH)
    for tap in tl.static_range(TAPS * PARTS):
        at = (channel + (tap % PARTS) * WIDTH) * TAPS + (TAPS - 1 - tap // PARTS)
        tl.store(partial_ptr + block * num_channels * TAPS + at, tl.sum(grad_weights[tap], axis=0))
