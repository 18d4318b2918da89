"""The peer of the benchmarks is the same model as ours; and what stands in its way is moved aside."""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench.fla_guard import lift_fla_guard
from bench.olmo_core import FULL_PRECISION, admit_olmo_core, build_peer_layer, peer_config
from model.mixers.gdn.costs import gdn_parameters
from model.parameters import num_params
from model.presets import PRESETS

GUARDED = "fla.ops.common.chunk_o"
OURS = replace(PRESETS["olmo_hybrid_7b"], num_layers=8)
needs_olmo_core = pytest.mark.skipif(importlib.util.find_spec("olmo_core") is None, reason="needs OLMo-core")
own_warnings = pytest.mark.filterwarnings("ignore")


def fake_fla(monkeypatch: pytest.MonkeyPatch, *, above_3_4_0: bool, above_3_7_1: bool) -> ModuleType:
    kernels = ModuleType(GUARDED)
    vars(kernels).update(TRITON_ABOVE_3_4_0=above_3_4_0, TRITON_ABOVE_3_7_1=above_3_7_1)
    monkeypatch.setitem(sys.modules, GUARDED, kernels)
    return kernels


@needs_olmo_core
@own_warnings
def test_the_peer_has_as_many_parameters_as_ours() -> None:
    config = peer_config(OURS)
    model = config.build(init_device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_params == num_params(OURS)
    kinds = [{"GatedDeltaNet": "gdn", "Attention": "attn"}[type(block.attention).__name__] for block in model.blocks.values()]
    assert tuple(kinds) == OURS.layer_kinds


@needs_olmo_core
@own_warnings
def test_the_layer_of_the_peer_has_our_matrices_and_our_dtypes() -> None:
    sizes = {"d_model": OURS.d_model, "num_heads": OURS.num_heads, "key_dim": OURS.gdn_key_dim, "value_dim": OURS.gdn_value_dim}
    layer = build_peer_layer(**sizes, device=torch.device("meta"), dtype=torch.bfloat16)
    parameters = dict(layer.named_parameters())

    assert {parameters.pop(name).dtype for name in FULL_PRECISION} == {torch.float32}
    assert {parameter.dtype for parameter in parameters.values()} == {torch.bfloat16}
    declared = gdn_parameters(OURS).values()
    assert sorted(parameter.shape for parameter in parameters.values()) == sorted(parameter.shape for parameter in declared)
    assert sum(parameter.numel() for parameter in layer.parameters()) == sum(each.size for each in declared) + 2 * OURS.num_heads


def test_the_guard_is_lifted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = fake_fla(monkeypatch, above_3_4_0=True, above_3_7_1=False)
    assert lift_fla_guard()
    assert kernels.TRITON_ABOVE_3_7_1 is True
    assert not lift_fla_guard()


@pytest.mark.parametrize("is_new", [False, True])
def test_a_triton_that_fla_trusts_is_left_alone(monkeypatch: pytest.MonkeyPatch, is_new: bool) -> None:
    kernels = fake_fla(monkeypatch, above_3_4_0=is_new, above_3_7_1=is_new)
    assert not lift_fla_guard()
    assert kernels.TRITON_ABOVE_3_7_1 is is_new


def test_without_fla_there_is_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, GUARDED, None)
    assert not lift_fla_guard()


def test_the_installed_fla_has_the_guard_that_is_lifted() -> None:
    found = importlib.util.find_spec("fla")
    if found is None or found.origin is None:
        pytest.skip("needs flash-linear-attention")
    kernels = Path(found.origin).parent.joinpath(*GUARDED.split(".")[1:]).with_suffix(".py").read_text()
    assert kernels.count("not TRITON_ABOVE_3_7_1") == 1
    assert "TRITON_ABOVE_3_4_0 and not TRITON_ABOVE_3_7_1" in kernels


def test_olmo_core_needs_no_client_of_a_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_fla(monkeypatch, above_3_4_0=True, above_3_7_1=True)
    monkeypatch.setenv("OLMO_DISABLE_PER_RANK_TRITON_CACHE", "")
    monkeypatch.delenv("OLMO_DISABLE_PER_RANK_TRITON_CACHE")
    for name in ("cached_path", "cached_path.schemes"):
        monkeypatch.setitem(sys.modules, name, None)
    admit_olmo_core()
    from cached_path import cached_path
    from cached_path.schemes import S3Client, SchemeClient, add_scheme_client

    assert cached_path is add_scheme_client is None
    assert issubclass(SchemeClient, object)
    assert S3Client.recoverable_errors == ()
    assert os.environ["OLMO_DISABLE_PER_RANK_TRITON_CACHE"] == "1"  # its own would move Triton's cache for the whole process
