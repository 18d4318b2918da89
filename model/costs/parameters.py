"""What a model holds and costs, by formula. Pure: tested against the model that is built."""

from collections.abc import Mapping
from math import prod

from model.config import ModelConfig
from model.kernels.delta_rule.sizes import GDN_CHUNK

ROW_WISE = ("o_proj", "down_proj")
REPLICATED = ("norm", "mixer_norm", "ffn_norm", "o_norm")
"""Modules whose weight tensor parallelism cuts in dimension 1 (input channels), or not at all; the others in dimension 0."""
Shape = tuple[int, ...]


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every parameter's name and full shape, in the order of the model."""
    shapes: dict[str, Shape] = {"embed.weight": (config.vocab_size, config.d_model)}
    for layer, kind in enumerate(config.layer_kinds):
        mixer = gdn_shapes(config) if kind == "gdn" else attention_shapes(config)
        shapes |= {f"layers.{layer}.mixer.{name}": shape for name, shape in mixer.items()}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in feed_forward_shapes(config).items()}
        if kind == "gdn":
            shapes |= {f"gates.{layer}.{name}": (config.num_heads,) for name in ("A_log", "dt_bias")}
    return shapes | {"norm.weight": (config.d_model,), "head.weight": (config.vocab_size, config.d_model)}


def gdn_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Of one GDN mixer, but for A_log and dt_bias, which are the model's `gates`."""
    key_width, value_width = config.num_heads * config.gdn_key_dim, config.num_heads * config.gdn_value_dim
    widths = {"q": key_width, "k": key_width, "v": value_width, "a": config.num_heads, "b": config.num_heads, "g": value_width}
    return {
        **{f"{name}_proj.weight": (width, config.d_model) for name, width in widths.items()},
        "o_proj.weight": (config.d_model, value_width),
        **{f"{name}_conv.weight": (widths[name], 1, config.conv_width) for name in "qkv"},
        "o_norm.weight": (config.gdn_value_dim,),
    }


def attention_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Of one attention mixer: projections, and QK-norms over all heads together."""
    width = config.num_heads * config.head_dim
    return {
        **{f"{name}_proj.weight": (width, config.d_model) for name in "qkv"},
        "o_proj.weight": (config.d_model, width),
        "q_norm.weight": (width,),
        "k_norm.weight": (width,),
    }


def feed_forward_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Of what every block has beside its mixer."""
    return {
        "mixer_norm.weight": (config.d_model,),
        "ffn.gate_proj.weight": (config.ffn_width, config.d_model),
        "ffn.up_proj.weight": (config.ffn_width, config.d_model),
        "ffn.down_proj.weight": (config.d_model, config.ffn_width),
        "ffn_norm.weight": (config.d_model,),
    }


def num_params(config: ModelConfig) -> int:
    """Parameters in all, both embeddings included."""
    return _count(parameter_shapes(config))


def params_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of the embedding, the GDN mixers with their gates, the attention mixers, the feed-forwards, the norms and the head."""
    num_gdn = config.layer_kinds.count("gdn")
    num_attention = config.num_layers - num_gdn
    return {
        "embedding": config.vocab_size * config.d_model,
        "GDN mixers": num_gdn * (_count(gdn_shapes(config)) + 2 * config.num_heads),
        "attention mixers": num_attention * _count(attention_shapes(config)),
        "feed-forwards": config.num_layers * 3 * config.d_model * config.ffn_width,
        "norms": (2 * config.num_layers + 1) * config.d_model,
        "head": config.vocab_size * config.d_model,
    }


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Training FLOPs per token at `seq_len`: 3 × forward, with causally averaged attention and the chunked delta rule.

    A parameter costs 6 (multiply and add, once forward and twice backward); the input embedding is a look-up and costs nothing.
    """
    matmuls = 6.0 * (num_params(config) - config.vocab_size * config.d_model)
    key, value = config.gdn_key_dim, config.gdn_value_dim
    of_kind = {
        "gdn": 3.0 * config.num_heads * (2 * GDN_CHUNK * (3 * key + 2 * value) + 6 * key * value),
        "attn": 3 * 4 * config.num_heads * config.head_dim * mean_context(seq_len, seq_len),
        "window": 3 * 4 * config.num_heads * config.head_dim * mean_context(seq_len, config.window),
    }
    return matmuls + sum(of_kind[kind] for kind in config.layer_kinds)


def mean_context(seq_len: int, window: int) -> float:
    """Tokens that a token attends to on average over a row, causally and at most `window`; half a full row's."""
    window = min(window, seq_len)
    return window * (seq_len - window / 2) / seq_len


def _count(shapes: Mapping[str, Shape]) -> int:
    return sum(prod(shape) for shape in shapes.values())
