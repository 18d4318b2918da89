"""Batches are encoded by real processes, some of which are killed."""

import os
import signal
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_pipeline.dataset.batches import EncodedBatch, Encoding, encode_here
from data_pipeline.dataset.processes import encode_in_processes
from data_pipeline.errors import BuildFailed, CorpusInvalid
from data_pipeline.sources.corpus import Batch, Part
from data_pipeline.sources.open import open_corpus
from data_pipeline.sources.protocol import BEGINNING, Document, Place
from tests.data_pipeline.dataset.built import DOCUMENTS, KillsOnce, build, corpus_of, encoding_processes
from tests.data_pipeline.sources.documents import json_lines
from tests.fakes.memory_store import MemoryStore

BATCHES = 8


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(map(len, DOCUMENTS)) // BATCHES
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", size)
    monkeypatch.setattr("data_pipeline.sources.json_records.CHUNK_BYTES", size)


def encoding_of(tokenizer: Tokenizer) -> Encoding:
    return Encoding(tokenizer=tokenizer.to_str(), eos_id=0, dtype="uint16")


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_dataset_is_the_same_byte_for_byte_whoever_encodes_it(num_workers: int, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(DOCUMENTS))
    (tmp_path / "b.txt").write_text("one more")
    here, there = MemoryStore(), MemoryStore()
    build(here, tokenizer, open_corpus(tmp_path))
    build(there, tokenizer, open_corpus(tmp_path), encode=partial(encode_in_processes, num_workers=num_workers))
    assert there.objects == here.objects
    assert not encoding_processes()


def test_a_killed_process_is_replaced_and_its_batches_are_encoded_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    here, there = MemoryStore(), MemoryStore()
    build(here, tokenizer)
    killed = [tmp_path / "one", tmp_path / "another"]

    def deadly(encoding: Encoding, batches: Iterator[Batch]) -> Generator[EncodedBatch, None, None]:
        all_batches = list(batches)
        for number, file in enumerate(killed):
            first, *others = all_batches[3 * number]
            all_batches[3 * number] = (replace(first, chunk=KillsOnce(first.chunk, file)), *others)
        return encode_in_processes(encoding, iter(all_batches), num_workers=2)

    build(there, tokenizer, encode=deadly)
    assert all(file.exists() for file in killed)
    assert there.objects == here.objects


@dataclass(frozen=True, slots=True)
class Deadly:
    """A chunk that kills whoever reads it."""

    place: Place = BEGINNING
    size: int = 1
    share: float = 1.0

    def documents(self) -> Iterator[Document]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield from ()


def test_a_batch_that_kills_process_after_process_is_named_when_what_comes_before_it_is_done(tokenizer: Tokenizer) -> None:
    deadly = Part(file=0, name="deadly.jsonl", chunk=Deadly(), skip=0, read_bytes=0)
    batches = [*corpus_of(DOCUMENTS).batches()]
    done: list[EncodedBatch] = []
    with pytest.raises(BuildFailed, match=r"^deadly\.jsonl, from 1 on: 3 processes that tokenized it ended, the last by SIGKILL; is mem"):
        done.extend(encode_in_processes(encoding_of(tokenizer), iter([*batches[:3], (deadly,), *batches[3:]]), num_workers=2))
    assert not encoding_processes()


@pytest.mark.parametrize("broken", ['{"text": 7}\n', '{"text": \n', '{"text": "caf\xe9"}\n'])
def test_what_cant_be_read_is_told_in_the_same_words_and_what_comes_before_it_is_encoded(
    broken: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(4 * json_lines(DOCUMENTS) + broken.encode("latin-1") + json_lines(DOCUMENTS))

    def outcome(batches: Iterator[EncodedBatch]) -> tuple[list[bytes], str]:
        done: list[bytes] = []
        with pytest.raises(CorpusInvalid) as refused:
            done.extend(batch.tokens.tobytes() for batch in batches)
        return done, str(refused.value)

    corpus = open_corpus(tmp_path)
    here = outcome(encode_here(encoding_of(tokenizer), corpus.batches()))
    assert str(tmp_path / "a.jsonl") in here[1]
    assert outcome(encode_in_processes(encoding_of(tokenizer), corpus.batches(), num_workers=2)) == here


def test_a_file_that_ends_within_its_packed_data_is_told_behind_what_was_read(tokenizer: Tokenizer) -> None:
    def batches() -> Iterator[Batch]:
        yield from [*corpus_of(DOCUMENTS).batches()][:4]
        raise CorpusInvalid("a.jsonl.gz: can't be read")

    done: list[EncodedBatch] = []
    with pytest.raises(CorpusInvalid, match=r"^a\.jsonl\.gz"):
        done.extend(encode_in_processes(encoding_of(tokenizer), batches(), num_workers=2))
    assert len(done) == 4


def test_whoever_stops_early_leaves_no_process(tokenizer: Tokenizer) -> None:
    with closing(encode_in_processes(encoding_of(tokenizer), corpus_of(DOCUMENTS).batches(), num_workers=2)) as encoded:
        next(encoded)
        assert encoding_processes()
    assert not encoding_processes()
