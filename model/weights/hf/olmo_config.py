"""Hugging Face's config.json ⇄ ModelConfig, for `olmo_hybrid` and `olmo3`. Pure."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.presets import DOLMA2_VOCAB

Json = Mapping[str, Any]

HYBRID, OLMO3 = "olmo_hybrid", "olmo3"
KIND_OF = {
    HYBRID: {"linear_attention": "gdn", "full_attention": "attn"},
    OLMO3: {"sliding_attention": "window", "full_attention": "attn"},
}
ARCHITECTURE_OF = {HYBRID: "OlmoHybridForCausalLM", OLMO3: "Olmo3ForCausalLM"}
GDN_NORM_EPS = 1e-5
"""Of the GDN output norm; transformers has it in its code, not in config.json."""
OLMO3_ROPE_THETA = 5e5
"""What transformers takes for an olmo3 whose config.json has none."""
FIXED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "linear_allow_neg_eigval": True,
    "quantization_config": None,
    "tie_word_embeddings": False,
}
"""Keys with the one value that this model is; where config.json has none, transformers takes the same."""


class HFFormatError(ValueError):
    """A Hugging Face directory that is not one of these models, or a model that their format can't hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What config.json tells those who generate text; the network doesn't depend on it."""

    eos_token_id: int | tuple[int, ...] | None
    pad_token_id: int | None
    max_position_embeddings: int
    """The longest context that inference engines will serve."""


def default_serving(config: ModelConfig) -> Serving:
    """Of the dolma2 tokenizer. Raises HFFormatError for a vocabulary of another size."""
    if config.vocab_size != DOLMA2_VOCAB:
        raise HFFormatError(
            f"model.vocab_size={config.vocab_size}: not dolma2's {DOLMA2_VOCAB}; name its eos and pad tokens with `serving`"
        )
    return Serving(eos_token_id=100257, pad_token_id=100277, max_position_embeddings=65536 if "gdn" in config.layer_kinds else 8192)


def config_from_hf(hf: Json) -> ModelConfig:
    """Raises HFFormatError, naming the key, for anything that changes the model and can't be said with ModelConfig."""
    model_type = hf.get("model_type")
    if not isinstance(model_type, str) or model_type not in KIND_OF:
        raise HFFormatError(f"config.json model_type={model_type!r}: not known here; use {HYBRID} or {OLMO3}")
    ours = ARCHITECTURE_OF[model_type]
    if hf.get("architectures") not in (None, [], [ours]):
        raise HFFormatError(f"config.json architectures={hf['architectures']!r}: {model_type} here is {ours}; get a checkpoint of that")
    for key, value in FIXED.items():
        if key in hf and not _is(hf[key], value):
            raise HFFormatError(f"config.json {key}={hf[key]!r}: this model has {value!r}; such a checkpoint can't be imported")
    num_heads = _int(hf, "num_attention_heads")
    for key in ("num_key_value_heads", "linear_num_key_heads", "linear_num_value_heads"):
        if _int(hf, key, num_heads) != num_heads:
            raise HFFormatError(f"config.json {key}={hf[key]!r}: all layers here have num_attention_heads={num_heads} heads of each kind")
    layer_kinds = _layer_kinds(hf, model_type)
    try:
        return ModelConfig(
            vocab_size=_int(hf, "vocab_size"),
            d_model=_int(hf, "hidden_size"),
            num_layers=len(layer_kinds),
            num_heads=num_heads,
            head_dim=_int(hf, "head_dim", _int(hf, "hidden_size") // num_heads),
            ffn_width=_int(hf, "intermediate_size"),
            layer_pattern=" ".join(_shortest_period(layer_kinds)),
            rope_theta=_rope_theta(hf, model_type),
            norm_eps=_number(hf, "rms_norm_eps", 1e-6 if model_type == HYBRID else 1e-5),
            gdn_norm_eps=GDN_NORM_EPS,
            **(_gdn_sizes(hf, num_heads) if model_type == HYBRID else _window_sizes(hf, layer_kinds)),
        )
    except HFFormatError:
        raise
    except ValueError as error:
        raise HFFormatError(f"config.json makes a model that can't be: {error}") from error


def serving_from_hf(hf: Json) -> Serving:
    """Raises HFFormatError, naming the key, for what is no token or length."""
    eos = hf.get("eos_token_id")
    return Serving(
        eos_token_id=tuple(_token("eos_token_id", token) for token in eos) if isinstance(eos, list) else _token_or_none(hf, "eos_token_id"),
        pad_token_id=_token_or_none(hf, "pad_token_id"),
        max_position_embeddings=_int(hf, "max_position_embeddings", 65536 if hf.get("model_type") == HYBRID else 2048),
    )


def config_to_hf(config: ModelConfig, *, serving: Serving, dtype: str) -> dict[str, Any]:
    """The config.json that transformers ≥ 5.23 builds the same model from; `dtype` as it spells them: bfloat16.

    Raises HFFormatError for a model that neither of their classes is.
    """
    model_type = HYBRID if "gdn" in config.layer_kinds else OLMO3
    _check_representable(config, model_type)
    type_of = {kind: layer_type for layer_type, kind in KIND_OF[model_type].items()}
    rope = {"rope_theta": config.rope_theta or None, "rope_type": "default"}
    eos = serving.eos_token_id
    return {
        "architectures": [ARCHITECTURE_OF[model_type]],
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
        **(_hybrid_keys(config, rope) if model_type == HYBRID else _olmo3_keys(config, rope)),
    }


def _hybrid_keys(config: ModelConfig, rope: Json) -> dict[str, Any]:
    return {
        "rope_parameters": rope,
        "linear_num_key_heads": config.num_heads,
        "linear_num_value_heads": config.num_heads,
        "linear_key_head_dim": config.gdn_key_dim,
        "linear_value_head_dim": config.gdn_value_dim,
        "linear_conv_kernel_dim": config.conv_width,
        "linear_allow_neg_eigval": True,
    }


def _olmo3_keys(config: ModelConfig, rope: Json) -> dict[str, Any]:
    return {"rope_parameters": {layer_type: dict(rope) for layer_type in KIND_OF[OLMO3]}, "sliding_window": config.window}


def _check_representable(config: ModelConfig, model_type: str) -> None:
    kinds = set(config.layer_kinds)
    if model_type == HYBRID and kinds != {"gdn", "attn"}:
        raise HFFormatError(f"model.layer_pattern={config.layer_pattern!r}: {HYBRID} has gdn and attn layers, both; this can't be exported")
    if model_type == HYBRID and config.gdn_norm_eps != GDN_NORM_EPS:
        raise HFFormatError(f"model.gdn_norm_eps={config.gdn_norm_eps}: {HYBRID} always has {GDN_NORM_EPS}; this can't be exported")
    if model_type == OLMO3 and config.rope_theta == 0:
        raise HFFormatError(f"model.rope_theta=0: {OLMO3} always has rotary positions; this can't be exported")


def _layer_kinds(hf: Json, model_type: str) -> tuple[str, ...]:
    num_layers, kind_of = _int(hf, "num_hidden_layers"), KIND_OF[model_type]
    usual = next(iter(kind_of))
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


def _shortest_period(kinds: tuple[str, ...]) -> tuple[str, ...]:
    periods = (length for length in range(1, len(kinds)) if all(kind == kinds[i % length] for i, kind in enumerate(kinds)))
    return kinds[: next(periods, len(kinds))]


def _gdn_sizes(hf: Json, num_heads: int) -> dict[str, Any]:
    key_dim = _int(hf, "linear_key_head_dim", 3 * _int(hf, "hidden_size") // (4 * num_heads))
    return {
        "gdn_key_dim": key_dim,
        "gdn_value_dim": _int(hf, "linear_value_head_dim", 2 * key_dim),
        "conv_width": _int(hf, "linear_conv_kernel_dim", 4),
    }


def _window_sizes(hf: Json, layer_kinds: tuple[str, ...]) -> dict[str, Any]:
    if hf.get("sliding_window", 4096) is None:
        if "window" in layer_kinds:
            raise HFFormatError("config.json sliding_window=null: there are sliding_attention layers; say how many tokens they see")
        return {}
    return {"window": _int(hf, "sliding_window", 4096)}


def _rope_theta(hf: Json, model_type: str) -> float:
    """One base for all layers, 0 for no rotary positions; said flat or by layer type, or in the older spelling."""
    found = _object(hf, "rope_parameters")
    by_type = [_object(found, layer_type) for layer_type in KIND_OF[model_type] if found.get(layer_type) is not None]
    otherwise = {key: hf[key] for key in ("rope_theta", "partial_rotary_factor") if key in hf}
    ropes = [{**otherwise, **rope, **_object(hf, "rope_scaling")} for rope in by_type or [found]]
    for rope in ropes:
        _check_rotates_plainly(rope)
    if model_type == HYBRID and not all("rope_theta" in rope for rope in ropes):
        raise HFFormatError('config.json rope_parameters: no rope_theta; write {"rope_theta": null} for no rotary positions, or their base')
    thetas = {_theta(rope) for rope in ropes}
    if len(thetas) > 1 or (thetas == {None} and model_type == OLMO3):
        raise HFFormatError(f"config.json rope_parameters: rope_theta {sorted(map(str, thetas))}; all layers here need the same, a number")
    return thetas.pop() or 0.0


def _theta(rope: Json) -> float | None:
    return None if rope.get("rope_theta", OLMO3_ROPE_THETA) is None else _number(rope, "rope_theta", OLMO3_ROPE_THETA)


def _check_rotates_plainly(rope: Json) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise HFFormatError(f"config.json rope_parameters: rope_type={kind!r}; only 'default' positions can be imported")
    factor = rope.get("partial_rotary_factor")
    if factor is not None and not _is(factor, 1.0):
        raise HFFormatError(
            f"config.json partial_rotary_factor={factor!r}: here all of a head rotates, which is 1; such a checkpoint can't be imported"
        )


def _is(found: object, value: object) -> bool:
    """Equal; but True is not 1."""
    return found == value and isinstance(found, bool) == isinstance(value, bool)


def _object(hf: Json, key: str) -> Json:
    value = hf.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise HFFormatError(f'config.json {key}={value!r}: give an object, such as {{"rope_theta": 500000.0}}')
    return value or {}


def _number(hf: Json, key: str, default: float) -> float:
    value = hf.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise HFFormatError(f"config.json {key}={value!r}: give a number above 0")
    return float(value)


def _token_or_none(hf: Json, key: str) -> int | None:
    return None if hf.get(key) is None else _token(key, hf[key])


def _token(key: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise HFFormatError(f"config.json {key}: {value!r} is no token; give whole numbers of 0 or more")
    return value


def _int(hf: Json, key: str, default: int | None = None) -> int:
    value = default if hf.get(key) is None else hf[key]
    if type(value) is not int or value < 1:
        raise HFFormatError(f"config.json {key}={value!r}: give a positive whole number")
    return value
