"""What a model, its layout and its optimizer are. Pure: importing this costs no torch."""

from dataclasses import dataclass
from typing import Literal

GDN_CHUNK = 64
"""Tokens per chunk of the delta rule, for the FLOP count; the kernels use the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """An Olmo Hybrid: gated delta-rule layers with full attention at every `attention_every`-th (arXiv 2604.03444)."""

    vocab_size: int
    """Rows of the embedding and the head, padding included."""
    d_model: int
    num_layers: int
    num_heads: int
    """Heads of both layer types."""
    head_dim: int
    """Width of one attention head; num_heads * head_dim need not be d_model."""
    gdn_key_dim: int
    """Key width of one GDN head."""
    gdn_value_dim: int
    """Value width of one GDN head."""
    ffn_width: int
    attention_every: int = 4
    """Attention at layers i with i % attention_every == attention_every - 1."""
    rope_theta: float = 5e5
    norm_eps: float = 1e-6
    gdn_norm_eps: float = 1e-5
    conv_width: int = 4
    gdn_backend: Literal["auto", "torch", "fla"] = "auto"
    """auto takes fla's Triton kernels on CUDA and plain torch elsewhere."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "head_dim", "gdn_key_dim", "gdn_value_dim", "ffn_width"):
            _require_positive("model", name, getattr(self, name))
        for name in ("attention_every", "rope_theta", "norm_eps", "gdn_norm_eps", "conv_width"):
            _require_positive("model", name, getattr(self, name))
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim}: RoPE rotates pairs; use an even number")
        if self.gdn_backend not in ("auto", "torch", "fla"):
            raise ValueError(f"model.gdn_backend={self.gdn_backend}: no such kernel; use auto, torch or fla")

    def is_attention(self, layer: int) -> bool:
        return layer % self.attention_every == self.attention_every - 1

    @property
    def num_attention_layers(self) -> int:
        return sum(self.is_attention(layer) for layer in range(self.num_layers))


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How the ranks divide the work: dp_shard × tp, tp the inner axis."""

    dp_shard: int = 1
    """Ranks that hold different rows and a shard of every parameter (FSDP2)."""
    tp: int = 1
    """Ranks that share the heads of every layer."""

    def __post_init__(self) -> None:
        _require_positive("parallel", "dp_shard", self.dp_shard)
        _require_positive("parallel", "tp", self.tp)

    @property
    def world_size(self) -> int:
        return self.dp_shard * self.tp


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW with linear warmup and cosine decay; the defaults are Olmo Hybrid's pretraining recipe."""

    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """On everything except the input embedding."""
    warmup_steps: int = 2000
    lr_floor: float = 0.1
    """Where the cosine ends, as a fraction of lr."""
    clip_norm: float = 1.0
    z_loss: float = 1e-5
    """Weight of the squared log-sum-exp of the logits in the loss."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "clip_norm"):
            _require_positive("optimizer", name, getattr(self, name))
        for name in ("weight_decay", "warmup_steps", "z_loss"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: negative; use 0 to turn it off")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: a decay rate; use a number from 0 to below 1")
        if not 0 <= self.lr_floor <= 1:
            raise ValueError(f"optimizer.lr_floor={self.lr_floor}: a fraction of optimizer.lr; use a number from 0 to 1")


def num_params(config: ModelConfig) -> int:
    """Parameters in all, both embeddings included."""
    embeddings = 2 * config.vocab_size * config.d_model
    num_gdn = config.num_layers - config.num_attention_layers
    per_layer = 3 * config.d_model * config.ffn_width + 2 * config.d_model
    mixers = num_gdn * gdn_params(config) + config.num_attention_layers * attention_params(config)
    return embeddings + config.num_layers * per_layer + mixers + config.d_model


def gdn_params(config: ModelConfig) -> int:
    """Parameters of one GDN mixer: projections q k v g o a b, convolutions, gates, output norm."""
    key_width, value_width = config.num_heads * config.gdn_key_dim, config.num_heads * config.gdn_value_dim
    projections = config.d_model * (2 * key_width + 3 * value_width + 2 * config.num_heads)
    return projections + config.conv_width * (2 * key_width + value_width) + 2 * config.num_heads + config.gdn_value_dim


def attention_params(config: ModelConfig) -> int:
    """Parameters of one attention mixer: projections q k v o and the full-width QK-norms."""
    width = config.num_heads * config.head_dim
    return 4 * config.d_model * width + 2 * width


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Training FLOPs per token at `seq_len`: 3 × forward, with causally averaged attention and the chunked delta rule.

    A parameter costs 6 (multiply and add, once forward and twice backward); the input embedding is a look-up and costs nothing.
    """
    matmuls = 6.0 * (num_params(config) - config.vocab_size * config.d_model)
    attention = 3 * 2 * seq_len * config.num_heads * config.head_dim
    key, value = config.gdn_key_dim, config.gdn_value_dim
    delta_rule = 3 * config.num_heads * (2 * GDN_CHUNK * (3 * key + 2 * value) + 6 * key * value)
    num_gdn = config.num_layers - config.num_attention_layers
    return matmuls + config.num_attention_layers * attention + num_gdn * delta_rule


def validate_layout(model: ModelConfig, parallel: ParallelConfig) -> None:
    """Raises ValueError when the model can't be cut `parallel.tp` ways: heads are never split."""
    if model.num_heads % parallel.tp:
        divisors = [str(tp) for tp in range(1, model.num_heads + 1) if model.num_heads % tp == 0]
        choices = " or ".join(filter(None, [", ".join(divisors[:-1]), divisors[-1]]))
        raise ValueError(f"parallel.tp={parallel.tp}: {model.num_heads} heads; use {choices}")


def validate_world(parallel: ParallelConfig, num_ranks: int) -> None:
    """Raises ValueError when the layout is for another number of ranks than there are."""
    if parallel.world_size != num_ranks:
        raise ValueError(
            f"parallel.dp_shard={parallel.dp_shard}: with parallel.tp={parallel.tp} that is {parallel.world_size} ranks, "
            f"but there are {num_ranks}; make parallel.dp_shard × parallel.tp equal {num_ranks}"
        )


def _require_positive(section: str, name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{section}.{name}={value}: must be positive; use {'1 or more' if isinstance(value, int) else 'a number above 0'}")


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        vocab_size=4096, d_model=128, num_layers=4, num_heads=4, head_dim=32, gdn_key_dim=24, gdn_value_dim=48, ffn_width=352
    ),
    "olmo_hybrid_190m": ModelConfig(
        vocab_size=100352, d_model=768, num_layers=12, num_heads=12, head_dim=64, gdn_key_dim=128, gdn_value_dim=256, ffn_width=3072
    ),
    "olmo_hybrid_7b": ModelConfig(
        vocab_size=100352, d_model=3840, num_layers=32, num_heads=30, head_dim=128, gdn_key_dim=96, gdn_value_dim=192, ffn_width=11008
    ),
}
