"""What people are told of a run, and how often: against a real webhook, on a clock of our own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from data_pipeline.store.protocol import AccessDenied, StoreError, StoreUnavailable
from orchestrator.alerting.receivers import NotTaken, Receiver
from orchestrator.alerting.state import ALERT_EVENT_KINDS
from orchestrator.alerts_config import AlertsConfig
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event, ResumeRequested
from orchestrator.messages import Outcome
from orchestrator.records.journal import read_journal
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.alerting.receiving import HANG_UP, FakeReceiver, receiving
from tests.orchestrator.alerting.watched import Time, WatchedRun
from tests.orchestrator.control.stories import TERMS, committed, ended, failed, fault, gone, lost_checkpoint, placed, resumed, stepped, stop

ALERTS = AlertsConfig(webhooks=("env:HOOK",))


@pytest.fixture
def hook() -> Iterator[FakeReceiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def run(hook: FakeReceiver) -> WatchedRun:
    return WatchedRun(ALERTS, environ={"HOOK": hook.url})


def killed(attempt: int, at_s: float) -> tuple[Event, ...]:
    return failed(attempt, fault(Cause.KILLED, "b", rank=1, detail="killed by SIGKILL"), at_step=33, at_s=at_s), gone(attempt)


def trains(attempt: int, at_s: float) -> tuple[Event, ...]:
    return placed(attempt, "ac"), resumed(attempt, 20), stepped(attempt, 21, at_s=at_s)


def another(run: WatchedRun, hook: FakeReceiver, **known) -> WatchedRun:
    """The controller that follows, with the run as the one before it left it."""
    later = WatchedRun(ALERTS, store=run.store, time=run.time, environ={"HOOK": hook.url}, epoch=run.epoch + 1, **known)
    later.events = list(run.events)
    return later.shows()


def kinds(store: MemoryStore) -> list[str]:
    return [type(entry.event).__name__ for entry in read_journal(store, ALERT_EVENT_KINDS)]


def test_an_incident_is_told_when_it_begins_and_when_it_is_over(run: WatchedRun, hook: FakeReceiver):
    run.after()
    assert hook.got == [], "all is well"
    run.shows(*killed(1, at_s=1000.0)).after().after().after()
    assert hook.told == [("incident", "began")]
    (alert,) = hook.alerts
    assert (alert["cause"], alert["machine"], alert["rank"], alert["severity"]) == ("killed", "B", 1, "warning")
    assert alert["command"] == "braid logs first --rank 1 --attempt 1 --storage /nowhere"
    run.shows(*trains(2, at_s=1003.5)).after().after()
    assert hook.told == [("incident", "began"), ("incident", "over")]
    assert hook.alerts[1]["over"] == "training again after 3.5 s, from store (step 20), without B, 13 steps replayed"
    assert hook.alerts[1]["key"] == alert["key"] == "first@abc-incident-1"
    assert kinds(run.store) == ["Begun", "Raised", "Sent", "Over", "Sent"]


def test_what_begins_and_ends_between_two_looks_is_told_once_as_over(run: WatchedRun, hook: FakeReceiver):
    hook.answers.extend([503])
    run.after().shows(*killed(1, at_s=1001.0)).after()
    run.shows(*trains(2, at_s=1003.5)).after().after(5.0).after()
    assert hook.told == [("incident", "over")]


def test_what_came_and_went_between_two_looks_is_told_too(run: WatchedRun, hook: FakeReceiver):
    run.after().shows(*killed(1, at_s=1001.0), *trains(2, at_s=1001.5)).after().after()
    assert hook.told == [("incident", "over")]
    assert (hook.alerts[0]["cause"], hook.alerts[0]["rank"], hook.alerts[0]["machine"]) == ("killed", 1, "B")
    another(run, hook).after().after()
    assert len(hook.told) == 1


def test_what_came_and_went_between_two_controllers_is_told_too_and_rows_as_one(run: WatchedRun, hook: FakeReceiver):
    run.after().shows(*killed(1, at_s=1001.0), placed(2, "ac"), *killed(2, at_s=1001.2), *trains(3, at_s=1003.0))
    another(run, hook).after().after()
    assert [(one["kind"], one["state"], one["attempt"]) for one in hook.alerts] == [("incident", "over", 1)]


def test_what_a_person_has_resumed_from_is_not_told(run: WatchedRun, hook: FakeReceiver):
    run.shows(*killed(1, at_s=1001.0), *trains(2, at_s=1001.5), stop(), ended(2, Outcome.STOPPED, 30), gone(2))
    run.shows(ResumeRequested(at_s=1010.0, terms=TERMS)).after().after()
    assert hook.told == []


def test_a_new_controller_tells_nothing_twice(run: WatchedRun, hook: FakeReceiver):
    run.shows(*killed(1, at_s=1000.0)).after().after()
    later = another(run, hook).after().after()
    assert hook.told == [("incident", "began")]
    later.shows(*trains(2, at_s=1003.0)).after().after()
    assert hook.told == [("incident", "began"), ("incident", "over")]


def test_a_controller_that_died_between_recording_and_sending_is_followed_by_one_that_sends(run: WatchedRun, hook: FakeReceiver):
    def dies(message: object) -> str:
        raise NotTaken("the process is gone")

    first = WatchedRun(ALERTS, store=run.store, time=run.time, receivers=(Receiver(name="webhook env:HOOK", send=dies),))
    first.shows(*killed(1, at_s=1000.0)).after()
    assert (kinds(run.store), hook.got) == (["Begun", "Raised"], [])
    another(first, hook).after().after()
    assert hook.told == [("incident", "began")]
    assert hook.got[0]["id"] == "first@abc-2"


def test_of_two_controllers_the_newer_one_tells(run: WatchedRun, hook: FakeReceiver):
    run.after()
    newer = another(run, hook).after()
    for one in (run, newer):
        one.shows(*killed(1, at_s=1000.0))
    run.after().after()
    newer.after().after()
    run.after().after()
    assert hook.told == [("incident", "began")]
    assert [entry.event.epoch for entry in read_journal(run.store, ALERT_EVENT_KINDS) if type(entry.event).__name__ == "Begun"] == [1, 2]


def test_an_older_controller_that_comes_late_tells_nothing(run: WatchedRun, hook: FakeReceiver):
    another(run, hook).after()
    run.shows(*killed(1, at_s=1000.0)).after().after()
    assert (hook.got, kinds(run.store)) == ([], ["Begun"])


def test_a_receiver_that_fails_is_tried_again_ever_more_rarely_and_told_in_the_status_alone(
    run: WatchedRun, hook: FakeReceiver, caplog: pytest.LogCaptureFixture
):
    hook.answers.extend([500, HANG_UP, 302, 404])
    run.shows(*killed(1, at_s=1000.0))
    tried = []
    for _ in range(60):
        before = len(hook.asked)
        run.after()
        tried += [run.time.now_s - 1000.0] * (len(hook.asked) - before)
    assert tried == [1.0, 4.0, 9.0, 18.0, 35.0], "after 2, 4, 8 and 16 s, each from the look that heard of it"
    assert [method for method, _ in hook.asked] == ["POST"] * 5
    assert hook.told == [("incident", "began")]
    assert (run.watch.lines, caplog.text) == ([], "")


def test_a_dead_receiver_shows_in_the_status_with_what_waits(run: WatchedRun, hook: FakeReceiver):
    hook.answers.extend([404] * 99)
    run.shows(*killed(1, at_s=1000.0)).after().after()
    assert run.watch.lines == ["alerts: webhook env:HOOK takes no message: HTTP 404 Not Found; 1 wait"]


def test_a_slow_receiver_keeps_no_other_waiting(hook: FakeReceiver):
    answers = threading.Event()
    slow = Receiver(name="slow", send=lambda message: str(answers.wait(30.0)))
    got: list[object] = []
    quick = Receiver(name="quick", send=lambda message: got.append(message) or "taken")  # type: ignore[func-returns-value]
    run = WatchedRun(ALERTS, receivers=(slow, quick)).shows(*killed(1, at_s=1000.0))
    run.watch.look()
    run.watch._couriers[1].wait(30.0)
    run.shows(*trains(2, at_s=1001.0)).watch.look()
    run.watch.look()
    run.watch._couriers[1].wait(30.0)
    assert len(got) == 2
    answers.set()


# --- never fifty -------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_every_minute_sends_so_many_messages_an_hour_and_the_rest_as_one(run: WatchedRun, hook: FakeReceiver):
    run.after()
    for attempt in range(1, 41):
        run.shows(*killed(attempt, at_s=run.time.now_s)).after(30.0)
        run.shows(*trains(attempt + 1, at_s=run.time.now_s), committed(attempt + 1, 20 + attempt)).after(30.0)
    assert len(hook.got) == ALERTS.max_per_hour == 20
    run.after(1300.0).after()
    assert len(hook.got) == 21
    assert len(hook.got[-1]["alerts"]) == 30, "each of the incidents in one line"
    assert hook.got[-1]["text"].count("\n") < 25


def test_the_end_of_a_run_waits_for_no_hour(hook: FakeReceiver):
    run = WatchedRun(replace(ALERTS, max_per_hour=1), environ={"HOOK": hook.url})
    run.shows(*killed(1, at_s=1000.0)).after().after()
    run.shows(*trains(2, at_s=1003.0)).after().after()
    assert hook.told == [("incident", "began")]
    run.shows(ended(2, Outcome.FINISHED, 1000), gone(2)).after().after()
    assert hook.told == [("incident", "began"), ("ended", "began"), ("incident", "over")]


def test_a_condition_that_comes_and_goes_is_one_until_it_stays_away(run: WatchedRun, hook: FakeReceiver):
    for _ in range(20):
        run.shows(lost_checkpoint(1, 50, "b")).after(20.0)
        run.shows(committed(1, 60)).after(20.0)
        run.events = run.events[:4]
    assert hook.told == [("checkpoints", "began")]
    run.shows(committed(1, 60)).after(59.0)
    assert hook.told == [("checkpoints", "began")]
    run.after(62.0).after()
    assert hook.told == [("checkpoints", "began"), ("checkpoints", "over")]


def test_each_time_that_a_condition_comes_back_it_must_stay_away_twice_as_long(run: WatchedRun, hook: FakeReceiver):
    def comes() -> None:
        run.events = run.events[:4]
        run.shows(lost_checkpoint(1, 50, "b")).after().after()

    def is_over_after(duration_s: float) -> bool:
        before = len(hook.told)
        run.shows(committed(1, 60)).after().after(duration_s).after()
        return len(hook.told) > before

    comes()
    assert is_over_after(60.0)
    comes()
    assert not is_over_after(90.0)
    assert is_over_after(40.0)


def test_a_condition_is_worded_as_it_began_for_as_long_as_it_holds(run: WatchedRun):
    run.shows(lost_checkpoint(1, 50, "b")).after()
    before = run.watch.lines
    run.shows(lost_checkpoint(1, 100, "b")).after()
    assert run.watch.lines == before
    assert before[0].startswith("the checkpoint of step 50 came to nothing")


# --- the store away, the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), AccessDenied("the token has expired")])
def test_that_the_store_is_away_is_told_although_it_can_not_be_recorded(run: WatchedRun, hook: FakeReceiver, error: StoreError):
    def away(operation: str, key: str) -> None:
        raise error

    run.after()
    run.store.fault = away
    run.shows(store_trouble="no answer within 60 s").after().after(15.0)
    assert hook.got == []
    for _ in range(20):
        run.after(5.0)
    assert hook.told == [("store", "began")]
    run.store.fault = MemoryStore().fault
    run.shows().after().after(61.0).after()
    assert hook.told == [("store", "began"), ("store", "over")]
    assert kinds(run.store) == ["Begun", "Raised", "Sent", "Over", "Sent"]


def test_a_finished_run_is_told_once_and_nothing_that_held_stays_open(run: WatchedRun, hook: FakeReceiver):
    run.shows(lost_checkpoint(1, 50, "b")).after().after()
    run.shows(ended(1, Outcome.FINISHED, 1000), gone(1)).after().after()
    assert hook.told == [("checkpoints", "began"), ("ended", "began"), ("checkpoints", "over")]
    assert len(hook.got) == 2
    assert hook.alerts[1]["line"].startswith("finished")


def test_the_end_is_sent_before_the_controllers_process_ends(hook: FakeReceiver):
    run = WatchedRun(ALERTS, environ={"HOOK": hook.url})
    run.watch._every_s = 0.01
    run.watch.start()
    run.shows(*killed(1, at_s=1000.0), stop())
    run.watch.stop()
    assert ("ended", "began") in hook.told


def test_a_run_that_tells_nobody_writes_nothing_and_shows_what_holds():
    run = WatchedRun(AlertsConfig()).shows(lost_checkpoint(1, 50, "b")).after()
    assert run.store.objects == {}
    assert run.watch.lines[0].startswith("the checkpoint of step 50")


def test_a_receiver_that_comes_later_is_not_told_of_the_past(run: WatchedRun, hook: FakeReceiver):
    run.shows(*killed(1, at_s=1000.0), *trains(2, at_s=1001.0)).after()
    run.shows(*killed(2, at_s=1002.0)).after().after()
    with receiving() as second:
        alerts = replace(ALERTS, webhooks=("env:HOOK", "env:SECOND"))
        environ = {"HOOK": hook.url, "SECOND": second.url}
        later = WatchedRun(alerts, store=run.store, time=run.time, environ=environ, epoch=2)
        later.events = list(run.events)
        later.shows(*trains(3, at_s=1005.0)).after().after()
        assert second.told == [("incident", "over")]


def test_a_bug_in_a_look_ends_neither_the_run_nor_the_watch(run: WatchedRun, hook: FakeReceiver, caplog: pytest.LogCaptureFixture):
    view = run.view
    run.view = None  # type: ignore[assignment]
    run.after().after()
    assert caplog.text.count("this look failed") == 1
    run.view = view
    run.shows(*killed(1, at_s=1000.0)).after()
    assert hook.told == [("incident", "began")]


def test_old_news_is_not_sent_any_more(run: WatchedRun, hook: FakeReceiver):
    hook.answers.append(503)
    run.shows(*killed(1, at_s=1000.0)).after()
    later = WatchedRun(ALERTS, store=run.store, time=Time(), environ={"HOOK": hook.url}, epoch=2)
    later.time.now_s = run.time.now_s + 90_000.0
    later.events = list(run.events)
    later.shows(*trains(2, at_s=1002.0)).after().after()
    assert hook.told == [("incident", "over")]
