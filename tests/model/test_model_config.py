"""Counts, presets and refusals of the pure configs."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from model.config import PRESETS, ModelConfig, OptimizerConfig, ParallelConfig, flops_per_token, num_params, validate_layout, validate_world
from model.model import HybridLM


def test_the_7b_has_the_published_parameters_and_flops() -> None:
    config = PRESETS["olmo_hybrid_7b"]
    assert num_params(config) == 7_430_870_688
    assert num_params(config) - config.vocab_size * config.d_model == 7_045_519_008
    assert flops_per_token(config, 8192) == pytest.approx(44.2e9, rel=1e-3)
    assert flops_per_token(config, 65536) == pytest.approx(54.8e9, rel=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_formula_counts_what_is_built(preset: str) -> None:
    with torch.device("meta"):
        model = HybridLM(PRESETS[preset], tp=None)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params(PRESETS[preset])


def test_attention_is_every_fourth_layer_and_the_last() -> None:
    config = PRESETS["olmo_hybrid_7b"]
    assert [layer for layer in range(config.num_layers) if config.is_attention(layer)] == [3, 7, 11, 15, 19, 23, 27, 31]


def test_a_layout_that_splits_heads_is_refused_with_the_ones_that_work() -> None:
    with pytest.raises(ValueError, match=r"^parallel\.tp=4: 30 heads; use 1, 2, 3, 5, 6, 10, 15 or 30$"):
        validate_layout(PRESETS["olmo_hybrid_7b"], ParallelConfig(dp_shard=2, tp=4))
    with pytest.raises(ValueError, match=r"^parallel\.tp=2: 1 heads; use 1$"):
        validate_layout(replace(PRESETS["tiny"], num_heads=1), ParallelConfig(tp=2))
    validate_layout(PRESETS["olmo_hybrid_7b"], ParallelConfig(tp=5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 0}, r"^model\.num_heads=0: must be positive; use 1 or more$"),
        ({"norm_eps": -1.0}, r"^model\.norm_eps=-1\.0: must be positive; use a number above 0$"),
        ({"head_dim": 7}, r"^model\.head_dim=7: .*; use an even number$"),
        ({"gdn_backend": "triton"}, r"^model\.gdn_backend=triton: .*; use auto, torch or fla$"),
    ],
)
def test_an_impossible_model_is_one_line_with_key_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRESETS["tiny"], **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, r"^optimizer\.lr=0\.0: must be positive"),
        ({"beta2": 1.0}, r"^optimizer\.beta2=1\.0: .*use a number from 0 to below 1$"),
        ({"lr_floor": 1.5}, r"^optimizer\.lr_floor=1\.5: .*use a number from 0 to 1$"),
        ({"weight_decay": -0.1}, r"^optimizer\.weight_decay=-0\.1: negative; use 0 to turn it off$"),
    ],
)
def test_an_impossible_optimizer_is_one_line_with_key_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OptimizerConfig(), **change)


def test_a_layout_needs_as_many_ranks_as_its_product() -> None:
    assert ParallelConfig(dp_shard=3, tp=2).world_size == 6
    with pytest.raises(ValueError, match=r"^parallel\.dp_shard=0"):
        ParallelConfig(dp_shard=0)
    validate_world(ParallelConfig(dp_shard=3, tp=2), 6)
    with pytest.raises(ValueError, match=r"^parallel\.dp_shard=3: with parallel\.tp=2 that is 6 ranks, but there are 2; make .* equal 2$"):
        validate_world(ParallelConfig(dp_shard=3, tp=2), 2)


def test_configs_cost_no_torch() -> None:
    code = "import sys, model.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_tiny_preset_is_three_gdn_layers_and_one_attention_layer() -> None:
    tiny: ModelConfig = PRESETS["tiny"]
    assert (tiny.num_layers, tiny.num_attention_layers) == (4, 1)
