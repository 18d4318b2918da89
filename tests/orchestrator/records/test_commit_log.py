"""The log that decides which checkpoints count, and keeps older attempts from writing."""

import pytest

from orchestrator.codec import DecodeError
from orchestrator.errors import Fenced
from orchestrator.records.commit_log import Commit, Fence, Reject, last_fence, open_commit_log, trusted_commits
from tests.fakes.memory_store import MemoryStore


def commit(attempt: int, step: int) -> Commit:
    return Commit(attempt=attempt, step=step, manifest_key=f"checkpoints/{step}-{attempt}/manifest.json", manifest_sha256="0" * 64)


def test_commits_of_an_attempt_are_trusted_newest_first():
    log = open_commit_log(MemoryStore())
    log.fence(1)
    log.commit(commit(1, step=10))
    log.commit(commit(1, step=20))

    assert [one.step for one in log.trusted()] == [20, 10]


def test_a_reader_sees_what_a_writer_wrote():
    store = MemoryStore()
    writer = open_commit_log(store)
    writer.fence(1)
    writer.commit(commit(1, step=10))
    writer.reject(commit(1, step=10), "a byte was flipped", attempt=1)

    assert open_commit_log(store).entries == writer.entries == (
        Fence(attempt=1), commit(1, step=10), Reject(attempt=1, step=10, reason="a byte was flipped"),
    )  # fmt: skip


def test_a_zombies_commit_is_refused_after_a_newer_attempt_began():
    store = MemoryStore()
    zombie = open_commit_log(store)
    zombie.fence(1)
    newer = open_commit_log(store)
    newer.fence(2)

    with pytest.raises(Fenced, match=r"^attempt 2 of this run has begun; this worker belongs to attempt 1 and stops$"):
        zombie.commit(commit(1, step=10))

    assert open_commit_log(store).trusted() == []


def test_a_zombie_can_not_reject_what_a_newer_attempt_reads():
    store = MemoryStore()
    zombie = open_commit_log(store)
    zombie.fence(1)
    zombie.commit(commit(1, step=10))
    open_commit_log(store).fence(2)

    with pytest.raises(Fenced):
        zombie.reject(commit(1, step=10), "its own memory is broken", attempt=1)

    assert [one.step for one in open_commit_log(store).trusted()] == [10]


def test_a_commit_that_is_faster_than_the_fence_counts():
    """Whoever is first at the next number has won: the newer attempt then reads the older one's last checkpoint."""
    store = MemoryStore()
    older, newer = open_commit_log(store), open_commit_log(store)
    older.fence(1)
    older.commit(commit(1, step=10))
    newer.fence(2)

    assert [one.step for one in newer.trusted()] == [10]
    assert newer.entries[-1] == Fence(attempt=2)


def test_an_attempt_has_one_holder():
    """A controller's attempt and that of a torchrun by hand may get the same number at the same moment."""
    store = MemoryStore()
    one, other = open_commit_log(store), open_commit_log(store)
    one.fence(2)

    for late in (other, open_commit_log(store)):
        with pytest.raises(Fenced, match=r"^attempt 2 of this run was begun by another process; this worker stops"):
            late.fence(2)

    assert open_commit_log(store).entries == (Fence(attempt=2),)


def test_attempts_do_not_go_back():
    store = MemoryStore()
    open_commit_log(store).fence(2)

    with pytest.raises(Fenced, match=r"^attempt 2 of this run has begun; this worker belongs to attempt 1"):
        open_commit_log(store).fence(1)


def test_two_starts_at_the_same_moment_get_different_attempts():
    store = MemoryStore()
    one, other = open_commit_log(store), open_commit_log(store)

    assert (one.fence_next(), other.fence_next()) == (1, 2)


def test_a_commit_of_another_attempt_than_the_last_fences_does_not_count():
    """Defence in depth: no writer of ours can append it."""
    assert trusted_commits([Fence(attempt=2), commit(1, step=10)]) == []
    assert last_fence([Fence(attempt=2), commit(1, step=10)]) == 2


def test_the_same_step_may_be_committed_again_after_its_checkpoint_was_rejected():
    log = open_commit_log(MemoryStore())
    log.fence(1)
    log.commit(commit(1, step=10))
    log.fence(2)
    log.reject(commit(1, step=10), "corrupt", attempt=2)
    log.commit(commit(2, step=10))

    assert log.trusted() == [commit(2, step=10)]


def test_a_hole_in_the_log_is_an_error_that_names_it():
    store = MemoryStore()
    log = open_commit_log(store)
    log.fence(1)
    log.commit(commit(1, step=10))
    del store.objects["commits/000001.json"]

    with pytest.raises(DecodeError, match=r"^memory:commits/000001.json: missing while later entries exist"):
        open_commit_log(store)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"kind": "other"}', b'{"kind": "fence", "attempt": "1"}'])
def test_an_unreadable_entry_is_an_error_that_names_it(data: bytes):
    with pytest.raises(DecodeError, match=r"^commits/000001.json"):
        open_commit_log(MemoryStore(objects={"commits/000001.json": data}))


def test_the_bytes_of_entries():
    store = MemoryStore()
    log = open_commit_log(store)
    log.fence(1)
    log.commit(Commit(attempt=1, step=3, manifest_key="k", manifest_sha256="s"))

    assert store.objects == {
        "commits/000001.json": b'{"attempt": 1, "kind": "fence"}',
        "commits/000002.json": b'{"attempt": 1, "kind": "commit", "manifest_key": "k", "manifest_sha256": "s", "step": 3}',
    }
