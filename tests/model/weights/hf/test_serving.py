"""What config.json says for those who generate text."""

import json
from pathlib import Path

import pytest

from model.presets import PRESETS
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import default_serving, serving_from_hf
from model.weights.hf.files import write_hf
from model.weights.hf.serving import Serving
from tests.model.weights.hf.released import OLDER_OLMO3_7B, RELEASED_7B
from tests.model.weights.hf.small_models import HYBRID
from tests.model.weights.memory_weights import random_weights


@pytest.mark.parametrize("value", ['"8"', "true", "{}", "NaN", "Infinity", "-8", "8.5"])
@pytest.mark.parametrize("key", ["eos_token_id", "pad_token_id", "max_position_embeddings"])
def test_what_is_no_token_or_length_is_too(key: str, value: str) -> None:
    for given in [value, f"[{value}]"]:
        with pytest.raises(
            HFFormatError, match=rf"^config\.json {key}.*(; give whole numbers of 0 or more|: give a positive whole number)$"
        ):
            serving_from_hf({**RELEASED_7B, key: json.loads(given)})


def test_another_vocabulary_needs_its_own_special_tokens(tmp_path: Path) -> None:
    with pytest.raises(HFFormatError, match=r"model\.vocab_size=40: not dolma2's 100352"):
        write_hf(tmp_path / "hf", random_weights(HYBRID), HYBRID)
    assert default_serving(PRESETS["olmo_hybrid_7b"]) == Serving(eos_token_id=100257, pad_token_id=100277, max_position_embeddings=65536)


def test_a_context_that_is_not_named_is_the_one_that_transformers_takes() -> None:
    assert serving_from_hf(RELEASED_7B) == Serving(eos_token_id=None, pad_token_id=None, max_position_embeddings=65536)
    assert serving_from_hf(OLDER_OLMO3_7B).max_position_embeddings == 2048
    assert default_serving(PRESETS["olmo3_7b"]).max_position_embeddings == 8192


def test_serving_may_be_all_that_a_config_says() -> None:
    assert serving_from_hf({"eos_token_id": [3, 5], "pad_token_id": 0, "max_position_embeddings": 128}) == Serving(
        eos_token_id=(3, 5), pad_token_id=0, max_position_embeddings=128
    )
    assert serving_from_hf({}).max_position_embeddings == 2048
