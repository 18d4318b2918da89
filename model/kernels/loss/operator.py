"""What the loss of a chunk of tokens does with its logits, in two passes over memory and no copy of them, as operators without gradients.

The kernels are in `triton_loss`, which needs Triton and is imported at the first call.
"""

import torch
from torch import Tensor


@torch.library.custom_op("braid::loss_row_statistics", mutates_args=())
def row_statistics(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row, in fp32: its largest logit, Σ exp(x − that), and the target's logit, or 0 where `target_C` is none of its X.

    Rows that are not valid are not read: 0, 1 and 0.
    """
    from model.kernels.loss import triton as triton_loss  # Triton: absent on a CPU

    return triton_loss.row_statistics(logits_CX, target_C.contiguous(), is_valid_C.contiguous())


@torch.library.custom_op("braid::loss_gradient_", mutates_args=("logits_CX",))
def gradient_(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, peak_C: Tensor, scale_C: Tensor) -> None:
    """Overwrites the logits with exp(x − peak) · scale, less 1 at the target, rounded once; with 0 in rows that are not valid."""
    from model.kernels.loss import triton as triton_loss

    triton_loss.gradient(logits_CX, *(x.contiguous() for x in (target_C, is_valid_C, peak_C, scale_C)))


@row_statistics.register_fake
def _row_statistics_fake(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    peak_C, sum_exp_C, target_logit_C = (logits_CX.new_empty(logits_CX.shape[0], dtype=torch.float32) for _ in range(3))
    return peak_C, sum_exp_C, target_logit_C


@gradient_.register_fake
def _gradient_fake(logits_CX: Tensor, target_C: Tensor, is_valid_C: Tensor, peak_C: Tensor, scale_C: Tensor) -> None:
    return None
