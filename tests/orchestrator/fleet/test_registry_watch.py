"""A controller's look at the registry of nodes: never waiting for the store, and losing nothing while it is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from data_pipeline.store.protocol import AccessDenied, StoreUnavailable
from orchestrator.fleet.registry_watch import RegistryWatch
from orchestrator.records.nodes import Cleared, Cordoned, Finding, NodeRegistry, Standing, standings
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.node.waiting import wait_for

FINDING = Finding(at_s=1.0, machine="m1", run="first", attempt=1, cause="hardware", detail="Xid 79", strikes=2)
SOON_S = 0.01


class Store(MemoryStore):
    """Away while told so; a call then takes until the store is back, or raises."""

    def __init__(self) -> None:
        super().__init__(fault=self._answer)
        self.is_away = False
        self.hangs = threading.Event()
        self.may_go_on = threading.Event()

    def _answer(self, operation: str, key: str) -> None:
        if self.is_away:
            raise StoreUnavailable(f"{key}: no answer; check the network")
        if self.hangs.is_set():
            self.may_go_on.wait(timeout=60)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def watch(store: Store) -> Iterator[RegistryWatch]:
    made = RegistryWatch(NodeRegistry(store), every_s=SOON_S)
    yield made
    store.may_go_on.set()
    made.stop()


def cordon(store: Store, machine: str) -> None:
    NodeRegistry(store).record(Cordoned(at_s=1.0, machine=machine, reason="fans", by="ada@head"))


def test_cordons_are_known_once_it_has_started(store: Store, watch: RegistryWatch):
    cordon(store, "m1")
    assert watch.standings == {}
    watch.start()

    assert watch.standings == {"m1": Standing(cordoned="fans")}


def test_what_others_record_later_is_seen(store: Store, watch: RegistryWatch):
    watch.start()
    cordon(store, "m2")

    wait_for(lambda: "m2" in watch.standings, "the cordon")


def test_a_finding_is_written_once_however_often_it_is_asked_for(store: Store, watch: RegistryWatch):
    watch.start()
    for _ in range(5):
        watch.record([FINDING])
    wait_for(lambda: watch.standings.get("m1"), "the finding")
    watch.record([FINDING])
    watch.stop()

    assert NodeRegistry(store).read() == [FINDING]


def test_the_controller_does_not_wait_for_a_store_that_hangs(store: Store, watch: RegistryWatch):
    watch.start()
    cordon(store, "m3")
    wait_for(lambda: "m3" in watch.standings, "the cordon")
    store.hangs.set()

    watch.record([FINDING])

    assert watch.standings["m3"] == Standing(cordoned="fans"), "the last that was known"
    assert watch.standings["m1"].strikes == FINDING.strikes, "what the run found counts for it at once"
    store.may_go_on.set()
    wait_for(lambda: "m1" in watch.standings, "the finding, once the store goes on")


def test_findings_wait_for_a_store_that_is_away_and_one_warning_says_so(
    store: Store, watch: RegistryWatch, caplog: pytest.LogCaptureFixture
):
    cordon(store, "m3")
    watch.start()
    with caplog.at_level(logging.WARNING):
        store.is_away = True
        watch.record([FINDING])
        wait_for(lambda: caplog.records, "the warning")
        assert "m3" in watch.standings
        store.is_away = False
        wait_for(lambda: "m1" in watch.standings, "the finding")

    assert len(caplog.records) == 1
    assert "check the network" in caplog.text


def test_a_registry_that_is_unreadable_now_is_read_later(store: Store, watch: RegistryWatch, caplog: pytest.LogCaptureFixture):
    """Another version of braid may have written an entry that this one does not know."""
    cordon(store, "m1")
    good = dict(store.objects)
    (key,) = good
    store.objects[key] = b'{"sequence": 1, "writer": "w", "kind": "Retired", "event": {}}'
    watch.start()
    assert (watch.standings, len(caplog.records)) == ({}, 1)

    store.objects[key] = good[key]

    wait_for(lambda: "m1" in watch.standings, "the cordon")


def test_what_a_run_held_against_a_machine_long_ago_does_not_outlive_that_a_person_cleared_it(store: Store, watch: RegistryWatch):
    """A new controller asks for every finding of its run again, maybe before it could read the registry."""
    registry = NodeRegistry(store)
    cordoning = replace(FINDING, cordons=True)
    registry.record(cordoning)
    registry.record(Cleared(at_s=2.0, machine="m1", by="ada@head"))
    store.is_away = True
    watch.start()

    watch.record([cordoning])
    assert watch.standings == {}

    store.is_away = False
    wait_for(lambda: "m1" in watch.standings, "the first reading")
    assert watch.standings == {"m1": Standing(clears=1)}


def test_cordons_are_seen_where_nothing_can_be_written(store: Store, watch: RegistryWatch):
    watch.start()
    may_write = store.fault

    def refuse(operation: str, key: str) -> None:
        if operation == "create":
            raise AccessDenied(f"{key}: may not be written")

    store.fault = refuse
    watch.record([FINDING])
    store.fault = may_write
    cordon(store, "m2")
    store.fault = refuse

    wait_for(lambda: watch.standings.get("m2") == Standing(cordoned="fans"), "the cordon")


def test_findings_that_are_there_cost_nothing_when_a_new_controller_asks_for_them_again(store: Store):
    registry = NodeRegistry(store)
    for attempt in range(20):
        registry.record(replace(FINDING, attempt=attempt))
    reads: list[str] = []
    store.fault = lambda operation, key: reads.append(key) if operation == "get" else None
    watch = RegistryWatch(NodeRegistry(store), every_s=3600.0)
    watch.record([replace(FINDING, attempt=attempt) for attempt in range(20)])
    watch.start()
    watch.stop()

    assert len(reads) == 20, "each entry once"


def test_a_bug_does_not_end_the_watch(store: Store, caplog: pytest.LogCaptureFixture):
    class Buggy(NodeRegistry):
        calls = 0

        def read(self):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError
            return super().read()

    cordon(store, "m1")
    watch = RegistryWatch(Buggy(store), every_s=SOON_S)
    watch.start()
    wait_for(lambda: "m1" in watch.standings, "the next look")
    watch.stop()

    assert "ZeroDivisionError" in caplog.text


def test_the_last_findings_of_a_run_are_written_before_it_stops(store: Store):
    watch = RegistryWatch(NodeRegistry(store), every_s=3600.0)
    watch.start()
    watch.record([FINDING])
    watch.stop()

    assert standings(NodeRegistry(store).read()) == {"m1": Standing(strikes=2)}


def test_a_finding_does_not_wait_for_the_next_reading(store: Store):
    watch = RegistryWatch(NodeRegistry(store), every_s=3600.0)
    watch.start()
    watch.record([FINDING])

    wait_for(lambda: "m1" in watch.standings, "the finding")
    watch.stop()
