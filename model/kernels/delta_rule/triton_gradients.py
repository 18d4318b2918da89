# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 (Triton knows no unpacking)
"""Gradients of queries, keys and gates, chunk by chunk, once the state's have passed through.

A chunk's queries and keys lie on top of each other, 2C rows, and so do the gradients of outputs and values: what the queries need
of the former, the keys need of the latter.
"""

import triton
import triton.language as tl

from model.kernels.delta_rule.triton_prepare import decay_between, load_tiles, num_tiles, tile_start, tile_width
from model.kernels.delta_rule.triton_scan import zero_tiles


@triton.jit
def sum_over_values(
    above, beside, before, after, pair_valid, is_valid,
    V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Products over V of `above`, 2C rows, and `beside`, C rows, with the states `before` and `after` the chunk, and with each other."""
    both = zero_tiles(2 * C, K)
    columns = zero_tiles(C, K)
    weights = tl.zeros((2 * C, C), tl.float32)
    kept = tl.zeros((BV,), tl.float32)
    for i in tl.range(V // BV, num_stages=STAGES):
        row = i * BV + tl.arange(0, BV)
        outer = tl.load(above + row[None, :], mask=pair_valid[:, None], other=0.0)
        update = tl.load(beside + row[None, :], mask=is_valid[:, None], other=0.0)
        next_both, next_columns = (), ()
        for j in tl.static_range(num_tiles(K)):
            place = row[:, None] * K + (tile_start(K, j) + tl.arange(0, tile_width(K, j)))[None, :]
            state = tl.load(before + place)
            grad_state = tl.load(after + place)
            next_both = next_both + (tl.dot(outer, state, both[j], input_precision=PRECISION),)
            next_columns = next_columns + (tl.dot(update, grad_state, columns[j], input_precision=PRECISION),)
            kept += tl.sum(state.to(tl.float32) * grad_state.to(tl.float32), 1)
        weights = tl.dot(outer, tl.trans(update), weights, input_precision=PRECISION)
        both, columns = next_both, next_columns
    return both, columns, weights, kept


@triton.jit
def products_of_rows(left, right, token, is_valid, stride, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr):
    """The inner products of the rows of two matrices V wide, [C]."""
    total = tl.zeros((C, BV), tl.float32)
    for i in tl.static_range(V // BV):
        place = token[:, None] * stride + (i * BV + tl.arange(0, BV))[None, :]
        both = tl.load(left + place, mask=is_valid[:, None], other=0.0).to(tl.float32)
        total += both * tl.load(right + place, mask=is_valid[:, None], other=0.0).to(tl.float32)
    return tl.sum(total, 1)


@triton.jit
def chunk_gradients(
    q, k, v, gates, start_Z, updates, states, grad_out, grad_v, grad_states,
    grad_q, grad_k, grad_log_decay, grad_beta, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`grad_q` and `grad_k` per value head, [T, M, K]; `grad_log_decay` and `grad_beta`, [T, M]."""
    chunk = tl.program_id(0) // M
    head = tl.program_id(0) % M
    start = tl.load(start_Z + chunk).to(tl.int64)
    end = tl.load(start_Z + chunk + 1).to(tl.int64)
    token = tl.arange(0, C)
    is_valid = start + token < end
    is_query = tl.arange(0, 2 * C) < C
    pair_token = tl.arange(0, 2 * C) % C
    pair_valid = start + pair_token < end
    gate = gates + head.to(tl.int64) * num_tokens + start
    place = start * M + head

    own = products_of_rows(grad_v + place * V, v + place * V, token, is_valid, M * V, V, C, BV)
    above = tl.where(is_query, grad_out + place * V, grad_v + place * V)[:, None] + pair_token[:, None] * (M * V)
    beside = updates + place * V + token[:, None] * (M * V)
    state = (chunk.to(tl.int64) * M + head) * (V * K)
    both, columns, weights, kept = sum_over_values(
        above, beside, states + state, grad_states + state, pair_valid, is_valid, V, C, K, BV, PRECISION, STAGES
    )
    narrow = start * (N * K) + head // (M // N) * K
    stacked = load_tiles(tl.where(is_query, q + narrow, k + narrow)[:, None], pair_token, pair_valid, N * K, K)
    keys = load_tiles(k + narrow, token, is_valid, N * K, K)
    plane = M * num_tokens
    from_start = tl.load(gate + pair_token, mask=pair_valid, other=0.0)
    to_end = tl.load(gate + plane + token, mask=is_valid, other=0.0)
    high = tl.load(gate + 3 * plane + token, mask=is_valid, other=0.0)
    low = tl.load(gate + 4 * plane + token, mask=is_valid, other=0.0)
    pair_high = tl.load(gate + 3 * plane + pair_token, mask=pair_valid, other=0.0)
    pair_low = tl.load(gate + 4 * plane + pair_token, mask=pair_valid, other=0.0)
    whole = tl.load(gate + (end - 1 - start))
    strength = tl.load(gate + 2 * plane + token, mask=is_valid, other=1.0)

    # Values enter the keys' half with a minus: what is recalled is taken off them.
    sign = tl.where(is_query, 1.0, -1.0)
    age = pair_token[:, None] - token[None, :]
    is_seen = ((age > 0) | ((age == 0) & is_query[:, None])) & pair_valid[:, None]  # queries see their own token, keys do not
    weights *= decay_between(pair_high, pair_low, high, low, is_seen) * sign[:, None]
    weights = weights.to(k.dtype.element_ty)
    from_start *= sign
    target = tl.where(is_query, grad_q + place * K, grad_k + place * K)[:, None] + pair_token[:, None] * (M * K)
    gained = tl.zeros((2 * C,), tl.float32)
    lost = tl.zeros((C,), tl.float32)
    left = tl.zeros((C,), tl.float32)
    for j in tl.static_range(num_tiles(K)):
        column = (tile_start(K, j) + tl.arange(0, tile_width(K, j)))[None, :]
        rows = tl.dot(weights, keys[j], both[j] * from_start[:, None], input_precision=PRECISION)
        gained += tl.sum(rows * stacked[j].to(tl.float32), 1)
        to_state = columns[j] * to_end[:, None]
        left += tl.sum(to_state * keys[j].to(tl.float32), 1)
        seen = tl.dot(tl.trans(weights), stacked[j], input_precision=PRECISION)
        lost += tl.sum(seen * keys[j].to(tl.float32), 1)
        twice = tl.broadcast_to((to_state + seen)[None, :, :], (2, C, tile_width(K, j)))
        rows += tl.where(is_query[:, None], 0.0, tl.reshape(twice, (2 * C, tile_width(K, j))))
        tl.store(target + column, rows, mask=pair_valid[:, None])

    # A token's beta scales what it is to learn, its value less what is recalled.
    gained = tl.reshape(gained, (2, C))
    recalled = tl.sum(tl.where(tl.arange(0, 2)[:, None] == 1, gained, 0.0), 0)
    tl.store(grad_beta + place + token * M, (own + recalled) / strength, mask=is_valid)
    # The decay of token t scales whatever reaches t or a later token from before t.
    across = tl.sum(gained, 0) - lost
    grad_decay = tl.cumsum(across, 0, reverse=True) + tl.cumsum(left, 0) - left + whole * tl.sum(kept, 0)
    tl.store(grad_log_decay + place + token * M, grad_decay, mask=is_valid)
