"""Directories that arrived incomplete, mixed up or unreadable: each is one line that names the cause."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import ModelConfig
from model.weights.hf.files import load_pretrained, open_hf, write_hf
from model.weights.hf.olmo_config import HFFormatError, Serving
from tests.model.memory_weights import random_weights

MODEL = ModelConfig(
    vocab_size=40, d_model=16, num_layers=2, layer_pattern="gdn attn", num_heads=2, head_dim=8, gdn_key_dim=3, gdn_value_dim=5, ffn_width=24
)
SERVING = Serving(eos_token_id=1, pad_token_id=None, max_position_embeddings=512)
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"


def written(directory: Path, *, shard_bytes: int = 1 << 20) -> Path:
    write_hf(directory, random_weights(MODEL), MODEL, serving=SERVING, shard_bytes=shard_bytes)
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(HFFormatError) as refused:
        open_hf(directory)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def reindex(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((directory / INDEX).read_text())
    change(content)
    (directory / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize("architectures", [["OlmoHybridForSequenceClassification"], ["Olmo3ForCausalLM"], "OlmoHybridForCausalLM", [3]])
def test_another_network_of_the_same_family_is_refused(architectures: object, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    content = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(content | {"architectures": architectures}))
    line = f"config.json architectures={architectures!r}: olmo_hybrid here is OlmoHybridForCausalLM; get a checkpoint of that"
    assert refusal(hf) == line
    del content["architectures"]
    (hf / "config.json").write_text(json.dumps(content))
    assert open_hf(hf).config == MODEL


def test_a_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("weights?")
    assert refusal(tmp_path / "hf") == f"{tmp_path / 'hf'}: not a directory; name the one that holds config.json"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_can_not_be_read_is_not_called_missing(name: str, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    (hf / name).unlink()
    (hf / name).mkdir()
    assert refusal(hf) == f"{hf / name}: can't be read (Is a directory); give a file that you may read"


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_tensor_that_is_not_finite_is_named_when_it_is_read(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    weights = random_weights(MODEL, dtype)
    weights.held["gates.0.A_log"][1] = value
    write_hf(tmp_path / "hf", weights, MODEL, serving=SERVING)
    source = open_hf(tmp_path / "hf")
    assert source.read("head.weight").isfinite().all()
    with pytest.raises(HFFormatError, match=r"^model\.layers\.0\.linear_attn\.A_log: has values that are not finite, in .*; get a"):
        source.read("gates.0.A_log")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8, None])
def test_what_is_no_dtype_of_numbers_is_one_line(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no torch\.dtype of floating-point numbers; use torch\.bfloat16 or torch\.float32$"):
        load_pretrained(written(tmp_path / "hf"), dtype=dtype)


def test_a_loaded_module_can_be_trained(tmp_path: Path) -> None:
    module = load_pretrained(written(tmp_path / "hf"))
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
