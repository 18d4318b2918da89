"""`braid data register`: token files that others made, from a person's end."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.store.open import open_store
from launch.config.storage import storage_of
from tests.launch.command_line import Braid
from tests.launch.commands.test_weights import trained_run

TEXT = "the quick brown fox jumps over the lazy dog\n" * 200


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory as Dolma's toolkit writes it, and one file that numpy.save wrote."""
    directory = tmp_path / "web"
    (directory / "deep").mkdir(parents=True)
    tokens = np.random.default_rng(0).integers(0, 1000, 5000).astype("<u2")
    tokens.tofile(directory / "part-0-00000.npy")
    (directory / "part-0-00000.csv.gz").write_bytes(b"start,end,id")
    np.save(directory / "deep" / "more.npy", tokens[::-1].copy())
    return directory


IDS = ("--vocab-size", "1000", "--eos-id", "0")


def test_files_are_registered_looked_into_and_stay_as_they_are(braid: Braid, files: Path) -> None:
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files.rglob("*.*")}
    done = braid("data", "register", "web", str(files), *IDS)
    assert (done.status, done.out) == (0, "web\n"), done.err
    assert "left out: 1 .csv.gz\n" in done.err
    assert f"the files stay where they are: every node that trains must see {files}\n" in done.err
    assert "10,000 tokens of " in done.err
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files.rglob("*.*")} == before
    done = braid("data", "inspect", "web", "--verify")
    assert done.status == 0
    assert "web: 10,000 tokens, 20,000 bytes in 2 shards of uint16\n" in done.out
    assert f"registered where its files are: {files}\n" in done.out
    assert "no tokenizer: tokens are shown by their ids\n" in done.out
    assert f"begins with: [{', '.join(map(str, np.load(files / 'deep' / 'more.npy')[:32].tolist()))}]\n" in done.out
    assert "verified: all 2 shards match their digests" in done.out
    assert str(files).encode() in (braid.root / "datasets/web/manifest.json").read_bytes()


def test_with_the_tokenizer_text_is_shown(braid: Braid, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([TEXT], 300)
    np.array([*tokenizer.encode(TEXT).ids, 0], dtype="<u4").tofile(tmp_path / "a.u32")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    done = braid("data", "register", "web", str(tmp_path / "*.u32"), "--tokenizer", str(tmp_path / "tokenizer.json"), "--dtype", "uint32")
    assert done.status == 0, done.err
    assert "begins with: 'the quick brown fox" in braid("data", "inspect", "web", "--verify").out


def refused(braid: Braid, *arguments: str) -> str:
    done = braid("data", "register", *arguments)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done.err
    return done.err.removeprefix("braid: ")


def test_what_can_not_be_registered_is_one_line(braid: Braid, files: Path) -> None:
    place = str(files)
    assert refused(braid, "../x", place, *IDS).startswith("NAME='../x': use up to 100 letters")
    assert refused(braid, "x", place).startswith("--tokenizer: give the tokenizer.json that made the tokens, or --vocab-size and --eos-id")
    assert refused(braid, "x", place, "--vocab-size", "1000").startswith("--tokenizer: give the tokenizer.json")
    assert refused(braid, "x", place, *IDS, "--eos-token", "</s>").startswith("--tokenizer: give the tokenizer.json")
    assert refused(braid, "x", place, *IDS, "--tokenizer", "t.json").startswith("--tokenizer: says --vocab-size and --eos-id by itself")
    assert refused(braid, "x", place, *IDS, "--dtype", "int64").startswith("--dtype int64: use uint16 or uint32")
    assert refused(braid, "x", place, "--vocab-size", "10", "--eos-id", "10").startswith("--eos-id 10: is beyond --vocab-size 10")
    assert refused(braid, "x", place, "--vocab-size", "70000", "--eos-id", "1", "--dtype", "uint16").startswith("uint16: has room for")
    assert refused(braid, "x", f"{place}/none", *IDS).startswith(f"{place}/none: no such file")
    assert refused(braid, "x", "s3://X:Y@b/p", *IDS) == (
        "b/p: not an S3 location; give s3://bucket/prefix, and credentials by the environment only\n"
    )
    assert not (braid.root / "datasets").exists()
    braid("data", "register", "web", place, *IDS)
    assert "this dataset exists already" in refused(braid, "web", place, *IDS)


def test_a_registered_file_that_is_gone_or_another_is_told_before_a_run_begins_or_by_inspect(braid: Braid, files: Path) -> None:
    braid("data", "register", "web", str(files), *IDS)
    file = files / "deep" / "more.npy"
    file.write_bytes(b"PK\x03\x04" + file.read_bytes()[4:124] + b"PK\x03\x04" * 2 + file.read_bytes()[132:])
    done = braid("submit", "tiny", "data.dataset=web", "--dry-run")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"braid: data.dataset=web: {file}: begins like a zip or .npz archive: unpack it; or register it again")
    (file.parent / "beside.txt").touch()
    file.unlink()
    done = braid("data", "inspect", "web")
    assert (done.status, f"braid: {file}: is missing; restore this file, or register it again" in done.err) == (1, True)


def test_weights_that_were_trained_on_a_dataset_without_a_tokenizer_are_exported_without(braid: Braid, files: Path, tmp_path: Path) -> None:
    trained_run(braid.root)
    open_store(storage_of(str(braid.root))).delete("datasets/python-stdlib/manifest.json")
    assert braid("data", "register", "python-stdlib", str(files), *IDS).status == 0
    done = braid("export", "first", "--out", str(tmp_path / "out"))
    assert done.status == 0
    assert done.err.startswith("without a tokenizer: dataset python-stdlib was registered without one; put the tokenizer's files")
    assert done.err.count("\n") == 2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 0
    assert not (tmp_path / "out" / "tokenizer.json").exists()
