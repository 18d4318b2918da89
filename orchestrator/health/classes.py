"""What a run's time goes into: each instant is of one of these classes. Pure; docs/health.md has the definitions."""

from __future__ import annotations

from enum import Enum


class TimeClass(Enum):
    QUEUED = "queued"
    """No attempt yet since a person submitted or resumed it."""
    STARTING = "starting"
    """Processes start, import and meet."""
    LOADING_MEMORY = "loading_memory"
    """The model is built, and its state read from the nodes' own memory."""
    LOADING_OTHER_MEMORY = "loading_other_memory"
    LOADING_STORE = "loading_store"
    WARMING = "warming"
    """The first step of an attempt, which compiles."""
    PRODUCTIVE = "productive"
    """Steps that count, as long as they usually take."""
    SLOW = "slow"
    """What steps that count took beyond that."""
    DATA_WAIT = "data_wait"
    CHECKPOINT = "checkpoint"
    """Training stood still for a snapshot or checkpoint; what goes on beside it costs nothing."""
    EVAL = "eval"
    SKIPPED = "skipped"
    """Steps whose update was left out."""
    LOST = "lost"
    """Steps that were executed and discarded, and what was done of the step in which an attempt failed."""
    DETECTING = "detecting"
    """From the last sign of progress until the failure was noticed."""
    DECIDING = "deciding"
    """Until the next attempt: the root cause, teardown, backoff; or a person, where a run had failed for good."""
    WAITING_FOR_NODES = "waiting_for_nodes"
    STORE_WAIT = "store_wait"
    """The same as deciding, where the store was away or refused."""
    STOPPED = "stopped"
    """A person stopped it, or it had finished; it was resumed later."""
    CONTROLLER_AWAY = "controller_away"
    """Nobody was there to see what happened, and no step's record tells."""
    UNKNOWN = "unknown"


CLASSES = list(TimeClass)
CODES = {one: code for code, one in enumerate(CLASSES)}
"""Their numbers in arrays."""
