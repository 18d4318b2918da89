# mypy: allow-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 (Triton knows no unpacking)
"""Gradients of queries, keys and gates, chunk by chunk, once the state's have passed through.

A chunk's queries and keys are stacked, 2C rows, and so are the gradients of outputs and values: what the queries need of the former,
the keys need of the latter. A token reads with its query what the state and earlier tokens hold, and with its key what it is to replace;
it writes with its key what later tokens and the next state hold. Gradients are named after these: read, write and state.
"""

import triton
import triton.language as tl

from model.kernels.delta_rule.triton_prepare import pairwise_decay
from model.kernels.triton_tiles import tiles_count, tiles_load, tiles_start, tiles_width, tiles_zeros


@triton.jit
def sum_over_values(
    stacked_grad_ptrs, update_ptrs, state_ptr, grad_state_ptr, stacked_valid, is_valid,
    V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Products over V: the stacked gradients with the state before the chunk, [2C, K], the updates with the gradient of the state after
    it, [C, K], the two with each other, [2C, C], and the two states elementwise, [BV]."""
    read_grads = tiles_zeros(2 * C, K)
    state_grads = tiles_zeros(C, K)
    pair_grads = tl.zeros((2 * C, C), tl.float32)
    state_dot = tl.zeros((BV,), tl.float32)
    for i in tl.range(V // BV, num_stages=STAGES):
        row = i * BV + tl.arange(0, BV)
        stacked_grad = tl.load(stacked_grad_ptrs + row[None, :], mask=stacked_valid[:, None], other=0.0)
        update = tl.load(update_ptrs + row[None, :], mask=is_valid[:, None], other=0.0)
        next_read_grads, next_state_grads = (), ()
        for j in tl.static_range(tiles_count(K)):
            offset = row[:, None] * K + (tiles_start(K, j) + tl.arange(0, tiles_width(K, j)))[None, :]
            state = tl.load(state_ptr + offset)
            grad_state = tl.load(grad_state_ptr + offset)
            next_read_grads = next_read_grads + (tl.dot(stacked_grad, state, read_grads[j], input_precision=PRECISION),)
            next_state_grads = next_state_grads + (tl.dot(update, grad_state, state_grads[j], input_precision=PRECISION),)
            state_dot += tl.sum(state.to(tl.float32) * grad_state.to(tl.float32), 1)
        pair_grads = tl.dot(stacked_grad, tl.trans(update), pair_grads, input_precision=PRECISION)
        read_grads, state_grads = next_read_grads, next_state_grads
    return read_grads, state_grads, pair_grads, state_dot


@triton.jit
def row_dots(left_ptr, right_ptr, token, is_valid, stride, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr):
    """The inner products of the rows of two matrices V wide, [C]."""
    total = tl.zeros((C, BV), tl.float32)
    for i in tl.static_range(V // BV):
        offset = token[:, None] * stride + (i * BV + tl.arange(0, BV))[None, :]
        left = tl.load(left_ptr + offset, mask=is_valid[:, None], other=0.0).to(tl.float32)
        total += left * tl.load(right_ptr + offset, mask=is_valid[:, None], other=0.0).to(tl.float32)
    return tl.sum(total, 1)


@triton.jit
def load_gates(gate_ptr, plane, token, stacked_token, is_valid, stacked_valid, last):
    """Decays since the chunk's start, stacked; on to its end; the logarithms' two parts, and both stacked; the chunk's decay; beta."""
    from_start = tl.load(gate_ptr + stacked_token, mask=stacked_valid, other=0.0)
    to_end = tl.load(gate_ptr + plane + token, mask=is_valid, other=0.0)
    high = tl.load(gate_ptr + 3 * plane + token, mask=is_valid, other=0.0)
    low = tl.load(gate_ptr + 4 * plane + token, mask=is_valid, other=0.0)
    stacked_high = tl.load(gate_ptr + 3 * plane + stacked_token, mask=stacked_valid, other=0.0)
    stacked_low = tl.load(gate_ptr + 4 * plane + stacked_token, mask=stacked_valid, other=0.0)
    chunk_decay = tl.load(gate_ptr + last)
    beta = tl.load(gate_ptr + 2 * plane + token, mask=is_valid, other=1.0)
    return from_start, to_end, high, low, stacked_high, stacked_low, chunk_decay, beta


@triton.jit
def store_stacked_gradients(
    grad_ptrs, queries_and_keys, keys, read_grads, state_grads, pair_grads, from_start, to_end, is_query, stacked_valid,
    C: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stores the gradients of queries and keys; returns q·dq and k·dk of what is read, [2C], of what is written, [C], and of the state."""
    read_dot = tl.zeros((2 * C,), tl.float32)
    write_dot = tl.zeros((C,), tl.float32)
    state_dot = tl.zeros((C,), tl.float32)
    for j in tl.static_range(tiles_count(K)):
        column = (tiles_start(K, j) + tl.arange(0, tiles_width(K, j)))[None, :]
        read_grad = tl.dot(pair_grads, keys[j], read_grads[j] * from_start[:, None], input_precision=PRECISION)
        read_dot += tl.sum(read_grad * queries_and_keys[j].to(tl.float32), 1)
        state_grad = state_grads[j] * to_end[:, None]
        state_dot += tl.sum(state_grad * keys[j].to(tl.float32), 1)
        write_grad = tl.dot(tl.trans(pair_grads), queries_and_keys[j], input_precision=PRECISION)
        write_dot += tl.sum(write_grad * keys[j].to(tl.float32), 1)
        twice = tl.broadcast_to((state_grad + write_grad)[None, :, :], (2, C, tiles_width(K, j)))
        read_grad += tl.where(is_query[:, None], 0.0, tl.reshape(twice, (2 * C, tiles_width(K, j))))
        tl.store(grad_ptrs + column, read_grad, mask=stacked_valid[:, None])
    return read_dot, write_dot, state_dot


@triton.jit
def chunk_gradients(
    q_ptr, k_ptr, v_ptr, gates_ptr, start_Z_ptr, updates_ptr, states_ptr, grad_out_ptr, grad_v_ptr, grad_states_ptr,
    grad_q_ptr, grad_k_ptr, grad_log_decay_ptr, grad_beta_ptr, num_tokens,
    N: tl.constexpr, M: tl.constexpr, V: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of q and k per value head, [T, M, K], and of log_decay and beta, [T, M]."""
    chunk = tl.program_id(0) // M
    head = tl.program_id(0) % M
    start = tl.load(start_Z_ptr + chunk).to(tl.int64)
    end = tl.load(start_Z_ptr + chunk + 1).to(tl.int64)
    token = tl.arange(0, C)
    is_valid = start + token < end
    is_query = tl.arange(0, 2 * C) < C
    stacked_token = tl.arange(0, 2 * C) % C
    stacked_valid = start + stacked_token < end
    gate_ptr = gates_ptr + head.to(tl.int64) * num_tokens + start
    first = start * M + head

    value_dot = row_dots(grad_v_ptr + first * V, v_ptr + first * V, token, is_valid, M * V, V, C, BV)
    stacked_grad_ptrs = tl.where(is_query, grad_out_ptr + first * V, grad_v_ptr + first * V)[:, None] + stacked_token[:, None] * (M * V)
    update_ptrs = updates_ptr + first * V + token[:, None] * (M * V)
    state_offset = (chunk.to(tl.int64) * M + head) * (V * K)
    read_grads, state_grads, pair_grads, chunk_dot = sum_over_values(
        stacked_grad_ptrs, update_ptrs, states_ptr + state_offset, grad_states_ptr + state_offset, stacked_valid, is_valid,
        V, C, K, BV, PRECISION, STAGES,
    )  # fmt: skip
    key_offset = start * (N * K) + head // (M // N) * K
    stacked_ptrs = tl.where(is_query, q_ptr + key_offset, k_ptr + key_offset)[:, None]
    queries_and_keys = tiles_load(stacked_ptrs, stacked_token, stacked_valid, N * K, K)
    keys = tiles_load(k_ptr + key_offset, token, is_valid, N * K, K)
    from_start, to_end, high, low, stacked_high, stacked_low, chunk_decay, beta = load_gates(
        gate_ptr, M * num_tokens, token, stacked_token, is_valid, stacked_valid, end - 1 - start
    )

    # Values enter the keys' half with a minus: what is recalled is taken off them.
    sign = tl.where(is_query, 1.0, -1.0)
    age = stacked_token[:, None] - token[None, :]
    is_seen = ((age > 0) | ((age == 0) & is_query[:, None])) & stacked_valid[:, None]  # queries see their own token, keys do not
    pair_grads *= pairwise_decay(stacked_high, stacked_low, high, low, is_seen) * sign[:, None]
    pair_grads = pair_grads.to(k_ptr.dtype.element_ty)
    from_start *= sign
    grad_ptrs = tl.where(is_query, grad_q_ptr + first * K, grad_k_ptr + first * K)[:, None] + stacked_token[:, None] * (M * K)
    read_dot, write_dot, state_dot = store_stacked_gradients(
        grad_ptrs, queries_and_keys, keys, read_grads, state_grads, pair_grads, from_start, to_end, is_query, stacked_valid, C, K, PRECISION
    )

    # A token's beta scales what it is to learn, its value less what is recalled.
    read_dot = tl.reshape(read_dot, (2, C))
    recalled_dot = tl.sum(tl.where(tl.arange(0, 2)[:, None] == 1, read_dot, 0.0), 0)
    tl.store(grad_beta_ptr + first + token * M, (value_dot + recalled_dot) / beta, mask=is_valid)
    # The decay of token t scales whatever reaches t or a later token from before t.
    across = tl.sum(read_dot, 0) - write_dot
    grad_log_decay = tl.cumsum(across, 0, reverse=True) + tl.cumsum(state_dot, 0) - state_dot + chunk_decay * tl.sum(chunk_dot, 0)
    tl.store(grad_log_decay_ptr + first + token * M, grad_log_decay, mask=is_valid)
