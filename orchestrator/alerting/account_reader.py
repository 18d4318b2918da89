"""Where the run's time went, read from the store now and then by a thread of its own, for alerts and for Prometheus."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from data_pipeline.store.protocol import ObjectStore
from orchestrator.control.history import KINDS, fold
from orchestrator.deadlines import ACCOUNT_READ_EVERY_S
from orchestrator.errors import is_expected
from orchestrator.health.account import account_of
from orchestrator.health.totals import Totals, totals_of
from orchestrator.records.journal import read_journal
from orchestrator.records.ledger import read_columns

SHARE = 0.02
"""Of the time, at most, is spent reading: a run of a million steps is read less often."""
log = logging.getLogger(__name__)


def read_totals(run_store: ObjectStore, *, now_s: float) -> Totals:
    """Raises StoreError, JournalBroken, DecodeError."""
    entries = read_journal(run_store, KINDS)
    state = fold(entries)
    steps = read_columns(run_store, last_attempt=state.attempt)
    return totals_of(account_of(entries, steps, now_s=now_s), state.incidents)


class AccountReader:
    """`totals` may be asked for from any thread."""

    def __init__(self, read: Callable[[], Totals], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._stopping = threading.Event()
        self._is_in_trouble = False
        self._thread = threading.Thread(target=self._read_on, name="account", daemon=True)
        self.totals: Totals | None = None
        """As last read; None before that."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def look(self) -> float:
        """Reads once, and returns how long to wait before the next time. Raises nothing."""
        began_s = self._clock()
        try:
            self.totals = self._read()
            self._is_in_trouble = False
        except Exception as error:  # whatever it is: a thread that ended would leave the numbers as they are
            if not self._is_in_trouble:
                log.warning("the account of the run's time can't be read, trying again: %s", error, exc_info=not is_expected(error))
            self._is_in_trouble = True
        return max(ACCOUNT_READ_EVERY_S, (self._clock() - began_s) / SHARE)

    def _read_on(self) -> None:
        while not self._stopping.wait(self.look()):
            pass
