"""`braid data pack`, and runs that read what it made, from a person's end."""

import json
from pathlib import Path

import pytest

from tests.launch.command_line import Braid, Done
from tests.launch.commands.test_data_show import BEGUN
from tests.launch.stored_runs import stored_run

TEXTS = [f"Document {number} tells of {'rivers and hills ' * (number % 7)}and ends." for number in range(60)]
PACKED = ("data.dataset=mine", "data.seq_len=64", "data.packing=best_fit")


@pytest.fixture
def built(braid: Braid, tmp_path: Path) -> Braid:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text, "id": f"text {n}"}) + "\n" for n, text in enumerate(TEXTS)))
    at = ("--storage", str(braid.root))
    assert braid("data", "build", "mine", str(tmp_path / "texts.jsonl"), "--vocab-size", "300", *at).status == 0
    return braid


def submit(braid: Braid) -> Done:
    return braid("submit", "tiny", f"storage.root={braid.root}", "train.num_steps=99", *PACKED, "--dry-run")


def test_a_run_says_what_to_type_and_then_how_its_rows_are_filled(built: Braid) -> None:
    refused = submit(built)
    again = "run `braid data pack mine --seq-len 64`\n"
    assert (refused.status, refused.err) == (2, f"braid: data.packing=best_fit: dataset mine is not packed for rows of 64 tokens; {again}")
    done = built("data", "pack", "mine", "--seq-len", "64")
    assert done.status == 0, done.err
    assert done.out.startswith("rows of 64 tokens, packed: ")
    assert done.out.endswith(" longer than a row, are cut\n")
    assert done.err == "use it with data.dataset=mine data.seq_len=64 data.packing=best_fit\n"
    found = submit(built)
    assert found.status == 0
    assert f"epochs of mine: {done.out}" in found.out + found.err
    table = next(built.root.glob("datasets/mine/packed/64/00000-*.bin"))
    table.unlink()
    lacking = submit(built)
    assert (lacking.status, lacking.err.count("\n")) == (2, 1)
    assert lacking.err.endswith(f"the first: {table}; {again}")
    assert built("data", "pack", "mine", "--seq-len", "64").out == done.out
    assert submit(built).status == 0


def test_rows_that_are_packed_are_planned_and_shown_with_their_documents(built: Braid) -> None:
    built("data", "pack", "mine", "--seq-len", "64")
    stored_run(built.root, BEGUN, *PACKED, "train.batch_rows=8", "train.micro_rows=1", "train.num_steps=9")
    found = json.loads(built("data", "show", "first", "--step", "2", "--json").out)
    for row in found["rows"]:
        assert sum(end - first for first, end in row["ranges"]) <= 65
        for document in row["documents"]:
            assert document["text"] in TEXTS[document["number"] - 1]
            assert document["id"] == f"text {document['number'] - 1}"
    several = next(row for row in found["rows"] if len(row["ranges"]) > 1)
    words = ", ".join(f"{first:,} to {end:,}" for first, end in several["ranges"])
    assert f" tokens {words}, {len(several['documents'])} documents\n" in built("data", "show", "first", "--step", "2").out
    planned = built("data", "plan", "tiny", f"storage.root={built.root}", "train.num_steps=9", *PACKED)
    assert planned.status == 0, planned.err


def test_what_can_not_be_packed_is_one_line(built: Braid) -> None:
    for arguments, told in {("none", "--seq-len", "64"): "no such dataset", ("../x", "--seq-len", "64"): "NAME='../x': use up to"}.items():
        done = built("data", "pack", *arguments)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert told in done.err


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("byte", [0, 40, -1], ids=["head", "entry", "window"])
def test_a_flipped_byte_of_a_table_is_found_by_who_verifies_the_dataset_and_packing_again_mends_it(built: Braid, byte: int) -> None:
    at = ("--storage", str(built.root))
    for seq_len in ("64", "128"):
        built("data", "pack", "mine", "--seq-len", seq_len)
    done = built("data", "inspect", "mine", "--verify", *at)
    assert done.out.endswith(", rows of 64 tokens are as they were packed, rows of 128 tokens are as they were packed\n")
    table = next(built.root.glob("datasets/mine/packed/128/0*"))
    flip(table, byte)
    done = built("data", "inspect", "mine", "--verify", *at)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert done.err.startswith(f"braid: {table}: ")
    assert done.err.endswith("not what was packed; pack the dataset again with `braid data pack mine --seq-len 128`\n")
    built("data", "pack", "mine", "--seq-len", "128")
    assert built("data", "inspect", "mine", "--verify", *at).status == 0
    table.unlink()
    assert f"braid: {table}: is missing; " in built("data", "inspect", "mine", "--verify", *at).err


def test_what_lists_the_tables_is_verified_too(built: Braid) -> None:
    built("data", "pack", "mine", "--seq-len", "64")
    (built.root / "datasets/mine/packed/64/packing.json").write_text("{")
    done = built("data", "inspect", "mine", "--verify", "--storage", str(built.root))
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert done.err.endswith("packing.json: is not what was written there; run `braid data pack mine --seq-len 64`\n")


def test_rows_of_a_damaged_window_say_why_and_the_others_are_shown(built: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.order.best_fit.MOST_ROWS", 4)
    built("data", "pack", "mine", "--seq-len", "64")
    stored_run(built.root, BEGUN, *PACKED, "train.batch_rows=8", "train.micro_rows=1", "train.num_steps=9")
    table = next(built.root.glob("datasets/mine/packed/64/0*"))
    flip(table, -1)
    found = [built("data", "show", "first", "--step", str(step), "--json") for step in range(1, 6)]
    rows = [row for done in found for row in json.loads(done.out)["rows"]]
    lost = [row for row in rows if row["problem"]]
    assert 0 < len(lost) < len(rows)
    for row in lost:
        assert (row["first_token"], row["ranges"], row["documents"]) == (None, [], [])
        assert row["problem"].startswith(f"{table}: bytes ")
    assert all(row["documents"] for row in rows if not row["problem"])
    step = next(number for number, done in enumerate(found, start=1) if done.status)
    done = built("data", "show", "first", "--step", str(step))
    assert (done.status, done.err.count("braid: "), done.out.count("row ")) == (1, 1, 8)
