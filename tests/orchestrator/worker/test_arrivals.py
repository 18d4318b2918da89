"""A worker waits for a snapshot that is on its way into its memory, and not for one that does not get on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from orchestrator.deadlines import ARRIVAL_BEATS_WITHIN_S, ARRIVAL_STALLS_S, BUDDY_KNOWN_WITHIN_S, MIRROR_STALLS_S
from orchestrator.image_header import ImageHeader, Word
from orchestrator.worker.arrivals import wait_for_arrivals
from orchestrator.worker.image import new_memory


@pytest.fixture
def header() -> Iterator[ImageHeader]:
    [fd] = new_memory(["first"])
    yield ImageHeader(fd)
    os.close(fd)


class Clock:
    """Passes while one sleeps, which is when something happens."""

    def __init__(self, happens: Callable[[float], None] = lambda now_s: None) -> None:
        self.now_s = 0.0
        self._happens = happens

    def now(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        self._happens(self.now_s)


def waited_s(header: ImageHeader, clock: Clock) -> float:
    wait_for_arrivals([header.fd], now=clock.now, sleep=clock.sleep)
    return clock.now_s


def test_memory_into_which_nothing_comes_is_not_waited_for(header: ImageHeader):
    assert waited_s(header, Clock()) == 0.0


def test_what_goes_on_arriving_is_waited_for_however_long_it_takes(header: ImageHeader):
    header.say(Word(is_arriving=True))

    def arrive(now_s: float) -> None:
        header.say(replace(header.word(), is_arriving=now_s < 500, pulse=int(now_s / 20)))

    assert waited_s(header, Clock(arrive)) == pytest.approx(500, abs=1)


def test_what_does_not_get_on_is_done_without(header: ImageHeader, caplog: pytest.LogCaptureFixture):
    header.say(Word(is_arriving=True, pulse=7))

    assert waited_s(header, Clock()) == pytest.approx(ARRIVAL_STALLS_S, abs=1)
    assert "going on without" in caplog.text


def test_an_agent_gives_up_before_its_worker_does():
    assert max(BUDDY_KNOWN_WITHIN_S, MIRROR_STALLS_S, ARRIVAL_BEATS_WITHIN_S) < ARRIVAL_STALLS_S
