"""Sizes of an attention layer. Pure."""

from dataclasses import dataclass

from model.require import require_positive
from model.sizes import ModelSizes


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(ModelSizes):
    """Causal attention with rotary positions (arXiv 2104.09864) and QK-norm over all heads together, as in Olmo 3 (arXiv 2512.13961)."""

    head_dim: int
    """Width of one head; num_heads * head_dim need not be d_model."""
    window: int = 4096
    """Tokens that a window layer attends to, its own included."""
    rope_theta: float = 5e5
    """Base of the rotary positions; 0 for none (DroPE)."""

    @property
    def attention_width(self) -> int:
        """Channels of all heads."""
        return self.num_heads * self.head_dim


def check_attention(config: AttentionConfig) -> None:
    """Raises ValueError for a layer that can't be."""
    for name in ("head_dim", "window"):
        require_positive("model", name, getattr(config, name))
    if config.rope_theta < 0:
        raise ValueError(f"model.rope_theta={config.rope_theta}: negative; use a positive base, or 0 for no rotary positions")
    if config.rope_theta and config.head_dim % 2:
        raise ValueError(f"model.head_dim={config.head_dim}: RoPE rotates pairs; use an even number, or model.rope_theta=0")
