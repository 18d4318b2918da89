"""The cross-entropy of a chunk of tokens and its gradient, in plain torch: the definition of `operator`, and what a CPU runs."""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from model.kernels.dtypes import widen
from model.parallel.collectives import max_over_ranks, sum_over_ranks


def loss_and_gradient(
    logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, z_loss: float, tp: DeviceMesh | None, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy and z-loss of a chunk, shape (2,), and, in the logits' dtype, the gradient of their sum:
    softmax · (1 + 2 z_loss · logsumexp), less 1 at the target.

    `target_C` counts from this rank's first row of the vocabulary. fp32 and fp64 logits are overwritten, narrower ones are copied to fp32.
    """
    wide_CX = widen(logits_CX)
    is_mine_C = (target_C >= 0) & (target_C < wide_CX.shape[-1]) & is_valid_C
    row_C1 = target_C.where(is_mine_C, 0).unsqueeze(-1)
    peak_C = max_over_ranks(wide_CX.amax(-1), tp)
    my_target_logit_C = wide_CX.gather(-1, row_C1).squeeze(-1).where(is_mine_C, 0)
    exp_CX = wide_CX.sub_(peak_C.unsqueeze(-1)).exp_()
    sum_exp_C, target_logit_C = sum_over_ranks(torch.stack([exp_CX.sum(-1), my_target_logit_C]), tp)
    losses, scale_C = loss_and_scale(sum_exp_C, target_logit_C, peak_C, is_valid_C, z_loss)
    if not with_gradient:
        return losses, None
    grad_CX = exp_CX.mul_(scale_C.unsqueeze(-1)).scatter_add_(-1, row_C1, -is_mine_C.to(exp_CX.dtype).unsqueeze(-1))
    return losses, grad_CX.to(logits_CX.dtype)


def loss_and_scale(sum_exp_C: Tensor, target_logit_C: Tensor, peak_C: Tensor, is_valid_C: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """From the sums over all ranks: the chunk's cross-entropy and z-loss, shape (2,), and the factor of exp(x − peak) in the gradient."""
    log_sum_C = sum_exp_C.log()
    log_sum_exp_C = log_sum_C + peak_C
    losses_2C = torch.stack([log_sum_C - (target_logit_C - peak_C), z_loss * log_sum_exp_C.square()])
    scale_C = (1 + 2 * z_loss * log_sum_exp_C) / sum_exp_C
    return losses_2C.where(is_valid_C, 0).sum(-1), scale_C.where(is_valid_C, 0)
