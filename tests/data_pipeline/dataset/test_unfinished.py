"""A build that ended anywhere goes on: what is finished is not made again, and what changed is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_pipeline.config import StorageConfig
from data_pipeline.dataset import unfinished
from data_pipeline.dataset.batches import EncodedBatch, Encoding, encode_here
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.dataset.unfinished import trained_tokenizer
from data_pipeline.errors import CorpusInvalid, DatasetExists
from data_pipeline.sources.corpus import Batch, Corpus
from data_pipeline.sources.open import open_corpus
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore, StoreUnavailable
from tests.data_pipeline.dataset.built import DOCUMENTS, build
from tests.data_pipeline.sources.documents import json_lines
from tests.fakes.memory_store import MemoryStore

KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from tokenizers import Tokenizer
from data_pipeline.config import StorageConfig
from data_pipeline.dataset.processes import encode_in_processes
from data_pipeline.sources import corpus, json_records
from data_pipeline.sources.open import open_corpus
from data_pipeline.store.open import open_store
from tests.data_pipeline.dataset.built import build, encoding_processes

corpus.BATCH_BYTES = json_records.CHUNK_BYTES = 200

def kill(progress):
    if progress.num_shards >= 3:
        print(*encoding_processes(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

tokenizer = Tokenizer.from_file(sys.argv[1])
store = open_store(StorageConfig(root=sys.argv[3]))
build(store, tokenizer, open_corpus(Path(sys.argv[2])), encode=partial(encode_in_processes, num_workers=2), progress=kill)
"""


class Counted:
    """Encodes, and keeps what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, encoding: Encoding, batches: Iterator[Batch]) -> Generator[EncodedBatch, None, None]:
        return encode_here(encoding, self._watched(batches))

    def _watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.texts += [document.text for part in batch for document in part.documents()]
            yield batch


def objects(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key) for info in store.list("")}


def built_alone(tokenizer: Tokenizer, corpus: Path) -> dict[str, bytes]:
    store = MemoryStore()
    build(store, tokenizer, open_corpus(corpus))
    return store.objects


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_build_that_is_killed_with_its_processes_at_work_goes_on_as_if_nothing_had_been(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus, root = tmp_path / "corpus", str(tmp_path / "store")
    corpus.mkdir()
    (corpus / "a.jsonl").write_bytes(2 * json_lines(DOCUMENTS))
    (corpus / "b.txt").write_text("between")
    (corpus / "c.jsonl").write_bytes(4 * json_lines(DOCUMENTS))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "tokenizer.json"), str(corpus), root]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split(), "processes were at work"
    deadline_s = time.monotonic() + 30
    while any(is_running(int(pid)) for pid in ended.stdout.split()):
        assert time.monotonic() < deadline_s, "its processes end with it"
        time.sleep(0.01)

    store, counted = open_store(StorageConfig(root=root)), Counted()
    before = objects(store)
    told: list[int] = []
    build(store, tokenizer, open_corpus(corpus), encode=counted, progress=lambda progress: told.append(progress.num_documents))
    assert told[0] > 0
    assert counted.texts == list(open_corpus(corpus))[told[0] :], "no document twice, and none left out"
    after = objects(store)
    assert after == built_alone(tokenizer, corpus)
    assert {key for key in before if "/shards/" in key} <= set(after)


def stopped(store: ObjectStore, tokenizer: Tokenizer, corpus: Corpus, *, after: int) -> None:
    """A build that ends when so many shards are on the store."""

    def stop(progress: object) -> None:
        if sum("/building/" in info.key for info in store.list("")) >= after:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        build(store, tokenizer, corpus, progress=stop)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", 100)
    monkeypatch.setattr("data_pipeline.sources.json_records.CHUNK_BYTES", 100)


def two_files(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "a.jsonl").write_bytes(json_lines(DOCUMENTS[:20]))
    (directory / "b.jsonl").write_bytes(json_lines(DOCUMENTS[20:]))
    return directory


def touched(file: Path, data: bytes) -> None:
    before = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_a_file_that_was_mended_costs_only_what_comes_from_it_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store, counted = MemoryStore(), Counted()
    corpus = two_files(tmp_path)
    stopped(store, tokenizer, open_corpus(corpus), after=2)
    touched(corpus / "b.jsonl", json_lines(["another text"]))
    build(store, tokenizer, open_corpus(corpus), encode=counted)
    assert set(counted.texts) < set(open_corpus(corpus))
    assert store.objects == built_alone(tokenizer, corpus), "and nothing is left of what was made of the file as it was"


def test_another_tokenizer_other_shards_or_another_first_file_begin_anew(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store, corpus = MemoryStore(), two_files(tmp_path)
    stopped(store, tokenizer, open_corpus(corpus), after=3)

    def texts_of(**changes: int) -> list[str]:
        counted, copy, alone = Counted(), MemoryStore(objects=dict(store.objects)), MemoryStore()
        build(copy, tokenizer, open_corpus(corpus), encode=counted, **changes)
        build(alone, tokenizer, open_corpus(corpus), **changes)
        assert copy.objects == alone.objects, "nothing is left of the first"
        return counted.texts

    assert len(texts_of()) < len(DOCUMENTS)
    assert texts_of(shard_size_tokens=121) == DOCUMENTS
    touched(corpus / "a.jsonl", json_lines(DOCUMENTS[:20]))
    assert texts_of() == DOCUMENTS


@pytest.mark.parametrize("damage", ["/shards/00001-", "/documents/00001-", "/00001.json"])
def test_a_shard_that_is_gone_and_those_behind_it_are_made_again(damage: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store, corpus = MemoryStore(), two_files(tmp_path)
    stopped(store, tokenizer, open_corpus(corpus), after=3)
    del store.objects[next(key for key in store.objects if damage in key)]
    told: list[int] = []
    build(store, tokenizer, open_corpus(corpus), progress=lambda progress: told.append(progress.num_shards))
    assert told[0] == 1
    assert store.objects == built_alone(tokenizer, corpus)


@pytest.mark.parametrize("bytes_at_once", [100, 700, 2**20])
def test_a_build_that_ends_at_every_shard_comes_to_the_same_end(
    bytes_at_once: int, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.sources.corpus.BATCH_BYTES", bytes_at_once)
    monkeypatch.setattr("data_pipeline.sources.json_records.CHUNK_BYTES", bytes_at_once)
    store, corpus = MemoryStore(), two_files(tmp_path)
    expected = built_alone(tokenizer, corpus)
    num_shards = sum("/shards/" in key for key in expected)
    for number in range(1, num_shards):

        def fail(operation: str, key: str, number: int = number) -> None:
            if operation == "put" and f"/shards/{number:05}-" in key:
                raise StoreUnavailable("the store is away")

        store.fault = fail
        with pytest.raises(StoreUnavailable):
            build(store, tokenizer, open_corpus(corpus))
        store.objects = {key: data for key, data in store.objects.items() if f"/{number + 1:05}" not in key}  # which may have been faster
    store.fault = lambda operation, key: None
    counted = Counted()
    build(store, tokenizer, open_corpus(corpus), encode=counted)
    assert len(counted.texts) < len(DOCUMENTS) / 3
    assert store.objects == expected


def test_a_record_that_is_no_record_counts_for_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store, corpus = MemoryStore(), two_files(tmp_path)
    stopped(store, tokenizer, open_corpus(corpus), after=3)
    for key in [key for key in store.objects if "/building/" in key]:
        store.objects[key] = b'{"next": {}}'
    build(store, tokenizer, open_corpus(corpus))
    assert store.objects == built_alone(tokenizer, corpus)


def test_a_file_that_changes_while_it_is_read_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = open_corpus(two_files(tmp_path))
    touched(tmp_path / "b.jsonl", json_lines(["another text"]))
    with pytest.raises(CorpusInvalid, match=r"^b\.jsonl: changed while it was read; build again when nothing writes to it any more$"):
        build(MemoryStore(), tokenizer, corpus)


def test_a_build_in_a_directory_leaves_no_directory_behind(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = two_files(tmp_path / "corpus")
    store = open_store(StorageConfig(root=str(tmp_path / "store")))
    stopped(store, tokenizer, open_corpus(corpus), after=2)
    build(store, tokenizer, open_corpus(corpus))
    assert {path.name for path in (tmp_path / "store/datasets/tiny").iterdir() if path.is_dir()} == {"shards", "documents"}


@pytest.mark.parametrize("num_removed", [0, 1])
def test_a_build_that_is_killed_while_it_puts_its_records_away_is_through_when_it_is_run_again(
    num_removed: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store, corpus, removed = MemoryStore(), two_files(tmp_path), []

    def killed(operation: str, key: str) -> None:
        if operation == "delete":
            if len(removed) == num_removed:
                raise StoreUnavailable("the store is away")
            removed.append(key)

    store.fault = killed
    with pytest.raises(StoreUnavailable):
        build(store, tokenizer, open_corpus(corpus))
    made = load_manifest(store, "tiny")
    store.fault = lambda operation, key: None
    assert build(store, tokenizer, open_corpus(corpus)) == made
    assert store.objects == built_alone(tokenizer, corpus)
    with pytest.raises(DatasetExists):
        build(store, tokenizer, open_corpus(corpus))


def test_shards_of_others_stay(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Maybe somebody has registered them."""
    store = MemoryStore()
    store.put("datasets/tiny/shards/00007-0123456789abcdef.bin", b"theirs")
    build(store, tokenizer, open_corpus(two_files(tmp_path)))
    assert store.get("datasets/tiny/shards/00007-0123456789abcdef.bin") == b"theirs"


def test_a_tokenizer_that_an_interrupted_build_trained_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path, trained = MemoryStore(), two_files(tmp_path), []
    monkeypatch.setattr(unfinished, "train_tokenizer", lambda corpus, size: trained.append(size) or train_tokenizer(corpus, size))

    def train(vocab_size: int = 300) -> Tokenizer:
        return trained_tokenizer(store, "tiny", open_corpus(path), vocab_size)

    first = train()
    stopped(store, first, open_corpus(path), after=2)
    assert train().to_str() == first.to_str() == train_tokenizer(open_corpus(path), 300).to_str()
    assert trained == [300]
    train(299)
    touched(path / "b.jsonl", json_lines(DOCUMENTS[20:]))
    train()
    assert trained == [300, 299, 300], "for other sizes and other texts"
    for key in [key for key in store.objects if "/building/tokenizer-" in key]:
        store.objects[key] = b"damaged"
    last = train()
    assert trained == [300, 299, 300, 300]
    told: list[int] = []
    build(store, last, open_corpus(path), progress=lambda progress: told.append(progress.num_shards))
    assert told[0] > 0, "the shards of the file that nobody touched are kept"
    assert store.objects == built_alone(last, path)
