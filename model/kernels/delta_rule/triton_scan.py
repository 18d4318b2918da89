# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005, SIM108 (Triton knows neither form)
"""The state's way through the chunks of a document, forward, and its gradient's way back.

Both hold the state transposed, V × K, in registers: BV of its rows per program. Each product takes it, or what came of it,
as the left factor straight from registers, and as the right factor a tile as it lies in memory.
"""

import triton
import triton.language as tl

from model.kernels.triton_tiles import tiles_cast, tiles_count, tiles_dot, tiles_load, tiles_start, tiles_store, tiles_width, tiles_zeros


@triton.jit
def load_state(state_ptr, document_head, row, V: tl.constexpr, K: tl.constexpr):
    """Rows of the transpose of a K × V state, fp32, as tiles."""
    tiles = ()
    for i in tl.static_range(tiles_count(K)):
        column = tiles_start(K, i) + tl.arange(0, tiles_width(K, i))
        tiles = tiles + (tl.load(state_ptr + document_head * (K * V) + column[None, :] * V + row[:, None]),)
    return tiles


@triton.jit
def store_state(state_ptr, tiles, document_head, row, V: tl.constexpr, K: tl.constexpr):
    """Stores tiles as rows of the transpose of a K × V state, fp32."""
    for i in tl.static_range(tiles_count(K)):
        column = tiles_start(K, i) + tl.arange(0, tiles_width(K, i))
        tl.store(state_ptr + document_head * (K * V) + column[None, :] * V + row[:, None], tiles[i])


@triton.jit
def store_columns(matrix_ptr, tile, column, start, end, stride: tl.constexpr):
    """Stores the tile's columns as rows of the matrix from `start` on, as far as `end`.

    They are stored in another order, bits 1 and 2 of their number last: so the tile passes through shared memory at once, where in
    order it would in four parts, with two barriers each.
    """
    COUNT: tl.constexpr = tile.shape[1]
    index = tl.arange(0, COUNT)
    within = index // 2 % (COUNT // 8) * 8 + index // (COUNT // 4) * 2 + index % 2
    rows = tl.reshape(tl.trans(tile).to(matrix_ptr.dtype.element_ty), (COUNT // 8, 4, 2, tile.shape[0]))
    rows = tl.reshape(tl.permute(rows, (1, 0, 2, 3)), (COUNT, tile.shape[0]))
    ptrs = matrix_ptr + start * stride + within[:, None].to(tl.int64) * stride + column[None, :]
    tl.store(ptrs, rows, mask=within[:, None] < end - start)


@triton.jit
def chunks_of_program(first_chunk_P_ptr, start_Z_ptr, M: tl.constexpr, V: tl.constexpr, BV: tl.constexpr):
    """This program's document and head as one number, its head, its rows of the transposed state, the document's first chunk and number
    of chunks, its first token and the one past its last."""
    document_head = tl.program_id(0) // (V // BV)
    row = tl.program_id(0) % (V // BV) * BV + tl.arange(0, BV)
    first = tl.load(first_chunk_P_ptr + document_head // M)
    last = tl.load(first_chunk_P_ptr + document_head // M + 1)
    return (
        document_head.to(tl.int64),
        document_head % M,
        row,
        first,
        last - first,
        tl.load(start_Z_ptr + first).to(tl.int64),
        tl.load(start_Z_ptr + last).to(tl.int64),
    )


@triton.jit
def load_decays(gate_ptr, start, end, stride, C: tl.constexpr):
    """Each token's decay since the chunk's start, and on to its end, and the whole chunk's.

    The first two are loaded as one tile of as many elements as there are threads: Triton 3.6 has every thread load smaller ones.
    """
    token = start + tl.arange(0, C)
    is_valid = token < end
    both = tl.load(gate_ptr + token[:, None] + tl.arange(0, 2)[None, :] * stride, mask=is_valid[:, None], other=0.0)
    from_start, to_end = tl.split(both)
    return from_start, to_end, tl.load(gate_ptr + tl.minimum(start + C, end) - 1)


@triton.jit
def load_decays_and_beta(gate_ptr, start, end, stride, C: tl.constexpr):
    """What `load_decays` gives, and each token's beta, in the same tile."""
    token = start + tl.arange(0, C)
    four = tl.load(gate_ptr + token[:, None] + tl.arange(0, 4)[None, :] * stride, mask=(token < end)[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(four, (C, 2, 2)))
    from_start, beta = tl.split(even)
    to_end, _high = tl.split(odd)
    return from_start, to_end, tl.load(gate_ptr + tl.minimum(start + C, end) - 1), beta


@triton.jit
def scan_forward(
    q_ptr, k_ptr, v_ptr, inverse_ptr, scores_ptr, gates_ptr, first_chunk_P_ptr, start_Z_ptr, initial_state_ptr,
    out_ptr, updates_ptr, states_ptr, final_state_ptr, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Outputs and updates, [T, M, V], of a document's chunks one after the other; states, [Z, M, V, K], as each chunk finds them."""
    document_head, head, row, first, num_chunks, begin, end = chunks_of_program(first_chunk_P_ptr, start_Z_ptr, M, V, BV)
    key_offset = head // (M // N) * K
    dtype: tl.constexpr = k_ptr.dtype.element_ty
    if initial_state_ptr is not None:
        state = load_state(initial_state_ptr, document_head, row, V, K)
    else:
        state = tiles_zeros(BV, K)
    within = tl.arange(0, C)
    for i in tl.range(num_chunks, num_stages=STAGES):
        start = begin + i * C
        token = start + within
        is_valid = token < end
        keys = tiles_load(k_ptr + key_offset, token, is_valid, N * K, K)
        queries = tiles_load(q_ptr + key_offset, token, is_valid, N * K, K)
        pair_offset = token[:, None] * (M * C) + (head * C + within[None, :])
        inverse = tl.load(inverse_ptr + pair_offset, mask=is_valid[:, None], other=0.0)
        scores = tl.load(scores_ptr + pair_offset, mask=is_valid[:, None], other=0.0)
        value_offset = token[:, None] * (M * V) + (head * V + row[None, :])
        values = tl.load(v_ptr + value_offset, mask=is_valid[:, None], other=0.0)
        from_start, to_end, chunk_decay = load_decays(gates_ptr + head.to(tl.int64) * num_tokens, start, end, M * num_tokens, C)

        # Without the state, so first: the last step's products for the state end under it.
        update = tl.dot(tl.trans(values), tl.trans(inverse), input_precision=PRECISION)
        narrow_state = tiles_cast(state, dtype, K)
        tiles_store(states_ptr + ((first + i).to(tl.int64) * M + head) * (V * K), narrow_state, row, K)
        recalled = tiles_dot(narrow_state, keys, K, PRECISION) * -from_start[None, :]
        update = tl.dot(recalled.to(dtype), tl.trans(inverse), update, input_precision=PRECISION)
        out = tiles_dot(narrow_state, queries, K, PRECISION) * from_start[None, :]
        out = tl.dot(update.to(dtype), tl.trans(scores), out, input_precision=PRECISION)
        decayed_update = (update * to_end[None, :]).to(dtype)
        next_state = ()
        for j in tl.static_range(tiles_count(K)):
            next_state = next_state + (tl.dot(decayed_update, keys[j], state[j] * chunk_decay, input_precision=PRECISION),)
        state = next_state
        store_columns(updates_ptr + head * V, update, row, start, end, M * V)
        store_columns(out_ptr + head * V, out, row, start, end, M * V)
    if final_state_ptr is not None:
        store_state(final_state_ptr, state, document_head, row, V, K)


@triton.jit
def scan_backward(
    q_ptr, k_ptr, inverse_ptr, scores_ptr, gates_ptr, first_chunk_P_ptr, start_Z_ptr, grad_out_ptr, grad_final_state_ptr,
    grad_v_ptr, grad_states_ptr, grad_initial_state_ptr, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of v, [T, M, V], and of the state that each chunk leaves, [Z, M, V, K], from the last chunk to the first."""
    document_head, head, row, first, num_chunks, begin, end = chunks_of_program(first_chunk_P_ptr, start_Z_ptr, M, V, BV)
    key_offset = head // (M // N) * K
    dtype: tl.constexpr = k_ptr.dtype.element_ty
    if grad_final_state_ptr is not None:
        grad_state = load_state(grad_final_state_ptr, document_head, row, V, K)
    else:
        grad_state = tiles_zeros(BV, K)
    within = tl.arange(0, C)
    for i in tl.range(num_chunks, num_stages=STAGES):
        chunk = num_chunks - 1 - i
        start = begin + chunk * C
        token = start + within
        is_valid = token < end
        keys = tiles_load(k_ptr + key_offset, token, is_valid, N * K, K)
        queries = tiles_load(q_ptr + key_offset, token, is_valid, N * K, K)
        pair_offset = token[:, None] * (M * C) + (head * C + within[None, :])
        inverse = tl.load(inverse_ptr + pair_offset, mask=is_valid[:, None], other=0.0)
        scores = tl.load(scores_ptr + pair_offset, mask=is_valid[:, None], other=0.0)
        value_offset = token[:, None] * (M * V) + (head * V + row[None, :])
        grad_out = tl.trans(tl.load(grad_out_ptr + value_offset, mask=is_valid[:, None], other=0.0))
        gate_ptr = gates_ptr + head.to(tl.int64) * num_tokens
        from_start, to_end, chunk_decay, beta = load_decays_and_beta(gate_ptr, start, end, M * num_tokens, C)

        grad_update = tl.dot(grad_out, scores, input_precision=PRECISION)  # without the state, so first, as in the forward
        narrow_state = tiles_cast(grad_state, dtype, K)
        tiles_store(grad_states_ptr + ((first + chunk).to(tl.int64) * M + head) * (V * K), narrow_state, row, K)
        decayed_grad_out = (grad_out.to(tl.float32) * from_start[None, :]).to(dtype)
        through_out = ()
        for j in tl.static_range(tiles_count(K)):
            through_out = through_out + (tl.dot(decayed_grad_out, queries[j], grad_state[j] * chunk_decay, input_precision=PRECISION),)
        grad_update = tl.fma(tiles_dot(narrow_state, keys, K, PRECISION), tl.broadcast_to(to_end[None, :], (BV, C)), grad_update)
        grad_v = multiply_by_inverse(grad_update, inverse, beta, dtype, BV, C, PRECISION)
        grad_recalled = (grad_v * -from_start[None, :]).to(dtype)
        grad_state = ()
        for j in tl.static_range(tiles_count(K)):
            grad_state = grad_state + (tl.dot(grad_recalled, keys[j], through_out[j], input_precision=PRECISION),)
        store_columns(grad_v_ptr + head * V, grad_v, row, start, end, M * V)
    if grad_initial_state_ptr is not None:
        store_state(grad_initial_state_ptr, grad_state, document_head, row, V, K)


@triton.jit
def multiply_by_inverse(grad_update, inverse, beta, dtype: tl.constexpr, BV: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr):
    """The gradient of values from that of updates, [BV, C]. Most of it passes through the inverse's diagonal, beta: that is not rounded."""
    narrow_grad = grad_update.to(dtype)
    rounded = narrow_grad.to(tl.float32) * beta.to(dtype).to(tl.float32)[None, :]
    rounded_off = tl.fma(grad_update, tl.broadcast_to(beta[None, :], (BV, C)), -rounded)
    return tl.dot(narrow_grad, inverse, rounded_off, input_precision=PRECISION)
