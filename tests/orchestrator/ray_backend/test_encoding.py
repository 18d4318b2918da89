"""Batches are encoded by tasks of a real Ray cluster, whose processes are killed too."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import ray
from tokenizers import Tokenizer

from data_pipeline.dataset.batches import EncodedBatch, Encoding
from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.corpus import Batch
from data_pipeline.sources.open import open_corpus
from orchestrator.ray_backend.encoding import encode_on_ray
from tests.data_pipeline.dataset.built import DOCUMENTS, KillsOnce, build
from tests.data_pipeline.sources.documents import json_lines
from tests.fakes.memory_store import MemoryStore


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", 200)
    monkeypatch.setattr("data_pipeline.sources.json_records.CHUNK_BYTES", 200)
    (tmp_path / "a.jsonl").write_bytes(json_lines(DOCUMENTS))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(DOCUMENTS, vocab_size=300)


def test_a_dataset_is_the_same_byte_for_byte_though_a_process_of_the_cluster_is_killed(
    corpus: Path, tokenizer: Tokenizer, cluster: str
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[KillsOnce.__module__])  # the cluster's processes don't know tests
    killed = corpus.parent / f"{corpus.name}-killed"

    def deadly(encoding: Encoding, batches: Iterator[Batch]) -> Generator[EncodedBatch, None, None]:
        first = next(batches)
        part = replace(first[0], chunk=KillsOnce(first[0].chunk, killed))
        return encode_on_ray(encoding, chain([(part, *first[1:])], batches))

    here, there = MemoryStore(), MemoryStore()
    build(here, tokenizer, open_corpus(corpus))
    build(there, tokenizer, open_corpus(corpus), encode=deadly)
    assert killed.exists()
    assert there.objects == here.objects


def test_a_line_that_is_no_record_is_told_as_if_it_were_read_here(corpus: Path, tokenizer: Tokenizer, cluster: str) -> None:
    (corpus / "b.jsonl").write_text('{"text": 7}\n')
    told = []
    for encode in ({}, {"encode": encode_on_ray}):
        with pytest.raises(CorpusInvalid) as refused:
            build(MemoryStore(), tokenizer, open_corpus(corpus), **encode)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert told[0].startswith(f"{corpus / 'b.jsonl'}:1: no string")
