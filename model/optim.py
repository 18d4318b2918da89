"""AdamW, and the learning rate as a function of the step."""

import math

from torch import nn
from torch.optim import AdamW

from model.config import OptimizerConfig

NOT_DECAYED = ("embed.weight",)
"""Parameters without weight decay: the input embedding, as in Olmo Hybrid's run."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """Fused AdamW in two groups, with and without weight decay; `train_step` sets the learning rate."""
    decayed = [parameter for name, parameter in model.named_parameters() if name not in NOT_DECAYED]
    not_decayed = [parameter for name, parameter in model.named_parameters() if name in NOT_DECAYED]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def lr_at(step: int, config: OptimizerConfig, num_steps: int) -> float:
    """Learning rate of `step` (1 … num_steps): linear to lr at step warmup_steps, then a cosine to lr · lr_floor at num_steps."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps))
    return config.lr * (config.lr_floor + (1 - config.lr_floor) * 0.5 * (1 + math.cos(math.pi * progress)))
