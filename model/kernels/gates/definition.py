"""The gated delta rule's log_decay and beta in plain torch: the definition of `operator`, and what a CPU runs."""

import torch.nn.functional as F
from torch import Tensor

from model.kernels.dtypes import widen


def decay_and_beta(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    """log_decay_BTN = −exp(A_log)·softplus(a + dt_bias) and beta_BTN = 2·sigmoid(b), in fp32 or wider."""
    return -A_log_N.exp() * F.softplus(widen(a_BTN) + dt_bias_N), 2 * widen(b_BTN).sigmoid()
