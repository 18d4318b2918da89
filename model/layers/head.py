"""Next-token cross-entropy with z-loss: as its definition, and fused with the output head so that the full logits never exist."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from model.kernels.dtypes import widen
from model.kernels.loss import definition, operator
from model.kernels.operators import takes_kernels
from model.layers.linear import add_product_
from model.parallel.collectives import max_over_ranks

IGNORED = -100
"""Label of a position that is not trained on."""


def cross_entropy_sum(logits: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Sum over the valid tokens of logsumexp − target logit + z_loss · logsumexp², in fp32, and how many tokens are valid.

    logits_BTX of the whole vocabulary; labels_BT with -100 where there is nothing to learn.
    The definition that `head_loss_sum` is tested against.
    """
    is_valid = labels != IGNORED
    wide = widen(logits)
    log_sum_exp = wide.logsumexp(-1)
    target_logit = wide.gather(-1, labels.where(is_valid, 0).unsqueeze(-1)).squeeze(-1)
    loss = log_sum_exp - target_logit + z_loss * log_sum_exp.square()
    return torch.where(is_valid, loss, 0).sum(), is_valid.sum()


def head_loss_sum(
    x_BTD: Tensor, weight_XD: Tensor, labels_BT: Tensor, *, z_loss: float, chunk_tokens: int, tp: DeviceMesh | None
) -> tuple[Tensor, Tensor]:
    """`cross_entropy_sum` of the logits x · weightᵀ, whose gradients are taken with it, `chunk_tokens` tokens at a time; and its two parts,
    cross-entropy and z-loss, shape (2,), which have no gradient.

    weight_XD holds this rank's rows of the vocabulary, ceil(X / tp) of them, on the last ranks what is left; x_BTD and labels_BT are
    the same on every tp rank. The sum is too, but the gradient of x_BTD is the part that this rank's rows contribute: whoever gave the
    ranks x sums it over them (`gather_tokens`). Logits are in x's dtype, of the weight rounded to it, everything after them in fp32 or
    wider; the weight's gradient is summed over the chunks in fp32. No second derivative.
    """
    with_gradients = torch.is_grad_enabled() and (x_BTD.requires_grad or weight_XD.requires_grad)
    x_SD, labels_S = x_BTD.flatten(0, 1), labels_BT.flatten()
    loss, parts = _HeadLoss.apply(x_SD, weight_XD, labels_S, z_loss, chunk_tokens, tp, with_gradients)
    return loss, parts


class _HeadLoss(torch.autograd.Function):
    """S is the tokens of all rows, C those of a chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        x_SD: Tensor,
        weight_XD: Tensor,
        labels_S: Tensor,
        z_loss: float,
        chunk_tokens: int,
        tp: DeviceMesh | None,
        with_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x_SD.dtype, torch.float32)
        parts = x_SD.new_zeros(2, dtype=wide)
        grads = (torch.empty_like(x_SD), torch.zeros_like(weight_XD, dtype=wide)) if with_gradients else None
        ctx.weight_dtype, weight_XD = weight_XD.dtype, weight_XD.to(x_SD.dtype)
        target_S = labels_S - _first_row(weight_XD, tp)
        for start in range(0, x_SD.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            x_CD, is_valid_C = x_SD[chunk], labels_S[chunk] != IGNORED
            chunk_parts, grad_logits_CX = loss_and_gradient(
                F.linear(x_CD, weight_XD), target_S[chunk], is_valid_C, z_loss, tp, with_gradients
            )
            parts += chunk_parts
            if grads is not None and grad_logits_CX is not None:
                torch.mm(grad_logits_CX, weight_XD, out=grads[0][chunk])
                add_product_(grads[1], grad_logits_CX.T, x_CD)
            del grad_logits_CX  # before there are the next chunk's logits
        if grads is not None:
            ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(parts)
        return parts.sum(), parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_SD, grad_weight_XD = ctx.saved_tensors
        scaled_XD = torch.empty_like(grad_weight_XD, dtype=ctx.weight_dtype)
        torch.mul(grad_weight_XD, grad, out=scaled_XD)  # rounds once, and makes no second fp32 copy
        return grad_x_SD * grad, scaled_XD, None, None, None, None, None


def loss_and_gradient(
    logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, z_loss: float, tp: DeviceMesh | None, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy and z-loss of a chunk, shape (2,), and, in the logits' dtype, their gradient, as in `definition`.

    `target_C` counts from this rank's first row. The logits are overwritten, by the plain computation only where they need no widening.
    """
    kernel = operator if takes_kernels(logits_CX) else definition
    return kernel.loss_and_gradient(logits_CX, target_C, is_valid_C, z_loss, tp, with_gradient)


def _first_row(weight_XD: Tensor, tp: DeviceMesh | None) -> Tensor | int:
    """The vocabulary row that this rank's part begins with. The first rank's part is always full."""
    if tp is None:
        return 0
    return tp.get_local_rank() * max_over_ranks(torch.full((), weight_XD.shape[0], device=weight_XD.device), tp)
