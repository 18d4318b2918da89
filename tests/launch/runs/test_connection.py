"""Questions to a run's controller, which may be of another version of braid than the one who asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from launch.errors import NotOpen, NotReachable
from launch.runs.connection import RunHandle
from launch.status import KEYS, Status
from model.train.metrics import in_status
from orchestrator.identity import RunIdentity
from orchestrator.ray_backend.controller_actor import NotReady
from tests.launch.stored_runs import RUNNING, status_of, stored_run

REMEDY = "stop the run with that version, or restart its Ray cluster, then `braid resume first`"


class Method:
    def __init__(self, answer: Callable[..., Any]) -> None:
        self.remote = answer


class Actor:
    """A controller's actor whose `status` is this; Ray checks a method's name and arguments before it calls."""

    def __init__(self, status: Callable[..., Any]) -> None:
        self.status = Method(status)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(answer: Any, *, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise RayTaskError("status", "its traceback", answer).as_instanceof_cause()
        return answer

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("orchestrator.ray_backend.client.is_connected", lambda: True)


def asked(status: Callable[..., Any]) -> Status:
    return RunHandle(RunIdentity(name="first"), Actor(status)).status()


def test_a_controller_answers_with_all_that_a_status_has(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    answer = status_of(tmp_path)
    assert answer.keys() == KEYS | in_status(None).keys()
    assert asked(lambda page: answer) == answer


def test_a_question_that_the_controller_does_not_know_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    def told_by(question: Callable[[RunHandle], object], status: Callable[..., Any]) -> str:
        with pytest.raises(NotOpen) as raised:
            question(RunHandle(RunIdentity(name="first"), Actor(status)))
        return str(raised.value)

    stored_run(tmp_path, RUNNING)
    without_alerts = {key: value for key, value in status_of(tmp_path).items() if key != "alerts"}
    lines = [
        told_by(lambda handle: handle.stop(now=True), lambda: None),
        told_by(lambda handle: handle.status(), lambda: None),
        told_by(lambda handle: handle.status(), lambda page: ModuleNotFoundError("No module named 'gone'")),
        told_by(lambda handle: handle.status(), lambda page: without_alerts),
    ]
    for line, detail in zip(lines, ("stop: ", "status: ", "No module named 'gone'", "its status lacks alerts"), strict=True):
        assert line.startswith("controller of first: was started by another version of braid and does not understand this one (")
        assert (detail in line, line.endswith(REMEDY), "\n" in line) == (True, True, False)


def test_a_controller_that_is_not_ready_or_broke_says_so_itself() -> None:
    with pytest.raises(NotOpen, match=r"^still reading its journal$"):
        asked(lambda page: NotReady("still reading its journal"))
    with pytest.raises(NotReachable, match=r"no answer \(full\)"):
        asked(lambda page: OSError("full"))
