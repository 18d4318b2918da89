"""Stopping a run: through its controller, or in its journal where nothing else is left. No Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.errors import NotReachable
from launch.runs import lifecycle
from launch.runs.record import read_run, run_store_of
from orchestrator.control.causes import Cause
from orchestrator.control.events import EVENT_KINDS, Event
from orchestrator.messages import Outcome
from orchestrator.records.journal import open_journal
from tests.launch.stored_runs import RUNNING, store_at, stored_run
from tests.orchestrator.control.stories import ended, failed, gone, stop


class LeavingController:
    """Does what it is asked to and is gone before it answers, as an actor that ends with its run."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def stop(self, *, now: bool) -> None:
        self._act()
        raise NotReachable("controller of first: no answer (ActorDiedError)")

    def status(self) -> dict[str, object]:
        raise NotReachable("controller of first: no answer (ActorDiedError)")


class FakeCluster:
    def __init__(self, controller: LeavingController) -> None:
        self._controller = controller

    def find_controller(self, run: str) -> LeavingController:
        return self._controller


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))


def connect_to(controller: LeavingController, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(*_: object, **__: object) -> Iterator[FakeCluster]:
        yield FakeCluster(controller)

    monkeypatch.setattr(lifecycle, "connected", connected)


def journal_into(root: Path, *events: Event) -> Callable[[], None]:
    def act() -> None:
        journal = open_journal(run_store_of(store_at(root), "first"), EVENT_KINDS)
        for event in events:
            journal.append(event)

    return act


def test_a_controller_that_ends_before_it_answers_has_stopped_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stored_run(tmp_path, RUNNING)
    act = journal_into(tmp_path, stop(), ended(1, Outcome.STOPPED, 25), gone(1))
    connect_to(LeavingController(act), monkeypatch)
    last = lifecycle.stop(config.storage, "first", now=False, address="head:6379", tell=print)
    assert (last["state"], last["reason"]) == ("stopped", "stopped on request at step 25")


def test_a_controller_that_was_lost_before_it_wrote_the_wish_down_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stored_run(tmp_path, RUNNING)
    connect_to(LeavingController(lambda: None), monkeypatch)
    with pytest.raises(NotReachable, match="ActorDiedError"):
        lifecycle.stop(config.storage, "first", now=False, address="head:6379", tell=print)


def test_stopping_now_is_more_than_the_stop_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stored_run(tmp_path, (*RUNNING, stop()))
    connect_to(LeavingController(lambda: None), monkeypatch)
    with pytest.raises(NotReachable, match="ActorDiedError"):
        lifecycle.stop(config.storage, "first", now=True, address="head:6379", tell=print)


@pytest.mark.parametrize(
    "events", [(), RUNNING, (*RUNNING, stop()), (*RUNNING, failed(1, "b", Cause.KILLED))], ids=["queued", "running", "saving", "draining"]
)
def test_a_run_whose_cluster_is_gone_is_stopped_without_starting_one(events: tuple[Event, ...], tmp_path: Path) -> None:
    config = stored_run(tmp_path, events)
    told: list[str] = []
    last = lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)
    assert (last["state"], last["last_committed_step"]) == ("stopped", 20 if events else 0)
    assert read_run(config.storage, "first").has_ended
    assert told == ["no cluster runs here, so first has no workers to stop; if it runs on another one, say which with --address"]
    assert not (tmp_path / "home").exists()
