"""A curve in a terminal."""

import pytest

from launch.show.plot import plot, rolling_mean


def test_a_plot_has_its_extremes_at_the_axis_and_falls_from_left_to_right() -> None:
    lines = plot([8.0, 6.0, 5.0, 4.5], width=4, height=3, label="loss")
    assert [line[:7].strip() for line in lines] == ["8", "", "4.5", "", ""]
    assert lines[0][9] != "\u2800"
    assert lines[0][12] == "\u2800"
    assert lines[2][12] != "\u2800"
    assert lines[-1].strip() == "loss"


def test_a_rolling_mean_keeps_the_length() -> None:
    assert rolling_mean([4.0, 2.0, 6.0, 8.0], 2) == [4.0, 3.0, 4.0, 7.0]
    assert rolling_mean([], 2) == []


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], list(map(float, range(1000)))])
def test_a_plot_takes_any_number_of_values(values: list[float]) -> None:
    assert {len(line) for line in plot(values, width=10, height=2, label="x" * 10)[:3]} == {19}
