"""`braid data show`: what a run read at a step, from the store alone."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dataset.manifest import load_manifest, manifest_key, manifest_to_json
from launch.commands.data.show import BEGINNING
from tests.launch.command_line import Braid
from tests.launch.stored_runs import put_steps, store_at, stored_run
from tests.orchestrator.control.stories import placed, resumed, stepped

BEGUN = (placed(1, "ab"), resumed(1, 0), stepped(1, 1))
NAMES = [f"text {number}" if number % 3 else "" for number in range(40)]
"""What their records call themselves; some have no name."""
TEXTS = [f"Document {number} tells of {'rivers and hills ' * 9}and ends." for number in range(40)]


@pytest.fixture
def shown(braid: Braid, tmp_path: Path) -> Braid:
    """A run of two ranks that has trained on 3 steps of 8 rows of 64 tokens."""
    records = [{"text": text} | ({"id": name} if name else {}) for text, name in zip(TEXTS, NAMES, strict=True)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    root = str(braid.root)
    assert braid("data", "build", "mine", str(tmp_path / "texts.jsonl"), "--vocab-size", "300", "--storage", root).status == 0
    stored_run(braid.root, BEGUN, "data.dataset=mine", "data.seq_len=64", "train.batch_rows=8", "train.micro_rows=1", "train.num_steps=9")
    put_steps(braid.root, 1, range(1, 4))
    return braid


def rows_of(braid: Braid, *arguments: str, status: int = 0) -> dict:
    done = braid("data", "show", "first", *arguments, "--json")
    assert done.status == status, done.err
    return json.loads(done.out)


def name_of(document: dict) -> str:
    own = f" ({document['id']})" if document["id"] else ""
    return f"{document['file']}:{document['number']}{own}"


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
        assert all(document["text"] in TEXTS[document["number"] - 1] for document in row["documents"])
        assert all((document["file"], document["id"]) == ("texts.jsonl", NAMES[document["number"] - 1]) for document in row["documents"])


def test_a_rank_shows_its_own_rows(shown: Braid) -> None:
    everything = rows_of(shown, "--step", "2")["rows"]
    assert rows_of(shown, "--step", "2", "--rank", "0")["rows"] == everything[:4]
    assert rows_of(shown, "--step", "2", "--rank", "1")["rows"] == everything[4:]


def test_people_read_where_a_row_lies_and_how_it_begins(shown: Braid) -> None:
    done = shown("data", "show", "first", "--step", "1", "--rank", "1")
    row = rows_of(shown, "--step", "1", "--rank", "1")["rows"][0]
    first, names, text, *_ = done.out.splitlines()
    assert done.err == ""
    assert first.startswith(f"row 4: mine, epoch 0, sample {row['sample']}, {shown.root}/datasets/mine/shards/00000-")
    assert f" tokens {row['first_token']:,} to {row['end_token']:,}, {len(row['documents'])} document" in first
    assert names.strip().split(", ") == [name_of(document) for document in row["documents"]]
    assert text == f"    {row['documents'][0]['text'][:BEGINNING]!r}"
    last = row["documents"][-1]
    assert f"    {name_of(last)}: {last['text']!r}\n" in shown("data", "show", "first", "--step", "1", "--full").out


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


@pytest.fixture
def registered(braid: Braid, tmp_path: Path) -> Path:
    """A run that has trained on a file of tokens as Dolma's toolkit writes it: 20 documents of 50 tokens, the last of which is eos."""
    directory = tmp_path / "web"
    directory.mkdir()
    tokens = np.arange(1, 1001, dtype="<u2")
    tokens[49::50] = 0
    tokens.tofile(directory / "part-0.npy")
    lines = "".join(f'{50 * number},{50 * number + 50},"id, {number}",s3://raw/{number % 2}.json.gz,{number + 1}\n' for number in range(20))
    (directory / "part-0.csv.gz").write_bytes(gzip.compress(lines.encode()))
    done = braid("data", "register", "web", str(directory), "--vocab-size", "1001", "--eos-id", "0", "--storage", str(braid.root))
    assert done.status == 0, done.err
    stored_run(braid.root, BEGUN, "data.dataset=web", "data.seq_len=64", "train.batch_rows=8", "train.micro_rows=1", "train.num_steps=9")
    put_steps(braid.root, 1, range(1, 2))
    return directory


def test_documents_of_registered_files_are_those_of_the_table_beside_them(braid: Braid, registered: Path) -> None:
    for row in rows_of(braid, "--step", "1")["rows"]:
        numbers = [number for number in range(20) if 50 * number < row["end_token"] and 50 * number + 49 > row["first_token"]]
        assert [(one["id"], one["file"], one["number"]) for one in row["documents"]] == [
            (f"id, {number}", f"s3://raw/{number % 2}.json.gz", number + 1) for number in numbers
        ]
        assert [one["text"].split()[-1] for one in row["documents"][:-1]] == [str(50 * number + 49) for number in numbers[:-1]]


def test_where_there_is_no_table_that_is_said_once_and_a_damaged_one_is_named(braid: Braid, registered: Path) -> None:
    table = registered / "part-0.csv.gz"
    whole = table.read_bytes()
    table.unlink()
    done = braid("data", "show", "first", "--step", "1")
    assert done.status == 0
    assert done.err == f"{table}: is missing, so which documents are in the file beside it is not known\n"
    assert done.out.count("row ") == 8
    assert "?" not in done.out
    for damaged in (whole[:20], whole[:-12], b"start,end", gzip.compress(b"start,end,id,src,loc\n0,50,a,b,1\n"), gzip.compress(b"\xff")):
        table.write_bytes(damaged)
        done = braid("data", "show", "first", "--step", "1")
        assert done.status == 1
        assert done.err.startswith(f"braid: {table}: is no table of documents as Dolma writes them (")
        assert done.err.count("\n") == 1
        assert done.out.count("row ") == 8


def test_a_dataset_of_an_earlier_version_says_once_that_its_documents_are_not_known(shown: Braid) -> None:
    store = store_at(shown.root)
    manifest = load_manifest(store, "mine")
    store.put(
        manifest_key("mine"), manifest_to_json(replace(manifest, shards=tuple(replace(one, documents=None) for one in manifest.shards)))
    )
    done = shown("data", "show", "first", "--step", "1")
    assert (done.status, done.err.count("\n")) == (0, 1)
    assert "which documents it is made of was not recorded; rebuild the dataset" in done.err


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
