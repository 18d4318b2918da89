import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.corpus import Corpus, find_corpus, stdlib_corpus

DOCUMENTS = ["first\ndocument", "zweites Dokument: ß", "三"]


def json_lines(documents: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": document}, ensure_ascii=False) + "\n" for document in documents).encode()


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
    assert list(find_corpus(tmp_path / name)) == DOCUMENTS


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.zst", zstandard.compress), ("a.jsonl.gz", gzip.compress)])
def test_a_file_packed_in_several_frames_is_read_to_its_end(tmp_path: Path, name: str, pack) -> None:
    (tmp_path / name).write_bytes(b"".join(pack(json_lines([document])) for document in DOCUMENTS))
    assert list(find_corpus(tmp_path / name)) == DOCUMENTS


def test_packed_text_is_one_document_to_its_last_frame(tmp_path: Path) -> None:
    for name, pack in (("a.txt.zst", zstandard.compress), ("a.txt.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack("ein\nß".encode()) + pack(b"zwei"))
        assert list(find_corpus(tmp_path / name)) == ["ein\nßzwei"]


def test_parquet_is_read(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [1, 2, 3], "text": DOCUMENTS}), tmp_path / "a.parquet")
    assert list(find_corpus(tmp_path / "a.parquet")) == DOCUMENTS


def test_a_directory_is_read_sorted_without_hidden_files_as_often_as_wanted(tmp_path: Path) -> None:
    for name, text in (("b.txt", "b"), ("a/z.md", "z"), (".git/config", "hidden"), ("empty.txt", ""), ("c.txt.gz", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c"))
    corpus = find_corpus(tmp_path)
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
        list(find_corpus(tmp_path))


def test_parquet_without_text_says_what_it_has(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [1], "content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusInvalid, match=r'no column "text" among id, content'):
        list(find_corpus(tmp_path))
    parquet.write_table(pa.table({"text": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusInvalid, match=r'row 2: no string in the column "text"'):
        list(find_corpus(tmp_path))


def test_a_corpus_that_is_not_there_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CorpusInvalid, match="no such file, or a directory without files"):
            find_corpus(path)
    with pytest.raises(CorpusInvalid, match=r"gone\.txt: can't be read"):
        list(Corpus((tmp_path / "gone.txt",)))


def test_the_standard_library_is_a_corpus_everywhere() -> None:
    corpus = stdlib_corpus(max_bytes=200_000)
    documents = list(corpus)
    assert 50_000 < sum(len(document.encode()) for document in documents) <= 200_000
    assert not any({"test", "tests", "site-packages"} & set(file.parts) for file in corpus.files)
    assert list(corpus.files) == sorted(corpus.files)
