"""The first screen of a run in a terminal."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_pipeline.store.protocol import StoreUnavailable
from launch.commands.top import _views
from launch.show.top import MARKS, top_view
from tests.launch.stored_runs import RUNNING, status_of, stored_run


@pytest.fixture
def look(tmp_path: Path) -> dict[str, Any]:
    stored_run(tmp_path, RUNNING, "train.num_steps=100")
    facts = [
        {"verdict": "good", "label": "Is it moving?", "text": "Last progress {age} ago; a step usually takes 1.50 s.", "age_s": 0.5},
        {"verdict": "bad", "label": "Loss", "text": "nan at step 30; it is no number.", "age_s": None},
    ]
    status = status_of(tmp_path, live=True, step=30, alerts=["step 30 is not finite"], reason="[/odd] reason")
    return {"status": status, "glance": facts, "command": {"command": "braid nodes", "why": "see"}, "left_s": 5000.0, "written_s_ago": 3.0}


def shown(view: Any) -> list[str]:
    console = Console(file=StringIO(), width=120, markup=False)
    console.print(view)
    output = console.file
    assert isinstance(output, StringIO)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_what_counts_is_told_in_order_with_a_mark_for_each_verdict_and_the_command_at_the_end(look: dict[str, Any]):
    lines = shown(top_view(look))
    assert lines[0] == "first  running  [/odd] reason"
    assert "live, from its controller; about 83 min left" in lines
    assert "! step 30 is not finite" in lines
    assert "●  Is it moving?  Last progress 0.5 s ago; a step usually takes 1.50 s." in lines
    assert "✖  Loss           nan at step 30; it is no number." in lines
    assert lines[-2:] == ["see", "  braid nodes"]
    assert len({mark for mark, _ in MARKS.values()}) == len(MARKS), "without colours they differ too"


def test_while_the_store_is_away_what_was_seen_last_stays_with_the_reason(look: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("launch.commands.top.POLL_S", 0.0)
    ended = {**look, "status": {**look["status"], "state": "finished"}}
    answers = iter([look, StoreUnavailable("the store does not answer"), look, ended])

    def answer() -> dict[str, Any]:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    screens = [shown(view) for view in _views(answer)]
    assert ["! the store does not answer" in screen for screen in screens] == [False, True, False, False]
    assert screens[1][0].startswith("first  running")
    assert screens[-1][0].startswith("first  finished")
