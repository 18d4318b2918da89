from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.open import open_corpus
from tests.data_pipeline.sources.documents import DOCUMENTS


def test_parquet_is_read(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [1, 2, 3], "text": DOCUMENTS}), tmp_path / "a.parquet")
    assert list(open_corpus(tmp_path / "a.parquet")) == DOCUMENTS


def test_parquet_without_text_says_what_it_has(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [1], "content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusInvalid, match=r'no column "text" among id, content'):
        list(open_corpus(tmp_path))
    parquet.write_table(pa.table({"text": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusInvalid, match=r'row 2: no string in the column "text"'):
        list(open_corpus(tmp_path))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("name", ["a.parquet", "A.PARQUET", "unsaid"])
def test_every_kind_of_text_column_is_read_whatever_the_file_is_called(name: str, kind: pa.DataType, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": pa.array(DOCUMENTS).cast(kind)}), tmp_path / name)
    assert list(open_corpus(tmp_path / name)) == DOCUMENTS


def test_parquet_without_rows_holds_no_document(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert list(open_corpus(tmp_path)) == []


@pytest.mark.parametrize("values", [[b"bytes"], [1], [["a", "b"]], [{"a": "b"}], [1.5]], ids=str)
def test_a_column_that_is_no_text_says_what_it_is(values: list, tmp_path: Path) -> None:
    column = pa.array(values)
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(CorpusInvalid, match=r'a\.parquet: the column "text" is .*; cast it to string, a document per row$') as refused:
        list(open_corpus(tmp_path))
    assert f"is {parquet.read_schema(tmp_path / 'a.parquet').field('text').type};" in str(refused.value)


def test_strings_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    wrong = pa.array([b"latin: \xe4"]).view(pa.string())
    parquet.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    with pytest.raises(CorpusInvalid, match=r"a\.parquet: not UTF-8 text"):
        list(open_corpus(tmp_path))


@pytest.mark.parametrize("damage", [slice(0, 40), slice(0, -1), slice(4, None)], ids=str)
def test_damaged_parquet_is_one_line(damage: slice, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": DOCUMENTS}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[damage])
    with pytest.raises(CorpusInvalid, match=r"a\.parquet: can't be read \([^\n]*\); replace it"):
        list(open_corpus(tmp_path))
