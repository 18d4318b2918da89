"""A worker does not train on kernels that compute something else than they should."""

import sys
from dataclasses import replace

import pytest
import torch

from model.parallel.config import ParallelConfig
from model.presets import PRESETS
from orchestrator.errors import KernelsWrong
from orchestrator.worker.session import require_right_kernels
from tests.model.kernels.delta_rule import fake_fla

MODEL = replace(PRESETS["tiny"], gdn_backend="fla")
CPU = torch.device("cpu")


def test_right_kernels_are_told_in_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    fake_fla.install(monkeypatch)

    with caplog.at_level("INFO"):
        require_right_kernels(MODEL, ParallelConfig(tp=2), CPU)

    assert caplog.messages[0].startswith("the kernels of model.gdn_backend=fla are right on cpu (")


def test_wrong_ones_end_the_worker_with_their_name(monkeypatch: pytest.MonkeyPatch):
    fla = fake_fla.install(monkeypatch)
    monkeypatch.setattr(
        sys.modules["fla.ops.gated_delta_rule.chunk"],
        "chunk_gated_delta_rule_bwd",
        lambda **call: [2 * x for x in fla.backward(**call)[:5]],
    )

    with pytest.raises(KernelsWrong, match=r"^cpu: delta rule, gradient of q: 1 off, 0\.02 allowed; gdn_backend fla, 2 heads × \(32, 64\)"):
        require_right_kernels(MODEL, ParallelConfig(tp=2), CPU)


def test_a_model_without_gdn_layers_needs_none():
    require_right_kernels(replace(MODEL, layer_pattern="attn"), ParallelConfig(), CPU)
