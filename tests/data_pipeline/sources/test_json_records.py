import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import CorpusInvalid
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


def read(tmp_path: Path, *lines: str, name: str = "a.jsonl") -> list[str]:
    (tmp_path / name).write_text("\n".join(lines))
    return list(open_corpus(tmp_path / name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_half_characters_become_replacement_characters(name: str, tmp_path: Path) -> None:
    line = r'{"text": "broken \ud83d here, \ude00 there, whole \ud83d\ude00"}'
    assert read(tmp_path, line, name=name) == ["broken \ufffd here, \ufffd there, whole 😀"]


def test_numbers_beside_the_text_may_be_any_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, '{"text": "one", "id": %s, "x": [NaN, -Infinity, 1e999]}' % ("9" * 5000)) == ["one"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"text": "x", "meta": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "not a JSON object (it is nested too deep); fix or remove this line",
        ),
        ('{"a":' * 100_000, "not a JSON object (it is nested too deep)"),
        ('{"text": "x", "text": "y"}', 'not a JSON object (the field "text" is there twice); fix'),
        ('{"text": 1}', 'no string in a field "text"'),
        ('{"text": ["x"]}', 'no string in a field "text"'),
        ('"text"', 'no string in a field "text"'),
        ("NaN", 'no string in a field "text"'),
        ('{"text": "x"} {"text": "y"}', "not a JSON object (Extra data)"),
        ('{"text": "\\u12"}', "not a JSON object (Invalid \\uXXXX escape)"),
        ('{"text": "tab\t"}', "not a JSON object (Invalid control character at)"),
    ],
    ids=range(10),
)
def test_a_line_that_is_no_record_is_named(line: str, expected: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        with pytest.raises(CorpusInvalid) as refused:
            read(tmp_path, '{"text": "fine"}', line, name=name)
        assert str(refused.value).startswith(f"{tmp_path / name}:2: {expected}")


def test_records_over_several_lines_that_are_none_are_named(tmp_path: Path) -> None:
    for text, expected in (
        ("[\n" * 100_000, "a.json:1: not JSON (it is nested too deep)"),
        ('[\n{"text": "x"},\n{"text": "x", "text": "y"}]', "a.json:1: not JSON (the field"),
        ('{\n"text": "x"\n}\n[1]', 'a.json: record 2: no string in a field "text"'),
    ):
        with pytest.raises(CorpusInvalid) as refused:
            read(tmp_path, text, name="a.json")
        assert str(refused.value).startswith(f"{tmp_path}/{expected}")


def objects(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(st.sampled_from(["text", "id"]) | TEXT, values)


TEXT = st.text(st.characters())
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | TEXT, lambda inner: st.lists(inner) | objects(inner))


@given(records=st.lists(objects(JSON), max_size=4), indent=st.sampled_from([None, 1]), as_list=st.booleans())
def test_of_any_records_every_text_is_read_or_one_is_refused(
    records: list[dict], indent: int | None, as_list: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [record.get("text") for record in records]
    content = json.dumps(records, indent=indent) if as_list else "\n".join(json.dumps(record, indent=indent) for record in records)
    documents = read_or_refused(tmp_path_factory.mktemp("corpus"), content)
    if all(isinstance(text, str) for text in texts):
        cleaned = [text.removeprefix("\ufeff").encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        assert documents == [text for text in cleaned if text.strip()]
    else:
        assert documents is None


def read_or_refused(directory: Path, content: str) -> list[str] | None:
    try:
        return read(directory, content, name="a.json")
    except CorpusInvalid:
        return None
