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
