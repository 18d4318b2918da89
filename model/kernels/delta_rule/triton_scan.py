# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005, SIM108 (Triton knows neither form)
"""The state's way through the chunks of a document, forward, and its gradient's way back.

Both hold the state transposed, V × K, in registers: BV of its rows per program. Each product takes it, or what came of it,
as the left factor straight from registers, and as the right factor a tile as it lies in memory.
"""

import triton
import triton.language as tl

from model.kernels.delta_rule.triton_prepare import load_tiles, num_tiles, products, tile_start, tile_width


@triton.jit
def load_state(state, head, row, V: tl.constexpr, K: tl.constexpr):
    """The rows of the transpose of a K × V state, fp32, as tiles."""
    tiles = ()
    for i in tl.static_range(num_tiles(K)):
        column = tile_start(K, i) + tl.arange(0, tile_width(K, i))
        tiles = tiles + (tl.load(state + head * (K * V) + column[None, :] * V + row[:, None]),)
    return tiles


@triton.jit
def store_state(state, tiles, head, row, V: tl.constexpr, K: tl.constexpr):
    for i in tl.static_range(num_tiles(K)):
        column = tile_start(K, i) + tl.arange(0, tile_width(K, i))
        tl.store(state + head * (K * V) + column[None, :] * V + row[:, None], tiles[i])


@triton.jit
def store_tiles(matrix, tiles, row, K: tl.constexpr):
    """Tiles as rows of a matrix K wide, in its dtype."""
    for i in tl.static_range(num_tiles(K)):
        column = tile_start(K, i) + tl.arange(0, tile_width(K, i))
        tl.store(matrix + row[:, None].to(tl.int64) * K + column[None, :], tiles[i].to(matrix.dtype.element_ty))


@triton.jit
def store_columns(matrix, tile, column, start, end, stride: tl.constexpr):
    """The tile's columns as rows of the matrix from `start` on, as far as `end`.

    They are stored in another order, bits 1 and 2 of their number last: so the tile passes through shared memory at once, where in
    order it would in four parts, with two barriers each.
    """
    COUNT: tl.constexpr = tile.shape[1]
    place = tl.arange(0, COUNT)
    within = place // 2 % (COUNT // 8) * 8 + place // (COUNT // 4) * 2 + place % 2
    rows = tl.reshape(tl.trans(tile).to(matrix.dtype.element_ty), (COUNT // 8, 4, 2, tile.shape[0]))
    rows = tl.reshape(tl.permute(rows, (1, 0, 2, 3)), (COUNT, tile.shape[0]))
    target = matrix + start * stride + within[:, None].to(tl.int64) * stride + column[None, :]
    tl.store(target, rows, mask=within[:, None] < end - start)


@triton.jit
def cast(tiles, dtype: tl.constexpr, K: tl.constexpr):
    narrow = ()
    for i in tl.static_range(num_tiles(K)):
        narrow = narrow + (tiles[i].to(dtype),)
    return narrow


@triton.jit
def zero_tiles(ROWS: tl.constexpr, K: tl.constexpr):
    tiles = ()
    for i in tl.static_range(num_tiles(K)):
        tiles = tiles + (tl.zeros((ROWS, tile_width(K, i)), tl.float32),)
    return tiles


@triton.jit
def place(first_chunk_P, start_Z, M: tl.constexpr, V: tl.constexpr, BV: tl.constexpr):
    """This program's document × head, its head, rows of the state, first chunk, number of chunks, first token and the one past its last."""
    unit = tl.program_id(0) // (V // BV)
    row = tl.program_id(0) % (V // BV) * BV + tl.arange(0, BV)
    first = tl.load(first_chunk_P + unit // M)
    last = tl.load(first_chunk_P + unit // M + 1)
    return (
        unit.to(tl.int64),
        unit % M,
        row,
        first,
        last - first,
        tl.load(start_Z + first).to(tl.int64),
        tl.load(start_Z + last).to(tl.int64),
    )


@triton.jit
def load_gates(gate, start, end, stride, C: tl.constexpr):
    """Each token's decay since the chunk's start, on to its end, and the whole chunk's.

    The first two are loaded as one tile of as many elements as there are threads: Triton 3.6 has every thread load smaller ones.
    """
    token = start + tl.arange(0, C)
    is_valid = token < end
    both = tl.load(gate + token[:, None] + tl.arange(0, 2)[None, :] * stride, mask=is_valid[:, None], other=0.0)
    from_start, to_end = tl.split(both)
    return from_start, to_end, tl.load(gate + tl.minimum(start + C, end) - 1)


@triton.jit
def load_gates_and_beta(gate, start, end, stride, C: tl.constexpr):
    """As `load_gates`, and each token's beta, in the same tile."""
    token = start + tl.arange(0, C)
    four = tl.load(gate + token[:, None] + tl.arange(0, 4)[None, :] * stride, mask=(token < end)[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(four, (C, 2, 2)))
    from_start, strength = tl.split(even)
    to_end, _high = tl.split(odd)
    return from_start, to_end, tl.load(gate + tl.minimum(start + C, end) - 1), strength


@triton.jit
def scan_forward(
    q, k, v, inverse, scores, gates, first_chunk_P, start_Z, initial_state, out, updates, states, final_state, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`out` and `updates`, [T, M, V], of a document's chunks one after the other; `states`, [Z, M, V, K], as each chunk finds it."""
    unit, head, row, first, num_chunks, begin, end = place(first_chunk_P, start_Z, M, V, BV)
    key_head = head // (M // N) * K
    dtype: tl.constexpr = k.dtype.element_ty
    if initial_state is not None:
        state = load_state(initial_state, unit, row, V, K)
    else:
        state = zero_tiles(BV, K)
    within = tl.arange(0, C)
    for i in tl.range(num_chunks, num_stages=STAGES):
        start = begin + i * C
        token = start + within
        is_valid = token < end
        keys = load_tiles(k + key_head, token, is_valid, N * K, K)
        queries = load_tiles(q + key_head, token, is_valid, N * K, K)
        square = token[:, None] * (M * C) + (head * C + within[None, :])
        solve = tl.load(inverse + square, mask=is_valid[:, None], other=0.0)
        score = tl.load(scores + square, mask=is_valid[:, None], other=0.0)
        tall = token[:, None] * (M * V) + (head * V + row[None, :])
        values = tl.load(v + tall, mask=is_valid[:, None], other=0.0)
        from_start, to_end, whole = load_gates(gates + head.to(tl.int64) * num_tokens, start, end, M * num_tokens, C)

        # Without the state, so first: the last step's products for the state end under it.
        solved = tl.dot(tl.trans(values), tl.trans(solve), input_precision=PRECISION)
        narrow = cast(state, dtype, K)
        store_tiles(states + ((first + i).to(tl.int64) * M + head) * (V * K), narrow, row, K)
        recalled = products(narrow, keys, K, PRECISION) * -from_start[None, :]
        update = tl.dot(recalled.to(dtype), tl.trans(solve), solved, input_precision=PRECISION)
        answer = products(narrow, queries, K, PRECISION) * from_start[None, :]
        answer = tl.dot(update.to(dtype), tl.trans(score), answer, input_precision=PRECISION)
        kept = (update * to_end[None, :]).to(dtype)
        next_state = ()
        for j in tl.static_range(num_tiles(K)):
            next_state = next_state + (tl.dot(kept, keys[j], state[j] * whole, input_precision=PRECISION),)
        state = next_state
        store_columns(updates + head * V, update, row, start, end, M * V)
        store_columns(out + head * V, answer, row, start, end, M * V)
    if final_state is not None:
        store_state(final_state, state, unit, row, V, K)


@triton.jit
def scan_backward(
    q, k, inverse, scores, gates, first_chunk_P, start_Z, grad_out, grad_final_state, grad_v, grad_states, grad_initial_state,
    num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`grad_v` and, [Z, M, V, K], the gradient `grad_states` of the state that each chunk leaves, from the last chunk to the first."""
    unit, head, row, first, num_chunks, begin, end = place(first_chunk_P, start_Z, M, V, BV)
    key_head = head // (M // N) * K
    dtype: tl.constexpr = k.dtype.element_ty
    if grad_final_state is not None:
        state = load_state(grad_final_state, unit, row, V, K)
    else:
        state = zero_tiles(BV, K)
    within = tl.arange(0, C)
    for i in tl.range(num_chunks, num_stages=STAGES):
        chunk = num_chunks - 1 - i
        start = begin + chunk * C
        token = start + within
        is_valid = token < end
        keys = load_tiles(k + key_head, token, is_valid, N * K, K)
        queries = load_tiles(q + key_head, token, is_valid, N * K, K)
        square = token[:, None] * (M * C) + (head * C + within[None, :])
        solve = tl.load(inverse + square, mask=is_valid[:, None], other=0.0)
        score = tl.load(scores + square, mask=is_valid[:, None], other=0.0)
        tall = token[:, None] * (M * V) + (head * V + row[None, :])
        answer = tl.trans(tl.load(grad_out + tall, mask=is_valid[:, None], other=0.0))
        from_start, to_end, whole, strength = load_gates_and_beta(gates + head.to(tl.int64) * num_tokens, start, end, M * num_tokens, C)

        update = tl.dot(answer, score, input_precision=PRECISION)  # without the state, so first, as in the forward
        narrow = cast(state, dtype, K)
        store_tiles(grad_states + ((first + chunk).to(tl.int64) * M + head) * (V * K), narrow, row, K)
        asked = (answer.to(tl.float32) * from_start[None, :]).to(dtype)
        carried = ()
        for j in tl.static_range(num_tiles(K)):
            carried = carried + (tl.dot(asked, queries[j], state[j] * whole, input_precision=PRECISION),)
        update = tl.fma(products(narrow, keys, K, PRECISION), tl.broadcast_to(to_end[None, :], (BV, C)), update)
        # Most of the gradient of values passes through the inverse's diagonal, which is beta: that part is not rounded.
        rounded = update.to(dtype)
        taken = rounded.to(tl.float32) * strength.to(dtype).to(tl.float32)[None, :]
        unrounded = tl.fma(update, tl.broadcast_to(strength[None, :], (BV, C)), -taken)
        wanted = tl.dot(rounded, solve, unrounded, input_precision=PRECISION)
        recalled = (wanted * -from_start[None, :]).to(dtype)
        state = ()
        for j in tl.static_range(num_tiles(K)):
            state = state + (tl.dot(recalled, keys[j], carried[j], input_precision=PRECISION),)
        store_columns(grad_v + head * V, wanted, row, start, end, M * V)
    if grad_initial_state is not None:
        store_state(grad_initial_state, state, unit, row, V, K)
