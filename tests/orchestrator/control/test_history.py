"""Journals that say what was decided: every version of braid reads the same run out of them."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control import verdicts
from orchestrator.control.causes import Cause
from orchestrator.control.changes import apply, changes
from orchestrator.control.events import StopRequested
from orchestrator.control.history import History, new_history, open_history, read_state
from orchestrator.control.state import RunState, Stage
from orchestrator.errors import JournalBroken, Superseded
from orchestrator.messages import Outcome
from orchestrator.records.keys import JOURNAL, journal_key
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import committed, ended, failed, fault, gone, placed, resumed, running, stepped, stop, submitted

LIFE = (
    *running(),
    committed(1, 500),
    failed(1, fault(Cause.PEER_LOST, "a"), at_step=520, at_s=0.1 + 0.2),
    failed(1, fault(Cause.HARDWARE, "b", rank=1)),
    gone(1),
    placed(2, "ac"),
    resumed(2, 500, rejected=("step 510: bad",)),
    stepped(2, 501),
    failed(2, fault(Cause.CRASHED, "c")),
    gone(2),
    placed(3, "ad"),
    resumed(3, 500),
    stepped(3, 501),
)


def live(store: MemoryStore, *events) -> History:
    history = open_history(store)
    for second, event in enumerate(events):
        history.append(event if event.at_s else replace(event, at_s=float(second)))
    return history


def test_a_run_is_read_as_it_was_left():
    store = MemoryStore()
    assert read_state(store) == RunState()
    history = live(store, *LIFE)
    assert read_state(store) == open_history(store).state == history.reopen().state == history.state
    assert history.state.attempt == 3


def test_an_event_that_changes_nothing_is_not_written():
    store = MemoryStore()
    history = live(store, *running(), stop())
    before = len(store.list(JOURNAL))
    assert history.append(StopRequested(at_s=99.0, now=False)) is False
    assert len(store.list(JOURNAL)) == before
    assert history.append(StopRequested(at_s=99.0, now=True)) is True


def test_only_one_submission_counts():
    store = MemoryStore()
    new_history(store).append(submitted())
    with pytest.raises(Superseded):
        new_history(store).append(submitted())


def test_under_another_table_of_verdicts_the_same_journal_is_the_same_run(monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()
    before = live(store, *LIFE).state
    for cause in Cause:
        monkeypatch.setitem(verdicts.VERDICTS, cause, verdicts.Verdict(ends_if_agreed=True, same_step_limit=1, strikes=9))
    after = open_history(store)
    assert after.state == before, "no other nodes, no other strikes, and above all not FAILED"
    after.append(failed(3, fault(Cause.STORE)))
    after.append(gone(3, spares=0))
    assert after.state.stage is Stage.ENDED, "what is decided from now on follows the new table"


def test_fields_that_a_later_version_added_are_passed_over():
    store = MemoryStore()
    state = live(store, *running()).state
    key = journal_key(3)
    entry = json.loads(store.get(key))
    entry["event"]["added_later"] = 1
    entry["decided"]["also_added"] = {"is": [1, 2]}
    store.put(key, json.dumps(entry).encode())
    assert read_state(store) == state


def test_a_value_that_this_version_does_not_know_is_said_to_come_from_another():
    store = MemoryStore()
    live(store, *running())
    entry = json.loads(store.get(journal_key(4)))
    entry["decided"]["stage"] = {"is": "levitating"}
    store.put(journal_key(4), json.dumps(entry).encode())
    with pytest.raises(JournalBroken, match=r"stage.*levitating.*use the version of braid that wrote it"):
        read_state(store)


def test_an_entry_says_only_what_changed():
    store = MemoryStore()
    live(store, *LIFE)
    last = json.loads(store.get(journal_key(len(LIFE))))
    assert last["decided"].keys() == {"stage", "reason", "incidents"}
    assert last["decided"]["incidents"]["keep"] == 1, "the first incident was closed before"


# --- changes -------------------------------------------------------------------------------------------------------------


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3)


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=3), nested, max_leaves=8)
STATES = st.fixed_dictionaries({"a": VALUES, "b": VALUES, "c": VALUES})


@given(STATES, STATES)
def test_changes_lead_from_one_state_to_the_other_and_name_only_what_differs(before, after):
    changed = changes(before, after)
    assert apply(before, json.loads(json.dumps(changed))) == after
    assert changed.keys() == {name for name in after if before[name] != after[name]}


def test_a_list_that_grew_is_not_repeated():
    assert changes({"x": [1, 2]}, {"x": [1, 2, 3]}) == {"x": {"keep": 2, "add": [3]}}
    assert changes({"x": [1, 2, 3]}, {"x": [1]}) == {"x": {"keep": 1, "add": []}}


def test_what_is_no_list_any_more_or_was_none_is_told_whole():
    assert changes({"x": [1], "y": None}, {"x": None, "y": [1]}) == {"x": {"is": None}, "y": {"is": [1]}}
    assert changes({}, {"x": 1}) == {"x": {"is": 1}}
    assert apply({"x": [1]}, {"x": {"keep": 0, "add": []}, "y": {"is": 2}}) == {"x": [], "y": 2}


def test_every_outcome_of_a_run_can_be_read_again():
    for last in (ended(3, Outcome.FINISHED, 1000), stop(now=True)):
        store = MemoryStore()
        history = live(store, *LIFE, last, gone(3))
        assert read_state(store) == history.state
        assert history.state.stage is Stage.ENDED
