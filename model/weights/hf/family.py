"""What a family of models at Hugging Face has to say of itself, and how any family's tensors are found in a checkpoint. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from model.config import ModelConfig
from model.declare import Shape
from model.parameters import parameter_shapes
from model.weights.hf.errors import HFFormatError
from model.weights.hf.fields import Json
from model.weights.hf.serving import Serving

LAYER = "{layer}"
"""Stands for the number of the layer in names and keys that all layers of a kind share."""
_WRAPPERS = frozenset(["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
"""What DDP, torch.compile, FSDP and activation checkpointing put into the keys of a state dict that is saved through them."""
Rearrange = Callable[[Any], Any]
"""Gives a tensor's numbers in another order or shape, or shifted; by the tensor's own methods, so that families need no torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Parameters of ours and the tensors of a checkpoint that hold the same numbers; most often one of each, equal.

    Several are joined along dimension 0, in their order here. Between the joined tensors and the joined parameters may lie a
    rearrangement: a transpose, rows interleaved by heads, experts in a dimension of their own.
    """

    parameters: Mapping[str, Shape]
    """Our names, and the full shapes."""
    tensors: Mapping[str, Shape]
    """Keys of the checkpoint, and the shapes there."""
    to_ours: Rearrange | None = None
    """Makes the joined parameters of the joined tensors; None where they are the same."""
    to_theirs: Rearrange | None = None
    """Makes the joined tensors of the joined parameters; undoes `to_ours`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorMap:
    """How a family stores one model, and what else it understands."""

    written: tuple[Pairing, ...]
    """Every parameter once, in the order in which an export writes them."""
    other_keys: Mapping[str, str] = field(default_factory=dict)
    """Keys that other programs write → the key in `written` that they stand for."""
    other_cuts: tuple[Pairing, ...] = ()
    """Pairings that other programs write. Where all their tensors are found, they count instead of those of the same parameters."""


class Family(Protocol):
    """Models that transformers builds with one class. Its instances are listed in `model.weights.hf.families`."""

    model_type: str
    """How config.json calls the family: olmo_hybrid."""
    architecture: str
    """The class in transformers: OlmoHybridForCausalLM."""
    default_context: int
    """Tokens of context that transformers takes for a config.json without max_position_embeddings."""

    def exports(self, config: ModelConfig) -> bool:
        """Whether a model with these kinds of layers is written as this family; the first family of the list that says so writes it."""

    def config_from_hf(self, hf: Json) -> ModelConfig:
        """The model that a config.json of this model_type describes.

        Raises HFFormatError, naming the key, for anything that changes the model and can't be said with ModelConfig.
        """

    def config_to_hf(self, config: ModelConfig, *, serving: Serving, dtype: str) -> dict[str, Any]:
        """The config.json of which transformers builds the same model; `dtype` as it spells them: bfloat16.

        Raises HFFormatError for a model that its class is not.
        """

    def default_serving(self, config: ModelConfig) -> Serving:
        """The special tokens and context of the family's own tokenizer. Raises HFFormatError for a vocabulary of another size."""

    def tensor_map(self, config: ModelConfig) -> TensorMap:
        """Where each parameter lies in a checkpoint. Raises HFFormatError for a kind of layer that the family doesn't have."""


def tensor_map_of(family: Family, config: ModelConfig) -> TensorMap:
    """The family's tensors for this model. Raises HFFormatError for a parameter that it stores nowhere, or twice."""
    tensor_map = family.tensor_map(config)
    times = Counter(name for pairing in tensor_map.written for name in pairing.parameters)
    for name in parameter_shapes(config):
        if times[name] != 1:
            raise HFFormatError(f"{name}: {family.model_type} stores it {times[name]} times; its tensor_map must have every parameter once")
    return tensor_map


def layer_keys(config: ModelConfig, keys_of_kind: Mapping[str, Mapping[str, str]], *, model_type: str) -> dict[str, str]:
    """What a table has for the kind of each layer, with the layer's number in place of LAYER.

    Raises HFFormatError for a kind that the table lacks.
    """
    keys: dict[str, str] = {}
    for layer, kind in enumerate(config.layer_kinds):
        if kind not in keys_of_kind:
            raise HFFormatError(f"model.layer_pattern={config.layer_pattern!r}: {model_type} has no {kind} layers; name another family")
        keys |= {left.replace(LAYER, str(layer)): right.replace(LAYER, str(layer)) for left, right in keys_of_kind[kind].items()}
    return keys


def equal_pairings(keys: Mapping[str, str], shapes: Mapping[str, Shape]) -> list[Pairing]:
    """A tensor for each parameter and equal to it, given name → key and name → shape."""
    return [Pairing(parameters={name: shapes[name]}, tensors={key: shapes[name]}) for name, key in keys.items()]


def shortest_pattern(kinds: tuple[str, ...]) -> str:
    """The shortest model.layer_pattern that gives layers of these kinds."""
    periods = (length for length in range(1, len(kinds)) if all(kind == kinds[i % length] for i, kind in enumerate(kinds)))
    return " ".join(kinds[: next(periods, len(kinds))])


def find_parameters(tensor_map: TensorMap, found: Mapping[str, Shape]) -> dict[str, Pairing]:
    """Every parameter's name → its pairing, with the keys that a checkpoint of these keys and shapes has.

    Raises HFFormatError, naming the key, when one is missing, unexpected, there twice or of another shape.
    """
    spelled = _without_wrappers(found)
    shapes = {key: found[there] for key, there in spelled.items()}
    pairings = _as_cut_here(tensor_map, shapes)
    key_here = _match_keys([key for pairing in pairings for key in pairing.tensors], tensor_map.other_keys, shapes)
    placed: dict[str, Pairing] = {}
    for pairing in pairings:
        here = replace(pairing, tensors={spelled[key_here[key]]: shape for key, shape in pairing.tensors.items()})
        for key, shape in here.tensors.items():
            if found[key] != shape:
                raise HFFormatError(f"{key}: shape {list(found[key])}, but config.json makes it {list(shape)}; one of them is wrong")
        placed |= dict.fromkeys(here.parameters, here)
    return placed


def _without_wrappers(found: Iterable[str]) -> dict[str, str]:
    """Every key without the parts that a wrapper of the module left in it → how it is spelled. Raises HFFormatError for one key twice."""
    spelled: dict[str, str] = {}
    for key in sorted(found):
        bare = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if bare in spelled:
            raise HFFormatError(f"{key}: the same tensor is there as {spelled[bare]}; remove one of them")
        spelled[bare] = key
    return spelled


def _as_cut_here(tensor_map: TensorMap, found: Mapping[str, Shape]) -> list[Pairing]:
    """The written pairings, or others in place of those of the same parameters."""
    others = [cut for cut in tensor_map.other_cuts if all(found.get(key) == shape for key, shape in cut.tensors.items())]
    replaced = {name for cut in others for name in cut.parameters}
    return [*(pairing for pairing in tensor_map.written if replaced.isdisjoint(pairing.parameters)), *others]


def _match_keys(wanted: Sequence[str], other_keys: Mapping[str, str], found: Iterable[str]) -> dict[str, str]:
    """Every wanted key → how it is spelled among those that were found."""
    key_here: dict[str, str] = {}
    stands_for = {key: key for key in wanted} | {other: key for other, key in other_keys.items() if key in wanted}
    for key in sorted(found):
        if key not in stands_for:
            raise HFFormatError(f"{key}: not a tensor of the model that config.json describes; remove it, or mend config.json")
        if stands_for[key] in key_here:
            raise HFFormatError(f"{key}: the same tensor is there as {key_here[stands_for[key]]}; remove one of them")
        key_here[stands_for[key]] = key
    for key in wanted:
        if key not in key_here:
            raise HFFormatError(f"{key}: missing, but the model that config.json describes has it; get the complete checkpoint")
    return key_here
