"""A document that is too long to be encoded at once has the tokens that it would have then."""

import dataclasses
import itertools
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_pipeline.dataset.encoder import build_encoder
from data_pipeline.dataset.tokenizer import EOS_TOKEN, eos_id_of, train_tokenizer
from data_pipeline.dataset.windows import windows
from data_pipeline.sources.stdlib import stdlib_corpus

LONG = 2**10
WORDS = ["def ", "return", "\n", "\n\n    ", " the", " of", "ä", "😀", "e\u0301", " 2026", "<s>", "\t", "= ", "aaaa", "\x00", "中文", "."]


@cache
def source() -> str:
    return "\n".join(document for document, _ in zip(stdlib_corpus(), range(20), strict=False))


def byte_level() -> Tokenizer:
    return train_tokenizer([source()], 600)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]", EOS_TOKEN], show_progress=False)
    tokenizer.train_from_iterator([source()], trainer)
    return tokenizer


def unigram_with_a_space_before() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>", EOS_TOKEN], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([source()[:50_000]], trainer)
    return tokenizer


def of_no_parts() -> Tokenizer:
    """Merges go across the whole text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", EOS_TOKEN], show_progress=False)
    tokenizer.train_from_iterator(source().splitlines(), trainer)
    return tokenizer


KINDS = {make.__name__: make for make in (byte_level, word_piece, unigram_with_a_space_before, of_no_parts)}


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return KINDS[kind]()


def same_in_windows(tokenizer: Tokenizer, *documents: str) -> None:
    at_once = build_encoder(tokenizer, eos_id_of(tokenizer, EOS_TOKEN))
    in_windows = dataclasses.replace(at_once, long_characters=LONG)
    assert [part.tolist() for part in in_windows.encode(documents)] == [part.tolist() for part in at_once.encode(documents)]


@pytest.mark.parametrize("kind", KINDS)
@given(document=st.lists(st.sampled_from(WORDS) | st.text(max_size=8), min_size=1).map(lambda words: "".join(words) * 300))
@settings(max_examples=15)
def test_any_long_document(kind: str, document: str):
    same_in_windows(tokenizer_of(kind), document)


@pytest.mark.parametrize("kind", KINDS)
def test_source_between_short_documents_and_text_without_an_end_of_a_word(kind: str):
    same_in_windows(tokenizer_of(kind), "short", source()[:60_000], "", "x" * 5000, " " * 5000, "ab" * 4000, "short")


def test_no_window_is_longer_than_asked_for_and_every_character_is_in_one():
    for number in (1, 5, 63, 64, 65, 127, 1000):
        found = windows(number, size=64, overlap=8)
        assert max(map(len, found)) <= 64
        assert (found[0].start, found[-1].stop) == (0, number)
        assert all(after.start == before.stop - 8 for before, after in itertools.pairwise(found))


def test_a_long_document_is_never_encoded_at_once():
    seen: list[int] = []

    class Watched:
        def __init__(self, tokenizer: Tokenizer) -> None:
            self.tokenizer = tokenizer

        def encode_batch(self, texts: list[str], **settings: bool) -> list[object]:
            seen.extend(map(len, texts))
            return self.tokenizer.encode_batch(texts, **settings)

    encoder = build_encoder(tokenizer_of("byte_level"), 0)
    watched = dataclasses.replace(encoder, tokenizer=Watched(encoder.tokenizer), long_characters=2**14)
    _, lengths = watched.encode([source()[:200_000]])
    assert len(lengths) == 1
    assert max(seen) == 2**12
