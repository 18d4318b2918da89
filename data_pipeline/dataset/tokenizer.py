"""Tokenizers, read from a Hugging Face `tokenizers` file or trained on the corpus itself."""

import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipeline.errors import TokenizerInvalid

EOS_TOKEN = "<|endoftext|>"
"""The token that ends documents in a tokenizer which is trained here."""
_EOS_TOKENS = (EOS_TOKEN, "<|end_of_text|>", "</s>", "<eos>")
SMALLEST_VOCAB_SIZE = 257
"""Tokens of the smallest byte-level BPE: one for every byte, and eos."""
_PIECE_CHARACTERS = 2**20
_LARGEST_VOCAB_SIZE = 2**24


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens, eos included; the same documents give the same one. Raises TokenizerInvalid."""
    if not SMALLEST_VOCAB_SIZE <= vocab_size <= _LARGEST_VOCAB_SIZE:
        raise TokenizerInvalid(
            f"vocab_size={vocab_size}: a byte-level BPE needs at least {SMALLEST_VOCAB_SIZE}, and {_LARGEST_VOCAB_SIZE} at most"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[EOS_TOKEN], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_in_pieces(documents), trainer)
    return tokenizer


def _in_pieces(documents: Iterable[str]) -> Iterator[str]:
    """The library takes many bytes for each character of a text; a word that is cut here and there teaches nothing."""
    for document in documents:
        for start in range(0, len(document), _PIECE_CHARACTERS):
            yield document[start : start + _PIECE_CHARACTERS]


def load_tokenizer(path: Path) -> tuple[Tokenizer, bytes]:
    """The tokenizer in a Hugging Face tokenizer.json, and that file as it is. Raises TokenizerInvalid."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise TokenizerInvalid(f"{path}: not a file; give a Hugging Face tokenizer.json")
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerInvalid(f"{path}: can't be read ({error.strerror}); give a Hugging Face tokenizer.json") from error
    return tokenizer_from_json(content, where=str(path)), content


def tokenizer_from_json(content: bytes, *, where: str) -> Tokenizer:
    """The tokenizer that is the content of a Hugging Face tokenizer.json. Raises TokenizerInvalid, whose message begins with `where`."""
    with (
        _no_word_of_panics(),
        library_errors(f"{where}: not a Hugging Face tokenizers file, or of a newer version than {version('tokenizers')}"),
    ):
        return Tokenizer.from_buffer(content.removeprefix(BOM_UTF8))


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turns what the tokenizers library raises within into TokenizerInvalid: `what`, its reason, and what to do."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # which Rust raises, and which is no Exception
            raise
        raise TokenizerInvalid(f"{what} ({error}); update tokenizers, or give another tokenizer.json") from error


@contextmanager
def _no_word_of_panics() -> Iterator[None]:
    """Keeps what Rust itself prints of a panic, maybe with all of its stack, from a terminal: `library_errors` says it."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


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
    """One more than the tokenizer's largest id. Raises TokenizerInvalid where no model could have so many."""
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= _LARGEST_VOCAB_SIZE:
        raise TokenizerInvalid(f"the tokenizer's largest id is {largest}, and a model has a row for each; number its tokens from 0")
    return 1 + largest
