"""`braid data show`: what a run read at a step, from the store alone."""

import json
from pathlib import Path

import pytest

from data_pipeline.dataset.manifest import load_manifest
from launch.commands.data.show import BEGINNING
from tests.launch.command_line import Braid
from tests.launch.stored_runs import put_steps, store_at, stored_run
from tests.orchestrator.control.stories import placed, resumed, stepped

BEGUN = (placed(1, "ab"), resumed(1, 0), stepped(1, 1))
TEXTS = [f"Document {number} tells of {'rivers and hills ' * 9}and ends." for number in range(40)]


@pytest.fixture
def shown(braid: Braid, tmp_path: Path) -> Braid:
    """A run of two ranks that has trained on 3 steps of 8 rows of 64 tokens."""
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    root = str(braid.root)
    assert braid("data", "build", "mine", str(tmp_path / "texts.jsonl"), "--vocab-size", "300", "--storage", root).status == 0
    stored_run(braid.root, BEGUN, "data.dataset=mine", "data.seq_len=64", "train.batch_rows=8", "train.micro_rows=1", "train.num_steps=9")
    put_steps(braid.root, 1, range(1, 4))
    return braid


def rows_of(braid: Braid, *arguments: str, status: int = 0) -> dict:
    done = braid("data", "show", "first", *arguments, "--json")
    assert done.status == status, done.err
    return json.loads(done.out)


def test_the_rows_of_an_epoch_are_the_corpus(shown: Braid) -> None:
    manifest = load_manifest(store_at(shown.root), "mine")
    seen = {}
    for step in range(1, manifest.num_samples(64) // 8 + 2):
        found = rows_of(shown, "--step", str(step))
        assert found["was_trained"] is (step <= 3)
        assert [row["row"] for row in found["rows"]] == [*range(8)]
        seen |= {row["sample"]: row for row in found["rows"] if row["epoch"] == 0}
    assert len(seen) == manifest.num_samples(64)
    for sample, row in seen.items():
        assert (row["dataset"], row["shard"]) == ("mine", f"{shown.root}/{manifest.shards[0].key}")
        assert (row["first_token"], row["end_token"]) == (sample * 64, sample * 64 + 65)
        assert all(any(document in text for text in TEXTS) for document in row["documents"])


def test_a_rank_shows_its_own_rows(shown: Braid) -> None:
    everything = rows_of(shown, "--step", "2")["rows"]
    assert rows_of(shown, "--step", "2", "--rank", "0")["rows"] == everything[:4]
    assert rows_of(shown, "--step", "2", "--rank", "1")["rows"] == everything[4:]


def test_people_read_where_a_row_lies_and_how_it_begins(shown: Braid) -> None:
    done = shown("data", "show", "first", "--step", "1", "--rank", "1")
    row = rows_of(shown, "--step", "1", "--rank", "1")["rows"][0]
    first, text, *_ = done.out.splitlines()
    assert done.err == ""
    assert first.startswith(f"row 4: mine, epoch 0, sample {row['sample']}, {shown.root}/datasets/mine/shards/00000-")
    assert f" tokens {row['first_token']:,} to {row['end_token']:,}, {len(row['documents'])} document" in first
    assert text == f"    {row['documents'][0][:BEGINNING]!r}"
    assert repr(row["documents"][-1]) in shown("data", "show", "first", "--step", "1", "--full").out


def test_a_step_that_was_not_trained_on_yet_is_told_as_such(shown: Braid) -> None:
    done = shown("data", "show", "first", "--step", "4")
    assert (done.status, done.err) == (0, "first: has not trained on step 4 yet; this is what would be read\n")


def test_what_is_not_there_is_one_line(shown: Braid) -> None:
    for arguments, told in (
        (("nobody", "--step", "1"), "run 'nobody'"),
        (("first", "--step", "1", "--rank", "2"), "--rank 2: run first has 2 workers; use 0 … 1"),
    ):
        done = shown("data", "show", *arguments)
        assert done.status == 2
        assert told in done.err
        assert done.err.count("\n") == 1


def test_rows_that_cant_be_read_say_why_and_the_others_are_shown(shown: Braid) -> None:
    store = store_at(shown.root)
    manifest = load_manifest(store, "mine")
    store.delete(manifest.shards[0].key)
    done = shown("data", "show", "first", "--step", "1")
    assert done.status == 1
    assert done.out.count("row ") == 8
    assert done.err.count("is in the manifest but not in the store") == 1
    store.delete(manifest.tokenizer_key)
    done = shown("data", "show", "first", "--step", "1")
    assert done.err.startswith("braid: ")
    assert "the dataset's tokenizer is missing" in done.err
