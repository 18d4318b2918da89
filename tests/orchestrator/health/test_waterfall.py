"""An incident hop by hop."""

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import AttemptStarted, ControllerStarted, Event, FaultsSeen, StepReached, TrainingResumed, WorkersGone
from orchestrator.control.state import Incident
from orchestrator.health.remedies import REMEDIES, remedy
from orchestrator.health.waterfall import seen_by, waterfall
from orchestrator.messages import Source
from tests.orchestrator.control.stories import fault, placed, play, running, submitted


def seen(attempt: int, at_s: float, *, silent_s: float = 0.0, cause: Cause = Cause.KILLED) -> FaultsSeen:
    return FaultsSeen(at_s=at_s, attempt=attempt, faults=(fault(cause, "a"),), at_step=41, silent_s=silent_s)


def gone(attempt: int, at_s: float) -> WorkersGone:
    return WorkersGone(at_s=at_s, attempt=attempt, spares=1)


def started(attempt: int, at_s: float) -> AttemptStarted:
    return AttemptStarted(at_s=at_s, attempt=attempt, placement=placed(attempt, "ab").placement)


def resumed(attempt: int, at_s: float, source: Source = Source.MEMORY) -> TrainingResumed:
    return TrainingResumed(at_s=at_s, attempt=attempt, from_step=40, source=source)


def stepped(attempt: int, at_s: float) -> StepReached:
    return StepReached(at_s=at_s, attempt=attempt, step=41)


def told(*journal: Event, number: int = 0, caught_up_s: float | None = None) -> list[tuple[str, int, float, float]]:
    journal = (submitted(), started(1, 1.0), resumed(1, 2.0), stepped(1, 3.0), *journal)
    incident = play(*journal).incidents[number]
    return [(hop.name, hop.attempt, hop.begin_s, hop.seconds) for hop in waterfall(incident, journal, caught_up_s=caught_up_s)]


RECOVERY = (seen(1, 100.0, silent_s=2.0), gone(1, 101.0), started(2, 101.5), resumed(2, 104.0), stepped(2, 105.0))


def test_a_recovery_from_the_last_sign_of_life_to_the_step_that_was_new():
    assert told(*RECOVERY, caught_up_s=107.0) == [
        ("noticed", 1, 0.0, 2.0),
        ("all gone", 1, 2.0, 1.0),
        ("next attempt", 2, 3.0, 0.5),
        ("loaded from memory", 2, 3.5, 2.5),
        ("first step", 2, 6.0, 1.0),
        ("caught up", 2, 7.0, 2.0),
    ]


def test_an_attempt_that_fails_before_its_first_step_belongs_to_the_recovery():
    again = (seen(2, 103.0), gone(2, 103.5), started(3, 104.0), resumed(3, 106.0, Source.STORE), stepped(3, 107.0))
    names = [(name, attempt) for name, attempt, *_ in told(*RECOVERY[:3], *again)]
    assert names == [
        ("noticed", 1), ("all gone", 1), ("next attempt", 2), ("failed again", 2), ("all gone", 2), ("next attempt", 3),
        ("loaded from store", 3), ("first step", 3),
    ]  # fmt: skip


def test_of_two_incidents_each_has_its_own_hops():
    second = (seen(2, 200.0), gone(2, 201.0), started(3, 201.0), resumed(3, 202.0), stepped(3, 203.0))
    assert [attempt for _, attempt, *_ in told(*RECOVERY, *second)] == [1, 1, 2, 2, 2]
    assert [attempt for _, attempt, *_ in told(*RECOVERY, *second, number=1)] == [2, 2, 3, 3, 3]


def test_one_that_is_not_over_has_the_hops_so_far():
    assert [name for name, *_ in told(*RECOVERY[:2])] == ["noticed", "all gone"]


def test_clocks_of_two_controllers_make_no_hop_shorter_than_nothing():
    hops = told(*RECOVERY[:2], ControllerStarted(at_s=50.0, epoch=2), started(2, 51.0), resumed(2, 53.0), stepped(2, 102.0))
    assert [seconds for *_, seconds in hops] == [2.0, 1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("cause", "who"),
    [
        (Cause.NODE_LOST, "the controller"),
        (Cause.KILLED, "the agent of A, by the end of rank 0"),
        (Cause.CONFIG, "rank 0, by its own word"),
    ],
)
def test_who_saw_it_first(cause: Cause, who: str):
    assert seen_by(play(*running(), seen(1, 9.0, cause=cause)).incidents[0]) == who


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_something_to_do_and_names_what_it_is_about(cause: Cause):
    incident: Incident = play(*running(), seen(1, 9.0, cause=cause)).incidents[0]
    assert cause in REMEDIES
    assert "{" not in remedy(incident, "mine")
