import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.best_fit import Window, pack, window_rows

documents = st.lists(st.integers(1, 40), max_size=60)


def rows_of(windows: list[Window]) -> list[list[tuple[int, int]]]:
    """(first token, tokens) of the pieces of each row."""
    rows = [window.pieces.part(row) for window in windows for row in np.split(np.arange(len(window.pieces)), window.row_ends[:-1])]
    return [list(zip(row.starts.tolist(), row.counts.tolist(), strict=True)) for row in rows]


def packed(lengths: list[int], seq_len: int, num_rows: int, *, at_once: int = 1000) -> list[Window]:
    given_ = (np.array(lengths[first : first + at_once], np.int64) for first in range(0, len(lengths), at_once))
    return list(pack(given_, seq_len=seq_len, num_rows=num_rows))


@given(lengths=documents, seq_len=st.integers(1, 12), num_rows=st.integers(1, 6))
def test_every_token_is_in_one_row_and_only_documents_longer_than_a_row_are_cut(lengths: list[int], seq_len: int, num_rows: int):
    rows = rows_of(packed(lengths, seq_len, num_rows))
    pieces = sorted(piece for row in rows for piece in row)
    ends = np.cumsum(lengths).tolist()
    for end, length in zip(ends, lengths, strict=True):
        its = [piece for piece in pieces if end - length <= piece[0] < end]
        if length <= seq_len + 1:
            assert its == [(end - length, length)], "whole"
        else:
            assert [start for start, _ in its] == [end - length + seq_len * number for number in range(len(its))]
            assert all(count == seq_len + 1 for _, count in its[:-1]), "each but the last fills a row"
            assert its[-1][0] + its[-1][1] == end
            assert its[-1][1] > 1, "its first token was learnt in the piece before"
    assert sum(count - 1 for _, count in pieces) == sum(length - 1 for length in lengths), "each token is the label of the one before once"
    assert all(0 < sum(count for _, count in row) <= seq_len + 1 for row in rows)
    assert all(row == sorted(row) for row in rows), "in the order of the shard"


@given(lengths=documents, seq_len=st.integers(1, 12), num_rows=st.integers(1, 6), at_once=st.integers(1, 7))
def test_windows_have_all_their_rows_and_tokens_that_follow_each_other_however_documents_come(
    lengths: list[int], seq_len: int, num_rows: int, at_once: int
):
    windows = packed(lengths, seq_len, num_rows)
    assert rows_of(windows) == rows_of(packed(lengths, seq_len, num_rows, at_once=at_once))
    assert all(len(window.row_ends) == num_rows for window in windows[:-1])
    assert all(len(window.row_ends) <= num_rows for window in windows[-1:])
    ends = [int(window.pieces.starts.max()) for window in windows]
    assert all(before < int(after.pieces.starts.min()) for before, after in zip(ends, windows[1:], strict=False))


def test_the_longest_comes_first_and_each_into_the_fullest_row_that_has_room():
    (window,) = packed([2, 7, 3, 6, 4], seq_len=9, num_rows=9)
    assert rows_of([window]) == [[(2, 7), (9, 3)], [(12, 6), (18, 4)], [(0, 2)]], "7 + 3 and 6 + 4 fill rows, 2 has one of its own"


def test_a_window_takes_what_comes_next_until_a_document_has_no_room():
    first, second = packed([6, 6, 6, 3, 1], seq_len=9, num_rows=2)
    assert rows_of([first]) == [[(0, 6)], [(6, 6)]]
    assert rows_of([second]) == [[(12, 6), (18, 3), (21, 1)]]


def test_rows_of_documents_like_a_corpuss_are_hardly_padded_and_few_documents_are_cut():
    numbers = np.random.default_rng(0)
    lengths = np.maximum(1, numbers.lognormal(np.log(600), 1.2, 20_000)).astype(np.int64)
    seq_len = 4096
    windows = packed(lengths.tolist(), seq_len, window_rows(seq_len))
    num_rows = sum(len(window.row_ends) for window in windows)
    num_packed = sum(int(window.pieces.counts.sum()) for window in windows)
    assert 1 - num_packed / (num_rows * (seq_len + 1)) < 0.005
    ends = lengths.cumsum()
    num_cut = int(((ends - 1) // seq_len > (ends - lengths) // seq_len).sum())
    assert int((lengths > seq_len + 1).sum()) < num_cut / 3, "of what concatenating and cutting cuts"
