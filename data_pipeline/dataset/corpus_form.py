"""A tokenizer's JSON as it is to encode a corpus, which is not how it serves a model. Pure."""

from collections.abc import Collection, Iterator
from typing import Any

HIDDEN, LOST = "\ufdd0eos\ufdd1", "\ufdd0lost\ufdd1"
"""Names that no text has, of characters that Unicode keeps out of texts: of the token that ends documents, and of what can't be encoded."""
_KEEPS_ALL = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "ByteLevel", "Metaspace"),
    *("Digits", "UnicodeScripts", "FixedLength", "Split", "Punctuation", "Sequence"),
}
"""Normalizers and pre-tokenizers that leave no text out, unless they say so (`_says_so`)."""


def to_encode_corpus(tokenizer: dict[str, Any], eos_tokens: Collection[str]) -> dict[str, Any]:
    """What encodes every document in full, tells what it can't encode, and never makes eos of text.

    What is meant for inference is off: truncation, padding, what is put around a text, dropout. Ids may be others than before.
    """
    model = dict(tokenizer["model"])
    added = [
        token | {"content": HIDDEN, "special": True} if token["content"] in eos_tokens else token for token in tokenizer["added_tokens"]
    ]
    _hide(model, eos_tokens)
    _tell_lost(model)
    return tokenizer | {"truncation": None, "padding": None, "post_processor": None, "added_tokens": added, "model": model}


def unknown_token(tokenizer: dict[str, Any]) -> str | None:
    """The token that stands for text which the model doesn't know."""
    model = tokenizer["model"]
    if model["type"] != "Unigram":
        return model["unk_token"]
    return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]


def may_leave_out(tokenizer: dict[str, Any]) -> bool:
    """Whether text may be gone before the model of the tokenizer sees it."""
    parts = [*_parts(tokenizer["normalizer"]), *_parts(tokenizer["pre_tokenizer"])]
    return any(part["type"] not in _KEEPS_ALL or _says_so(part) for part in parts)


def _hide(model: dict[str, Any], eos_tokens: Collection[str]) -> None:
    """Gives eos another name, so that no text is spelled like it."""
    if model["type"] == "Unigram":
        model["vocab"] = [[HIDDEN if piece in eos_tokens else piece, score] for piece, score in model["vocab"]]
        return
    model["vocab"] = {HIDDEN if token in eos_tokens else token: number for token, number in model["vocab"].items()}
    prefix = model.get("continuing_subword_prefix") or ""
    if "merges" in model:
        model["dropout"] = None
        model["merges"] = [
            (left, right) for left, right in model["merges"] if not {left, right, left + right.removeprefix(prefix)} & set(eos_tokens)
        ]


def _tell_lost(model: dict[str, Any]) -> None:
    """Where the model has no token for what it doesn't know, it gets one."""
    vocab = model["vocab"]
    if model["type"] == "Unigram":
        if model["unk_id"] is None or vocab[model["unk_id"]][0] == HIDDEN:
            model["vocab"] = [*vocab, [LOST, min((score for _, score in vocab), default=0.0)]]
            model["unk_id"] = len(vocab)
    elif model["unk_token"] not in vocab:
        model["vocab"] = vocab | {LOST: 1 + max(vocab.values(), default=-1)}
        model["unk_token"] = LOST


def _parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if part is None:
        return
    yield part
    for inner in part.get("normalizers") or part.get("pretokenizers") or ():
        yield from _parts(inner)


def _says_so(part: dict[str, Any]) -> bool:
    return part.get("behavior") == "Removed" or part.get("content") == ""
