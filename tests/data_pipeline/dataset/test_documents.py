"""Which documents a stretch of a shard is made of."""

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from data_pipeline.dataset.documents import ShardDocument, documents_in
from data_pipeline.errors import DocumentsUnknown, ShardCorrupt
from data_pipeline.sources.open import open_corpus
from data_pipeline.store.protocol import ObjectStore
from tests.data_pipeline.dataset.built import DOCUMENTS, build
from tests.fakes.memory_store import MemoryStore


def all_documents(store: ObjectStore, tokenizer: Tokenizer, corpus: Path) -> list[list[ShardDocument]]:
    manifest = build(store, tokenizer, open_corpus(corpus), shard_size_tokens=10_000)
    return [documents_in(store, shard, range(shard.num_tokens)) for shard in manifest.shards]


def test_every_document_is_known_by_its_file_its_place_there_and_its_own_id(tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [{"id": "first", "text": "one"}, {"text": " "}, {"id": 12345678901234567890, "text": "two"}, {"id": ["?"], "text": "three"}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl").write_text("\n" + lines)
    (tmp_path / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "deep" / "c.json").write_text(json.dumps(records))
    parquet.write_table(pyarrow.table({"text": ["four", "five"], "id": [7, None]}), tmp_path / "deep" / "d.parquet")
    (tmp_path / "größe.txt").write_text("six")
    (found,) = all_documents(MemoryStore(), tokenizer, tmp_path)
    of_records = [("first", 1), ("12345678901234567890", 3), ("", 4)]
    assert [(document.file, document.id, document.number) for document in found] == [
        *(("deep/a.jsonl", own, 1 + number) for own, number in of_records),
        *(("deep/b.jsonl.gz", own, number) for own, number in of_records),
        *(("deep/c.json", own, number) for own, number in of_records),
        *(("deep/d.parquet", own, number) for own, number in (("7", 1), ("", 2))),
        ("größe.txt", "", 1),
    ]


def test_a_document_s_tokens_are_its_text_and_eos(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    texts = []
    for shard in manifest.shards:
        tokens = np.frombuffer(store.get(shard.key), dtype="<u2")
        documents = documents_in(store, shard, range(shard.num_tokens))
        assert [0, *(document.end for document in documents)] == [*(document.start for document in documents), shard.num_tokens]
        assert all(tokens[document.end - 1] == manifest.eos_id for document in documents)
        texts += [tokenizer.decode(tokens[document.start : document.end - 1].tolist()) for document in documents]
    assert texts == DOCUMENTS


@pytest.mark.parametrize("batch_bytes", [50, 2**20])
def test_a_stretch_of_tokens_is_looked_up_by_reading_the_head_and_its_pages(
    batch_bytes: int, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.dataset.documents.PAGE_DOCUMENTS", 4)
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", batch_bytes)
    for number in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
        (tmp_path / f"{number}.jsonl").write_text(lines)
    store = MemoryStore()
    manifest = build(store, tokenizer, open_corpus(tmp_path), shard_size_tokens=800)
    assert len(manifest.shards) > 1
    for shard in manifest.shards:
        everything = documents_in(store, shard, range(shard.num_tokens))
        assert sum(document.end - document.start for document in everything) == shard.num_tokens
        for start in range(0, shard.num_tokens, 7):
            wanted = range(start, min(start + 40, shard.num_tokens))
            asked: list[str] = []
            store.fault = lambda operation, key, asked=asked: asked.append(operation)
            found = documents_in(store, shard, wanted)
            assert asked == ["get_range"] * 2
            store.fault = lambda operation, key: None
            assert found == [document for document in everything if document.start < wanted.stop and document.end > wanted.start]
    places = [(document.file, document.number) for shard in manifest.shards for document in documents_in(store, shard, range(10**6))]
    assert places == [(f"{file}.jsonl", number) for file in range(3) for number in range(1, 41)]
    assert all(before < after for before, after in pairwise(places))


def test_what_was_not_recorded_or_is_damaged_is_one_line(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    shard = build(store, tokenizer).shards[0]
    assert shard.documents is not None
    with pytest.raises(DocumentsUnknown, match=r"shards/00000-.*: which documents it is made of was not recorded; rebuild the dataset"):
        documents_in(store, replace(shard, documents=None), range(5))
    table = store.objects[shard.documents.key]
    for place in (3, len(table) - 3):
        store.objects[shard.documents.key] = table[:place] + b"?" + table[place + 1 :]
        with pytest.raises(ShardCorrupt, match=r"documents/00000-.*: is missing, or not what the manifest says; rebuild"):
            documents_in(store, shard, range(shard.num_tokens))
    del store.objects[shard.documents.key]
    with pytest.raises(ShardCorrupt, match="is missing"):
        documents_in(store, shard, range(5))
