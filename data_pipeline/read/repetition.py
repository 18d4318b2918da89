"""Which rows repeat a few tokens again and again, by their tokens alone.

A row is repetitive where, for some period p from 1 to 13, REPEATS copies of p tokens follow each other without a gap, from any place on: so
where (REPEATS - 1) p tokens in a row each equal the one p before it.
"""

import numpy as np
from numpy.typing import NDArray

PERIODS = range(1, 14)
REPEATS = 32
TOKENS_AT_ONCE = 2**18
"""As many as a processor's cache holds."""


def repetitive_rows(tokens_BT: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each row whether it is; shape (B,)."""
    num_rows, seq_len = tokens_BT.shape
    size = max(1, TOKENS_AT_ONCE // seq_len)
    return np.concatenate([_repetitive(tokens_BT[first : first + size]) for first in range(0, num_rows, size)])


def _repetitive(tokens_BT: NDArray[np.int64]) -> NDArray[np.bool_]:
    found = np.zeros(len(tokens_BT), dtype=np.bool_)
    for period in PERIODS:
        for row in _suspects(tokens_BT, period):
            found[row] |= _longest_run(tokens_BT[row, period:] == tokens_BT[row, :-period]) >= (REPEATS - 1) * period
    return found


def _suspects(tokens_BT: NDArray[np.int64], period: int) -> list[int]:
    """No other row repeats: a look at three tokens of each block, so short that any run which counts holds a whole one."""
    later_BN, earlier_BN = tokens_BT[:, period:], tokens_BT[:, :-period]
    block = ((REPEATS - 1) * period + 1) // 2
    num_blocks = later_BN.shape[1] // block
    rows, blocks = np.nonzero(later_BN[:, ::block][:, :num_blocks] == earlier_BN[:, ::block][:, :num_blocks])
    for at in (block - 1, block // 2):
        tokens = blocks * block + at
        is_same = later_BN[rows, tokens] == earlier_BN[rows, tokens]
        rows, blocks = rows[is_same], blocks[is_same]
    return sorted(set(rows.tolist()))


def _longest_run(is_same_N: NDArray[np.bool_]) -> int:
    """The most that are true one after the other."""
    others = np.flatnonzero(~is_same_N)
    return int(np.diff(others, prepend=-1, append=is_same_N.size).max()) - 1
