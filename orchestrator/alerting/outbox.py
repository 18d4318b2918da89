"""What was told of a run, kept on the store, so that a new controller goes on where the one before was killed.

    alerts/journal/000000000001.json    an event each, in the journal's form; of two controllers the newer one writes

News is recorded before it is sent, and that it was sent afterwards. So a message is sent again only where a controller died between the
two, and bears the same id then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from data_pipeline.store.protocol import MAY_PASS, ObjectStore
from orchestrator.alerting.state import ALERT_EVENT_KINDS, AlertEvent, AlertState, Begun, after
from orchestrator.deadlines import ALERTS_UNWRITTEN_FOR_S
from orchestrator.errors import Superseded
from orchestrator.records.journal import Journal, open_journal
from orchestrator.records.keys import JOURNAL, journal_key

NOTHING_DECIDED: dict[str, object] = {}
"""Said of every entry, so that another version may read it, less the fields that it does not know."""


class Outbox:
    """One controller's end. Make it with `open_outbox` or `forgetful_outbox`. For one thread at a time."""

    def __init__(
        self, store: ObjectStore | None, journal: Journal[AlertEvent] | None, state: AlertState, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._unwritten: list[AlertEvent] = []
        self._away_since_s: float | None = None
        self.state = state

    def note(self, events: Iterable[AlertEvent]) -> None:
        """They count from now on; `write` makes them durable."""
        for event in events:
            self.state = after(self.state, event)
            if self._journal is not None:
                self._unwritten.append(event)

    def write(self) -> None:
        """Tries to write what is not durable yet, and leaves it for the next time while the store is away.

        Raises Superseded once a newer controller has the run.
        """
        if self._journal is None:
            return
        try:
            while self._unwritten:
                self._journal.append(self._unwritten[0], NOTHING_DECIDED)
                del self._unwritten[0]
            self._away_since_s = None
        except MAY_PASS:
            self._away_since_s = self._clock() if self._away_since_s is None else self._away_since_s

    def may_send(self) -> bool:
        """Whether what is known is recorded, and no newer controller has begun; or the store is away for so long that this can't be asked.

        Raises Superseded.
        """
        if self._store is None or self._journal is None:
            return True
        if self._unwritten:
            return self._away_since_s is not None and self._clock() - self._away_since_s >= ALERTS_UNWRITTEN_FOR_S
        try:
            newer = self._store.list(JOURNAL, after=journal_key(len(self._journal.entries)))
        except MAY_PASS:
            return False
        if newer:
            raise Superseded("another controller tells of this run")
        return True


def forgetful_outbox() -> Outbox:
    """For a run that nobody is told of: what holds is kept in memory alone."""
    return Outbox(None, None, AlertState(), lambda: 0.0)


def open_outbox(store: ObjectStore, *, epoch: int, receivers: tuple[str, ...], now_s: float, clock: Callable[[], float]) -> Outbox:
    """`store` is that of the run's alerts. Raises Superseded where a newer controller has begun, StoreError, JournalBroken."""
    while True:
        journal = open_journal(store, ALERT_EVENT_KINDS)
        state = AlertState()
        for entry in journal.entries:
            state = after(state, entry.event)
        if state.epoch > epoch:
            raise Superseded(f"controller {state.epoch} tells of this run")
        begun = Begun(at_s=now_s, epoch=epoch, receivers=receivers)
        try:
            journal.append(begun, NOTHING_DECIDED)
        except Superseded:
            continue  # the controller before this one, or a newer one, wrote meanwhile
        return Outbox(store, journal, after(state, begun), clock)
