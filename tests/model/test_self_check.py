"""A machine that computes something else than it should is named before it trains."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.ffn.swiglu.checks import swiglu_checks
from model.ffn.swiglu.layer import swiglu
from model.kernel_check import CheckTerms
from model.kernels.loss import definition as loss
from model.layers.norm import RMSNorm
from model.mixers.attention.checks import attention_checks
from model.mixers.attention.layer import rotate
from model.mixers.gdn.checks import gdn_checks
from model.optim import adamw
from model.parallel.config import ParallelConfig
from model.presets import PRESETS
from tests.model.kernels.delta_rule import fake_fla
from tests.model.small_model import wrong_kernel

ROOT = Path(__file__).parents[2]
Layer = Callable[..., Any]
HYBRID_7B = PRESETS["olmo_hybrid_7b"]


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch) -> fake_fla.FakeFla:
    return fake_fla.install(monkeypatch)


def test_a_machine_that_is_right_is_not_held_up(fla: fake_fla.FakeFla) -> None:
    assert wrong_kernel("torch") == ""
    assert wrong_kernel("fla") == ""
    assert (fla.num_forwards, fla.num_backwards) == (2, 2), "twice, so that two runs can be compared"


def test_the_random_numbers_of_the_training_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    wrong_kernel("torch")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("damaged", "wrong_by", "found"),
    [
        (0, 1.1, "delta rule, gradient of q: 0.1 off"),
        (1, 0.97, "delta rule, gradient of k: 0.03 off"),
        (3, float("nan"), "delta rule, gradient of beta: nan off"),
    ],
)
def test_a_wrong_gradient_is_named(
    fla: fake_fla.FakeFla, monkeypatch: pytest.MonkeyPatch, damaged: int, wrong_by: float, found: str
) -> None:
    right = fla.backward

    def miscompiled(**call: object) -> tuple[Tensor, ...]:
        gradients = right(**call)
        return *gradients[:damaged], gradients[damaged] * wrong_by, *gradients[damaged + 1 :]

    monkeypatch.setattr(sys.modules["fla.ops.gated_delta_rule.chunk"], "chunk_gated_delta_rule_bwd", miscompiled)
    assert found in wrong_kernel("fla")


def test_a_wrong_loss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = loss.loss_and_gradient

    def miscompiled(*arguments: object) -> tuple[Tensor, Tensor | None]:
        value, gradient = right(*arguments)
        return value, None if gradient is None else gradient * 1.1

    monkeypatch.setattr(loss, "loss_and_gradient", miscompiled)
    assert "cpu: loss, gradient of x: 0.1 off" in wrong_kernel("torch")


def test_a_machine_that_answers_differently_each_time_is_named(fla: fake_fla.FakeFla, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fla.forward

    def flaky(**call: object) -> tuple[Tensor, ...]:
        decay_sum, out, *rest = right(**call)
        out[0, 77, 1, 5] += fla.num_forwards * 0.01
        return decay_sum, out, *rest

    monkeypatch.setattr(sys.modules["fla.ops.gated_delta_rule.chunk"], "chunk_gated_delta_rule_fwd", flaky)
    assert "delta rule, output 0: two runs differ" in wrong_kernel("fla")


def test_a_stack_that_refuses_is_named_in_one_line(fla: fake_fla.FakeFla, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**call: object) -> None:
        raise RuntimeError("Triton < 3.7.1 on Hopper is not supported\nstack dump follows")

    monkeypatch.setattr(sys.modules["fla.ops.gated_delta_rule.chunk"], "chunk_gated_delta_rule_bwd", refuse)
    wrong = wrong_kernel("fla")
    assert wrong.startswith("cpu: delta rule, RuntimeError: Triton < 3.7.1 on Hopper is not supported; gdn_backend fla, 2 heads × (32, 48)")


def test_a_rank_is_checked_with_its_own_heads() -> None:
    terms = CheckTerms(parallel=ParallelConfig(tp=2, cp=3), device=torch.device("cpu"), is_packed=False, num_tokens=8)
    (keys, values, gates, rule, norm), (rotation,) = gdn_checks(HYBRID_7B, terms), attention_checks(HYBRID_7B, terms)
    assert keys.inputs["x"].shape == (1, 8, 5 * 96)
    assert values.inputs["x"].shape == (1, 8, 5 * 192)
    assert gates.inputs["a"].shape == (1, 8, 5)
    assert (rule.inputs["q"].shape, rule.inputs["v"].shape) == ((1, 8, 5, 96), (1, 8, 5, 192))
    assert norm.inputs["gate"].shape == (1, 8, 5, 192)
    assert rotation.inputs["x"].shape == (1, 8, 5, 128)
    (swiglu,) = swiglu_checks(HYBRID_7B.ffn_width, terms)
    assert swiglu.inputs["up"].shape == (1, 8, 5504)


def test_a_model_without_gdn_layers_has_its_small_layers_checked() -> None:
    assert wrong_kernel("triton", PRESETS["olmo3_7b"], ParallelConfig(tp=32), num_tokens=8) == ""


@pytest.mark.parametrize(
    ("layer", "right", "wrong", "found"),
    [
        ("model.ffn.swiglu.layer.swiglu", swiglu, lambda gate, up: gate.sigmoid() * up, "swiglu, output 0: "),
        ("model.mixers.attention.layer.rotate", rotate, lambda x, rotary: rotate(x, (rotary[0], -rotary[1])), "rotation, output 0: "),
        ("model.layers.norm.RMSNorm.of_sum", RMSNorm.of_sum, lambda norm, x, y: (x + y, norm(x)), "norms, output 2: "),
        ("model.layers.norm.RMSNorm.added_to", RMSNorm.added_to, lambda norm, x, y: norm(x + y), "norms, output 3: "),
    ],
)
def test_a_wrong_small_layer_is_named(monkeypatch: pytest.MonkeyPatch, layer: str, right: Layer, wrong: Layer, found: str) -> None:
    def miscompiled(*inputs: Any) -> Any:
        return (wrong if any(getattr(x, "dtype", None) == torch.bfloat16 for x in inputs) else right)(*inputs)

    monkeypatch.setattr(layer, miscompiled)
    assert wrong_kernel("torch").startswith(f"cpu: {found}")


@pytest.mark.parametrize(
    ("setting", "wrong"), [("weight_decay", 0.0), ("eps", 1e-8), ("lr", 0.4), ("beta1", 0.8), ("beta2", 0.7), ("grad_scale", None)]
)
def test_a_wrong_update_is_named(monkeypatch: pytest.MonkeyPatch, setting: str, wrong: float | None) -> None:
    right = adamw.update

    def miscompiled(parameters: list[Tensor], *tensors: list[Tensor], **settings: Any) -> None:
        right(parameters, *tensors, **(settings | ({setting: wrong} if parameters[0].dtype == torch.float32 else {})))

    monkeypatch.setattr(adamw, "update", miscompiled)
    assert wrong_kernel("torch").startswith("cpu: adamw, output 0: ")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (torch's CPU build has none)")
def test_our_kernels_pass_and_a_stack_that_multiplies_wrongly_does_not(tmp_path: Path) -> None:
    """Triton's interpreter is such a stack: it multiplies the bits of bf16 as integers, unless it is taught."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-m", "tests.model.interpreted_self_check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    untaught, taught = done.stdout.splitlines()
    assert untaught.startswith("cpu: delta rule, output 0: ")
    assert "off, 0.02 allowed; gdn_backend triton, 2 heads × (32, 48), torch " in untaught
    assert taught == ""
