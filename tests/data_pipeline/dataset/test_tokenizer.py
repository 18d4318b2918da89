import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from data_pipeline.dataset.tokenizer import eos_id_of, load_tokenizer, tokenizer_from_json, train_tokenizer
from data_pipeline.errors import TokenizerInvalid
from data_pipeline.sources.open import open_corpus
from tests.data_pipeline.dataset.built import DOCUMENTS


def test_training_a_tokenizer_gives_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("".join(DOCUMENTS))
    code = (
        "import sys; from pathlib import Path\n"
        "from data_pipeline.dataset.tokenizer import train_tokenizer; from data_pipeline.sources.open import open_corpus\n"
        "sys.stdout.write(train_tokenizer(open_corpus(Path(sys.argv[1])), 300).to_str())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True, text=True)
    assert elsewhere.stdout == train_tokenizer(open_corpus(tmp_path), 300).to_str()


def test_tokenizers_that_wont_do_are_one_clear_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"model": 1}')
    for name, expected in (("broken.json", "not a Hugging Face tokenizers file"), ("nothing.json", "can't be read")):
        with pytest.raises(TokenizerInvalid, match=rf"{name}: {expected}"):
            load_tokenizer(tmp_path / name)
    with pytest.raises(TokenizerInvalid, match=r"can't be read|not a file"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerInvalid, match=r"--eos-token <stop>: the tokenizer has no such token"):
        eos_id_of(tokenizer, "<stop>")
    with pytest.raises(TokenizerInvalid, match="name the token which ends documents with --eos-token"):
        eos_id_of(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(TokenizerInvalid, match="at least 257"):
        train_tokenizer(DOCUMENTS, vocab_size=256)
    with pytest.raises(TokenizerInvalid, match=r"^vocab_size=99999999999: .*, and 16777216 at most$"):
        train_tokenizer(DOCUMENTS, vocab_size=99999999999)


def test_a_byte_order_mark_before_a_tokenizer_is_none_of_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("\ufeff" + tokenizer.to_str())
    loaded, file = load_tokenizer(tmp_path / "tokenizer.json")
    assert (loaded.to_str(), file) == (tokenizer.to_str(), (tmp_path / "tokenizer.json").read_bytes())


def test_a_tokenizer_of_a_newer_library_says_so_with_the_library_s_reason(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "newer.json").write_text(tokenizer.to_str().replace('"ByteLevel"', '"ByteLevelV2"', 1))
    with pytest.raises(TokenizerInvalid, match=r"of a newer version than [\d.]+ \(.*PreTokenizer.*\); update tokenizers, or give another"):
        load_tokenizer(tmp_path / "newer.json")


def test_where_the_library_panics_there_is_that_line_alone(tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    broken = json.loads(tokenizer.to_str()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}
    with pytest.raises(TokenizerInvalid, match=r"^here: not a Hugging Face tokenizers file"):
        tokenizer_from_json(json.dumps(broken).encode(), where="here")
    assert capfd.readouterr().err == ""


@given(content=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_tokenizer_or_one_clear_line(content: bytes) -> None:
    with pytest.raises(TokenizerInvalid, match=r"^here: not a Hugging Face tokenizers file, [^\n]*$"):
        tokenizer_from_json(content, where="here")
