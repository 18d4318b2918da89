# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 (Triton knows no unpacking)
"""What each chunk needs before the state passes through: its triangular inverse, its scores and its decays.

Letters: C tokens of a chunk, N key heads, M value heads, K key dim, V value dim, BV of it at a time. What is K wide is a tuple of tiles,
one for each power of two in K (96 = 64 + 32; 256 = 128 + 128), so that nothing is padded.
"""

import triton
import triton.language as tl

SMALLEST_BETA = tl.constexpr(1e-12)
"""Stands in for smaller betas, zero too, so that the gradient of a token's value divided by its beta stays known."""


@triton.constexpr_function
def tile_width(K, i):
    """Of tile i, the widest being tile 0; at most 128."""
    for _ in range(i):
        K -= min(1 << (K.bit_length() - 1), 128)
    return min(1 << (K.bit_length() - 1), 128)


@triton.constexpr_function
def tile_start(K, i):
    rest = K
    for _ in range(i):
        rest -= min(1 << (rest.bit_length() - 1), 128)
    return K - rest


@triton.constexpr_function
def num_tiles(K):
    return K // 128 + (K % 128).bit_count()


@triton.jit
def load_tiles(matrix, row, is_valid, stride, K: tl.constexpr):
    """These rows of a matrix K wide, with zeros where a row is not valid."""
    tiles = ()
    for i in tl.static_range(num_tiles(K)):
        column = tile_start(K, i) + tl.arange(0, tile_width(K, i))
        tiles = tiles + (tl.load(matrix + row[:, None] * stride + column[None, :], mask=is_valid[:, None], other=0.0),)
    return tiles


@triton.jit
def products(left, right, K: tl.constexpr, PRECISION: tl.constexpr):
    """left · rightᵀ in fp32, summed over the tiles."""
    total = tl.dot(left[0], tl.trans(right[0]), input_precision=PRECISION)
    for i in tl.static_range(1, num_tiles(K)):
        total = tl.dot(left[i], tl.trans(right[i]), total, input_precision=PRECISION)
    return total


@triton.jit
def decay_between(row_high, row_low, high, low, is_seen):
    """The decay from each column's token to each row's, 0 where it is not seen; from logarithms in two parts, exact where one is not."""
    log_decay = (row_high[:, None] - high[None, :]) + (row_low[:, None] - low[None, :])
    return tl.exp(tl.where(is_seen, log_decay, float("-inf")))  # masked before exp: above the diagonal it would overflow


@triton.jit
def merge_blocks(inverse, below, row, column, FIRST: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr):
    """From the inverses of blocks of 2^FIRST on the diagonal to those of 2^LAST, each level's twice as large."""
    for level in range(FIRST, LAST):
        is_new = ((row >> level) != (column >> level)) & ((row >> (level + 1)) == (column >> (level + 1)))
        carried = tl.dot(tl.where(is_new, below, 0.0), inverse, input_precision=PRECISION)
        inverse -= tl.dot(inverse, carried, input_precision=PRECISION)
    return inverse


@triton.jit
def invert(below, C: tl.constexpr, LOG_C: tl.constexpr, PRECISION: tl.constexpr, REFINE_PRECISION: tl.constexpr):
    """(1 + below)⁻¹ for a strictly lower triangle of C × C: blocks on the diagonal, each level's twice as large.

    As exact as substitution, which it is in another order; powers of `below` would grow until they cancel. Blocks of up to 16 are
    products by themselves, C / 16 at once: each warp has its own in registers. A step of Newton's method, X + X (1 − (1 + below) X),
    makes up for levels in tf32 if its inner product is more precise.
    """
    row = tl.arange(0, 16)[None, :, None]
    column = tl.arange(0, 16)[None, None, :]
    block = tl.arange(0, C // 16)
    is_own = tl.reshape(block[:, None] == block[None, :], (C // 16, 1, C // 16, 1))
    small = tl.sum(tl.where(is_own, tl.reshape(below, (C // 16, 16, C // 16, 16)), 0.0), 2)
    pairs = tl.where(row == column, 1.0, 0.0) - tl.where(row // 2 == column // 2, small, 0.0)
    blocks = merge_blocks(pairs, small, row, column, 1, 4, PRECISION)
    inverse = tl.reshape(tl.where(is_own, tl.reshape(blocks, (C // 16, 16, 1, 16)), 0.0), (C, C))
    row = tl.arange(0, C)[:, None]
    column = tl.arange(0, C)[None, :]
    inverse = merge_blocks(inverse, below, row, column, 4, LOG_C, PRECISION)
    if REFINE_PRECISION is not None:
        rest = tl.where(row == column, 1.0, 0.0) - inverse - tl.dot(below, inverse, input_precision=REFINE_PRECISION)
        small_dtype: tl.constexpr = tl.bfloat16 if REFINE_PRECISION == "bf16x3" else tl.float32
        inverse = tl.dot(inverse.to(small_dtype), rest.to(small_dtype), inverse, input_precision=PRECISION)
    return inverse


@triton.jit
def prepare_chunks(
    q, k, log_decay, beta, start_Z, inverse, scores, gates, num_tokens,
    N: tl.constexpr, M: tl.constexpr, C: tl.constexpr, LOG_C: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr, REFINE_PRECISION: tl.constexpr,
):  # fmt: skip
    """Per chunk and value head `scores` and `inverse` (times beta), C × C, [T, M, C]; `gates`, fp32, [5, M, T]: each token's decay
    since the chunk's start, and on to its end; beta; the logarithm of the first in two parts, the second what the first rounds off."""
    chunk = tl.program_id(0) // M
    head = tl.program_id(0) % M
    start = tl.load(start_Z + chunk).to(tl.int64)
    end = tl.load(start_Z + chunk + 1).to(tl.int64)
    within = tl.arange(0, C)
    is_valid = start + within < end

    narrow = start * (N * K) + head // (M // N) * K
    keys = load_tiles(k + narrow, within, is_valid, N * K, K)
    queries = load_tiles(q + narrow, within, is_valid, N * K, K)

    # Sums in fp64: in fp32 a weak decay is lost behind strong ones.
    decay = tl.load(log_decay + start * M + head + within * M, mask=is_valid, other=0.0).to(tl.float64)
    decay_sum = tl.cumsum(decay, 0)
    high = decay_sum.to(tl.float32)
    low = (decay_sum - high.to(tl.float64)).to(tl.float32)
    strength = tl.load(beta + start * M + head + within * M, mask=is_valid, other=0.0)
    strength = tl.maximum(strength.to(tl.float32), SMALLEST_BETA)
    gate = gates + head.to(tl.int64) * num_tokens + start + within
    tl.store(gate, tl.exp(high), mask=is_valid)
    tl.store(gate + M * num_tokens, tl.exp((tl.sum(decay, 0) - decay_sum).to(tl.float32)), mask=is_valid)
    tl.store(gate + 2 * M * num_tokens, strength, mask=is_valid)
    tl.store(gate + 3 * M * num_tokens, high, mask=is_valid)
    tl.store(gate + 4 * M * num_tokens, low, mask=is_valid)

    row = within[:, None]
    column = within[None, :]
    between = decay_between(high, low, high, low, row >= column)
    tile = row * (M * C) + column
    tl.store(scores + (start * (M * C) + head * C) + tile, products(queries, keys, K, PRECISION) * between, mask=is_valid[:, None])
    below = tl.where(row > column, products(keys, keys, K, PRECISION) * between * strength[:, None], 0.0)
    solved = invert(below, C, LOG_C, PRECISION, REFINE_PRECISION) * strength[None, :]
    tl.store(inverse + (start * (M * C) + head * C) + tile, solved, mask=is_valid[:, None])
