"""Nobody reads or writes a file of memory by a number that its owner may have closed: by then it can be any other open file's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.image_header import Held, ImageHeader
from orchestrator.node import mirror_copies
from orchestrator.node.mirror import RankMirror, Task
from orchestrator.node.mirror_copies import Copies, new_files
from orchestrator.node.mirror_memory import ImageMemory
from orchestrator.node.mirror_wire import Connection, connect, receive_image
from tests.orchestrator.node.mirrored import nodes, spawn, write_image
from tests.orchestrator.node.waiting import wait_for


@pytest.fixture
def files() -> Iterator[tuple[int, ...]]:
    made = new_files()
    yield made
    for fd in made:
        os.close(fd)


def test_memory_that_is_given_back_while_a_copy_is_begun_is_not_written_to(
    files: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A copy of the old attempt comes as the next begins, which has no such rank; then a log is opened, say."""
    copies, held = Copies(), write_image(files[0], 1, 1)
    with copies.room_for(5, held):
        pass
    is_begun, may_go_on, dup = threading.Event(), threading.Event(), mirror_copies._dup

    def dup_late(fd: int, stack: ExitStack) -> int:
        is_begun.set()
        may_go_on.wait(10)
        return dup(fd, stack)

    def keep() -> None:
        with copies.room_for(5, held) as image:
            assert image is not None
            copies.memory.lay_out(image, held.size_bytes)

    def begin_the_next() -> list[int]:
        copies.begin(2, [7])
        return [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("first", "second")]

    monkeypatch.setattr(mirror_copies, "_dup", dup_late)
    with ThreadPoolExecutor(2) as pool:
        keeping = pool.submit(keep)
        assert is_begun.wait(10)
        must_wait = copies._lock.locked()
        beginning = pool.submit(begin_the_next)
        if not must_wait:
            beginning.result(10)
        may_go_on.set()
        keeping.result(10)
        opened = beginning.result(10)

    assert [os.fstat(fd).st_size for fd in opened] == [0, 0]
    for fd in opened:
        os.close(fd)
    copies.close()


def test_the_thread_of_a_rank_closes_nothing_that_another_attempt_begins_with(files: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    rank, could_close, held = RankMirror(files, ImageMemory(), ThreadPoolExecutor(1)), [], ImageHeader.held

    def try_to_close() -> bool:
        if is_free := rank._lock.acquire(blocking=False):
            rank._lock.release()
        return is_free

    def held_meanwhile(self: ImageHeader) -> Held | None:
        if threading.current_thread() is threading.main_thread():
            with ThreadPoolExecutor(1) as other:
                could_close.append(other.submit(try_to_close).result())
        return held(self)

    monkeypatch.setattr(ImageHeader, "held", held_meanwhile)
    rank.begin(Task(attempt=1), awaits_copy=False, is_another=False)

    assert could_close
    assert not any(could_close)
    rank.end()


class Queued(Executor):
    """Begins nothing."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


def test_a_copy_that_breaks_off_leaves_no_digest_to_be_made_of_a_file_that_is_closed_then(files: tuple[int, ...]):
    held, hands = write_image(files[0], 1, 1, (10, 20)), Queued()
    here, there = socket.socketpair()
    with there, Connection(here) as connection:
        there.sendall(bytes(10))
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            receive_image(connection, ImageHeader(files[1]), held, hands, lay_out=ImageMemory().lay_out, on_life=lambda: None)

    assert [check.done() for check in hands.futures] == [True]


def test_a_connection_is_closed_when_nobody_can_abort_it_any_more(monkeypatch: pytest.MonkeyPatch):
    close, could_abort = Connection.__exit__, []
    with nodes(1) as [node]:
        server = node.mirror._server
        assert server is not None

        def close_watched(self: Connection, *error: object) -> None:
            if self is not stranger:
                could_abort.append(self in server._open)
            close(self, *error)

        monkeypatch.setattr(Connection, "__exit__", close_watched)
        with connect(node.place.address, node.place.port) as stranger:
            stranger.tell("nothing of sense")
            wait_for(lambda: could_abort, "its hanging up")

    assert could_abort == [False]


def test_files_that_an_agent_closes_are_looked_at_no_more():
    with nodes(1) as [node]:
        node.begins(spawn(1))
        assert node.mirror._copies.memory._files
        node.mirror.close()
        assert not node.mirror._copies.memory._files
