"""What all families share: names to keys, and a made-up family with fused, transposed and shifted tensors that needs nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.config import ModelConfig
from model.weights.hf import families
from model.weights.hf.errors import HFFormatError
from model.weights.hf.family import Pairing, TensorMap, find_parameters, layer_keys, shortest_pattern, tensor_map_of
from model.weights.hf.files import open_hf, write_hf
from model.weights.hf.olmo3 import Olmo3
from tests.model.weights.hf.small_models import OLMO3, SERVING, UNHEARD, written
from tests.model.weights.memory_weights import random_weights


class FusedOlmo3(Olmo3):
    """q, k and v in one tensor, head by head; gate and up in one; o transposed; the last norm as what it has above 1."""

    model_type = "fused_olmo3"
    architecture = "FusedOlmo3ForCausalLM"

    def tensor_map(self, config: ModelConfig) -> TensorMap:
        plain = super().tensor_map(config)
        fused = [pairing for layer in range(config.num_layers) for pairing in fused_pairings(config, f"layers.{layer}.")]
        fused.append(
            Pairing(
                parameters={"norm.weight": (config.d_model,)},
                tensors={"model.norm.weight": (config.d_model,)},
                to_ours=lambda stored_D: stored_D + 1,
                to_theirs=lambda weight_D: weight_D - 1,
            )
        )
        held = {name for pairing in fused for name in pairing.parameters}
        return TensorMap(written=(*fused, *(pairing for pairing in plain.written if held.isdisjoint(pairing.parameters))))


def fused_pairings(config: ModelConfig, block: str) -> list[Pairing]:
    heads, width = config.num_heads, config.num_heads * config.head_dim
    return [
        Pairing(
            parameters={f"{block}mixer.{name}_proj.weight": (width, config.d_model) for name in "qkv"},
            tensors={f"model.{block}self_attn.qkv.weight": (3 * width, config.d_model)},
            to_ours=lambda fused: fused.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2),
            to_theirs=lambda qkv: qkv.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2),
        ),
        Pairing(
            parameters={f"{block}mixer.o_proj.weight": (config.d_model, width)},
            tensors={f"model.{block}self_attn.o_proj.weight": (width, config.d_model)},
            to_ours=lambda stored: stored.T,
            to_theirs=lambda weight: weight.T,
        ),
        Pairing(
            parameters={f"{block}ffn.{name}_proj.weight": (config.ffn_width, config.d_model) for name in ("gate", "up")},
            tensors={f"model.{block}mlp.gate_up_proj.weight": (2 * config.ffn_width, config.d_model)},
        ),
    ]


MODEL = replace(OLMO3, head_dim=6)


@pytest.fixture
def fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the made-up family."""
    monkeypatch.setattr(families, "FAMILIES", (FusedOlmo3(), *families.FAMILIES))
    return written(tmp_path / "hf", MODEL)


def test_a_family_with_tensors_of_its_own_is_a_class_and_a_line_in_the_list(fused: Path) -> None:
    tensors, weights = load_file(fused / "model.safetensors"), random_weights(MODEL).held
    qkv = tensors["model.layers.1.self_attn.qkv.weight"]
    assert torch.equal(qkv[:6], weights["layers.1.mixer.q_proj.weight"][:6])
    assert torch.equal(qkv[6:12], weights["layers.1.mixer.k_proj.weight"][:6])
    assert torch.equal(tensors["model.layers.0.self_attn.o_proj.weight"], weights["layers.0.mixer.o_proj.weight"].T)
    assert torch.equal(tensors["model.layers.0.mlp.gate_up_proj.weight"][MODEL.ffn_width :], weights["layers.0.ffn.up_proj.weight"])
    source = open_hf(fused)
    assert (source.config, source.serving) == (MODEL, SERVING)
    for name, tensor in weights.items():
        assert torch.allclose(source.read(name), tensor, atol=1e-6), name
        assert (name == "norm.weight") or torch.equal(source.read(name), tensor), name
        assert source.read(name).is_contiguous(), name


def test_fused_tensors_are_written_in_shards_too(fused: Path, tmp_path: Path) -> None:
    source = open_hf(fused)
    write_hf(tmp_path / "again", source, source.config, serving=source.serving, shard_bytes=3000)
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 3
    assert set(open_hf(tmp_path / "again").files) == set(source.files)


def test_a_fused_tensor_of_another_shape_is_named() -> None:
    tensor_map = FusedOlmo3().tensor_map(MODEL)
    found = {key: shape for pairing in tensor_map.written for key, shape in pairing.tensors.items()}
    with pytest.raises(HFFormatError) as refused:
        find_parameters(tensor_map, found | {"model.layers.0.self_attn.qkv.weight": (35, 16)})
    line = "model.layers.0.self_attn.qkv.weight: shape [35, 16], but config.json makes it [36, 16]; one of them is wrong"
    assert str(refused.value) == line


def test_another_cut_with_keys_of_its_own_counts_where_all_of_it_is_found() -> None:
    stacked = Pairing(parameters={"experts": (2, 3)}, tensors={"stacked": (2, 3)})
    single = Pairing(parameters={"experts": (2, 3)}, tensors={"first": (1, 3), "second": (1, 3)})
    tensor_map = TensorMap(written=(stacked,), other_keys={"piled": "stacked"}, other_cuts=(single,))
    assert find_parameters(tensor_map, {"stacked": (2, 3)}) == {"experts": stacked}
    assert find_parameters(tensor_map, {"piled": (2, 3)}) == {"experts": replace(stacked, tensors={"piled": (2, 3)})}
    assert find_parameters(tensor_map, {"first": (1, 3), "second": (1, 3)}) == {"experts": single}
    with pytest.raises(HFFormatError, match=r"^first: not a tensor of the model"):
        find_parameters(tensor_map, {"first": (1, 3)})


def test_a_kind_of_layer_that_a_family_lacks_is_not_taken_for_attention() -> None:
    with pytest.raises(HFFormatError, match=r"^model\.layer_pattern='attn mamba2': olmo3 has no mamba2 layers; name another family$"):
        layer_keys(UNHEARD, {"attn": {}}, model_type="olmo3")


def test_a_parameter_that_a_family_forgets_or_stores_twice_is_named() -> None:
    class Forgetful(Olmo3):
        def tensor_map(self, config: ModelConfig) -> TensorMap:
            return TensorMap(written=super().tensor_map(config).written[1:])

    class Doubling(Olmo3):
        def tensor_map(self, config: ModelConfig) -> TensorMap:
            return TensorMap(written=super().tensor_map(config).written * 2)

    with pytest.raises(HFFormatError, match=r"^embed\.weight: olmo3 stores it 0 times; its tensor_map must have every parameter once$"):
        tensor_map_of(Forgetful(), OLMO3)
    with pytest.raises(HFFormatError, match=r"^embed\.weight: olmo3 stores it 2 times"):
        tensor_map_of(Doubling(), OLMO3)


def test_a_pattern_is_as_short_as_can_be() -> None:
    assert shortest_pattern(("gdn", "gdn", "attn") * 3) == "gdn gdn attn"
    assert shortest_pattern(("gdn", "attn", "gdn", "attn", "gdn")) == "gdn attn"
    assert shortest_pattern(("attn", "gdn", "gdn")) == "attn gdn gdn"
