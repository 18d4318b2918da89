"""What a tokenizer makes of documents: all of them, with eos only at their ends, and nothing lost in silence."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline.dataset.encoder import build_encoder
from data_pipeline.dataset.tokenizer import EOS_TOKEN, eos_id_of, tokenizer_from_json
from data_pipeline.errors import TokenizerInvalid

TEXT = "def function_1(argument):\n    return argument  # ä 😀 <|endoftext|> </s>\n"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def encoded(tokenizer: Tokenizer, *documents: str, eos_token: str = "") -> list[list[int]]:
    tokens, lengths = build_encoder(tokenizer, eos_id_of(tokenizer, eos_token)).encode(documents)
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths))[:-1]]


def copy_of(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    return tokenizer_from_json(json.dumps(json.loads(tokenizer.to_str()) | changes).encode(), where="here")


def refusal(tokenizer: Tokenizer, *documents: str) -> str:
    with pytest.raises(TokenizerInvalid) as refused:
        encoded(tokenizer, *documents)
    return str(refused.value)


def truncates(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(8)


def pads(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=64)


def adds_eos(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{EOS_TOKEN} $A {EOS_TOKEN}", special_tokens=[(EOS_TOKEN, 0)])


def drops_out(tokenizer: Tokenizer) -> None:
    tokenizer.model.dropout = 0.9


SETTINGS: list[Callable[[Tokenizer], None]] = [truncates, pads, adds_eos, drops_out]


@given(settings=st.lists(st.sampled_from(SETTINGS), unique=True), documents=st.lists(st.text() | st.just(TEXT), max_size=3))
def test_every_document_is_encoded_in_full_whatever_the_file_says_of_inference(
    settings: list[Callable[[Tokenizer], None]], documents: list[str], tokenizer: Tokenizer
) -> None:
    configured = copy_of(tokenizer)
    for change in settings:
        change(configured)
    tokens = encoded(copy_of(configured), *documents)
    assert tokens == encoded(tokenizer, *documents)
    assert tokenizer.decode_batch(tokens, skip_special_tokens=False) == documents


def unigram(*, unk_id: int | None) -> Tokenizer:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS + "</>"), ("the", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unk_id))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def characters(*, alphabet: str = LETTERS + " <|>/", unk_token: str | None = None, eos_token: str = EOS_TOKEN) -> Tokenizer:
    """A BPE of characters, whose merges spell eos."""
    parts = [eos_token[:end] for end in range(2, len(eos_token) + 1)]
    vocab = {
        token: number for number, token in enumerate(dict.fromkeys([*alphabet, *eos_token, *parts, *([unk_token] if unk_token else [])]))
    }
    return Tokenizer(models.BPE(vocab=vocab, merges=[(part[:-1], part[-1]) for part in parts], unk_token=unk_token))


def words(*known: str, unk_token: str = "[UNK]", eos_token: str = EOS_TOKEN) -> Tokenizer:
    vocab = {word: number for number, word in enumerate([eos_token, *known])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=unk_token))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def with_added(tokenizer: Tokenizer, *, special: bool) -> Tokenizer:
    """With tokens behind the model's own, as many released tokenizers have them."""
    tokenizer = copy_of(tokenizer)
    tokenizer.add_tokens([AddedToken("<first>", special=False), AddedToken("<stop>", special=special), AddedToken("<last>", special=False)])
    return tokenizer


@pytest.mark.parametrize("special", [False, True])
def test_text_that_spells_eos_is_text_whether_eos_is_called_special_or_not(special: bool, tokenizer: Tokenizer) -> None:
    fields = json.loads(tokenizer.to_str())
    plain = copy_of(tokenizer, added_tokens=[token | {"special": special} for token in fields["added_tokens"]])
    (tokens,) = encoded(plain, TEXT)
    assert eos_id_of(plain) not in tokens
    assert plain.decode(tokens, skip_special_tokens=False) == TEXT

    added = with_added(tokenizer, special=special)
    (tokens,) = encoded(added, "a<stop>b<last><first>", eos_token="<stop>")
    assert added.token_to_id("<stop>") not in tokens
    assert added.decode(tokens, skip_special_tokens=False) == "a<stop>b<last><first>"
    assert added.token_to_id("<last>") in tokens, "tokens that do not end documents stay what they are"


@pytest.mark.parametrize("tokenizer", [unigram(unk_id=None), unigram(unk_id=0), characters(), characters(unk_token="?")], ids=range(4))
def test_no_model_spells_eos_from_text(tokenizer: Tokenizer) -> None:
    text = "a</s>b" if tokenizer.token_to_id("</s>") else "a<|endoftext|>b"
    (tokens,) = encoded(tokenizer, text)
    assert eos_id_of(tokenizer) not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=False).replace(" ", "") == text


@pytest.mark.parametrize(
    ("tokenizer", "lost"),
    [
        (words("near", "far"), "'w'"),
        (words("near", "far", unk_token=EOS_TOKEN), "'w'"),
        (characters(alphabet="near f"), "'w'"),
        (characters(alphabet="near f", unk_token=EOS_TOKEN), "'w'"),
        (Tokenizer(models.WordPiece({EOS_TOKEN: 0, "near": 1})), "'n'"),
        (Tokenizer(models.Unigram([("</s>", 0.0), *((letter, -1.0) for letter in "near f")])), "'w'"),
    ],
    ids=range(6),
)
def test_text_for_which_there_is_no_token_is_refused_with_its_share(tokenizer: Tokenizer, lost: str) -> None:
    said = refusal(tokenizer, "near far", "near we")
    assert re.match(
        rf"the tokenizer can't encode \d+\.\d\d% of the text, such as {lost} in '.*', and has no token for what is unknown; ", said
    )


def test_bytes_that_a_byte_level_alphabet_lacks_are_refused(tokenizer: Tokenizer) -> None:
    byte_level = characters(alphabet=LETTERS + "Ġ©")
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert "can't encode 25.00% of the text, such as 'é' in 'a éb'" in refusal(byte_level, "a éb")


def test_unknown_text_is_known_by_its_token() -> None:
    encoder = build_encoder(words("near", "[UNK]"), 0)
    tokens, lengths = encoder.encode(["near far", "far"])
    assert (tokens.tolist(), lengths.tolist(), encoder.unknown) == ([1, 2, 2], [2, 1], 2)


LEAVES_OUT: list[tuple[str, Any]] = [
    ("normalizer", normalizers.Replace(Regex("[0-9]"), "")),
    ("normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("[0-9]"), "")])),
    ("pre_tokenizer", pre_tokenizers.Split(Regex("[0-9]"), "removed")),
    ("pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.CharDelimiterSplit("1")])),
]


@pytest.mark.parametrize(("part", "leaves_out"), LEAVES_OUT, ids=range(len(LEAVES_OUT)))
def test_text_that_is_gone_before_the_model_sees_it_is_refused(part: str, leaves_out: Any) -> None:
    tokenizer = characters()
    setattr(tokenizer, part, leaves_out)
    said = refusal(tokenizer, "ab 1", "cd")
    assert said.startswith("the tokenizer leaves out 16.67% of the text, such as '1' in 'ab 1', before its model sees it")


@pytest.mark.parametrize(
    "part",
    [normalizers.BertNormalizer(strip_accents=True), normalizers.Strip(), pre_tokenizers.Whitespace(), normalizers.StripAccents()],
    ids=range(4),
)
def test_white_space_controls_and_accents_may_be_left_out(part: Any) -> None:
    tokenizer = characters(alphabet=LETTERS + " é", unk_token="?")
    setattr(tokenizer, "normalizer" if isinstance(part, normalizers.Normalizer) else "pre_tokenizer", part)
    assert len(encoded(tokenizer, " a\u0085 e\u0301\n\n")) == 1


def test_what_the_library_can_not_do_is_one_line_with_its_reason(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerInvalid, match=r"^the tokenizer's largest id is 4294967290, and a model has a row for each"):
        build_encoder(words("far"), 0) and build_encoder(Tokenizer(models.WordLevel({"</s>": 0, "far": 4294967290})), 0)
    assert encoded(words("near"), "near") == [[1]]
