"""The beginning of an attempt: older ones are fenced off, and the first rank holds what it writes beside checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipeline.store.protocol import ObjectStore
from orchestrator.records.commit_log import CommitLog, open_commit_log
from orchestrator.records.ledger import Ledger, build_ledger
from orchestrator.worker.agreement import on_every_rank, on_first_rank
from orchestrator.worker.exchange import Exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class FencedAttempt:
    """An attempt that has begun, as one of its ranks sees it."""

    number: int
    commit_log: CommitLog | None
    """Held by the first rank; None on any other."""
    ledger: Ledger | None
    """Held by the first rank, which writes it; None on any other."""


def begin_attempt(run_store: ObjectStore, exchange: Exchange, number: int | None) -> FencedAttempt:
    """Begins attempt `number`, or the run's next for None, and fences every older one, which can commit nothing from here on.

    Raises Fenced where a newer one has begun, the same on every rank; StoreError or DecodeError on the first, PeerFailed on all others.
    """
    is_first = exchange.rank == 0
    commit_log = on_every_rank(exchange, lambda: open_commit_log(run_store) if is_first else None)
    number = on_first_rank(exchange, lambda: _fence(commit_log, number))
    return FencedAttempt(number=number, commit_log=commit_log, ledger=build_ledger(run_store, attempt=number) if is_first else None)


def _fence(commit_log: CommitLog | None, number: int | None) -> int:
    assert commit_log is not None, "only the first rank writes it"
    if number is None:
        return commit_log.fence_next()
    commit_log.fence(number)
    return number
