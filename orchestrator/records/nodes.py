"""What is known of the machines under a storage root, shared by every run: cordons, and the faults that were held against them.

    nodes/journal/000000000001.json     an event each, in the journal's form; any run and any person may append

A machine is named by what stays when its raylet restarts: see `ray_backend`. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a run holds against a machine because of one failure. Recorded once for each (run, attempt, machine)."""

    at_s: float
    machine: str
    run: str
    attempt: int
    cause: str
    """Value of the `control.causes.Cause`."""
    detail: str
    strikes: int
    cordons: bool = False
    """The machine is not to be used by any run until a person clears it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cordoned:
    """A person takes a machine out of use."""

    at_s: float
    machine: str
    reason: str
    by: str
    """Who: user@host."""
    within_s: float | None = None
    """How long runs that are on it may take to leave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """A person gives a machine back: no cordon and no strike against it counts any more."""

    at_s: float
    machine: str
    by: str


NodeEvent = Finding | Cordoned | Cleared


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One machine, as all that was recorded of it leaves it."""

    cordoned: str = ""
    """Why no run may use it, in words; "" where any may."""
    within_s: float | None = None
    """How long a run that is on it may take to leave, where the one who cordoned it said so."""
    strikes: int = 0
    """Faults held against it by any run since it was last cleared, by their weight."""
    clears: int = 0
    """How often a person cleared it: what a run has held against it before counts no more."""
