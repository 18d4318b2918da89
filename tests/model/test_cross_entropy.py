"""The loss against torch's, in one process; vocabulary-parallel it is tested with the layouts."""

import pytest
import torch
import torch.nn.functional as F

from model.loss import IGNORED, cross_entropy_sum


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 11, (2, 5), generator=generator)
    labels[0, 1:3] = IGNORED
    return logits.requires_grad_(), labels


def test_it_is_the_sum_over_valid_tokens_and_their_number(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss_sum, num_valid = cross_entropy_sum(logits, labels, z_loss=0.0)
    torch.testing.assert_close(loss_sum, expected)
    assert num_valid.item() == 8
    torch.testing.assert_close(torch.autograd.grad(loss_sum, logits), torch.autograd.grad(expected, logits))


def test_z_loss_adds_the_squared_log_partition_of_valid_tokens(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    plain, _ = cross_entropy_sum(logits, labels, z_loss=0.0)
    with_z, _ = cross_entropy_sum(logits, labels, z_loss=0.5)
    expected = 0.5 * logits.logsumexp(-1).square()[labels != IGNORED].sum()
    torch.testing.assert_close(with_z - plain, expected)
    torch.testing.assert_close(torch.autograd.grad(with_z - plain, logits), torch.autograd.grad(expected, logits))


def test_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[[1e4, 0.0]]], requires_grad=True)
    loss_sum, _ = cross_entropy_sum(logits, torch.tensor([[1]]), z_loss=0.0)
    assert loss_sum.item() == 1e4
    assert torch.autograd.grad(loss_sum, logits)[0].tolist() == [[[1.0, -1.0]]]


def test_a_batch_of_nothing_valid_costs_nothing() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss_sum, num_valid = cross_entropy_sum(logits, torch.full((1, 2), IGNORED), z_loss=1.0)
    assert (loss_sum.item(), num_valid.item()) == (0.0, 0)
    assert torch.autograd.grad(loss_sum, logits)[0].abs().max() == 0


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.zeros(1, 1, 1000, dtype=torch.bfloat16)
    loss_sum, _ = cross_entropy_sum(logits, torch.zeros(1, 1, dtype=torch.int64), z_loss=0.0)
    assert loss_sum.dtype == torch.float32
    assert loss_sum.item() == pytest.approx(6.907755, abs=1e-5)
