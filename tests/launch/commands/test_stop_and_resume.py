"""`braid stop` and `braid resume`: what they refuse, and what they say of a stop that went wrong."""

import pytest

from launch.runs.record import read_run, recorded_status, run_store_of
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.control.history import open_history
from orchestrator.messages import Outcome
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, STOPPED, status_of, store_at, stored_run
from tests.orchestrator.control.stories import ended, failed, fault, gone, stop


@pytest.mark.parametrize("command", ["stop", "resume"])
def test_what_needs_a_cluster_says_that_none_answers(command: str, braid: Braid) -> None:
    stored_run(braid.root, FINISHED[:4])
    done = braid(command, "first", "--address", "127.0.0.1:1")
    assert done.status == 2
    assert done.err.startswith("braid: no Ray cluster answers at 127.0.0.1:1")


def test_a_stop_that_nobody_can_see_through_is_status_4(braid: Braid) -> None:
    stored_run(braid.root, FINISHED[:4])
    done = braid("stop", "first")
    assert (done.status, done.out) == (4, "")
    assert "first: is to stop, and may not have; last checkpoint at step 20" in done.err
    assert "stopped" not in done.err


def test_a_run_that_has_ended_is_not_stopped_again(braid: Braid) -> None:
    stored_run(braid.root, (*FINISHED[:4], stop(), ended(1, Outcome.STOPPED, 25), gone(1)))
    done = braid("stop", "first")
    assert (done.status, done.err) == (2, "braid: run first: has stopped already; nothing is left to stop\n")


def test_a_stop_whose_checkpoint_failed_says_so_with_status_1(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stored_run(braid.root, FINISHED[:4])

    def stopped(events: tuple[Event, ...]) -> object:
        history = open_history(run_store_of(store_at(braid.root), "first"))
        for event in events:
            history.append(event)
        return recorded_status(read_run(config.storage, "first"), 100.0)

    monkeypatch.setattr(
        "launch.runs.lifecycle.stop", lambda *_, **__: stopped((stop(), failed(1, fault(Cause.STORE, "b"), at_step=33), gone(1)))
    )
    done = braid("stop", "first")
    assert done.status == 1
    assert "first: stopped (stopped on request; its last checkpoint failed: it broke), last checkpoint at step 20" in done.err


@pytest.mark.parametrize(("state", "goes_on"), [("finished", False), ("stopped", True)])
def test_only_a_run_that_has_something_left_to_do_is_to_be_gone_on_with(
    state: str, goes_on: bool, braid: Braid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may finish its last step before it hears of the stop."""
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    monkeypatch.setattr("launch.runs.lifecycle.stop", lambda *_, **__: status_of(braid.root, state=state))
    done = braid("stop", "first")
    assert (done.status, "braid resume" in done.err) == (0, goes_on)


@pytest.mark.parametrize(
    ("events", "overrides", "line"),
    [
        (
            FINISHED[:4],
            ["train.num_steps=400"],
            "run first: is running, and settings change only between two stretches; `braid stop first` first",
        ),
        (FINISHED, [], "run first: finished all of its 40 steps; go on with train.num_steps=MORE"),
        (FINISHED, ["train.num_steps=30"], "run first: finished all of its 40 steps"),
        (STOPPED, ["train.num_steps=20"], "train.num_steps=20: the run is at step 25 already; use more"),
        (FINISHED, ["train.seed=1"], "train.seed=1: decides the numbers of run first and can't change any more"),
        (FINISHED, ["train.batch_rows=16"], "train.batch_rows=16: decides the numbers"),
        (FINISHED, ["model.num_layers=8"], "model.num_layers=8: decides the numbers"),
        (FINISHED, ["data.seq_len=64"], "data.seq_len=64: decides the numbers"),
        (FINISHED, ["optimizer.lr=1e-3"], "optimizer.lr=0.001: decides the numbers"),
        (FINISHED, ["storage.root=/elsewhere"], "storage.root: run first stays where it is"),
        (FINISHED, ["name=second"], "name: run first stays where it is"),
        (FINISHED, ["train.num_stepz=3"], "train.num_stepz: no such key (did you mean train.num_steps?)"),
        (STOPPED, ["eval.dataset=python-stdlib"], "eval.dataset=python-stdlib: is trained on"),
        (FINISHED, ["parallel.tp=3"], "parallel.tp=3: 4 heads; use 1, 2 or 4"),
    ],
)
def test_a_resume_that_would_be_another_run_is_refused(events: tuple[Event, ...], overrides: list[str], line: str, braid: Braid) -> None:
    stored_run(braid.root, events, "train.num_steps=40")
    done = braid("resume", "first", *overrides)
    assert done.status == 2
    assert done.err.startswith(f"braid: {line}")
