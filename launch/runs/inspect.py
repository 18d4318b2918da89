"""What a run left on the store, looked at after the fact: its records and its checkpoints. No torch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.mixture import load_manifests
from data_pipeline.dataset.progress import Progress
from data_pipeline.errors import DataError
from data_pipeline.stages import stage_at
from data_pipeline.store.open import open_beside
from data_pipeline.store.protocol import ObjectStore
from launch.errors import WrongMoment
from launch.runs.record import RunRecord
from orchestrator.control.state import Ending
from orchestrator.errors import CheckpointCorrupt
from orchestrator.records.commit_log import Commit, Entry, last_fence, open_commit_log
from orchestrator.records.keys import CHECKPOINTS, checkpoint_directory
from orchestrator.records.ledger import StepRecord, read_ledger, record_of_commit
from orchestrator.records.manifest import read_manifest
from orchestrator.records.retention import still_there
from orchestrator.records.verified import VerifiedFiles
from orchestrator.verify import Proof, Records, committed_step, end_is_kept, verify


def proof_of(record: RunRecord, *, reading: Progress | None = None) -> Proof:
    """The proof of all steps up to the last commit, or of the whole run once it has finished; with `reading` the dataset is read again.

    Raises WrongMoment before any commit, DatasetMissing, ManifestInvalid, or what the store raises.
    """
    entries = open_commit_log(record.run_store).entries
    proof = _proof_of_steps(record, entries, reading)
    if record.state.ending is not Ending.FINISHED or not proof.ok:
        return proof
    end = end_is_kept(record.name, entries, record.config.train.num_steps)
    return proof if end.ok else end


def _proof_of_steps(record: RunRecord, entries: Sequence[Entry], reading: Progress | None) -> Proof:
    from data_pipeline.dataset.plan import load_plan, planned_digest  # costs numpy

    config = record.config
    records = _records(record, last_attempt=last_fence(entries))
    has_finished = record.state.ending is Ending.FINISHED
    num_steps_done = config.train.num_steps if has_finished else committed_step(records, entries)
    if not num_steps_done:
        told = " and has ended; `braid status` says why" if record.has_ended else " yet, so there is nothing to verify; look again later"
        raise WrongMoment(f"run {record.name}: has not committed a checkpoint{told}")
    manifests = load_manifests(record.store, config.data)
    plan = load_plan(record.store, manifests, config.data, batch_rows=config.train.batch_rows)
    try:
        expected_token_digest = _tokens_by_step(record, records, manifests, reading) if reading else None
    except DataError as error:
        return Proof(ok=False, line=f"NOT VERIFIED run {record.name}: {error}", problems=(str(error),))

    stages = config.stages

    @functools.cache
    def expected_digest(step: int, recorded: str) -> str:
        return planned_digest(plan, step, like=recorded)

    return verify(
        run=record.name,
        records=records,
        entries=entries,
        expected_digest=expected_digest,
        expected_tokens=lambda step: stage_at(stages, step).tokens_per_step,
        num_steps_done=num_steps_done,
        has_gaps=config.data.document_masking or config.data.packing == "best_fit",
        row_tokens=lambda step: stage_at(stages, step).seq_len,
        num_steps_planned=None if has_finished else config.train.num_steps,
        expected_token_digest=expected_token_digest,
    )


def _tokens_by_step(record: RunRecord, records: Records, manifests: Sequence[DatasetManifest], reading: Progress) -> Callable[[int], str]:
    """Digests of the tokens of the steps in `records`, as the shards have them now: "" for a step that a run may have read in part
    only, and that can't be read. Raises DataError, StoreError."""
    from data_pipeline.read.row_hash import token_digests  # costs numpy

    config = record.config
    steps = {one.step for its_records in records.values() for one in its_records if one.token_digest}
    digests = token_digests(
        steps,
        manifests=manifests,
        config=config.data,
        batch_rows=config.train.batch_rows,
        store=record.store,
        elsewhere=open_beside(record.storage),
        progress=reading,
    )
    return lambda step: digests.get(step, "")


def _records(record: RunRecord, *, last_attempt: int) -> dict[int, list[StepRecord]]:
    """Step records by attempt, read after the commit log, so that what it commits is there.

    Attempts that a run which goes on has begun since are left out.
    """
    records = read_ledger(record.run_store)
    return {attempt: steps for attempt, steps in records.items() if record.has_ended or attempt <= last_attempt}


def list_checkpoints(run_store: ObjectStore, *, reading: Progress | None = None) -> list[dict[str, Any]]:
    """The trusted checkpoints that are still there, newest first, as JSON-ready rows; with `reading` every file is read.

    Their state is `committed`, of which only presence and size were looked at, or `verified`, or `damaged`, and then `problem` says why.
    One that was taken after an update that is not finite, as earlier versions did, is `not finite`. What retention removed is left out,
    but the newest must be there.
    """
    sizes = {info.key: info.size_bytes for info in run_store.list(CHECKPOINTS)}
    trusted = open_commit_log(run_store).trusted()
    there = still_there(trusted, sizes)
    rows = []
    for number, commit in enumerate(there, start=1):
        if reading:
            reading(number, len(there))
        rows.append((commit, checkpoint_row(run_store, commit, sizes, verify=reading is not None)))
    left = still_there(trusted, {info.key for info in run_store.list(CHECKPOINTS)})  # a run that trains removes some meanwhile
    return [row for commit, row in rows if commit in left]


def checkpoint_row(run_store: ObjectStore, commit: Commit, sizes: dict[str, int], *, verify: bool) -> dict[str, Any]:
    """One of the rows of `list_checkpoints`, given the size of every key below checkpoints/."""
    directory = checkpoint_directory(commit.step, commit.attempt)
    row = {
        "step": commit.step,
        "attempt": commit.attempt,
        "key": directory,
        "files": 0,
        "size_bytes": 0,
        "layout": "",
        "created_at_s": None,
        "state": "verified" if verify else "committed",
        "problem": "",
    }
    try:
        manifest = read_manifest(run_store, commit)
        row |= {
            "files": len(manifest.files),
            "size_bytes": sum(file.size_bytes for file in manifest.files),
            "layout": str(manifest.training.layout) if manifest.training else "weights only",
            "created_at_s": manifest.created_at_s,
        }
        for file in manifest.files:
            _check_size(run_store, directory + file.name, sizes.get(directory + file.name), file.size_bytes)
        if verify:
            VerifiedFiles(run_store, manifest).read_each([file.name for file in manifest.files], lambda name, data: None)
    except CheckpointCorrupt as error:
        return row | {"state": "damaged", "problem": str(error)}
    record = record_of_commit(run_store, commit)
    if record is not None and not (record.is_finite or record.skipped):
        told = f"checkpoint of step {commit.step}: its weights are not finite, as the update before it (loss {record.loss:g})"
        return row | {"state": "not finite", "problem": f"{told}; use an earlier one"}
    return row


def _check_size(run_store: ObjectStore, key: str, found_bytes: int | None, expected_bytes: int) -> None:
    """Raises CheckpointCorrupt, also where it is missing."""
    if found_bytes is None:
        raise CheckpointCorrupt(f"{run_store.url(key)} is missing")
    if found_bytes != expected_bytes:
        raise CheckpointCorrupt(f"{run_store.url(key)} has {found_bytes} bytes, committed were {expected_bytes}")
