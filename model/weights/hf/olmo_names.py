"""Our parameters ⇄ the keys of a Hugging Face checkpoint. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from model.config import ModelConfig
from model.declare import Shape
from model.parameters import parameter_shapes
from model.weights.hf.olmo_config import HFFormatError

FFN = {f"ffn.{name}_proj.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
GDN = {
    **{f"mixer.{name}_proj.weight": f"linear_attn.{name}_proj.weight" for name in "qkvabgo"},
    **{f"mixer.{name}_conv.weight": f"linear_attn.{name}_conv1d.weight" for name in "qkv"},
    "mixer.o_norm.weight": "linear_attn.o_norm.weight",
    "mixer_norm.weight": "attention_layer_norm.weight",
    "ffn_norm.weight": "feedforward_layer_norm.weight",
    **FFN,
}
ATTENTION = {
    **{f"mixer.{name}_proj.weight": f"self_attn.{name}_proj.weight" for name in "qkvo"},
    **{f"mixer.{name}_norm.weight": f"self_attn.{name}_norm.weight" for name in "qk"},
    "mixer_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "post_feedforward_layernorm.weight",
    **FFN,
}
"""Our names within a block → theirs."""
GATES = ("A_log", "dt_bias")
OTHER_SPELLINGS = {
    "linear_attn.out_proj.weight": "mixer.o_proj.weight",
    "linear_attn.norm.weight": "mixer.o_norm.weight",
}
"""Of GDN blocks, by another exporter → our names."""
SAVED_BY_TRANSFORMERS = {"feedforward_layer_norm.weight": "mixer_norm.weight"}
"""Of a hybrid's attention blocks: save_pretrained (5.23) undoes its renaming of the GDN blocks' norms in every block."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a checkpoint: under one key, or in `rows` of what several keys hold, one after the other."""

    keys: tuple[str, ...]
    rows: slice | None = None


def checkpoint_keys(config: ModelConfig) -> dict[str, str]:
    """Every parameter's name → its key, in the order of the model."""
    keys = {"embed.weight": "model.embed_tokens.weight"}
    for layer, kind in enumerate(config.layer_kinds):
        block = GDN if kind == "gdn" else ATTENTION
        keys |= {f"layers.{layer}.{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in block.items()}
        if kind == "gdn":
            keys |= {f"gates.{layer}.{name}": f"model.layers.{layer}.linear_attn.{name}" for name in GATES}
    return keys | {"norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}


def place_tensors(config: ModelConfig, found: Mapping[str, Shape]) -> dict[str, Place]:
    """Every parameter's name → where it lies among the keys of a checkpoint and their shapes.

    Raises HFFormatError, naming the key, when one is missing, unexpected, there twice or of another shape.
    """
    key_of, expected = _match_keys(config, found), parameter_shapes(config)
    places = {name: Place((key,)) for name, key in key_of.items()}
    for layer, kind in enumerate(config.layer_kinds):
        if kind == "gdn":
            convs = [f"layers.{layer}.mixer.{conv}_conv.weight" for conv in "qkv"]
            places |= _places_in_thirds({name: expected[name] for name in convs}, {key_of[name]: found[key_of[name]] for name in convs})
    for name, shape in expected.items():
        key = key_of[name]
        if places[name].rows is None and found[key] != shape:
            raise HFFormatError(f"{key}: shape {list(found[key])}, but config.json makes it {list(shape)}; one of them is wrong")
    return places


def _match_keys(config: ModelConfig, found: Mapping[str, Shape]) -> dict[str, str]:
    """Every parameter's name → the key that it has here."""
    usual = checkpoint_keys(config)
    name_of = {key: name for name, key in usual.items()} | _spelled_otherwise(config)
    key_of: dict[str, str] = {}
    for key in sorted(found):
        if key not in name_of:
            raise HFFormatError(f"{key}: not a tensor of the model that config.json describes; remove it, or mend config.json")
        if name_of[key] in key_of:
            raise HFFormatError(f"{key}: the same tensor is there as {key_of[name_of[key]]}; remove one of them")
        key_of[name_of[key]] = key
    for name, key in usual.items():
        if name not in key_of:
            raise HFFormatError(f"{key}: missing, but the model that config.json describes has it; get the complete checkpoint")
    return key_of


def _spelled_otherwise(config: ModelConfig) -> dict[str, str]:
    """Further keys → the parameters' names."""
    of_attention = SAVED_BY_TRANSFORMERS if "gdn" in config.layer_kinds else {}
    return {
        f"model.layers.{layer}.{key}": f"layers.{layer}.{name}"
        for layer, kind in enumerate(config.layer_kinds)
        for key, name in (OTHER_SPELLINGS if kind == "gdn" else of_attention).items()
    }


def _places_in_thirds(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> dict[str, Place]:
    """Of the convolutions where save_pretrained (5.23) cut those of q, k and v together into thirds, whatever K and V; else nothing."""
    num_rows = sum(shape[0] for shape in expected.values())
    third = -(-num_rows // 3)
    sizes = [shape[0] for shape in found.values()]
    if sizes != [third, third, num_rows - 2 * third] or sizes == [shape[0] for shape in expected.values()]:
        return {}
    places, start = {}, 0
    for name, shape in expected.items():
        places[name] = Place(tuple(found), slice(start, start + shape[0]))
        start += shape[0]
    return places
