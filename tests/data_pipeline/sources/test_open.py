import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.corpus import corpus_file
from data_pipeline.sources.open import open_corpus
from data_pipeline.sources.text import TextFile
from tests.data_pipeline.sources.documents import DOCUMENTS, PACK, json_lines

LINES, ARRAY = json_lines(DOCUMENTS), json.dumps([{"text": document} for document in DOCUMENTS], indent=1).encode()
ONE, PRETTY = b'{"text": "one"}', b'\n{\n "id": {"a": []},\n "text": "one"\n}\n'


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("in_upper_case", [False, True])
@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", LINES, DOCUMENTS),
        ("a.ndjson", LINES, DOCUMENTS),
        ("a.json", LINES, DOCUMENTS),
        ("a.json", ARRAY, DOCUMENTS),
        ("a.json", ARRAY.replace(b"\n", b""), DOCUMENTS),
        ("a.json", ONE, ["one"]),
        ("a.json", PRETTY, ["one"]),
        ("a.json", PRETTY + PRETTY + ARRAY, ["one", "one", *DOCUMENTS]),
        ("a.json", b"[]", []),
        ("a.json", b"", []),
        ("part-00000", LINES, DOCUMENTS),
        ("a.txt", ARRAY, DOCUMENTS),
        ("a.txt", b"plain", ["plain"]),
        ("README", b"{plain}", ["{plain}"]),
        ("package.js", b'{"name": "x"}', ['{"name": "x"}']),
    ],
)  # fmt: skip
def test_name_and_content_tell_the_kind_of_a_file(
    name: str, data: bytes, expected: list[str], suffix: str, in_upper_case: bool, tmp_path: Path
) -> None:
    file = tmp_path / ((name + suffix).upper() if in_upper_case else name + suffix)
    file.write_bytes(PACK[suffix](data))
    assert list(open_corpus(file)) == expected
    (tmp_path / "unsaid").write_bytes(PACK[suffix](data))
    if suffix and name in ("a.txt", "README", "part-00000"):
        assert list(open_corpus(tmp_path / "unsaid")) == expected, "packed data is unpacked, whatever its name"


def tar_of(text: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def zip_of(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", text)
    return buffer.getvalue()


def npy_of(numbers: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(numbers))
    return buffer.getvalue()


NOT_TEXT = {
    "tar": (tar_of(b"text"), "a tar archive"),
    "zip": (zip_of("text"), "a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    "pdf": (b"%PDF-1.4\n1 0 obj\n", "a PDF"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    "gif": (b"GIF89a\x01\0\x01\0", "a GIF image"),
    "elf": (b"\x7fELF\2\1\1\0", "an ELF binary"),
    "pickle": (pickle.dumps({"text": "a"}), "a pickle"),
    "high bytes": (bytes(range(128, 256)), "text in another encoding, or binary data"),
    "npy": (npy_of([1, 2]), "a NumPy array"),
    "safetensors": (safetensors.numpy.save({"a": np.zeros(2)}), "safetensors weights"),
    "utf-16": ("text".encode("utf-16"), "UTF-16 text"),
    "utf-16-be": (b"\xfe\xff" + "text".encode("utf-16-be"), "UTF-16 text"),
    "utf-16-le without a mark": ("some text".encode("utf-16-le"), "binary data with NUL bytes, or UTF-16"),
    "utf-32": ("text".encode("utf-32"), "UTF-32 text"),
    "utf-32-be without a mark": ("text".encode("utf-32-be"), "binary data with NUL bytes, or UTF-16"),
    "iso-2022-jp": ("本文".encode("iso-2022-jp"), "ISO-2022 text"),
    "iso-2022-kr": ("text, and then 본문".encode("iso-2022-kr"), "ISO-2022 text"),
    "latin-1": ("Größe".encode("latin-1"), "text in another encoding"),
    "NULs": (b"a\0b", "binary data with NUL bytes"),
    "controls": (bytes(range(1, 32)) * 2, "binary data"),
    "twice": (gzip.compress(b"text", mtime=0), "gzip data (packed twice)"),
}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", NOT_TEXT)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a"])
def test_what_is_no_text_is_refused_by_name(name: str, kind: str, suffix: str, tmp_path: Path) -> None:
    data, what = NOT_TEXT[kind]
    if kind == "twice" and not suffix:
        return
    (tmp_path / (name + suffix)).write_bytes(PACK[suffix](data))
    with pytest.raises(CorpusInvalid) as refused:
        list(open_corpus(tmp_path))
    assert str(refused.value).startswith(f"{tmp_path / (name + suffix)}: {what}")


def test_nul_bytes_far_behind_the_beginning_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text " * 10_000 + b"\0")
    (tmp_path / "b.jsonl").write_bytes(json_lines(["text"] * 10_000) + b"\0")
    with pytest.raises(CorpusInvalid, match=r"a\.txt: has NUL bytes"):
        list(open_corpus(tmp_path / "a.txt"))
    with pytest.raises(CorpusInvalid, match=r"b\.jsonl:10001: not a JSON object"):
        list(open_corpus(tmp_path / "b.jsonl"))


@given(data=st.binary() | st.text().map(str.encode), name=st.sampled_from(["a.txt", "a.json", "a.jsonl", "a.parquet", "a.gz", "a"]))
def test_any_bytes_are_read_as_the_text_that_they_are_or_refused(data: bytes, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("corpus") / name
    file.write_bytes(data)
    documents, refusal = read_or_refused(file)
    if refusal:
        assert refusal.startswith(str(file))
        assert "\n" not in refusal
    else:
        assert name in ("a.txt", "a") or not data.strip()
        assert "".join(documents).strip() == data.decode("utf-8-sig").strip()


def read_or_refused(file: Path) -> tuple[list[str], str]:
    try:
        return list(open_corpus(file)), ""
    except CorpusInvalid as refused:
        return [], str(refused)


def test_packed_text_is_one_document_to_its_last_frame(tmp_path: Path) -> None:
    for name, pack in (("a.txt.zst", zstandard.compress), ("a.txt.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack("ein\nß".encode()) + pack(b"zwei"))
        assert list(open_corpus(tmp_path / name)) == ["ein\nßzwei"]


def test_a_directory_is_read_sorted_without_hidden_files_as_often_as_wanted(tmp_path: Path) -> None:
    for name, text in (("b.txt", "b"), ("a/z.md", "z"), (".git/config", "hidden"), ("empty.txt", ""), ("c.txt.gz", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c", mtime=0))
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
        ("a.txt", b"text " * 9999 + b"latin: \xe4", r"a\.txt: not UTF-8 text; convert it"),
        ("a.jsonl.gz", b"not gzip at all", r"a\.jsonl\.gz: can't be read \(named like gzip, but it is no packed data"),
        ("a.jsonl.gz", b"", r"a\.jsonl\.gz: can't be read \(named like gzip"),
        ("a.jsonl.gz", zstandard.compress(b""), r"a\.jsonl\.gz: can't be read \(named like gzip, but it is zstd"),
        # Without the time in its header: every process must collect the same test.
        (
            "a.jsonl.gz",
            gzip.compress(json_lines(DOCUMENTS * 99), mtime=0)[:-20],
            r"a\.jsonl\.gz: can't be read \(it ends in the middle of its packed data\)",
        ),
        ("a.jsonl.zst", b"not zstd at all", r"a\.jsonl\.zst: can't be read \(named like zstd"),
        ("a.jsonl.zst", zstandard.compress(b"x" * 99)[:4] + b"damaged", r"a\.jsonl\.zst: can't be read \(.*zstd"),
        ("a.txt.xz", lzma.compress(b"x" * 99)[:-9], r"a\.txt\.xz: can't be read \(it ends"),
        ("a.txt.bz2", bz2.compress(b"x" * 99)[:-9], r"a\.txt\.bz2: can't be read \(it ends"),
        ("a.txt.gz", gzip.compress(b"x", mtime=0) + b"more", r"a\.txt\.gz: can't be read \(.*incorrect header"),
        ("a.json", b'[{"text": "a"},\n{"text": 1}]', r'a\.json: record 2: no string in a field "text"; every record needs one'),
        ("a.json", b'{"name": "package"}', r'a\.json:1: no string in a field "text"'),
        ("a.json", b'{\n"text": "a",\n}', r"a\.json:3: not JSON \(.*\); mend it"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), r"a\.parquet\.gz: Parquet, packed as a whole; unpack it"),
        (
            "a.jsonl.zst",
            zstandard.compress(json_lines(DOCUMENTS * 99))[:-9],
            r"a\.jsonl\.zst: can't be read \(it ends in the middle of its packed data\)",
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
        corpus_file(TextFile(tmp_path / "gone.txt"), "gone.txt")
    with pytest.raises(CorpusInvalid, match=r"gone\.txt: can't be read"):
        list(TextFile(tmp_path / "gone.txt").chunks())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", "\ufeffone"),
        ("a.txt", "\ufeff\ufeffone"),
        ("a.jsonl", '\ufeff{"text": "one"}\n'),
        ("a.json", '\ufeff[{"text": "one"}]'),
        ("a.json", '\ufeff{"text": "\ufeffone"}'),
        ("a", '\ufeff{"text": "one"}'),
    ],
)
@pytest.mark.parametrize("suffix", PACK)
def test_a_byte_order_mark_is_no_text(name: str, data: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / (name + suffix)).write_bytes(PACK[suffix](data.encode()))
    assert list(open_corpus(tmp_path)) == ["one"]


def test_joined_files_may_have_byte_order_marks_in_their_middle(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "one"}\n\ufeff{"text": "two \ufeff"}\n')
    assert list(open_corpus(tmp_path)) == ["one", "two \ufeff"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a"])
@pytest.mark.parametrize("data", ["", "\ufeff", " \n\t\r\n", "\ufeff\n\n"])
def test_a_file_without_text_holds_no_document(data: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(data)
    assert list(open_corpus(tmp_path)) == []
