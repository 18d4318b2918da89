"""Which rows repeat themselves, beside the definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.read.repetition import PERIODS, REPEATS, repetitive_rows


def is_repetitive(row: list[int]) -> bool:
    """As it is defined: somewhere 32 copies of 1 to 13 tokens, one after the other."""
    return any(
        row[start : start + period] * REPEATS == row[start : start + REPEATS * period]
        for period in PERIODS
        for start in range(len(row) - REPEATS * period + 1)
    )


@st.composite
def rows(draw: st.DrawFn) -> list[list[int]]:
    """Rows of few tokens, with copies of a unit that are nearly or just enough, at any place, maybe with a fault."""
    length = draw(st.integers(1, 460))
    made = []
    for seed in draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3)):
        random = np.random.default_rng(seed)
        row = random.integers(0, draw(st.integers(1, 3)), length)
        unit = random.integers(0, 5, draw(st.integers(1, 14)))
        copies = np.resize(unit, draw(st.integers(31, 33)) * len(unit) + draw(st.integers(-1, 1)))
        start = int(random.integers(0, length))
        end = min(length, start + len(copies))
        row[start:end] = copies[: end - start]
        if draw(st.booleans()):
            row[random.integers(0, length)] += 1
        made.append(row.tolist())
    return made


@given(rows())
def test_rows_are_repetitive_as_defined(made: list[list[int]]):
    assert repetitive_rows(np.array(made)).tolist() == [*map(is_repetitive, made)]


@pytest.mark.parametrize("period", [*PERIODS, 14])
@pytest.mark.parametrize("start", [0, 5, 77])
def test_32_copies_are_too_many_and_31_are_not(period: int, start: int):
    row = np.arange(1000, 1600)
    row[start : start + 32 * period] = np.resize(np.arange(period), 32 * period)
    one_less = row.copy()
    one_less[start + 32 * period - 1] = 999
    assert repetitive_rows(np.stack([row, one_less, np.arange(600)])).tolist() == [period in PERIODS, False, False]
