"""`braid report`: a run on one page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launch.runs.record import run_store_of
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, RUNNING, put_dataset, put_steps, store_at, stored_run

VOID = {"meta"}
INJECTED = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Which elements a page has; every one that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.linked: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.linked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture
def finished(braid: Braid) -> Braid:
    """A run that lost a worker, whose last words are somebody's joke."""
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_dataset(braid.root)
    put_steps(braid.root, 1, range(1, 34))
    put_steps(braid.root, 2, range(21, 41))
    run_store_of(store_at(braid.root), "first").put("logs/a0001/rank-00001.log", f"last words {INJECTED}\n".encode())
    return braid


def test_the_page_needs_nothing_else_and_takes_nothing_of_the_run_for_markup(finished: Braid, tmp_path: Path) -> None:
    done = finished("report", "first", "--out", str(tmp_path / "all.html"))
    assert (done.status, done.out, done.err) == (0, "", f"written: {tmp_path / 'all.html'}\n")
    text = (tmp_path / "all.html").read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.elements)
    assert page.linked == []
    assert INJECTED not in text
    assert "last words &lt;script&gt;" in text
    for heading in ("Where the time went", "Curves", "Incidents", "Checkpoints", "Configuration"):
        assert f"<h2>{heading}</h2>" in text
    assert re.search(r"<h3>1: killed on B rank 1, 1970-01-01 00:00:\d\d UTC, after step 33</h3>", text)


def test_its_numbers_are_those_of_the_commands(finished: Braid) -> None:
    told = json.loads(finished("report", "first", "--json").out)
    assert told["incidents"] == [json.loads(finished("incidents", "first", "1", "--json").out)]
    assert told["checkpoints"] == json.loads(finished("checkpoints", "first", "--json").out)
    assert told["proof"]["line"] == finished("verify", "first").out.strip()
    assert told["goodput"]["classes"] == json.loads(finished("goodput", "first", "--json").out)["classes"]
    assert told["curves"]["loss"]["x"] == [float(step) for step in range(1, 41)]
    assert told["configuration"]["name"] == "first"


def test_of_a_run_that_has_just_begun_there_is_little_to_say(braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_run(braid.root, RUNNING[:1])
    monkeypatch.chdir(tmp_path)
    assert braid("report", "first").err == "written: first.html\n"
    text = (tmp_path / "first.html").read_text()
    Page(text)
    assert "has not committed a checkpoint yet" in text


def test_a_file_that_can_not_be_written_is_one_line(finished: Braid, tmp_path: Path) -> None:
    done = finished("report", "first", "--out", str(tmp_path / "nowhere/all.html"))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "No such file or directory; name a file that can be written" in done.err
