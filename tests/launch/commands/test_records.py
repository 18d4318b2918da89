"""`braid runs`, `verify` and `checkpoints`: what the store alone tells."""

import json

import pytest

from data_pipeline.order.samples import digest_of, samples_of_step
from orchestrator.control.causes import Cause
from tests.launch.command_line import Braid, Done
from tests.launch.stored_runs import FINISHED, put_checkpoint, put_dataset, put_steps, stored_run
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


def test_verify_prints_one_line_and_its_status_is_the_verdict(braid: Braid) -> None:
    config = stored_run(braid.root, FINISHED, "train.num_steps=40")
    num_samples = put_dataset(braid.root).num_samples(config.data.seq_len)

    def samples(step: int) -> str:
        return digest_of(samples_of_step(step, batch_rows=config.train.batch_rows, num_samples=num_samples, seed=config.data.seed))

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
