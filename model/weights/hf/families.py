"""The families at Hugging Face that can be read and written: the only list of them, and the choice among them. Pure."""

from typing import Any

from model.config import ModelConfig
from model.weights.hf.errors import HFFormatError
from model.weights.hf.family import Family
from model.weights.hf.fields import Json
from model.weights.hf.olmo3 import Olmo3
from model.weights.hf.olmo_hybrid import OlmoHybrid
from model.weights.hf.serving import Serving, read_serving

FAMILIES: tuple[Family, ...] = (OlmoHybrid(), Olmo3())
SHORT_CONTEXT = 2048
"""Tokens of context for a config.json that names neither a length nor a family."""


def family_of_hf(hf: Json) -> Family:
    """The family that a config.json names. Raises HFFormatError for none of these, and for another of its networks."""
    model_type = hf.get("model_type")
    family = _named(model_type)
    if family is None:
        *first, last = [family.model_type for family in FAMILIES]
        raise HFFormatError(f"config.json model_type={model_type!r}: not known here; use {', '.join(first)} or {last}")
    if hf.get("architectures") not in (None, [], [family.architecture]):
        said = f"{family.model_type} here is {family.architecture}"
        raise HFFormatError(f"config.json architectures={hf['architectures']!r}: {said}; get a checkpoint of that")
    return family


def family_for(config: ModelConfig) -> Family:
    """The family that a model is written as. Raises HFFormatError where none has such layers."""
    for family in FAMILIES:
        if family.exports(config):
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise HFFormatError(f"model.layer_pattern={config.layer_pattern!r}: no family has such layers, of {known}; this can't be exported")


def config_from_hf(hf: Json) -> ModelConfig:
    """Raises HFFormatError, naming the key, for anything that changes the model and can't be said with ModelConfig."""
    family = family_of_hf(hf)
    try:
        return family.config_from_hf(hf)
    except HFFormatError:
        raise
    except ValueError as error:
        raise HFFormatError(f"config.json makes a model that can't be: {error}") from error


def config_to_hf(config: ModelConfig, *, serving: Serving, dtype: str) -> dict[str, Any]:
    """The config.json that transformers ≥ 5.23 builds the same model from; `dtype` as it spells them: bfloat16.

    Raises HFFormatError for a model that none of its classes is.
    """
    return family_for(config).config_to_hf(config, serving=serving, dtype=dtype)


def serving_from_hf(hf: Json) -> Serving:
    """What a config.json says of serving, which may be all it has. Raises HFFormatError, naming the key, for what is no token or length."""
    family = _named(hf.get("model_type"))
    return read_serving(hf, default_context=SHORT_CONTEXT if family is None else family.default_context)


def default_serving(config: ModelConfig) -> Serving:
    """What is served where nobody says: the tokenizer of the model's family. Raises HFFormatError for a vocabulary of another size."""
    return family_for(config).default_serving(config)


def _named(model_type: object) -> Family | None:
    return next((family for family in FAMILIES if family.model_type == model_type), None)
