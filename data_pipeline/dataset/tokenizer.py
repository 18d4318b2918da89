"""Tokenizers, read from a Hugging Face `tokenizers` file or trained on the corpus itself, and what they make of text."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipeline.errors import TokenizerInvalid

EOS_TOKEN = "<|endoftext|>"
"""The token that ends documents in a tokenizer which is trained here."""
_EOS_TOKENS = (EOS_TOKEN, "<|end_of_text|>", "</s>", "<eos>")
SMALLEST_VOCAB_SIZE = 257
"""Tokens of the smallest byte-level BPE: one for every byte, and eos."""
_BATCH_SIZE_CHARACTERS = 2**20


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens, eos included; the same documents give the same one. Raises TokenizerInvalid."""
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
    """The tokenizer in a Hugging Face tokenizer.json. Raises TokenizerInvalid."""
    try:
        return tokenizer_from_json(path.read_bytes(), where=str(path))
    except OSError as error:
        raise TokenizerInvalid(f"{path}: can't be read ({error.strerror}); give a Hugging Face tokenizer.json") from error


def tokenizer_from_json(text: bytes, *, where: str) -> Tokenizer:
    """The tokenizer that is the content of a Hugging Face tokenizer.json. Raises TokenizerInvalid, whose message begins with `where`."""
    try:
        return Tokenizer.from_buffer(text.removeprefix(BOM_UTF8))
    except ValueError as error:
        raise TokenizerInvalid(f"{where}: not a Hugging Face tokenizers file; give a tokenizer.json") from error


def eos_id_of(tokenizer: Tokenizer, eos_token: str = "") -> int:
    """The id of the token that ends documents: `eos_token`, or if that is empty the first usual one that the tokenizer has.

    Raises TokenizerInvalid where there is no such token.
    """
    for candidate in (eos_token,) if eos_token else _EOS_TOKENS:
        eos_id = tokenizer.token_to_id(candidate)
        if eos_id is not None:
            return eos_id
    if eos_token:
        raise TokenizerInvalid(f"--eos-token {eos_token}: the tokenizer has no such token; name the one which ends documents")
    raise TokenizerInvalid(f"the tokenizer has none of {', '.join(_EOS_TOKENS)}; name the token which ends documents with --eos-token")


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """One more than the tokenizer's largest id."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def tokenize(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The tokens of each document, in order, without eos.

    Text that looks like a special token is tokenized as text, so that eos only ever ends a document.
    """
    tokenizer.encode_special_tokens = True
    for batch in _batches(documents):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Groups of documents that are large enough to keep every core busy and small enough for memory."""
    batch: list[str] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document)
        if num_characters >= _BATCH_SIZE_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
