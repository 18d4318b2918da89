"""What an untrained model looks like."""

from dataclasses import replace

import torch

from model.build import build_model
from model.declare import Cut, projection
from model.mixers.gdn.costs import gdn_gate_parameters
from model.presets import PRESETS
from model.weights.initial import initial_weight


def test_every_parameter_follows_the_recipe() -> None:
    model = build_model(PRESETS["tiny"], None, device=torch.device("cpu"), seed=7)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all(), name
        if parameter.ndim > 1:
            assert parameter.abs().max() <= 0.06, name
        elif "norm" in name:
            assert (parameter == 1).all(), name


def test_matrices_are_truncated_normal() -> None:
    weight = initial_weight("layers.0.ffn.up_proj.weight", projection(500, 500, Cut.OUTPUT), seed=0)
    assert abs(weight.std().item() - 0.02 * 0.9866) < 1e-4  # a normal cut at ±3σ has 0.9866 of its deviation
    assert abs(weight.mean().item()) < 2e-4


def test_gates_start_in_their_ranges() -> None:
    log_A, bias = gdn_gate_parameters(replace(PRESETS["tiny"], gdn_num_key_heads=10_000)).values()
    decay_rate = torch.cat([initial_weight(f"gates.{layer}.A_log", log_A, seed=0) for layer in range(10)]).exp()
    assert decay_rate.min() > 0
    assert abs(decay_rate.mean().item() - 8) < 0.1
    assert decay_rate.max() < 16.001
    dt = torch.nn.functional.softplus(torch.cat([initial_weight(f"gates.{layer}.dt_bias", bias, seed=0) for layer in range(10)]))
    assert 0.999e-3 < dt.min() < 1.01e-3
    assert 0.99e-1 < dt.max() < 1.001e-1
    assert abs(dt.log10().mean().item() + 2) < 0.01  # log-uniform: centred on 1e-2


def test_names_and_seeds_draw_independently() -> None:
    matrix = projection(4, 4, Cut.OUTPUT)
    first = initial_weight("layers.0.ffn.up_proj.weight", matrix, seed=0)
    assert torch.equal(first, initial_weight("layers.0.ffn.up_proj.weight", matrix, seed=0))
    assert not torch.equal(first, initial_weight("layers.1.ffn.up_proj.weight", matrix, seed=0))
    assert not torch.equal(first, initial_weight("layers.0.ffn.up_proj.weight", matrix, seed=1))
