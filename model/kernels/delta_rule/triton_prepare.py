# mypy: allow-untyped-defs
"""What each chunk needs before the state passes through: its triangular inverse, its scores and its decays.

Letters: C tokens of a chunk, N key heads, M value heads, K key dim, V value dim, BV of it at a time; P documents + 1, Z chunks.
What is K wide is a tuple of tiles.
"""

import triton
import triton.language as tl

from model.kernels.triton_tiles import tiles_dot, tiles_load

SMALLEST_BETA = tl.constexpr(1e-12)
"""Stands in for smaller betas, zero too: the gradient of beta is a quotient by beta."""


@triton.jit
def pairwise_decay(row_high, row_low, high, low, is_seen):
    """The decay from each column's token to each row's, 0 where it is not seen; from logarithms in two parts, for one would be inexact."""
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

    It is as exact as substitution, of which it is another order; powers of `below` would grow until they cancel. Blocks of up to 16 are
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
    q_ptr, k_ptr, log_decay_ptr, beta_ptr, start_Z_ptr, inverse_ptr, scores_ptr, gates_ptr, num_tokens,
    N: tl.constexpr, M: tl.constexpr, C: tl.constexpr, LOG_C: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr, REFINE_PRECISION: tl.constexpr,
):  # fmt: skip
    """Per chunk and value head the scores and the inverse (times beta), C × C, [T, M, C]; and the gates, fp32, [5, M, T].

    The gates are each token's decay since the chunk's start, and on to its end; beta; the logarithm of the first in two parts, the second
    what the first rounds off.
    """
    chunk = tl.program_id(0) // M
    head = tl.program_id(0) % M
    start = tl.load(start_Z_ptr + chunk).to(tl.int64)
    end = tl.load(start_Z_ptr + chunk + 1).to(tl.int64)
    within = tl.arange(0, C)
    is_valid = start + within < end

    key_offset = start * (N * K) + head // (M // N) * K
    keys = tiles_load(k_ptr + key_offset, within, is_valid, N * K, K)
    queries = tiles_load(q_ptr + key_offset, within, is_valid, N * K, K)

    # Sums in fp64: in fp32 a weak decay is lost behind strong ones.
    log_decay = tl.load(log_decay_ptr + start * M + head + within * M, mask=is_valid, other=0.0).to(tl.float64)
    decay_sum = tl.cumsum(log_decay, 0)
    high = decay_sum.to(tl.float32)
    low = (decay_sum - high.to(tl.float64)).to(tl.float32)
    beta = tl.load(beta_ptr + start * M + head + within * M, mask=is_valid, other=0.0)
    beta = tl.maximum(beta.to(tl.float32), SMALLEST_BETA)
    gate_ptrs = gates_ptr + head.to(tl.int64) * num_tokens + start + within
    tl.store(gate_ptrs, tl.exp(high), mask=is_valid)
    tl.store(gate_ptrs + M * num_tokens, tl.exp((tl.sum(log_decay, 0) - decay_sum).to(tl.float32)), mask=is_valid)
    tl.store(gate_ptrs + 2 * M * num_tokens, beta, mask=is_valid)
    tl.store(gate_ptrs + 3 * M * num_tokens, high, mask=is_valid)
    tl.store(gate_ptrs + 4 * M * num_tokens, low, mask=is_valid)

    row = within[:, None]
    column = within[None, :]
    decay = pairwise_decay(high, low, high, low, row >= column)
    pair_offset = row * (M * C) + column
    score_ptrs = scores_ptr + (start * (M * C) + head * C) + pair_offset
    tl.store(score_ptrs, tiles_dot(queries, keys, K, PRECISION) * decay, mask=is_valid[:, None])
    below = tl.where(row > column, tiles_dot(keys, keys, K, PRECISION) * decay * beta[:, None], 0.0)
    inverse = invert(below, C, LOG_C, PRECISION, REFINE_PRECISION) * beta[None, :]
    tl.store(inverse_ptr + (start * (M * C) + head * C) + pair_offset, inverse, mask=is_valid[:, None])
