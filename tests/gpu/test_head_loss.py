"""The loss that is fused with the head, in bf16 on a GPU: the weight's gradient takes a path of its own there."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.loss import cross_entropy_sum, head_loss_sum

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

    loss = head_loss_sum(x_BTD, weight_XD, labels_BT, z_loss=1e-3, chunk_tokens=chunk_tokens, tp=None)

    for ours, theirs, gate in zip([loss, *torch.autograd.grad(loss, [x_BTD, weight_XD])], exact, [1e-4, 1e-2, 1e-2], strict=True):
        assert relative_distance(ours, theirs) < gate
