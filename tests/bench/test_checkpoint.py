"""What is made of the times of steps, and a whole measurement of a tiny model."""

import json
from pathlib import Path

import pytest

from bench.checkpoint import headlines, main
from bench.checkpoint_pass import Settings
from bench.stalls import QUIET_BETWEEN, QUIET_FIRST, WARM_UP, Asked, Meanwhile, Script, Step, Taken, slowdown, stalls_s, told, usual_s
from data_pipeline.config import StorageConfig
from orchestrator import codec


def quiet(num_steps: int, seconds: float = 1.0) -> list[Step]:
    return [Step(seconds=seconds)] * num_steps


def taken(kind: Taken, *seconds: float) -> list[Step]:
    """The step that takes it, and those after it."""
    return [Step(seconds=seconds[0], taken=kind), *(Step(seconds=one) for one in seconds[1:])]


def beside(what: Meanwhile, *seconds: float) -> list[Step]:
    return [Step(seconds=one, meanwhile=what) for one in seconds]


def test_the_usual_step_is_one_with_nothing_beside_it():
    steps = [*quiet(WARM_UP, 30.0), *quiet(4), *taken("snapshot", 9.0, 9.0, 9.0), *beside("uploading", *[5.0] * 20), *quiet(3)]

    assert usual_s(steps) == 1.0


def test_a_stall_is_what_the_steps_around_it_took_longer():
    steps = [*quiet(WARM_UP + 5), *taken("snapshot", 1.5, 1.0, 1.25), *quiet(5), *taken("checkpoint", 1.0, 0.9, 1.0), *quiet(2)]

    assert stalls_s(steps, "snapshot") == [0.75]
    assert stalls_s(steps, "checkpoint") == [0.0]
    assert told([0.75, 0.25, 0.5]) == {"first": 0.75, "median": 0.5, "max": 0.75, "all": [0.75, 0.25, 0.5]}
    assert told([]) is None


def test_steps_beside_an_upload_are_told_apart_from_those_that_it_held_up():
    begun = [Step(seconds=3.0, taken="checkpoint"), *beside("uploading", 3.0, 3.0)]
    steps = [*quiet(WARM_UP + 5), *begun, *beside("uploading", 1.25, 1.25, 2.0), *quiet(2)]

    assert slowdown(steps, "uploading") == {"median": 0.25, "mean": 0.5, "max": 1.0, "steps": 3}
    assert slowdown(steps, "sealing") is None


def played(script: Script, *, now_s: float = 0.0, num_steps: int = 200) -> list[tuple[int, Asked]]:
    """What is asked for after which step, where all that is taken is over at once but for two busy steps."""
    steps: list[Step] = [*beside("readying", *[1.0] * 20)]
    asked: list[tuple[int, Asked]] = []
    while len(steps) < num_steps:
        word = script.ask(steps, now_s)
        if word:
            asked.append((len(steps), word))
        if word == "end":
            break
        if word in ("snapshot", "checkpoint"):
            steps += [*taken(word, 1.0), *beside("sealing", 1.0, 1.0)]
        else:
            steps += quiet(1)
    return asked


def test_one_thing_is_asked_for_after_the_other_with_quiet_steps_between():
    first, between = 20 + QUIET_FIRST, 3 + QUIET_BETWEEN
    script = Script(num_snapshots=2, num_checkpoints=1, last_start_s=60.0)

    assert played(script) == [
        (first, "snapshot"),
        (first + between, "snapshot"),
        (first + 2 * between, "checkpoint"),
        (first + 3 * between, "end"),
    ]


def test_where_time_is_short_the_first_of_each_is_measured_all_the_same():
    script = Script(num_snapshots=5, num_checkpoints=5, last_start_s=60.0)

    assert [word for _, word in played(script, now_s=61.0)] == ["snapshot", "checkpoint", "end"]


def test_what_is_wanted_is_said_to_be_met_or_not():
    stall = {"first": 0.05, "median": 0.05, "max": 0.05, "all": [0.05]}
    one = {"stall_s": {"snapshot": stall, "checkpoint": stall | {"max": 0.2}}, "slowdown": {"uploading": {"median": 0.01}}}

    assert headlines({"directory": one}) == {
        "stall_s": 0.2,
        "slowdown_uploading": 0.01,
        "is_met": {"stall_s": False, "slowdown_uploading": True},
    }
    assert headlines({"why": "no disk"}) == {}


def test_a_pass_is_told_everything_by_a_file():
    settings = Settings(
        candidate="ours",
        preset="tiny",
        num_layers=0,
        directory="/d",
        num_threads=2,
        places={"directory": StorageConfig(root="/s")},
        num_snapshots=1,
        num_checkpoints=1,
        last_start_s=5.0,
    )

    assert codec.from_json(Settings, codec.to_json(settings), "settings") == settings


def test_a_tiny_model_is_measured_beside_torchs_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--json", "--preset", "tiny", "--layers", "1", "--dir", str(tmp_path), "--s3", "none"]

    assert main([*options, "--only", "ours", "--only", "torch", "--snapshots", "1", "--checkpoints", "1"]) == 0

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours, torchs = found["ours"]["directory"], found["torch"]["directory"]
    assert len(ours["stall_s"]["snapshot"]["all"]) == len(ours["stall_s"]["checkpoint"]["all"]) == 1
    assert len(torchs["stall_s"]["checkpoint"]["all"]) == 1
    assert min(one[rate] for one in (ours, torchs) for rate in ("step_s", "write_bytes_per_s", "read_bytes_per_s")) > 0
    assert found["ours"]["state_bytes_per_rank"] <= ours["bytes"] * 1.1
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_a_disk_that_is_too_small_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bench.checkpoint.BYTES_PER_PARAM", 10**9)

    assert main(["--preset", "tiny", "--dir", str(tmp_path), "--s3", "none"]) == 2
    assert "name another disk with --dir, or fewer --layers" in capsys.readouterr().err
