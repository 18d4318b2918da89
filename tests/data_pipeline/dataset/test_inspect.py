import re
from collections import Counter
from dataclasses import replace

from tokenizers import Tokenizer

from data_pipeline.dataset.inspect import inspect_dataset
from data_pipeline.dataset.manifest import manifest_key, manifest_to_json
from data_pipeline.dataset.pages import DIGEST_BYTES
from data_pipeline.dataset.progress import unwatched
from tests.data_pipeline.dataset.built import build
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore


def test_inspecting_shows_sizes_and_the_first_text(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    report = inspect_dataset(store=store, name="tiny", reading=unwatched)
    assert report.manifest == manifest
    assert report.first_text.startswith("def function_0(argument):\n    return argument + 0\n<|endoftext|>def function_1")
    assert report.problems == ()


def test_inspecting_finds_missing_short_and_flipped_shards(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    refs = build(store, tokenizer).shards
    store.delete(refs[0].key)
    store.objects[refs[1].key] = store.objects[refs[1].key][:-2]
    flipped = bytearray(store.objects[refs[2].key])
    flipped[5] ^= 1
    store.objects[refs[2].key] = bytes(flipped)

    quick = inspect_dataset(store=store, name="tiny").problems
    thorough = inspect_dataset(store=store, name="tiny", reading=unwatched).problems

    assert [problem.partition("; ")[0].partition(": ")[2] for problem in quick[:2]] == [
        "is missing",
        f"has {refs[1].size_bytes - 2} bytes, the manifest says {refs[1].size_bytes}",
    ]
    assert not any(refs[2].key in problem for problem in quick)
    assert any(refs[2].key in problem and "SHA-256" in problem for problem in thorough)


def test_a_table_of_documents_that_is_missing_damaged_or_another_shard_s_is_found(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    tables = [shard.documents for shard in manifest.shards if shard.documents is not None]
    store.delete(tables[0].key)
    whole = store.objects[tables[1].key]
    store.objects[tables[1].key] = whole[:-5] + b"7" + whole[-4:]
    swapped = {2: tables[3], 3: tables[2]}
    shards = tuple(replace(shard, documents=swapped.get(number, shard.documents)) for number, shard in enumerate(manifest.shards))
    store.put(manifest_key("tiny"), manifest_to_json(replace(manifest, shards=shards)))

    assert inspect_dataset(store=store, name="tiny").problems == ()
    found = inspect_dataset(store=store, name="tiny", reading=unwatched).problems
    assert [problem.partition(": ")[0] for problem in found] == [store.url(tables[number].key) for number in (0, 1, 3, 2)]
    assert all("is missing, or not what the manifest says; rebuild" in problem for problem in found[:2])
    assert all(re.search(r"has \d+ documents of \d+ tokens, its shard \d+ of \d+; rebuild", problem) for problem in found[2:])


def test_digests_of_pages_that_are_missing_or_others_are_found_where_the_shards_are_whole(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    manifest = build(store, tokenizer)
    assert manifest.pages is not None
    url, whole = store.url(manifest.pages.key), store.objects[manifest.pages.key]
    spoilt = bytearray(whole)
    spoilt[DIGEST_BYTES + 3] ^= 1  # of the second shard's only page
    store.objects[manifest.pages.key] = bytes(spoilt)
    found = inspect_dataset(store=store, name="tiny", reading=unwatched).problems
    restore = "restore this object, or rebuild the dataset with `braid data build`"
    assert found == (f"{url}: has not the digests of {store.url(manifest.shards[1].key)}; {restore}",)

    store.delete(manifest.pages.key)
    assert inspect_dataset(store=store, name="tiny", reading=unwatched).problems == (f"{url}: is missing; {restore}",)


def test_inspecting_lists_the_store_once_however_many_shards() -> None:
    store = MemoryStore()
    put_dataset(store, *[[1, 0]] * 20)
    calls: Counter[str] = Counter()
    store.fault = lambda operation, key: calls.update([operation])
    inspect_dataset(store=store, name="tiny")
    assert calls["list"] == 1


def test_an_empty_dataset_is_no_dataset_and_an_empty_shard_has_a_digest_too() -> None:
    store = MemoryStore()
    put_dataset(store, [], name="nothing")
    assert "its shards hold no tokens; rebuild" in inspect_dataset(store=store, name="nothing").problems[0]

    manifest = put_dataset(store, [1, 0], [])
    other = replace(manifest, shards=(manifest.shards[0], replace(manifest.shards[1], sha256="1" * 64)))
    store.put(manifest_key("tiny"), manifest_to_json(other))
    assert "1.bin: its SHA-256 is not the manifest's" in inspect_dataset(store=store, name="tiny", reading=unwatched).problems[0]
