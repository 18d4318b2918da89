"""`braid submit`: what a dry run shows, and what is refused before anything starts. From stores alone: no Ray, no torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from launch.commands.runs import EXIT_STATUS
from launch.config.load import load_config
from launch.config.recipes import shipped_recipes
from launch.runs.connection import Connection
from launch.status import ENDED
from orchestrator.ray_backend.client import ClusterUnreachable
from tests.launch.command_line import Braid
from tests.launch.stored_runs import put_checkpoint, put_dataset, stored_run


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


def test_a_dry_run_tells_how_often_the_data_is_read(braid: Braid) -> None:
    there = "# data: dataset python-stdlib is not there yet, and is built when the run is submitted\n"
    assert there in braid("submit", "tiny", "--dry-run").out
    put_dataset(braid.root)
    line = (
        "# data: 204,800 tokens are 2.05 epochs of python-stdlib: rows of 128 tokens: 781; 31 of 100,000 tokens (0.031 %) are in no row\n"
    )
    assert line in braid("submit", "tiny", "--dry-run").out


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
    def connected(*_: object, **__: object) -> Iterator[Connection]:
        yield Connection()

    def start_controller(run: object, storage: object) -> Actor:
        if trouble == "ClusterUnreachable":
            raise ClusterUnreachable("did not start")
        return Actor(trouble)

    monkeypatch.setattr("launch.runs.lifecycle.connected", connected)
    monkeypatch.setattr(Connection, "nodes", lambda self: [])
    monkeypatch.setattr("orchestrator.ray_backend.client.start_controller", start_controller)
    monkeypatch.setattr("orchestrator.ray_backend.client.is_connected", lambda: True)
    monkeypatch.setattr("ray.get", lambda answer, timeout: answer)
    done = braid("submit", "tiny", "name=first", f"storage.root={braid.root}")
    assert (done.status, line in done.err) == (status, True), done.err
    assert json.loads(braid("runs", "--json").out)[0]["state"] == "queued"


def test_a_start_that_is_not_there_is_one_line_before_anything_runs(braid: Braid) -> None:
    done = braid("submit", "tiny", "name=second", "start.run=first")

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: start.run=first: there is no committed checkpoint of it")


def test_every_end_of_a_run_has_an_exit_status() -> None:
    assert set(EXIT_STATUS) == set(ENDED)
