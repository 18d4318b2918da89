"""Directories of safetensors: what is written, what is read again, and what is refused as incomplete, mixed up or unreadable."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import ModelConfig
from model.weights.hf.errors import HFFormatError
from model.weights.hf.files import open_hf, plan_shards, write_hf
from model.weights.source import WeightsMismatch
from tests.model.weights.hf.small_models import HYBRID, OLMO3, SERVING, refusal, rewrite, written
from tests.model.weights.memory_weights import MemoryWeights, random_weights

INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"


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


def test_tensors_go_into_shards_in_the_order_of_the_model(tmp_path: Path) -> None:
    index = json.loads((written(tmp_path / "hf", shard_bytes=3000) / INDEX).read_text())
    assert list(index["weight_map"])[:4] == [
        "model.embed_tokens.weight",
        "model.layers.0.linear_attn.q_proj.weight",
        "model.layers.0.linear_attn.k_proj.weight",
        "model.layers.0.linear_attn.v_proj.weight",
    ]
    assert list(index["weight_map"])[-2:] == [NORM, "lm_head.weight"]
    assert list(index["weight_map"].values()) == sorted(index["weight_map"].values())


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


def test_weights_of_another_model_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"layers\.0\.mixer\.q_norm\.weight: missing in these weights"):
        write_hf(tmp_path / "hf", random_weights(HYBRID), OLMO3, serving=SERVING)
    assert list(tmp_path.iterdir()) == []


def reindex(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((directory / INDEX).read_text())
    change(content)
    (directory / INDEX).write_text(json.dumps(content))


def test_a_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("weights?")
    assert refusal(tmp_path / "hf") == f"{tmp_path / 'hf'}: not a directory; name the one that holds config.json"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_can_not_be_read_is_not_called_missing(name: str, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    (hf / name).unlink()
    (hf / name).mkdir()
    assert refusal(hf) == f"{hf / name}: can't be read (Is a directory); give a file that you may read"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_in_place_of_a_file_is_told_and_not_waited_for(name: str, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    (hf / name).unlink(missing_ok=True)
    os.mkfifo(hf / name)
    assert refusal(hf) == f"{hf / name}: can't be read (a pipe, socket or device, not a file); give a file that you may read"


def wrapped(tensors: dict[str, Tensor], spell: Callable[[str], str]) -> None:
    for key in list(tensors):
        tensors[spell(key)] = tensors.pop(key)


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module.{key}",
        lambda key: f"module._orig_mod.{key}",
        lambda key: f"_fsdp_wrapped_module.{key}",
        lambda key: key.replace("layers.0.", "layers.0._orig_mod."),
        lambda key: key.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
    ],
    ids=range(6),
)
def test_what_wrappers_left_in_the_keys_is_none_of_them(spell: Callable[[str], str], tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    rewrite(hf, lambda tensors: wrapped(tensors, spell))
    source = open_hf(hf)
    for name, tensor in random_weights(HYBRID).held.items():
        assert torch.equal(source.read(name), tensor), name
    rewrite(hf, lambda tensors: tensors.update({NORM: torch.ones(16), f"module.{NORM}": torch.ones(16)}))
    assert "the same tensor is there as" in refusal(hf)


@pytest.mark.parametrize("depth", [60, 900, 100_000])
def test_json_that_is_nested_too_deep_is_refused(depth: int, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    config = json.loads((hf / "config.json").read_text())
    for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        (hf / "config.json").write_text(json.dumps(config | {"hidden_size": "HERE"}).replace('"HERE"', nested))
        assert refusal(hf) == f"{hf / 'config.json'}: damaged (it is nested too deep); download it again"
    (hf / INDEX).write_text('{"weight_map": ' + nested + "}")
    (hf / "config.json").write_text(json.dumps(config))
    assert refusal(hf) == f"{hf / INDEX}: damaged (it is nested too deep); download it again"


def test_a_byte_order_mark_before_json_is_none_of_it(tmp_path: Path) -> None:
    hf = written(tmp_path / "hf", shard_bytes=3000)
    for name in ("config.json", INDEX):
        (hf / name).write_bytes(b"\xef\xbb\xbf" + (hf / name).read_bytes())
    assert open_hf(hf).config == HYBRID


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index["weight_map"].pop(NORM), f"{NORM}: is in model-00009-of-00010.safetensors, but {INDEX} does not have it"),
        (
            lambda index: index["weight_map"].update({NORM: "model-00001-of-00010.safetensors"}),
            f"{NORM}: is in model-00009-of-00010.safetensors, but {INDEX} has it in model-00001-of-00010.safetensors; download both",
        ),
        (
            lambda index: index["weight_map"].update({"more": "model-00001-of-00010.safetensors"}),
            f"more: not in model-00001-of-00010.safetensors, where {INDEX} has it; download both again",
        ),
        (lambda index: index["weight_map"].update({NORM: 5}), "{path}: model.norm.weight is in 5, which names no file beside it"),
        (lambda index: index["weight_map"].update({NORM: "../x.safetensors"}), "{path}: model.norm.weight is in '../x.safetensors', which"),
        (lambda index: index["weight_map"].update({NORM: "/x.safetensors"}), "{path}: model.norm.weight is in '/x.safetensors', which"),
        (lambda index: index.update(weight_map=[]), "{path}: weight_map=[]: not what has each tensor's file; download it again"),
        (lambda index: index.pop("weight_map"), "{path}: weight_map=None: not what"),
    ],
)
def test_an_index_that_is_not_of_these_files_is_refused(change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf", shard_bytes=3000)
    reindex(hf, change)
    assert refusal(hf).startswith(said.format(path=hf / INDEX))


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_tensor_that_is_not_finite_is_named_when_it_is_read(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    weights = random_weights(HYBRID, dtype)
    weights.held["gates.0.A_log"][1] = value
    write_hf(tmp_path / "hf", weights, HYBRID, serving=SERVING)
    source = open_hf(tmp_path / "hf")
    assert source.read("head.weight").isfinite().all()
    with pytest.raises(HFFormatError, match=r"^model\.layers\.0\.linear_attn\.A_log: has values that are not finite, in .*; get a"):
        source.read("gates.0.A_log")


def test_a_value_that_is_infinite_in_the_fp32_that_trains_is_refused(tmp_path: Path) -> None:
    weights = random_weights(HYBRID, torch.float64)
    weights.held["head.weight"][0, 0] = -1e300
    write_hf(tmp_path / "hf", weights, HYBRID, serving=SERVING)
    with pytest.raises(HFFormatError, match=r"^lm_head\.weight: has values that are not finite, in "):
        open_hf(tmp_path / "hf").read("head.weight")
