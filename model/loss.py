"""Next-token cross-entropy."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.layers import local_rows, widen
from model.tensor_parallel import max_over_ranks, sum_over_ranks

IGNORED = -100
"""Label of a position that is not trained on."""


def cross_entropy_sum(logits: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Sum over the valid tokens of logsumexp − target logit + z_loss · logsumexp², in fp32, and how many tokens are valid.

    logits_BTX, plain or sharded over X as `HybridLM` returns them; labels_BT with -100 where there is nothing to learn.
    """
    is_valid = labels != IGNORED
    tp = logits.device_mesh if isinstance(logits, DTensor) else None
    wide = widen(logits.to_local() if isinstance(logits, DTensor) else logits)
    target = labels.where(is_valid, 0)
    peak = max_over_ranks(wide.amax(-1), tp)
    log_sum_exp = sum_over_ranks((wide - peak.unsqueeze(-1)).exp().sum(-1), tp).log() + peak
    if tp is None:
        target_logit = wide.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    else:
        row, is_mine = local_rows(target, logits.shape[-1], tp)
        target_logit = sum_over_ranks(wide.gather(-1, row.unsqueeze(-1)).squeeze(-1) * is_mine, tp)
    loss = log_sum_exp - target_logit + z_loss * log_sum_exp.square()
    return torch.where(is_valid, loss, 0).sum(), is_valid.sum()
