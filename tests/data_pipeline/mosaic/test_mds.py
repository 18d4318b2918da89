"""Shards that streaming wrote (`make.py`) are read as their documents."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.corpus import Start
from data_pipeline.sources.open import open_corpus
from tests.data_pipeline.mosaic.make import MADE, TEXTS

DOCUMENTS = [(f"doc-{number}", number + 1, text) for number, text in enumerate(TEXTS) if text.strip()]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mds")
    shutil.unpack_archive(MADE, directory)
    return directory


def read(path: Path, start: Start | None = None) -> list[tuple[str, int, str]]:
    parts = open_corpus(path).parts(*([start] if start else []))
    return [(document.id, part.file, document.text) for part in parts for document in part.documents()]


@pytest.mark.parametrize("kind", ["plain", "zstd", "gz", "bz2"])
def test_shards_of_every_packing_have_the_documents_that_were_written_and_their_ids(kind: str, made: Path) -> None:
    found = read(made / kind)
    assert [(name, text) for name, _, text in found] == [(name, text) for name, _, text in DOCUMENTS]
    assert {file for _, file, _ in found} == {0, 1}
    assert read(made / kind / "index.json") == found
    assert open_corpus(made / kind).size_bytes == sum(file.stat().st_size for file in (made / kind).glob("shard*"))


def test_a_build_that_goes_on_within_a_shard_reads_what_is_behind(made: Path) -> None:
    (first, second) = open_corpus(made / "plain").parts()
    assert (first.name, second.name, second.chunk.share) == ("shard.00000.mds", "shard.00001.mds", 1.0)
    assert [document.number for document in first.documents()][:4] == [1, 2, 5, 6]
    assert (
        read(made / "plain", Start(file=1, place=second.chunk.place, skip=2)) == read(made / "plain")[-len(list(second.documents())) + 2 :]
    )


@pytest.mark.parametrize(("kind", "expected"), [("int", "200"), ("uint8", "200"), ("int32", "200"), ("str_int", "200"), ("pkl", "")])
def test_an_id_is_text_or_a_whole_number_and_nothing_else_is_unpickled(kind: str, expected: str, made: Path) -> None:
    assert read(made / f"id_{kind}") == [(expected, 0, "one")]


def test_directories_of_shards_and_other_files_are_one_corpus(made: Path, tmp_path: Path) -> None:
    """Of a shard that is there packed and unpacked, as streaming leaves it, one is read."""
    shutil.copytree(made / "plain", tmp_path / "b")
    shutil.copy(made / "zstd" / "shard.00001.mds.zstd", tmp_path / "b")
    shutil.copy(made / "zstd" / "index.json", tmp_path / "b")
    (tmp_path / "a.txt").write_text("before")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "index.json").write_text('{"text": "no index", "shards": 3}')
    texts = [text for _, _, text in read(tmp_path)]
    assert texts == ["before", *(text for _, _, text in DOCUMENTS), "no index"]


def test_an_index_above_directories_names_the_shards_in_them(made: Path, tmp_path: Path) -> None:
    """As streaming's merge_index writes it."""
    shutil.copytree(made / "plain", tmp_path / "part")
    index = json.loads((tmp_path / "part" / "index.json").read_text())
    for shard in index["shards"]:
        shard["raw_data"]["basename"] = f"part/{shard['raw_data']['basename']}"
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert read(tmp_path) == read(made / "plain")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no_text", 'shard.00000.mds: no column "text" among content, n; give that name to the documents'),
        ("bytes", 'shard.00000.mds: the column "text" is bytes; only str is read, a document per sample'),
        ("snappy", "shard.00000.mds.snappy: packed in a way that is not read; unpack it, or write it as .zstd, .gz or .bz2"),
    ],
)
def test_what_is_not_read_is_one_line(kind: str, said: str, made: Path) -> None:
    with pytest.raises(CorpusInvalid) as caught:
        read(made / kind)
    assert str(caught.value) == f"{made / kind}/{said}"


def test_shards_that_do_not_go_with_their_index_are_told(made: Path, tmp_path: Path) -> None:
    index = json.loads((made / "plain" / "index.json").read_text())

    def told(index: object, *shards: str) -> str:
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        (tmp_path / "shards").mkdir()
        for shard in shards:
            shutil.copy(made / "plain" / shard, tmp_path / "shards")
        if index:
            (tmp_path / "shards" / "index.json").write_text(json.dumps(index))
        with pytest.raises(CorpusInvalid) as caught:
            read(tmp_path / "shards")
        return str(caught.value).removeprefix(f"{tmp_path / 'shards'}/")

    both = ("shard.00000.mds", "shard.00001.mds")
    shard = index["shards"][0]
    assert told(index, both[0]).startswith("index.json: names shard.00001.mds, which is not there; fetch it")
    assert told(None, *both).startswith("shard.00000.mds: an MDS shard that no index.json names; give the directory with the one that does")
    assert told(index | {"shards": [shard]}, *both).startswith("shard.00001.mds: an MDS shard that no index.json names")
    assert told(index | {"version": 3}, *both).startswith("index.json: MDS of version 3; only version 2 is read")
    assert told(index | {"shards": [shard | {"format": "csv"}]}).startswith("index.json: names shards of format csv")
    for broken in ({}, shard | {"raw_data": {}}, shard | {"raw_data": {"basename": "../shard.00000.mds"}}, shard | {"raw_data": None}, 3):
        assert told(index | {"shards": [broken]}, *both).startswith("index.json: a shard in it is not told as MDS tells it")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_shard_is_one_line_or_another_text_and_never_a_traceback(data: st.DataObject, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "plain", tmp_path / "shards", dirs_exist_ok=True)
    path = tmp_path / "shards" / "shard.00000.mds"
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
        expected = "ends before its last sample"
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        expected = ""
    path.write_bytes(content)
    lines = []
    try:
        read(tmp_path / "shards")
    except CorpusInvalid as error:
        lines = str(error).splitlines()
    assert len(lines) == 1 or (not lines and not expected)
    assert all(line.startswith(f"{path}: ") and expected in line for line in lines)
