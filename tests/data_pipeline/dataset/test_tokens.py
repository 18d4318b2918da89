"""Shards whose digest is right and whose meaning is wrong: each as people make them."""

import gzip
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data_pipeline.dataset.build import put_pages
from data_pipeline.dataset.inspect import inspect_dataset, odd_beginnings
from data_pipeline.dataset.manifest import BYTES_PER_TOKEN, DatasetManifest, manifest_key, manifest_to_json, rows_in_words
from data_pipeline.dataset.pages import page_digests
from data_pipeline.dataset.progress import unwatched
from data_pipeline.dataset.tokens import oddity_of
from tests.data_pipeline.dataset.built import build
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

TOKENS = np.random.default_rng(0).integers(0, 300, 4000)
"""With eos, which is 0."""


def put_shard(store: MemoryStore, tokenizer: Tokenizer, data: bytes, *, dtype: str = "uint16", vocab_size: int = 300) -> DatasetManifest:
    """A dataset whose one shard is these bytes, with every size and digest right."""
    store.objects.clear()
    built = build(store, tokenizer)
    data = data[: len(data) // 8 * 8]
    shard = replace(
        built.shards[0],
        num_tokens=len(data) // BYTES_PER_TOKEN[dtype],
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        documents=None,
    )
    store.objects[shard.key] = data
    pages = put_pages(store, "tiny", page_digests(data))
    manifest = replace(built, dtype=dtype, vocab_size=vocab_size, eos_id=0, shards=(shard,), pages=pages)
    store.objects[manifest_key("tiny")] = manifest_to_json(manifest)
    return manifest


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


MISTAKES = {
    "uint32 as uint16": (TOKENS.astype("<u4").tobytes(), "uint16", "every second token is almost 0, as if uint32"),
    "big-endian uint32 as uint16": (TOKENS.astype(">u4").tobytes(), "uint16", "every second token is almost 0, as if uint32"),
    "large vocabulary as uint16": ((TOKENS * 800).astype("<u4").tobytes(), "uint16", "every second token is almost 0, as if uint32"),
    "int64 as uint16": (TOKENS.astype("<i8").tobytes(), "uint16", "every second token is almost 0, as if uint32, or int64"),
    "int64 as uint32": (TOKENS.astype("<i8").tobytes(), "uint32", "every second token is 0, as if int64, were read as uint32"),
    "uint16 as uint32": (TOKENS.astype("<u2").tobytes(), "uint32", "as if uint16 were read as uint32: fix the dtype uint32"),
    "big-endian uint16": (
        TOKENS.astype(">u2").tobytes(),
        "uint16",
        "but vocab_size=300: fix the dtype uint16 or vocab_size",
    ),
    "npy": (_saved(lambda file: np.save(file, TOKENS.astype("<u2"))), "uint16", "begins like an .npy file"),
    "npz": (_saved(lambda file: np.savez(file, tokens=TOKENS)), "uint16", "begins like a zip or .npz archive"),
    "gzip": (gzip.compress(TOKENS.astype("<u2").tobytes(), mtime=0), "uint16", "begins like a gzip file: unpack it"),
    "text": (b"the quick brown fox\n" * 400, "uint16", "is text, not tokens: build from it"),
    "one token beyond": (np.append(TOKENS, [700, 1, 1, 1]).astype("<u2").tobytes(), "uint16", "token 700 at 4,000, but vocab_size=300"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_manifest_that_is_right_in_size_and_digest_and_wrong_in_meaning(mistake: str, tokenizer: Tokenizer) -> None:
    data, dtype, words = MISTAKES[mistake]
    store = MemoryStore()
    manifest = put_shard(store, tokenizer, data, dtype=dtype)
    (problem,) = inspect_dataset(store=store, name="tiny", reading=unwatched).problems
    assert problem.startswith(f"{store.url(manifest.shards[0].key)}: ")
    assert words in problem
    assert problem.endswith("; or rebuild the dataset with `braid data build`")
    assert "\n" not in problem
    assert [words in found for found in odd_beginnings(manifest, store)] == [True]


def test_tokens_are_counted_in_documents_and_shares(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    put_shard(store, tokenizer, np.array([5, 6, 0, 7, 0, 8, 9, 4] * 10, dtype="<u2").tobytes())
    report = inspect_dataset(store=store, name="tiny", reading=unwatched)
    assert report.problems == report.warnings == ()
    assert report.tokens is not None
    assert (report.tokens.num_documents, report.tokens.num_eos, report.tokens.eos_share, report.tokens.max_token) == (21, 20, 0.25, 9)
    assert inspect_dataset(store=store, name="tiny").tokens is None


def test_what_is_hardly_meant_is_a_warning(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    put_shard(store, tokenizer, np.full(80, 7, dtype="<u2").tobytes())
    assert inspect_dataset(store=store, name="tiny", reading=unwatched).warnings == (
        "eos (0) never occurs: no document ends; is eos_id right?",
    )
    manifest = put_shard(store, tokenizer, np.array([0, 0, 0, 7] * 20, dtype="<u2").tobytes())
    store.objects[manifest_key("tiny")] = manifest_to_json(replace(manifest, shards=manifest.shards * 2))
    assert inspect_dataset(store=store, name="tiny", reading=unwatched).warnings == (
        "1 of 2 shards repeat another one: their tokens come twice in each epoch",
        "75 % of the tokens are eos (0): padding, or another dtype?",
    )


def test_a_token_without_a_text_is_a_problem(tokenizer: Tokenizer) -> None:
    store = MemoryStore()
    put_shard(store, tokenizer, np.array([0, 60_000] * 20, dtype="<u2").tobytes(), vocab_size=2**16)
    (problem,) = inspect_dataset(store=store, name="tiny", reading=unwatched).problems
    assert problem.startswith("token 60000 is in the shards, and the dataset's tokenizer has ")


def test_tokens_that_no_row_reaches_are_counted() -> None:
    manifest = put_dataset(MemoryStore(), *[[1] * 100] * 50, [1] * 1000)
    assert manifest.num_unreached(500) == 5000 + 1000 - 501
    assert rows_in_words(manifest, 999) == (
        "rows of 999 tokens: 1; 5,000 of 6,000 tokens (83.3 %) are in no row: 50 of 51 shards are shorter than a row"
    )


@given(st.lists(st.integers(0, 299), min_size=64, max_size=300), st.sampled_from(["uint16", "uint32"]))
def test_tokens_as_they_should_be_are_nothing_odd(tokens: list[int], dtype: str) -> None:
    spread = np.concatenate([TOKENS, np.asarray(tokens)]).astype(np.dtype(dtype).newbyteorder("<"))
    manifest = replace(put_dataset(MemoryStore(), [1], dtype=dtype), vocab_size=300)
    assert oddity_of(spread.tobytes(), manifest) == ""


@given(st.binary(max_size=300), st.sampled_from(["uint16", "uint32"]))
def test_whatever_the_bytes_are_what_is_odd_is_one_line(data: bytes, dtype: str) -> None:
    assert "\n" not in oddity_of(data, replace(put_dataset(MemoryStore(), [1], dtype=dtype), vocab_size=300))
