"""The snapshots of a node's ranks, on another node too: each is copied there once it is whole, and back where this node has none."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from orchestrator.codec import DecodeError
from orchestrator.deadlines import ARRIVAL_BEATS_WITHIN_S, BUDDY_KNOWN_WITHIN_S, MIRROR_LOOKS_EVERY_S, MIRROR_TRIES_AGAIN_AFTER_S
from orchestrator.image_header import ImageHeader, Word
from orchestrator.messages import MirrorPlace
from orchestrator.node.mirror_copies import Copies
from orchestrator.node.mirror_memory import ImageMemory
from orchestrator.node.mirror_server import MirrorServer, start_server
from orchestrator.node.mirror_wire import Answer, Ask, Connection, CopyRefused, Offer, Outdated, Verb, connect, receive_image, send_image
from orchestrator.node.orders import SpawnOrder

NUM_HANDS = min(4, os.cpu_count() or 1)
"""Threads that digest what arrives."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a rank's mirror is about; each is another one."""

    attempt: int = 0
    rank: int = 0
    buddy: MirrorPlace | None = None
    """None: not known, or nobody."""
    buddy_known_by_s: float = 0.0


class RankMirror:
    """Of the rank that has a place on this node: a thread, which reads its files and writes them where they hold nothing."""

    def __init__(self, files: Sequence[int], memory: ImageMemory, hands: Executor) -> None:
        self._images = [ImageHeader(os.dup(fd)) for fd in files]
        self._memory = memory
        self._hands = hands
        self._lock = threading.RLock()
        """Also for who uses the images, unless in the thread, which closes them at its end."""
        self._task = Task()
        self._connection: Connection | None = None
        self._is_over = False
        self._is_behind = False
        """The buddy could not be reached, which was logged."""
        self._told: Task | None = None
        """For which it was logged that copies are made."""
        self._beat_s = 0.0
        """When workers who wait last heard that something arrives."""
        self._changed = threading.Event()
        threading.Thread(target=self._serve, name="mirror", daemon=True).start()

    def begin(self, task: Task, *, awaits_copy: bool, is_another: bool) -> None:
        """Before the workers of another attempt start. With `awaits_copy`, they wait for what the buddy may have where nothing is here.

        `is_another`: what is here is of another rank. A header that a worker was killed over counts as nothing to everybody from here on.
        """
        self._turn_to(task)
        with self._lock:
            for image in self._images:
                if is_another or image.held() is None:
                    image.hold(None)
            is_arriving = awaits_copy and not any(image.held() for image in self._images)
            self._beat_s = time.monotonic()
            self._say_of_all(task, **asdict(Word(is_arriving=is_arriving)))

    def follow(self, buddy: MirrorPlace) -> None:
        """Where the copies of this attempt are."""
        if self._task.buddy != buddy:
            self._turn_to(replace(self._task, buddy=buddy))

    def end(self) -> None:
        self._is_over = True
        self._turn_to(Task())

    def _turn_to(self, task: Task) -> None:
        """What is under way for another one comes to nothing."""
        with self._lock:
            self._task, self._is_behind = task, False
            if self._connection is not None:
                self._connection.abort()
        self._changed.set()

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._is_over:
                self._look()
        except Exception:
            log.exception("rank %d: no more copies are made of its snapshots", self._task.rank)
            self._say_of_all(self._task, is_mirrored=False, is_arriving=False)
            raise
        finally:
            with self._lock:
                images, self._images = self._images, []
                for image in images:
                    os.close(image.fd)

    def _look(self) -> None:
        self._changed.clear()
        task, pause_s = self._task, MIRROR_LOOKS_EVERY_S
        try:
            self._see_to(task)
        except (OSError, DecodeError, CopyRefused) as error:
            self._give_up(task, str(error))
            pause_s = MIRROR_TRIES_AGAIN_AFTER_S
        self._changed.wait(pause_s)

    def _see_to(self, task: Task) -> None:
        if task.buddy is None:
            if self._awaits_copy() and time.monotonic() > task.buddy_known_by_s:
                self._give_up(task, "nobody says where they are")
            return
        if self._awaits_copy():
            self._fetch(task, task.buddy)
        while task is self._task and (image := self._newest_to_send()) is not None:
            self._send(task, task.buddy, image)

    def _awaits_copy(self) -> bool:
        return any(image.word().is_arriving for image in self._images)

    def _newest_to_send(self) -> ImageHeader | None:
        behind = [image for image in self._images if image.digest() not in (b"", image.word().mirrored)]
        found = [(held.name, image) for image in behind if (held := image.held()) is not None]
        return max(found, key=lambda one: one[0], default=(None, None))[1]

    def _send(self, task: Task, buddy: MirrorPlace, image: ImageHeader) -> None:
        digest, held = image.digest(), image.held()
        if held is None:
            return
        started_s = time.monotonic()
        with self._connected(task, buddy, Verb.KEEP) as connection:
            self._say_of_all(task, is_mirrored=True)
            try:
                send_image(connection, image, Offer(held=held, beside=self._beside(image)), digest)
            except Outdated:
                return
            except CopyRefused:
                self._say(task, image, mirrored=digest)  # the next one may be taken: this one won't be
                raise
        self._say(task, image, mirrored=digest)
        if self._is_behind or self._told is not task:
            took = f"{time.monotonic() - started_s:.2f} s, {held.size_bytes / 1e6:.0f} MB"
            log.info("rank %d: its snapshots are on %s too (step %d: %s)", task.rank, buddy.address, held.step, took)
        self._is_behind, self._told = False, task

    def _beside(self, image: ImageHeader) -> tuple[int, int] | None:
        """Of the other snapshot that is whole."""
        return next((held.name for other in self._images if other is not image and (held := other.held()) is not None), None)

    def _fetch(self, task: Task, buddy: MirrorPlace) -> None:
        started_s, beat = time.monotonic(), partial(self._beat, task)
        beat()
        with self._connected(task, buddy, Verb.GIVE) as connection:
            beat()
            for image in self._images:
                if (held := connection.hear(Offer).held) is None:
                    break
                beat()
                receive_image(connection, image, held, self._hands, lay_out=self._memory.lay_out, on_life=beat)
                self._say(task, image, is_arriving=False, fetched=image.digest(), mirrored=image.digest())
                took_s = time.monotonic() - started_s
                log.info("rank %d: has the snapshot of step %d back from %s after %.2f s", task.rank, held.step, buddy.address, took_s)
        self._say_of_all(task, is_arriving=False)

    @contextmanager
    def _connected(self, task: Task, buddy: MirrorPlace, verb: Verb) -> Iterator[Connection]:
        with connect(buddy.address, buddy.port) as connection:
            with self._lock:
                if task is not self._task:
                    raise ConnectionError("nobody wants it any more")
                self._connection = connection
            try:
                self._beat(task)
                connection.tell(Ask(token=buddy.token, attempt=task.attempt, rank=task.rank, verb=verb))
                if refusal := connection.hear(Answer).refusal:
                    raise CopyRefused(refusal)
                yield connection
            finally:
                with self._lock:
                    self._connection = None

    def _give_up(self, task: Task, why: str) -> None:
        """For now: workers wait for nothing meanwhile."""
        if task is self._task and not self._is_behind:
            where = task.buddy.address if task.buddy is not None else "another node"
            log.warning("rank %d: copies on %s are behind: %s", task.rank, where, why)
            self._is_behind = True
        self._say_of_all(task, is_mirrored=False, is_arriving=False)

    # --- what it says to the worker --------------------------------------------------------------------------------------

    def _beat(self, task: Task) -> None:
        """Workers who wait hear that it gets on. Raises TimeoutError where it did not for so long that they may wait no more."""
        arriving = [image for image in self._images if image.word().is_arriving]
        if arriving and time.monotonic() > self._beat_s + ARRIVAL_BEATS_WITHIN_S:
            raise TimeoutError(f"nothing arrived for {ARRIVAL_BEATS_WITHIN_S:.0f} s")
        self._beat_s = time.monotonic()
        for image in arriving:
            self._say(task, image, pulse=image.word().pulse + 1)

    def _say_of_all(self, task: Task, **changes: Any) -> None:
        for image in self._images:
            self._say(task, image, **changes)

    def _say(self, task: Task, image: ImageHeader, **changes: Any) -> None:
        """Nothing, for a task that is over."""
        with self._lock:
            before = image.word()
            if task is self._task and (after := replace(before, **changes)) != before:
                image.say(after)


class Mirror:
    """A node's: of the ranks on it, and of those whose buddy it is. For the agent's thread, but `place` is anybody's."""

    def __init__(self, server: MirrorServer | None, copies: Copies, hands: ThreadPoolExecutor) -> None:
        """`server`: None where none could be started; others can't copy anything here then."""
        self._server = server
        self._copies = copies
        self._hands = hands
        self._ranks: list[RankMirror] = []
        """By local rank."""
        self._own_files: set[int] = set()
        self._attempt = self._first_rank = 0

    @property
    def place(self) -> MirrorPlace | None:
        """Where other agents reach this one."""
        return self._server.place if self._server is not None else None

    def begin(self, order: SpawnOrder, memory: Sequence[Sequence[int]]) -> None:
        """Before the attempt's workers start; `memory` has their files, by local rank."""
        self._copies.begin(order.attempt, order.mirrored_ranks)
        self._own_files.update(fd for files in memory for fd in files)
        self._copies.memory.add(self._own_files)
        has_buddy = bool(order.mirrored_ranks)
        for files in memory[len(self._ranks) :] if has_buddy else ():
            self._ranks.append(RankMirror(files, self._copies.memory, self._hands))
        for local_rank, rank in enumerate(self._ranks):
            task = Task(attempt=order.attempt, rank=order.first_rank + local_rank, buddy_known_by_s=time.monotonic() + BUDDY_KNOWN_WITHIN_S)
            is_another = self._attempt > 0 and order.first_rank != self._first_rank
            rank.begin(task, awaits_copy=has_buddy and local_rank < order.num_workers, is_another=is_another)
        self._attempt, self._first_rank = order.attempt, order.first_rank

    def follow(self, buddy: MirrorPlace | None) -> None:
        """Where copies of this attempt's snapshots are; None while that is not known, or for nowhere."""
        if buddy is not None:
            for rank in self._ranks:
                rank.follow(buddy)

    def close(self) -> None:
        """The memory of copies is given back; the node's own files may be closed then."""
        if self._server is not None:
            self._server.close()
        for rank in self._ranks:
            rank.end()
        self._copies.memory.remove(self._own_files)
        self._copies.close()


def build_mirror(address: str) -> Mirror:
    """On a node that others reach by this address."""
    copies, hands = Copies(), ThreadPoolExecutor(NUM_HANDS, thread_name_prefix="mirror digest")
    try:
        return Mirror(start_server(address, copies, hands), copies, hands)
    except OSError as error:
        log.error("no copies of other nodes' snapshots can be kept here: %s", error)
        return Mirror(None, copies, hands)
