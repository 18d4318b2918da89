"""What a run's health is told from, read from the store once: its journal and steps, of one that goes on, is over, or lost its cluster."""

from launch.runs.record import RunRecord
from orchestrator.control.events import Event
from orchestrator.control.history import KINDS
from orchestrator.records.journal import Entry, read_journal
from orchestrator.records.ledger import read_columns
from orchestrator.records.series import Columns


def read_history(record: RunRecord) -> list[Entry[Event]]:
    """Every entry of the run's journal as it stands now, in order. Raises StoreError, JournalBroken."""
    return read_journal(record.run_store, KINDS)


def read_steps(record: RunRecord) -> dict[int, Columns]:
    """What each step measured, by attempt: a value per step in each column, which has the name of a `StepRecord`'s field.

    A live run's last second may be missing. Raises StoreError, DecodeError.
    """
    return read_columns(record.run_store, last_attempt=record.state.attempt)
