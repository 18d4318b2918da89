"""What retention may delete."""

from orchestrator.records.commit_log import Commit
from orchestrator.records.keys import checkpoint_directory, log_key, manifest_key
from orchestrator.records.leftovers import remove_leftovers
from orchestrator.records.retention import LOGS_KEPT, directories_to_delete, is_abandoned, logs_to_delete, still_there
from tests.fakes.memory_store import MemoryStore


def commit(attempt: int, step: int) -> Commit:
    return Commit(attempt=attempt, step=step, manifest_key=manifest_key(step, attempt), manifest_sha256="0" * 64)


def keys(*checkpoints: tuple[int, int]) -> list[str]:
    """Of checkpoints given as (attempt, step)."""
    names = (".metadata", "__0_0.distcp", "manifest.json")
    return [checkpoint_directory(step, attempt) + name for attempt, step in checkpoints for name in names]


def test_retention_keeps_the_newest_and_deletes_what_is_older():
    commits = [commit(1, step) for step in (40, 30, 20, 10)]

    doomed = directories_to_delete(keys((1, 10), (1, 20), (1, 30), (1, 40)), committed=commits, trusted=commits, keep_latest=2, attempt=1)

    assert doomed == [checkpoint_directory(10, 1), checkpoint_directory(20, 1)]


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

    assert doomed == [checkpoint_directory(30, 1)]


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

    assert doomed == [checkpoint_directory(15, 1)]


def test_retention_leaves_alone_what_is_not_a_checkpoint():
    good = [commit(1, 20), commit(1, 10)]

    assert (
        directories_to_delete(["checkpoints/notes.txt", "checkpoints/old/x"], committed=good, trusted=good, keep_latest=2, attempt=9) == []
    )


def test_a_file_that_never_became_whole_is_abandoned_once_its_attempt_is_fenced():
    keys = [manifest_key(20, 1), manifest_key(30, 2), manifest_key(30, 3), "checkpoints/notes.txt", "ledger/a0001/x"]

    assert [is_abandoned(key, attempt=2) for key in keys] == [True, False, False, False, False]


def test_the_logs_of_the_newest_attempts_are_kept():
    logs = [log_key(attempt, rank) for attempt in (1, 2, 3, 12) for rank in (0, 1)]

    assert LOGS_KEPT == 10
    assert logs_to_delete([*logs, "logs/notes.txt"], attempt=12) == logs[:4]
    assert logs_to_delete(logs, attempt=10) == []


def test_what_earlier_attempts_left_is_removed_and_nothing_else():
    store = MemoryStore(incomplete={manifest_key(20, 11), manifest_key(20, 12), "ledger/a0001/x"})
    for key in (log_key(2, 0), log_key(3, 0), manifest_key(10, 1)):
        store.put(key, b"")

    remove_leftovers(store, attempt=12)

    assert store.incomplete == {manifest_key(20, 12), "ledger/a0001/x"}
    assert list(store.objects) == [log_key(3, 0), manifest_key(10, 1)]
