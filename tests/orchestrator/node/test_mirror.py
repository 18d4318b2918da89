"""Snapshots on two nodes: copied as they become whole, and back where one was lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import host_memory
from orchestrator.deadlines import ARRIVAL_BEATS_WITHIN_S
from orchestrator.image_header import HEADER_BYTES, ImageHeader
from orchestrator.messages import MirrorPlace
from orchestrator.node import mirror
from orchestrator.node.mirror_wire import Answer, Ask, Connection, Offer, Verb, connect
from tests.orchestrator.node.mirrored import Node, image_bytes, nodes, spawn, write_image
from tests.orchestrator.node.waiting import wait_for

OF_A_LATER = spawn(2)


def newest_of(node: Node) -> int:
    return max(node.memory[0], key=lambda fd: held.step if (held := ImageHeader(fd).held()) is not None else 0)


def waits(node: Node) -> bool:
    """Whether its workers wait for something that is to arrive."""
    return any(ImageHeader(fd).word().is_arriving for files in node.memory for fd in files)


def is_mirrored(node: Node) -> bool:
    """Its buddy has all that is whole, and its workers wait for that."""
    headers = [ImageHeader(fd) for fd in node.memory[0]]
    return all(header.word().is_mirrored and not header.is_awaited for header in headers)


# --- there ----------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_on_another_node_byte_for_byte_and_the_one_before_it_too():
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        for step in (1, 2, 3):
            first.trains(step)

        wait_for(lambda: second.steps_of_copies(0) == [2, 3], "the copies")
        assert second.copy(0, 3) == image_bytes(newest_of(first))


def test_a_snapshot_that_is_still_uploaded_as_a_checkpoint_stays_on_both_nodes():
    """Those that follow are written over each other: what one node keeps and the other does not is of no use to anybody."""
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        for step in (90, 100):
            first.trains(step)
        for step in (110, 120, 130):
            first.trains(step, spares=100)

            wait_for(lambda: is_mirrored(first), "the copy")
            assert second.steps_of_copies(0) == first.steps() == [100, step]


def test_every_rank_of_a_node_has_copies():
    with nodes(2, num_workers=2) as (first, second):
        first.begins(spawn(1, first_rank=4, num_workers=2), second)
        for local_rank in (0, 1):
            first.trains(1, local_rank=local_rank)

        wait_for(lambda: [second.steps_of_copies(rank) for rank in (4, 5)] == [[1], [1]], "the copies")


def test_the_next_snapshot_waits_until_the_last_is_copied():
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        first.trains(1)
        wait_for(lambda: is_mirrored(first), "the first copy")

        with held_up(second) as go_on:
            first.trains(2)
            assert ImageHeader(newest_of(first)).is_awaited
            go_on()
            wait_for(lambda: not ImageHeader(newest_of(first)).is_awaited, "the second copy")

        assert second.steps_of_copies(0) == [1, 2]


@contextmanager
def held_up(node: Node) -> Iterator[Callable[[], None]]:
    """Another copy of rank 0's is being written there until it may go on."""
    copies = node.mirror._copies
    copies._written.add(0)

    def go_on() -> None:
        with copies._ends_writing:
            copies._written.discard(0)
            copies._ends_writing.notify_all()

    try:
        yield go_on
    finally:
        go_on()


def test_who_has_no_buddy_waits_for_nobody():
    with nodes(1) as [alone]:
        alone.begins(spawn(1, mirrored_ranks=range(0)))

        assert not waits(alone)
        assert [alone.trains(step).step for step in (1, 2, 3)] == [1, 2, 3]


def test_a_snapshot_that_is_written_over_while_it_is_sent_makes_way_for_the_newest(monkeypatch: pytest.MonkeyPatch):
    """A checkpoint waits for no copy. What is whole on the other node stays so meanwhile."""
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        first.trains(1)
        wait_for(lambda: second.steps_of_copies(0) == [1], "the first copy")
        send, written = Connection.send, []

        def send_late(self: Connection, fd: int, span: object) -> None:
            if not written:
                assert second.steps_of_copies(0) == [1]
                written.append(write_image(newest_of(first), 1, 3))
            send(self, fd, span)  # type: ignore[arg-type]

        monkeypatch.setattr(Connection, "send", send_late)
        first.trains(2)

        wait_for(lambda: second.steps_of_copies(0) == [1, 3], "the newest copy")
        assert second.copy(0, 3) == image_bytes(newest_of(first))


def test_memory_of_ranks_that_another_node_copies_elsewhere_is_given_back():
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        second.begins(spawn(1, mirrored_ranks=range(1)))
        first.trains(1)
        wait_for(lambda: second.steps_of_copies(0) == [1], "the copy")

        second.begins(spawn(2, mirrored_ranks=range(1)))
        assert second.steps_of_copies(0) == [1]
        second.begins(spawn(3, mirrored_ranks=range(4, 5)))
        assert second.steps_of_copies(0) == []


# --- and back -------------------------------------------------------------------------------------------------------------


def test_a_node_that_takes_the_place_of_a_lost_one_has_its_snapshots_back():
    with nodes(3) as (lost, buddy, new):
        lost.begins(spawn(1), buddy)
        for step in (1, 2, 3):
            lost.trains(step)
        wait_for(lambda: buddy.steps_of_copies(0) == [2, 3], "the copies")

        new.mirror.begin(OF_A_LATER, new.memory)
        assert waits(new)
        new.mirror.follow(buddy.place)
        wait_for(lambda: not waits(new), "what was copied")

        assert new.steps() == [2, 3]
        assert image_bytes(newest_of(new)) == image_bytes(newest_of(lost))
        assert all(ImageHeader(fd).is_fetched for fd in new.memory[0])
        assert not any(ImageHeader(fd).is_fetched for fd in lost.memory[0])

        new.begins(spawn(3), buddy)
        assert not any(ImageHeader(fd).is_fetched for fd in new.memory[0]), "they are this node's own by now"


def test_what_came_from_another_node_is_not_sent_back_there(monkeypatch: pytest.MonkeyPatch):
    with nodes(3) as (lost, buddy, new):
        lost.begins(spawn(1), buddy)
        lost.trains(1)
        wait_for(lambda: buddy.steps_of_copies(0) == [1], "the copy")
        new.begins(OF_A_LATER, buddy)
        wait_for(lambda: not waits(new), "what was copied")

        new.trains(2, attempt=2)
        wait_for(lambda: buddy.steps_of_copies(0) == [1, 2], "the copy of the new one")
        assert not ImageHeader(newest_of(new)).is_fetched


def test_a_run_that_begins_waits_only_until_the_other_node_says_that_it_has_nothing():
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)

        wait_for(lambda: not waits(first), "the answer")
        assert first.steps() == []


def test_a_node_that_has_its_own_snapshots_fetches_none():
    """And brings a new buddy up to date, as one does whose old buddy was lost."""
    with nodes(3) as (first, lost, new):
        first.begins(spawn(1), lost)
        for step in (1, 2):
            first.trains(step)
        wait_for(lambda: lost.steps_of_copies(0) == [1, 2], "the copies")

        first.mirror.begin(OF_A_LATER, first.memory)
        assert not waits(first)
        first.mirror.follow(new.place)

        wait_for(lambda: new.steps_of_copies(0) == [1, 2], "the copies on the new one")


def test_a_node_that_has_another_place_now_forgets_what_was_of_the_old():
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        first.trains(1)
        wait_for(lambda: second.steps_of_copies(0) == [1], "the copy")

        first.mirror.begin(spawn(2, first_rank=7), first.memory)

        assert first.steps() == []
        assert waits(first)


class SlowBuddy:
    """Answers a fetch after so long on the mirror's clock; `pulses` has what workers had heard before each of its words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: Node, *, answers_after_s: float = 0.0) -> None:
        self.pulses: list[int] = []
        self.monotonic_s = 0.0
        hear = Connection.hear

        def hear_late(connection: Connection, kind: type[object]) -> object:
            if kind in (Answer, Offer):
                self.pulses.append(ImageHeader(node.memory[0][0]).word().pulse)
                self.monotonic_s += answers_after_s
            return hear(connection, kind)

        monkeypatch.setattr(Connection, "hear", hear_late)
        monkeypatch.setattr(mirror, "time", self)

    def monotonic(self) -> float:
        return self.monotonic_s


def test_workers_hear_of_every_word_of_a_buddy_before_the_first_byte(monkeypatch: pytest.MonkeyPatch):
    with nodes(2) as (buddy, new):
        slow = SlowBuddy(monkeypatch, new)
        new.begins(OF_A_LATER, buddy)
        wait_for(lambda: not waits(new), "the answer")

        assert sorted({0, *slow.pulses}) == [0, *slow.pulses], "each time they had heard more"
        assert len(slow.pulses) == 2


def test_memory_that_workers_may_have_given_up_waiting_for_is_left_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    with nodes(3) as (lost, buddy, new):
        lost.begins(spawn(1), buddy)
        lost.trains(1)
        wait_for(lambda: buddy.steps_of_copies(0) == [1], "the copy")
        lost.mirror.close()
        SlowBuddy(monkeypatch, new, answers_after_s=ARRIVAL_BEATS_WITHIN_S + 1)

        new.begins(OF_A_LATER, buddy)

        wait_for(lambda: not waits(new), "its giving up")
        assert all(os.fstat(fd).st_size <= HEADER_BYTES for fd in new.memory[0])
        assert "nothing arrived for 20 s" in caplog.text


def test_a_worker_that_is_killed_while_it_writes_what_is_whole_leaves_nothing_to_wait_for():
    """Neither its successor, to have the copy back, nor that one's snapshots, for what will never be sent."""
    with nodes(3) as (first, buddy, other):
        other.begins(spawn(1), buddy)
        other.trains(1)
        wait_for(lambda: buddy.steps_of_copies(0) == [1], "the copy")
        write_image(first.memory[0][0], 1, 2)
        os.pwrite(first.memory[0][0], b"torn", 100)

        first.begins(OF_A_LATER, buddy)

        wait_for(lambda: not waits(first), "what was copied")
        assert first.steps() == [1]
        assert first.trains(3, attempt=2).step == 3
        assert first.trains(4, attempt=2).step == 4


# --- what goes wrong ------------------------------------------------------------------------------------------------------


def test_a_byte_that_changes_on_the_way_is_sent_again(monkeypatch: pytest.MonkeyPatch):
    pwrite, flipped = os.pwrite, []

    def pwrite_wrong(fd: int, data: bytes, at: int) -> int:
        if not flipped and at > HEADER_BYTES and isinstance(data, memoryview):
            flipped.append(at)
            data = bytes([data[0] ^ 1, *data[1:]])
        return pwrite(fd, data, at)

    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        monkeypatch.setattr(os, "pwrite", pwrite_wrong)
        first.trains(1)

        wait_for(lambda: second.steps_of_copies(0) == [1], "the copy")
        assert flipped
        assert second.copy(0, 1) == image_bytes(newest_of(first))


def test_a_snapshot_that_changed_in_its_own_memory_is_left_and_the_next_is_copied(caplog: pytest.LogCaptureFixture):
    with nodes(2) as (first, second):
        held = write_image(first.memory[0][0], 1, 1)
        os.pwrite(first.memory[0][0], b"!", held.spans[0].start)
        first.begins(spawn(1), second)

        wait_for(lambda: "look at the memory and the network of both nodes" in caplog.text, "the refusal")
        first.trains(2)
        wait_for(lambda: second.steps_of_copies(0) == [2], "the copy of the next")


def test_who_does_not_know_the_token_writes_nothing_and_reads_nothing():
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        first.trains(1)
        wait_for(lambda: second.steps_of_copies(0) == [1], "the copy")

        for verb in Verb:
            with connect(second.place.address, second.place.port) as stranger:
                stranger.tell(Ask(token="guessed", attempt=9, rank=0, verb=verb))
                assert stranger.hear(Answer).refusal == "it does not know the token"
                with pytest.raises(ConnectionError):
                    stranger.hear(Answer)
        assert second.place.token not in repr(second.place)


def test_who_says_nothing_of_sense_is_hung_up_on():
    with nodes(1) as [node], socket.create_connection((node.place.address, node.place.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionError):
            stranger.recv(100)


def test_a_node_of_an_attempt_that_is_over_copies_nothing_any_more():
    """It was cut off, was replaced, and comes back."""
    with nodes(2) as (old, second):
        old.begins(spawn(1), second)
        second.begins(spawn(2, mirrored_ranks=range(1)))

        old.trains(5)
        wait_for(lambda: old.mirror._ranks[0]._is_behind, "the refusal")

        assert second.steps_of_copies(0) == []
        assert not ImageHeader(newest_of(old)).is_awaited


def test_a_buddy_that_is_gone_holds_nobody_up(caplog: pytest.LogCaptureFixture):
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        first.trains(1)
        wait_for(lambda: second.steps_of_copies(0) == [1], "the copy")
        second.mirror.close()

        for step in (2, 3, 4):
            first.trains(step)

        wait_for(lambda: first.mirror._ranks[0]._is_behind, "its giving up")
        assert first.steps() == [3, 4]
        assert len([record for record in caplog.records if "are behind" in record.message]) == 1


def test_a_connection_that_breaks_before_it_is_accepted_is_the_only_one_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    accept, failed = socket.socket.accept, []

    def accept_later(self: socket.socket) -> tuple[socket.socket, object]:
        if not failed:
            failed.append(self)
            raise ConnectionAbortedError("gone before it was heard")
        return accept(self)

    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        monkeypatch.setattr(socket.socket, "accept", accept_later)
        for step in (1, 2, 3):
            first.trains(step)

        wait_for(lambda: second.steps_of_copies(0) == [2, 3], "the copies")
        assert [record.levelname for record in caplog.records if "gone before it was heard" in record.message] == ["WARNING"]


def test_a_buddy_that_comes_back_has_the_newest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "MIRROR_TRIES_AGAIN_AFTER_S", 0.05)
    with nodes(2) as (first, second):
        nowhere = socket.create_server(("127.0.0.1", 0))
        place = replace(second.place, port=nowhere.getsockname()[1])
        nowhere.close()
        first.mirror.begin(spawn(1), first.memory)
        first.mirror.follow(place)
        for step in (1, 2, 3):
            first.trains(step)
        wait_for(lambda: first.mirror._ranks[0]._is_behind, "its giving up")

        first.mirror.follow(second.place)

        wait_for(lambda: second.steps_of_copies(0) == [2, 3], "the copies")
        wait_for(lambda: is_mirrored(first), "the word to the worker")


def test_a_node_without_memory_for_copies_says_so_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(host_memory, "LEFT_FREE_SHARE", 1.0)
    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        for step in (1, 2, 3):
            first.trains(step)

        wait_for(lambda: "set snapshot.mirror=false" in caplog.text, "the refusal")
        assert second.steps_of_copies(0) == []


def test_a_node_without_memory_for_what_it_lost_goes_on_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    with nodes(3) as (lost, buddy, new):
        lost.begins(spawn(1), buddy)
        lost.trains(1)
        wait_for(lambda: buddy.steps_of_copies(0) == [1], "the copy")
        monkeypatch.setattr(host_memory, "LEFT_FREE_SHARE", 1.0)

        new.begins(OF_A_LATER, buddy)

        wait_for(lambda: not waits(new), "its giving up")
        assert new.steps() == []
        assert "set snapshot.mirror=false" in caplog.text


def test_when_nobody_says_where_copies_are_workers_go_on_without(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "BUDDY_KNOWN_WITHIN_S", 0.0)
    with nodes(1) as [node]:
        node.mirror.begin(spawn(1), node.memory)

        wait_for(lambda: not waits(node), "its giving up")


# --- deaths ---------------------------------------------------------------------------------------------------------------

BUDDY = """
import os, sys, time
from orchestrator.node import mirror_wire
from orchestrator.node.mirror_wire import Connection
from tests.orchestrator.node.mirrored import Node, spawn
mine, method = sys.argv[1:]
def stand_still(*_):
    open(mine, "w").close()
    time.sleep(120)
node = Node()
print(node.place.port, node.place.token, flush=True)
for line in sys.stdin:
    if line == "stand still\\n":
        setattr(Connection, method, stand_still)
    print("ok", flush=True)
"""


class BuddyProcess:
    """A buddy that is a process of its own; on demand it stands still in the middle of a copy."""

    def __init__(self, tmp_path: Path, method: str) -> None:
        self.stands = tmp_path / f"stands-{method}"
        arguments = [sys.executable, "-c", BUDDY, str(self.stands), method]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        port, token = self._line().split()
        self.place = MirrorPlace(address="127.0.0.1", port=int(port), token=token)

    def stand_still(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("stand still\n")
        self.process.stdin.flush()
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def buddy_process(tmp_path: Path) -> Iterator[Callable[[str], BuddyProcess]]:
    made: list[BuddyProcess] = []

    def start(method: str) -> BuddyProcess:
        made.append(BuddyProcess(tmp_path, method))
        return made[-1]

    yield start
    for process in made:
        process.close()


def test_a_buddy_that_is_killed_in_the_middle_of_a_copy_holds_nobody_up(buddy_process: Callable[[str], BuddyProcess]):
    buddy = buddy_process("receive")
    with nodes(1) as [node]:
        node.mirror.begin(spawn(1), node.memory)
        node.mirror.follow(buddy.place)
        node.trains(1)
        wait_for(lambda: is_mirrored(node), "the first copy")
        buddy.stand_still()
        node.trains(2)
        wait_for(buddy.stands.exists, "the middle of the second copy")
        assert ImageHeader(newest_of(node)).is_awaited

        buddy.process.kill()

        wait_for(lambda: not ImageHeader(newest_of(node)).is_awaited, "its giving up")
        assert [node.trains(step).step for step in (3, 4)] == [3, 4]


def test_a_buddy_that_is_killed_while_its_copies_are_fetched_leaves_workers_with_what_is_whole(
    buddy_process: Callable[[str], BuddyProcess],
):
    buddy = buddy_process("send")
    with nodes(2) as (lost, new):
        lost.mirror.begin(spawn(1), lost.memory)
        lost.mirror.follow(buddy.place)
        lost.trains(1)
        wait_for(lambda: is_mirrored(lost), "the copy")
        buddy.stand_still()
        new.mirror.begin(OF_A_LATER, new.memory)
        new.mirror.follow(buddy.place)
        wait_for(buddy.stands.exists, "the middle of the way back")
        assert waits(new)

        buddy.process.kill()

        wait_for(lambda: not waits(new), "its giving up")
        assert new.steps() == []


def test_a_node_that_dies_in_the_middle_of_a_copy_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch):
    with nodes(3) as (lost, buddy, new):
        lost.begins(spawn(1), buddy)
        lost.trains(1)
        wait_for(lambda: buddy.steps_of_copies(0) == [1], "the copy")

        def die(self: Connection, fd: int, span: object) -> None:
            os.write(self._socket.fileno(), b"its first bytes")
            lost.mirror.close()
            raise ConnectionError

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "send", die)
            lost.trains(2)
            wait_for(lambda: lost.mirror._ranks[0]._is_over, "its end")

        new.begins(OF_A_LATER, buddy)
        wait_for(lambda: not waits(new), "what was copied")
        assert new.steps() == [1]
        new.trains(3, attempt=2)
        wait_for(lambda: buddy.steps_of_copies(0) == [1, 3], "the copy of what follows")


def test_nothing_is_left_when_a_mirror_is_closed():
    def memory() -> list[str]:
        own = Path("/proc/self/fd")
        return [name for fd in os.listdir(own) if (own / fd).exists() and "braid-snapshot" in (name := os.readlink(own / fd))]

    with nodes(2) as (first, second):
        first.begins(spawn(1), second)
        first.trains(1)
        wait_for(lambda: second.steps_of_copies(0) == [1], "the copy")
        assert len(memory()) > 4

    wait_for(lambda: not memory(), "the end of its threads")
