"""What every mixer is made for. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The part of a model's configuration that all its mixers read; each mixer's own fields are added to it (`registry.MixerConfigs`)."""

    d_model: int
    """Width of the residual stream between the layers."""
    num_heads: int
    """Heads of an attention layer, and of a GDN layer that does not say how many it has."""
    norm_eps: float = 1e-6
    """Added to the mean square in every RMSNorm but a GDN layer's output norm."""
