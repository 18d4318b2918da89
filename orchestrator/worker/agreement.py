"""Doing things together: where one rank fails, every rank learns of it, so that all take the same way from there.

What every rank meets, all raise. What only some do may be the fault of one host (its way to the store, another version of braid there): it
is raised on one of these ranks alone, and PeerFailed elsewhere, so that who restarts them can tell it from what every host says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from data_pipeline.store.protocol import StoreError
from orchestrator.codec import DecodeError
from orchestrator.errors import Diverged, Fenced, PeerFailed, agreement_order
from orchestrator.worker.exchange import Exchange

T = TypeVar("T")
NUM_NAMED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Something that ranks did together, and that failed on some."""

    error: Exception
    """The most telling error: what can't be agreed on says more than what can, and then the order of `errors.ERRORS` counts."""
    rank: int
    """Whose error that is; where several ranks have such a one, the lowest."""
    ranks: tuple[int, ...]
    """The ranks that failed, the first seven of them and the last: between these two are the nodes of all of them."""
    num_alike: int
    """How many ranks have an error of the same class."""


def on_every_rank(exchange: Exchange, action: Callable[[], T]) -> T:
    """This rank's result of `action`, once it has succeeded everywhere. An error that can't be agreed on is raised on this rank alone."""
    result = try_on_every_rank(exchange, action)
    if isinstance(result, Failure):
        raise_failure(exchange, result)
    return result


def raise_failure(exchange: Exchange, failure: Failure) -> NoReturn:
    """Raises the agreed error; one that not all ranks meet on its rank alone, unless what it says is of the run: its past, its weights."""
    is_everybodys = failure.num_alike == exchange.world_size or isinstance(failure.error, Fenced | Diverged)
    _raise(exchange, failure.error, failure.rank, is_everybodys=is_everybodys)


def try_on_every_rank(exchange: Exchange, action: Callable[[], T]) -> T | Failure:
    """As `on_every_rank`, but the agreed error is returned, the same on every rank."""
    result = result_of(action)
    has_failed = isinstance(result, Exception)
    if exchange.count(has_failed) == 0:
        return result  # type: ignore[return-value]
    errors = exchange.gather(result if has_failed else None)
    return exchange.broadcast(None if errors is None else failure_among(errors))  # type: ignore[return-value]


def on_first_rank(exchange: Exchange, action: Callable[[], T]) -> T:
    """The first rank's result of `action`, on every rank."""
    return on_one_rank(exchange, 0, action)


def on_one_rank(exchange: Exchange, rank: int, action: Callable[[], T]) -> T:
    """The result of `action` on `rank`, on every rank. What only that one can't read or decode is its own error."""
    result = exchange.broadcast(result_of(action) if exchange.rank == rank else None, source=rank)
    if isinstance(result, Exception):
        _raise(exchange, result, rank, is_everybodys=not isinstance(result, StoreError | DecodeError))
    return result  # type: ignore[return-value]


def result_of(action: Callable[[], T]) -> T | Exception:
    """What it returns, or the error that it raises where ranks agree on such; any other is raised."""
    try:
        return action()
    except Exception as error:
        if agreement_order(error) is None:
            raise
        return error


def failure_among(results: Sequence[object]) -> Failure | None:
    """What went wrong, given a result or an error of every rank, by rank; None where there is no error."""
    errors = {rank: result for rank, result in enumerate(results) if isinstance(result, Exception)}
    if not errors:
        return None
    rank = min(errors, key=lambda rank: _order(errors[rank]))
    ranks = tuple(errors)
    named = ranks if len(ranks) <= NUM_NAMED else (*ranks[: NUM_NAMED - 1], ranks[-1])
    num_alike = sum(type(error) is type(errors[rank]) for error in errors.values())
    return Failure(error=errors[rank], rank=rank, ranks=named, num_alike=num_alike)


def _raise(exchange: Exchange, error: Exception, rank: int, *, is_everybodys: bool) -> NoReturn:
    if not is_everybodys and exchange.rank != rank:
        raise PeerFailed(f"rank {rank} can't go on, see its error")
    raise error


def _order(error: Exception) -> int:
    found = agreement_order(error)
    return -1 if found is None else found
