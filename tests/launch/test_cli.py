"""What a person types and gets, from stores alone: no Ray, no torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_pipeline.order.samples import digest_of, samples_of_step
from data_pipeline.store.protocol import StoreUnavailable
from launch import cli
from launch.config.load import load_config, shipped_recipes
from launch.runs.connection import Cluster
from launch.runs.record import read_run, recorded_status, run_store_of
from orchestrator.control.causes import Cause
from orchestrator.control.events import EVENT_KINDS, Event
from orchestrator.messages import Outcome
from orchestrator.ray_backend.client import ClusterUnreachable
from orchestrator.records.journal import open_journal
from tests.launch.stored_runs import put_checkpoint, put_dataset, put_steps, store_at, stored_run
from tests.orchestrator.control.stories import committed, ended, failed, gone, nodes, resumed, stepped, stop

STATUS_KEYS = {
    "run", "state", "attempt", "step", "num_steps", "tokens", "loss", "tokens_per_s", "last_committed_step", "restarts",
    "workers", "incidents", "skipped_updates",
}  # fmt: skip
INCIDENT_KEYS = {
    "attempt", "cause", "node", "rank", "at_step", "detected_after_s", "recovered_after_s", "resumed_from_step", "steps_replayed",
}  # fmt: skip
FINISHED: tuple[Event, ...] = (
    nodes("abc"),
    resumed(1, 0),
    stepped(1, 1),
    committed(1, 20),
    failed(1, "b", Cause.KILLED, at_step=33, rank=1),
    gone(1),
    resumed(2, 20),
    stepped(2, 21),
    committed(2, 40),
    ended(2, Outcome.FINISHED, 40),
    gone(2),
)
STOPPED: tuple[Event, ...] = (*FINISHED[:4], committed(1, 25), stop(), ended(1, Outcome.STOPPED, 25), gone(1))


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str


class Braid:
    """Runs the command line in this process, with a store of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        try:
            status = cli.main(arguments)
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
        captured = self._capsys.readouterr()
        return Done(status, captured.out, captured.err)


@pytest.fixture
def braid(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Braid:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BRAID_STORAGE_ROOT", str(tmp_path / "store"))
    monkeypatch.delenv("BRAID_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return Braid(tmp_path / "store", capsys)


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_a_dry_run_prints_a_recipe_that_loads_again_and_starts_nothing(recipe: str, braid: Braid, tmp_path: Path) -> None:
    done = braid("submit", recipe, "--dry-run")
    start = load_config(recipe, []).start.run
    assert (done.status, done.err[:30]) == ((2, f"braid: start.run={start}: there is"[:30]) if start else (0, ""))
    assert "# layout: " in done.out
    assert "# tokens: " in done.out
    again = tmp_path / "again.yaml"
    again.write_text(done.out)
    assert braid("submit", str(again), "--dry-run").out == done.out
    assert not braid.root.exists()


def test_a_dry_run_tells_the_schedule_and_warns_of_one_that_is_all_warmup(braid: Braid) -> None:
    done = braid("submit", "tiny", "--dry-run", "optimizer.skip_sigma=6")
    assert (done.status, done.err) == (0, "")
    line = "# schedule: 20 steps of warmup to lr 0.003, cosine to 10 % at step 200; updates 6σ above the last 128 are skipped\n"
    assert line in done.out
    wsd = braid("submit", "tiny", "--dry-run", "optimizer.schedule=wsd", "optimizer.decay_tokens=10241", "optimizer.lr_floor=0")
    assert "lr 0.003, wsd: constant, then in the last 11 steps linear to 0 % at step 200; no update is skipped\n" in wsd.out

    short = braid("submit", "tiny", "--dry-run", "train.num_steps=10")
    assert short.status == 0
    assert "# schedule: 10 of 20 steps of warmup, up to lr 0.0015 of 0.003; no update is skipped\n" in short.out
    warning = (
        "warning: the run ends within its warmup: 20 steps of it, and train.num_steps=10; lower optimizer.warmup_steps, or train longer\n"
    )
    assert short.err == warning
    taken = stored_run(braid.root).name
    assert braid("submit", "tiny", "train.num_steps=10", f"name={taken}").err.startswith(warning)


def test_a_dry_run_tells_where_the_run_begins_or_why_it_can_not(braid: Braid) -> None:
    put_checkpoint(braid.root, stored_run(braid.root), attempt=1, step=5)
    start = ("submit", "tiny", "--dry-run", "name=second", "start.run=first")

    assert "# start: the weights of run first, step 5 (trained); the optimizer anew\n" in braid(*start).out
    assert "step 5 (trained); its optimizer's state too\n" in braid(*start, "start.optimizer=keep").out
    for override, line in {
        "start.step=4": "start.run=first: has no checkpoint of step 4; use one of 5",
        "start.run=gone": "start.run=gone: there is no committed checkpoint of it",
        "model.ffn_width=400": "start.run=first, step 5: layers.0.ffn.gate_proj.weight is [352, 128] there and [400, 128] in this run's",
    }.items():
        done = braid(*start, override)
        assert done.status == 2
        assert done.err.startswith(f"braid: {line}")


def test_a_dry_run_goes_without_a_store_that_does_not_answer(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise StoreUnavailable("s3://bucket: no answer")

    monkeypatch.setattr("launch.runs.preflight.find_start", silent)
    done = braid("submit", "tiny", "--dry-run", "name=second", "start.run=first")
    assert (done.status, done.err) == (0, "warning: start.run=first: not checked: s3://bucket: no answer\n")
    assert "# layout: " in done.out


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_moments_are_kept_for_the_same_optimizer_only(dry_run: list[str], braid: Braid) -> None:
    put_checkpoint(braid.root, stored_run(braid.root), attempt=1, step=5)

    done = braid("submit", "tiny", "name=second", "start.run=first", "start.optimizer=keep", "optimizer.name=muon", *dry_run)

    assert done.status == 2
    assert done.err == (
        "braid: start.optimizer=keep: start.run=first was trained with optimizer.name=adamw, and this run has muon; "
        "use start.optimizer=reset, or the same optimizer.name\n"
    )


def test_a_mistake_ends_with_status_2_and_one_line(braid: Braid) -> None:
    done = braid("submit", "tiny", "train.num_stepz=3")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: train.num_stepz: no such key, did you mean train.num_steps?")
    assert done.err.count("\n") == 1


def test_a_name_that_is_taken_is_refused_before_anything_is_built(braid: Braid) -> None:
    stored_run(braid.root)
    done = braid("submit", "tiny", "name=first")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: name=first: this run exists already; choose another with name=…")


def test_another_dataset_than_the_default_must_be_built_first(braid: Braid) -> None:
    done = braid("submit", "tiny", "data.dataset=mine")
    assert done.status == 2
    assert "no such dataset; build it with `braid data build`" in done.err


def test_a_dataset_with_more_tokens_than_the_model_has_rows_is_refused(braid: Braid) -> None:
    put_dataset(braid.root, vocab_size=5000)
    done = braid("submit", "tiny")
    assert done.status == 2
    assert done.err.startswith("braid: model.vocab_size=4096: dataset python-stdlib has 5000 tokens; use at least 5000")


def test_status_json_has_the_promised_keys_without_a_cluster(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_steps(braid.root, 1, range(1, 34))
    put_steps(braid.root, 2, range(21, 41))
    done = braid("status", "first", "--json")
    status = json.loads(done.out)
    assert done.status == 0
    assert set(status) >= STATUS_KEYS
    assert (status["run"], status["state"], status["step"], status["num_steps"], status["tokens"]) == (
        "first",
        "finished",
        40,
        40,
        40 * 1024,
    )
    assert (status["attempt"], status["restarts"], status["last_committed_step"], status["workers"]) == (2, 1, 40, [])
    (incident,) = status["incidents"]
    assert set(incident) >= INCIDENT_KEYS
    assert (incident["cause"], incident["rank"], incident["resumed_from_step"], incident["steps_replayed"]) == ("killed", 1, 20, 13)


def test_status_is_a_table_for_people(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    out = braid("status", "first").out
    assert "first  finished  attempt 2, 1 restarts, last checkpoint at step 40" in out
    assert "killed" in out


def test_the_status_of_a_failed_run_is_1_and_says_why(braid: Braid) -> None:
    stored_run(braid.root, (nodes("ab"), failed(1, "a", Cause.CONFIG), gone(1)))
    done = braid("status", "first")
    assert done.status == 1
    assert "config: it broke; no restart can help" in done.out


@pytest.mark.parametrize("options", [[], ["--address", "127.0.0.1:1"]])
def test_a_run_whose_cluster_is_gone_is_still_reported(options: list[str], braid: Braid) -> None:
    stored_run(braid.root, FINISHED[:4])
    done = braid("status", "first", *options)
    assert done.status == 0
    assert "no controller answers; `braid resume first --storage " in done.out


@pytest.mark.parametrize("command", ["stop", "resume"])
def test_what_needs_a_cluster_says_that_none_answers(command: str, braid: Braid) -> None:
    stored_run(braid.root, FINISHED[:4])
    done = braid(command, "first", "--address", "127.0.0.1:1")
    assert done.status == 2
    assert done.err.startswith("braid: no Ray cluster answers at 127.0.0.1:1")


def test_there_is_no_local_cluster_to_show_before_one_is_started(braid: Braid) -> None:
    assert braid("cluster", "status").status == 1
    assert braid("cluster", "down").status == 0


def test_watching_an_ended_run_ends(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    assert braid("status", "first", "--watch").status == 0


def test_watching_as_json_is_a_line_for_every_look(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    (line,) = braid("status", "first", "--watch", "--json").out.splitlines()
    assert json.loads(line)["state"] == "finished"


@pytest.mark.parametrize("command", ["status", "logs", "stop", "resume", "verify", "checkpoints"])
def test_an_unknown_run_is_one_line_with_the_nearest_names(command: str, braid: Braid) -> None:
    stored_run(braid.root)
    done = braid(command, "frist")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"braid: run 'frist': not in {braid.root}; did you mean first?\n"


def test_runs_lists_every_run_of_the_store(braid: Braid) -> None:
    assert "no runs in" in braid("runs").err
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    stored_run(braid.root, (), "name=second")
    assert [run["run"] for run in json.loads(braid("runs", "--json").out)] == ["first", "second"]
    assert "queued" in braid("runs").out


def test_a_run_is_listed_on_one_line_however_long_its_reason(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stored_run(braid.root, (nodes("ab"), failed(1, "a", Cause.CONFIG), gone(1)), f"name={'long-' * 8}name")
    _, line = braid("runs").out.splitlines()
    assert line.startswith(f"{'long-' * 8}name  failed  0/200")
    assert line.rstrip().endswith("…")


def test_a_run_that_skips_its_updates_does_not_look_healthy(braid: Braid) -> None:
    stored_run(braid.root, (*FINISHED[:-2], ended(2, Outcome.FINISHED, 40, num_skipped=17), gone(2)), "train.num_steps=40")
    assert "finished at step 40; 17 updates skipped in attempt 2" in braid("status", "first").out


def test_a_stranger_is_answered_with_where_to_look(braid: Braid) -> None:
    stored_run(braid.root)
    done = braid("status", "olmo-hybrid")
    assert done.err == (
        f"braid: run 'olmo-hybrid': not in {braid.root}; `braid runs --storage {braid.root}` lists those that are; "
        "or choose another store with --storage\n"
    )


def test_the_store_can_be_named_instead_of_the_default(braid: Braid, tmp_path: Path) -> None:
    stored_run(tmp_path / "elsewhere", (), "name=there")
    assert braid("status", "there").status == 2
    assert braid("status", "there", "--storage", str(tmp_path / "elsewhere")).status == 0
    assert braid("status", "there", "--storage", "ftp://x").err.startswith("braid: storage.root='ftp://x': not an S3 location")


def test_a_store_that_does_not_answer_is_one_line(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(storage: object, name: str) -> None:
        raise StoreUnavailable("s3://b/x: no answer\nfrom AWS; check the network")

    monkeypatch.setattr("launch.runs.lifecycle.read_run", away)
    done = braid("status", "first")
    assert (done.status, done.err) == (2, "braid: s3://b/x: no answer from AWS; check the network\n")


def test_a_bug_keeps_its_traceback(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.runs.lifecycle.read_run", lambda storage, name: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        braid("status", "first")


def test_logs_come_from_the_store_once_the_worker_has_ended(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    run_store = run_store_of(store_at(braid.root), "first")
    run_store.put("logs/a0001/rank-00001.log", b"killed soon\n")
    run_store.put("logs/a0002/rank-00000.log", b"finished at step 40\n")
    assert braid("logs", "first").out == "finished at step 40\n"
    assert braid("logs", "first", "--rank", "1", "--attempt", "1").out == "killed soon\n"


def test_logs_come_from_this_machine_where_the_store_has_none(braid: Braid, tmp_path: Path) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    local = tmp_path / "home/runs/first/logs/a0002/rank-00000.log"
    local.parent.mkdir(parents=True)
    local.write_text("last words\n")
    assert braid("logs", "first").out == "last words\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rank", "2"], "braid: --rank 2: run first has 2 workers; use 0 … 1"),
        (["--attempt", "3"], "braid: --attempt 3: run first has had 2; use a number up to that, or 0 for the newest"),
        (["--rank", "1"], "braid: log of rank 1 in attempt 2: neither at"),
    ],
)
def test_a_log_that_is_not_there_is_one_line(options: list[str], line: str, braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    done = braid("logs", "first", *options)
    assert done.status == 2
    assert done.err.startswith(line)


def test_a_run_that_has_ended_is_not_stopped_again(braid: Braid) -> None:
    stored_run(braid.root, (*FINISHED[:4], stop(), ended(1, Outcome.STOPPED, 25), gone(1)))
    done = braid("stop", "first")
    assert (done.status, done.err) == (2, "braid: run first: has stopped already; nothing is left to stop\n")


@pytest.mark.parametrize(
    ("events", "overrides", "line"),
    [
        (
            FINISHED[:4],
            ["train.num_steps=400"],
            "run first: is running, and settings change only between two stretches; `braid stop first` first",
        ),
        (FINISHED, [], "run first: finished all of its 40 steps; go on with train.num_steps=MORE"),
        (FINISHED, ["train.num_steps=30"], "run first: finished all of its 40 steps"),
        (STOPPED, ["train.num_steps=20"], "train.num_steps=20: the run is at step 25 already; use more"),
        (FINISHED, ["train.seed=1"], "train.seed=1: decides the numbers of run first and can't change any more"),
        (FINISHED, ["train.batch_rows=16"], "train.batch_rows=16: decides the numbers"),
        (FINISHED, ["model.num_layers=8"], "model.num_layers=8: decides the numbers"),
        (FINISHED, ["data.seq_len=64"], "data.seq_len=64: decides the numbers"),
        (FINISHED, ["optimizer.lr=1e-3"], "optimizer.lr=0.001: decides the numbers"),
        (FINISHED, ["storage.root=/elsewhere"], "storage.root: run first stays where it is"),
        (FINISHED, ["name=second"], "name: run first stays where it is"),
        (FINISHED, ["train.num_stepz=3"], "train.num_stepz: no such key, did you mean train.num_steps?"),
        (FINISHED, ["parallel.tp=3"], "parallel.tp=3: 4 heads; use 1, 2 or 4"),
    ],
)
def test_a_resume_that_would_be_another_run_is_refused(events: tuple[Event, ...], overrides: list[str], line: str, braid: Braid) -> None:
    stored_run(braid.root, events, "train.num_steps=40")
    done = braid("resume", "first", *overrides)
    assert done.status == 2
    assert done.err.startswith(f"braid: {line}")


def test_a_stop_whose_checkpoint_failed_says_so_with_status_1(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stored_run(braid.root, FINISHED[:4])

    def stopped(events: tuple[Event, ...]) -> object:
        journal = open_journal(run_store_of(store_at(braid.root), "first"), EVENT_KINDS)
        for event in events:
            journal.append(event)
        return recorded_status(read_run(config.storage, "first"), 100.0)

    monkeypatch.setattr("launch.runs.lifecycle.stop", lambda *_, **__: stopped((stop(), failed(1, "b", Cause.STORE, at_step=33), gone(1))))
    done = braid("stop", "first")
    assert done.status == 1
    assert "first: stopped (stopped on request; its last checkpoint failed: it broke), last checkpoint at step 20" in done.err


def test_an_unreadable_journal_is_one_line(braid: Braid) -> None:
    stored_run(braid.root)
    (braid.root / "runs/first/journal/000000000001.json").write_bytes(b"{")
    done = braid("status", "first")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "journal/000000000001.json is not JSON" in done.err


class Actor:
    """A controller's actor which answers everything with the same; `remote` as Ray's."""

    def __init__(self, trouble: str | None) -> None:
        self._trouble = trouble

    @property
    def trouble(self) -> "Actor":
        return self

    def remote(self) -> str | None:
        return self._trouble


@pytest.mark.parametrize(
    ("trouble", "status", "line"),
    [
        (None, 0, "watch it with"),
        (
            "AccessDenied: no credentials; trying again in up to 2 s",
            2,
            "run first: is submitted, but its controller can't open it: AccessDenied",
        ),
        ("ClusterUnreachable", 2, "run first: is submitted, but nothing controls it: did not start"),
    ],
)
def test_a_submission_tells_what_keeps_its_controller_from_working(
    trouble: str | None, status: int, line: str, braid: Braid, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dataset(braid.root)

    @contextmanager
    def connected(*_: object, **__: object) -> Iterator[Cluster]:
        yield Cluster()

    def start_controller(run: str, storage: object) -> Actor:
        if trouble == "ClusterUnreachable":
            raise ClusterUnreachable("did not start")
        return Actor(trouble)

    monkeypatch.setattr("launch.runs.lifecycle.connected", connected)
    monkeypatch.setattr("orchestrator.ray_backend.client.start_controller", start_controller)
    monkeypatch.setattr("orchestrator.ray_backend.client.is_connected", lambda: True)
    monkeypatch.setattr("launch.runs.connection.Controller._answer", lambda self, answer, within_s: answer)
    done = braid("submit", "tiny", "name=first", f"storage.root={braid.root}")
    assert (done.status, line in done.err) == (status, True), done.err
    assert json.loads(braid("runs", "--json").out)[0]["state"] == "queued"


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


def test_data_is_built_and_looked_into(braid: Braid, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    done = braid("data", "build", "mine", str(tmp_path / "corpus.txt"), "--vocab-size", "300")
    assert (done.status, done.out) == (0, "mine\n")
    assert "use it with data.dataset=mine" in done.err
    assert braid("data", "build", "mine").err.startswith(f"braid: {braid.root}/datasets/mine/manifest.json: this dataset exists already")
    done = braid("data", "inspect", "mine", "--verify")
    assert done.status == 0
    assert "begins with: 'the quick brown fox" in done.out
    assert "verified: all 1 shards match their digests" in done.out
    assert "verified" not in braid("data", "inspect", "mine").out
    shard = next((braid.root / "datasets/mine/shards").iterdir())
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert braid("data", "inspect", "mine", "--verify").status == 1


@pytest.mark.parametrize("command", ["build", "inspect"])
def test_a_dataset_name_that_could_reach_outside_is_one_line(command: str, braid: Braid) -> None:
    done = braid("data", command, "../x")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("braid: NAME='../x': use up to 100 letters")


def test_the_version_is_the_packages(braid: Braid) -> None:
    assert braid("--version").out.strip().count(".") == 2
