"""The journal decides who controls a run."""

import threading

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control import state as s
from orchestrator.control.policy import Cause
from orchestrator.control.transition import fold
from orchestrator.records.journal import SNAPSHOT_EVERY, JournalBroken, Superseded, open_journal, read_journal
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import committed, ended, failed, gone, node_lost, nodes, resumed, running, stepped, stop, submitted


def test_every_kind_of_event_survives_the_journal():
    store = MemoryStore()
    journal = open_journal(store)
    events = [
        submitted(),
        s.ControllerStarted(at_s=1.0, epoch=1),
        nodes("abc"),
        resumed(1, 0, ("step 3: bad",)),
        stepped(1, 1),
        committed(1, 5),
        failed(1, "a", Cause.HARDWARE, at_s=0.1 + 0.2),
        node_lost("b"),
        gone(1),
        s.BackoffElapsed(at_s=3.0),
        stop(now=True),
        ended(2, s.Outcome.STOPPED, 9),
        s.ResumeRequested(at_s=4.0, terms=submitted().terms),
    ]
    for event in events:
        journal.append(event)
    assert [entry.event for entry in read_journal(store)] == events
    assert [entry.sequence for entry in read_journal(store)] == list(range(1, len(events) + 1))


def test_a_second_controller_takes_over_and_the_first_steps_down_at_its_next_word():
    store = MemoryStore()
    first = open_journal(store, writer="first")
    first.append(submitted())
    second = open_journal(store, writer="second")
    second.append(s.ControllerStarted(at_s=1.0, epoch=2))

    with pytest.raises(Superseded, match="written by controller second"):
        first.append(stop())
    assert [entry.writer for entry in read_journal(store)] == ["first", "second"]


def test_of_many_controllers_that_write_at_once_exactly_one_wins_each_entry():
    store = MemoryStore()
    open_journal(store, writer="submitter").append(submitted())
    journals = [open_journal(store, writer=str(number)) for number in range(8)]
    losers = []

    def claim(number: int) -> None:
        try:
            journals[number].append(s.ControllerStarted(at_s=1.0, epoch=number + 2))
        except Superseded:
            losers.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(losers) == 7
    assert len(read_journal(store)) == 2


def test_a_retry_of_our_own_entry_whose_answer_was_lost_is_not_a_rival():
    store = MemoryStore()
    journal = open_journal(store, writer="me")
    ghost = open_journal(store, writer="me")
    ghost.append(submitted())
    journal.append(submitted())
    assert len(read_journal(store)) == 1


def test_a_long_journal_is_read_from_its_newest_summary():
    store = MemoryStore()
    journal = open_journal(store)
    journal.append(submitted())
    for step in range(1, SNAPSHOT_EVERY + 3):
        journal.append(committed(0, step))
    for info in store.list("journal/"):
        if int(info.key.split("/")[1].split(".")[0]) <= SNAPSHOT_EVERY:
            store.delete(info.key)
    assert len(read_journal(store)) == SNAPSHOT_EVERY + 3
    reopened = open_journal(store)
    reopened.append(stop())
    assert fold(reopened.events).label == "stopped"


def test_a_summary_that_can_not_be_written_costs_nothing_but_time():
    def no_summaries(operation: str, key: str) -> None:
        if key.startswith("journal-upto/") and operation == "put":
            raise StoreUnavailable("no answer")

    store = MemoryStore(fault=no_summaries)
    journal = open_journal(store)
    for step in range(SNAPSHOT_EVERY + 1):
        journal.append(committed(0, step))
    assert len(read_journal(store)) == SNAPSHOT_EVERY + 1


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"kind": "Magic", "sequence": 2, "writer": "x", "event": {}}'])
def test_an_entry_that_can_not_be_read_is_refused_by_name(data: bytes):
    store = MemoryStore()
    open_journal(store).append(submitted())
    store.put("journal/000000000002.json", data)
    with pytest.raises(JournalBroken, match=r"000000000002\.json"):
        read_journal(store)


def test_a_hole_in_the_journal_is_refused_by_name():
    store = MemoryStore()
    journal = open_journal(store)
    for event in running():
        journal.append(event)
    store.delete("journal/000000000002.json")
    with pytest.raises(JournalBroken, match=r"000000000002\.json is missing"):
        read_journal(store)
