"""What both families of Olmo read from config.json, and how they refuse another architecture."""

import json
import re
from typing import Any

import pytest

from model.presets import PRESETS
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import config_from_hf, config_to_hf, default_serving
from tests.model.weights.hf.released import OLDER_OLMO3_7B, RELEASED_7B
from tests.model.weights.hf.small_models import SERVING


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_a_trip_through_config_json(name: str) -> None:
    config = PRESETS[name]
    serving = default_serving(config) if config.vocab_size == 100352 else SERVING
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config, serving=serving, dtype="bfloat16")))) == config


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (RELEASED_7B, {"model_type": "llama"}, "model_type='llama'"),
        (RELEASED_7B, {"num_key_value_heads": 10}, "num_key_value_heads=10"),
        (RELEASED_7B, {"linear_num_key_heads": 0}, "linear_num_key_heads=0"),
        (RELEASED_7B, {"linear_num_key_heads": 60}, "gdn_num_value_heads=30: not a multiple of 60 key heads"),
        (RELEASED_7B, {"linear_num_value_heads": 45}, "gdn_num_value_heads=45: not a multiple of 30 key heads; use 30, 60 or 120"),
        (RELEASED_7B, {"attention_bias": True}, "attention_bias=True"),
        (RELEASED_7B, {"attention_dropout": 0.1}, "attention_dropout=0.1"),
        (RELEASED_7B, {"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        (RELEASED_7B, {"linear_allow_neg_eigval": False}, "linear_allow_neg_eigval=False"),
        (RELEASED_7B, {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        (RELEASED_7B, {"quantization_config": {"bits": 4}}, "quantization_config="),
        (RELEASED_7B, {"layer_types": ["sliding_attention"] * 32}, "layer_types: 'sliding_attention' in olmo_hybrid"),
        (RELEASED_7B, {"num_hidden_layers": 31}, "layer_types: 32 of them for num_hidden_layers=31"),
        (RELEASED_7B, {"rope_parameters": None}, 'write {"rope_theta": null}'),
        (RELEASED_7B, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn"}}, "rope_type='yarn'"),
        (RELEASED_7B, {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (RELEASED_7B, {"head_dim": 127, "rope_parameters": {"rope_theta": 5e5}}, "model.head_dim=127"),
        (RELEASED_7B, {"hidden_size": "wide"}, "hidden_size='wide'"),
        (RELEASED_7B, {"rms_norm_eps": None}, "rms_norm_eps=None: give a number above 0"),
        (RELEASED_7B, {"model_type": ["olmo3"]}, "model_type=['olmo3']: not known here; use olmo_hybrid or olmo3"),
        (RELEASED_7B, {"layer_types": 5}, "layer_types=5: give a list of linear_attention and full_attention"),
        (RELEASED_7B, {"layer_types": [["linear_attention"]] * 32}, "layer_types: ['linear_attention'] in olmo_hybrid"),
        (RELEASED_7B, {"layer_types": [5, *["full_attention"] * 31]}, "layer_types: 5 in olmo_hybrid"),
        (RELEASED_7B, {"rope_parameters": [1]}, "rope_parameters=[1]: give an object"),
        (OLDER_OLMO3_7B, {"rope_parameters": {"full_attention": "x"}}, "full_attention='x': give an object"),
        (OLDER_OLMO3_7B, {"rope_scaling": 8.0}, "rope_scaling=8.0: give an object"),
        (OLDER_OLMO3_7B, {"rope_theta": 0}, "rope_theta=0: give a number above 0"),
        (OLDER_OLMO3_7B, {"rope_theta": 10**400}, ": give a number above 0"),
        (OLDER_OLMO3_7B, {"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "rope_type='yarn'"),
        (OLDER_OLMO3_7B, {"rope_theta": None}, "rope_theta ['None']"),
        (OLDER_OLMO3_7B, {"sliding_window": None}, "sliding_window=null"),
        (OLDER_OLMO3_7B, {"layer_types": ["linear_attention"] * 32}, "layer_types: 'linear_attention' in olmo3"),
        (
            OLDER_OLMO3_7B,
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
            "rope_theta ['10000.0', '1000000.0']",
        ),
    ],
)
def test_another_architecture_is_refused_by_the_key_that_makes_it_one(base: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(HFFormatError) as refused:
        config_from_hf({**base, **change})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


NUMBERS = {
    "olmo_hybrid": [*(key for key, value in RELEASED_7B.items() if type(value) in (int, float)), "head_dim", "attention_dropout"],
    "olmo3": ["head_dim", "rope_theta", "sliding_window", "rms_norm_eps", "num_key_value_heads", "partial_rotary_factor"],
}


@pytest.mark.parametrize("value", ['"8"', "[8]", "true", "{}", "NaN", "Infinity", "-Infinity", "-8"])
@pytest.mark.parametrize(("model_type", "key"), [(model_type, key) for model_type, keys in NUMBERS.items() for key in keys])
def test_what_is_no_number_is_one_line_with_the_key_and_what_is_wanted(model_type: str, key: str, value: str) -> None:
    hf = RELEASED_7B if model_type == "olmo_hybrid" else OLDER_OLMO3_7B
    with pytest.raises(HFFormatError) as refused:
        config_from_hf({**hf, key: json.loads(value)})
    assert re.fullmatch(rf"config\.json {key}=.*(: give a|: this model has 0\.0;|, which is 1;).*", str(refused.value))
