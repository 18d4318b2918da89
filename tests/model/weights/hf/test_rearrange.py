"""Parameters and the tensors of a checkpoint that hold the same numbers in another cut or order."""

import torch

from model.weights.hf.family import Pairing
from model.weights.hf.rearrange import parameter_from, tensors_from


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def test_a_tensor_that_is_a_parameter_is_handed_on() -> None:
    pairing, tensor = Pairing(parameters={"a": (2, 3)}, tensors={"A": (2, 3)}), numbers(2, 3)
    assert parameter_from(pairing, "a", [tensor]) is tensor
    assert tensors_from(pairing, [tensor])["A"] is tensor


def test_joined_rows_are_cut_at_other_places() -> None:
    pairing = Pairing(parameters={"q": (1, 2), "k": (1, 2), "v": (4, 2)}, tensors={"Q": (2, 2), "K": (2, 2), "V": (2, 2)})
    thirds = list(numbers(6, 2).split(2))
    parameters = [parameter_from(pairing, name, thirds) for name in "qkv"]
    assert [parameter.tolist() for parameter in parameters] == [[[0, 1]], [[2, 3]], [[4, 5], [6, 7], [8, 9], [10, 11]]]
    back = tensors_from(pairing, parameters)
    assert list(back) == ["Q", "K", "V"]
    assert all(torch.equal(tensor, third) for tensor, third in zip(back.values(), thirds, strict=True))


def test_what_is_cut_out_does_not_hold_on_to_the_rest() -> None:
    pairing = Pairing(parameters={"gate": (2, 3), "up": (4, 3)}, tensors={"both": (6, 3)})
    up = parameter_from(pairing, "up", [numbers(6, 3)])
    assert up.untyped_storage().nbytes() == up.nbytes


def test_experts_with_a_key_each_are_one_parameter() -> None:
    pairing = Pairing(
        parameters={"experts": (3, 4, 2)},
        tensors={f"experts.{expert}": (4, 2) for expert in range(3)},
        to_ours=lambda joined: joined.unflatten(0, (3, 4)),
        to_theirs=lambda stacked: stacked.flatten(0, 1),
    )
    parameter = parameter_from(pairing, "experts", list(numbers(3, 4, 2)))
    assert torch.equal(parameter, numbers(3, 4, 2))
    assert torch.equal(tensors_from(pairing, [parameter])["experts.2"], numbers(3, 4, 2)[2])
