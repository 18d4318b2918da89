"""Files of tokens that others made become a dataset as they are, or one line says why not."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_pipeline.config import DataConfig
from data_pipeline.dataset.inspect import inspect_dataset, lacking_objects
from data_pipeline.dataset.manifest import load_manifest, manifest_from_json, manifest_to_json
from data_pipeline.dataset.npy import npy_header
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.progress import unwatched
from data_pipeline.dataset.register import Registered, Vocabulary, register_dataset
from data_pipeline.dataset.scan import READ_SIZE_BYTES
from data_pipeline.errors import DatasetExists, FilesInvalid, ShardCorrupt, ShardMissing
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.read.row_hash import token_digests
from tests.data_pipeline.dataset.built import build
from tests.fakes.memory_store import MemoryStore

VOCABULARY = Vocabulary(size=1000, eos_id=0)
WEB, CODE = "s3://web/some", "s3://code"


class World:
    """A store of ours, and two of others."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.store = MemoryStore()
        self.others = {
            root: MemoryStore(fault=lambda operation, key: self.reads.append(key) if operation == "get_range" else None)
            for root in (WEB, CODE)
        }

    def put(self, key: str, data: bytes, *, root: str = WEB) -> None:
        self.others[root].put(key, data)

    def register(
        self, *places: str, dtype: str = "", vocabulary: Vocabulary = VOCABULARY, told: Callable[[int, int], None] = unwatched
    ) -> Registered:
        return register_dataset(
            store=self.store,
            elsewhere=self.others.__getitem__,
            name="mine",
            places=places or (f"{WEB}/**",),
            vocabulary=vocabulary,
            dtype=dtype,
            progress=told,
        )

    def loader(self, cache_dir: Path, *, seq_len: int = 7) -> Loader:
        return build_loader(
            manifests=(load_manifest(self.store, "mine"),),
            config=DataConfig(dataset="mine", seq_len=seq_len),
            store=self.store,
            elsewhere=self.others.__getitem__,
            cache_dir=cache_dir,
            batch_rows=4,
        )

    def refused(self, *places: str, dtype: str = "") -> str:
        with pytest.raises(FilesInvalid) as caught:
            self.register(*places, dtype=dtype)
        assert "\n" not in str(caught.value)
        assert not any("manifest" in key for key in self.store.objects)
        return str(caught.value)


def tokens(number: int, *, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 1000, number).astype("<u2")


def npy(array: NDArray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_digests_of_a_file_s_pages_that_are_gone_or_damaged_are_told_before_they_are_needed() -> None:
    world = World()
    for number in range(3):
        world.put(f"{number}.npy", tokens(PAGE_BYTES, seed=number).tobytes())
    shards = world.register().manifest.shards
    kept = [shard.pages_key for shard in shards]
    world.store.delete(kept[0])
    world.store.objects[kept[1]] = b"\0" + world.store.objects[kept[1]][1:]

    elsewhere, remedy = world.others.__getitem__, "restore this object, or register the files again under another name"
    missing = f"{world.store.url(kept[0])}: is missing; {remedy}"
    assert lacking_objects(load_manifest(world.store, "mine"), world.store, elsewhere) == [missing]
    assert inspect_dataset(store=world.store, name="mine", elsewhere=elsewhere, reading=unwatched).problems == (
        missing,
        f"{world.store.url(kept[1])}: has not the digests of {world.others[WEB].url(shards[1].key)}; {remedy}",
    )


def test_raw_files_and_npy_files_of_two_roots_are_one_dataset(tmp_path: Path) -> None:
    world = World()
    parts = [tokens(PAGE_BYTES * 2 + 33, seed=1), tokens(999, seed=2), tokens(5000, seed=3)]
    world.put("a/raw.npy", parts[0].tobytes())
    world.put("a/raw.csv.gz", b"whatever")
    world.put("b/real.npy", npy(parts[1]))
    world.put("c.u16", parts[2].tobytes(), root=CODE)
    done = world.register(f"{WEB}/*/*", f"{CODE}/c.u16")
    manifest = load_manifest(world.store, "mine")
    assert manifest == done.manifest
    assert [(ref.root, ref.key, ref.num_tokens, ref.offset_bytes) for ref in manifest.shards] == [
        (WEB, "a/raw.npy", len(parts[0]), 0),
        (WEB, "b/real.npy", 999, 128),
        (CODE, "c.u16", 5000, 0),
    ]
    assert (done.left_out.total(), done.tokens.num_tokens, done.tokens.max_token) == (1, manifest.num_tokens, 999)
    with closing(world.loader(tmp_path)) as loader:
        reader = loader.readers[7][0]
        for sample in range(0, reader.table.num_samples, 97):
            found = reader.table.locate(sample)
            assert reader.row(sample).tolist() == parts[found.shard][found.start : found.start + 8].tolist()
    report = inspect_dataset(store=world.store, name="mine", elsewhere=world.others.__getitem__, reading=unwatched)
    assert (report.problems, report.warnings, report.tokens) == ((), (), done.tokens)
    assert (report.first_text, list(report.first_tokens)) == ("", parts[0][:64].tolist())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(
    shard_size=st.integers(30, 900),
    are_npy=st.lists(st.booleans(), min_size=1, max_size=5),
    seq_len=st.integers(1, 40),
    number=st.integers(0, 2**30),
)
def test_a_dataset_registered_from_our_own_shards_gives_the_batches_of_the_one_that_was_built(
    shard_size: int, are_npy: list[bool], seq_len: int, number: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    world = World()
    built = build(world.store, tokenizer, name="built", shard_size_tokens=shard_size)
    for index, ref in enumerate(built.shards):
        data = world.store.get(ref.key)
        world.put(f"{index:05d}.bin", npy(np.frombuffer(data, "<u2")) if are_npy[index % len(are_npy)] else data)
    registered = world.register(vocabulary=Vocabulary(size=built.vocab_size, eos_id=built.eos_id)).manifest
    assert [ref.sha256 for ref in registered.shards] == [ref.sha256 for ref in built.shards]
    config = DataConfig(seq_len=seq_len, seed=number)
    stores = {"store": world.store, "elsewhere": world.others.__getitem__}
    loaders = [
        build_loader(manifests=(manifest,), config=config, cache_dir=tmp_path, batch_rows=3, **stores) for manifest in (built, registered)
    ]
    for step in (1, 2, 50):
        one, other = (loader.read(step) for loader in loaders)
        assert torch.equal(one.tokens_BT, other.tokens_BT)
        assert (one.hashes, one.samples) == (other.hashes, other.samples)
    one, other = (token_digests([1, 50], manifests=(manifest,), config=config, batch_rows=3, **stores) for manifest in (built, registered))
    assert one == other
    for loader in loaders:
        loader.close()


def test_a_manifest_with_registered_shards_is_read_as_it_was_written_and_says_no_more_than_it_must() -> None:
    world = World()
    world.put("a", tokens(100).tobytes())
    manifest = world.register().manifest
    text = manifest_to_json(manifest)
    assert manifest_from_json(text, where="here") == manifest
    assert b"offset_bytes" not in text, "there is no header"
    assert b"num_text_bytes" not in text


def test_a_file_is_read_by_pages_from_its_first_token_on_whatever_is_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("data_pipeline.dataset.scan.READ_SIZE_BYTES", 2 * PAGE_BYTES)
    assert READ_SIZE_BYTES % PAGE_BYTES == 0
    world, part = World(), tokens(5 * PAGE_BYTES + 3)
    world.put("a.npy", npy(part))
    told: list[tuple[int, int]] = []
    world.register(told=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(npy(part)), len(npy(part)))
    assert len(told) > 5
    with closing(world.loader(tmp_path)) as loader:
        assert all_tokens(loader) == part[: 7 * loader.readers[7][0].table.num_samples].tolist()


def all_tokens(loader: Loader) -> list[int]:
    reader = loader.readers[7][0]
    rows = [reader.row(sample) for sample in range(reader.table.num_samples)]
    return np.concatenate([row[:-1] for row in rows]).tolist()


MIXED = np.concatenate([tokens(4000), [0] * 10]).astype("<u2")
MISTAKES: dict[str, tuple[bytes, str, str]] = {
    "uint32 as uint16": (MIXED.astype("<u4").tobytes(), "uint16", "every second token is almost 0, as if uint32, or int64, were read"),
    "uint16 as uint32": (MIXED.tobytes(), "uint32", "but vocab_size=1000, as if uint16 were read as uint32"),
    "half a token": (MIXED.tobytes()[:-1], "uint16", "has 8,019 bytes, which are no whole tokens of uint16: it is cut off"),
    "beyond": (np.append(MIXED, [1000, 7, 2000]).astype("<u2").tobytes(), "", "token 1000 at 4,010, and 1 more, but vocab_size=1000"),
    "text": (b"the quick brown fox\n" * 400, "", "is text, not tokens: build from it with `braid data build`"),
    "text of others": ("щука и рак\n".encode() * 400, "", "is text, not tokens: build from it"),
    "parquet": (b"PAR1" + MIXED.tobytes(), "", "begins like a Parquet file: build from it"),
    "zip": (b"PK\x03\x04" + MIXED.tobytes() + b"!", "", "begins like a zip or .npz archive: unpack it"),
    "gzip": (gzip.compress(MIXED.tobytes(), mtime=0), "", "begins like a gzip file: unpack it"),
    "npy of int64": (npy(MIXED.astype("<i8")), "", "is an .npy file of int64; write it as little-endian uint16 or uint32"),
    "npy of bytes": (npy(MIXED.astype("u1")), "", "is an .npy file of uint8; write it"),
    "npy, big-endian": (npy(MIXED.astype(">u2")), "", "is an .npy file of big-endian uint16; write it"),
    "npy of two dimensions": (npy(MIXED.reshape(2, -1)), "", "is an .npy file of shape (2, 2005); write its tokens as one row"),
    "npy in Fortran order": (npy(np.asfortranarray(MIXED.reshape(2, -1))), "", "of shape (2, 2005) in Fortran order; write its tokens"),
    "npy of objects": (npy(np.array([{}], dtype=object), allow_pickle=True), "", "is an .npy file of object; write it"),
    "npy, cut off": (npy(MIXED)[:-2], "", "has 8,146 bytes, its .npy header says 8,148; write it again"),
    "npy, damaged": (b"\x93NUMPY\1\0\5\0{abcd}", "", "begins like an .npy file, and its header can't be read; write it again"),
    "npy of another dtype": (npy(MIXED.astype("<u4")), "uint16", "is an .npy file of uint32, and the dataset is to be of uint16; give"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_file_that_is_not_made_of_the_vocabularys_tokens_is_one_line(mistake: str) -> None:
    data, dtype, words = MISTAKES[mistake]
    world = World()
    world.put("a/file", data)
    line = world.refused(dtype=dtype)
    assert words in line
    assert line.startswith("memory:a/file: ")


def test_an_npy_header_says_the_dtype_and_a_vocabulary_what_has_none() -> None:
    world = World()
    world.put("a.npy", npy(tokens(300).astype("<u4")))
    assert world.register().manifest.dtype == "uint32"
    for vocabulary, dtype in ((VOCABULARY, "uint16"), (Vocabulary(size=100_278, eos_id=0), "uint32")):
        world = World()
        world.put("a.npy", tokens(300).astype(dtype).tobytes())
        assert world.register(vocabulary=vocabulary).manifest.dtype == dtype


def test_a_vocabulary_that_a_dtype_has_no_room_for_is_one_line() -> None:
    world = World()
    world.put("a", tokens(10).tobytes())
    with pytest.raises(FilesInvalid, match=r"^uint16: has room for 65,536 tokens, and the vocabulary 70,000; give another"):
        world.register(dtype="uint16", vocabulary=Vocabulary(size=70_000, eos_id=0))


def test_files_without_tokens_are_left_out() -> None:
    world = World()
    world.put("a.npy", npy(tokens(0)))
    assert world.refused() == f"{WEB}/**: hold no tokens; give other files"
    world.put("b.npy", tokens(10).tobytes())
    world.put("c.npy", b"")
    done = world.register()
    assert ([ref.key for ref in done.manifest.shards], dict(done.left_out)) == (["b.npy"], {"empty": 2})


def test_a_file_that_is_written_meanwhile_is_not_registered() -> None:
    world = World()
    world.put("a", tokens(100).tobytes())
    line = "memory:a: changed while it was read; register it when nobody writes it any more"

    def grow(operation: str, key: str) -> None:
        if operation == "get_range":
            world.others[WEB].objects[key] += b"12"

    world.others[WEB].fault = grow
    with pytest.raises(FilesInvalid, match=f"^{WEB}/a: changed while it was read"):
        world.register()
    world.others[WEB].fault = lambda operation, key: world.others[WEB].objects.update({key: b""} if operation == "get_range" else {})
    assert world.refused() == line
    world.put("a", tokens(100).tobytes())
    world.others[WEB].fault = lambda operation, key: world.others[WEB].objects.pop(key, None) if operation == "get_range" else None
    assert world.refused() == line


def test_a_killed_registration_goes_on_without_what_it_has_read() -> None:
    world = World()
    for number in range(20):
        world.put(f"{number:02d}", tokens(100, seed=number).tobytes())

    def killed(done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.register(told=killed)
    kept = sum("/files/" in key for key in world.store.objects)
    assert kept >= 5
    world.reads.clear()
    last = []
    resumed = world.register(told=lambda done, total: last.append((done, total)))
    assert len({*world.reads}) <= 20 - kept + 1, "and the first file's header"
    assert last[-1] == (4000, 4000)
    whole = World()
    whole.others = world.others
    assert whole.register() == resumed


@pytest.mark.parametrize("change", ["content", "vocabulary", "what was kept"])
def test_what_was_read_of_another_file_or_for_another_vocabulary_does_not_count(change: str) -> None:
    world, other = World(), Vocabulary(size=1000, eos_id=5)
    world.put("a", tokens(100).tobytes())
    world.register()
    del world.store.objects["datasets/mine/manifest.json"]
    if change == "content":
        world.put("a", tokens(100, seed=1).tobytes())
    elif change == "what was kept":
        (kept,) = (key for key in world.store.objects if "/files/" in key)
        world.store.objects[kept] = world.store.objects[kept][:-3]
    again = world.register(vocabulary=other if change == "vocabulary" else VOCABULARY)
    fresh = World()
    fresh.others = world.others
    assert again == fresh.register(vocabulary=other if change == "vocabulary" else VOCABULARY)
    assert {key for key in world.store.objects if "/files/" in key} == {again.manifest.shards[0].pages_key}, "and is gone"


def test_a_dataset_of_that_name_is_not_replaced() -> None:
    world = World()
    world.put("a", tokens(100).tobytes())
    world.register()
    world.put("a", tokens(100, seed=1).tobytes())
    with pytest.raises(DatasetExists, match=r"^memory:datasets/mine/manifest\.json: this dataset exists already"):
        world.register()


def test_a_registered_file_that_changes_or_vanishes_is_told_by_name_and_place(tmp_path: Path) -> None:
    world, part = World(), tokens(3 * PAGE_BYTES)
    world.put("deep/a.npy", npy(part))
    world.register()
    data = npy(part)
    again = "restore this file, or register it again with `braid data register` under another name"
    leave = r", or leave its rows out with data\.on_corrupt=skip"
    changed = data[: 128 + 2 * PAGE_BYTES] + b"\1\1" + data[130 + 2 * PAGE_BYTES :]
    place = rf"^memory:deep/a\.npy: bytes {128 + 2 * PAGE_BYTES:,} to {128 + 3 * PAGE_BYTES:,} have the digest .*; {again}{leave}$"
    cases = [
        (changed, ShardCorrupt, place),
        (data[:-2], ShardCorrupt, rf"^memory:deep/a\.npy: has .* bytes, its manifest says .*; {again}{leave}$"),
    ]
    for content, error, words in cases:
        world.put("deep/a.npy", content)
        with closing(world.loader(tmp_path)) as loader, pytest.raises(error, match=words):
            all_tokens(loader)
        (problem,) = inspect_dataset(store=world.store, name="mine", elsewhere=world.others.__getitem__, reading=unwatched).problems
        assert problem.startswith("memory:deep/a.npy: ")
        assert problem.endswith(again)
    world.others[WEB].objects.clear()
    with closing(world.loader(tmp_path)) as loader, pytest.raises(ShardMissing, match=rf"^memory:deep/a\.npy: .*; {again}{leave}$"):
        next(iter(loader.readers.values()))[0].row(0)
    (problem,) = inspect_dataset(store=world.store, name="mine", elsewhere=world.others.__getitem__).problems
    assert problem == f"memory:deep/a.npy: is missing; {again}"


def test_looking_at_twelve_hundred_registered_files_costs_one_listing() -> None:
    world = World()
    for number in range(1200):
        world.others[WEB].objects[f"0{number // 100}/{number:05d}.npy"] = tokens(10, seed=number).tobytes()
    world.register()
    listed: list[str] = []
    world.others[WEB].fault = lambda operation, key: listed.append(key) if operation == "list" else None
    assert inspect_dataset(store=world.store, name="mine", elsewhere=world.others.__getitem__).problems == ()
    assert listed == ["0"], "what the names begin with"


@given(st.binary(max_size=200))
def test_whatever_is_behind_the_magic_of_an_npy_file_is_read_or_refused(rest: bytes) -> None:
    for head in (b"\x93NUMPY" + rest, b"\x93NUMPY\1\0" + len(rest).to_bytes(2, "little") + rest):
        with suppress(ValueError):
            npy_header(head)
