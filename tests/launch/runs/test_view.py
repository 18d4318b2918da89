"""Looking at a run: live where its controller answers, from the store where it does not."""

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from launch.errors import Abandoned, NotOpen, NotReachable, UserError
from launch.runs.record import read_run
from launch.runs.view import RunView, statuses
from launch.show.follow import status_line
from orchestrator.control.causes import Cause
from orchestrator.control.events import NodesShort
from orchestrator.control.history import open_history
from orchestrator.messages import Outcome
from tests.launch.stored_runs import RUNNING, put_steps, status_of, stored_run
from tests.orchestrator.control.stories import ended, failed, fault, gone, placed


class FakeController:
    """Answers with what it is given, one after the other; None means that it does not answer."""

    def __init__(self, *, answers: Iterable[dict[str, Any] | None] = (), chunks: Iterable[bytes | None] = ()) -> None:
        self._answers = deque(answers)
        self._chunks = deque(chunks)

    def status(self, page: int = 1) -> dict[str, Any]:
        answer = self._answers.popleft() if self._answers else None
        if answer is None:
            raise NotReachable("controller of first: no answer")
        return answer

    def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        chunk = self._chunks.popleft() if self._chunks else None
        return None if chunk is None else (chunk, offset + len(chunk))


def always(controller: FakeController) -> Callable[[], FakeController]:
    """What finds this controller whenever it is looked for."""
    return lambda: controller


def test_a_controller_that_falls_silent_is_replaced_by_the_journal(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    put_steps(tmp_path, 1, range(1, 31))
    live = status_of(tmp_path, step=35, live=True)
    view = RunView(read_run(config.storage, "first"), always(FakeController(answers=[live, None])))
    assert [view.status()["step"], view.status()["step"]] == [35, 30]


def test_ranks_come_from_the_controller_and_without_one_only_the_nodes_are_known(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    record = read_run(config.storage, "first")

    class Knowing(FakeController):
        def ranks(self) -> list[dict[str, Any]]:
            return [{"node": "a", "machine": "A", "ranks": [[0, "training", 7, 0.5]]}]

    class Earlier(FakeController):
        def ranks(self) -> list[dict[str, Any]]:
            raise NotOpen("controller of first: was started by another version of braid and does not understand this one")

    assert RunView(record, always(Knowing())).ranks() == Knowing().ranks()
    nodes = [{"node": name, "machine": name.upper(), "hottest_c": None, "ranks": []} for name in "ab"]
    assert RunView(record, always(Earlier())).ranks() == nodes
    assert RunView(record, lambda: None).ranks() == nodes


def test_a_controller_that_cannot_open_its_run_says_why(tmp_path: Path) -> None:
    config = stored_run(tmp_path)

    class Locked(FakeController):
        def status(self, page: int = 1) -> dict[str, Any]:
            raise NotOpen("controller of first: AccessDenied: no credentials; trying again in up to 8 s")

    status = RunView(read_run(config.storage, "first"), always(Locked())).status()
    assert (status["state"], status["reason"]) == ("queued", "controller of first: AccessDenied: no credentials; trying again in up to 8 s")
    assert "AccessDenied" in status_line(status)


class Clock:
    """Moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_following_a_run_that_nothing_controls_waits_five_minutes_and_ends_with_the_remedy(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    record = read_run(config.storage, "first")
    clock = Clock()
    seen: list[dict[str, Any]] = []
    told: list[str] = []
    live = status_of(tmp_path, live=True, reason="")
    view = RunView(record, always(FakeController(answers=[live, None, None, live])), clock=clock, tell=told.append)
    with pytest.raises(Abandoned, match=r"^no controller of run first has answered for 5 minutes; .* `braid resume first --storage "):
        seen.extend(statuses(view.followed_status, poll_s=1.0, sleep=clock.sleep))
    assert [status["live"] for status in seen] == [True, False, False, True] + [False] * 300, "each silence is measured from its own start"
    assert "no controller answers; `braid resume first" in seen[-1]["reason"]
    assert clock.now_s == 100.0 + 4 + 300
    assert told == ["no controller of run first answers; waiting up to 5 minutes for one"] * 2, "once for each silence"


def test_a_controller_that_moved_to_another_cluster_is_found_again(tmp_path: Path) -> None:
    """The old handle is of no use any more: the run was resumed by somebody else, or the head came back."""
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()
    live = status_of(tmp_path, live=True)
    there = deque([FakeController(answers=[live]), None, None, FakeController(answers=[live | {"state": "finished"}])])
    view = RunView(read_run(config.storage, "first"), there.popleft, clock=clock)

    seen = list(statuses(view.followed_status, poll_s=100.0, sleep=clock.sleep))

    assert [(status["live"], status["state"]) for status in seen] == [
        (True, "running"), (False, "running"), (False, "running"), (False, "running"), (True, "finished"),
    ]  # fmt: skip


def test_looking_once_does_not_wait(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    told: list[str] = []
    status = RunView(read_run(config.storage, "first"), lambda: None, tell=told.append).status()
    assert ("no controller answers" in status["reason"], told) == (True, [])


def test_a_run_that_has_ended_is_not_looked_for(tmp_path: Path) -> None:
    config = stored_run(tmp_path, (*RUNNING, ended(1, Outcome.FINISHED, 200), gone(1)))

    def find() -> FakeController:
        raise AssertionError("this connects to a cluster")

    assert RunView(read_run(config.storage, "first"), find).status()["state"] == "finished"


def test_a_controller_that_waits_for_its_store_is_waited_for(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()

    class Locked(FakeController):
        def status(self, page: int = 1) -> dict[str, Any]:
            raise NotOpen("controller of first: still reading its journal")

    view = RunView(read_run(config.storage, "first"), always(Locked()), clock=clock)
    for _ in range(3):
        assert view.followed_status()["reason"] == "controller of first: still reading its journal"
        clock.sleep(20.0)


def test_following_a_log_whose_cluster_is_gone_ends_with_the_remedy(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()

    class Lost(FakeController):
        def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
            if offset:
                raise NotReachable("controller of first: its cluster is gone")
            return b"one ", 4

    view = RunView(read_run(config.storage, "first"), always(Lost()), clock=clock)
    printed: list[bytes] = []
    with pytest.raises(Abandoned, match=r"has answered for 5 minutes; .*`braid resume first"):
        printed.extend(view.log(0, 0, follow=True, sleep=clock.sleep))
    assert (printed, clock.now_s) == ([b"one "], 400.0)


def test_a_followed_log_goes_on_with_the_controller_that_is_found_after_a_silence(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()

    class Leaving(FakeController):
        def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
            if offset:
                raise NotReachable("controller of first: its cluster is gone")
            return b"one ", 4

    there = deque([Leaving(), None, None, FakeController(chunks=[b"two ", None])])
    view = RunView(read_run(config.storage, "first"), there.popleft, clock=clock)
    assert b"".join(view.log(0, 1, follow=True, sleep=clock.sleep)) == b"one two "


def test_following_ends_with_the_run_and_asks_in_between(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    states = deque(["queued", "running", "running", "finished", "never reached"])
    slept: list[float] = []
    seen = list(statuses(lambda: status_of(tmp_path, state=states.popleft()), poll_s=0.5, sleep=slept.append))
    assert [status["state"] for status in seen] == ["queued", "running", "running", "finished"]
    assert slept == [0.5] * 3


def test_a_live_log_is_followed_until_it_ends_and_its_last_words_come_from_the_store(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    record = read_run(config.storage, "first")
    record.run_store.put("logs/a0001/rank-00000.log", b"one two three")
    view = RunView(record, always(FakeController(chunks=[b"one ", b"", b"two ", None])))
    waits: list[float] = []
    assert b"".join(view.log(0, 1, follow=True, sleep=waits.append)) == b"one two three"
    assert len(waits) == 1


def test_a_followed_log_goes_on_with_the_next_attempt_until_the_run_ends(tmp_path: Path) -> None:
    """The worker of attempt 2 never begins, and the last one has ended before anybody looked."""
    config = stored_run(tmp_path, RUNNING)
    record = read_run(config.storage, "first")
    record.run_store.put("logs/a0001/rank-00000.log", b"one two")
    restart = (failed(1, fault(Cause.KILLED, "b"), at_step=33), gone(1), placed(2, "ac"), failed(2, fault(Cause.KILLED, "c")), gone(2))
    history = open_history(record.run_store)

    class Restarting(FakeController):
        def status(self, page: int = 1) -> dict[str, Any]:
            for event in restart if history.state.attempt == 1 else (placed(3, "ac"), ended(3, Outcome.FINISHED, 200), gone(3)):
                history.append(event)
            record.run_store.put("logs/a0003/rank-00000.log", b", three")
            return status_of(tmp_path, live=True)

    view = RunView(record, always(Restarting(chunks=[b"one ", None])))
    assert b"".join(view.log(0, 0, follow=True, sleep=lambda seconds: None)) == b"one two, three"


def test_a_log_is_followed_from_before_its_worker_begins(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    live = status_of(tmp_path, live=True)
    view = RunView(read_run(config.storage, "first"), always(FakeController(answers=[live], chunks=[None, b"at last"])))
    followed = view.log(0, 0, follow=True, sleep=lambda seconds: None)
    assert next(followed) == b"at last"


def test_what_is_told_without_a_controller_says_nothing_of_slots_that_nobody_looked_at(tmp_path: Path) -> None:
    config = stored_run(tmp_path, (NodesShort(at_s=2.0, attempt=0, text="waiting for nodes: needs 2 with 1 free slots, has 1"),))
    status = RunView(read_run(config.storage, "first"), lambda: None).status()
    assert status["reason"].startswith("waiting for nodes; no controller answers; `braid resume first --storage ")
    assert status["spares"] is None


def test_a_live_log_that_is_not_followed_ends_where_it_is(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    view = RunView(read_run(config.storage, "first"), always(FakeController(chunks=[b"one ", b"", b"two "])))
    assert b"".join(view.log(0, 0, follow=False)) == b"one "


def test_a_log_that_nobody_has_yet_says_where_it_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))
    config = stored_run(tmp_path)
    with pytest.raises(UserError, match="it is uploaded when the worker ends"):
        list(RunView(read_run(config.storage, "first"), lambda: None).log(0, 0, follow=False))
