"""What a checkpoint's manifest holds, and what retention may delete."""

import hashlib
from dataclasses import replace

import pytest

from model.config import ParallelConfig
from orchestrator.errors import CheckpointCorrupt
from orchestrator.records.commit_log import Commit
from orchestrator.records.manifest import (
    CheckpointManifest,
    DataPosition,
    FileDigest,
    TrainingTerms,
    data_position,
    directories_to_delete,
    directory_of,
    manifest_key,
    read_manifest,
    still_there,
    write_manifest,
)
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import MODEL

MANIFEST = CheckpointManifest(
    run="first",
    attempt=1,
    step=10,
    origin="trained",
    model=MODEL,
    training=TrainingTerms(
        data_position=DataPosition(epoch=0, index=40),
        layout=ParallelConfig(dp_shard=2),
        training_digest="d" * 64,
        dataset_digest="a" * 64,
    ),
    files=(FileDigest(name=".metadata", size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest()),),
    torch_version="2.13.0",
    created_at_s=1.5,
)


def commit(attempt: int, step: int) -> Commit:
    return Commit(attempt=attempt, step=step, manifest_key=manifest_key(step, attempt), manifest_sha256="0" * 64)


def keys(*checkpoints: tuple[int, int]) -> list[str]:
    """Of checkpoints given as (attempt, step)."""
    return [directory_of(step, attempt) + name for attempt, step in checkpoints for name in (".metadata", "__0_0.distcp", "manifest.json")]


def test_a_manifest_reads_back_as_it_was_written():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)

    assert entry.manifest_key == "checkpoints/step-000000010-a0001/manifest.json"
    assert read_manifest(store, entry) == MANIFEST


def test_a_manifest_that_is_not_the_committed_one_is_refused():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)
    write_manifest(store, replace(MANIFEST, created_at_s=2.5))

    with pytest.raises(CheckpointCorrupt, match=r"^memory:checkpoints/step-000000010-a0001/manifest.json is not what was written"):
        read_manifest(store, entry)


def test_a_missing_manifest_is_refused():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)
    store.delete(entry.manifest_key)

    with pytest.raises(CheckpointCorrupt, match=r"manifest.json is missing$"):
        read_manifest(store, entry)


def test_one_bad_transfer_does_not_condemn_a_checkpoint():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)
    good, reads = store.objects[entry.manifest_key], []

    def garble_the_first_read(operation: str, key: str) -> None:
        reads.append(operation)
        store.objects[key] = good if len(reads) > 1 else good[:-1] + b"?"

    store.fault = garble_the_first_read

    assert read_manifest(store, entry) == MANIFEST


def test_the_data_position_is_where_the_next_step_begins():
    assert data_position(5, batch_rows=4, num_samples=24) == DataPosition(epoch=0, index=20)
    assert data_position(7, batch_rows=4, num_samples=24) == DataPosition(epoch=1, index=4)


def test_retention_keeps_the_newest_and_deletes_what_is_older():
    commits = [commit(1, step) for step in (40, 30, 20, 10)]

    doomed = directories_to_delete(keys((1, 10), (1, 20), (1, 30), (1, 40)), committed=commits, trusted=commits, keep_latest=2, attempt=1)

    assert doomed == [directory_of(10, 1), directory_of(20, 1)]


def test_retention_does_not_count_a_rejected_checkpoint_among_the_good_ones():
    """Of 10, 20 and a rejected 30 the last two good ones are 10 and 20."""
    commits = [commit(1, step) for step in (30, 20, 10)]

    doomed = directories_to_delete(keys((1, 10), (1, 20), (1, 30)), committed=commits, trusted=commits[1:], keep_latest=2, attempt=2)

    assert doomed == []


def test_retention_deletes_nothing_while_there_are_too_few():
    commits = [commit(1, 20)]

    assert (
        directories_to_delete(keys((1, 20), (1, 10)), committed=[*commits, commit(1, 10)], trusted=commits, keep_latest=2, attempt=1) == []
    )


def test_a_rejected_checkpoint_goes_once_enough_newer_good_ones_exist():
    rejected, good = commit(1, 30), [commit(2, 50), commit(2, 40)]

    doomed = directories_to_delete(keys((1, 30), (2, 40), (2, 50)), committed=[rejected, *good], trusted=good, keep_latest=2, attempt=2)

    assert doomed == [directory_of(30, 1)]


def test_what_retention_removed_is_passed_over_but_never_the_newest():
    trusted = [commit(1, step) for step in (40, 30, 20, 10)]

    assert [one.step for one in still_there(trusted, keys((1, 20), (1, 30)))] == [40, 30, 20]
    assert still_there([], []) == []


def test_debris_goes_only_if_it_is_of_an_older_attempt():
    """What this attempt is still writing, or a newer one, has no commit either."""
    good = [commit(2, 20), commit(2, 10)]

    doomed = directories_to_delete(
        keys((1, 15), (2, 10), (2, 20), (2, 30), (3, 30)), committed=good, trusted=good, keep_latest=2, attempt=2
    )

    assert doomed == [directory_of(15, 1)]


def test_retention_leaves_alone_what_is_not_a_checkpoint():
    good = [commit(1, 20), commit(1, 10)]

    assert (
        directories_to_delete(["checkpoints/notes.txt", "checkpoints/old/x"], committed=good, trusted=good, keep_latest=2, attempt=9) == []
    )
