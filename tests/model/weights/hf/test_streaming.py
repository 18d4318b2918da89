"""Importing and exporting need memory for a shard, not for the model: held to it by the kernel, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.config import ModelConfig
from model.parameters import num_params, parameter_shapes
from model.weights.hf.families import config_to_hf
from model.weights.hf.family import tensor_map_of
from model.weights.hf.files import plan_shards
from model.weights.hf.olmo_hybrid import OlmoHybrid
from model.weights.hf.serving import Serving

pytestmark = pytest.mark.xdist_group("hf_streaming")
CONFIG = ModelConfig(
    vocab_size=16384, d_model=1024, num_layers=8, num_heads=8, head_dim=128, gdn_key_dim=96, gdn_value_dim=192, ffn_width=8192
)
SERVING = Serving(eos_token_id=1, pad_token_id=0, max_position_embeddings=2048)
MODEL_BYTES = 2 * num_params(CONFIG)
SHARD_BYTES = 64 << 20
LIMIT_BYTES = 2 * SHARD_BYTES

PROCESS = """
import json, resource, sys
from pathlib import Path
import torch
from model.weights.hf.files import open_hf, write_hf
from model.weights.hf.pretrained import load_pretrained

directory, shard_bytes, limit_bytes, model_bytes = Path(sys.argv[1]), *map(int, sys.argv[2:])

def copy():
    write_hf(directory.parent / "copy", source, source.config, serving=source.serving, shard_bytes=shard_bytes)

def load():
    load_pretrained(directory, dtype=torch.bfloat16)

def hold():
    return [source.read(name) for name in source.tensors]

def outcome(work, more_bytes):
    resource.setrlimit(resource.RLIMIT_DATA, (used_bytes + more_bytes, resource.RLIM_INFINITY))
    try:
        work()
    except (MemoryError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"

source = open_hf(directory)
[used_bytes] = [int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
outcomes = {"hold": outcome(hold, limit_bytes), "copy": outcome(copy, limit_bytes), "load": outcome(load, model_bytes + limit_bytes)}
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeros in bf16 that take no disk: files of a header and a hole."""
    directory = tmp_path_factory.mktemp("streaming") / "model"
    directory.mkdir()
    shapes = parameter_shapes(CONFIG)
    pairings = tensor_map_of(OlmoHybrid(), CONFIG).written
    keys = {name: key for pairing in pairings for name, key in zip(pairing.parameters, pairing.tensors, strict=True)}
    sizes_bytes = {name: 2 * torch.Size(shape).numel() for name, shape in shapes.items()}
    weight_map = {}
    for number, names in enumerate(plan_shards(sizes_bytes, SHARD_BYTES)):
        header, end = {}, 0
        for name in names:
            header[keys[name]] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end := end + sizes_bytes[name]]}
        weight_map |= dict.fromkeys(header, f"{number}.safetensors")
        text = json.dumps(header).encode()
        (directory / f"{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(directory / f"{number}.safetensors", 8 + len(text) + end)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(config_to_hf(CONFIG, serving=SERVING, dtype="bfloat16")))
    return directory


@pytest.fixture(scope="module")
def outcomes(checkpoint: Path) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-c", PROCESS, str(checkpoint), *map(str, (SHARD_BYTES, LIMIT_BYTES, MODEL_BYTES))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    shutil.rmtree(checkpoint.parent / "copy", ignore_errors=True)


def test_a_copy_needs_memory_for_a_shard(outcomes: dict[str, str], checkpoint: Path) -> None:
    assert MODEL_BYTES > 4 * LIMIT_BYTES
    assert outcomes["copy"] == "done"
    written = sum(path.stat().st_size for path in (checkpoint.parent / "copy").glob("*.safetensors"))
    assert MODEL_BYTES < written < 1.01 * MODEL_BYTES


def test_loading_needs_memory_for_the_model_and_a_tensor(outcomes: dict[str, str]) -> None:
    assert outcomes["load"] == "done"


def test_the_limit_would_have_stopped_what_holds_the_model(outcomes: dict[str, str]) -> None:
    assert "memory" in outcomes["hold"].lower()
