import gzip
from pathlib import Path

import pytest
import zstandard

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.corpus import Corpus
from data_pipeline.sources.jsonl import JsonLinesFile
from data_pipeline.sources.open import open_corpus, source_of
from data_pipeline.sources.parquet import ParquetFile
from data_pipeline.sources.text import TextFile
from tests.data_pipeline.sources.documents import DOCUMENTS, json_lines


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", JsonLinesFile),
        ("a.json.zst", JsonLinesFile),
        ("a.parquet", ParquetFile),
        ("a.txt", TextFile),
        ("a.md.gz", TextFile),
        ("a.json", TextFile),
        ("README", TextFile),
    ],
)
def test_the_name_of_a_file_tells_its_kind(name: str, kind: type) -> None:
    assert source_of(Path("corpus", name)) == kind(Path("corpus", name))


def test_packed_text_is_one_document_to_its_last_frame(tmp_path: Path) -> None:
    for name, pack in (("a.txt.zst", zstandard.compress), ("a.txt.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack("ein\nß".encode()) + pack(b"zwei"))
        assert list(open_corpus(tmp_path / name)) == ["ein\nßzwei"]


def test_a_directory_is_read_sorted_without_hidden_files_as_often_as_wanted(tmp_path: Path) -> None:
    for name, text in (("b.txt", "b"), ("a/z.md", "z"), (".git/config", "hidden"), ("empty.txt", ""), ("c.txt.gz", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c"))
    corpus = open_corpus(tmp_path)
    assert list(corpus) == list(corpus) == ["z", "b", "c"]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", json_lines(["fine"]) + b"{broken\n", r"a\.jsonl:2: not a JSON object \(.*\); fix or remove this line$"),
        ("a.jsonl", b'{"texts": "x"}\n', r'a\.jsonl:1: no string in a field "text"; every line needs one$'),
        ("a.jsonl", b'\n{"text": null}\n', r"a\.jsonl:2: no string"),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: no string"),
        ("a.txt", b"latin: \xe4", r"a\.txt: not UTF-8 text; convert it"),
        ("a.jsonl.gz", b"not gzip at all", r"a\.jsonl\.gz: can't be read \(.*incorrect header.*\); replace it"),
        # Without the time in its header: every process must collect the same test.
        (
            "a.jsonl.gz",
            gzip.compress(json_lines(DOCUMENTS * 99), mtime=0)[:-20],
            r"a\.jsonl\.gz: can't be read \(Truncated compressed stream\)",
        ),
        ("a.jsonl.zst", b"not zstd at all", r"a\.jsonl\.zst: can't be read \(ZSTD decompress failed"),
        (
            "a.jsonl.zst",
            zstandard.compress(json_lines(DOCUMENTS * 99))[:-9],
            r"a\.jsonl\.zst: can't be read \(Truncated compressed stream\)",
        ),
        ("a.parquet", b"not parquet at all", r"a\.parquet: can't be read \(.*\); replace it"),
    ],
)
def test_what_cant_be_read_names_its_file_and_line(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusInvalid, match=expected):
        list(open_corpus(tmp_path))


def test_a_corpus_that_is_not_there_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CorpusInvalid, match="no such file, or a directory without files"):
            open_corpus(path)
    with pytest.raises(CorpusInvalid, match=r"gone\.txt: can't be read"):
        list(Corpus((TextFile(tmp_path / "gone.txt"),)))
