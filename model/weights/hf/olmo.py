"""What Olmo Hybrid and Olmo 3 have in common: most of config.json, and the tensors of attention and feed-forward. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from model.config import ModelConfig
from model.parameters import parameter_shapes
from model.presets import DOLMA2_VOCAB
from model.weights.hf.errors import HFFormatError
from model.weights.hf.family import LAYER, Pairing, equal_pairings, layer_keys, shortest_pattern
from model.weights.hf.fields import Json, is_value, positive_int, positive_number, require_values, rope_object
from model.weights.hf.serving import Serving

KindOf = Mapping[str, str]
"""A family's words in layer_types → our kinds of layers; the first is the usual one, three of four."""
FIXED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "linear_allow_neg_eigval": True,
    "quantization_config": None,
    "tie_word_embeddings": False,
}
"""Keys with the one value that these models have; where config.json has none, transformers takes the same."""
DEFAULT_ROPE_THETA = 5e5
"""The base of rotary positions that transformers takes for an olmo3 whose config.json has none."""


def in_block(keys: Mapping[str, str]) -> dict[str, str]:
    """Names and keys within a block as those within the model, LAYER standing for its number."""
    return {f"layers.{LAYER}.{name}": f"model.layers.{LAYER}.{key}" for name, key in keys.items()}


FFN_KEYS = in_block({f"ffn.{name}_proj.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")})
ATTENTION_KEYS = {
    **in_block({f"mixer.{name}_proj.weight": f"self_attn.{name}_proj.weight" for name in "qkvo"}),
    **in_block({f"mixer.{name}_norm.weight": f"self_attn.{name}_norm.weight" for name in "qk"}),
    **in_block({"mixer_norm.weight": "post_attention_layernorm.weight", "ffn_norm.weight": "post_feedforward_layernorm.weight"}),
    **FFN_KEYS,
}
"""Our names in a block of attention, full or windowed → the keys, in the order in which they are written."""


def olmo_pairings(config: ModelConfig, keys_of_kind: Mapping[str, Mapping[str, str]], *, model_type: str) -> tuple[Pairing, ...]:
    """Every parameter with the one tensor that equals it. Raises HFFormatError for a kind of layer without keys."""
    keys = {
        "embed.weight": "model.embed_tokens.weight",
        **layer_keys(config, keys_of_kind, model_type=model_type),
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    return tuple(equal_pairings(keys, parameter_shapes(config)))


def read_sizes(hf: Json, kind_of: KindOf, *, model_type: str) -> dict[str, Any]:
    """The fields of ModelConfig that both families read alike: sizes and kinds of layers.

    Raises HFFormatError, naming the key, for a value that is wrong or makes another model.
    """
    require_values(hf, FIXED)
    num_heads = positive_int(hf, "num_attention_heads")
    key = "num_key_value_heads"
    if positive_int(hf, key, num_heads) != num_heads:
        raise HFFormatError(f"config.json {key}={hf[key]!r}: attention here has num_attention_heads={num_heads} heads of each kind")
    layer_kinds = _read_layer_kinds(hf, kind_of, model_type)
    return {
        "num_heads": num_heads,
        "num_layers": len(layer_kinds),
        "layer_pattern": shortest_pattern(layer_kinds),
        "vocab_size": positive_int(hf, "vocab_size"),
        "d_model": positive_int(hf, "hidden_size"),
        "head_dim": positive_int(hf, "head_dim", positive_int(hf, "hidden_size") // num_heads),
        "ffn_width": positive_int(hf, "intermediate_size"),
    }


def _read_layer_kinds(hf: Json, kind_of: KindOf, model_type: str) -> tuple[str, ...]:
    num_layers, usual = positive_int(hf, "num_hidden_layers"), next(iter(kind_of))
    layer_types = hf.get("layer_types")
    if layer_types is None:
        layer_types = ["full_attention" if layer % 4 == 3 else usual for layer in range(num_layers)]
    if not isinstance(layer_types, list):
        raise HFFormatError(f"config.json layer_types={layer_types!r}: give a list of {' and '.join(kind_of)}")
    if len(layer_types) != num_layers:
        raise HFFormatError(f"config.json layer_types: {len(layer_types)} of them for num_hidden_layers={num_layers}; make them as many")
    unknown = [layer_type for layer_type in layer_types if not isinstance(layer_type, str) or layer_type not in kind_of]
    if unknown:
        raise HFFormatError(f"config.json layer_types: {unknown[0]!r} in {model_type}; only {' and '.join(kind_of)} can be imported")
    return tuple(kind_of[layer_type] for layer_type in layer_types)


def read_ropes(hf: Json, kind_of: KindOf) -> Sequence[Json]:
    """The rotary positions that config.json describes: once, or for each layer type; also in the older spelling.

    Raises HFFormatError for positions that are scaled, or rotate a part of a head.
    """
    found = rope_object(hf, "rope_parameters")
    by_type = [rope_object(found, layer_type) for layer_type in kind_of if found.get(layer_type) is not None]
    otherwise = {key: hf[key] for key in ("rope_theta", "partial_rotary_factor") if key in hf}
    ropes = [{**otherwise, **rope, **rope_object(hf, "rope_scaling")} for rope in by_type or [found]]
    for rope in ropes:
        _check_rotates_plainly(rope)
    return ropes


def _check_rotates_plainly(rope: Json) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise HFFormatError(f"config.json rope_parameters: rope_type={kind!r}; only 'default' positions can be imported")
    factor = rope.get("partial_rotary_factor")
    if factor is not None and not is_value(factor, 1.0):
        raise HFFormatError(
            f"config.json partial_rotary_factor={factor!r}: here all of a head rotates, which is 1; such a checkpoint can't be imported"
        )


def one_rope_theta(ropes: Sequence[Json], *, or_none: bool) -> float:
    """The one base of all `ropes`, and 0 for null, which is no rotary positions and allowed with `or_none`. Raises HFFormatError."""
    thetas = {_theta(rope) for rope in ropes}
    if len(thetas) > 1 or (thetas == {None} and not or_none):
        raise HFFormatError(f"config.json rope_parameters: rope_theta {sorted(map(str, thetas))}; all layers here need the same, a number")
    return thetas.pop() or 0.0


def _theta(rope: Json) -> float | None:
    return None if rope.get("rope_theta", DEFAULT_ROPE_THETA) is None else positive_number(rope, "rope_theta", DEFAULT_ROPE_THETA)


def rope_to_hf(config: ModelConfig) -> Json:
    """How config.json describes the rotary positions of a layer."""
    return {"rope_theta": config.rope_theta or None, "rope_type": "default"}


def keys_of_config(
    config: ModelConfig, kind_of: KindOf, *, model_type: str, architecture: str, serving: Serving, dtype: str
) -> dict[str, Any]:
    """The keys of config.json that both families write alike, in their order."""
    type_of = {kind: layer_type for layer_type, kind in kind_of.items()}
    eos = serving.eos_token_id
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        **({} if config.head_dim * config.num_heads == config.d_model else {"head_dim": config.head_dim}),
        "layer_types": [type_of[kind] for kind in config.layer_kinds],
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": serving.pad_token_id,
        "max_position_embeddings": serving.max_position_embeddings,
    }


def dolma2_serving(config: ModelConfig, *, context: int) -> Serving:
    """The special tokens of the dolma2 tokenizer, and `context` tokens. Raises HFFormatError for a vocabulary of another size."""
    if config.vocab_size != DOLMA2_VOCAB:
        raise HFFormatError(
            f"model.vocab_size={config.vocab_size}: not dolma2's {DOLMA2_VOCAB}; name its eos and pad tokens with `serving`"
        )
    return Serving(eos_token_id=100257, pad_token_id=100277, max_position_embeddings=context)
