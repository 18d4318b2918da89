"""`braid data plan`, and submissions of mixtures."""

import json
from pathlib import Path

import pytest

from data_pipeline.store.open import open_store
from launch.config.storage import storage_of
from tests.data_pipeline.datasets import put_dataset
from tests.launch.command_line import Braid

RECIPE = """
name: mixed
model: {preset: tiny}
data:
  seq_len: 16
  sources:
    - {dataset: web, ratio: 3}
    - {dataset: code, ratio: 1, max_epochs: 2}
  phases:
    - {steps: 20, batch_rows: 4}
    - {tokens: 5_000, ratios: {web: 1, code: 1}}
    - {seq_len: 32, micro_rows: 1}
optimizer: {lr: 1.0e-3, warmup_steps: 5}
train: {num_steps: 100, batch_rows: 8, micro_rows: 2}
resources: {device: cpu, workers_per_node: 1}
"""


@pytest.fixture
def recipe(braid: Braid, tmp_path: Path) -> str:
    store = open_store(storage_of(str(braid.root)))
    put_dataset(store, *([[n % 250 for n in range(20_000)]] * 2), name="web", vocab_size=256)
    put_dataset(store, [n % 250 for n in range(8_000)], name="code", vocab_size=256)
    (tmp_path / "mixed.yaml").write_text(RECIPE)
    return str(tmp_path / "mixed.yaml")


def test_what_each_phase_reads_and_what_runs_out_when_is_told(braid: Braid, recipe: str) -> None:
    done = braid("data", "plan", recipe)
    assert done.status == 0, done.err
    assert "phase 1: steps 1 to 20, 4 rows × 16 tokens, 1.28 ktokens" in done.out
    assert "phase 2: steps 21 to 60, 8 rows × 16 tokens, 5.12 ktokens" in done.out
    assert "phase 3: steps 61 to 100, 8 rows × 32 tokens, 10.2 ktokens" in done.out
    reading = json.loads(braid("data", "plan", recipe, "--json").out)
    assert reading["tokens"] == sum(phase["tokens"] for phase in reading["phases"]) == 1280 + 5120 + 10240
    assert [source["dataset"] for source in reading["phases"][1]["sources"]] == ["web", "code"]
    assert reading["phases"][1]["sources"][0]["share"] == pytest.approx(0.5, abs=0.1)


def test_a_source_that_is_capped_leaves_its_part_to_the_others_and_one_that_is_not_is_read_again(braid: Braid, recipe: str) -> None:
    done = braid("data", "plan", recipe, "train.num_steps=1000")
    assert "web: begins its second epoch at step " in done.out
    assert "code: max_epochs=2 is reached at step " in done.out


def test_a_run_that_its_sources_dont_last_for_is_refused_before_it_begins(braid: Braid, recipe: str) -> None:
    sources = "data.sources=[{dataset: web, max_epochs: 1}, {dataset: code, max_epochs: 1}]"
    done = braid("data", "plan", recipe, "train.num_steps=1000", sources)
    assert done.status == 1
    assert "nothing is left to read at step " in done.out
    done = braid("submit", recipe, "train.num_steps=1000", sources, "--dry-run")
    assert done.status == 2
    assert "braid: train.num_steps=1000: at step " in done.err
    assert done.err.count("\n") == 1


def test_what_does_not_go_together_is_one_line(braid: Braid, recipe: str) -> None:
    store = open_store(storage_of(str(braid.root)))
    put_dataset(store, [5] * 8_000, name="huge", vocab_size=60_000)
    for overrides, said in {
        "data.phases=[] & data.sources=[{dataset: web}, {dataset: huge}]": "model.vocab_size=",
        "data.phases=[] & data.sources=[{dataset: web}, {dataset: none}]": "/datasets/none/manifest.json: no such dataset",
        "data.sources=[{dataset: web}, {dataset: code, rato: 2}]": "data.sources[1].rato: no such key",
        "optimizer.warmup_tokens=1000": "optimizer.warmup_tokens=1000: the steps of data.phases differ in tokens",
        "train.num_steps=50": "data.phases: phase 3 begins at step 61, behind the last",
        "train.micro_rows=8": "data.phases: phase 1: batch_rows=4: not divisible",
    }.items():
        for command in (("data", "plan"), ("submit",)):
            done = braid(*command, recipe, *overrides.split(" & "))
            assert (done.status, done.err.count("\n")) == (2, 1), done.err
            assert said in done.err


def test_a_dry_run_tells_of_every_phase_and_source(braid: Braid, recipe: str) -> None:
    done = braid("submit", recipe, "--dry-run")
    assert done.status == 0, done.err
    assert "# phase 3, from step 61: 8 rows × 32 tokens = 256 tokens a step; 8 passes of 1 row" in done.out
    assert "# tokens: 100 steps, 16,640 tokens" in done.out
    assert "epochs of web: rows of 32 tokens" in done.out
    assert "epochs of code: rows of 32 tokens" in done.out


def test_caps_and_steps_may_be_as_large_as_anybody_means_them(braid: Braid, recipe: str) -> None:
    """Counts of 32 bits went round: the first never ended, the second had less than nothing of a source."""
    one = ("data.phases=[]", "data.sources=[{dataset: web}, {dataset: code, max_epochs: 1000000}]")
    assert braid("data", "plan", recipe, *one).status == 0
    assert "use 1 to 1000000" in braid("data", "plan", recipe, one[0], one[1].replace("1000000", "1000001")).err
    phases = "data.phases=[{steps: 3000000000}, {seq_len: 32}]"
    sources = "data.sources=[{dataset: web, ratio: 3}, {dataset: code, ratio: 1}]"
    reading = json.loads(braid("data", "plan", recipe, "train.num_steps=4000000000", phases, sources, "--json").out)
    assert [[source["share"] for source in phase["sources"]] for phase in reading["phases"]] == [pytest.approx([0.75, 0.25], rel=1e-3)] * 2


def test_a_capped_source_that_never_fills_a_batch_is_told_as_one_that_is_not_read_and_refused(braid: Braid, recipe: str) -> None:
    store = open_store(storage_of(str(braid.root)))
    put_dataset(store, [7] * 50, name="few", vocab_size=256)
    overrides = ("data.phases=[]", "data.sources=[{dataset: web}, {dataset: few, max_epochs: 1}]")
    done = braid("data", "plan", recipe, *overrides)
    assert "few: nothing of it is read: max_epochs=1 gives fewer rows than the largest batch has" in done.out
    for dry in ((), ("--dry-run",)):
        done = braid("submit", recipe, *overrides, *dry)
        assert (done.status, done.err.count("\n")) == (2, 1), done.err
        assert "data.sources: few: max_epochs=1 of it fill not one batch of 8 rows, the largest, so nothing of it would be read" in done.err
    assert braid("submit", recipe, *overrides, "data.sources[1].max_epochs=3", "--dry-run").status == 0


def test_text_that_is_trained_on_is_not_taken_for_held_out(braid: Braid, recipe: str) -> None:
    for overrides, name in (((), "code"), (("data.phases=[]", "data.dataset=web"), "web")):
        done = braid("submit", recipe, *overrides, f"eval.dataset={name}", "--dry-run")
        assert (done.status, done.err.count("\n")) == (2, 1), done.err
        assert (
            f"eval.dataset={name}: is trained on, so its loss tells nothing of other text; build one of text that is held out" in done.err
        )
    apart = ("data.phases=[]", "data.sources[1].ratio=0", "eval.dataset=code")
    assert braid("submit", recipe, *apart, "--dry-run").status == 0


def test_a_cap_that_another_length_of_rows_cuts_short_names_the_shuffle_that_goes_on(braid: Braid, recipe: str) -> None:
    sources = "data.sources=[{dataset: web, max_epochs: 1}, {dataset: code, max_epochs: 1}]"
    phases = "data.phases=[{steps: 5}, {seq_len: 32}]"
    done = braid("submit", recipe, sources, phases, "train.num_steps=300", "--dry-run")
    assert done.status == 2
    assert "use data.shuffle=blocks, which goes on at the next window of blocks, a larger max_epochs, or the same" in done.err
    assert done.err.count("\n") == 1


def test_what_another_length_of_rows_leaves_unread_of_a_source_is_told(braid: Braid, recipe: str) -> None:
    """A window of blocks is more than all of these sources, so that they go on in another epoch, or not at all."""
    sources = "data.sources=[{dataset: web, max_epochs: 1}, {dataset: code}]"
    phases = ("data.phases=[{steps: 64}, {seq_len: 32}]", "data.shuffle=blocks", "train.num_steps=150")
    over = "web: at step 65 seq_len changes, and it has nothing left within max_epochs=1: 35,872 tokens of it are never read; "
    again = "code: at step 65 seq_len changes, and it goes on in its epoch 2: 3,888 tokens of it are left unread; "
    for command in (("data", "plan"), ("submit", "--dry-run")):
        told = " ".join(braid(*command, recipe, sources, *phases).out.split())
        assert f"{over}use a smaller data.shuffle_window or batch_rows, a larger max_epochs, or the same seq_len" in told
        assert f"{again}use a smaller data.shuffle_window or batch_rows, or the same seq_len" in told
        assert "seq_len changes" not in braid(*command, recipe, sources, "data.phases=[{steps: 64}, {}]", *phases[1:]).out
    alone = "data.sources=[{dataset: web, max_epochs: 1}]"
    done = braid("submit", recipe, alone, *phases, "--dry-run")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "braid: train.num_steps=150: at step 65 every source" in done.err
    assert over.replace("35,872", "31,776") in done.err
