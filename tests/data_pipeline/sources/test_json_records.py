import gzip
from pathlib import Path

import pytest
import zstandard

from data_pipeline.sources.open import open_corpus
from tests.data_pipeline.sources.documents import DOCUMENTS, json_lines


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.json.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("a.json.zst", zstandard.compress),
    ],
)
def test_json_lines_are_read_however_they_are_packed(tmp_path: Path, name: str, pack) -> None:
    (tmp_path / name).write_bytes(pack(json_lines([*DOCUMENTS, ""]) + b"\n"))
    assert list(open_corpus(tmp_path / name)) == DOCUMENTS


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.zst", zstandard.compress), ("a.jsonl.gz", gzip.compress)])
def test_a_file_packed_in_several_frames_is_read_to_its_end(tmp_path: Path, name: str, pack) -> None:
    (tmp_path / name).write_bytes(b"".join(pack(json_lines([document])) for document in DOCUMENTS))
    assert list(open_corpus(tmp_path / name)) == DOCUMENTS
