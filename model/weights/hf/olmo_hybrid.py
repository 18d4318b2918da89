"""Olmo Hybrid (arXiv 2604.03444): gated delta-rule layers and full attention. Pure."""

from collections.abc import Iterator
from typing import Any

from model.config import ModelConfig
from model.parameters import parameter_shapes
from model.weights.hf.errors import HFFormatError
from model.weights.hf.family import LAYER, Pairing, TensorMap, layer_keys
from model.weights.hf.fields import Json, positive_int, positive_number
from model.weights.hf.olmo import (
    ATTENTION_KEYS,
    FFN_KEYS,
    dolma2_serving,
    in_block,
    keys_of_config,
    olmo_pairings,
    one_rope_theta,
    read_ropes,
    read_sizes,
    rope_to_hf,
)
from model.weights.hf.serving import Serving

KIND_OF = {"linear_attention": "gdn", "full_attention": "attn"}
GDN_NORM_EPS = 1e-5
"""The epsilon of the norm at the output of a GDN mixer, which transformers has in its code and not in config.json."""
GDN_KEYS = {
    **in_block({f"mixer.{name}_proj.weight": f"linear_attn.{name}_proj.weight" for name in "qkvabgo"}),
    **in_block({f"mixer.{name}_conv.weight": f"linear_attn.{name}_conv1d.weight" for name in "qkv"}),
    **in_block({"mixer.o_norm.weight": "linear_attn.o_norm.weight"}),
    **in_block({"mixer_norm.weight": "attention_layer_norm.weight", "ffn_norm.weight": "feedforward_layer_norm.weight"}),
    **FFN_KEYS,
    **{f"gates.{LAYER}.{name}": f"model.layers.{LAYER}.linear_attn.{name}" for name in ("A_log", "dt_bias")},
}
"""Our names in a GDN block → the keys of the released checkpoints, in the order in which they are written."""
KEYS_OF_KIND = {"gdn": GDN_KEYS, "attn": ATTENTION_KEYS}
OTHER_KEYS_OF_KIND = {
    "gdn": {  # another exporter's spelling
        f"model.layers.{LAYER}.linear_attn.out_proj.weight": f"model.layers.{LAYER}.linear_attn.o_proj.weight",
        f"model.layers.{LAYER}.linear_attn.norm.weight": f"model.layers.{LAYER}.linear_attn.o_norm.weight",
    },
    "attn": {  # save_pretrained (transformers 5.23) undoes its renaming of the GDN blocks' norms in every block
        f"model.layers.{LAYER}.feedforward_layer_norm.weight": f"model.layers.{LAYER}.post_attention_layernorm.weight",
    },
}
"""Keys that are understood as well → the released ones."""


class OlmoHybrid:
    """The family of the released Olmo Hybrid 7B; see `model.weights.hf.family.Family`."""

    model_type = "olmo_hybrid"
    architecture = "OlmoHybridForCausalLM"
    default_context = 65536

    def exports(self, config: ModelConfig) -> bool:
        return "gdn" in config.layer_kinds

    def config_from_hf(self, hf: Json) -> ModelConfig:
        sizes = read_sizes(hf, KIND_OF, model_type=self.model_type)
        return ModelConfig(
            **sizes,
            rope_theta=_read_rope_theta(hf),
            norm_eps=positive_number(hf, "rms_norm_eps", 1e-6),
            gdn_norm_eps=GDN_NORM_EPS,
            **_read_gdn_sizes(hf, num_heads=sizes["num_heads"], default_key_dim=3 * sizes["d_model"] // (4 * sizes["num_heads"])),
        )

    def config_to_hf(self, config: ModelConfig, *, serving: Serving, dtype: str) -> dict[str, Any]:
        if set(config.layer_kinds) != {"gdn", "attn"}:
            raise HFFormatError(
                f"model.layer_pattern={config.layer_pattern!r}: {self.model_type} has gdn and attn layers, both; this can't be exported"
            )
        if config.gdn_norm_eps != GDN_NORM_EPS:
            raise HFFormatError(
                f"model.gdn_norm_eps={config.gdn_norm_eps}: {self.model_type} always has {GDN_NORM_EPS}; this can't be exported"
            )
        return {
            **keys_of_config(config, KIND_OF, model_type=self.model_type, architecture=self.architecture, serving=serving, dtype=dtype),
            "rope_parameters": rope_to_hf(config),
            "linear_num_key_heads": config.key_heads,
            "linear_num_value_heads": config.value_heads,
            "linear_key_head_dim": config.gdn_key_dim,
            "linear_value_head_dim": config.gdn_value_dim,
            "linear_conv_kernel_dim": config.conv_width,
            "linear_allow_neg_eigval": True,
        }

    def default_serving(self, config: ModelConfig) -> Serving:
        return dolma2_serving(config, context=65536)

    def tensor_map(self, config: ModelConfig) -> TensorMap:
        return TensorMap(
            written=olmo_pairings(config, KEYS_OF_KIND, model_type=self.model_type),
            other_keys=layer_keys(config, OTHER_KEYS_OF_KIND, model_type=self.model_type),
            other_cuts=tuple(_convolutions_in_thirds(config)),
        )


def _read_rope_theta(hf: Json) -> float:
    """The base of the rotary positions; 0 for null, which is none. It has to be said: transformers would take one of its own."""
    ropes = read_ropes(hf, KIND_OF)
    if not all("rope_theta" in rope for rope in ropes):
        raise HFFormatError('config.json rope_parameters: no rope_theta; write {"rope_theta": null} for no rotary positions, or their base')
    return one_rope_theta(ropes, or_none=True)


def _read_gdn_sizes(hf: Json, *, num_heads: int, default_key_dim: int) -> dict[str, Any]:
    """The fields of ModelConfig that are for GDN layers alone; heads as 0 where they are the defaults."""
    key_heads = positive_int(hf, "linear_num_key_heads", num_heads)
    value_heads = positive_int(hf, "linear_num_value_heads", num_heads)
    key_dim = positive_int(hf, "linear_key_head_dim", default_key_dim)
    return {
        "gdn_num_key_heads": 0 if key_heads == num_heads else key_heads,
        "gdn_num_value_heads": 0 if value_heads == key_heads else value_heads,
        "gdn_key_dim": key_dim,
        "gdn_value_dim": positive_int(hf, "linear_value_head_dim", 2 * key_dim),
        "conv_width": positive_int(hf, "linear_conv_kernel_dim", 4),
    }


def _convolutions_in_thirds(config: ModelConfig) -> Iterator[Pairing]:
    """The convolutions of q, k and v as save_pretrained (5.23) cuts them: joined, and then into thirds whatever K and V are."""
    shapes = parameter_shapes(config)
    for layer, kind in enumerate(config.layer_kinds):
        if kind != "gdn":
            continue
        ours = {name: shapes[name] for name in (f"layers.{layer}.mixer.{conv}_conv.weight" for conv in "qkv")}
        num_rows = sum(shape[0] for shape in ours.values())
        third = -(-num_rows // 3)
        thirds = dict(zip("qkv", (third, third, num_rows - 2 * third), strict=True))
        if list(thirds.values()) != [shape[0] for shape in ours.values()]:
            theirs = {
                f"model.layers.{layer}.linear_attn.{conv}_conv1d.weight": (rows, 1, config.conv_width) for conv, rows in thirds.items()
            }
            yield Pairing(parameters=ours, tensors=theirs)
