"""Journals of the version that wrote events only: what such a run is taken for, and how it goes on."""

import json

import pytest

from orchestrator.control.controller import stop_without_cluster
from orchestrator.control.earlier import state_after
from orchestrator.control.events import ControllerStarted, ResumeRequested
from orchestrator.control.history import open_history, read_state
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage
from orchestrator.errors import JournalBroken
from orchestrator.records.keys import journal_key
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import TERMS, placed, seen, submitted

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


def test_a_run_of_the_version_before_that_never_began_begins_with_its_first_attempt():
    assert state_after(()) == RunState()
    assert state_after((submitted(),)) == RunState(terms=TERMS)


FAILED = """
WorkerFailed {"at_s": 10.0, "attempt": 2, "rank": 0, "node": "a", "cause": "CAUSE", "detail": "it broke", "at_step": 30, "silent_s": 0.1}
""".strip()
STOP = 'StopRequested {"at_s": 10.0, "now": false}'


def failures(*causes: str) -> list[str]:
    return [line for cause in causes for line in (FAILED.replace("CAUSE", cause), GONE)]


@pytest.mark.parametrize(
    ("more", "label"),
    [
        (['WorkersEnded {"at_s": 10.0, "attempt": 2, "outcome": "finished", "step": 100}', GONE], "finished"),
        ([STOP, GONE], "stopped"),
        ([STOP, FAILED.replace("CAUSE", "killed"), GONE, 'ControllerStarted {"at_s": 12.0, "epoch": 2}'], "stopped"),
        ([STOP], "stopping"),
        ([STOP, 'WorkersEnded {"at_s": 10.0, "attempt": 2, "outcome": "stopped", "step": 90}'], "stopping"),
        ([STOP, GONE, 'ResumeRequested {"at_s": 12.0, "terms": TERMS}'], "queued"),
        (failures("killed"), "queued"),
        ([*failures("killed", "killed"), 'BackoffElapsed {"at_s": 12.0}'], "queued"),
        (failures("config"), "failed"),
        (failures("killed", "killed"), "failed"),
        ([*failures("killed", "killed"), 'ControllerStarted {"at_s": 12.0, "epoch": 2}'], "failed"),
        ([*failures("killed", "killed"), 'ResumeRequested {"at_s": 12.0, "terms": TERMS}'], "queued"),
    ],
)
def test_what_a_run_of_the_version_before_is_taken_for(more: list[str], label: str):
    terms = EARLIER.splitlines()[0].partition('"terms": ')[2][:-1]
    assert read_state(earlier(*(line.replace("TERMS", terms) for line in more))).label == label


def test_a_run_that_may_have_failed_for_good_is_begun_again_by_a_person_only():
    store = earlier(*failures("killed", "crashed"))
    history = open_history(store)
    assert history.state.reason == (
        "its last attempt failed (crashed: it broke) under an earlier version of braid, which may have ended it; `braid resume` goes on"
    )
    history.append(ControllerStarted(at_s=20.0, epoch=2))
    assert list(events_of(history.state, seen(), 1e9)) == []
    history.append(ResumeRequested(at_s=21.0, terms=TERMS))
    assert (read_state(store).stage, read_state(store).committed_step) == (Stage.WAITING, 25)


def test_a_stop_whose_end_nobody_wrote_down_is_seen_through_by_the_next_controller():
    """Its workers may still be saving, under a controller that nobody has asked to leave."""
    history = open_history(earlier(STOP))
    history.append(ControllerStarted(at_s=20.0, epoch=2))
    for event in events_of(history.state, seen(), 0.0):
        history.append(event)
    assert history.state.label == "stopped"


def test_a_stop_whose_cluster_is_gone_is_ended_in_the_journal():
    store = earlier(STOP)
    stop_without_cluster(open_history(store), 20.0)
    assert (read_state(store).label, read_state(store).reason) == ("stopped", "stopped on request, under an earlier version of braid")


def test_an_earlier_version_must_not_write_after_this_one():
    store = earlier()
    open_history(store).append(placed(3, "ab"))
    ghost = {"sequence": 11, "writer": "old", "kind": "BackoffElapsed", "event": {"at_s": 1.0}}
    store.put(journal_key(11), json.dumps(ghost).encode())
    with pytest.raises(JournalBroken, match="entry 11 was written by an earlier version of braid after this one; end that one"):
        read_state(store)
