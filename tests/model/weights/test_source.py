"""Weights from anywhere go into a module under any layout, or are refused before anything is changed."""

from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from model.build import build_model, shard_model
from model.compute import ComputeConfig
from model.lm import HybridLM
from model.parallel.config import ParallelConfig
from model.parallel.mesh import build_mesh
from model.weights.source import WeightsMismatch, load_weights
from tests.model.gloo_world import run_in_world
from tests.model.layout_cases import CPU, MODEL
from tests.model.weights.memory_weights import MemoryWeights, random_weights

LAYOUTS = (ParallelConfig(dp_shard=2, tp=2), ParallelConfig(dp_replicate=2, dp_shard=2), ParallelConfig(tp=4), ParallelConfig(cp=2, tp=2))


def test_every_layout_holds_the_tensors_that_it_was_given(tmp_path: Path) -> None:
    run_in_world(4, _each_layout_holds_them, tmp_path)


def _each_layout_holds_them(_: Path) -> None:
    weights = random_weights(MODEL)
    for layout in LAYOUTS:
        module = shard_model(MODEL, build_mesh(layout, "cpu"), device=CPU, compute=ComputeConfig(), compute_dtype=torch.float32)
        load_weights(module, weights)
        for name, parameter in module.named_parameters():
            assert isinstance(parameter, DTensor)
            assert torch.equal(parameter.full_tensor(), weights.held[name]), f"{layout}: {name}"


def test_one_process_casts_to_the_parameters_dtype() -> None:
    module, weights = HybridLM(MODEL, dtype=torch.bfloat16).to(torch.bfloat16), random_weights(MODEL)
    load_weights(module, weights)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, weights.held[name].bfloat16()), name


def test_other_weights_are_refused_by_name_before_anything_is_changed() -> None:
    module, held = build_model(MODEL, None, device=CPU, seed=0), random_weights(MODEL).held
    before = [parameter.clone() for parameter in module.parameters()]
    for wrong, said in (
        ({name: tensor for name, tensor in held.items() if name != "gates.0.A_log"}, "gates.0.A_log: missing in these weights"),
        ({**held, "head.bias": torch.ones(1)}, "head.bias: the model has no such tensor"),
        ({**held, "norm.weight": torch.ones(5)}, "norm.weight: shape [5], but the model's is [24]"),
    ):
        with pytest.raises(WeightsMismatch) as refused:
            load_weights(module, MemoryWeights(wrong))
        assert str(refused.value).startswith(said)
    assert all(torch.equal(parameter, earlier) for parameter, earlier in zip(module.parameters(), before, strict=True))
