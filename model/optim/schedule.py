"""The learning rate as a function of the step. Pure."""

import math

from model.optim.config import OptimizerConfig


def lr_at(step: int, config: OptimizerConfig, *, num_steps: int, tokens_per_step: int) -> float:
    """Learning rate of `step` (1 … num_steps): linear to lr at the end of the warmup, then as `config.schedule` says to lr · lr_floor.

    The floor is reached exactly at num_steps; cosine and linear go down from the warmup's end, wsd over its decay only. A run of no more
    steps than its warmup has only that, and never comes to the floor.
    """
    warmup = warmup_steps(config, tokens_per_step)
    if step <= warmup:
        return config.lr * step / warmup
    start = num_steps - decay_steps(config, tokens_per_step) if config.schedule == "wsd" else warmup
    if step <= start:
        return config.lr
    progress = min(1.0, (step - start) / max(1, num_steps - start))
    height = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.lr * (config.lr_floor + (1 - config.lr_floor) * height)


def warmup_steps(config: OptimizerConfig, tokens_per_step: int) -> int:
    """Steps of the warmup; tokens count up to a whole step."""
    return _whole_steps(config.warmup_tokens, tokens_per_step) or config.warmup_steps


def decay_steps(config: OptimizerConfig, tokens_per_step: int) -> int:
    """Steps of wsd's decay; tokens count up to a whole step."""
    return _whole_steps(config.decay_tokens, tokens_per_step) or config.decay_steps


def validate_schedule(config: OptimizerConfig, *, num_steps: int, tokens_per_step: int) -> None:
    """Raises ValueError when a wsd can't finish its warmup before its decay begins."""
    if config.schedule != "wsd":
        return
    warmup, decay = warmup_steps(config, tokens_per_step), decay_steps(config, tokens_per_step)
    if warmup + decay > num_steps:
        name = "decay_tokens" if config.decay_tokens else "decay_steps"
        raise ValueError(
            f"optimizer.{name}={getattr(config, name)}: {decay} steps of decay after {warmup} of warmup are more than "
            f"train.num_steps={num_steps}; shorten them, or train {warmup + decay} steps or more"
        )


def _whole_steps(num_tokens: int, tokens_per_step: int) -> int:
    return -(-num_tokens // tokens_per_step)
