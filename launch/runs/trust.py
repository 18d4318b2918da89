"""A person takes back that workers rejected a checkpoint: it was the host that read it, or its files have been restored."""

from collections.abc import Sequence

from data_pipeline.store.protocol import ObjectStore
from launch.errors import NoSuchCheckpoint
from launch.runs.inspect import checkpoint_row
from orchestrator.records.commit_log import Commit, count, open_commit_log
from orchestrator.records.keys import CHECKPOINTS


def trust(run_store: ObjectStore, run: str, step: int, *, attempt: int | None, verify: bool, by: str) -> list[Commit]:
    """Makes the rejected checkpoint of a step count again and returns those that do now, newest first.

    Every file of it must be there in its size; with `verify` they are read. `attempt` says which one is meant where several attempts had
    one of that step rejected. Raises NoSuchCheckpoint.
    """
    log = open_commit_log(run_store)
    counting = count(log.entries)
    commit = _the_one(run, step, attempt, counted=counting.trusted, rejected=counting.rejected)
    sizes = {info.key: info.size_bytes for info in run_store.list(CHECKPOINTS)}
    problem = checkpoint_row(run_store, commit, sizes, verify=verify)["problem"]
    if problem:
        raise NoSuchCheckpoint(
            f"run {run}: {_words(commit)} can't count again: {problem}; restore it from the bucket's versions or a backup"
        )
    log.trust(commit, f"by {by}")
    return log.trusted()


def _the_one(run: str, step: int, attempt: int | None, *, counted: Sequence[Commit], rejected: Sequence[Commit]) -> Commit:
    def meant(commits: Sequence[Commit]) -> list[Commit]:
        return [commit for commit in commits if commit.step == step and attempt in (None, commit.attempt)]

    found = meant(rejected)
    if len(found) == 1:
        return found[0]
    if found:
        attempts = " and ".join(str(commit.attempt) for commit in reversed(found))
        raise NoSuchCheckpoint(f"run {run}: the checkpoints of step {step} of attempts {attempts} were rejected; say which with --attempt")
    if there := meant(counted):
        raise NoSuchCheckpoint(f"run {run}: {_words(there[0])} counts already; `braid checkpoints {run}` lists all that do")
    whose = f"attempt {attempt}" if attempt is not None else "no attempt"
    verb = "did not commit" if attempt is not None else "committed"
    others = ", ".join(f"{commit.step} (attempt {commit.attempt})" for commit in rejected)
    remedy = f"use one of {others}" if others else f"none of this run is rejected, `braid checkpoints {run}` lists those that count"
    raise NoSuchCheckpoint(f"run {run}: {whose} {verb} a checkpoint of step {step}; {remedy}")


def _words(commit: Commit) -> str:
    return f"the checkpoint of step {commit.step} (attempt {commit.attempt})"
