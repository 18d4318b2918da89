"""Counts, presets and refusals of the pure configs."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from model.build import build_model
from model.compute import ComputeConfig
from model.config import ModelConfig, validate_layout
from model.costs.flops import flops_per_token
from model.costs.parts import params_by_part
from model.lm import HybridLM
from model.optim.config import OptimizerConfig, ParamGroup
from model.parallel.config import ParallelConfig, validate_world
from model.parameters import num_params, parameter_shapes
from model.presets import PRESETS

LADDER = {  # the published sizes in millions, without the input embedding: Olmo 3, hybrid
    "60m": (57, 73),
    "100m": (102, 130),
    "190m": (190, 254),
    "370m": (371, 523),
    "600m": (548, 722),
    "760m": (758, 948),
    "1b": (1280, 1480),
}


def test_the_7bs_have_the_published_parameters_and_flops() -> None:
    hybrid = PRESETS["olmo_hybrid_7b"]
    assert num_params(hybrid) == 7_430_870_688
    assert num_params(hybrid) - hybrid.vocab_size * hybrid.d_model == 7_045_519_008
    assert flops_per_token(hybrid, 8192) == pytest.approx(44.2e9, rel=1e-3)
    assert flops_per_token(hybrid, 65536) == pytest.approx(54.8e9, rel=1e-3)
    assert num_params(PRESETS["olmo3_7b"]) == 7_298_617_344


@pytest.mark.parametrize("size", LADDER)
def test_the_ladder_has_the_published_sizes(size: str) -> None:
    for family, millions in zip(("olmo3", "olmo_hybrid"), LADDER[size], strict=True):
        config = PRESETS[f"{family}_{size}"]
        without_embedding = num_params(config) - config.vocab_size * config.d_model
        assert without_embedding == pytest.approx(millions * 1e6, rel=1e-2), family


@pytest.mark.parametrize("preset", PRESETS)
def test_the_formulas_know_every_parameter_that_is_built(preset: str) -> None:
    with torch.device("meta"):
        model = HybridLM(PRESETS[preset], dtype=torch.float32)
    built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert parameter_shapes(PRESETS[preset]) == built
    assert num_params(PRESETS[preset]) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(params_by_part(PRESETS[preset]).values()) == num_params(PRESETS[preset])


def test_windows_and_full_rows_cost_what_they_attend_to() -> None:
    """Score by score: a window layer's FLOPs are those of its visible pairs of tokens."""
    full = replace(PRESETS["tiny"], layer_pattern="attn", num_layers=1)
    for window, seq_len in ((3, 8), (8, 8), (20, 8)):
        pairs = sum(min(token + 1, window) for token in range(seq_len))
        matmuls = 6 * (num_params(full) - full.vocab_size * full.d_model)
        attention = flops_per_token(replace(full, layer_pattern="window", window=window), seq_len) - matmuls
        per_pair = 3 * 4 * full.num_heads * full.head_dim
        assert attention == pytest.approx(per_pair * pairs / seq_len, rel=0.15)  # the formula counts half of the diagonal


def test_attention_is_every_fourth_layer_and_the_last() -> None:
    for preset, other in (("olmo_hybrid_7b", "gdn"), ("olmo3_7b", "window")):
        kinds = PRESETS[preset].layer_kinds
        assert [layer for layer, kind in enumerate(kinds) if kind == "attn"] == [3, 7, 11, 15, 19, 23, 27, 31]
        assert set(kinds) == {other, "attn"}


def test_a_layout_that_splits_heads_is_refused_with_the_ones_that_work() -> None:
    hybrid = PRESETS["olmo_hybrid_7b"]
    with pytest.raises(ValueError, match=r"^parallel\.tp=4: 30 heads; use 1, 2, 3, 5, 6, 10, 15 or 30$"):
        validate_layout(hybrid, ParallelConfig(dp_shard=2, tp=4))
    with pytest.raises(ValueError, match=r"^parallel\.cp=2: 30 heads, 15 on each rank of parallel\.tp=2; use 1, 3, 5 or 15$"):
        validate_layout(hybrid, ParallelConfig(cp=2, tp=2))
    with pytest.raises(ValueError, match=r"^parallel\.tp=2: 1 heads; use 1$"):
        validate_layout(replace(PRESETS["tiny"], num_heads=1), ParallelConfig(tp=2))
    validate_layout(hybrid, ParallelConfig(cp=3, tp=5))


@pytest.mark.parametrize("name", ["ffn_width", "vocab_size"])
def test_a_layout_that_leaves_a_rank_without_a_share_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^parallel\.tp=4: leaves a rank without any of model\.{name}=9; use a smaller tp$"):
        validate_layout(replace(PRESETS["tiny"], **{name: 9}), ParallelConfig(tp=4))
    validate_layout(replace(PRESETS["tiny"], **{name: 10}), ParallelConfig(tp=4))


@pytest.mark.parametrize("name", ["vocab_size", "d_model", "num_layers", "num_heads", "ffn_width"])
def test_a_model_has_some_of_everything(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{name}=0: must be positive; use 1 or more$"):
        replace(PRESETS["tiny"], **{name: 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_eps": -1.0}, r"^model\.norm_eps=-1\.0: must be positive; use a number above 0$"),
        ({"head_dim": 7}, r"^model\.head_dim=7: RoPE rotates pairs; use an even number, or model\.rope_theta=0$"),
        ({"layer_pattern": "gdn mamba"}, r"^model\.layer_pattern='gdn mamba': use words out of gdn, attn, window"),
        ({"gdn_key_dim": 0}, r"^model\.gdn_key_dim=0: must be positive; use 1 or more$"),
        ({"rope_theta": -1.0}, r"^model\.rope_theta=-1\.0: negative; .* or 0 for no rotary positions$"),
        ({"gdn_backend": "cuda"}, r"^model\.gdn_backend=cuda: .*; use auto, torch, fla or triton$"),
    ],
)
def test_an_impossible_model_is_one_line_with_key_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRESETS["tiny"], **change)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["rope_theta", "norm_eps", "gdn_norm_eps", "d_model", "window"])
def test_a_number_that_is_not_finite_is_no_size_of_a_model(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{name}={value}: must be finite; use an ordinary number$"):
        replace(PRESETS["tiny"], **{name: value})


def test_heads_that_do_not_rotate_may_be_of_odd_width() -> None:
    config = replace(PRESETS["tiny"], head_dim=7, rope_theta=0.0)
    model = build_model(config, None, device=torch.device("cpu"), seed=0)
    assert model(torch.tensor([[1, 2, 3]])).isfinite().all()


ONES_THAT_0_TURNS_OFF = ("weight_decay", "warmup_steps", "warmup_tokens", "decay_steps", "decay_tokens", "z_loss", "skip_sigma")
DECAY_RATES = ("beta1", "beta2", "muon_momentum")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({name: 0}, rf"^optimizer\.{name}=0: must be positive; ") for name in ("lr", "eps", "clip_norm", "skip_window")],
        *[({name: -1}, rf"^optimizer\.{name}=-1: negative; use 0 to turn it off$") for name in ONES_THAT_0_TURNS_OFF],
        *[({name: 1.0}, rf"^optimizer\.{name}=1\.0: .*use a number from 0 to below 1$") for name in DECAY_RATES],
        *[({name: -0.1}, rf"^optimizer\.{name}=-0\.1: .*use a number from 0 to below 1$") for name in DECAY_RATES],
        ({"lr_floor": 1.5}, r"^optimizer\.lr_floor=1\.5: .*use a number from 0 to 1$"),
        ({"lr_floor": -0.1}, r"^optimizer\.lr_floor=-0\.1: .*use a number from 0 to 1$"),
        ({"decay_steps": 5}, r"^optimizer\.decay_steps=5: only wsd has a decay; use 0, or optimizer\.schedule=wsd$"),
        ({"decay_tokens": 5}, r"^optimizer\.decay_tokens=5: only wsd has a decay; use 0, or optimizer\.schedule=wsd$"),
        (
            {"schedule": "wsd", "decay_steps": 5, "decay_tokens": 6},
            r"^optimizer\.decay_tokens=6: optimizer\.decay_steps=5 too; set one of them to 0$",
        ),
        ({"groups": [ParamGroup(pattern="*", lr_scale=-1)]}, r"^optimizer\.groups\[0\]\.lr_scale=-1: negative; use 0 to turn it off$"),
        ({"groups": [ParamGroup(pattern="*", weight_decay=-1)]}, r"^optimizer\.groups\[0\]\.weight_decay=-1: negative; "),
    ],
)
def test_an_impossible_optimizer_is_one_line_with_key_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OptimizerConfig(), **change)


def test_a_group_may_leave_weight_decay_to_the_others_and_a_list_of_groups_is_as_good_as_a_tuple() -> None:
    groups = [ParamGroup(pattern="*norm.weight", lr_scale=0.5)]
    assert replace(OptimizerConfig(), groups=groups) == replace(OptimizerConfig(), groups=tuple(groups))


def test_a_layout_needs_as_many_ranks_as_its_product() -> None:
    assert ParallelConfig(dp_shard=3, tp=2).world_size == 6
    assert str(ParallelConfig(dp_replicate=2, cp=3)) == "dp_replicate 2 × cp 3"
    assert str(ParallelConfig()) == "one rank"
    with pytest.raises(ValueError, match=r"^parallel\.dp_shard=0"):
        ParallelConfig(dp_shard=0)
    validate_world(ParallelConfig(dp_shard=3, tp=2), 6)
    with pytest.raises(ValueError, match=r"^parallel\.dp_shard=3: dp_shard 3 × tp 2 is 6 ranks, but there are 2; make .* equal 2$"):
        validate_world(ParallelConfig(dp_shard=3, tp=2), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_checkpointing": "some"}, r"^compute\.activation_checkpointing=some: use none, selective, full, memory_budget$"),
        ({"activation_checkpointing": "memory_budget"}, r"memory_budget: the compiler chooses what to keep; set compute\.compile=true$"),
        ({"memory_budget": 2.0}, r"^compute\.memory_budget=2\.0: a fraction; use a number from 0 to 1$"),
        ({"loss_chunk_tokens": 0}, r"^compute\.loss_chunk_tokens=0: must be positive; use 1 or more$"),
    ],
)
def test_an_impossible_way_to_compute_is_one_line_with_key_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComputeConfig(**change)


def test_configs_and_formulas_cost_no_torch() -> None:
    code = "import sys, model.config, model.presets, model.parameters; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_tiny_preset_is_three_gdn_layers_and_one_attention_layer() -> None:
    tiny: ModelConfig = PRESETS["tiny"]
    assert tiny.layer_kinds == ("gdn", "gdn", "gdn", "attn")


def test_auto_takes_our_own_kernels_on_a_gpu_where_there_are_such() -> None:
    model = PRESETS["olmo_hybrid_7b"]
    assert (model.backend_on("cuda"), model.backend_on("cpu")) == ("triton", "torch")
    assert [replace(model, **other).backend_on("cuda") for other in ({"gdn_key_dim": 24}, {"gdn_value_dim": 8}, {"conv_width": 3})] == [
        "fla"
    ] * 3
    assert {preset.backend_on("cuda") for name, preset in PRESETS.items() if "hybrid" in name} == {"triton"}
    assert replace(model, gdn_backend="fla").backend_on("cuda") == "fla"


@pytest.mark.parametrize("other", [{"gdn_key_dim": 24}, {"gdn_value_dim": 8}, {"conv_width": 3}])
def test_our_own_kernels_are_refused_for_sizes_that_they_are_not_made_for(other: dict[str, int]) -> None:
    name, size = next(iter(other.items()))
    with pytest.raises(ValueError, match=rf"^model\.{name}={size}: model.gdn_backend=triton has kernels for .*; use auto$"):
        replace(PRESETS["olmo_hybrid_7b"], gdn_backend="triton", **other)
