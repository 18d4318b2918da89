"""What of a run is kept on the store, and which checkpoints are still there once others were removed. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from orchestrator.records.commit_log import Commit
from orchestrator.records.keys import attempt_of_log, checkpoint_of

LOGS_KEPT = 10
"""Attempts whose workers' logs are kept."""


def still_there(trusted: Sequence[Commit], keys: Container[str]) -> list[Commit]:
    """Which of `trusted` (newest first) retention has left, given every key below checkpoints/: it removes manifests first. Pure.

    The newest is always among them, for it must be there: a missing one is somebody else's doing, to be told and not passed over.
    """
    return [commit for commit in trusted if commit is trusted[0] or commit.manifest_key in keys]


def directories_to_delete(
    keys: Iterable[str],
    *,
    committed: Sequence[Commit],
    trusted: Sequence[Commit],
    keep_latest: int,
    attempt: int,
    held: Container[tuple[int, int]] = (),
) -> list[str]:
    """Which checkpoints retention removes, given every key below checkpoints/. Pure.

    Committed ones older than the `keep_latest` newest of `trusted` (newest first), and what attempts before `attempt` left uncommitted;
    not those that other runs or a person's second look may need, `held` as (step, attempt).
    """
    kept = trusted[:keep_latest]
    names_committed = {(commit.step, commit.attempt) for commit in committed}
    oldest_kept_step = min((commit.step for commit in kept), default=0)
    doomed = set()
    for directory, step, its_attempt in {found for found in map(checkpoint_of, keys) if found}:
        is_kept = (step, its_attempt) in held or any((commit.step, commit.attempt) == (step, its_attempt) for commit in kept)
        is_old = (step, its_attempt) in names_committed and len(kept) == keep_latest and step <= oldest_kept_step
        is_debris = (step, its_attempt) not in names_committed and its_attempt < attempt
        if not is_kept and (is_old or is_debris):
            doomed.add(directory)
    return sorted(doomed)


def is_abandoned(key: str, *, attempt: int) -> bool:
    """Whether a file that never became whole is of a checkpoint of an attempt before `attempt`, and so never will. Pure."""
    found = checkpoint_of(key)
    return found is not None and found[2] < attempt


def logs_to_delete(keys: Iterable[str], *, attempt: int) -> list[str]:
    """Which workers' logs go when `attempt` begins: all but those of the LOGS_KEPT newest attempts, its own included. Pure."""
    return [key for key in keys if (its_attempt := attempt_of_log(key)) is not None and its_attempt <= attempt - LOGS_KEPT]
