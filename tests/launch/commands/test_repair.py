"""`braid repair`: a run whose journal or commit log has lost entries is told about, and goes on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.runs.record import read_run, run_store_of
from launch.runs.repair import repair
from orchestrator import codec
from orchestrator.control.history import open_history
from orchestrator.control.state import Stage
from orchestrator.errors import JournalBroken
from orchestrator.records.commit_log import Commit, Fence, open_commit_log
from orchestrator.records.keys import commit_key, journal_key
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, RUNNING, put_checkpoint, store_at, stored_run


@pytest.fixture(scope="module", autouse=True)
def no_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAID_HOME", str(tmp_path_factory.mktemp("home")))
        yield


EMPTY, TORN, WRONG = b"", b'{"sequence": 3, "wri', b"[1, 2"


def path_of(root: Path, key: str) -> Path:
    return root / "runs/first" / key


def lose(root: Path, key: str, left: bytes | None = None) -> None:
    path_of(root, key).unlink()
    if left is not None:
        path_of(root, key).write_bytes(left)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("left", [None, EMPTY, TORN, WRONG])
def test_a_run_whose_journal_has_a_gap_is_refused_by_all_repaired_and_stopped(braid: Braid, left: bytes | None) -> None:
    put_checkpoint(braid.root, stored_run(braid.root, RUNNING), attempt=1, step=20)
    lose(braid.root, journal_key(3), left)
    before = files(braid.root)
    for command in ("status", "stop", "resume"):
        done = braid(command, "first")
        assert (done.status, "braid repair" in done.err) == (2, True), done.err

    done = braid("repair", "first")

    assert done.status == 0, done.err
    assert f"{journal_key(3)} {'is missing' if left is None else 'can' + chr(39) + 't be read'}" in done.err
    assert "still proves the checkpoints of step 20" in done.err
    assert files(braid.root).items() >= before.items()
    status = json.loads(braid("status", "first", "--json").out)
    assert (status["state"], status["last_committed_step"]) == ("queued", 20)
    assert braid("stop", "first").status == 0
    assert json.loads(braid("status", "first", "--json").out)["state"] == "stopped"
    assert "nothing is missing" in braid("repair", "first").err


def read_run_store(root: Path):
    return run_store_of(store_at(root), "first")


def test_a_run_that_had_ended_after_what_was_lost_has_ended(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    lose(braid.root, journal_key(4))
    assert braid("repair", "first").status == 0
    assert json.loads(braid("status", "first", "--json").out)["state"] == "finished"


def test_what_an_earlier_repair_wrote_is_there_for_good(braid: Braid) -> None:
    stored_run(braid.root, RUNNING)
    for key in (journal_key(3), journal_key(2)):
        lose(braid.root, key, EMPTY)
        assert braid("repair", "first").status == 0
        assert braid("status", "first").status == 0


def test_a_commit_proves_the_fence_that_was_lost(braid: Braid) -> None:
    stored_run(braid.root, RUNNING)
    store = read_run_store(braid.root)
    for attempt, step in ((1, 10), (2, 20), (3, 30)):
        log = open_commit_log(store)
        log.fence(attempt)
        log.commit(Commit(attempt=attempt, step=step, manifest_key=f"checkpoints/m{step}", manifest_sha256="0"))
    store.put("checkpoints/m20", b"")  # retention has removed that of step 10
    lose(braid.root, commit_key(3))
    with pytest.raises(codec.DecodeError, match=r"missing while later entries exist; restore it .* or let `braid repair RUN` go on"):
        open_commit_log(store)
    done = braid("repair", "first")
    assert (done.status, "checkpoints of step 30, 20\n" in done.err) == (0, True), done.err
    assert open_commit_log(store).entries[2] == Fence(attempt=2)


def test_nothing_may_follow_an_entry_that_is_gone(tmp_path: Path) -> None:
    """A root that was put in place of the store, or a log that another process lost."""
    stored_run(tmp_path, RUNNING)
    store = read_run_store(tmp_path)
    history, log = open_history(store), open_commit_log(store)
    log.fence(1)
    lose(tmp_path, journal_key(len(history.entries)))
    lose(tmp_path, commit_key(1))
    before = files(tmp_path)
    with pytest.raises(JournalBroken, match=r"journal/0+5.json is missing, so nothing may follow it"):
        history.append(FINISHED[4])
    with pytest.raises(JournalBroken, match=r"commits/000001.json is missing, so nothing may follow it"):
        log.commit(Commit(attempt=1, step=10, manifest_key="m", manifest_sha256="0"))
    assert files(tmp_path) == before


LEFT = st.sampled_from([None, EMPTY, TORN, WRONG])
LOST = st.dictionaries(st.integers(1, 13), LEFT, min_size=1, max_size=13).filter(lambda lost: lost.get(13, EMPTY) is not None)
"""An end that is missing can't be told from one that never was."""


@settings(max_examples=60)
@given(journal=LOST, commits=st.dictionaries(st.integers(1, 6), LEFT, max_size=6))
def test_whatever_was_lost_the_run_can_be_read_stopped_and_resumed_and_nothing_was_overwritten(
    tmp_path_factory: pytest.TempPathFactory, journal: dict[int, bytes | None], commits: dict[int, bytes | None]
) -> None:
    root = tmp_path_factory.mktemp("lost")
    config = stored_run(root, FINISHED, "train.num_steps=40")
    store = read_run_store(root)
    for attempt in (1, 2):
        log = open_commit_log(store)
        log.fence(attempt)
        log.commit(Commit(attempt=attempt, step=20 * attempt, manifest_key="m", manifest_sha256="0"))
        log.doubt(log.trusted()[0], "why", attempt=attempt)
    for number, left in journal.items():
        lose(root, journal_key(number), left)
    for number, left in commits.items():
        lose(root, commit_key(number), left)
    before = files(root)

    repair(config.storage, "first", by="me", address="", at_s=1.0, tell=lambda line: None)

    assert files(root).items() >= before.items()
    record = read_run(config.storage, "first")
    attempts = [getattr(entry.event, "attempt", 0) for entry in open_history(store).entries]
    assert record.state.attempt >= max(attempts)
    assert record.state.stage in (Stage.ENDED, Stage.WAITING)
    trusted = {commit.step for commit in open_commit_log(store).trusted()}
    assert trusted >= ({40} if 5 not in commits else set())
    assert record.state.committed_step in trusted | {0}
