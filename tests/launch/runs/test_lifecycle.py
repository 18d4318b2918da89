"""Stopping and resuming a run: through its controller, or in its journal where there is none. No Ray."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from launch.config.storage import storage_of
from launch.errors import NotReachable, NotStarted
from launch.runs import lifecycle
from launch.runs.connection import ClusterNode
from launch.runs.record import read_run, run_names, run_store_of
from launch.runs.unseen import what_may_run
from orchestrator.config import RunConfig
from orchestrator.control.causes import Cause
from orchestrator.control.events import AttemptStarted, Event, ResumeRequested
from orchestrator.control.history import open_history
from orchestrator.control.placement import Placed
from orchestrator.control.state import Terms, terms_of
from orchestrator.errors import Fenced
from orchestrator.identity import RunIdentity
from orchestrator.messages import Outcome
from orchestrator.node.home import run_directory
from orchestrator.node.processes import variables_of
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.holds import held_checkpoints
from orchestrator.records.keys import log_key
from tests.launch.stored_runs import RUNNING, STOPPED, config_at, put_checkpoint, put_dataset, store_at, stored_run
from tests.orchestrator.control.stories import ended, failed, fault, gone, stop
from tests.orchestrator.node.waiting import wait_for


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
    """Has the controller that is given, or none until one is started; with a `failure` none begins."""

    def __init__(self, controller: LeavingController | Controller | None) -> None:
        self.controller = controller
        self.num_started = 0
        self.patience_s = 0.0
        self.failure: NotReachable | None = None
        self.memory_bytes = 0.0

    def nodes(self) -> list[ClusterNode]:
        where = {"node": "f", "machine": "gpu07", "address": "10.0.0.7"}
        return [ClusterNode(**where, is_alive=True, num_cpus=8, num_gpus=0, memory_bytes=self.memory_bytes)]

    def find_controller(self, run: RunIdentity, storage: StorageConfig) -> LeavingController | Controller | None:
        return self.controller

    def start_controller(self, run: RunIdentity, storage: StorageConfig) -> Controller:
        if self.failure is not None:
            raise self.failure
        self.num_started += 1
        self.patience_s = storage.deadline_s
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


def test_a_resumed_run_that_never_saved_holds_again_what_it_begins_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hold may have lapsed since it ended; where the checkpoint went too, that is said before anything starts."""
    put_checkpoint(tmp_path, stored_run(tmp_path), attempt=1, step=5)
    config = stored_run(tmp_path, (stop(now=True), gone(0)), "name=second", "start.run=first", "start.step=5")
    connect_to(None, monkeypatch)
    lifecycle.resume(config.storage, "second", [], address="head:6379", tell=print)
    older = run_store_of(store_at(tmp_path), "first")
    assert held_checkpoints(older) == {(5, 1)}


def test_a_run_whose_controller_can_not_begin_gives_its_name_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_checkpoint(tmp_path, stored_run(tmp_path), attempt=1, step=5)
    put_dataset(tmp_path)
    cluster = connect_to(None, monkeypatch)
    config = config_at(tmp_path, "name=second", "start.run=first")
    cluster.failure = NotStarted("the controller of second did not start: No module named 'orchestrator'")
    with pytest.raises(NotStarted, match=r"^run second: was not begun, and its name is free again: the controller of second did not start"):
        lifecycle.submit(config, address="head:6379", tell=print)
    assert run_names(store_at(tmp_path)) == ["first"]
    assert held_checkpoints(run_store_of(store_at(tmp_path), "first")) == set()

    cluster.failure = None
    lifecycle.submit(config, address="head:6379", tell=print)
    assert (run_names(store_at(tmp_path)), cluster.num_started) == (["first", "second"], 1)


def test_a_run_whose_controller_may_begin_yet_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_dataset(tmp_path)
    connect_to(None, monkeypatch).failure = NotReachable("the controller of first did not start: Get timed out")
    with pytest.raises(NotReachable, match=r"^run first: is submitted, but nothing controls it: .* `braid resume first"):
        lifecycle.submit(config_at(tmp_path), address="head:6379", tell=print)
    assert read_run(config_at(tmp_path).storage, "first").state.label == "queued"


def test_nodes_without_memory_for_snapshots_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_dataset(tmp_path)
    connect_to(None, monkeypatch).memory_bytes = 1e6
    told: list[str] = []

    lifecycle.submit(config_at(tmp_path), address="head:6379", tell=told.append)

    assert any(line.startswith("warning: snapshots take ") and "too much for 1 of 1 node" in line for line in told)


def test_what_a_run_is_to_begin_from_is_held_before_anything_that_takes_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset may have to be built, and a cluster started. A submission that comes to nothing lets go of it."""
    put_checkpoint(tmp_path, stored_run(tmp_path), attempt=1, step=5)
    connect_to(None, monkeypatch)
    older = run_store_of(store_at(tmp_path), "first")
    held: list[set[tuple[int, int]]] = []

    def prepare_in_vain(*_: object, **__: object) -> None:
        held.append(held_checkpoints(older))
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "prepare_dataset", prepare_in_vain)
    with pytest.raises(KeyboardInterrupt):
        lifecycle.submit(config_at(tmp_path, "name=second", "start.run=first"), address="head:6379", tell=print)
    assert (held, held_checkpoints(older)) == ([{(5, 1)}], set())


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


ALIVE = {"running": RUNNING, "saving": (*RUNNING, stop()), "draining": (*RUNNING, failed(1, fault(Cause.KILLED, "b")))}
"""A run that has workers, as far as its journal knows."""


def silent_for(root: Path, seconds: float) -> None:
    """Nothing was written for that long."""
    then_s = time.time() - seconds
    for path in root.rglob("*"):
        os.utime(path, (then_s, then_s))


@pytest.mark.parametrize("events", [(), *ALIVE.values()], ids=["queued", *ALIVE])
def test_a_run_of_which_nothing_can_be_left_is_stopped_without_its_cluster(events: tuple[Event, ...], tmp_path: Path) -> None:
    config = stored_run(tmp_path, events)
    before = events_of(tmp_path)
    if events:
        silent_for(tmp_path, seconds=601.0)
    told: list[str] = []
    last = lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)
    assert (last["state"], last["last_committed_step"]) == ("stopped", 20 if events else 0)
    assert read_run(config.storage, "first").has_ended
    assert events_of(tmp_path)[:-1] == before, "one entry: nobody can come between two"
    assert told == ["no cluster runs here; if first runs on another one, say which with --address"]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("events", ALIVE.values(), ids=ALIVE)
def test_a_run_that_may_train_on_unseen_is_not_said_to_be_stopped(events: tuple[Event, ...], tmp_path: Path) -> None:
    """The head of its cluster is dead: the wish is recorded, and workers find the fence at their next commit."""
    config = stored_run(tmp_path, events)
    log = open_commit_log(run_store_of(store_at(tmp_path), "first"))
    log.fence(1)
    told: list[str] = []
    last = lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)
    assert last["state"] == "stopping"
    assert "workers of it may train on: its last sign of life in the store is 0 s old" in told[1]
    with pytest.raises(Fenced):
        log.check(1)

    lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)
    silent_for(tmp_path, seconds=601.0)
    assert lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)["state"] == "stopped"


def test_a_run_of_the_local_cluster_has_stopped_once_no_process_of_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = (Placed(node="a", machine="local-0"), Placed(node="b", machine="local-1"))
    config = stored_run(tmp_path, (AttemptStarted(at_s=2.0, attempt=1, placement=placement), *RUNNING[1:]))
    run = read_run(config.storage, "first").identity
    for rank in (0, 1):
        log = run_directory(run) / log_key(1, rank)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    told: list[str] = []
    worker = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | {"BRAID_RUN": "first", "BRAID_RUN_ID": run.id}
    )
    try:
        wait_for(lambda: "BRAID_RUN" in variables_of(worker.pid), "the worker's own environment")
        assert lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)["state"] == "stopping"
        assert "processes of it run on this machine (1), which `braid cluster down` ends" in told[1]
        elsewhere = dataclasses.replace(read_run(config.storage, "first").state, placement=(Placed(node="a", machine="host"),))
        record = dataclasses.replace(read_run(config.storage, "first"), state=elsewhere)
        assert what_may_run(record, 0.0).endswith("(1), which end by themselves once no controller speaks to them")
    finally:
        worker.communicate(b"\n")
    assert lifecycle.stop(config.storage, "first", now=False, address="", tell=told.append)["state"] == "stopped"


def test_a_cluster_that_was_named_and_does_not_answer_is_passed_over_only_where_no_checkpoint_is_asked_for(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    before = events_of(tmp_path)
    with pytest.raises(NotReachable, match=r"no Ray cluster answers at 127.0.0.1:1 .*; if it is gone for good, `braid stop first --now"):
        lifecycle.stop(config.storage, "first", now=False, address="127.0.0.1:1", tell=print)
    assert events_of(tmp_path) == before
    assert lifecycle.stop(config.storage, "first", now=True, address="127.0.0.1:1", tell=print)["state"] == "stopping"


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


def test_a_controller_has_the_runs_patience_with_the_store_and_not_a_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_run(tmp_path, STOPPED, "storage.deadline_s=90")
    cluster = connect_to(None, monkeypatch)
    lifecycle.resume(storage_of(str(tmp_path)), "first", (), address="", tell=lambda line: None)
    assert cluster.patience_s == 90
