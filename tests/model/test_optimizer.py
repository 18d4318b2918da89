"""Learning rate and weight decay."""

from dataclasses import replace

import pytest
import torch

from model.config import PRESETS, OptimizerConfig, ParallelConfig
from model.optim import build_optimizer, lr_at
from model.parallelize import build_model

CONFIG = OptimizerConfig(lr=1.0, warmup_steps=10, lr_floor=0.1)


def test_the_rate_warms_up_then_follows_a_cosine_to_its_floor() -> None:
    assert lr_at(1, CONFIG, num_steps=110) == pytest.approx(0.1)
    assert lr_at(10, CONFIG, num_steps=110) == pytest.approx(1.0)
    assert lr_at(60, CONFIG, num_steps=110) == pytest.approx(0.55)
    assert lr_at(110, CONFIG, num_steps=110) == pytest.approx(0.1)


def test_the_rate_never_rises_after_the_warmup_nor_falls_below_its_floor() -> None:
    rates = [lr_at(step, CONFIG, num_steps=50) for step in range(10, 60)]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) == pytest.approx(0.1)


def test_without_warmup_the_first_step_is_already_on_the_cosine() -> None:
    assert 0.9 < lr_at(1, replace(CONFIG, warmup_steps=0), num_steps=10) < 1.0


def test_a_run_shorter_than_its_warmup_only_warms_up() -> None:
    assert lr_at(5, CONFIG, num_steps=5) == pytest.approx(0.5)


def test_only_the_input_embedding_is_not_decayed() -> None:
    model = build_model(PRESETS["tiny"], ParallelConfig(), None, device=torch.device("cpu"), seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, replace(CONFIG, lr=0.1, weight_decay=0.5))

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    for name, parameter in model.named_parameters():
        kept = 1.0 if name == "embed.weight" else 0.95
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)
