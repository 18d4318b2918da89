"""Olmo Hybrid: its config.json, the released keys, and the spellings of other programs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import ModelConfig
from model.parameters import parameter_shapes
from model.presets import PRESETS
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import config_from_hf, config_to_hf
from model.weights.hf.family import tensor_map_of
from model.weights.hf.files import open_hf
from model.weights.hf.olmo_hybrid import OlmoHybrid
from tests.model.weights.hf.released import RELEASED_7B
from tests.model.weights.hf.small_models import HYBRID, SERVING, refusal, rewrite, written
from tests.model.weights.memory_weights import random_weights


def test_the_released_hybrid_is_the_preset_without_rope() -> None:
    assert config_from_hf(RELEASED_7B) == replace(PRESETS["olmo_hybrid_7b"], rope_theta=0.0)


def test_a_pattern_without_a_period_is_written_out() -> None:
    layer_types = ["linear_attention"] * 2 + ["full_attention", "linear_attention", "full_attention"]
    config = config_from_hf({**RELEASED_7B, "num_hidden_layers": 5, "layer_types": layer_types})
    assert config.layer_kinds == ("gdn", "gdn", "attn", "gdn", "attn")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (replace(HYBRID, layer_pattern="gdn window"), "model.layer_pattern='gdn window'"),
        (replace(HYBRID, layer_pattern="gdn"), "model.layer_pattern='gdn'"),
        (replace(HYBRID, gdn_norm_eps=1e-6), "model.gdn_norm_eps=1e-06"),
    ],
)
def test_a_model_that_transformers_has_no_class_for_is_not_exported(config: ModelConfig, said: str) -> None:
    with pytest.raises(HFFormatError) as refused:
        config_to_hf(config, serving=SERVING, dtype="float32")
    assert str(refused.value).startswith(said)


def test_a_hybrid_is_written_in_the_released_spelling(tmp_path: Path) -> None:
    gdn = {f"linear_attn.{name}_proj.weight" for name in "qkvabgo"} | {f"linear_attn.{name}_conv1d.weight" for name in "qkv"}
    gdn |= {"linear_attn.A_log", "linear_attn.dt_bias", "linear_attn.o_norm.weight"}
    gdn |= {"attention_layer_norm.weight", "feedforward_layer_norm.weight"}
    attention = {f"self_attn.{name}_proj.weight" for name in "qkvo"} | {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
    attention |= {"post_attention_layernorm.weight", "post_feedforward_layernorm.weight"}
    ffn = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
    blocks = {f"model.layers.0.{name}" for name in gdn | ffn} | {f"model.layers.1.{name}" for name in attention | ffn}
    keys = set(load_file(written(tmp_path / "hf") / "model.safetensors"))
    assert keys == blocks | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert len(tensor_map_of(OlmoHybrid(), PRESETS["olmo_hybrid_7b"]).written) == 523


def test_another_exporters_spelling_is_understood(tmp_path: Path) -> None:
    def respell(tensors: dict[str, Tensor]) -> None:
        for ours, theirs in (("o_proj", "out_proj"), ("o_norm", "norm")):
            tensors[f"model.layers.0.linear_attn.{theirs}.weight"] = tensors.pop(f"model.layers.0.linear_attn.{ours}.weight")

    rewrite(written(tmp_path / "hf"), respell)
    source, weights = open_hf(tmp_path / "hf"), random_weights(HYBRID)
    for name, tensor in weights.held.items():
        assert torch.equal(source.read(name), tensor), name


def test_what_save_pretrained_writes_is_understood(tmp_path: Path) -> None:
    def respell(tensors: dict[str, Tensor]) -> None:
        """As transformers 5.23: the convolutions joined and cut into thirds, and an attention block's norm by a GDN block's key."""
        convs = [f"model.layers.0.linear_attn.{conv}_conv1d.weight" for conv in "qkv"]
        thirds = torch.cat([tensors[key] for key in convs]).chunk(3)
        tensors.update({key: third.clone() for key, third in zip(convs, thirds, strict=True)})
        tensors["model.layers.1.feedforward_layer_norm.weight"] = tensors.pop("model.layers.1.post_attention_layernorm.weight")

    rewrite(written(tmp_path / "hf"), respell)
    source, weights = open_hf(tmp_path / "hf"), random_weights(HYBRID)
    for name, tensor in weights.held.items():
        assert torch.equal(source.read(name), tensor), name
        assert source.tensors[name].shape == tensor.shape, name


def test_thirds_of_another_width_are_refused(tmp_path: Path) -> None:
    linear_attn = "model.layers.0.linear_attn"

    def widen(tensors: dict[str, Tensor]) -> None:
        thirds = torch.ones(22, 1, 5).chunk(3)
        tensors.update({f"{linear_attn}.{conv}_conv1d.weight": third.clone() for conv, third in zip("qkv", thirds, strict=True)})

    rewrite(written(tmp_path / "hf"), widen)
    line = f"{linear_attn}.q_conv1d.weight: shape [8, 1, 5], but config.json makes it [6, 1, 4]; one of them is wrong"
    assert refusal(tmp_path / "hf") == line


def test_the_config_of_a_hybrid_is_these_keys_in_this_order() -> None:
    written_config = config_to_hf(replace(HYBRID, rope_theta=0.0, head_dim=6), serving=SERVING, dtype="bfloat16")
    assert list(written_config.items()) == [
        ("architectures", ["OlmoHybridForCausalLM"]),
        ("model_type", "olmo_hybrid"),
        ("dtype", "bfloat16"),
        ("vocab_size", 40),
        ("hidden_size", 16),
        ("intermediate_size", 24),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 2),
        ("head_dim", 6),
        ("layer_types", ["linear_attention", "full_attention"]),
        ("rms_norm_eps", 1e-6),
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("attention_dropout", 0.0),
        ("tie_word_embeddings", False),
        ("initializer_range", 0.02),
        ("use_cache", True),
        ("bos_token_id", None),
        ("eos_token_id", [1, 2]),
        ("pad_token_id", None),
        ("max_position_embeddings", 512),
        ("rope_parameters", {"rope_theta": None, "rope_type": "default"}),
        ("linear_num_key_heads", 2),
        ("linear_num_value_heads", 2),
        ("linear_key_head_dim", 3),
        ("linear_value_head_dim", 5),
        ("linear_conv_kernel_dim", 4),
        ("linear_allow_neg_eigval", True),
    ]


@pytest.mark.parametrize(("key_heads", "value_heads"), [(0, 0), (0, 4), (1, 0), (1, 2), (4, 4), (4, 8)])
def test_heads_of_the_delta_rule_survive_a_trip_through_config_json(key_heads: int, value_heads: int) -> None:
    config = replace(HYBRID, gdn_num_key_heads=key_heads, gdn_num_value_heads=value_heads)
    hf = config_to_hf(config, serving=SERVING, dtype="bfloat16")
    again = config_from_hf(hf)
    assert (hf["linear_num_key_heads"], hf["linear_num_value_heads"]) == (config.key_heads, config.value_heads)
    assert (again.key_heads, again.value_heads) == (config.key_heads, config.value_heads)
    assert parameter_shapes(again) == parameter_shapes(config)
