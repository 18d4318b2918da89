"""The state's way through the chunks of a document, forward, and its gradient's way back.

Both hold the state transposed, V × K, in registers: BV of its rows per program. Each product takes it, or what came of it,
as the left factor straight from registers, and as the right factor a tile as it lies in memory.
"""

import triton
import triton.language as tl

from model.kernels.triton_chunks import load_tiles, products


@triton.jit
def load_state(state, head, row, V: tl.constexpr, NK: tl.constexpr, BK: tl.constexpr):
    """The rows of the transpose of a K × V state, fp32, as NK tiles."""
    tiles = ()
    for i in tl.static_range(NK):
        column = i * BK + tl.arange(0, BK)
        tiles = tiles + (tl.load(state + head * (NK * BK * V) + column[None, :] * V + row[:, None]),)
    return tiles


@triton.jit
def store_state(state, tiles, head, row, V: tl.constexpr, NK: tl.constexpr, BK: tl.constexpr):
    for i in tl.static_range(NK):
        column = i * BK + tl.arange(0, BK)
        tl.store(state + head * (NK * BK * V) + column[None, :] * V + row[:, None], tiles[i])


@triton.jit
def store_tiles(matrix, tiles, row, NK: tl.constexpr, BK: tl.constexpr):
    """Tiles as rows of a matrix NK · BK wide, in its dtype."""
    place = row[:, None] * (NK * BK) + tl.arange(0, BK)[None, :]
    for i in tl.static_range(NK):
        tl.store(matrix + i * BK + place, tiles[i].to(matrix.dtype.element_ty))


@triton.jit
def cast(tiles, dtype: tl.constexpr, NK: tl.constexpr):
    narrow = ()
    for i in tl.static_range(NK):
        narrow = narrow + (tiles[i].to(dtype),)
    return narrow


@triton.jit
def zero_tiles(ROWS: tl.constexpr, NK: tl.constexpr, BK: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(NK):
        tiles = tiles + (tl.zeros((ROWS, BK), tl.float32),)
    return tiles


@triton.jit
def place(first_chunk_P, start_Z, M: tl.constexpr, V: tl.constexpr, BV: tl.constexpr):
    """This program's document × head, its head, rows of the state, first chunk, number of chunks, first token and the one past its last."""
    unit = tl.program_id(0) // (V // BV)
    row = tl.program_id(0) % (V // BV) * BV + tl.arange(0, BV)
    first = tl.load(first_chunk_P + unit // M)
    last = tl.load(first_chunk_P + unit // M + 1)
    return unit.to(tl.int64), unit % M, row, first, last - first, tl.load(start_Z + first).to(tl.int64), tl.load(start_Z + last).to(tl.int64)


@triton.jit
def scan_forward(
    q, k, v, inverse, scores, gates, first_chunk_P, start_Z, initial_state, out, updates, states, final_state, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, NK: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`out` and `updates`, [T, M, V], of a document's chunks one after the other; `states`, [Z, M, V, K], as each chunk finds it."""
    unit, head, row, first, num_chunks, begin, end = place(first_chunk_P, start_Z, M, V, BV)
    key_head = head // (M // N) * (NK * BK)
    dtype: tl.constexpr = k.dtype.element_ty
    if initial_state is not None:
        state = load_state(initial_state, unit, row, V, NK, BK)
    else:
        state = zero_tiles(BV, NK, BK)
    within = tl.arange(0, C)
    for i in tl.range(num_chunks, num_stages=STAGES):
        start = begin + i * C
        is_valid = start + within < end
        keys = load_tiles(k + start * (N * NK * BK) + key_head, within, is_valid, N * NK * BK, NK, BK)
        queries = load_tiles(q + start * (N * NK * BK) + key_head, within, is_valid, N * NK * BK, NK, BK)
        square = within[:, None] * (M * C) + within[None, :]
        solve = tl.load(inverse + (start * (M * C) + head * C) + square, mask=is_valid[:, None], other=0.0)
        score = tl.load(scores + (start * (M * C) + head * C) + square, mask=is_valid[:, None], other=0.0)
        tall = within[:, None] * (M * V) + row[None, :]
        values = tl.load(v + (start * (M * V) + head * V) + tall, mask=is_valid[:, None], other=0.0)
        gate = gates + head.to(tl.int64) * num_tokens + start + within
        from_start = tl.load(gate, mask=is_valid, other=0.0)
        to_end = tl.load(gate + M * num_tokens, mask=is_valid, other=0.0)
        whole = tl.load(gates + head.to(tl.int64) * num_tokens + tl.minimum(start + C, end) - 1)

        narrow = cast(state, dtype, NK)
        store_tiles(states + ((first + i).to(tl.int64) * M + head) * (V * NK * BK), narrow, row, NK, BK)
        recalled = products(narrow, keys, NK, PRECISION)
        wanted = tl.trans(values).to(tl.float32) - from_start[None, :] * recalled
        update = tl.dot(wanted.to(dtype), tl.trans(solve), input_precision=PRECISION)
        answer = products(narrow, queries, NK, PRECISION) * from_start[None, :]
        answer = tl.dot(update.to(dtype), tl.trans(score), answer, input_precision=PRECISION)
        kept = (update * to_end[None, :]).to(dtype)
        next_state = ()
        for j in tl.static_range(NK):
            next_state = next_state + (tl.dot(kept, keys[j], state[j] * whole, input_precision=PRECISION),)
        state = next_state
        tl.store(updates + (start * (M * V) + head * V) + tall, tl.trans(update).to(dtype), mask=is_valid[:, None])
        tl.store(out + (start * (M * V) + head * V) + tall, tl.trans(answer).to(dtype), mask=is_valid[:, None])
    if final_state is not None:
        store_state(final_state, state, unit, row, V, NK, BK)


@triton.jit
def scan_backward(
    q, k, inverse, scores, gates, first_chunk_P, start_Z, grad_out, grad_final_state, grad_v, grad_states, grad_initial_state, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, NK: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`grad_v` and, [Z, M, V, K], the gradient `grad_states` of the state that each chunk leaves, from the last chunk to the first."""
    unit, head, row, first, num_chunks, begin, end = place(first_chunk_P, start_Z, M, V, BV)
    key_head = head // (M // N) * (NK * BK)
    dtype: tl.constexpr = k.dtype.element_ty
    if grad_final_state is not None:
        state = load_state(grad_final_state, unit, row, V, NK, BK)
    else:
        state = zero_tiles(BV, NK, BK)
    within = tl.arange(0, C)
    for i in tl.range(num_chunks, num_stages=STAGES):
        chunk = num_chunks - 1 - i
        start = begin + chunk * C
        is_valid = start + within < end
        keys = load_tiles(k + start * (N * NK * BK) + key_head, within, is_valid, N * NK * BK, NK, BK)
        queries = load_tiles(q + start * (N * NK * BK) + key_head, within, is_valid, N * NK * BK, NK, BK)
        square = within[:, None] * (M * C) + within[None, :]
        solve = tl.load(inverse + (start * (M * C) + head * C) + square, mask=is_valid[:, None], other=0.0)
        score = tl.load(scores + (start * (M * C) + head * C) + square, mask=is_valid[:, None], other=0.0)
        tall = within[:, None] * (M * V) + row[None, :]
        answer = tl.trans(tl.load(grad_out + (start * (M * V) + head * V) + tall, mask=is_valid[:, None], other=0.0))
        gate = gates + head.to(tl.int64) * num_tokens + start + within
        from_start = tl.load(gate, mask=is_valid, other=0.0)
        to_end = tl.load(gate + M * num_tokens, mask=is_valid, other=0.0)
        whole = tl.load(gates + head.to(tl.int64) * num_tokens + tl.minimum(start + C, end) - 1)

        narrow = cast(state, dtype, NK)
        store_tiles(grad_states + ((first + chunk).to(tl.int64) * M + head) * (V * NK * BK), narrow, row, NK, BK)
        update = products(narrow, keys, NK, PRECISION) * to_end[None, :]
        update = tl.dot(answer, score, update, input_precision=PRECISION)
        wanted = tl.dot(update.to(dtype), solve, input_precision=PRECISION)
        asked = (answer.to(tl.float32) * from_start[None, :]).to(dtype)
        recalled = (wanted * -from_start[None, :]).to(dtype)
        next_state = ()
        for j in tl.static_range(NK):
            carried = tl.dot(asked, queries[j], state[j] * whole, input_precision=PRECISION)
            next_state = next_state + (tl.dot(recalled, keys[j], carried, input_precision=PRECISION),)
        state = next_state
        tl.store(grad_v + (start * (M * V) + head * V) + tall, tl.trans(wanted).to(dtype), mask=is_valid[:, None])
    if grad_initial_state is not None:
        store_state(grad_initial_state, state, unit, row, V, NK, BK)
