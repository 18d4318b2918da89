"""Olmo 3: its config.json and keys."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from model.presets import PRESETS
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import config_from_hf, config_to_hf
from tests.model.weights.hf.released import OLDER_OLMO3_7B
from tests.model.weights.hf.small_models import OLMO3, SERVING, written


def test_an_olmo3_in_the_older_spelling_is_the_preset() -> None:
    assert config_from_hf(OLDER_OLMO3_7B) == PRESETS["olmo3_7b"]


def test_a_model_without_rotary_positions_is_not_exported() -> None:
    with pytest.raises(HFFormatError) as refused:
        config_to_hf(replace(OLMO3, rope_theta=0.0), serving=SERVING, dtype="float32")
    assert str(refused.value).startswith("model.rope_theta=0")


def test_a_window_that_no_layer_has_may_be_null() -> None:
    full = {**OLDER_OLMO3_7B, "layer_types": ["full_attention"] * 32, "sliding_window": None}
    assert config_from_hf(full) == replace(PRESETS["olmo3_7b"], layer_pattern="attn")


def test_the_config_of_an_olmo3_ends_with_positions_by_layer_type_and_the_window() -> None:
    config = config_to_hf(OLMO3, serving=SERVING, dtype="float32")
    rope = {"rope_theta": 5e5, "rope_type": "default"}
    assert list(config.items())[:3] == [("architectures", ["Olmo3ForCausalLM"]), ("model_type", "olmo3"), ("dtype", "float32")]
    assert list(config.items())[-2:] == [("rope_parameters", {"sliding_attention": rope, "full_attention": rope}), ("sliding_window", 7)]
    assert "head_dim" not in config, "it is hidden_size / num_attention_heads"


def test_blocks_have_these_keys(tmp_path: Path) -> None:
    attention = {f"self_attn.{name}_proj.weight" for name in "qkvo"} | {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
    ffn = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
    norms = {"post_attention_layernorm.weight", "post_feedforward_layernorm.weight"}
    blocks = {f"model.layers.{layer}.{name}" for layer in (0, 1) for name in attention | ffn | norms}
    keys = set(load_file(written(tmp_path / "hf", OLMO3) / "model.safetensors"))
    assert keys == blocks | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
