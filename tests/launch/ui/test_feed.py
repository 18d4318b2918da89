"""One look for everybody who follows."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest

from launch.errors import NoSuchRun, UserError
from launch.ui.feed import Feed, without_ages

WAIT_S = 20.0


class Looks:
    """Sees what it is given, one after the other, then the last again and again; an error is raised."""

    def __init__(self, *seen: dict[str, Any] | Exception) -> None:
        self._seen: Iterator[dict[str, Any] | Exception] = iter(seen)
        self._last: dict[str, Any] | Exception = {}
        self.count = 0
        self.threads: set[str] = set()

    def __call__(self) -> dict[str, Any]:
        self.count += 1
        self.threads.add(threading.current_thread().name)
        self._last = next(self._seen, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last


def play(story: Callable[[ThreadPoolExecutor], Awaitable[None]]) -> None:
    with ThreadPoolExecutor(4, thread_name_prefix="looking") as pool:
        asyncio.run(asyncio.wait_for(story(pool), WAIT_S))


def test_what_is_new_is_told_and_what_only_grows_older_is_not() -> None:
    looks = Looks({"step": 1, "age_s": 0.0}, {"step": 1, "age_s": 1.0}, {"step": 2, "age_s": 0.0})

    async def story(pool: ThreadPoolExecutor) -> None:
        async with aclosing(Feed(looks, pool=pool, poll_s=0.01).follow(WAIT_S)) as following:
            states = [json.loads((await anext(following)).text)["step"] for _ in range(2)]
        assert states == [1, 2]

    play(story)
    assert all(name.startswith("looking") for name in looks.threads), "a slow store holds up a thread, not the page"


def test_many_who_follow_cost_one_look() -> None:
    looks = Looks({"step": 1})

    async def story(pool: ThreadPoolExecutor) -> None:
        feed = Feed(looks, pool=pool, poll_s=60.0)
        following = [feed.follow(WAIT_S) for _ in range(100)]
        said = await asyncio.gather(*(anext(one) for one in following))
        assert {one.version for one in said} == {1}
        for one in following:
            await one.aclose()
        feed.close()

    play(story)
    assert looks.count == 1


def test_a_look_that_fails_is_trouble_beside_what_was_seen_last() -> None:
    looks = Looks({"step": 1}, UserError("the store is\n away"), {"step": 1})

    async def story(pool: ThreadPoolExecutor) -> None:
        async with aclosing(Feed(looks, pool=pool, poll_s=0.01).follow(WAIT_S)) as following:
            said = [json.loads((await anext(following)).text) for _ in range(3)]
        assert [(one["step"], one["trouble"]) for one in said] == [(1, ""), (1, "the store is away"), (1, "")]

    play(story)


def test_a_first_look_that_fails_is_raised() -> None:
    async def story(pool: ThreadPoolExecutor) -> None:
        feed = Feed(Looks(NoSuchRun("run 'x': not there")), pool=pool, poll_s=0.01)
        with pytest.raises(NoSuchRun):
            await feed.now()

    play(story)


def test_silence_is_broken_by_the_same_once_more_and_ended_by_closing() -> None:
    async def story(pool: ThreadPoolExecutor) -> None:
        feed = Feed(Looks({"step": 1}), pool=pool, poll_s=0.01)
        async with aclosing(feed.follow(0.02)) as following:
            assert [(await anext(following)).version for _ in range(3)] == [1, 1, 1]
            feed.close()
            assert [one async for one in following] == []

    play(story)


def test_ages_are_left_out_wherever_they_are() -> None:
    assert without_ages({"a": [{"last_progress_s": 1, "step": 2}], "age_s": 3}) == {"a": [{"step": 2}]}
