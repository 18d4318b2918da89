"""A run that is watched for alerts, on a clock of the test's own: `after` lets time pass and looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.alerting.heartbeat import Heartbeat
from orchestrator.alerting.receivers import Receiver, receivers_of
from orchestrator.alerting.watch import AlertWatch, Watched
from orchestrator.alerts_config import AlertsConfig
from orchestrator.control.cluster import Observation
from orchestrator.control.controller import View
from orchestrator.control.events import Event
from orchestrator.control.state import RunState
from orchestrator.identity import RunIdentity
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import play, running, seen
from tests.orchestrator.health.looks import config_of

RUN = RunIdentity(name="first", id="abc")
NOWHERE: Mapping[str, str] = {}


class Time:
    """One clock for all controllers of a story."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class WatchedRun:
    """One controller's watch. Another one of the same store is another controller's."""

    def __init__(
        self,
        alerts: AlertsConfig,
        *,
        store: MemoryStore | None = None,
        time: Time | None = None,
        environ: Mapping[str, str] = NOWHERE,
        receivers: tuple[Receiver, ...] | None = None,
        epoch: int = 1,
    ) -> None:
        self.time = time or Time()
        self.store = MemoryStore() if store is None else store
        self.epoch = epoch
        self.view = View(state=RunState(), seen=None)
        self.watch = AlertWatch(
            Watched(identity=RUN, config=config_of(alerts), store=self.store, view=lambda: self.view, totals=lambda: None),
            receivers_of(alerts, environ) if receivers is None else receivers,
            Heartbeat("", every_s=60.0, environ=environ, sign=lambda: None),
            wall_clock=self.time,
            clock=self.time,
        )
        self.events: list[Event] = []
        self.shows(*running())

    def shows(self, *events: Event, look: Observation | None = None, store_trouble: str = "") -> WatchedRun:
        """What has happened to the run since, and what is seen of it."""
        self.events += events
        state = replace(play(*self.events), epoch=self.epoch)
        self.view = View(state=state, seen=look or seen(), store_trouble=store_trouble)
        return self

    def after(self, duration_s: float = 1.0) -> WatchedRun:
        """Looks, and waits for the answers of receivers, which are real."""
        self.time.now_s += duration_s
        self.watch.look()
        for courier in self.watch._couriers:
            courier.wait(30.0)
        return self
