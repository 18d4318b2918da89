"""The loss that is fused with the head, on a GPU: its kernels, and in bf16 a path of its own for the weight's gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers.head import IGNORED, cross_entropy_sum, head_loss_sum, loss_and_gradient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def relative_distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@pytest.mark.parametrize("chunk_tokens", [128, 300, 4096])
def test_bf16_in_chunks_agrees_with_fp64_at_once(chunk_tokens: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    x_BTD = torch.randn(2, 512, 256, generator=generator, device="cuda").bfloat16().requires_grad_()
    weight_XD = (torch.randn(5003, 256, generator=generator, device="cuda") / 16).bfloat16().requires_grad_()
    labels_BT = torch.randint(5003, (2, 512), generator=generator, device="cuda")
    exact_x, exact_weight = (x.detach().double().requires_grad_() for x in (x_BTD, weight_XD))
    exact_loss, _ = cross_entropy_sum(F.linear(exact_x, exact_weight), labels_BT, 1e-3)
    exact = [exact_loss, *torch.autograd.grad(exact_loss, [exact_x, exact_weight])]

    loss, _ = head_loss_sum(x_BTD, weight_XD, labels_BT, z_loss=1e-3, chunk_tokens=chunk_tokens, tp=None)

    for ours, theirs, gate in zip([loss, *torch.autograd.grad(loss, [x_BTD, weight_XD])], exact, [1e-4, 1e-2, 1e-2], strict=True):
        assert relative_distance(ours, theirs) < gate


@pytest.mark.parametrize(
    ("dtype", "vocabulary", "gate"),
    [
        (torch.bfloat16, 100_352, 1e-2),
        (torch.float32, 100_352, 1e-5),
        (torch.bfloat16, 50_257, 1e-2),  # rows that no wide load fits
    ],
)
def test_a_chunk_of_a_large_vocabulary_agrees_with_fp64_in_place(dtype: torch.dtype, vocabulary: int, gate: float) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    logits_CX = (torch.randn(300, vocabulary, generator=generator, device="cuda") * 3).to(dtype)
    labels_C = torch.randint(vocabulary, (300,), generator=generator, device="cuda")
    labels_C[:3] = torch.tensor([0, vocabulary - 1, IGNORED])
    wide = logits_CX.double().requires_grad_()
    exact, _ = cross_entropy_sum(wide, labels_C, 1e-3)
    exact_grad = torch.autograd.grad(exact, wide)[0]
    logits_CX[labels_C == IGNORED] = torch.nan  # is not read
    again = logits_CX.clone()

    loss, grad_CX = loss_and_gradient(logits_CX, labels_C, labels_C != IGNORED, 1e-3, None, True)

    assert grad_CX is logits_CX
    assert relative_distance(loss.sum(), exact.detach()) < 1e-5
    assert relative_distance(grad_CX, exact_grad) < gate
    assert torch.equal(loss_and_gradient(again, labels_C, labels_C != IGNORED, 1e-3, None, True)[1], grad_CX), "two runs differ"


def test_rows_behind_2_to_the_31_elements_are_found() -> None:
    num_rows, vocabulary = 21_500, 100_352
    logits_CX = torch.zeros(num_rows, vocabulary, device="cuda", dtype=torch.bfloat16)
    labels_C = torch.full((num_rows,), vocabulary - 1, device="cuda")
    loss, grad_CX = loss_and_gradient(logits_CX, labels_C, labels_C != IGNORED, 0.0, None, True)
    assert loss.sum().item() == pytest.approx(num_rows * math.log(vocabulary), rel=1e-5)
    assert (grad_CX[:, -1] == -1).all()
    assert (grad_CX[-1, :-1] > 0).all()


def test_nothing_but_vectors_is_made_beside_the_logits() -> None:
    logits_CX = torch.zeros(512, 100_352, device="cuda", dtype=torch.bfloat16)
    labels_C = torch.zeros(512, device="cuda", dtype=torch.int64)
    loss_and_gradient(logits_CX, labels_C, labels_C != IGNORED, 1e-3, None, True)  # compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss_and_gradient(logits_CX, labels_C, labels_C != IGNORED, 1e-3, None, True)
    assert torch.cuda.max_memory_allocated() - before < 1e6
