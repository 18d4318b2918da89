"""Gradients of queries, keys and gates, chunk by chunk, once the state's have passed through.

A chunk's queries and keys lie on top of each other, 2C rows, and so do the gradients of outputs and values: what the queries need
of the former, the keys need of the latter.
"""

import triton
import triton.language as tl

from model.kernels.triton_chunks import load_beta, load_tiles, num_tiles, tile_start, tile_width
from model.kernels.triton_scan import zero_tiles


@triton.jit
def chunk_gradients(
    q, k, log_decay, beta, gates, start_Z, updates, states, grad_out, grad_v, grad_states,
    grad_q, grad_k, grad_log_decay, grad_beta, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`grad_q` and `grad_k` per value head, [T, M, K]; `grad_log_decay` and `grad_beta`, [T, M]."""
    chunk = tl.program_id(0) // M
    head = tl.program_id(0) % M
    start = tl.load(start_Z + chunk).to(tl.int64)
    end = tl.load(start_Z + chunk + 1).to(tl.int64)
    dtype: tl.constexpr = k.dtype.element_ty
    token = tl.arange(0, C)
    is_valid = start + token < end
    is_query = tl.arange(0, 2 * C) < C
    pair_token = tl.arange(0, 2 * C) % C
    pair_valid = start + pair_token < end

    tall = start * (M * V) + head * V
    above = tl.where(is_query, grad_out + tall, grad_v + tall)[:, None] + pair_token[:, None] * (M * V)
    beside = updates + tall + token[:, None] * (M * V)
    state = (chunk.to(tl.int64) * M + head) * (V * K)
    both = zero_tiles(2 * C, K)
    keys_column = zero_tiles(C, K)
    weights = tl.zeros((2 * C, C), tl.float32)
    kept = tl.zeros((BV,), tl.float32)
    for i in tl.range(V // BV, num_stages=STAGES):
        row = i * BV + tl.arange(0, BV)
        outer = tl.load(above + row[None, :], mask=pair_valid[:, None], other=0.0)
        update = tl.load(beside + row[None, :], mask=is_valid[:, None], other=0.0)
        next_both, next_column = (), ()
        for j in tl.static_range(num_tiles(K)):
            place = state + row[:, None] * K + (tile_start(K, j) + tl.arange(0, tile_width(K, j)))[None, :]
            before = tl.load(states + place)
            after = tl.load(grad_states + place)
            next_both = next_both + (tl.dot(outer, before, both[j], input_precision=PRECISION),)
            next_column = next_column + (tl.dot(update, after, keys_column[j], input_precision=PRECISION),)
            kept += tl.sum(before.to(tl.float32) * after.to(tl.float32), 1)
        weights = tl.dot(outer, tl.trans(update), weights, input_precision=PRECISION)
        both, keys_column = next_both, next_column

    # Values enter the keys' half with a minus: what is recalled is taken off them.
    sign = tl.where(is_query, 1.0, -1.0)
    is_self = pair_token[:, None] == token[None, :]
    gate = gates + head.to(tl.int64) * num_tokens + start
    strength = load_beta(beta + (start * M + head) + token * M, is_valid)
    on_diagonal = tl.sum(tl.where(is_self & ~is_query[:, None], weights, 0.0), 0)
    tl.store(grad_beta + (start * M + head) + token * M, on_diagonal / strength / strength, mask=is_valid)

    decay = tl.load(log_decay + (start * M + head) + token * M, mask=is_valid, other=0.0).to(tl.float64)
    pair_decay = tl.load(log_decay + (start * M + head) + pair_token * M, mask=pair_valid, other=0.0).to(tl.float64)
    pair_sum = tl.reshape(tl.cumsum(tl.reshape(pair_decay, (2, C)), 1), (2 * C,))
    is_seen = (pair_token[:, None] > token[None, :]) | (is_self & is_query[:, None])
    since = tl.where(is_seen, (pair_sum[:, None] - tl.cumsum(decay, 0)[None, :]).to(tl.float32), float("-inf"))
    weights = (weights * tl.exp(since) * sign[:, None]).to(dtype)

    from_start = tl.load(gate + pair_token, mask=pair_valid, other=0.0) * sign
    to_end = tl.load(gate + M * num_tokens + token, mask=is_valid, other=0.0)
    narrow = start * (N * K) + head // (M // N) * K
    stacked = load_tiles(tl.where(is_query, q + narrow, k + narrow)[:, None], pair_token, pair_valid, N * K, K)
    keys = load_tiles(k + narrow, token, is_valid, N * K, K)
    wide = start * (M * K) + head * K
    gained = tl.zeros((2 * C,), tl.float32)
    lost = tl.zeros((C,), tl.float32)
    left = tl.zeros((C,), tl.float32)
    for j in tl.static_range(num_tiles(K)):
        rows = tl.dot(weights, keys[j], both[j] * from_start[:, None], input_precision=PRECISION)
        gained += tl.sum(rows * stacked[j].to(tl.float32), 1)
        to_state = keys_column[j] * to_end[:, None]
        left += tl.sum(to_state * keys[j].to(tl.float32), 1)
        seen = tl.dot(tl.trans(weights), stacked[j], input_precision=PRECISION)
        lost += tl.sum(seen * keys[j].to(tl.float32), 1)
        columns = tl.reshape(tl.broadcast_to((to_state + seen)[None, :, :], (2, C, tile_width(K, j))), (2 * C, tile_width(K, j)))
        rows += tl.where(is_query[:, None], 0.0, columns)
        column = tile_start(K, j) + tl.arange(0, tile_width(K, j))
        target = tl.where(is_query, grad_q + wide, grad_k + wide)[:, None] + pair_token[:, None] * (M * K) + column[None, :]
        tl.store(target, rows, mask=pair_valid[:, None])

    # The decay of token t scales whatever reaches t or a later token from before t.
    whole = tl.load(gate + (end - 1 - start))
    across = tl.sum(tl.reshape(gained, (2, C)), 0) - lost
    grad_decay = tl.cumsum(across, 0, reverse=True) + tl.cumsum(left, 0) - left + whole * tl.sum(kept, 0)
    tl.store(grad_log_decay + (start * M + head) + token * M, grad_decay, mask=is_valid)
