"""How a model is optimised: AdamW or Muon, the learning rate's schedule, clipping and skipping. Pure."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from model.declare import Parameter
from model.require import require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamGroup:
    """Parameters with settings of their own."""

    pattern: str
    """Parameters that the settings are for, as in a shell: by name, `embed.weight` or `layers.0.*`, or by kind, `kind:vector`."""
    lr_scale: float = 1.0
    """Factor on the learning rate."""
    weight_decay: float | None = None
    """Weight decay of these parameters; None for optimizer.weight_decay."""

    def matches(self, name: str, parameter: Parameter) -> bool:
        """Whether the pattern is for this parameter, by its name or by its declared kind (see `model.declare.Kind`)."""
        return fnmatchcase(f"kind:{parameter.kind.value}" if self.pattern.startswith("kind:") else name, self.pattern)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW or Muon, and the learning rate's schedule; the defaults are Olmo Hybrid's pretraining recipe."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon takes the matrices inside the blocks; embedding, head, vectors and convolutions stay with AdamW."""
    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_momentum: float = 0.95
    groups: tuple[ParamGroup, ...] = (ParamGroup(pattern="embed.weight", weight_decay=0.0),)
    """Settings for some parameters: the first group whose pattern matches counts, and every pattern must match something."""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """After the warmup: a cosine or a line down to the floor at the last step, or constant until a line down over the decay (WSD)."""
    warmup_steps: int = 2000
    """Steps over which the learning rate rises from 0."""
    warmup_tokens: int = 0
    """Length of the warmup in tokens, instead of warmup_steps."""
    decay_steps: int = 0
    """Steps of the decay at the end of the schedule wsd; the other schedules have none."""
    decay_tokens: int = 0
    """Length of that decay in tokens, instead of decay_steps."""
    lr_floor: float = 0.1
    """Where the schedule ends, as a fraction of lr."""
    clip_norm: float = 1.0
    z_loss: float = 1e-5
    """Weight of the squared log-sum-exp of the logits in the loss."""
    skip_sigma: float = 0.0
    """Skip an update whose loss or gradient norm is this many standard deviations above the mean of the last skip_window; 0 never does."""
    skip_window: int = 128
    """Steps whose losses and gradient norms an update is compared with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        for name in ("lr", "eps", "clip_norm", "skip_window"):
            require_positive("optimizer", name, getattr(self, name))
        for name in ("weight_decay", "warmup_steps", "warmup_tokens", "decay_steps", "decay_tokens", "z_loss", "skip_sigma"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: negative; use 0 to turn it off")
        _check_decay(self)
        if self.skip_sigma and self.skip_window < 2:
            raise ValueError(f"optimizer.skip_window={self.skip_window}: a deviation needs values; use 2 or more, such as 128")
        for index, group in enumerate(self.groups):
            for name in ("lr_scale", "weight_decay"):
                if (getattr(group, name) or 0) < 0:
                    raise ValueError(f"optimizer.groups[{index}].{name}={getattr(group, name)}: negative; use 0 to turn it off")
        for name in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: a decay rate; use a number from 0 to below 1")
        if not 0 <= self.lr_floor <= 1:
            raise ValueError(f"optimizer.lr_floor={self.lr_floor}: a fraction of optimizer.lr; use a number from 0 to 1")


def _check_decay(optimizer: OptimizerConfig) -> None:
    """wsd has one decay, the others have none."""
    if optimizer.schedule == "wsd" and not (optimizer.decay_steps or optimizer.decay_tokens):
        raise ValueError("optimizer.schedule=wsd: no decay; set optimizer.decay_steps or optimizer.decay_tokens")
    for name in ("decay_steps", "decay_tokens"):
        if optimizer.schedule != "wsd" and getattr(optimizer, name):
            raise ValueError(f"optimizer.{name}={getattr(optimizer, name)}: only wsd has a decay; use 0, or optimizer.schedule=wsd")
    if optimizer.decay_steps and optimizer.decay_tokens:
        raise ValueError(
            f"optimizer.decay_tokens={optimizer.decay_tokens}: optimizer.decay_steps={optimizer.decay_steps} too; set one of them to 0"
        )
