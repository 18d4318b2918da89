"""A dataset's documents are packed into rows: what is kept of it, and what happens where it is killed or damaged."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data_pipeline.config import DataConfig, PhaseConfig
from data_pipeline.dataset.documents import documents_in
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.packing import Packing, load_packing, load_packings, packing_key, refuse_lacking_tables
from data_pipeline.errors import DatasetTooSmall, PackingMissing, ShardCorrupt
from data_pipeline.read.packed_table import PackedTable
from data_pipeline.store.local import LocalStore
from tests.data_pipeline.dataset.built import DOCUMENTS, build
from tests.data_pipeline.datasets import put_dataset
from tests.data_pipeline.packed import pack, shard_of
from tests.fakes.memory_store import MemoryStore

SEQ_LEN = 9
SHARDS = (shard_of([4, 6, 25, 1, 3, 10, 2]), shard_of([3, 12, 5], first=400, ends=False), shard_of([2] * 30, first=700))


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.order.best_fit.MOST_ROWS", 3)


def a_dataset() -> tuple[MemoryStore, DatasetManifest]:
    store = MemoryStore()
    return store, put_dataset(store, *SHARDS)


def rows_of(store: MemoryStore, manifest: DatasetManifest, packing: Packing) -> list[list[int]]:
    """The tokens of each row."""
    table = PackedTable(manifest.name, packing, store)
    return [
        [token for one in table.ranges(index) for token in SHARDS[one.shard][one.start : one.start + one.length]]
        for index in range(table.num_samples)
    ]


def tables(store: MemoryStore) -> dict[str, bytes]:
    return {key: data for key, data in store.objects.items() if "/packed/" in key}


def test_rows_hold_whole_documents_found_by_eos_and_longer_ones_are_cut():
    store, manifest = a_dataset()
    packing = pack(store, manifest, SEQ_LEN)
    assert packing == load_packing(store, manifest, SEQ_LEN)
    rows = rows_of(store, manifest, packing)
    assert (len(rows), packing.num_documents, packing.num_cut) == (packing.num_rows, 7 + 3 + 30, 2)
    assert packing.num_padding == sum(SEQ_LEN + 1 - len(row) for row in rows)
    assert SHARDS[1][15:] == rows[next(n for n, row in enumerate(rows) if 415 in row)][-5:], "one without eos is the last of its row"
    assert [2, 2, 2, 2, 2] in [[len(part) for part in _documents(row)] for row in rows]
    assert "longer than a row, are cut" in packing.in_words()


def _documents(row: list[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in row:
        parts[-1].append(token)
        if token == 0:
            parts.append([])
    return parts[:-1]


def test_tables_of_documents_say_the_same_as_eos_does(tmp_path: Path, tokenizer: Tokenizer):
    store = MemoryStore()
    manifest = build(store, tokenizer, DOCUMENTS)
    packing = pack(store, manifest, 32)
    table = PackedTable(manifest.name, packing, store)
    starts = {(shard, one.start) for shard, ref in enumerate(manifest.shards) for one in documents_in(store, ref, range(ref.num_tokens))}
    assert {(one.shard, one.start) for index in range(table.num_samples) for one in table.ranges(index)} == starts
    assert packing.num_documents == len(DOCUMENTS)
    unrecorded = put_dataset(store, *([*memoryview(store.objects[ref.key]).cast("H")] for ref in manifest.shards), name="other")
    assert pack(store, unrecorded, 32).num_padding == packing.num_padding


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_in_a_table_is_caught(data: st.DataObject):
    store, manifest = a_dataset()
    packing = pack(store, manifest, SEQ_LEN)
    key = data.draw(st.sampled_from([shard.key for shard in packing.shards]))
    place = data.draw(st.integers(0, len(store.objects[key]) * 8 - 1))
    flipped = bytearray(store.objects[key])
    flipped[place // 8] ^= 1 << place % 8
    store.objects[key] = bytes(flipped)
    with pytest.raises(ShardCorrupt, match=r"are not what was packed; pack the dataset again with `braid data pack tiny --seq-len 9`"):
        rows_of(store, manifest, packing)
    assert pack(store, manifest, SEQ_LEN) == packing
    rows_of(store, manifest, packing)


def pack_until_killed(root: Path, manifest: DatasetManifest) -> None:
    def die(done: int, total: int) -> None:
        if 3 * done > 2 * total:  # four shards are packed at a time: some are done
            os.kill(os.getpid(), signal.SIGKILL)

    pack(LocalStore(root), manifest, 64, die)


def test_packing_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    store = LocalStore(tmp_path / "killed")
    manifest = put_dataset(store, *([1 + number] * 400_000 + [0] for number in range(10)))
    process = multiprocessing.get_context("spawn").Process(target=pack_until_killed, args=(store.root, manifest))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(PackingMissing, match=r"tiny is not packed for rows of 64 tokens; run `braid data pack tiny --seq-len 64`"):
        load_packing(store, manifest, 64)
    done = {info.key: info.modified_at_s for info in store.list("datasets/tiny/packed/")}
    assert 2 <= len(done) < 10
    packing = pack(store, manifest, 64)
    found = {info.key: info.modified_at_s for info in store.list("datasets/tiny/packed/")}
    assert found.items() >= done.items(), "those were not packed again"
    whole = MemoryStore()
    assert pack(whole, put_dataset(whole, *([1 + number] * 400_000 + [0] for number in range(10))), 64) == packing
    assert {key: store.get(key) for key in found} == tables(whole)


def test_a_table_that_was_spoilt_while_packing_was_interrupted_is_made_again():
    store, manifest = a_dataset()
    pack(store, manifest, SEQ_LEN)
    whole = tables(store)
    del store.objects[packing_key("tiny", SEQ_LEN)]
    spoilt, short = sorted(tables(store))[:2]
    store.objects[spoilt] = b"\xff" + store.objects[spoilt][1:]
    store.objects[short] = store.objects[short][:-1]
    pack(store, manifest, SEQ_LEN)
    assert tables(store) == whole


@pytest.mark.parametrize("byte", [4, 6, 7])
def test_a_table_that_tells_of_more_rows_than_it_has_room_for_is_made_again(byte: int, tmp_path: Path):
    store = LocalStore(tmp_path)
    manifest = put_dataset(store, *SHARDS)
    packing = pack(store, manifest, SEQ_LEN)
    whole = store.get(packing.shards[0].key)
    store.delete(packing_key("tiny", SEQ_LEN))
    store.put(packing.shards[0].key, whole[:byte] + b"\xff" + whole[byte + 1 :])
    assert pack(store, manifest, SEQ_LEN) == packing
    assert store.get(packing.shards[0].key) == whole


@pytest.mark.parametrize(("right", "wrong"), [('"num_rows": ', '"num_rows": 99999999999999'), ('"window_rows": 3', '"window_rows": 0')])
def test_numbers_of_a_packing_that_cant_be_are_told_with_the_remedy(right: str, wrong: str):
    store, manifest = a_dataset()
    pack(store, manifest, SEQ_LEN)
    key = packing_key("tiny", SEQ_LEN)
    store.objects[key] = store.objects[key].replace(right.encode(), wrong.encode())
    with pytest.raises(PackingMissing, match="is not what was written there; run `braid data pack tiny --seq-len 9`"):
        load_packing(store, manifest, SEQ_LEN)


def test_what_was_packed_of_other_shards_or_is_not_there_is_told_with_the_remedy():
    store, manifest = a_dataset()
    config = DataConfig(dataset="tiny", seq_len=SEQ_LEN, packing="best_fit", phases=(PhaseConfig(steps=1), PhaseConfig(seq_len=5)))
    pack(store, manifest, SEQ_LEN)
    with pytest.raises(PackingMissing, match="not packed for rows of 5 tokens"):
        load_packings(store, [manifest], config)
    pack(store, manifest, 5)
    packings = load_packings(store, [manifest], config)
    assert sorted(packings) == [("tiny", 5), ("tiny", 9)]
    refuse_lacking_tables(packings, store)
    lost = packings["tiny", 5].shards[1].key
    store.objects[lost] += b"more"
    with pytest.raises(PackingMissing, match=r"1 of 3 tables of tiny are missing or of another size, the first: .*5/00001-.*seq-len 5`"):
        refuse_lacking_tables(packings, store)
    store.objects[packing_key("tiny", 5)] = b"{}"
    with pytest.raises(PackingMissing, match="is not what was written there"):
        load_packings(store, [manifest], config)
    other = put_dataset(store, SHARDS[0])
    with pytest.raises(PackingMissing, match="packs other shards than dataset tiny has; run `braid data pack tiny --seq-len 9`"):
        load_packing(store, other, SEQ_LEN)


def test_a_shard_that_is_damaged_or_a_dataset_without_tokens_is_not_packed():
    store, manifest = a_dataset()
    store.objects[manifest.shards[2].key] = store.objects[manifest.shards[0].key]
    with pytest.raises(ShardCorrupt, match=r"2\.bin: its SHA-256 is not the manifest's"):
        pack(store, manifest, SEQ_LEN)
    with pytest.raises(DatasetTooSmall):
        pack(store, put_dataset(store, []), SEQ_LEN)


def test_progress_tells_bytes_of_shards(tmp_path: Path):
    store, told = LocalStore(tmp_path), []
    manifest = put_dataset(store, *SHARDS)
    pack(store, manifest, SEQ_LEN, lambda done, total: told.append((done, total)))
    assert told[-1] == (manifest.size_bytes, manifest.size_bytes)
    assert told == sorted(told)
