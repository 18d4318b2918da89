"""ControllerActor: the detached Ray actor that keeps one run alive. Ray restarts it, and the journal says where it was."""

from __future__ import annotations

import functools
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyMissing
from orchestrator.alerting.account_reader import AccountReader, read_totals
from orchestrator.alerting.heartbeat import Heartbeat
from orchestrator.alerting.metrics_server import MetricsPort
from orchestrator.alerting.receivers import receivers_of
from orchestrator.alerting.watch import AlertWatch, Watched
from orchestrator.config import RunConfig
from orchestrator.control.cluster import leader_of
from orchestrator.control.controller import Controller, View
from orchestrator.control.events import ControllerStarted, Event, ResumeRequested, StopRequested
from orchestrator.control.history import open_history
from orchestrator.control.state import RunState, Stage, Terms
from orchestrator.control.status import build_status, ranks_of
from orchestrator.deadlines import (
    ALERT_STORE_WITHIN_S,
    ANSWER_WITHIN_S,
    LEAVES_WITHIN_S,
    LOG_WITHIN_S,
    REOPEN_AFTER_S,
    REOPEN_WITHIN_S,
    STATUS_WITHIN_S,
)
from orchestrator.errors import Superseded, is_expected
from orchestrator.fleet.cluster import AgentCluster, build_agent_cluster
from orchestrator.fleet.names import agent_prefix
from orchestrator.fleet.registry_watch import RegistryWatch
from orchestrator.fleet.transport import kill_agents
from orchestrator.health.exposition import Exposed, exposition
from orchestrator.identity import RunIdentity
from orchestrator.node.home import run_directory
from orchestrator.node.log_file import start_log_file
from orchestrator.node.orders import WORKER_COMMAND
from orchestrator.ray_backend.ray_transport import RayTransport
from orchestrator.records.configs import read_config
from orchestrator.records.journal import Entry
from orchestrator.records.keys import certain_of_run, journal_key, store_of_alerts, store_of_run
from orchestrator.records.nodes import NodeRegistry

log = logging.getLogger(__name__)


class NotReady(Exception):
    """The controller exists, but has not begun to control; the message says why."""


class RunReplaced(Exception):
    """The run is gone from the store, and another one has its name."""


class ControllerActor:
    """Controls one run from a thread, which the constructor starts: after a restart by Ray nothing else is called."""

    def __init__(self, run: str, storage: StorageConfig, worker_command: tuple[str, ...] = WORKER_COMMAND, run_id: str = "") -> None:
        self._identity = RunIdentity(name=run, id=run_id)
        start_log_file(run_directory(self._identity) / "controller.log")
        self._run = run
        self._storage = storage
        self._worker_command = worker_command
        self._opened = threading.Event()
        self._leaving = False
        self._trouble = ""
        """Why the run is not open; empty while that is not known."""
        self._config: RunConfig
        self._cluster: AgentCluster
        self._registry: RegistryWatch
        self._controller: Controller
        self._account: AccountReader
        self._alerts: AlertWatch
        self._metrics: MetricsPort
        threading.Thread(target=self._control, name="controller", daemon=True).start()

    @ray.method(concurrency_group="query")
    def ping(self) -> int:
        return os.getpid()

    @ray.method(concurrency_group="query")
    def storage(self) -> StorageConfig:
        """Of a run without an id: which of those with its name this one is."""
        return self._storage

    @ray.method(concurrency_group="query")
    def is_leaving(self) -> bool:
        """True when this controller's work is over and its actor about to end."""
        return self._leaving or (self._opened.is_set() and self._controller.view.state.stage is Stage.ENDED)

    @ray.method(concurrency_group="query")
    def trouble(self) -> str | None:
        """None once it controls the run; else why it does not, empty while it has only just begun."""
        return None if self._opened.is_set() and self._controller.view.seen is not None else self._trouble

    @ray.method(concurrency_group="query")
    def status(self, page: int = 1) -> dict[str, Any]:
        """What `braid status` shows, JSON-ready. Raises NotReady."""
        self._wait_until_open(STATUS_WITHIN_S)
        return self._status(self._controller.view, time.time(), page)

    @ray.method(concurrency_group="query")
    def ranks(self) -> list[dict[str, Any]]:
        """See `ranks_of`. Raises NotReady."""
        self._wait_until_open(STATUS_WITHIN_S)
        view = self._controller.view
        return ranks_of(view.state, view.seen)

    @ray.method(concurrency_group="query")
    def stop(self, now: bool) -> None:
        """Returns once the wish is in the journal, so that no restart forgets it. Raises NotReady when that takes too long."""
        self._ask(StopRequested(at_s=time.time(), now=now), lambda state: _is_stopping(state, now=now))

    @ray.method(concurrency_group="query")
    def resume(self, terms: Terms) -> None:
        """Takes back the wish to stop; returns once that is in the journal. Raises NotReady when that takes too long."""
        self._ask(ResumeRequested(at_s=time.time(), terms=terms), lambda state: not state.stop_wanted)

    @ray.method(concurrency_group="query")
    def read_log(self, rank: int, attempt: int, offset: int, limit: int = 1 << 20) -> tuple[bytes, int] | None:
        """A part of a live log and the offset after it; None when its agent is gone: the store has it. Raises NotReady."""
        self._wait_until_open()
        return self._cluster.read_log(rank, attempt, offset, limit, LOG_WITHIN_S)

    def _status(self, view: View, now_s: float, page: int) -> dict[str, Any]:
        alerts = [*self._alerts.lines, *filter(None, [self._metrics.trouble])]
        return build_status(self._run, self._config, view.state, view.seen, now_s, in_stage_s=view.in_stage_s, alerts=alerts, page=page)

    def _exposition(self) -> str:
        """What Prometheus gets."""
        view, now_s = self._controller.view, time.time()
        status = self._status(view, now_s, 1)
        leader = leader_of(view.seen.agents_of(view.state.attempt)) if view.seen is not None else None
        newest = leader.metrics if leader is not None else None
        totals = self._account.totals
        return exposition([Exposed(config=self._config, state=view.state, status=status, now_s=now_s, newest=newest, totals=totals)])

    def _ask(self, wish: Event, is_granted: Callable[[RunState], bool]) -> None:
        self._wait_until_open()
        self._controller.request(wish)
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        while not is_granted(self._controller.view.state):
            if time.monotonic() > deadline_s:
                raise NotReady(f"controller of {self._run}: could not write the wish into the journal yet; is the store reachable?")
            time.sleep(0.02)

    # --- the controller's own thread ------------------------------------------------------------------------------------

    def _control(self) -> None:
        try:
            crashes = self._open_patiently()
        except RunReplaced as error:
            log.warning("leaving, and ending what is left of the run: %s", error)
            self._leaving = True
            kill_agents(RayTransport(), agent_prefix(self._identity))
            time.sleep(REOPEN_AFTER_S)  # one that leaves while its constructor runs would be started again
            return _end_this_process()
        try:
            state = self._controller.run()
            log.info("%s: %s", state.label, state.reason)
        except Superseded as error:
            log.warning("stepping down, the workers go on: %s", error)
        except Exception as error:  # noqa: BLE001 — whatever it is, a new process is the remedy
            self._crash(error, crashes)
        self._leaving = True
        self._registry.stop()
        self._alerts.stop()
        _end_this_process()

    def _open_patiently(self) -> int:
        """Returns once the run is open: how many controllers before this one crashed in a row."""
        wait_s = REOPEN_AFTER_S
        while True:
            try:
                return self._open()
            except RunReplaced:
                raise
            except Exception as error:  # whatever it is, who asks must be told
                self._trouble = _trouble_of(error, wait_s)
                log.error("can't open the run: %s", self._trouble, exc_info=not is_expected(error))
                time.sleep(wait_s)
                wait_s = min(REOPEN_WITHIN_S, 2 * wait_s)

    def _open(self) -> int:
        store = open_store(self._storage, holds=certain_of_run(self._run))
        run_store = store_of_run(store, self._run)
        history = open_history(run_store)
        if history.state.terms is None:
            raise KeyMissing(f"{run_store.url(journal_key(1))}: no journal; was the run submitted here?")
        if history.state.run_id != self._identity.id:
            raise RunReplaced(f"{run_store.url(journal_key(1))}: is of run {self._run}@{history.state.run_id}, this was {self._identity}")
        self._config = read_config(run_store, history.state.terms.config_version)
        self._registry = RegistryWatch(NodeRegistry(store))
        self._registry.start()
        self._cluster = build_agent_cluster(
            self._config, RayTransport(), registry=self._registry, run_id=self._identity.id, worker_command=self._worker_command
        )
        self._controller = Controller(run=self._run, history=history, cluster=self._cluster)
        self._account = AccountReader(lambda: read_totals(run_store, now_s=time.time()))
        self._account.start()
        self._alerts = self._watch_for_alerts()
        self._alerts.start()
        self._metrics = MetricsPort(self._config.metrics, self._exposition, os.environ)
        self._metrics.start()
        gc.freeze()  # what is imported by now is not looked through again: with Ray's modules that would be a pause of its own
        self._opened.set()
        log.info("controller of %s in process %d", self._run, os.getpid())
        return controllers_without_news(history.entries)

    def _watch_for_alerts(self) -> AlertWatch:
        """With a store of its own, whose writes are given up early: people are told that it is away."""
        config, view = self._config.alerts, lambda: self._controller.view
        storage = replace(self._storage, deadline_s=min(ALERT_STORE_WITHIN_S, self._storage.deadline_s))
        store = store_of_alerts(store_of_run(open_store(storage, holds=certain_of_run(self._run)), self._run))
        return AlertWatch(
            Watched(identity=self._identity, config=self._config, store=store, view=view, totals=lambda: self._account.totals),
            receivers_of(config, os.environ),
            Heartbeat(config.heartbeat, every_s=config.heartbeat_every_s, environ=os.environ, sign=lambda: _looked_at_s(view())),
        )

    def _crash(self, error: Exception, crashes: int) -> None:
        """Ends this process, after a while that grows with every crash in a row, so that Ray starts a new one."""
        wait_s = min(REOPEN_WITHIN_S, REOPEN_AFTER_S * 2.0 ** min(crashes, 30))
        self._trouble = _trouble_of(error, wait_s)
        self._opened.clear()
        log.exception("unexpected end, a new process goes on in %.0f s", wait_s)
        time.sleep(wait_s)
        os._exit(1)

    def _wait_until_open(self, timeout_s: float = ANSWER_WITHIN_S) -> None:
        if not self._opened.wait(timeout_s):
            raise NotReady(f"controller of {self._run}: {self._trouble or 'still reading its journal'}")


@functools.cache
def controller_class() -> Any:
    """The actor class."""
    remote: Any = ray.remote  # whose types know no concurrency groups
    return remote(concurrency_groups={"query": 8})(ControllerActor)


def _end_this_process() -> None:
    """For good, and nothing but this process: Ray does not start it again.

    While a process is paused, Ray may have replaced it: the actor's handle and name belong to another process then, and ending the actor
    would end that one.
    """
    worker: Any = ray._private.worker.global_worker
    worker.core_worker.drain_and_exit_worker("user", b"this controller's work is over")
    time.sleep(LEAVES_WITHIN_S)
    os._exit(1)  # Ray's own end of it is gone


def _looked_at_s(view: View) -> float | None:
    """When the controller looked last; None before its first look."""
    return view.seen.at_s if view.seen is not None else None


def controllers_without_news(entries: Sequence[Entry[Event]]) -> int:
    """How many controllers in a row began and then recorded nothing: they crashed."""
    count = 0
    for entry in reversed(entries):
        if not isinstance(entry.event, ControllerStarted):
            break
        count += 1
    return count


def _trouble_of(error: Exception, wait_s: float) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}; trying again in up to {wait_s:.0f} s"


def _is_stopping(state: RunState, *, now: bool) -> bool:
    return state.ending is not None or state.stage is Stage.ENDED or (state.stop_wanted and not now)
