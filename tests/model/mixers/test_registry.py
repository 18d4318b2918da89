"""What every kind of mixer must do, so that the next one can't forget it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.costs.activations import activation_bytes
from model.kernel_check import CheckTerms
from model.mixers.registry import MIXERS
from model.parallel.config import ParallelConfig
from model.parameters import block_parameters
from model.presets import PRESETS
from model.share import Share

CPU = torch.device("cpu")
TINY = PRESETS["tiny"]
SMALL = ModelConfig(
    vocab_size=40, d_model=24, num_layers=2, num_heads=2, head_dim=6, gdn_key_dim=5, gdn_value_dim=7, ffn_width=46, window=5
)
TOKENS = torch.arange(34).view(2, 17) % 40
every_kind = pytest.mark.parametrize("kind", MIXERS)


@every_kind
def test_it_builds_what_it_declares(kind: str) -> None:
    layer = MIXERS[kind].build(TINY, tp=None, cp=None)
    declared = {name: parameter.shape for name, parameter in MIXERS[kind].parameters(TINY).items()}
    assert {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()} == declared
    assert {f"mixer.{name}" for name in declared} < set(block_parameters(TINY, kind))


@every_kind
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_its_gradients_are_the_same_however_much_is_recomputed(kind: str, mode: str) -> None:
    def gradients(compute: ComputeConfig) -> dict[str, Tensor]:
        model = build_model(replace(SMALL, layer_pattern=kind), None, device=CPU, seed=3, compute=compute)
        model.loss_sum(TOKENS, TOKENS, z_loss=0.0, chunk_tokens=64)[0].backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    plain, again = gradients(ComputeConfig()), gradients(ComputeConfig(activation_checkpointing=mode))  # type: ignore[arg-type]
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@every_kind
def test_what_it_keeps_names_its_own_projections(kind: str) -> None:
    layer = MIXERS[kind].build(TINY, tp=None, cp=None)
    for name in MIXERS[kind].kept_products:
        assert hasattr(layer.get_submodule(name), "keep")


@every_kind
def test_it_costs_something_and_less_where_more_is_recomputed(kind: str) -> None:
    model, parallel = replace(TINY, layer_pattern=kind), ParallelConfig()
    none, selective, full = (
        activation_bytes(
            model,
            Share(
                parallel=parallel,
                compute=ComputeConfig(activation_checkpointing=mode),  # type: ignore[arg-type]
                rows=1,
                seq_len=256,
                narrow=2,
                device_type="cuda",
            ),
        )
        for mode in ("none", "selective", "full")
    )
    assert none > selective > full > 0
    assert MIXERS[kind].flops_per_token(model, 256) > 0


@every_kind
def test_its_checks_have_names_of_their_own(kind: str) -> None:
    terms = CheckTerms(parallel=ParallelConfig(), device=CPU, is_packed=True, num_tokens=12)
    names = [check.name for check in MIXERS[kind].checks(TINY, terms)]
    assert names
    assert len(names) == len(set(names))
