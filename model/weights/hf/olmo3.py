"""Olmo 3 (arXiv 2512.13961): attention over a sliding window, and full attention. Pure."""

from typing import Any

from model.config import ModelConfig
from model.weights.hf.errors import HFFormatError
from model.weights.hf.family import TensorMap
from model.weights.hf.fields import Json, positive_int, positive_number
from model.weights.hf.olmo import (
    ATTENTION_KEYS,
    dolma2_serving,
    keys_of_config,
    olmo_pairings,
    one_rope_theta,
    read_ropes,
    read_sizes,
    rope_to_hf,
)
from model.weights.hf.serving import Serving

KIND_OF = {"sliding_attention": "window", "full_attention": "attn"}
KEYS_OF_KIND = {"window": ATTENTION_KEYS, "attn": ATTENTION_KEYS}


class Olmo3:
    """The family of the released Olmo 3 7B; see `model.weights.hf.family.Family`."""

    model_type = "olmo3"
    architecture = "Olmo3ForCausalLM"
    default_context = 2048

    def exports(self, config: ModelConfig) -> bool:
        return set(config.layer_kinds) <= {"window", "attn"}

    def config_from_hf(self, hf: Json) -> ModelConfig:
        sizes = read_sizes(hf, KIND_OF, model_type=self.model_type)
        return ModelConfig(
            **sizes,
            rope_theta=one_rope_theta(read_ropes(hf, KIND_OF), or_none=False),
            norm_eps=positive_number(hf, "rms_norm_eps", 1e-5),
            **_read_window(hf, has_window="window" in sizes["layer_pattern"].split()),
        )

    def config_to_hf(self, config: ModelConfig, *, serving: Serving, dtype: str) -> dict[str, Any]:
        if config.rope_theta == 0:
            raise HFFormatError(f"model.rope_theta=0: {self.model_type} always has rotary positions; this can't be exported")
        return {
            **keys_of_config(config, KIND_OF, model_type=self.model_type, architecture=self.architecture, serving=serving, dtype=dtype),
            "rope_parameters": {layer_type: rope_to_hf(config) for layer_type in KIND_OF},
            "sliding_window": config.window,
        }

    def default_serving(self, config: ModelConfig) -> Serving:
        return dolma2_serving(config, context=8192)

    def tensor_map(self, config: ModelConfig) -> TensorMap:
        return TensorMap(written=olmo_pairings(config, KEYS_OF_KIND, model_type=self.model_type))


def _read_window(hf: Json, *, has_window: bool) -> dict[str, Any]:
    """The field `window` of ModelConfig; none for null, in a model without layers that have one."""
    if hf.get("sliding_window", 4096) is None:
        if has_window:
            raise HFFormatError("config.json sliding_window=null: there are sliding_attention layers; say how many tokens they see")
        return {}
    return {"window": positive_int(hf, "sliding_window", 4096)}
