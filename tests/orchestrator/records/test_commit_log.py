"""The log that decides which checkpoints count, and keeps older attempts from writing."""

from dataclasses import replace

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.codec import DecodeError
from orchestrator.errors import Fenced
from orchestrator.records.commit_log import (
    Commit,
    Doubt,
    Entry,
    Fence,
    Reject,
    Trust,
    count,
    last_fence,
    open_commit_log,
    trusted_commits,
)
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


def reject(attempt: int, step: int) -> Reject:
    return Reject(attempt=attempt, step=step, reason="corrupt")


def trust(attempt: int, step: int) -> Trust:
    return Trust(attempt=attempt, step=step, reason="by hand")


def steps(entries: list[Entry]) -> list[tuple[int, int]]:
    """(attempt, step) of the trusted checkpoints, newest first."""
    return [(one.attempt, one.step) for one in trusted_commits(entries)]


def test_a_person_takes_a_rejection_back_while_a_worker_writes():
    store = MemoryStore()
    worker = open_commit_log(store)
    worker.fence(1)
    worker.commit(commit(1, step=10))
    worker.reject(commit(1, step=10), "a bit flipped in this host's memory", attempt=1)
    person = open_commit_log(store)
    worker.commit(commit(1, step=20))
    person.trust(commit(1, step=10), "alice@desk")
    worker.commit(commit(1, step=30))

    assert [one.step for one in open_commit_log(store).trusted()] == [30, 20, 10]
    assert worker.entries == (*person.entries, commit(1, step=30))
    assert person.entries[-1] == Trust(attempt=1, step=10, reason="alice@desk")


def test_when_all_were_rejected_those_that_are_trusted_again_are_in_order_whatever_was_first():
    entries: list[Entry] = [Fence(attempt=1), *(commit(1, step) for step in (20, 40, 60)), Fence(attempt=2)]
    entries += [reject(1, 60), reject(1, 40), reject(1, 20)]

    assert steps([*entries, trust(1, 40), trust(1, 60)]) == steps([*entries, trust(1, 60), trust(1, 40)]) == [(1, 60), (1, 40)]
    assert count([*entries, trust(1, 40)]).rejected == (commit(1, 20), commit(1, 60))


def test_a_checkpoint_that_is_trusted_again_comes_before_what_a_fallback_committed_below_it():
    """Attempt 2 went back behind 60 to 20 and came to 30; what it commits next is the newest again."""
    entries: list[Entry] = [Fence(attempt=1), commit(1, 20), commit(1, 60), Fence(attempt=2), reject(1, 60), commit(2, 30)]

    assert steps([*entries, trust(1, 60)]) == [(1, 60), (2, 30), (1, 20)]
    assert steps([*entries, trust(1, 60), commit(2, 40)]) == [(2, 40), (1, 60), (2, 30), (1, 20)]


def test_trust_goes_back_and_forth_and_makes_nothing_of_what_was_never_committed():
    entries: list[Entry] = [Fence(attempt=1), commit(1, 20), reject(1, 20), trust(1, 20)]

    assert steps(entries) == steps([*entries, trust(1, 20)]) == [(1, 20)]
    assert steps([*entries, reject(1, 20)]) == []
    assert steps([*entries, trust(1, 30), trust(2, 20)]) == [(1, 20)]


def test_of_two_attempts_at_the_same_step_the_one_that_is_trusted_again_counts_as_newer():
    entries: list[Entry] = [Fence(attempt=1), commit(1, 20), Fence(attempt=2), reject(1, 20), commit(2, 20)]

    assert steps([*entries, trust(1, 20)]) == [(1, 20), (2, 20)]


def test_what_was_committed_anew_since_is_not_replaced_by_what_was_rejected():
    anew = replace(commit(1, 20), manifest_sha256="1" * 64)

    assert trusted_commits([Fence(attempt=1), commit(1, 20), reject(1, 20), anew, trust(1, 20)]) == [anew]


def doubt(attempt: int, step: int) -> Doubt:
    return Doubt(attempt=attempt, step=step, reason="unreadable on one host")


def test_what_an_attempt_passed_over_counts_until_that_attempt_commits():
    """Attempt 2 went back to 20 and died, attempt 3 looks at 40 and 60 again."""
    entries: list[Entry] = [Fence(attempt=1), *(commit(1, step) for step in (20, 40, 60)), Fence(attempt=2), doubt(1, 60), doubt(1, 40)]

    assert steps(entries) == steps([*entries, Fence(attempt=3)]) == [(1, 60), (1, 40), (1, 20)]
    assert steps([*entries, commit(2, 30)]) == [(2, 30), (1, 20)]
    assert count([*entries, commit(2, 30)]).rejected == (commit(1, 60), commit(1, 40))
    assert steps([*entries, Fence(attempt=3), doubt(1, 60), commit(3, 50)]) == [(3, 50), (1, 40), (1, 20)]


def test_a_history_that_was_left_because_of_a_doubt_is_left_at_whatever_step_the_next_commit_is():
    entries: list[Entry] = [Fence(attempt=1), commit(1, 20), commit(1, 40), Fence(attempt=2), doubt(1, 40)]

    assert steps([*entries, commit(2, 40)]) == [(2, 40), (1, 20)]
    assert steps([*entries, commit(2, 50)]) == [(2, 50), (1, 20)]


def test_a_person_brings_back_what_was_passed_over_and_the_attempt_leaves_it_so():
    entries: list[Entry] = [Fence(attempt=1), commit(1, 20), commit(1, 60), Fence(attempt=2), doubt(1, 60), commit(2, 30), trust(1, 60)]

    assert steps(entries) == [(1, 60), (2, 30), (1, 20)]
    assert steps([*entries, commit(2, 40)]) == [(2, 40), (1, 60), (2, 30), (1, 20)]


def test_a_zombie_can_not_doubt_what_a_newer_attempt_reads():
    store = MemoryStore()
    zombie = open_commit_log(store)
    zombie.fence(1)
    zombie.commit(commit(1, step=10))
    open_commit_log(store).fence(2)

    with pytest.raises(Fenced):
        zombie.doubt(commit(1, step=10), "its own memory is broken", attempt=1)


class LosesAnswers(MemoryStore):
    """A store that does what it is asked, and of which nobody hears."""

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data)
        raise StoreUnavailable("no answer")


def test_an_entry_whose_answer_got_lost_is_recognised_when_it_is_appended_again():
    objects = LosesAnswers().objects
    log = open_commit_log(MemoryStore(objects=objects))
    log.fence(1)
    deaf = open_commit_log(LosesAnswers(objects=objects))
    with pytest.raises(StoreUnavailable):
        deaf.commit(commit(1, step=10))
    open_commit_log(MemoryStore(objects=objects)).trust(commit(1, step=5), "somebody else in between")
    deaf.commit(commit(1, step=10))

    assert [entry for entry in open_commit_log(MemoryStore(objects=objects)).entries if isinstance(entry, Commit)] == [commit(1, step=10)]
    assert deaf.entries == open_commit_log(MemoryStore(objects=objects)).entries


def test_a_fence_that_is_found_there_may_be_another_process_and_is_not_ours():
    store = MemoryStore()
    log = open_commit_log(store)
    open_commit_log(store).fence(1)

    with pytest.raises(Fenced):
        log.fence(1)


def test_a_checkpoint_that_was_committed_twice_counts_once():
    assert steps([Fence(attempt=1), commit(1, 10), commit(1, 20), commit(1, 20)]) == [(1, 20), (1, 10)]


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
    log.doubt(Commit(attempt=1, step=3, manifest_key="k", manifest_sha256="s"), "why", attempt=1)

    assert store.objects == {
        "commits/000001.json": b'{"attempt": 1, "kind": "fence"}',
        "commits/000002.json": b'{"attempt": 1, "kind": "commit", "manifest_key": "k", "manifest_sha256": "s", "step": 3}',
        "commits/000003.json": b'{"attempt": 1, "kind": "doubt", "reason": "why", "step": 3}',
    }
