"""Every parameter of a model: what each part declares, by the names that the built model has. Pure."""

from model.config import ModelConfig
from model.declare import Cut, Parameter, Shape, norm_weight, prefixed, vocabulary_rows
from model.ffn.swiglu.costs import swiglu_parameters
from model.mixers.registry import MIXERS


def model_parameters(config: ModelConfig) -> dict[str, Parameter]:
    """Every parameter by name, in the order of the checkpoint formats: embedding, layers with their gates, last norm, head."""
    parameters = {"embed.weight": vocabulary_rows(config.vocab_size, config.d_model)}
    for layer, kind in enumerate(config.layer_kinds):
        parameters |= prefixed(f"layers.{layer}", block_parameters(config, kind))
        parameters |= prefixed(f"gates.{layer}", MIXERS[kind].gate_parameters(config))
    return parameters | {
        "norm.weight": norm_weight(config.d_model, Cut.NOTHING),
        "head.weight": vocabulary_rows(config.vocab_size, config.d_model),
    }


def block_parameters(config: ModelConfig, kind: str) -> dict[str, Parameter]:
    """Everything in a block whose mixer is of this kind: mixer and feed-forward, each with its norm."""
    return {
        **prefixed("mixer", MIXERS[kind].parameters(config)),
        "mixer_norm.weight": norm_weight(config.d_model, Cut.NOTHING),
        **prefixed("ffn", swiglu_parameters(config.d_model, config.ffn_width)),
        "ffn_norm.weight": norm_weight(config.d_model, Cut.NOTHING),
    }


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every parameter's full shape by name."""
    return {name: parameter.shape for name, parameter in model_parameters(config).items()}


def num_params(config: ModelConfig) -> int:
    """Parameters in all, both embeddings included."""
    return sum(parameter.size for parameter in model_parameters(config).values())
