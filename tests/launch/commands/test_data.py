"""`braid data`: datasets are made and looked into."""

import os
from pathlib import Path

import pytest

from tests.launch.command_line import Braid


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


def refused(braid: Braid, *arguments: str) -> str:
    """The one line with which a dataset is not built."""
    done = braid("data", "build", "mine", *arguments)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done.err
    return done.err


def test_a_corpus_that_can_not_be_read_whole_is_not_built(braid: Braid, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("text")
    (corpus / "b.txt").symlink_to("gone.txt")
    assert refused(braid, str(corpus)).startswith(f"braid: {corpus / 'b.txt'}: a link that leads to nothing")
    (corpus / "b.txt").unlink()
    os.mkfifo(corpus / "a.jsonl")
    assert refused(braid, str(corpus)).startswith(f"braid: {corpus / 'a.jsonl'}: a pipe, socket or device")
