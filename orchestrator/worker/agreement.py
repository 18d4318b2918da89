"""Doing things together: where one rank fails, every rank raises the same error, so that all take the same way from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from orchestrator.errors import agreement_order

T = TypeVar("T")


def on_every_rank(group: dist.ProcessGroup, action: Callable[[], T]) -> T:
    """This rank's result of `action`, once it has succeeded everywhere. An error that can't be agreed on is raised on this rank alone."""
    result: T
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        if agreement_order(error) is None:
            raise
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
        except Exception as error:
            if agreement_order(error) is None:
                raise
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
    """What can't be agreed on says more than what can."""

    def order(failure: BaseException) -> int:
        found = agreement_order(failure)
        return -1 if found is None else found

    return min(failures, key=order)
