"""A corpus is cut into batches by its content alone, and can be read from any of them on."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_pipeline.sources.corpus import Batch, Start
from data_pipeline.sources.open import open_corpus
from data_pipeline.sources.protocol import Document
from tests.data_pipeline.sources.documents import PACK

TEXTS = [f"text {number} " * (number % 7) + "ä" * (number % 3) for number in range(60)]
RECORDS = [{"text": text, "id": str(number)} for number, text in enumerate(TEXTS)]
LINES = "\r\n\r".join(json.dumps(record) for record in RECORDS).encode()


def put_parquet(directory: Path) -> None:
    parquet.write_table(pyarrow.table({"text": TEXTS, "id": [record["id"] for record in RECORDS]}), directory / "a.parquet")


CORPORA: dict[str, Callable[[Path], object]] = {
    "lines": lambda directory: (directory / "a.jsonl").write_bytes(LINES),
    **{suffix: lambda directory, suffix=suffix: (directory / f"a.jsonl{suffix}").write_bytes(PACK[suffix](LINES)) for suffix in PACK},
    "list": lambda directory: (directory / "a.json").write_text(json.dumps(RECORDS)),
    "parquet": put_parquet,
    "texts": lambda directory: [(directory / f"{number:02}.txt").write_text(text) for number, text in enumerate(TEXTS)],
}


def documents_of(batches: list[Batch]) -> list[tuple[str, Document]]:
    return [(part.name, document) for batch in batches for part in batch for document in part.documents()]


@pytest.mark.parametrize("kind", CORPORA)
def test_reading_on_from_any_document_gives_the_rest(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CORPORA[kind](tmp_path)
    corpus = open_corpus(tmp_path)
    whole = documents_of([*corpus.batches()])
    assert [document.text for _, document in whole] == [text for text in TEXTS if text]
    for module in ("json_records", "protocol"):
        monkeypatch.setattr(f"data_pipeline.sources.{module}.CHUNK_BYTES", 150)
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", 300)
    batches = [*corpus.batches()]
    assert len(batches) > 4
    assert documents_of(batches) == whole, "the same documents with the same numbers, however they are cut"
    shares = [part.read_bytes for batch in batches for part in batch]
    assert shares == sorted(shares)
    assert shares[0] < corpus.size_bytes / 3 or kind in PACK or kind == "lines", "small files of lines are in a buffer at once"
    assert shares[-1] == corpus.size_bytes
    num_before = 0
    for part in (part for batch in batches for part in batch):
        num_documents = len([*part.documents()])
        for skip in range(0, num_documents + 1, 2):
            start = Start(file=part.file, place=part.chunk.place, skip=skip)
            assert documents_of([*corpus.batches(start)]) == whole[num_before + skip :]
        num_before += num_documents


@given(ends=st.lists(st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\r\n", " \n"]), max_size=40), chunk_bytes=st.integers(1, 60))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_have_the_numbers_that_an_editor_shows(
    ends: list[str], chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes("".join('{"text": "x"}' + end for end in ["\n", *ends]).encode())
    with file.open(newline=None) as lines:
        expected = [number for number, line in enumerate(lines, start=1) if line.strip()]
    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.sources.json_records.CHUNK_BYTES", chunk_bytes)
        assert [document.number for _, document in documents_of([*open_corpus(file).batches()])] == expected
