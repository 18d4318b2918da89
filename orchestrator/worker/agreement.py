"""Doing things together: where one rank fails, every rank raises the same error, so that all take the same way from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from data_pipeline.store.protocol import StoreError
from orchestrator import codec
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, Fenced, NoCheckpoint

T = TypeVar("T")
EXPECTED = (Fenced, ConfigMismatch, NoCheckpoint, codec.DecodeError, StoreError, CheckpointCorrupt)
"""Which can be agreed upon. When ranks fail differently, the earlier kind counts."""


def on_every_rank(group: dist.ProcessGroup, action: Callable[[], T]) -> T:
    """This rank's result of `action`, once it has succeeded everywhere."""
    result: T
    failure: Exception | None = None
    try:
        result = action()
    except EXPECTED as error:
        failure = error
    failures: list[Exception | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(failures, failure, group=group)
    if any(failures):
        raise _most_telling(filter(None, failures))
    return result


def on_first_rank(group: dist.ProcessGroup, action: Callable[[], T]) -> T:
    """The first rank's result of `action`, on every rank."""
    answer: list[T | Exception | None] = [None]
    if dist.get_rank(group) == 0:
        try:
            answer = [action()]
        except EXPECTED as error:
            answer = [error]
    dist.broadcast_object_list(answer, group=group, group_src=0)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]  # type: ignore[return-value]


def unwrapped(action: Callable[[], T]) -> T:
    """Runs a collective of DCP and raises what really went wrong: its CheckpointException is no Exception, and has it wrapped."""
    try:
        return action()
    except CheckpointException as error:
        raise _most_telling(failure for failure, _ in error.failures.values()) from error


def _most_telling(failures: Iterable[BaseException]) -> BaseException:
    def rank_of_kind(failure: BaseException) -> int:
        return next((place for place, kind in enumerate(EXPECTED) if isinstance(failure, kind)), -1)

    return min(failures, key=rank_of_kind)
