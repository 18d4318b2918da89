"""Stopping and resuming a run: through its controller, or in its journal where there is none. No Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from launch.errors import NotReachable
from launch.runs import lifecycle
from launch.runs.record import read_run, run_store_of
from orchestrator.config import RunConfig
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event, ResumeRequested
from orchestrator.control.history import open_history
from orchestrator.control.state import Terms, terms_of
from orchestrator.identity import RunIdentity
from orchestrator.messages import Outcome
from orchestrator.records.holds import held_checkpoints
from tests.launch.stored_runs import RUNNING, STOPPED, config_at, put_checkpoint, put_dataset, store_at, stored_run
from tests.orchestrator.control.stories import ended, failed, fault, gone, stop


class LeavingController:
    """Does what it is asked to and is gone before it answers, as an actor that ends with its run."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def stop(self, *, now: bool) -> None:
        self._act()
        raise NotReachable("controller of first: no answer (ActorDiedError)")

    def status(self, page: int) -> dict[str, object]:
        raise NotReachable("controller of first: no answer (ActorDiedError)")


class Controller:
    """One that controls its run, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Terms] = []

    def resume(self, terms: Terms) -> None:
        self.asked.append(terms)

    def wait_until_open(self) -> None:
        pass


class FakeCluster:
    """Has the controller that is given, or none until one is started."""

    def __init__(self, controller: LeavingController | Controller | None) -> None:
        self.controller = controller
        self.num_started = 0

    def find_controller(self, run: RunIdentity, storage: StorageConfig) -> LeavingController | Controller | None:
        return self.controller

    def start_controller(self, run: RunIdentity, storage: StorageConfig) -> Controller:
        self.num_started += 1
        return Controller()

    def wait_until_controller_is_gone(self, run: RunIdentity, storage: StorageConfig) -> None:
        assert self.controller is None


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))


def connect_to(controller: LeavingController | Controller | None, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    cluster = FakeCluster(controller)

    @contextmanager
    def connected(*_: object, **__: object) -> Iterator[FakeCluster]:
        yield cluster

    monkeypatch.setattr(lifecycle, "connected", connected)
    return cluster


def journal_into(root: Path, *events: Event) -> Callable[[], None]:
    def act() -> None:
        history = open_history(run_store_of(store_at(root), "first"))
        for event in events:
            history.append(event)

    return act


def events_of(root: Path) -> tuple[Event, ...]:
    return tuple(entry.event for entry in open_history(run_store_of(store_at(root), "first")).entries)


def test_a_run_that_waits_for_nodes_keeps_what_it_is_to_begin_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older run, which goes on, may have removed that checkpoint before the new one's first worker reads it."""
    put_checkpoint(tmp_path, stored_run(tmp_path), attempt=1, step=5)
    put_dataset(tmp_path)
    connect_to(None, monkeypatch)
    lifecycle.submit(config_at(tmp_path, "name=second", "start.run=first"), address="head:6379", tell=print)
    assert held_checkpoints(run_store_of(store_at(tmp_path), "first")) == {(5, 1)}


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
    "events",
    [(), RUNNING, (*RUNNING, stop()), (*RUNNING, failed(1, fault(Cause.KILLED, "b")))],
    ids=["queued", "running", "saving", "draining"],
)
def test_a_run_whose_cluster_is_gone_is_stopped_without_starting_one(events: tuple[Event, ...], tmp_path: Path) -> None:
    config = stored_run(tmp_path, events)
    before = events_of(tmp_path)
    told: list[str] = []
    last = lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)
    assert (last["state"], last["last_committed_step"]) == ("stopped", 20 if events else 0)
    assert read_run(config.storage, "first").has_ended
    assert events_of(tmp_path)[:-1] == before, "one entry: nobody can come between two"
    assert told == ["no cluster runs here, so first has no workers to stop; if it runs on another one, say which with --address"]
    assert not (tmp_path / "home").exists()


ENDING = {
    "saving": (*RUNNING, stop()),
    "draining after --now": (*RUNNING, stop(now=True)),
    "draining after the last checkpoint": (*RUNNING, stop(), ended(1, Outcome.STOPPED, 25)),
}
"""A run that is about to stop, and whose cluster may die at that moment."""


def resume(config: RunConfig) -> list[str]:
    told: list[str] = []
    lifecycle.resume(config.storage, "first", [], address="head:6379", tell=told.append)
    return told


@pytest.mark.parametrize("events", ENDING.values(), ids=ENDING)
def test_a_run_whose_cluster_died_while_it_stopped_goes_on(
    events: tuple[Event, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wish to go on is in the journal before a controller begins, which would else finish the stop."""
    config = stored_run(tmp_path, events)
    before = events_of(tmp_path)
    cluster = connect_to(None, monkeypatch)

    resume(config)

    *unchanged, wish = events_of(tmp_path)
    assert tuple(unchanged) == before
    assert isinstance(wish, ResumeRequested)
    assert wish.terms == terms_of(config, 1)
    assert cluster.num_started == 1


@pytest.mark.parametrize("events", ENDING.values(), ids=ENDING)
def test_a_controller_that_stops_its_run_is_asked_to_go_on(
    events: tuple[Event, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only it may write the journal while it lives."""
    config = stored_run(tmp_path, events)
    before = events_of(tmp_path)
    controller = Controller()
    cluster = connect_to(controller, monkeypatch)

    told = resume(config)

    assert controller.asked == [terms_of(config, 1)]
    assert (events_of(tmp_path), cluster.num_started) == (before, 0)
    assert told == ["run first: goes on; its stop is withdrawn"]


@pytest.mark.parametrize(
    "events",
    [(), RUNNING, (*RUNNING, failed(1, fault(Cause.KILLED, "b"))), (*RUNNING, ended(1, Outcome.FINISHED, 200))],
    ids=["queued", "running", "recovering", "finished but for the last processes"],
)
def test_where_no_stop_is_under_way_nothing_is_withdrawn(
    events: tuple[Event, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stored_run(tmp_path, events)
    before = events_of(tmp_path)
    controller = Controller()
    connect_to(controller, monkeypatch)
    (told,) = resume(config)
    assert (controller.asked, told.endswith(" already")) == ([], True)

    cluster = connect_to(None, monkeypatch)
    resume(config)
    assert (events_of(tmp_path), cluster.num_started) == (before, 1), "a controller finds out by itself what is left to do"


def test_a_run_that_has_stopped_goes_on_in_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stored_run(tmp_path, STOPPED)
    cluster = connect_to(None, monkeypatch)
    resume(config)
    assert isinstance(events_of(tmp_path)[-1], ResumeRequested)
    assert cluster.num_started == 1
