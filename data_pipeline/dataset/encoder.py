"""From documents to tokens: in full, the same on every machine, and without losing text in silence."""

import json
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from data_pipeline.dataset.corpus_form import may_leave_out, to_encode_corpus, unknown_token
from data_pipeline.dataset.tokenizer import library_errors, tokenizer_from_json, vocab_size_of
from data_pipeline.dataset.windows import Apart, Piece, joined, windows
from data_pipeline.errors import TokenizerInvalid

Tokens = NDArray[np.uint32]
Lengths = NDArray[np.int64]
_BATCH_SIZE_CHARACTERS = 2**20
_SHARED = 2**-6
"""Of a window, with the next one."""
_WINDOWS_AT_ONCE = 4
_LARGEST_SHARE_LEFT_OUT = 0.01
"""Of a batch's text. Normalizers make one character of two, which looks like leaving one out."""
_NO_TEXT = ("C", "Z", "M")
"""Unicode categories that normalizers leave out and nobody misses: controls, white space, marks of the letter before."""


@dataclass(kw_only=True, slots=True)
class Encoder:
    """Encodes documents with what `to_encode_corpus` made of a tokenizer, and gives the ids of the tokenizer itself."""

    tokenizer: Tokenizer
    id_of: Tokens
    """Its ids → those of the tokenizer itself; `lost` for what that can't encode. None is eos."""
    lost: int
    unknown: int
    """The id that stands for text which the tokenizer doesn't know; -1 where there is none."""
    needs_offsets: bool
    """Whether text may be left out before the model sees it, so that one must look."""
    long_characters: int = 2**20
    """A document with more of them is encoded in windows."""

    def encode(self, documents: Iterable[str]) -> tuple[Tokens, Lengths]:
        """The tokens of all documents, without eos, and how many each has. Raises TokenizerInvalid for text that can't be encoded."""
        tokens: list[Tokens] = [np.empty(0, dtype=np.uint32)]
        lengths: list[int] = []
        for batch in _batches(documents, self.long_characters):
            if len(batch) == 1 and len(batch[0]) > self.long_characters:
                tokens.append(self._encode_long(batch[0]))
                lengths.append(len(tokens[-1]))
            else:
                encodings = self._encodings_of(batch)
                tokens.append(self._tokens_of(encodings, batch))
                lengths += map(len, encodings)
        return np.concatenate(tokens), np.array(lengths, dtype=np.int64)

    def _encode_long(self, document: str) -> Tokens:
        """What encoding the document at once gives, which takes the library some 400 bytes per token."""
        size = self.long_characters // _WINDOWS_AT_ONCE
        while size < len(document):
            overlap = int(_SHARED * size)
            try:
                return np.concatenate([*joined(self._pieces(document, size, overlap), overlap=overlap)])
            except Apart:
                size *= 4
        return self._tokens_of(self._encodings_of([document]), [document])

    def _pieces(self, document: str, size: int, overlap: int) -> Iterator[Piece]:
        places = windows(len(document), size=size, overlap=overlap)
        for first in range(0, len(places), _WINDOWS_AT_ONCE):
            some = places[first : first + _WINDOWS_AT_ONCE]
            texts = [document[one.start : one.stop] for one in some]
            encodings = self._encodings_of(texts, with_offsets=True)
            for one, encoding in zip(some, encodings, strict=True):
                yield Piece(start=one.start, ids=self._tokens_of([encoding], texts), span=partial(_span, encoding))

    def _tokens_of(self, encodings: list[Encoding], batch: list[str]) -> Tokens:
        """The tokenizer's own ids, those of one encoding after the other."""
        ids = array("I")
        for encoding in encodings:
            ids.fromlist(encoding.ids)  # a third of what numpy takes for a list
        tokens: Tokens = self.id_of[np.frombuffer(ids, dtype=np.uint32)]
        if np.any(tokens == self.lost):
            raise self._loses(batch)
        return tokens

    def _encodings_of(self, batch: list[str], *, with_offsets: bool = False) -> list[Encoding]:
        with library_errors("the tokenizer can't encode the corpus"):
            if not (self.needs_offsets or with_offsets):
                return self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            encodings = self.tokenizer.encode_batch(batch, add_special_tokens=False)
        if not self.needs_offsets:
            return encodings
        places = [_uncovered(text, encoding.offsets) for text, encoding in zip(batch, encodings, strict=True)]
        if sum(map(len, places)) > _LARGEST_SHARE_LEFT_OUT * sum(map(len, batch)):
            raise TokenizerInvalid(
                f"the tokenizer leaves out {_told(batch, places)}, before its model sees it; give one that keeps all text, or train one"
            )
        return encodings

    def _loses(self, batch: list[str]) -> TokenizerInvalid:
        encodings = self.tokenizer.encode_batch(batch, add_special_tokens=False)
        lost = [
            [span for span, number in zip(encoding.offsets, encoding.ids, strict=True) if self.id_of[number] == self.lost]
            for encoding in encodings
        ]
        places = [np.flatnonzero(_covered(text, spans)) for text, spans in zip(batch, lost, strict=True)]
        return TokenizerInvalid(
            f"the tokenizer can't encode {_told(batch, places)}, and has no token for what is unknown; "
            "give one with byte fallback, or train one (leave out --tokenizer)"
        )


def build_encoder(tokenizer: Tokenizer, eos_id: int) -> Encoder:
    """What encodes text with this tokenizer; no text becomes the token `eos_id`. Raises TokenizerInvalid."""
    as_given = json.loads(tokenizer.to_str())
    vocab, lost = tokenizer.get_vocab(with_added_tokens=True), vocab_size_of(tokenizer)
    changed = to_encode_corpus(as_given, {token for token, number in vocab.items() if number == eos_id})
    encodes = tokenizer_from_json(json.dumps(changed).encode(), where="the tokenizer, without what is for inference")
    encodes.encode_special_tokens = True
    id_of = np.full(vocab_size_of(encodes), lost, dtype=np.uint32)
    for token, number in encodes.get_vocab(with_added_tokens=True).items():
        id_of[number] = vocab.get(token, lost)
    unknown = vocab.get(unknown_token(changed) or "", -1)
    return Encoder(tokenizer=encodes, id_of=id_of, lost=lost, unknown=unknown, needs_offsets=may_leave_out(as_given))


def _span(encoding: Encoding, token: int) -> tuple[int, int]:
    span = encoding.token_to_chars(token)
    assert span is not None, "without special tokens, each has its text"
    return span


def _batches(documents: Iterable[str], long_characters: int) -> Iterator[list[str]]:
    """Groups of documents that are large enough to keep every core busy and small enough for memory; a long one is alone."""
    batch: list[str] = []
    num_characters = 0
    for document in documents:
        if batch and (num_characters >= _BATCH_SIZE_CHARACTERS or len(document) > long_characters):
            yield batch
            batch, num_characters = [], 0
        batch.append(document)
        num_characters += len(document)
    if batch:
        yield batch


def _covered(text: str, spans: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    """Which characters of a text lie in one of these spans."""
    change = np.zeros(len(text) + 1, dtype=np.int64)
    starts_and_ends = np.array(list(spans), dtype=np.int64).reshape(-1, 2)
    np.add.at(change, starts_and_ends[:, 0], 1)
    np.add.at(change, starts_and_ends[:, 1], -1)
    return np.cumsum(change[:-1]) > 0


def _uncovered(text: str, spans: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Where a text has characters that are in no span, and are text."""
    places = np.flatnonzero(~_covered(text, spans))
    return np.array([place for place in places if not unicodedata.category(text[place]).startswith(_NO_TEXT)], dtype=np.int64)


def _told(batch: list[str], places: list[NDArray[np.int64]]) -> str:
    """How much of a batch lies at these places, and an example."""
    share = sum(map(len, places)) / sum(map(len, batch))
    text, where = next((text, where) for text, where in zip(batch, places, strict=True) if len(where))
    return f"{share:.2%} of the text, such as {text[where[0]]!r} in {text[max(0, where[0] - 10) : where[0] + 10]!r}"
