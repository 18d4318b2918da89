"""`braid data`: datasets are made and looked into."""

import ast
import hashlib
import json
import os
import re
import signal
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dataset.manifest import manifest_key, manifest_to_json
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.store.open import open_store
from launch.commands.data.building import Shown
from launch.config.storage import storage_of
from tests.data_pipeline.dataset.built import encoding_processes
from tests.data_pipeline.datasets import put_dataset
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
    assert "all 1 shards match their digests, every token is in the vocabulary, and the table of each has its documents" in done.out
    assert "documents: 1; " in done.out
    assert "are in no row" in done.out
    assert ": 1 of 1 shards are shorter than a row" in braid("data", "inspect", "mine", "--seq-len", "1000000").out
    assert "verified" not in braid("data", "inspect", "mine").out
    shard = next((braid.root / "datasets/mine/shards").iterdir())
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert braid("data", "inspect", "mine", "--verify").status == 1


def test_a_tokenizer_and_the_size_of_one_that_is_to_be_trained_do_not_go_together(braid: Braid, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("the quick brown fox\n" * 9)
    train_tokenizer(["the quick brown fox"], 300).save(str(tmp_path / "tokenizer.json"))
    at = ("data", "build", "mine", str(tmp_path / "corpus.txt"), "--tokenizer", str(tmp_path / "tokenizer.json"))
    done = braid(*at, "--vocab-size", "300")
    assert (done.status, done.err.strip()) == (2, "braid: --tokenizer: has a vocabulary of its own; leave out --vocab-size")
    assert braid(*at).status == 0


@pytest.mark.parametrize("command", ["build", "inspect"])
def test_a_dataset_name_that_could_reach_outside_is_one_line(command: str, braid: Braid) -> None:
    done = braid("data", command, "../x")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("braid: NAME='../x': use up to 100 letters")


def test_a_shard_with_the_header_of_an_npy_file_is_refused_before_a_run_begins(braid: Braid) -> None:
    """Its size and its digest are right."""
    store = open_store(storage_of(str(braid.root)))
    manifest = put_dataset(store, list(range(1000)), name="mine")
    data = b"\x93NUMPY" + store.get(manifest.shards[0].key)[6:]
    store.put(manifest.shards[0].key, data)
    shard = replace(manifest.shards[0], sha256=hashlib.sha256(data).hexdigest())
    store.put(manifest_key("mine"), manifest_to_json(replace(manifest, shards=(shard,))))
    for command in (("submit", "tiny", "data.dataset=mine"), ("submit", "tiny", "data.dataset=mine", "--dry-run")):
        done = braid(*command)
        assert done.status == 2
        assert done.err.startswith(f"braid: data.dataset=mine: {braid.root}/{shard.key}: begins like an .npy file")
        assert done.err.count("\n") == 1
    done = braid("data", "inspect", "mine", "--verify")
    assert (done.status, "begins like an .npy file" in done.err) == (1, True)


def test_an_interrupted_build_leaves_no_process_and_goes_on_when_it_is_typed_again(
    braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.jsonl").write_text((json.dumps({"text": "the quick brown fox jumps over the lazy dog " * 20}) + "\n") * 200)
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", 10_000)
    monkeypatch.setattr("data_pipeline.sources.json_records.CHUNK_BYTES", 10_000)
    command = ("data", "build", "mine", str(tmp_path / "corpus.jsonl"), "--vocab-size", "300", "--shard-tokens", "5000", "--workers", "2")
    show = Shown.show

    def press_ctrl_c(shown: Shown, now: BuildProgress) -> None:
        show(shown, now)
        if now.num_shards:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("launch.commands.data.building.Shown.show", press_ctrl_c)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background with it ignored
        done = braid(*command)
        signal.signal(signal.SIGINT, before)
    assert (done.status, done.out) == (130, "")
    told = re.search(r"^interrupted; (\d+) shards? finished\. The same command goes on from there$", done.err, re.MULTILINE)
    assert told
    assert not encoding_processes()

    done = braid(*command)
    assert (done.status, done.out) == (0, "mine\n")
    kept = re.search(r"tokens in \d+ shards, (\d+) of them by a build that was interrupted; use it with data\.dataset=mine", done.err)
    assert kept
    assert int(kept[1]) >= int(told[1]) > 0
    assert braid("data", "inspect", "mine", "--verify").status == 0
    assert not any("/building/" in info.key for info in open_store(storage_of(str(braid.root))).list("datasets/"))


def test_what_is_shown_of_a_build_is_its_pace_since_it_went_on() -> None:
    now_s, lines = [100.0], []
    shown = Shown(lambda line, now: lines.append(line), clock=lambda: now_s[0])
    million = 10**6
    begun = BuildProgress(
        num_documents=10, num_tokens=million, num_shards=1, num_text_bytes=4 * million, read_bytes=5 * million, size_bytes=10_000 * million
    )
    shown.show(begun)
    now_s[0] += 10
    shown.show(replace(begun, num_documents=1234, num_tokens=31 * million, num_text_bytes=124 * million, read_bytes=155 * million))
    assert lines[0] == "10 documents, 1 Mtokens, 1 shard · 0 B/s of text, 0 tokens/s"
    assert lines[1] == "1,234 documents, 31 Mtokens, 1 shard · 12 MB/s of text, 3 Mtokens/s · 10:56 left"


def refused(braid: Braid, *arguments: str) -> str:
    """The one line with which a dataset is not built."""
    done = braid("data", "build", "mine", *arguments)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done.err
    return done.err


def test_a_cluster_that_does_not_answer_is_one_line(braid: Braid, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    assert refused(braid, str(tmp_path), "--address", "127.0.0.1:1").startswith("braid: no Ray cluster answers at 127.0.0.1:1")


def test_a_corpus_that_can_not_be_read_whole_is_not_built(braid: Braid, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("text")
    (corpus / "b.txt").symlink_to("gone.txt")
    assert refused(braid, str(corpus)).startswith(f"braid: {corpus / 'b.txt'}: a link that leads to nothing")
    (corpus / "b.txt").unlink()
    os.mkfifo(corpus / "a.jsonl")
    assert refused(braid, str(corpus)).startswith(f"braid: {corpus / 'a.jsonl'}: a pipe, socket or device")


def text_in(braid: Braid, name: str = "mine") -> str:
    """How the dataset begins, as `braid data inspect` shows it."""
    shown = next(line for line in braid("data", "inspect", name).out.splitlines() if line.startswith("begins with: "))
    return str(ast.literal_eval(shown.removeprefix("begins with: ")))


@pytest.mark.parametrize("name", ["a.json", "a.ndjson", "A.JSONL", "part-00000"])
def test_records_are_documents_whatever_their_file_is_called(name: str, braid: Braid, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"text": "alpha"}\n{"text": "beta"}\n')
    assert braid("data", "build", "mine", str(tmp_path / name), "--vocab-size", "300").status == 0
    assert text_in(braid) == "alpha<|endoftext|>beta<|endoftext|>"


def test_what_is_no_text_is_refused_by_name(braid: Braid, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "books.tar.gz", "w:gz") as archive:
        archive.add(__file__, "book.txt")
    assert refused(braid, str(tmp_path)).startswith(
        f"braid: {tmp_path / 'books.tar.gz'}: a tar archive, not UTF-8 text; convert or unpack it"
    )


LONG = "the quick brown fox jumps over the lazy dog and then some more words that follow"


def tokenizer_file(tmp_path: Path, **changes: object) -> Path:
    fields = json.loads(train_tokenizer([LONG] * 9, 300).to_str())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(fields | changes, indent=3))
    return path


def test_documents_are_whole_whatever_the_tokenizer_s_file_says_and_the_file_is_kept(braid: Braid, tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    file = tokenizer_file(tmp_path, truncation=truncation, padding=padding)
    (tmp_path / "long.txt").write_text(LONG)
    assert braid("data", "build", "mine", str(tmp_path / "long.txt"), "--tokenizer", str(file)).status == 0
    assert text_in(braid) == f"{LONG}<|endoftext|>"
    (stored,) = (braid.root / "datasets/mine").glob("tokenizer-*.json")
    assert stored.read_bytes() == file.read_bytes()


def test_text_that_spells_eos_does_not_end_a_document(braid: Braid, tmp_path: Path) -> None:
    fields = json.loads(tokenizer_file(tmp_path).read_text())
    file = tokenizer_file(tmp_path, added_tokens=[fields["added_tokens"][0] | {"special": False}])
    (tmp_path / "eos.txt").write_text("before <|endoftext|> after")
    assert braid("data", "build", "mine", str(tmp_path / "eos.txt"), "--tokenizer", str(file)).status == 0
    (shard,) = (braid.root / "datasets/mine/shards").iterdir()
    assert np.fromfile(shard, "<u2").tolist().count(0) == 1


def test_unknown_text_is_refused_or_counted(braid: Braid, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("near far")
    for vocab, said in (
        ({"</s>": 0, "near": 1}, "braid: the tokenizer can't encode 37.50% of the text, such as 'f' in 'near far'"),
        ({"</s>": 0, "near": 1, "[UNK]": 2}, "1 of them (33.33%) stand for text that the tokenizer doesn't know"),
    ):
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
        file = tokenizer_file(tmp_path, model=model, added_tokens=[], pre_tokenizer={"type": "Whitespace"}, decoder=None)
        done = braid("data", "build", "mine", str(tmp_path / "a.txt"), "--tokenizer", str(file))
        assert (done.status, said in done.err) == (0 if "[UNK]" in vocab else 2, True), done.err
