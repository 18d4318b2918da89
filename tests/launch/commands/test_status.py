"""`braid status` from a run's journal: as JSON, as a table, and watched."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.messages import Outcome
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, STOPPED, put_steps, status_of, stored_run
from tests.orchestrator.control.stories import ended, failed, fault, gone, placed, stop

STATUS_KEYS = {
    "run", "state", "attempt", "step", "num_steps", "tokens", "loss", "tokens_per_s", "last_committed_step", "restarts",
    "workers", "num_workers", "incidents", "skipped_updates", "alerts",
}  # fmt: skip


INCIDENT_KEYS = {
    "attempt", "cause", "node", "rank", "at_step", "detected_after_s", "recovered_after_s", "resumed_from_step", "steps_replayed",
}  # fmt: skip


def test_status_json_has_the_promised_keys_without_a_cluster(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_steps(braid.root, 1, range(1, 34))
    put_steps(braid.root, 2, range(21, 41))
    done = braid("status", "first", "--json")
    status = json.loads(done.out)
    assert done.status == 0
    assert set(status) >= STATUS_KEYS
    assert (status["run"], status["state"], status["step"], status["num_steps"], status["tokens"]) == (
        "first",
        "finished",
        40,
        40,
        40 * 1024,
    )
    assert (status["attempt"], status["restarts"], status["last_committed_step"], status["workers"]) == (2, 1, 40, [])
    (incident,) = status["incidents"]
    assert set(incident) >= INCIDENT_KEYS
    assert (incident["cause"], incident["rank"], incident["resumed_from_step"], incident["steps_replayed"]) == ("killed", 1, 20, 13)


def test_status_is_a_table_for_people(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    out = braid("status", "first").out
    assert "first  finished  attempt 2, 1 restarts, last checkpoint at step 40" in out
    assert "killed" in out


def test_the_status_of_a_failed_run_is_1_and_says_why(braid: Braid) -> None:
    stored_run(braid.root, (placed(1, "ab"), failed(1, fault(Cause.CONFIG, "a", ranks=2, nodes=2)), gone(1)))
    done = braid("status", "first")
    assert done.status == 1
    assert "config: it broke; no restart can help" in done.out


@pytest.mark.parametrize("options", [[], ["--address", "127.0.0.1:1"]])
def test_a_run_whose_cluster_is_gone_is_still_reported(options: list[str], braid: Braid) -> None:
    stored_run(braid.root, FINISHED[:4])
    done = braid("status", "first", *options)
    assert done.status == 0
    assert "no controller answers; `braid resume first --storage " in done.out


def test_watching_an_ended_run_ends(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    assert braid("status", "first", "--watch").status == 0


def test_watching_as_json_is_a_line_for_every_look(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    (line,) = braid("status", "first", "--watch", "--json").out.splitlines()
    assert json.loads(line)["state"] == "finished"


def test_a_run_that_skips_its_updates_does_not_look_healthy(braid: Braid) -> None:
    stored_run(braid.root, (*FINISHED[:-2], ended(2, Outcome.FINISHED, 40, num_skipped=17), gone(2)), "train.num_steps=40")
    assert "finished at step 40; 17 updates skipped in attempt 2" in braid("status", "first").out


@pytest.mark.parametrize(
    ("events", "status"),
    [(FINISHED[:4], 1), ((*FINISHED[:4], stop()), 1), (STOPPED, 0), (FINISHED, 0)],
    ids=["running", "stopping", "stopped", "finished"],
)
def test_a_script_asks_the_store_whether_a_run_has_ended(events: tuple[Event, ...], status: int, braid: Braid) -> None:
    stored_run(braid.root, events, "train.num_steps=40")
    done = braid("status", "first", "--ended")
    assert (done.status, done.out, done.err) == (status, "", "")


def test_a_script_that_can_not_be_answered_is_told_neither(braid: Braid) -> None:
    assert braid("status", "first", "--ended").status == 2


class ManyWorkers:
    """A controller of 130 workers, which shows them by page."""

    def __init__(self, braid: Braid) -> None:
        self._root = braid.root

    def status(self, page: int) -> dict[str, Any]:
        ranks = range(130)[64 * (page - 1) : 64 * page]
        workers = [{"rank": rank, "node": "a", "pid": 1, "phase": "training", "step": 1, "last_progress_s": 0.1} for rank in ranks]
        return status_of(self._root, workers=workers, num_workers=130, live=True)


def test_workers_are_shown_by_page(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def searching(*_: object, **__: object) -> Iterator[Callable[[], ManyWorkers]]:
        yield lambda: ManyWorkers(braid)

    monkeypatch.setattr("launch.runs.view.searching", searching)
    stored_run(braid.root, FINISHED[:4], "train.num_steps=40")

    assert len(json.loads(braid("status", "first", "--json").out)["workers"]) == 64
    assert [worker["rank"] for worker in json.loads(braid("status", "first", "--workers", "3", "--json").out)["workers"]] == [128, 129]
    assert "ranks 128 … 129 of 130 workers" in braid("status", "first", "--workers", "3").out
    done = braid("status", "first", "--workers", "4")
    assert (done.status, done.err) == (2, "braid: --workers 4: run first has 130 workers, and none is on this page; use a lower one\n")


def test_one_who_follows_and_gets_no_answer_any_more_is_told_so_by_the_exit_status(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.runs.view.PATIENCE_S", 0.0)
    stored_run(braid.root, FINISHED[:4], "train.num_steps=40")
    assert braid("status", "first", "--watch").status == 4
