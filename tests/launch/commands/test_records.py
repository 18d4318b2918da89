"""`braid runs`, `verify` and `checkpoints`: what the store alone tells."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dataset.manifest import DatasetManifest, ShardRef
from data_pipeline.dataset.plan import plan_of, planned_samples
from data_pipeline.order.samples import digest_of
from data_pipeline.read.row_hash import token_digests
from launch.runs.person import this_person
from launch.runs.record import run_store_of
from orchestrator.config import RunConfig
from orchestrator.control.causes import Cause
from orchestrator.records.commit_log import Trust, open_commit_log
from orchestrator.records.segments import compact
from tests.data_pipeline.datasets import put_dataset as put_tokens
from tests.launch.command_line import Braid, Done
from tests.launch.stored_runs import FINISHED, put_checkpoint, put_dataset, put_steps, store_at, stored_run
from tests.orchestrator.control.stories import failed, fault, gone, placed


def test_runs_lists_every_run_of_the_store(braid: Braid) -> None:
    assert "no runs in" in braid("runs").err
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    stored_run(braid.root, (), "name=second")
    assert [run["run"] for run in json.loads(braid("runs", "--json").out)] == ["first", "second"]
    assert "queued" in braid("runs").out


def test_a_run_is_listed_on_one_line_however_long_its_reason(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stored_run(braid.root, (placed(1, "ab"), failed(1, fault(Cause.CONFIG, "a", ranks=2, nodes=2)), gone(1)), f"name={'long-' * 8}name")
    _, line = braid("runs").out.splitlines()
    assert line.startswith(f"{'long-' * 8}name  failed  0/200")
    assert line.rstrip().endswith("…")


def planned(config: RunConfig, manifest: DatasetManifest) -> Callable[[int], str]:
    """The digest of a step's samples."""
    plan = plan_of((manifest,), config.data, batch_rows=config.train.batch_rows)
    return lambda step: digest_of(planned_samples(plan, step))


def test_verify_prints_one_line_and_its_status_is_the_verdict(braid: Braid) -> None:
    config = stored_run(braid.root, FINISHED, "train.num_steps=40")
    samples = planned(config, put_dataset(braid.root))
    put_steps(braid.root, 1, range(1, 34), samples)
    put_steps(braid.root, 2, range(21, 41), samples)
    put_checkpoint(braid.root, config, attempt=1, step=20)
    put_checkpoint(braid.root, config, attempt=2, step=40)
    done = braid("verify", "first")
    assert done == Done(
        0, "VERIFIED run first: 40 steps, 40,960 tokens, 2 attempts, 13 steps replayed bit for bit, nothing skipped or repeated\n", ""
    )
    put_steps(braid.root, 3, range(41, 42), lambda step: "of something else")
    done = braid("verify", "first")
    assert done.status == 1
    assert done.out.startswith("NOT VERIFIED run first: ")


def a_run_on_tokens(braid: Braid) -> ShardRef:
    """A run of 10 steps, replayed from step 6, whose records say what it trained on; its one shard."""
    config = stored_run(braid.root, FINISHED, "train.num_steps=10")
    manifest = put_tokens(store_at(braid.root), [number * number % 997 for number in range(20_000)], name=config.data.dataset)
    store = store_at(braid.root)
    tokens = token_digests(range(1, 11), manifests=(manifest,), config=config.data, batch_rows=config.train.batch_rows, store=store)
    for attempt, steps in ((1, range(1, 8)), (2, range(6, 11))):
        put_steps(braid.root, attempt, steps, planned(config, manifest), tokens.__getitem__)
    put_checkpoint(braid.root, config, attempt=1, step=5)
    put_checkpoint(braid.root, config, attempt=2, step=10)
    return manifest.shards[0]


def test_verify_data_reads_the_shards_again_and_compares_what_every_step_trained_on(braid: Braid) -> None:
    shard = a_run_on_tokens(braid)
    verified = "VERIFIED run first: 10 steps, 10,240 tokens, 2 attempts, 2 steps replayed bit for bit, nothing skipped or repeated"
    assert braid("verify", "first") == Done(0, f"{verified}\n", "")
    assert braid("verify", "first", "--data") == Done(0, f"{verified}, every token as in the dataset\n", "")

    store = store_at(braid.root)
    put_tokens(store, [(number * number + 1) % 997 for number in range(20_000)], name="python-stdlib")
    assert braid("verify", "first").status == 0
    done = braid("verify", "first", "--data")
    assert done.status == 1
    assert "trained on other tokens than its dataset has" in done.out

    store.put(shard.key, b"\1" * shard.size_bytes)
    done = braid("verify", "first", "--data")
    assert (done.status, done.out.count("\n"), done.err) == (1, 1, "")
    assert done.out.startswith(f"NOT VERIFIED run first: {store.url(shard.key)}: its SHA-256 is ")


def test_verify_data_reads_registered_files_where_they_are(braid: Braid, tmp_path: Path) -> None:
    shard = a_run_on_tokens(braid)
    file = tmp_path / "elsewhere" / "tokens.npy"
    file.parent.mkdir()
    np.save(file, np.frombuffer(store_at(braid.root).get(shard.key), "<u2"))
    store_at(braid.root).delete("datasets/python-stdlib/manifest.json")
    done = braid("data", "register", "python-stdlib", str(file), "--vocab-size", "1000", "--eos-id", "0")
    assert done.status == 0, done.err
    done = braid("verify", "first", "--data")
    assert (done.status, done.out.endswith("every token as in the dataset\n")) == (0, True), done
    file.write_bytes(file.read_bytes()[:-2] + b"\7\7")
    done = braid("verify", "first", "--data")
    assert done.status == 1
    assert done.out.startswith(f"NOT VERIFIED run first: {file}: its SHA-256 is ")
    assert done.out.endswith("restore this file, or register it again with `braid data register` under another name\n")


def test_there_is_nothing_to_verify_before_the_first_checkpoint(braid: Braid) -> None:
    stored_run(braid.root)
    done = braid("verify", "first")
    assert (done.status, done.err.startswith("braid: run first: has not committed a checkpoint yet")) == (2, True)


def states(done: Done) -> list[str]:
    return [row["state"] for row in json.loads(done.out)]


def test_checkpoints_are_listed_newest_first_and_checked_on_request(braid: Braid) -> None:
    config = stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_checkpoint(braid.root, config, attempt=1, step=20)
    put_checkpoint(braid.root, config, attempt=2, step=40)
    assert [row["step"] for row in json.loads(braid("checkpoints", "first", "--json").out)] == [40, 20]
    assert states(braid("checkpoints", "first", "--json")) == ["committed", "committed"]
    assert states(braid("checkpoints", "first", "--json", "--verify")) == ["verified", "verified"]
    file = braid.root / "runs/first/checkpoints/step-000000040-a0002/__0_0.distcp"
    file.write_bytes(b"F" + file.read_bytes()[1:])
    assert braid("checkpoints", "first").status == 0, "sizes alone do not show it"
    done = braid("checkpoints", "first", "--verify")
    assert done.status == 1
    assert "damaged" in done.out
    assert "__0_0.distcp is not what was written" in done.err
    damaged = json.loads(braid("checkpoints", "first", "--json", "--verify").out)[0]
    assert (damaged["state"], damaged["files"], damaged["size_bytes"]) == ("damaged", 1, file.stat().st_size)
    file.unlink()
    assert "is missing" in json.loads(braid("checkpoints", "first", "--json").out)[0]["problem"]


def test_checkpoints_that_an_earlier_version_took_of_weights_that_are_not_finite_are_told(braid: Braid) -> None:
    """Its ledger has the numbers of the update before each; so `verify` and `status` say it too."""
    config = stored_run(braid.root, FINISHED, "train.num_steps=40")
    samples = planned(config, put_dataset(braid.root))
    for attempt, step, loss in ((1, 20, 2.0), (2, 40, math.nan)):
        put_steps(braid.root, attempt, range(step - 19, step + 1), samples, loss=loss)
        put_checkpoint(braid.root, config, attempt=attempt, step=step)
        compact(run_store_of(store_at(braid.root), "first"), attempt=attempt, step=step)

    done = braid("checkpoints", "first")

    assert (done.status, states(braid("checkpoints", "first", "--json"))) == (1, ["not finite", "committed"])
    assert done.err == "braid: checkpoint of step 40: its weights are not finite, as the update before it (loss nan); use an earlier one\n"
    assert "NOT VERIFIED run first: step 21 is not finite (loss nan, gradient norm 1)" in braid("verify", "first").out
    assert "step 40 is not finite: loss nan, gradient norm 1; its update was applied" in braid("status", "first").out.replace("\n", " ")


def reject(braid: Braid, *checkpoints: tuple[int, int], by: int) -> None:
    """Attempt `by` rejects checkpoints, given as (attempt, step)."""
    log = open_commit_log(run_store_of(store_at(braid.root), "first"))
    for attempt, step in checkpoints:
        (commit,) = (one for one in log.trusted() if (one.attempt, one.step) == (attempt, step))
        log.reject(commit, "corrupt", attempt=by)


def listed(braid: Braid) -> list[tuple[int, int]]:
    return [(row["attempt"], row["step"]) for row in json.loads(braid("checkpoints", "first", "--json").out)]


def test_a_rejected_checkpoint_counts_again_once_a_person_says_so(braid: Braid) -> None:
    config = stored_run(braid.root)
    put_checkpoint(braid.root, config, attempt=1, step=20)
    put_checkpoint(braid.root, config, attempt=2, step=40)
    reject(braid, (2, 40), (1, 20), by=2)
    assert listed(braid) == []

    done = braid("checkpoints", "first", "--trust", "40")

    assert done == Done(0, "", "first: the checkpoint of step 40 counts again; an attempt that begins now starts from step 40\n")
    assert listed(braid) == [(2, 40)]
    assert "starts from step 40" in braid("checkpoints", "first", "--trust", "20", "--verify").err
    assert listed(braid) == [(2, 40), (1, 20)]
    entry = open_commit_log(run_store_of(store_at(braid.root), "first")).entries[-1]
    assert entry == Trust(attempt=1, step=20, reason=f"by {this_person()}")


def test_what_can_not_count_again_is_one_clear_line(braid: Braid) -> None:
    config = stored_run(braid.root)
    put_checkpoint(braid.root, config, attempt=1, step=20)

    def trust(*arguments: str) -> str:
        done = braid("checkpoints", "first", "--trust", *arguments)
        assert (done.status, done.out) == (2, "")
        return done.err

    assert trust("30") == (
        "braid: run first: no attempt committed a checkpoint of step 30; "
        "none of this run is rejected, `braid checkpoints first` lists those that count\n"
    )
    assert "step 20 (attempt 1) counts already" in trust("20")
    put_checkpoint(braid.root, config, attempt=2, step=40)
    reject(braid, (1, 20), (2, 40), by=2)
    assert "attempt 3 did not commit a checkpoint of step 40; use one of 40 (attempt 2), 20 (attempt 1)" in trust("40", "--attempt", "3")
    (braid.root / "runs/first/checkpoints/step-000000040-a0002/__0_0.distcp").unlink()
    assert "step 40 (attempt 2) can't count again: " in (error := trust("40"))
    assert "__0_0.distcp is missing; restore it from" in error
    file = braid.root / "runs/first/checkpoints/step-000000020-a0001/__0_0.distcp"
    file.write_bytes(b"F" + file.read_bytes()[1:])
    assert "is not what was written" in trust("20", "--verify")
    assert listed(braid) == []
    assert "give --trust too" in braid("checkpoints", "first", "--attempt", "1").err


def test_where_two_attempts_had_the_same_step_rejected_a_person_says_which_is_meant(braid: Braid) -> None:
    config = stored_run(braid.root)
    put_checkpoint(braid.root, config, attempt=1, step=20)
    reject(braid, (1, 20), by=1)
    put_checkpoint(braid.root, config, attempt=2, step=20)
    reject(braid, (2, 20), by=2)

    assert "of attempts 1 and 2 were rejected; say which with --attempt" in braid("checkpoints", "first", "--trust", "20").err
    assert braid("checkpoints", "first", "--trust", "20", "--attempt", "1").status == 0
    assert listed(braid) == [(1, 20)]
