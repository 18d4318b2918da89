"""Errors that a person should read, one line each with the remedy, and what each kind means to those who meet it. Imports nothing.

A new error is its class, here where it is this package's own, and its row in ERRORS.
"""

from __future__ import annotations

from dataclasses import dataclass


class Fenced(Exception):
    """A newer attempt of this run has begun."""


class ConfigMismatch(Exception):
    """The configuration is not the one that a checkpoint belongs to."""


class NoCheckpoint(Exception):
    """The run has committed checkpoints, and not one of them verifies."""


class CheckpointCorrupt(Exception):
    """A file of a committed checkpoint is missing or is not what was written, as far as this host can tell."""

    def __init__(self, text: str, *, key: str = "", expected: str = "", found: str = "") -> None:
        super().__init__(text)
        self.key = key
        """Of the file, on the run's store."""
        self.expected = expected
        """SHA-256 that was committed; empty where the checkpoint names no such file, of which no second look is needed."""
        self.found = found
        """SHA-256 of what this host read; empty where it found nothing."""


class HostCorrupts(Exception):
    """This host reads a file of a checkpoint as something else than another host does, or than it does itself at another look."""


class Diverged(Exception):
    """The numbers of training are not finite, or its updates are left out again and again."""


class PeerFailed(Exception):
    """Another rank has gone or failed: a consequence, the cause shows there."""


class KernelsWrong(Exception):
    """This GPU's kernels, compared with their definition, compute something else."""


class Superseded(Exception):
    """Another controller has written to this run's journal: step down."""

    def __init__(self, message: str, *, writer: str = "") -> None:
        super().__init__(message)
        self.writer = writer
        """Name of the other one, as a journal has it; "" where an agent told."""


class JournalBroken(Exception):
    """Entries of a journal are missing or unreadable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What an error of one class means."""

    cause: str = ""
    """Value of the `control.causes.Cause` that this very class stands for; empty where only the error's text can tell."""
    is_expected: bool = False
    """The one line of such an error, or of a subclass, says everything; an unexpected one is logged with its traceback."""
    is_agreed: bool = False
    """Where one rank meets such an error, or a subclass, every rank learns of it: see `worker.agreement`."""


ERRORS: dict[str, Kind] = {
    "Fenced": Kind(is_expected=True, is_agreed=True, cause="fenced"),
    "ConfigMismatch": Kind(is_expected=True, is_agreed=True, cause="config"),
    "NoCheckpoint": Kind(is_expected=True, is_agreed=True, cause="config"),
    "DecodeError": Kind(is_expected=True, is_agreed=True, cause="config"),
    "Diverged": Kind(is_expected=True, is_agreed=True, cause="diverged"),
    "StoreError": Kind(is_expected=True, is_agreed=True),
    "CheckpointCorrupt": Kind(is_expected=True, is_agreed=True),
    "HostCorrupts": Kind(is_expected=True, cause="hardware"),
    "PeerFailed": Kind(is_expected=True, cause="peer_lost"),
    "KernelsWrong": Kind(is_expected=True, cause="kernels"),
    "Superseded": Kind(is_expected=True),
    "JournalBroken": Kind(is_expected=True),
    "DataError": Kind(is_expected=True),
    "HomeUnknown": Kind(is_expected=True),
    "StoreUnavailable": Kind(cause="store"),
    "AccessDenied": Kind(cause="access"),
    "BucketMissing": Kind(cause="access"),
    "DatasetMissing": Kind(cause="config"),
    "DatasetTooSmall": Kind(cause="config"),
    "ManifestInvalid": Kind(cause="config"),
    "PackingMissing": Kind(cause="config"),
    "ShardMissing": Kind(cause="config"),
    "CacheUnusable": Kind(cause="hardware"),
    "OutOfMemoryError": Kind(cause="gpu_out_of_memory"),
}
"""By class name, which is all that crosses from a worker to its controller. Where ranks fail differently, the earlier row is agreed on."""


def is_expected(error: BaseException) -> bool:
    """Whether its one line says everything, so that a traceback would only hide it."""
    return any(ERRORS[name].is_expected for name in _known_classes(error))


def agreement_order(error: BaseException) -> int | None:
    """A number for an error that ranks agree on, the lower of two counting; None for an error that is its rank's own."""
    agreed = [name for name, kind in ERRORS.items() if kind.is_agreed]
    return min((agreed.index(name) for name in _known_classes(error) if name in agreed), default=None)


def _known_classes(error: BaseException) -> list[str]:
    """The rows that hold for an error: its class and those that it derives from."""
    return [cls.__name__ for cls in type(error).__mro__ if cls.__name__ in ERRORS]
