"""What one reads first at 3 a.m."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.ui.attempts import attempts_of, step_time_between_checkpoints
from launch.ui.glance import Seen, command_for, glance, time_left_s
from orchestrator.control.events import CheckpointCommitted
from tests.launch.stored_runs import FINISHED, RUNNING, status_of, stored_run

CALM = np.array([3.0 + 0.01 * (step % 7) for step in range(500)])


def seen(loss: np.ndarray = CALM, **changes: Any) -> Seen:
    steps = {"step": np.arange(1.0, len(loss) + 1), "loss": loss, "grad_norm": np.ones(len(loss))}
    known = Seen(step_s=1.5, committed_age_s=60.0, restarts_in_row=1, max_restarts=10, steps=steps, hint="")
    return replace(known, **changes)


@pytest.fixture
def live(tmp_path: Path) -> dict[str, Any]:
    """The status of a run that trains."""
    stored_run(tmp_path, RUNNING, "train.num_steps=100")
    workers = [{"rank": rank, "node": "ab"[rank], "last_progress_s": 0.5 + rank} for rank in range(2)]
    changes = {"step": 30, "tokens": 30 * 1024, "tokens_per_s": 700.0, "spares": 1, "standbys": 1}
    return status_of(tmp_path, live=True, workers=workers, **changes)


def verdict_of(key: str, status: dict[str, Any], known: Seen) -> tuple[str, str]:
    (fact,) = [one for one in glance(status, known) if one["key"] == key]
    return fact["verdict"], fact["text"]


def test_a_run_that_moves_is_well_and_one_that_stands_is_not(live: dict[str, Any]) -> None:
    assert verdict_of("moving", live, seen()) == ("good", "Last progress {age} ago; a step usually takes 1.50 s.")
    standing = live | {"workers": [one | {"last_progress_s": 16.0} for one in live["workers"]]}
    assert verdict_of("moving", standing, seen())[0] == "bad"
    assert verdict_of("moving", standing, seen(step_s=30.0))[0] == "good", "its steps take long"


def test_without_a_controller_nobody_says_that_it_moves(live: dict[str, Any]) -> None:
    assert verdict_of("moving", live | {"live": False, "workers": []}, seen())[0] == "unknown"


def test_a_recovery_says_how_many_are_left(live: dict[str, Any]) -> None:
    recovering = live | {"state": "recovering"}
    told = verdict_of("recovering", recovering, seen(restarts_in_row=3))
    assert told == ("watch", "Yes, by itself: attempt 1, 0 restarts so far, 7 more in a row before it gives up.")
    assert verdict_of("recovering", recovering, seen(restarts_in_row=10))[0] == "bad"


def test_what_would_be_lost_is_told_from_the_newest_checkpoint(live: dict[str, Any]) -> None:
    told = verdict_of("at_stake", live, seen())
    assert told == ("good", "The newest verified checkpoint is of step 20, from {age} ago; 10 steps since then.")
    assert verdict_of("at_stake", live | {"last_committed_step": 0}, seen())[0] == "watch"


@pytest.mark.parametrize(
    ("newest", "verdict"), [(3.03, "good"), (2.0, "good"), (3.5, "watch"), (math.nan, "bad"), (math.inf, "bad")], ids=str
)
def test_a_loss_is_compared_with_its_own_last_steps(newest: float, verdict: str, live: dict[str, Any]) -> None:
    assert verdict_of("loss", live, seen(np.append(CALM, newest)))[0] == verdict


def test_too_few_steps_say_nothing(live: dict[str, Any]) -> None:
    assert verdict_of("loss", live, seen(CALM[:5]))[0] == "unknown"
    assert verdict_of("loss", live, seen(CALM[:0]))[0] == "unknown"


def test_a_pace_is_compared_with_its_own(live: dict[str, Any]) -> None:
    assert verdict_of("pace", live, seen()) == ("good", "700 tokens/s, 103% of its usual 683.")
    assert verdict_of("pace", live | {"tokens_per_s": 300.0}, seen())[0] == "watch"
    assert verdict_of("pace", live, seen(step_s=None))[0] == "unknown"


def test_the_newest_incident_names_rank_node_and_what_was_done(tmp_path: Path) -> None:
    stored_run(tmp_path, FINISHED, "train.num_steps=40")
    told = verdict_of("culprit", status_of(tmp_path), seen())
    assert told == ("good", "killed, rank 1, node B, at step 33: it broke; recovered in 4.0 s from store, without B.")


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "braid status first --watch"),
        ({"live": False}, "braid resume first"),
        ({"state": "queued"}, "braid nodes"),
        ({"state": "finished"}, "braid verify first"),
        ({"state": "stopped"}, "braid resume first"),
        ({"state": "failed"}, "braid resume first"),
        ({"state": "failed", "incidents": [{"rank": 3, "attempt": 2, "cause": "config"}]}, "braid logs first --rank 3 --attempt 2"),
        ({"state": "failed", "incidents": [{"rank": None, "attempt": 2, "cause": "store"}]}, "braid logs first --attempt 2"),
    ],
)
def test_there_is_one_command_to_type(changes: dict[str, Any], command: str, live: dict[str, Any]) -> None:
    assert command_for(live | changes, " --storage /x")["command"] == f"{command} --storage /x"


def test_the_time_left_is_that_of_its_usual_pace(live: dict[str, Any]) -> None:
    assert time_left_s(live, 1.5) == 70 * 1.5
    assert time_left_s(live, None) is None
    assert time_left_s(live | {"state": "finished"}, 1.5) is None


def test_the_pace_between_checkpoints_takes_no_notice_of_a_clock_that_went_back() -> None:
    marks = [(10, 100.0), (20, 120.0), (30, 60.0), (40, 90.0)]
    events = [CheckpointCommitted(at_s=at_s, attempt=1, step=step) for step, at_s in marks]
    assert step_time_between_checkpoints(events) == 2.5
    assert step_time_between_checkpoints(events[:1]) is None


def test_attempts_are_told_the_newest_first(tmp_path: Path) -> None:
    newest, first = attempts_of([replace(event, at_s=float(second)) for second, event in enumerate(FINISHED)])
    assert (newest["attempt"], newest["machines"], newest["from_step"], newest["ending"]) == (2, ["A", "C"], 20, "finished")
    assert (first["committed_step"], first["ending"], first["gone_at_s"]) == (20, "killed", 5.0)
