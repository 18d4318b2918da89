"""Where a model's parameters are, for people. Pure."""

from model.config import ModelConfig
from model.mixers.registry import MIXERS
from model.parameters import model_parameters

PARTS = ("embedding", *dict.fromkeys(mixer.part for mixer in MIXERS.values()), "feed-forwards", "norms", "head")


def params_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of the embedding, of each kind of mixer with its gates, of the feed-forwards, the norms and the head."""
    parts = dict.fromkeys(PARTS, 0)
    for name, parameter in model_parameters(config).items():
        parts[_part_of(name, config)] += parameter.size
    return parts


def _part_of(name: str, config: ModelConfig) -> str:
    match name.split("."):
        case ["embed" | "head" as end, _]:
            return "embedding" if end == "embed" else "head"
        case ["layers", layer, "mixer", *_] | ["gates", layer, _]:
            return MIXERS[config.layer_kinds[int(layer)]].part
        case ["layers", _, "ffn", *_]:
            return "feed-forwards"
        case ["norm", _] | ["layers", _, "mixer_norm" | "ffn_norm", _]:
            return "norms"
    raise ValueError(f"{name}: belongs to no part that is known")
