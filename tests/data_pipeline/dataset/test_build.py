import hashlib
import json
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipeline.config import DataConfig
from data_pipeline.dataset.batches import EncodedBatch, EncodedPart
from data_pipeline.dataset.build import dataset_exists
from data_pipeline.dataset.manifest import DatasetManifest, load_manifest, manifest_from_json, manifest_to_json
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.dataset.shard_writer import build_shard_writer
from data_pipeline.dataset.tokenizer import EOS_TOKEN, load_tokenizer, train_tokenizer
from data_pipeline.dataset.unfinished import Records
from data_pipeline.errors import CorpusInvalid, DatasetExists, DatasetMissing
from data_pipeline.read.loader import build_loader
from data_pipeline.sources.protocol import BEGINNING
from data_pipeline.store.protocol import ObjectStore, StoreUnavailable
from tests.data_pipeline.dataset.built import DOCUMENTS, build, corpus_of
from tests.fakes.memory_store import MemoryStore


def tokens_of(store: ObjectStore, manifest: DatasetManifest) -> list[int]:
    return [token for ref in manifest.shards for token in np.frombuffer(store.get(ref.key), dtype="<u2").tolist()]


def test_a_built_dataset_decodes_to_its_documents_each_ended_by_eos(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    tokens = tokens_of(store, manifest)
    assert tokenizer.decode(tokens, skip_special_tokens=False) == "".join(document + EOS_TOKEN for document in DOCUMENTS)
    assert (manifest.dtype, manifest.vocab_size, manifest.num_tokens) == ("uint16", 300, len(tokens))
    assert manifest == load_manifest(store, "tiny")


def test_shards_are_flat_files_of_whole_documents_with_true_digests(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    assert len(manifest.shards) > 3
    for ref in manifest.shards:
        data = store.get(ref.key)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (ref.size_bytes, ref.sha256)
        assert np.frombuffer(data, dtype="<u2")[-1] == manifest.eos_id


def test_what_was_built_can_be_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    config = DataConfig(dataset="tiny", seq_len=16)
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=4)) as loader:
        assert loader.batch(1).tokens_BT.shape == (4, 16)


def test_the_same_text_gives_the_same_dataset(tokenizer: Tokenizer) -> None:
    again = train_tokenizer(DOCUMENTS, vocab_size=300)
    assert build(MemoryStore(), again) == build(MemoryStore(), tokenizer)


def test_text_that_looks_like_eos_stays_text(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer, ["a<|endoftext|>b", "c"])
    assert tokens_of(store, manifest).count(manifest.eos_id) == 2


def test_a_large_vocabulary_takes_32_bits(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"</s>": 0, "far": 70_000, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    store = MemoryStore()
    manifest = build(store, load_tokenizer(tmp_path / "tokenizer.json")[0], ["far", "near far"])
    assert (manifest.dtype, manifest.vocab_size, manifest.eos_id) == ("uint32", 70_001, 0)
    assert np.frombuffer(store.get(manifest.shards[0].key), dtype="<u4").tolist() == [70_000, 0, 1, 70_000, 0]


@pytest.mark.parametrize(
    ("largest_id", "expected"),
    [
        (3, ["shards/00000-73e29caa3411305a.bin", "shards/00001-7c039a3f7e41f389.bin"]),
        (70_000, ["shards/00000-9aa62e7ebc5c43c4.bin", "shards/00001-568686c818dd66b1.bin"]),
    ],
)
def test_the_bytes_of_shards_never_change_between_versions(largest_id: int, expected: list[str]) -> None:
    words = Tokenizer(models.WordLevel({"</s>": 0, "[UNK]": 1, "near": 2, "far": largest_id}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    documents = ["near far", "", "far", "near"]
    manifest = build(MemoryStore(), words, documents, shard_size_tokens=4)
    assert [ref.key.removeprefix("datasets/tiny/") for ref in manifest.shards] == expected  # named by their digests


def test_progress_is_told(tokenizer: Tokenizer) -> None:
    told: list[BuildProgress] = []
    manifest = build(MemoryStore(), tokenizer, progress=told.append)
    assert [progress.num_documents for progress in told] == [0, 40, 40]
    assert (told[-1].num_tokens, told[-1].num_text_bytes) == (manifest.num_tokens, manifest.num_text_bytes)
    assert told[-1].read_bytes == told[-1].size_bytes == sum(map(len, DOCUMENTS))


def test_a_dataset_is_never_built_over(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    before = build(store, tokenizer)
    with pytest.raises(DatasetExists, match=r"^memory:datasets/tiny/manifest.json: this dataset exists already; choose another NAME"):
        build(store, tokenizer, ["other text"])
    assert load_manifest(store, "tiny") == before


def test_an_interrupted_build_is_no_dataset_and_sends_nothing_twice(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    sent: list[str] = []

    def third_shard_fails(operation: str, key: str) -> None:
        if operation == "put":
            if "/shards/00002-" in key:
                raise StoreUnavailable("the store is away")
            sent.append(key)

    store.fault = third_shard_fails
    with pytest.raises(StoreUnavailable):
        build(store, tokenizer)
    assert not dataset_exists(store, "tiny")
    with pytest.raises(DatasetMissing):
        load_manifest(store, "tiny")

    store.fault = lambda operation, key: sent.append(key) if operation == "put" else None
    manifest = build(store, tokenizer)
    shards_sent = [key for key in sent if "/shards/" in key]
    assert sorted(shards_sent) == [ref.key for ref in manifest.shards]


def test_of_two_builds_at_once_the_same_text_agrees_and_another_is_refused(tokenizer: Tokenizer) -> None:
    def meanwhile(documents: list[str]):
        """A store on which another build of these documents finishes just before ours would."""
        store = MemoryStore()

        def fault(operation: str, key: str) -> None:
            if operation == "create":
                store.fault = lambda operation, key: None
                build(store, tokenizer, documents)

        store.fault = fault
        return store

    store = meanwhile(DOCUMENTS)
    assert build(store, tokenizer) == load_manifest(store, "tiny")
    with pytest.raises(DatasetExists):
        build(meanwhile(["other text"]), tokenizer)


def test_nothing_to_build_from_is_one_clear_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(CorpusInvalid, match=r"^dataset tiny: the corpus holds no text; give another one$"):
        build(MemoryStore(), tokenizer, [])
    with pytest.raises(ValueError, match=r"^data\.dataset="):
        build(MemoryStore(), tokenizer, name="../x")


def batch_of(document: NDArray[np.uint32], num_documents: int) -> EncodedBatch:
    """One document, again and again."""
    rows = np.full(num_documents, len(b"[1,1]\n"))
    return EncodedBatch(
        tokens=np.tile(document, num_documents),
        lengths=np.full(num_documents, len(document)),
        text_bytes=np.zeros(num_documents, dtype=np.int64),
        unknown=np.zeros(num_documents, dtype=np.int64),
        rows=b"[1,1]\n" * num_documents,
        row_ends=np.cumsum(rows),
        parts=(EncodedPart(file=0, name="a", place=BEGINNING, skipped=0, documents=range(num_documents), read_bytes=0),),
    )


@pytest.mark.parametrize("tokens_of_a_document", [5, 100_000])
def test_what_waits_for_a_shard_takes_no_more_memory_than_the_shard(tokens_of_a_document: int) -> None:
    class Nowhere(MemoryStore):
        def put(self, key: str, data: bytes | memoryview) -> None:
            assert "/shards/" not in key or len(data) == 4 * 1_000_000

    store = Nowhere()
    records = Records(store=store, prefix="datasets/tiny/building/", digest="0", corpus=("",))
    batch = batch_of(np.full(tokens_of_a_document, 69_999, dtype=np.uint32), 100_000 // tokens_of_a_document)
    with build_shard_writer(store=store, name="tiny", shard_size_tokens=1_000_000, records=records, corpus=corpus_of([])) as writer:
        tracemalloc.start()
        try:
            for _ in range(10):
                writer.add(batch)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (finished,) = writer.finish()
    table_bytes = 6 * 1_000_000 // tokens_of_a_document
    assert finished.shard.num_tokens == 1_000_000
    assert peak < 1.3 * (finished.shard.size_bytes + 2 * table_bytes)


def test_the_bytes_of_the_text_are_counted_as_utf_8_and_older_manifests_have_none(tokenizer: Tokenizer) -> None:
    manifest = build(MemoryStore(), tokenizer, ["ab", "ä€", ""])
    assert manifest.num_text_bytes == 2 + 2 + 3
    assert manifest.bytes_per_token == 7 / manifest.num_tokens
    older = json.loads(manifest_to_json(manifest))
    del older["num_text_bytes"]
    read = manifest_from_json(json.dumps(older).encode(), where="here")
    assert read.bytes_per_token is None
    assert "num_text_bytes" not in json.loads(manifest_to_json(read))
