"""A small model of each family, and directories with its weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.weights.hf.errors import HFFormatError
from model.weights.hf.files import open_hf, write_hf
from model.weights.hf.serving import Serving
from tests.model.weights.memory_weights import random_weights

HYBRID = ModelConfig(
    vocab_size=40, d_model=16, num_layers=2, layer_pattern="gdn attn", num_heads=2, head_dim=8, gdn_key_dim=3, gdn_value_dim=5, ffn_width=24
)
OLMO3 = replace(HYBRID, layer_pattern="window attn", gdn_key_dim=0, gdn_value_dim=0, window=7)
SERVING = Serving(eos_token_id=(1, 2), pad_token_id=None, max_position_embeddings=512)


@dataclass(frozen=True)
class Unheard:
    """A configuration with a kind of layer that no family has."""

    layer_pattern: str = "attn mamba2"
    layer_kinds: tuple[str, ...] = ("attn", "mamba2")


UNHEARD: Any = Unheard()


def written(directory: Path, config: ModelConfig = HYBRID, dtype: torch.dtype = torch.float32, *, shard_bytes: int = 1 << 20) -> Path:
    """A directory in the released spelling."""
    write_hf(directory, random_weights(config, dtype), config, serving=SERVING, shard_bytes=shard_bytes)
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of a directory of one file."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def refusal(directory: Path) -> str:
    """The one line that is said of a directory that can't be opened."""
    with pytest.raises(HFFormatError) as refused:
        open_hf(directory)
    assert "\n" not in str(refused.value)
    return str(refused.value)
