"""The registry of nodes: what findings, cordons and clears come to, and that many may write it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import ObjectStore, StoreUnavailable
from orchestrator.records.nodes import (
    Cleared,
    Cordoned,
    Finding,
    GpusSeen,
    NodeRegistry,
    Standing,
    author_of,
    cordon_in,
    since_cleared,
    standings,
)
from tests.fakes.memory_store import MemoryStore


def finding(machine: str, *, run: str = "first", attempt: int = 1, strikes: int = 1, cordons: bool = False) -> Finding:
    return Finding(at_s=1.0, machine=machine, run=run, attempt=attempt, cause="hardware", detail="Xid 79", strikes=strikes, cordons=cordons)


def cordoned(machine: str, reason: str = "fans", within_s: float | None = None) -> Cordoned:
    return Cordoned(at_s=2.0, machine=machine, reason=reason, by="ada@head", within_s=within_s)


def cleared(machine: str) -> Cleared:
    return Cleared(at_s=3.0, machine=machine, by="ada@head")


def test_strikes_of_every_run_add_up_until_a_person_clears_the_machine():
    events = [finding("m1"), finding("m1", run="second", strikes=2), finding("m2")]

    assert standings(events) == {"m1": Standing(strikes=3), "m2": Standing(strikes=1)}
    assert standings([*events, cleared("m1"), finding("m1", attempt=2)])["m1"] == Standing(strikes=1, clears=1)


def test_a_finding_may_cordon_and_its_cause_is_the_reason():
    events = [finding("m1", cordons=True), finding("m1", attempt=2, cordons=True)]

    assert standings(events)["m1"] == Standing(cordoned="hardware: Xid 79", strikes=2)
    assert standings([*events, cleared("m1")])["m1"] == Standing(clears=1)


def test_a_persons_word_counts_more_than_a_finding_and_the_last_one_more_than_the_first():
    events = [cordoned("m1", "fans", within_s=60.0), finding("m1", cordons=True)]
    assert standings(events)["m1"] == Standing(cordoned="fans", within_s=60.0, strikes=1)

    counted = since_cleared([*events, cordoned("m1", "gone for repair")])
    cordon = cordon_in(counted)

    assert cordon is not None
    assert (author_of(cordon), standings([*events, cordoned("m1", "gone for repair")])["m1"].within_s) == ("ada@head", None)


def test_a_cordoned_machine_that_comes_back_under_another_name_is_known_by_its_gpus():
    seen = [
        GpusSeen(at_s=1.0, machine=machine, gpus=gpus) for machine, gpus in (("m1", ("u1", "u2")), ("m2", ("u2", "u3")), ("m3", ("u9",)))
    ]
    events = [seen[0], cordoned("m1", "fans"), *seen[1:]]
    assert {machine: one.cordoned for machine, one in standings(events).items()} == {"m1": "fans", "m2": "has GPUs of m1: fans", "m3": ""}
    assert standings([*events, cleared("m1")])["m2"] == Standing()


def test_gpus_that_were_moved_on_are_not_the_machines_any_more():
    first, then = (GpusSeen(at_s=1.0, machine="m1", gpus=(gpu,)) for gpu in ("u1", "u2"))
    events = [first, cordoned("m1", "fans"), then, GpusSeen(at_s=2.0, machine="m2", gpus=("u1",))]
    assert standings(events)["m2"].cordoned == ""


def test_the_gpus_of_a_machine_are_recorded_when_they_change():
    registry = NodeRegistry(MemoryStore())
    for gpus in (("u1",), ("u1",), ("u2",), ("u1",)):
        registry.record(GpusSeen(at_s=1.0, machine="m1", gpus=gpus))
    assert len(registry.read()) == 3


def test_a_machine_that_nobody_spoke_of_has_no_standing():
    assert standings([]) == {}


def test_a_finding_is_recorded_once_for_each_attempt_of_a_run():
    registry = NodeRegistry(MemoryStore())
    for event in (finding("m1"), finding("m1", strikes=2), finding("m2"), finding("m1", attempt=2), finding("m1", run="second")):
        registry.record(event)

    assert standings(registry.read()) == {"m1": Standing(strikes=3), "m2": Standing(strikes=1)}


def test_cordon_and_strikes_of_one_attempt_are_two_findings():
    registry = NodeRegistry(MemoryStore())
    for event in (finding("m1", strikes=0, cordons=True), finding("m1", strikes=1), finding("m1", strikes=1)):
        registry.record(event)
    assert (len(registry.read()), standings(registry.read())["m1"].strikes) == (2, 1)


def test_what_a_run_held_against_a_machine_is_not_said_again_after_it_was_cleared():
    """The run asks for the same findings as long as it lives."""
    registry = NodeRegistry(MemoryStore())
    for event in (finding("m1"), cleared("m1"), finding("m1")):
        registry.record(event)

    assert standings(registry.read())["m1"] == Standing(clears=1)


def test_reading_again_costs_one_listing_where_nothing_is_new():
    asked: list[str] = []
    store = MemoryStore(fault=lambda operation, key: asked.append(operation))
    reader, writer = NodeRegistry(store), NodeRegistry(store)
    writer.record(finding("m1"))
    assert len(reader.read()) == 1
    asked.clear()

    assert len(reader.read()) == 1
    assert asked == ["list"]
    writer.record(cordoned("m1"))
    assert len(reader.read()) == 2


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path)


def test_two_who_write_at_once_lose_nothing(store: ObjectStore):
    """Each reads the other's entries on, and appends behind them."""
    begin = threading.Barrier(2)

    def write(run: str) -> None:
        registry = NodeRegistry(store)
        begin.wait(timeout=60)
        for attempt in range(1, 21):
            registry.record(finding("m1", run=run, attempt=attempt))

    threads = [threading.Thread(target=write, args=(run,), daemon=True) for run in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)

    events = NodeRegistry(store).read()
    for run in ("first", "second"):
        assert [event.attempt for event in events if isinstance(event, Finding) and event.run == run] == list(range(1, 21))
    assert len(events) == 40


def test_a_writer_that_is_overtaken_between_its_reading_and_its_writing_appends_behind_the_other():
    def overtake(operation: str, key: str) -> None:
        if operation == "create" and overtaking:
            overtaking.pop()
            NodeRegistry(store).record(cordoned("m1"))

    overtaking = [True]
    store = MemoryStore(fault=overtake)
    NodeRegistry(store).record(finding("m1"))

    assert [type(event) for event in NodeRegistry(store).read()] == [Cordoned, Finding]


def test_two_controllers_that_tell_of_the_same_failure_at_once_are_heard_once():
    def overtake(operation: str, key: str) -> None:
        if operation == "create" and overtaking:
            overtaking.pop()
            NodeRegistry(store).record(finding("m1"))

    overtaking = [True]
    store = MemoryStore(fault=overtake)
    NodeRegistry(store).record(finding("m1"))

    assert standings(NodeRegistry(store).read())["m1"].strikes == 1


def test_a_run_of_an_earlier_version_reads_what_a_later_one_wrote_less_what_it_does_not_know():
    """Runs of several versions of braid share the registry."""
    store = MemoryStore()
    NodeRegistry(store).record(finding("m1"))
    (key,) = store.objects
    entry = json.loads(store.objects[key])
    entry["event"]["serial_number"] = "1650921001234"
    store.objects[key] = json.dumps(entry).encode()

    assert standings(NodeRegistry(store).read()) == {"m1": Standing(strikes=1)}


def test_a_store_that_is_away_is_the_callers_affair():
    def away(operation: str, key: str) -> None:
        raise StoreUnavailable(f"{key}: no answer")

    with pytest.raises(StoreUnavailable):
        NodeRegistry(MemoryStore(fault=away)).record(finding("m1"))


def test_the_registry_lies_beside_the_runs():
    store = MemoryStore()
    NodeRegistry(store).record(cordoned("m1"))

    assert list(store.objects) == ["nodes/journal/000000000001.json"]
