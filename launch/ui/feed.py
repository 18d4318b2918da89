"""One look for everybody: what a page shows is read once, however many pages show it, and sent on when something changed."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from launch.errors import UserError
from launch.show.answer_json import answer_json
from orchestrator.errors import is_expected

AGES = frozenset(["written_s_ago", "seen_s_ago", "last_progress_s", "silent_s", "age_s", "left_s"])
"""Keys whose values grow by themselves; a page counts on, so that they alone are no news."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a feed has to say at a moment."""

    version: int
    """Another one where something changed."""
    age_s: float
    """Since it was read."""
    text: str
    """JSON."""


class Feed:
    """What `look` sees. It is called in a thread of `pool`, every `poll_s` while somebody follows, and never twice at once.

    A look that fails is told as `trouble` beside what was seen last. For one event loop.
    """

    def __init__(
        self,
        look: Callable[[], dict[str, Any]],
        *,
        pool: Executor,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._pool, self._poll_s, self._clock = look, pool, poll_s, clock
        self._looking = asyncio.Lock()
        self._news = asyncio.Event()
        self._followers = 0
        self._closed = False
        self._polling: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = {}
        self._text = "{}"
        self._version = 0
        self._seen_at_s = -1e9
        self._tried_at_s = -1e9

    @property
    def is_followed(self) -> bool:
        return self._followers > 0

    async def now(self) -> Said:
        """What there is, not older than a look at the usual pace. Raises what the very first look raised."""
        async with self._looking:
            if self._clock() - self._tried_at_s >= self._poll_s:
                await self._look_once()
        return self._said()

    async def follow(self, heartbeat_s: float) -> AsyncGenerator[Said, None]:
        """What there is, then what is new; after `heartbeat_s` without news the same once more. Raises as `now`."""
        said = await self.now()
        self._followers += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            while not self._closed:
                yield said
                news = self._news
                if self._version == said.version and not self._closed:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(heartbeat_s):
                            await news.wait()
                said = self._said()
        finally:
            self._followers -= 1

    def close(self) -> None:
        """Looks no more, and lets those who follow go."""
        self._closed = True
        if self._polling is not None:
            self._polling.cancel()
        self._news.set()

    async def _poll(self) -> None:
        while self._followers:
            await asyncio.sleep(self._poll_s)
            async with self._looking:
                await self._look_once()

    async def _look_once(self) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, self._look)
        except Exception as error:  # whatever it is, who looks at the page must be told
            if not self._version:
                raise
            if not isinstance(error, UserError) and not is_expected(error):
                log.exception("a look failed")
            self._keep({**self._state, "trouble": " ".join(f"{error}".split()) or type(error).__name__})
        else:
            self._seen_at_s = self._clock()
            self._keep({"trouble": "", **found})
        finally:
            self._tried_at_s = self._clock()

    def _keep(self, state: dict[str, Any]) -> None:
        is_news = not self._version or without_ages(state) != without_ages(self._state)
        self._state, self._text = state, answer_json(state)
        if is_news:
            self._version += 1
            self._news.set()
            self._news = asyncio.Event()

    def _said(self) -> Said:
        return Said(version=self._version, age_s=round(self._clock() - self._seen_at_s, 3), text=self._text)


def without_ages(value: Any) -> Any:
    """A state without what grows by itself: two that are equal so have no news for each other."""
    if isinstance(value, dict):
        return {key: without_ages(one) for key, one in value.items() if key not in AGES}
    return [without_ages(one) for one in value] if isinstance(value, list | tuple) else value
