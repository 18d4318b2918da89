"""A run's journal and the state that it leaves behind: each entry is an event and what was decided because of it.

Folding applies what was decided, and decides nothing: another version of braid, with other verdicts, reads the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data_pipeline.store.protocol import ObjectStore
from orchestrator import codec
from orchestrator.control.changes import Plain, apply, changes
from orchestrator.control.earlier import EARLIER_KINDS, as_now, state_after
from orchestrator.control.events import EVENT_KINDS, Event
from orchestrator.control.state import RunState
from orchestrator.control.transition import transition
from orchestrator.errors import JournalBroken
from orchestrator.records.journal import Entry, Journal, Lost, new_journal, open_journal, read_journal

KINDS = {**EARLIER_KINDS, **EVENT_KINDS, Lost.__name__: Lost}


class History:
    """One writer's end. Make it with `open_history` or `new_history`."""

    def __init__(self, journal: Journal[Event], state: RunState) -> None:
        self._journal = journal
        self.state = state

    @property
    def entries(self) -> Sequence[Entry[Event]]:
        return self._journal.entries

    def append(self, event: Event) -> bool:
        """Decides what follows from the event and returns once both are durable; False where nothing does, and nothing is written.

        Raises Superseded when another writer was faster, StoreUnavailable when it is unknown whether it was written: append it again.
        """
        after = transition(self.state, event)
        if after == self.state:
            return False
        self._journal.append(event, changes(codec.to_plain(self.state), codec.to_plain(after)))
        self.state = after
        return True

    def reopen(self) -> History:
        """The same writer's end of the run as the store has it now, whoever wrote it."""
        return history_over(self._journal.reopen())


def open_history(store: ObjectStore, writer: str | None = None) -> History:
    """The run whose store this is, for appending as `writer` (default: a new unique name). Raises JournalBroken."""
    return history_over(open_journal(store, KINDS, writer))


def new_history(store: ObjectStore) -> History:
    """A run without entries yet: appending to it raises Superseded where there is one already."""
    return History(new_journal(store, KINDS), RunState())


def history_over(journal: Journal[Event]) -> History:
    """The run whose journal this is."""
    return History(journal, fold(journal.entries))


def read_state(store: ObjectStore) -> RunState:
    """The state that the journal leaves behind; one without terms where there is no run. Raises JournalBroken."""
    return fold(read_journal(store, KINDS))


def fold(entries: Iterable[Entry[Event]]) -> RunState:
    """The state that these entries, from the first on, leave behind. Raises JournalBroken.

    Entries of earlier versions, which come first, do not say what was decided: see `earlier`.
    """
    undecided: list[Event] = []
    plain: Plain | None = None
    for entry in entries:
        if entry.decided is None:
            if plain is not None:
                raise JournalBroken(
                    f"journal entry {entry.sequence} was written by an earlier version of braid after this one; end that one"
                )
            undecided.append(entry.event)
            continue
        plain = apply(plain if plain is not None else codec.to_plain(state_after(undecided)), as_now(entry.decided))
    return state_after(undecided) if plain is None else _decode(plain)


def _decode(plain: Plain) -> RunState:
    try:
        return codec.from_plain(RunState, plain, "journal", ignore_unknown=True)
    except codec.DecodeError as error:
        raise JournalBroken(f"{error}; use the version of braid that wrote it") from error
