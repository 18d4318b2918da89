# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 (Triton knows no unpacking)
"""Gradients of queries, keys and gates, chunk by chunk, once the state's have passed through.

Of every chunk one program does the queries' and one the keys': half the registers each, so that several run on a multiprocessor and wait
for memory in turn. They come one after the other, so that what both read is read from memory once.
"""

import triton
import triton.language as tl

from model.kernels.triton_chunks import decay_between, load_beta, load_tiles, num_tiles, tile_start, tile_width
from model.kernels.triton_scan import zero_tiles


@triton.jit
def load_rows(matrix, token, column, is_valid, stride):
    return tl.load(matrix + token[:, None] * stride + column[None, :], mask=is_valid[:, None], other=0.0)


@triton.jit
def add_products(totals, left, matrix, row, K: tl.constexpr, PRECISION: tl.constexpr):
    """Adds left · (these rows of a matrix K wide)."""
    added = ()
    for j in tl.static_range(num_tiles(K)):
        column = tile_start(K, j) + tl.arange(0, tile_width(K, j))
        right = tl.load(matrix + row[:, None] * K + column[None, :])
        added = added + (tl.dot(left, right, totals[j], input_precision=PRECISION),)
    return added


@triton.jit
def query_gradients(
    q, k, grad_out, updates, states, high, low, from_start, grad_q, is_valid,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Stores `grad_q`; gives the gradient of the logarithm of each token's decay through its query."""
    token = tl.arange(0, C)
    rows = zero_tiles(C, K)
    weights = tl.zeros((C, C), tl.float32)
    for i in tl.range(V // BV, num_stages=STAGES):
        value = i * BV + tl.arange(0, BV)
        grad = load_rows(grad_out, token, value, is_valid, M * V)
        update = load_rows(updates, token, value, is_valid, M * V)
        rows = add_products(rows, grad, states, value, K, PRECISION)
        weights = tl.dot(grad, tl.trans(update), weights, input_precision=PRECISION)
    queries = load_tiles(q, token, is_valid, N * K, K)
    keys = load_tiles(k, token, is_valid, N * K, K)
    is_seen = (token[:, None] >= token[None, :]) & is_valid[:, None]
    weights = (weights * decay_between(high, low, is_seen)).to(k.dtype.element_ty)
    gained = tl.zeros((C,), tl.float32)
    for j in tl.static_range(num_tiles(K)):
        tile = tl.dot(weights, keys[j], rows[j] * from_start[:, None], input_precision=PRECISION)
        gained += tl.sum(tile * queries[j].to(tl.float32), 1)
        column = tile_start(K, j) + tl.arange(0, tile_width(K, j))
        tl.store(grad_q + token[:, None] * (M * K) + column[None, :], tile, mask=is_valid[:, None])
    return tl.cumsum(gained, 0, reverse=True)


@triton.jit
def key_gradients(
    q, k, grad_out, grad_v, updates, states, grad_states, high, low, from_start, to_end, whole, strength, grad_k, grad_beta, is_valid,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Stores `grad_k` and `grad_beta`; gives the gradient of the logarithm of each token's decay but for its query's part."""
    token = tl.arange(0, C)
    recalled = zero_tiles(C, K)
    own_weights = tl.zeros((C, C), tl.float32)
    query_weights = tl.zeros((C, C), tl.float32)
    for i in tl.range(V // BV, num_stages=STAGES):
        value = i * BV + tl.arange(0, BV)
        grad = load_rows(grad_v, token, value, is_valid, M * V)
        update = load_rows(updates, token, value, is_valid, M * V)
        answer = load_rows(grad_out, token, value, is_valid, M * V)
        recalled = add_products(recalled, grad, states, value, K, PRECISION)
        own_weights = tl.dot(grad, tl.trans(update), own_weights, input_precision=PRECISION)
        query_weights = tl.dot(update, tl.trans(answer), query_weights, input_precision=PRECISION)
    row = token[:, None]
    column = token[None, :]
    grad_strength = tl.sum(tl.where(row == column, own_weights, 0.0), 0) / strength / strength
    tl.store(grad_beta + token * M, grad_strength, mask=is_valid)

    # Values enter with a minus: what is recalled is taken off them.
    own = (own_weights * -decay_between(high, low, (row > column) & is_valid[:, None])).to(k.dtype.element_ty)
    # By key and query: the logarithms' differences the other way round.
    asked = (query_weights * decay_between(-high, -low, (row <= column) & is_valid[None, :])).to(k.dtype.element_ty)
    queries = load_tiles(q, token, is_valid, N * K, K)
    keys = load_tiles(k, token, is_valid, N * K, K)
    across = tl.zeros((C,), tl.float32)
    rows = ()
    for j in tl.static_range(num_tiles(K)):
        gained = tl.dot(own, keys[j], recalled[j] * -from_start[:, None], input_precision=PRECISION)
        lost = tl.dot(asked, queries[j], input_precision=PRECISION)
        lost = tl.dot(tl.trans(own), keys[j], lost, input_precision=PRECISION)
        across += tl.sum((gained - lost) * keys[j].to(tl.float32), 1)
        rows = rows + (gained + lost,)

    written = zero_tiles(C, K)
    kept = tl.zeros((BV,), tl.float32)
    for i in tl.range(V // BV, num_stages=STAGES):
        value = i * BV + tl.arange(0, BV)
        update = load_rows(updates, token, value, is_valid, M * V)
        next_written = ()
        for j in tl.static_range(num_tiles(K)):
            place = value[:, None] * K + (tile_start(K, j) + tl.arange(0, tile_width(K, j)))[None, :]
            after = tl.load(grad_states + place)
            next_written = next_written + (tl.dot(update, after, written[j], input_precision=PRECISION),)
            kept += tl.sum(tl.load(states + place).to(tl.float32) * after.to(tl.float32), 1)
        written = next_written
    left = tl.zeros((C,), tl.float32)
    for j in tl.static_range(num_tiles(K)):
        to_state = written[j] * to_end[:, None]
        left += tl.sum(to_state * keys[j].to(tl.float32), 1)
        place = token[:, None] * (M * K) + (tile_start(K, j) + tl.arange(0, tile_width(K, j)))[None, :]
        tl.store(grad_k + place, rows[j] + to_state, mask=is_valid[:, None])

    # The decay of token t scales whatever reaches t or a later token from before t.
    return tl.cumsum(across, 0, reverse=True) + tl.cumsum(left, 0) - left + whole * tl.sum(kept, 0)


@triton.jit
def chunk_gradients(
    q, k, beta, gates, start_Z, updates, states, grad_out, grad_v, grad_states,
    grad_q, grad_k, grad_log_decay, grad_beta, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`grad_q` and `grad_k` per value head, [T, M, K]; `grad_beta`, [T, M]; `grad_log_decay`, [2, T, M], which is to be summed."""
    unit = tl.program_id(0) // 2
    chunk = unit // M
    head = unit % M
    start = tl.load(start_Z + chunk).to(tl.int64)
    end = tl.load(start_Z + chunk + 1).to(tl.int64)
    token = tl.arange(0, C)
    is_valid = start + token < end
    gate = gates + head.to(tl.int64) * num_tokens + start
    plane = M * num_tokens
    from_start = tl.load(gate + token, mask=is_valid, other=0.0)
    high = tl.load(gate + 2 * plane + token, mask=is_valid, other=0.0)
    low = tl.load(gate + 3 * plane + token, mask=is_valid, other=0.0)
    narrow = start * (N * K) + head // (M // N) * K
    place = start * M + head
    wide = place * V
    state = (chunk.to(tl.int64) * M + head) * (V * K)
    target = grad_log_decay + place + token * M
    if tl.program_id(0) % 2 == 0:
        grad_decay = query_gradients(
            q + narrow, k + narrow, grad_out + wide, updates + wide, states + state, high, low, from_start, grad_q + place * K,
            is_valid, N, M, V, C, K, BV, PRECISION, STAGES,
        )  # fmt: skip
        tl.store(target, grad_decay, mask=is_valid)
    else:
        to_end = tl.load(gate + plane + token, mask=is_valid, other=0.0)
        strength = load_beta(beta + place + token * M, is_valid)
        grad_decay = key_gradients(
            q + narrow, k + narrow, grad_out + wide, grad_v + wide, updates + wide, states + state, grad_states + state, high, low,
            from_start, to_end, tl.load(gate + (end - 1 - start)), strength, grad_k + place * K, grad_beta + place,
            is_valid, N, M, V, C, K, BV, PRECISION, STAGES,
        )  # fmt: skip
        tl.store(target + plane, grad_decay, mask=is_valid)
