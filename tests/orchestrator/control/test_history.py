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
    assert read_state(store) == open_history(store).state == history.reread() == history.state
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


# --- journals of the version that wrote events only ----------------------------------------------------------------------

EARLIER = """
RunSubmitted {"at_s": 1.0, "terms": {"num_steps": 100, "num_nodes": 2, "workers_per_node": 1, "world_size": 2, "config_version": 1,
 "recovery": {"max_restarts": 10, "backoff_s": 1.0, "backoff_limit_s": 300.0, "heartbeat_timeout_s": 30.0, "progress_timeout_s": 600.0,
 "start_timeout_s": 1800.0, "stop_timeout_s": 600.0, "peer_grace_s": 5.0}}}
ControllerStarted {"at_s": 2.0, "epoch": 1}
NodesChanged {"at_s": 3.0, "joined": [{"node": "a", "slots": 1}, {"node": "b", "slots": 1}], "lost": [], "at_step": 0, "silent_s": 0.0}
TrainingResumed {"at_s": 4.0, "attempt": 1, "from_step": 0, "rejected": []}
StepReached {"at_s": 5.0, "attempt": 1, "step": 1}
CheckpointCommitted {"at_s": 6.0, "attempt": 1, "step": 25}
WorkerFailed {"at_s": 7.0, "attempt": 1, "rank": 1, "node": "b", "cause": "killed", "detail": "x", "at_step": 30, "silent_s": 0.1}
WorkersGone {"at_s": 8.0, "attempt": 1}
BackoffElapsed {"at_s": 9.0}
""".strip().replace("\n ", " ")


GONE = 'WorkersGone {"at_s": 11.0, "attempt": 2}'


def earlier(*more: str) -> MemoryStore:
    store = MemoryStore()
    for number, line in enumerate((*EARLIER.splitlines(), *more), start=1):
        kind, _, event = line.partition(" ")
        entry = {"sequence": number, "writer": "old", "kind": kind, "event": json.loads(event)}
        store.put(journal_key(number), json.dumps(entry).encode())
    return store


def test_a_run_of_the_version_before_goes_on_with_a_new_attempt_from_its_newest_checkpoint():
    store = earlier()
    state = read_state(store)
    assert (state.stage, state.epoch, state.committed_step) == (Stage.WAITING, 1, 25)
    assert state.attempt == 2, "one may have begun of which nothing was written yet"
    history = open_history(store)
    history.append(placed(3, "ab"))
    assert read_state(store) == history.state


@pytest.mark.parametrize(
    ("more", "label"),
    [
        (
            ['WorkersEnded {"at_s": 10.0, "attempt": 2, "outcome": "finished", "step": 100}', 'WorkersGone {"at_s": 11.0, "attempt": 2}'],
            "finished",
        ),
        (['StopRequested {"at_s": 10.0, "now": false}', 'WorkersGone {"at_s": 11.0, "attempt": 2}'], "stopped"),
        (['StopRequested {"at_s": 10.0, "now": true}'], "stopped"),
        (
            ['WorkersEnded {"at_s": 10.0, "attempt": 2, "outcome": "stopped", "step": 40}', 'WorkersGone {"at_s": 11.0, "attempt": 2}'],
            "queued",
        ),
        (['StopRequested {"at_s": 10.0, "now": true}', 'ResumeRequested {"at_s": 12.0, "terms": TERMS}'], "queued"),
    ],
)
def test_how_a_run_of_the_version_before_ended(more: list[str], label: str):
    terms = EARLIER.splitlines()[0].partition('"terms": ')[2][:-1]
    state = read_state(earlier(*(line.replace("TERMS", terms) for line in more)))
    assert (state.label, label in state.reason) == (label, label != "queued")


def test_an_earlier_version_must_not_write_after_this_one():
    store = earlier()
    open_history(store).append(placed(3, "ab"))
    ghost = {"sequence": 11, "writer": "old", "kind": "BackoffElapsed", "event": {"at_s": 1.0}}
    store.put(journal_key(11), json.dumps(ghost).encode())
    with pytest.raises(JournalBroken, match="entry 11 was written by an earlier version of braid after this one; end that one"):
        read_state(store)


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
