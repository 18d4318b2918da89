"""Tokenizers: a Hugging Face `tokenizers` file, or a byte-level BPE trained on the corpus itself."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipeline.errors import TokenizerInvalid

EOS_TOKEN = "<|endoftext|>"
_EOS_TOKENS = (EOS_TOKEN, "<|end_of_text|>", "</s>", "<eos>")
SMALLEST_VOCAB_SIZE = 257
"""Every byte, and eos."""


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens, eos included. The same documents give the same tokenizer."""
    if vocab_size < SMALLEST_VOCAB_SIZE:
        raise TokenizerInvalid(f"vocab_size={vocab_size}: a byte-level BPE needs at least {SMALLEST_VOCAB_SIZE}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[EOS_TOKEN], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises TokenizerInvalid."""
    try:
        return tokenizer_from_json(path.read_bytes(), where=str(path))
    except OSError as error:
        raise TokenizerInvalid(f"{path}: can't be read ({error.strerror}); give a Hugging Face tokenizer.json") from error


def tokenizer_from_json(text: bytes, *, where: str) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(text)
    except ValueError as error:
        raise TokenizerInvalid(f"{where}: not a Hugging Face tokenizers file; give a tokenizer.json") from error


def eos_id_of(tokenizer: Tokenizer, eos_token: str = "") -> int:
    """The id of the token that ends documents: `eos_token`, or where empty the first usual one that the tokenizer has."""
    for candidate in (eos_token,) if eos_token else _EOS_TOKENS:
        eos_id = tokenizer.token_to_id(candidate)
        if eos_id is not None:
            return eos_id
    if eos_token:
        raise TokenizerInvalid(f"--eos-token {eos_token}: the tokenizer has no such token; name the one which ends documents")
    raise TokenizerInvalid(f"the tokenizer has none of {', '.join(_EOS_TOKENS)}; name the token which ends documents with --eos-token")


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """One above the largest id."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
