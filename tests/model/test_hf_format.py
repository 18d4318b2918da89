"""What is accepted as a Hugging Face directory, what is refused and how it is said, and what is written."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.presets import PRESETS
from model.weights.hf.files import load_pretrained, open_hf, plan_shards, write_hf
from model.weights.hf.olmo_config import HFFormatError, Serving, config_from_hf, config_to_hf, default_serving, serving_from_hf
from model.weights.hf.olmo_names import checkpoint_keys
from model.weights.source import WeightsMismatch
from tests.model.memory_weights import MemoryWeights, random_weights

HYBRID = ModelConfig(
    vocab_size=40, d_model=16, num_layers=2, layer_pattern="gdn attn", num_heads=2, head_dim=8, gdn_key_dim=3, gdn_value_dim=5, ffn_width=24
)
OLMO3 = replace(HYBRID, layer_pattern="window attn", gdn_key_dim=0, gdn_value_dim=0, window=7)
SERVING = Serving(eos_token_id=(1, 2), pad_token_id=None, max_position_embeddings=512)
NO_ROPE = {"rope_theta": None}

RELEASED_7B = {
    "model_type": "olmo_hybrid",
    "vocab_size": 100352,
    "hidden_size": 3840,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 30,
    "num_key_value_heads": 30,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
    "rope_parameters": NO_ROPE,
    "linear_num_key_heads": 30,
    "linear_num_value_heads": 30,
    "linear_key_head_dim": 96,
    "linear_value_head_dim": 192,
    "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
OLDER_OLMO3_7B = {
    "model_type": "olmo3",
    "vocab_size": 100352,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000,
    "rope_scaling": None,
}


def written(directory: Path, config: ModelConfig = HYBRID, dtype: torch.dtype = torch.float32) -> Path:
    """A directory in the released spelling."""
    write_hf(directory, random_weights(config, dtype), config, serving=SERVING)
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of a directory of one file."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_the_released_hybrid_is_the_preset_without_rope() -> None:
    assert config_from_hf(RELEASED_7B) == replace(PRESETS["olmo_hybrid_7b"], rope_theta=0.0)


def test_an_olmo3_in_the_older_spelling_is_the_preset() -> None:
    assert config_from_hf(OLDER_OLMO3_7B) == PRESETS["olmo3_7b"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_a_trip_through_config_json(name: str) -> None:
    config = PRESETS[name]
    serving = default_serving(config) if config.vocab_size == 100352 else SERVING
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config, serving=serving, dtype="bfloat16")))) == config


def test_a_pattern_without_a_period_is_written_out() -> None:
    layer_types = ["linear_attention"] * 2 + ["full_attention", "linear_attention", "full_attention"]
    config = config_from_hf({**RELEASED_7B, "num_hidden_layers": 5, "layer_types": layer_types})
    assert config.layer_kinds == ("gdn", "gdn", "attn", "gdn", "attn")


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (RELEASED_7B, {"model_type": "llama"}, "model_type='llama'"),
        (RELEASED_7B, {"num_key_value_heads": 10}, "num_key_value_heads=10"),
        (RELEASED_7B, {"linear_num_key_heads": 15}, "linear_num_key_heads=15"),
        (RELEASED_7B, {"linear_num_value_heads": 60}, "linear_num_value_heads=60"),
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


@pytest.mark.parametrize("value", ['"8"', "true", "{}", "NaN", "Infinity", "-8", "8.5"])
@pytest.mark.parametrize("key", ["eos_token_id", "pad_token_id", "max_position_embeddings"])
def test_what_is_no_token_or_length_is_too(key: str, value: str) -> None:
    for given in [value, f"[{value}]"]:
        with pytest.raises(
            HFFormatError, match=rf"^config\.json {key}.*(; give whole numbers of 0 or more|: give a positive whole number)$"
        ):
            serving_from_hf({**RELEASED_7B, key: json.loads(given)})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (replace(HYBRID, layer_pattern="gdn window"), "model.layer_pattern='gdn window'"),
        (replace(HYBRID, layer_pattern="gdn"), "model.layer_pattern='gdn'"),
        (replace(HYBRID, gdn_norm_eps=1e-6), "model.gdn_norm_eps=1e-06"),
        (replace(OLMO3, rope_theta=0.0), "model.rope_theta=0"),
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
    assert len(checkpoint_keys(PRESETS["olmo_hybrid_7b"])) == 523


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [HYBRID, OLMO3], ids=["hybrid", "olmo3"])
def test_a_round_trip_changes_no_bit_and_no_setting(tmp_path: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    first, weights = written(tmp_path / "first", config, dtype), random_weights(config, dtype)
    source = open_hf(first)
    write_hf(tmp_path / "second", source, source.config, serving=source.serving, shard_bytes=1000)
    back = open_hf(tmp_path / "second")
    assert (back.config, back.serving) == (config, SERVING)
    assert back.tensors == weights.tensors
    for name, tensor in weights.held.items():
        assert torch.equal(back.read(name), tensor), name
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == json.loads((first / "config.json").read_text())


def test_an_export_in_bf16_keeps_the_gates_in_fp32(tmp_path: Path) -> None:
    weights = random_weights(HYBRID)
    write_hf(tmp_path / "hf", weights, HYBRID, dtype=torch.bfloat16, serving=SERVING)
    source = open_hf(tmp_path / "hf")
    for name, info in source.tensors.items():
        assert info.dtype == (torch.float32 if name.startswith("gates.") else torch.bfloat16), name
    assert torch.equal(source.read("head.weight"), weights.held["head.weight"].bfloat16())
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_are_indexed_and_other_files_lie_beside_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    write_hf(tmp_path / "hf", random_weights(OLMO3), OLMO3, serving=SERVING, other_files=[tmp_path / "tokenizer.json"], shard_bytes=4000)
    assert len({path.stat().st_mode for path in (tmp_path / "hf").iterdir()}) == 1  # who may read one may read all
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "hf").iterdir()}
    assert files == {*index["weight_map"].values(), "model.safetensors.index.json", "config.json", "tokenizer.json"}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in random_weights(OLMO3).held.values())
    for file in set(index["weight_map"].values()):
        assert set(load_file(tmp_path / "hf" / file)) == {key for key, place in index["weight_map"].items() if place == file}


def test_shards_are_filled_in_order_and_a_large_tensor_has_its_own() -> None:
    assert plan_shards({"a": 3, "b": 4, "c": 9, "d": 5, "e": 3, "f": 1}, 8) == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_nothing_is_written_over_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    class Failing(MemoryWeights):
        def read(self, name: str) -> Tensor:
            raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        write_hf(tmp_path / "hf", Failing(random_weights(HYBRID).held), HYBRID, serving=SERVING)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "hf").mkdir()
    written(tmp_path / "hf")
    with pytest.raises(FileExistsError, match="is not empty; name a directory"):
        written(tmp_path / "hf")


def test_another_vocabulary_needs_its_own_special_tokens(tmp_path: Path) -> None:
    with pytest.raises(HFFormatError, match=r"model\.vocab_size=40: not dolma2's 100352"):
        write_hf(tmp_path / "hf", random_weights(HYBRID), HYBRID)
    assert default_serving(PRESETS["olmo_hybrid_7b"]) == Serving(eos_token_id=100257, pad_token_id=100277, max_position_embeddings=65536)


def test_another_exporters_spelling_is_understood(tmp_path: Path) -> None:
    def respell(tensors: dict[str, Tensor]) -> None:
        for ours, theirs in (("o_proj", "out_proj"), ("o_norm", "norm")):
            tensors[f"model.layers.0.linear_attn.{theirs}.weight"] = tensors.pop(f"model.layers.0.linear_attn.{ours}.weight")

    rewrite(written(tmp_path / "hf"), respell)
    source, weights = open_hf(tmp_path / "hf"), random_weights(HYBRID)
    for name, tensor in weights.held.items():
        assert torch.equal(source.read(name), tensor), name


GDN_NORM, CONV = "model.layers.0.linear_attn.o_norm.weight", "model.layers.0.linear_attn.q_conv1d.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(GDN_NORM), f"{GDN_NORM}: missing"),
        (lambda tensors: tensors.update({"lm_head.bias": torch.ones(40)}), "lm_head.bias: not a tensor of the model"),
        (
            lambda tensors: tensors.update({"model.layers.2.self_attn.q_proj.weight": torch.ones(1)}),
            "model.layers.2.self_attn.q_proj.weight: not",
        ),
        (
            lambda tensors: tensors.update({"model.layers.1.linear_attn.norm.weight": torch.ones(5)}),
            "model.layers.1.linear_attn.norm.weight: not",
        ),
        (
            lambda tensors: tensors.update({"model.layers.0.linear_attn.norm.weight": torch.ones(5)}),
            f"{GDN_NORM}: the same tensor is there as",
        ),
        (lambda tensors: tensors.update({CONV: torch.ones(5, 1, 4)}), f"{CONV}: shape [5, 1, 4], but config.json makes it [6, 1, 4]"),
        (
            lambda tensors: tensors.update({"lm_head.weight": torch.ones(40, 17)}),
            "lm_head.weight: shape [40, 17], but config.json makes it",
        ),
        (lambda tensors: tensors.update({"lm_head.weight": torch.ones(40, 16).int()}), "lm_head.weight: stored as I32"),
    ],
)
def test_a_tensor_that_does_not_belong_or_is_not_there_is_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    rewrite(written(tmp_path / "hf"), change)
    with pytest.raises(HFFormatError) as refused:
        open_hf(tmp_path / "hf")
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_files_that_are_not_there_or_damaged_are_named(tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(HFFormatError) as refused:
            open_hf(tmp_path / "hf")
        return str(refused.value)

    assert "config.json: not there" in refusal()
    written(tmp_path / "hf")
    weights = (tmp_path / "hf" / "model.safetensors").read_bytes()
    (tmp_path / "hf" / "model.safetensors").write_bytes(weights[:-1])
    assert "model.safetensors: damaged" in refusal()
    (tmp_path / "hf" / "model.safetensors").unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refusal()
    (tmp_path / "hf" / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "gone.safetensors"}}')
    assert "gone.safetensors: named by model.safetensors.index.json, but not there" in refusal()
    (tmp_path / "hf" / "config.json").write_text("{")
    assert "config.json: damaged" in refusal()
    (tmp_path / "hf" / "config.json").write_text("[]")
    assert "config.json: not a JSON object" in refusal()


def test_weights_of_another_model_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"layers\.0\.mixer\.q_norm\.weight: missing in these weights"):
        write_hf(tmp_path / "hf", random_weights(HYBRID), OLMO3, serving=SERVING)
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_module_has_logits_of_its_dtype(tmp_path: Path) -> None:
    module = load_pretrained(str(written(tmp_path / "hf")), device="cpu", dtype=torch.bfloat16)
    logits_BTX = module(torch.tensor([[1, 2, 3]]))
    assert logits_BTX.shape == (1, 3, 40)
    assert logits_BTX.dtype == torch.bfloat16
