"""Incidents of a run with all that is known of them, from the store alone: hops, cost, what was done, and what its workers left written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from launch.errors import NoSuchLog, UserError
from launch.runs.record import RunRecord
from launch.runs.view import kept_log
from orchestrator import codec
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.control.history import KINDS
from orchestrator.control.state import Incident
from orchestrator.health.log_lines import first_error, last_lines
from orchestrator.health.remedies import remedy
from orchestrator.health.stacks import grouped, main_stack, ranks_in_words, who_is_missing
from orchestrator.health.waterfall import seen_by, waterfall
from orchestrator.records.journal import read_journal

RANKS_READ = 256
"""Logs that are looked through for stacks: where more ranks stand, the first ones tell enough."""
READS_AT_ONCE = 16
WITH_STACKS = (Cause.HUNG, Cause.FROZEN)
"""After which every rank writes where it stands before it is killed; of any other, who is ended by a signal like SIGSEGV."""


def incidents_of(record: RunRecord) -> list[dict[str, Any]]:
    """All of a run, JSON-ready, the oldest first, without what takes reading logs."""
    return incidents_in(record, [entry.event for entry in read_journal(record.run_store, KINDS)])


def incidents_in(record: RunRecord, journal: Sequence[Event]) -> list[dict[str, Any]]:
    """The same, for who has read the journal."""
    return [_told(record, number, journal) for number in range(1, len(record.state.incidents) + 1)]


def incident_of(record: RunRecord, number: int) -> dict[str, Any]:
    """The one of this number, the first being 1, with its evidence. Raises UserError where there is none."""
    incidents = record.state.incidents
    if not 1 <= number <= len(incidents):
        has = f"has had {len(incidents)}" if incidents else "has had no incident"
        raise UserError(f"incident {number}: run {record.name} {has}; `braid incidents {record.name}` lists them")
    journal = [entry.event for entry in read_journal(record.run_store, KINDS)]
    return _told(record, number, journal) | {"evidence": _evidence(record, incidents[number - 1])}


def _told(record: RunRecord, number: int, journal: Sequence[Event]) -> dict[str, Any]:
    incident = record.state.incidents[number - 1]
    hops = waterfall(incident, journal)
    trained_again_s = None if incident.recovered_after_s is None else incident.recovered_after_s + incident.detected_after_s
    return {
        "number": number,
        **codec.to_plain(incident),
        "source": incident.source.value if incident.recovered_after_s is not None else None,
        "left": list(incident.left),
        "seen_by": seen_by(incident),
        "hops": [codec.to_plain(hop) for hop in hops],
        "stood_still_s": trained_again_s,
        "gpu_seconds": None if trained_again_s is None else trained_again_s * record.config.parallel.world_size,
        "remedy": remedy(incident, record.name),
    }


def _evidence(record: RunRecord, incident: Incident) -> dict[str, Any]:
    rank = incident.rank or 0
    log = _log(record, incident.attempt, rank)
    logs = {rank: log} if log is not None else {}
    if incident.cause in WITH_STACKS:
        ranks = range(min(RANKS_READ, record.config.parallel.world_size))
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            found = zip(ranks, pool.map(partial(_log, record, incident.attempt), ranks), strict=True)
            logs |= {each: text for each, text in found if text is not None}
    stacks = {each: main_stack(text) for each, text in logs.items()}
    groups = grouped(stacks) if any(stacks.values()) else ()
    return {
        "rank": rank,
        "first_error": first_error(log or ""),
        "last_lines": last_lines(log or ""),
        "has_log": log is not None,
        "missing": who_is_missing(groups),
        "stacks": [
            {
                "ranks": list(group.ranks),
                "words": ranks_in_words(group.ranks),
                "where": group.where,
                "frames": [frame.place for frame in group.frames],
            }
            for group in groups
        ],
    }


def _log(record: RunRecord, attempt: int, rank: int) -> str | None:
    """None where nobody has it any more, or not yet."""
    try:
        return kept_log(record, rank, attempt).decode(errors="replace")
    except NoSuchLog:
        return None
