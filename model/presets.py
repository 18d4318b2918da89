"""The models that are known by name. Pure."""

from model.config import ModelConfig

DOLMA2_VOCAB = 100352
"""100,278 tokens, padded."""
HYBRID = "gdn gdn gdn attn"
OLMO3 = "window window window attn"

_LADDER = {  # D, heads, layers, F
    "60m": (384, 8, 8, 1536),
    "100m": (512, 8, 12, 2048),
    "190m": (768, 12, 12, 3072),
    "370m": (1024, 16, 16, 4096),
    "600m": (1280, 16, 16, 5120),
    "760m": (1536, 16, 16, 6144),
    "1b": (2048, 16, 16, 8192),
}
"""The sizes of the controlled comparison of hybrid and transformer (arXiv 2604.03444)."""


def _rung(size: str, layer_pattern: str) -> ModelConfig:
    d_model, num_heads, num_layers, ffn_width = _LADDER[size]
    return ModelConfig(
        vocab_size=DOLMA2_VOCAB,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=d_model // num_heads,
        gdn_key_dim=128 if layer_pattern == HYBRID else 0,
        gdn_value_dim=256 if layer_pattern == HYBRID else 0,
        ffn_width=ffn_width,
        layer_pattern=layer_pattern,
    )


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        vocab_size=4096, d_model=128, num_layers=4, num_heads=4, head_dim=32, gdn_key_dim=32, gdn_value_dim=64, ffn_width=352
    ),
    **{f"olmo_hybrid_{size}": _rung(size, HYBRID) for size in _LADDER},
    "olmo_hybrid_7b": ModelConfig(
        vocab_size=DOLMA2_VOCAB, d_model=3840, num_layers=32, num_heads=30, head_dim=128, gdn_key_dim=96, gdn_value_dim=192, ffn_width=11008
    ),
    **{f"olmo3_{size}": _rung(size, OLMO3) for size in _LADDER},
    "olmo3_7b": ModelConfig(
        vocab_size=DOLMA2_VOCAB, d_model=4096, num_layers=32, num_heads=32, head_dim=128, ffn_width=11008, layer_pattern=OLMO3
    ),
}
