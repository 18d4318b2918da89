"""The sizes of a model as a whole, which its mixers read too. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What a model's configuration begins with; each mixer adds its own fields (`mixers.registry.MixerConfigs`)."""

    vocab_size: int
    """Rows of the embedding and the head, padding included."""
    d_model: int
    """Width of the residual stream between the layers."""
    num_layers: int
    num_heads: int
    """Heads of an attention layer, and of a GDN layer that does not say how many it has."""
    ffn_width: int
    """Width of the feed-forward's hidden layer."""
    norm_eps: float = 1e-6
    """Added to the mean square in every RMSNorm but a GDN layer's output norm."""
