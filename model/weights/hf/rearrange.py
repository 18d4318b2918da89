"""The tensors of a checkpoint ⇄ parameters, as a Pairing says."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.weights.hf.family import Pairing


def parameter_from(pairing: Pairing, name: str, tensors: Sequence[Tensor]) -> Tensor:
    """One parameter of the pairing, in memory of its own, given all its tensors."""
    joined = _join(tensors)
    if pairing.to_ours is not None:
        joined = pairing.to_ours(joined)
    if len(pairing.parameters) == 1:
        return joined.contiguous()
    rows = [shape[0] for shape in pairing.parameters.values()]
    return joined.split(rows)[list(pairing.parameters).index(name)].clone(memory_format=torch.contiguous_format)


def tensors_from(pairing: Pairing, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Every tensor of the pairing by its key, each in memory of its own, given all its parameters."""
    joined = _join(parameters)
    if pairing.to_theirs is not None:
        joined = pairing.to_theirs(joined)
    if len(pairing.tensors) == 1:
        return {key: joined.contiguous() for key in pairing.tensors}
    rows = [shape[0] for shape in pairing.tensors.values()]
    return {key: part.clone(memory_format=torch.contiguous_format) for key, part in zip(pairing.tensors, joined.split(rows), strict=True)}


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
