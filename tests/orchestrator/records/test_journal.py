"""The journal decides who controls a run."""

import threading
from dataclasses import dataclass

import pytest

from data_pipeline.store.protocol import StoreUnavailable, with_prefix
from orchestrator.control.causes import Cause
from orchestrator.control.events import (
    EVENT_KINDS,
    ControllerStarted,
    FoundDead,
    NodesShort,
    NodesToLeave,
    Repaired,
    ResumeRequested,
    SavingOverdue,
)
from orchestrator.errors import JournalBroken, Superseded
from orchestrator.messages import Outcome
from orchestrator.records.journal import SUMMARY_EVERY, new_journal, open_journal, read_journal
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import (
    committed,
    ended,
    failed,
    fault,
    gone,
    lost_checkpoint,
    placed,
    resumed,
    running,
    stepped,
    stop,
    submitted,
)


def test_every_kind_of_event_survives_the_journal_with_what_was_decided():
    store = MemoryStore()
    journal = open_journal(store, EVENT_KINDS)
    events = [
        submitted(),
        ControllerStarted(at_s=1.0, epoch=1),
        NodesShort(at_s=1.0, attempt=0, text="too few"),
        placed(1, "ab"),
        resumed(1, 0, ("step 3: bad",)),
        stepped(1, 1),
        committed(1, 5),
        lost_checkpoint(1, 9, "a"),
        NodesToLeave(at_s=2.0, attempt=1, nodes=("a",), text="A cordoned", within_s=9.5),
        SavingOverdue(at_s=3.0, attempt=1),
        failed(1, fault(Cause.HARDWARE, "a"), fault(Cause.HUNG, None, rank=None), at_s=0.1 + 0.2),
        gone(1),
        stop(now=True),
        ended(2, Outcome.STOPPED, 9, told="b"),
        ResumeRequested(at_s=4.0, terms=submitted().terms),
        FoundDead(at_s=5.0),
        Repaired(at_s=6.0, by="me", lost=(3, 4), terms=submitted().terms, epoch=4, last_attempt=5, committed_step=5, has_ended=False),
    ]
    assert {type(event) for event in events} == set(EVENT_KINDS.values())
    for number, event in enumerate(events):
        journal.append(event, {"number": number})
    assert [entry.event for entry in read_journal(store, EVENT_KINDS)] == events
    assert [(entry.sequence, entry.decided) for entry in read_journal(store, EVENT_KINDS)] == [
        (number + 1, {"number": number}) for number in range(len(events))
    ]


def test_a_second_controller_takes_over_and_the_first_steps_down_at_its_next_word():
    store = MemoryStore()
    first = open_journal(store, EVENT_KINDS, writer="first")
    first.append(submitted())
    second = open_journal(store, EVENT_KINDS, writer="second")
    second.append(ControllerStarted(at_s=1.0, epoch=2))

    with pytest.raises(Superseded, match="written by controller second"):
        first.append(stop())
    assert [entry.writer for entry in read_journal(store, EVENT_KINDS)] == ["first", "second"]


def test_of_many_controllers_that_write_at_once_exactly_one_wins_each_entry():
    store = MemoryStore()
    open_journal(store, EVENT_KINDS, writer="submitter").append(submitted())
    journals = [open_journal(store, EVENT_KINDS, writer=str(number)) for number in range(8)]
    losers = []

    def claim(number: int) -> None:
        try:
            journals[number].append(ControllerStarted(at_s=1.0, epoch=number + 2))
        except Superseded:
            losers.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(losers) == 7
    assert len(read_journal(store, EVENT_KINDS)) == 2


def test_a_retry_of_our_own_entry_whose_answer_was_lost_is_not_a_rival():
    store = MemoryStore()
    journal = open_journal(store, EVENT_KINDS, writer="me")
    ghost = open_journal(store, EVENT_KINDS, writer="me")
    ghost.append(submitted())
    journal.append(submitted())
    assert len(read_journal(store, EVENT_KINDS)) == 1


def test_a_long_journal_is_read_from_its_newest_summary():
    store = MemoryStore()
    journal = open_journal(store, EVENT_KINDS)
    journal.append(submitted())
    for step in range(1, SUMMARY_EVERY + 3):
        journal.append(committed(0, step))
    for info in store.list("journal/"):
        if int(info.key.split("/")[1].split(".")[0]) <= SUMMARY_EVERY:
            store.delete(info.key)
    assert len(read_journal(store, EVENT_KINDS)) == SUMMARY_EVERY + 3
    reopened = open_journal(store, EVENT_KINDS)
    reopened.append(stop())
    assert reopened.entries == read_journal(store, EVENT_KINDS) == reopened.reopen().entries


def test_of_several_summaries_the_newest_is_read():
    store = MemoryStore()
    journal = open_journal(store, EVENT_KINDS)
    for step in range(2 * SUMMARY_EVERY):
        journal.append(committed(0, step), {"step": step})
    for info in store.list("journal/"):
        store.delete(info.key)
    assert [entry.decided for entry in read_journal(store, EVENT_KINDS)] == [{"step": step} for step in range(2 * SUMMARY_EVERY)]


def test_a_summary_that_can_not_be_read_is_refused_by_name():
    store = MemoryStore()
    store.put("journal-upto/000000000500.json", b'[{"kind": "Magic"}]')
    store.put("journal-upto/000000001000.json", b'[{"kind": "Magic"}]')
    with pytest.raises(JournalBroken, match=r"journal-upto/000000001000\.json"):
        read_journal(store, EVENT_KINDS)


def test_a_summary_that_can_not_be_written_costs_nothing_but_time(caplog: pytest.LogCaptureFixture):
    def no_summaries(operation: str, key: str) -> None:
        if key.startswith("journal-upto/") and operation == "put":
            raise StoreUnavailable("no answer")

    store = MemoryStore(fault=no_summaries)
    journal = open_journal(store, EVENT_KINDS)
    for step in range(SUMMARY_EVERY + 1):
        journal.append(committed(0, step))
    assert len(read_journal(store, EVENT_KINDS)) == SUMMARY_EVERY + 1
    assert "no summary of the journal's first 500 entries" in caplog.text


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"kind": "Magic", "sequence": 2, "writer": "x", "event": {}}'])
def test_an_entry_that_can_not_be_read_is_refused_by_name(data: bytes):
    store = MemoryStore()
    open_journal(store, EVENT_KINDS).append(submitted())
    store.put("journal/000000000002.json", data)
    with pytest.raises(JournalBroken, match=r"000000000002\.json"):
        read_journal(store, EVENT_KINDS)


def test_a_hole_in_the_journal_is_refused_by_name():
    store = MemoryStore()
    journal = open_journal(store, EVENT_KINDS)
    for event in running():
        journal.append(event)
    store.delete("journal/000000000002.json")
    with pytest.raises(JournalBroken, match=r"000000000002\.json is missing"):
        read_journal(store, EVENT_KINDS)


def test_the_bytes_of_an_entry():
    store = MemoryStore()
    journal = open_journal(store, EVENT_KINDS, writer="me")
    journal.append(committed(1, 5))
    journal.append(stop(at_s=2.5), {"stop_wanted": {"is": True}})
    assert store.objects == {
        "journal/000000000001.json": b'{"event": {"at_s": 0.0, "attempt": 1, "step": 5}, "kind": "CheckpointCommitted", '
        b'"sequence": 1, "writer": "me"}',
        "journal/000000000002.json": b'{"decided": {"stop_wanted": {"is": true}}, "event": {"at_s": 2.5, "now": false}, '
        b'"kind": "StopRequested", "sequence": 2, "writer": "me"}',
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Cordoned:
    """An event that no run has."""

    node: str


def test_a_journal_of_something_else_has_events_of_its_own_under_a_place_of_its_own():
    store = MemoryStore()
    of_nodes = open_journal(with_prefix(store, "cluster"), {"Cordoned": Cordoned}, writer="me")
    of_nodes.append(Cordoned(node="a"))
    assert list(store.objects) == ["cluster/journal/000000000001.json"]
    assert read_journal(with_prefix(store, "cluster"), {"Cordoned": Cordoned})[0].event == Cordoned(node="a")
    with pytest.raises(JournalBroken, match="no entry that this version of braid knows"):
        read_journal(with_prefix(store, "cluster"), EVENT_KINDS)


def test_a_new_journal_is_refused_where_there_is_one():
    store = MemoryStore()
    new_journal(store, EVENT_KINDS).append(submitted())
    with pytest.raises(Superseded):
        new_journal(store, EVENT_KINDS).append(submitted())
