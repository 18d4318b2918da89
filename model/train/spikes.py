"""Updates that are left out because the loss or the gradient jumped, as in OLMo-core's step-skipping optimizers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.optim.config import OptimizerConfig


def is_spike(value: float, history: Sequence[float], sigma: float) -> bool:
    """Whether `value` is more than `sigma` standard deviations above the mean of `history` (2 or more values), or not finite. Pure."""
    if not math.isfinite(value):
        return True
    mean = math.fsum(history) / len(history)
    variance = math.fsum((past - mean) ** 2 for past in history) / (len(history) - 1)
    return value > mean + sigma * math.sqrt(variance)


class SpikeGuard:
    """Decides which updates are skipped; ranks that give it the same numbers decide alike. Make it with `build_spike_guard`."""

    def __init__(self, *, sigma: float, history: Tensor) -> None:
        self._sigma = sigma
        self.history = history
        """(window, 2): loss and gradient norm of the last steps with finite ones, the newest last; NaN where there was none yet.

        In fp64 on the CPU. It is the guard's whole memory and only changed in place: checkpoints save it and load into it.
        """

    def skips(self, loss: float, grad_norm: float) -> bool:
        """Whether to skip the step with these, which then belongs to the history, skipped or not, if they are finite.

        One that is not finite is always skipped; others are judged once half the window is known.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return True
        losses, norms = self.history[~self.history[:, 0].isnan()].T.tolist()
        is_known = len(losses) >= max(2, len(self.history) // 2)
        skipped = is_known and (is_spike(loss, losses, self._sigma) or is_spike(grad_norm, norms, self._sigma))
        self.history.copy_(self.history.roll(-1, dims=0))
        self.history[-1] = torch.tensor([loss, grad_norm], dtype=torch.float64)
        return skipped


def build_spike_guard(config: OptimizerConfig) -> SpikeGuard | None:
    """A guard that knows nothing yet; None where the configuration skips nothing."""
    if not config.skip_sigma:
        return None
    return SpikeGuard(sigma=config.skip_sigma, history=torch.full((config.skip_window, 2), math.nan, dtype=torch.float64))
