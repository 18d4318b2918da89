"""What a recovery is said to have taken, by the journal, a log and torchrun's lines."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bench.recovery import RECIPE, answer, overrides_of
from bench.recovery_ours import all_stand_by, is_steady
from bench.recovery_times import Recovery, our_recovery, torchruns_recovery
from launch.config.load import load_config
from orchestrator.config import RunConfig
from orchestrator.control.causes import Cause
from orchestrator.control.events import AttemptStarted, Event, FaultsSeen, StepReached, TrainingResumed, WorkersGone
from orchestrator.control.placement import Placed
from orchestrator.control.state import Fault
from orchestrator.messages import Source

BEFORE = (
    "10:00:00,100 INFO step 41/90  loss 3",
    "10:00:00,300 INFO step 42/90  loss 3",
    "Traceback",
    "10:00:00,500 ERROR PeerFailed: it is gone",
)
AFTER = (
    "10:00:01,000 INFO this is rank 0 of recovery, attempt 2",
    "10:00:01,500 INFO run recovery, attempt 2, rank 0, …",
    "10:00:02,500 INFO step 41/90  loss 3",
    "10:00:02,700 INFO step 42/90  loss 3",
    "10:00:02,900 INFO step 43/90  loss 3",
    "10:00:03,100 INFO step 44/90  loss 3",
)


def at_s(clock: str) -> float:
    return datetime.strptime(f"2026-11-29 {clock}", "%Y-%m-%d %H:%M:%S,%f").timestamp()


def dated(lines: tuple[str, ...]) -> list[str]:
    return [f"2026-11-29 {line}" if line[0] == "1" else line for line in lines]


def journal() -> list[Event]:
    fault = Fault(cause=Cause.KILLED, node="b", machine="B", rank=1, detail="SIGKILL")
    placement = (Placed(node="a", machine="A"),)
    return [
        AttemptStarted(at_s=at_s("09:00:00,000"), attempt=1, placement=placement),
        FaultsSeen(at_s=at_s("10:00:00,350"), attempt=1, faults=(fault,), at_step=42, silent_s=0.1),
        FaultsSeen(at_s=at_s("10:00:00,500"), attempt=1, faults=(fault,), at_step=42, silent_s=0.1),
        WorkersGone(at_s=at_s("10:00:00,600"), attempt=1),
        AttemptStarted(at_s=at_s("10:00:00,700"), attempt=2, placement=placement),
        TrainingResumed(at_s=at_s("10:00:02,000"), attempt=2, from_step=40, source=Source.MEMORY),
        StepReached(at_s=at_s("10:00:02,600"), attempt=2, step=41),
    ]


def test_a_recovery_lasts_until_a_step_that_is_new_and_counts_what_was_trained_again():
    found = our_recovery(at_s("10:00:00,250"), journal(), dated(BEFORE), dated(AFTER))

    assert (found.next_step_s, found.steps_lost, found.source) == (2.65, 2, "memory")
    assert found.hops == {
        "noticed": 0.1,
        "others_gone": 0.25,
        "started": 0.1,
        "ordered": 0.3,
        "joined": 0.5,
        "loaded": 0.5,
        "first_step": 0.6,
        "next_step": 0.3,
    }
    assert sum(found.hops.values()) == pytest.approx(found.next_step_s)


def torchrun_said(*, until_step: int) -> list[dict[str, float]]:
    first = [{"began": 0, "pid": 7, "at_s": 1.0}, *({"step": step, "at_s": 1.0 + step} for step in range(1, 13))]
    again = [{"began": 10, "pid": 9, "at_s": 20.0}, *({"step": step, "at_s": 10.0 + step} for step in range(11, until_step + 1))]
    return [*first, *again]


def test_torchruns_recovery_is_over_with_its_first_new_step():
    found = torchruns_recovery(13.5, torchrun_said(until_step=14))

    assert found == Recovery(next_step_s=9.5, steps_lost=2, source="store", hops={"loaded": 6.5, "first_step": 1.0, "next_step": 2.0})


@pytest.mark.parametrize("until_step", [10, 12])
def test_it_is_not_over_while_torchrun_repeats_what_it_had(until_step: int):
    assert torchruns_recovery(13.5, torchrun_said(until_step=until_step)) is None


def test_the_answer_compares_the_killed_worker_with_torchruns():
    worker = Recovery(next_step_s=2.0, steps_lost=1, source="memory", hops={"noticed": 0.1, "next_step": 1.9})
    node = Recovery(next_step_s=3.0, steps_lost=4, source="memory", hops={"noticed": 0.2, "next_step": 2.8})
    peer = Recovery(next_step_s=8.0, steps_lost=9, source="store", hops={"next_step": 8.0})

    found = answer([worker, node], peer)

    assert {name: found[name] for name in ("ours_s", "torchrun_s", "ratio", "noticed_s", "steps_lost", "node_s")} == {
        "ours_s": 2.0,
        "torchrun_s": 8.0,
        "ratio": 0.25,
        "noticed_s": 0.1,
        "steps_lost": 1,
        "node_s": 3.0,
    }
    assert answer([worker], None)["ratio"] is None


def run_of_two(*overrides: str) -> RunConfig:
    return load_config(RECIPE, overrides_of(0, Path("/nowhere"), overrides))


def status(**known: Any) -> dict[str, Any]:
    """Of a run on two nodes that trains, a while after its checkpoint of step 20."""
    trains = {"state": "running", "live": True, "num_workers": 2, "step": 40, "last_committed_step": 20, "standbys": 2, "incidents": []}
    return trains | known


def test_a_run_is_hurt_only_once_a_controller_sees_all_its_workers_train():
    config = run_of_two()
    assert is_steady(status(), config)
    recorded = {"live": False, "num_workers": 0, "standbys": None}
    for other in (recorded, {"num_workers": 1}, {"state": "recovering"}, {"step": 22}, {"last_committed_step": 0}):
        assert not is_steady(status(**other), config), other


def test_processes_stand_by_on_spares_too_before_it_is_hurt():
    assert all_stand_by(status(), run_of_two("recovery.spares=0"))
    spared = run_of_two("recovery.spares=1")
    assert [all_stand_by(status(standbys=number), spared) for number in (2, 3)] == [False, True]
