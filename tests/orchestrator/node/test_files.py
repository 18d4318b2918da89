"""Files on a node's disk that can't fill it, and a port that is kept."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.identity import RunIdentity
from orchestrator.node.held_port import hold_port
from orchestrator.node.home import KEPT_ATTEMPTS, prune_logs
from orchestrator.node.log_file import start_log_file
from orchestrator.records.keys import log_key


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path))
    return tmp_path / "runs/first"


def test_only_the_newest_attempts_keep_their_logs_on_the_node(run_directory: Path):
    attempts = [*range(1, 6), *range(9_996, 10_006)]
    for attempt in attempts:
        path = run_directory / log_key(attempt, 0)
        path.parent.mkdir(parents=True)
        path.write_text("bye")

    prune_logs(RunIdentity(name="first"))

    assert [attempt for attempt in attempts if (run_directory / log_key(attempt, 0)).exists()] == attempts[-KEPT_ATTEMPTS:]


def test_a_node_without_logs_has_none_to_remove(run_directory: Path):
    prune_logs(RunIdentity(name="first"))


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A log that is full after 200 bytes."""
    rooms = [logging.getLogger(name) for name in ("orchestrator", "data_pipeline")]
    before = [(room, room.level, list(room.handlers)) for room in rooms]
    start_log_file(tmp_path / "run/agent.log", max_bytes=200)
    yield tmp_path / "run/agent.log"
    for room, level, handlers in before:
        for handler in set(room.handlers) - set(handlers):
            room.removeHandler(handler)
            handler.close()
        room.setLevel(level)


def test_what_a_process_logs_is_in_its_file_and_only_the_newest_part_of_it_stays(log_file: Path):
    for number in range(100):
        logging.getLogger("orchestrator.node.agent").info("line %d", number)

    assert sorted(path.name for path in log_file.parent.iterdir()) == ["agent.log", "agent.log.1"]
    assert log_file.stat().st_size + log_file.with_name("agent.log.1").stat().st_size <= 400
    assert log_file.read_text().endswith("INFO orchestrator.node.agent: line 99\n")


def test_a_held_port_is_nobody_elses_until_it_is_released():
    held = hold_port("127.0.0.1")
    place = (held.rendezvous.address, held.rendezvous.port)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(place)

    held.release()

    with socket.create_server(place):
        pass


def test_an_address_of_another_machine_has_no_port_to_hold():
    with pytest.raises(OSError, match=r"none of 100 ports .* on 192\.0\.2\.1 is free"):
        hold_port("192.0.2.1")
