"""Waiting for snapshots that the node's agent has back from another node."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from orchestrator.deadlines import ARRIVAL_LOOKS_EVERY_S, ARRIVAL_STALLS_S
from orchestrator.image_header import ImageHeader, Word

log = logging.getLogger(__name__)


def wait_for_arrivals(
    memory: Sequence[int], *, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Returns when nothing is on its way into these files, or does not get on: they are their worker's then."""
    headers = [ImageHeader(fd) for fd in memory]
    seen: tuple[Word, ...] = ()
    since_s = now()
    while words := tuple(word for header in headers if (word := header.word()).is_arriving):
        if words != seen:
            seen, since_s = words, now()
        if now() - since_s > ARRIVAL_STALLS_S:
            log.warning("a snapshot from another node does not arrive, going on without; the log of this node's agent says more")
            return
        sleep(ARRIVAL_LOOKS_EVERY_S)
