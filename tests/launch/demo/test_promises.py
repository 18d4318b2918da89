"""The demo judges itself: what counts as falling short."""

from dataclasses import replace
from typing import Any

import pytest

from launch.demo.promises import Played, is_falling, shortcomings
from launch.demo.script import SCRIPT, WHOLE_SCRIPT, Fault, Injected

WORKER = Injected(fault=Fault.WORKER, node="b", rank=1, at_s=100.0, committed_step=20)


NODE = Injected(fault=Fault.NODE, node="b", rank=1, at_s=200.0, committed_step=60)


LOSSES = tuple(8.0 - 0.05 * step for step in range(100))


def status(state: str = "running", step: int = 25, committed: int = 20, incidents: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    progress = {"step": step, "last_committed_step": committed}
    return {"state": state, "reason": "", "workers": [{"rank": 0}, {"rank": 1}], "incidents": list(incidents)} | progress


AGENTS = Injected(fault=Fault.AGENTS, node=None, rank=None, at_s=200.0, committed_step=80)


def incident(
    cause: str = "killed", node: str = "b", rank: int = 1, detected: float = 0.1, recovered: float | None = 6.0, **answer: Any
) -> dict[str, Any]:
    """`answer`: `source` and `left`, unless they are as promised."""
    at_s = (100.0 if cause == "killed" else 200.0) + detected
    sources = {"killed": "memory", "node_lost": "another node's memory"}
    promised = {"source": sources.get(cause, "store"), "left": ["B"] if cause == "node_lost" else []}
    seen = {"cause": cause, "node": node, "rank": rank, "at_s": at_s, "detected_after_s": 0.1, "recovered_after_s": recovered}
    return seen | promised | answer


GOOD = Played(
    status=status("finished", 100, 100, (incident(), incident("node_lost", detected=2.5))),
    script=SCRIPT,
    injected=(WORKER, NODE),
    losses=LOSSES,
    goodput={"wall_s": 60.0, "classes": {"productive": 40.0, "lost": 20.0}},
    verified=True,
    proof="VERIFIED",
    left_behind=(),
)


def test_a_demo_that_kept_every_promise_has_no_shortcomings() -> None:
    assert shortcomings(GOOD) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"verified": False}, "`braid verify` does not agree"),
        ({"losses": LOSSES[::-1]}, "the loss does not fall"),
        ({"losses": ()}, "the loss does not fall"),
        ({"goodput": {"wall_s": 60.0, "classes": {"productive": 59.99}}}, "its goodput tells 59.990 s of 60.000"),
        ({"goodput": {"wall_s": 60.0, "classes": {"productive": 0.0, "lost": 60.0}}}, "its goodput knows of no productive step"),
        ({"left_behind": ("123 python -m x",)}, "left behind: 123 python -m x"),
        ({"injected": (WORKER,)}, "fault node_lost was never injected"),
        ({"status": {}}, "the run is not there, not finished"),
        ({"status": status("failed", incidents=(incident(), incident("node_lost")))}, "the run is failed, not finished"),
        ({"status": status("finished", incidents=(incident(),))}, "1 incidents were found, 2 were caused"),
        ({"status": status("finished", incidents=(incident("frozen"), incident("node_lost")))}, "killed was taken for frozen"),
        (
            {"status": status("finished", incidents=(incident(node="a"), incident("node_lost")))},
            "killed happened on node b to rank 1, not on a to 1",
        ),
        (
            {"status": status("finished", incidents=(incident(detected=1.5), incident("node_lost")))},
            "killed was noticed after 1.5 s; at most 1 s",
        ),
        (
            {"status": status("finished", incidents=(incident(), incident("node_lost", detected=5.5)))},
            "node_lost was noticed after 5.5 s; at most 5 s",
        ),
        ({"status": status("finished", incidents=(incident(recovered=16.0), incident("node_lost")))}, "killed took 16.0 s to recover from"),
        (
            {"status": status("finished", incidents=(incident(), incident("node_lost", recovered=None)))},
            "node_lost was never recovered from",
        ),
        (
            {"status": status("finished", incidents=(incident(source="store"), incident("node_lost")))},
            "killed was recovered from by store; memory",
        ),
        (
            {"status": status("finished", incidents=(incident(), incident("node_lost", source="store")))},
            "node_lost was recovered from by store; another node's memory was promised",
        ),
        ({"status": status("finished", incidents=(incident(left=["B"]), incident("node_lost")))}, "killed made the run leave B"),
        (
            {"status": status("finished", incidents=(incident(), incident("node_lost", left=[])))},
            "node_lost was recovered from on the same nodes",
        ),
    ],
)
def test_every_broken_promise_is_told(change: dict[str, Any], line: str) -> None:
    found = shortcomings(replace(GOOD, **change))
    assert any(one.startswith(line) for one in found), found


def test_whichever_agent_is_seen_to_be_gone_first_the_run_goes_on_from_the_store() -> None:
    killed, lost = incident(), incident("node_lost")
    whole = replace(GOOD, script=WHOLE_SCRIPT, injected=(WORKER, NODE, AGENTS))
    for node, source, found in (
        ("a", "store", []),
        ("b", "memory", ["agent_lost was recovered from by memory; store was promised"]),
    ):
        last = incident("agent_lost", node=node, rank=0, source=source)
        assert shortcomings(replace(whole, status=status("finished", incidents=(killed, lost, last)))) == found
    assert shortcomings(replace(GOOD, script=WHOLE_SCRIPT)) == ["fault agent_lost was never injected: the run was over before"]


def test_a_loss_falls_when_its_end_is_clearly_below_its_beginning() -> None:
    assert is_falling([8.0, 5.0])
    assert not is_falling([8.0, 7.9])
    assert not is_falling([8.0])
    assert not is_falling([])
    assert not is_falling([8.0, float("nan")])
