"""The cross-entropy of a chunk of tokens and its gradient, in two passes over the logits and no copy of them.

The passes are operators without gradients. Their kernels are in `triton`, which needs Triton and is imported at the first call.
"""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from model.kernels.loss.definition import loss_and_scale
from model.kernels.operators import as_operator
from model.parallel.collectives import max_over_ranks, sum_over_ranks


def loss_and_gradient(
    logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, z_loss: float, tp: DeviceMesh | None, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy and z-loss of a chunk and, where the logits were, their gradient: the definition's, of bf16 or fp32 logits.

    The kernels read the logits twice and write them once; between the passes there are only vectors, which the ranks exchange.
    """
    my_peak_C, my_sum_exp_C, my_target_logit_C = row_statistics(logits_CX, target_C, is_valid_C)
    peak_C = max_over_ranks(my_peak_C, tp)
    my_sum_exp_C = my_sum_exp_C * (my_peak_C - peak_C).exp()
    sum_exp_C, target_logit_C = sum_over_ranks(torch.stack([my_sum_exp_C, my_target_logit_C]), tp)
    losses, scale_C = loss_and_scale(sum_exp_C, target_logit_C, peak_C, is_valid_C, z_loss)
    if not with_gradient:
        return losses, None
    gradient_(logits_CX, target_C, is_valid_C, peak_C, scale_C)
    return losses, logits_CX


def _empty_statistics(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor) -> tuple[Tensor, ...]:
    return tuple(logits_CX.new_empty(logits_CX.shape[0], dtype=torch.float32) for _ in range(3))


@as_operator("loss_row_statistics", empty=_empty_statistics)
def row_statistics(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """peak_C, sum_exp_C and target_logit_C in fp32: each row's largest logit, Σ exp(x − peak), and the target's logit.

    The target's logit is 0 where `target_C` is none of the X columns. Rows that are not valid are not read: 0, 1 and 0.
    """
    from model.kernels.loss import triton as kernels  # Triton: absent on a CPU

    return kernels.row_statistics(logits_CX, target_C.contiguous(), is_valid_C.contiguous())


@as_operator("loss_gradient_", empty=lambda *_: None, mutates=("logits_CX",))
def gradient_(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, peak_C: Tensor, scale_C: Tensor) -> None:
    """Overwrites the logits with exp(x − peak) · scale, less 1 at the target, rounded once; with 0 in rows that are not valid."""
    from model.kernels.loss import triton as kernels

    kernels.gradient(logits_CX, *(x.contiguous() for x in (target_C, is_valid_C, peak_C, scale_C)))
