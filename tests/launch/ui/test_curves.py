"""What of a run's steps is drawn."""

import math

import numpy as np

from launch.ui.curves import curves_of, extremes, newest_of_each_step


def columns(steps: list[float], **others: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=np.float64) for name, values in {"step": steps, **others}.items()}


def test_of_a_hundred_thousand_steps_as_many_points_as_pixels_are_left_and_no_spike_is_lost() -> None:
    loss = np.full(100_000, 3.0)
    loss[54_321], loss[77_777] = 9.0, 0.5
    kept = extremes(loss, 400)
    assert len(kept) <= 802
    assert {0, 54_321, 77_777, 99_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_few_points_are_left_as_they_are() -> None:
    assert extremes(np.arange(7.0), 400).tolist() == list(range(7))


def test_a_loss_that_is_no_number_stays_as_a_gap() -> None:
    loss = np.full(1000, 3.0)
    loss[500] = math.nan
    assert 500 in extremes(loss, 10)
    found = curves_of(columns([1, 2, 3], loss=[3, math.nan, 2], grad_norm=[1, math.inf, 1]), x="step", first=0, last=9, width=10)
    assert found["curves"]["loss"]["x"] == [1, 2, 3]


def test_a_stretch_comes_with_a_point_on_either_side_so_that_lines_reach_the_edges() -> None:
    steps = list(map(float, range(1, 11)))
    found = curves_of(columns(steps, loss=steps, grad_norm=steps), x="step", first=4, last=6, width=10)
    assert found["curves"]["loss"]["x"] == [3, 4, 5, 6, 7]
    assert (found["first"], found["last"]) == (1, 10)


def test_what_was_not_recorded_has_no_curve() -> None:
    nothing = [math.nan] * 2
    found = curves_of(
        columns([1, 2], loss=[1, 1], grad_norm=[1, 1], eval_loss=[math.nan, 5], ended_at_s=nothing), x="step", first=0, last=9, width=9
    )
    assert set(found["curves"]) == {"loss", "grad_norm", "eval_loss"}
    assert found["curves"]["eval_loss"] == {"x": [2], "y": [5]}
    by_time = curves_of(columns([1, 2], loss=[1, 1], grad_norm=[1, 1], ended_at_s=nothing), x="ended_at_s", first=0, last=9, width=9)
    assert by_time == {"curves": {}, "first": None, "last": None}


def test_of_steps_that_were_trained_again_the_newest_attempt_counts() -> None:
    found = newest_of_each_step(columns([1, 2, 3, 2, 3], attempt=[1, 1, 1, 2, 2], loss=[9, 8, 7, 6, 5]))
    assert (found["step"].tolist(), found["loss"].tolist()) == ([1, 2, 3], [9, 6, 5])
