"""A parameter that its layer does not declare can't slip into a model: it would train wrongly, with exact losses."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from model.build import require_declared, shard_model
from model.compute import ComputeConfig
from model.declare import Cut, Initial, Kind, Parameter
from model.ffn.swiglu.layer import SwiGLU
from model.lm import HybridLM
from model.mixers.gdn import layer as gdn
from model.parameters import model_parameters
from model.presets import PRESETS

TINY = PRESETS["tiny"]


def built() -> HybridLM:
    return shard_model(TINY, None, device=torch.device("meta"), compute=ComputeConfig(), compute_dtype=torch.float32)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (8, 8), (4, 8), (2, 4, 8), (2, 2, 4, 8)])
@pytest.mark.parametrize("where", ["", "layers.0", "layers.0.mixer", "layers.3.mixer", "layers.1.ffn", "layers.2.mixer.o_norm", "gates.0"])
@pytest.mark.parametrize("name", ["weight_scale", "router", "shared_gate", "bias"])
def test_a_new_parameter_of_any_shape_anywhere_is_refused_until_it_is_declared(shape: tuple[int, ...], where: str, name: str) -> None:
    model = built()
    model.get_submodule(where).register_parameter(name, nn.Parameter(torch.empty(shape, device="meta")))
    full_name = f"{where}.{name}".removeprefix(".")

    with pytest.raises(ValueError, match=f"^{full_name}: a parameter that nobody declares; say what it is where its layer does"):
        require_declared(model, model.declared)


@pytest.mark.parametrize("layer", [SwiGLU, gdn.GatedDeltaNet])
def test_a_model_is_not_built_with_a_layer_that_has_grown_a_parameter(layer: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    construct: Callable[..., None] = layer.__init__

    def grown(self: nn.Module, *arguments: object, **named: object) -> None:
        construct(self, *arguments, **named)
        self.temperature = nn.Parameter(torch.ones(4, 4))

    monkeypatch.setattr(layer, "__init__", grown)
    with pytest.raises(ValueError, match=r"^layers\.0\.(mixer|ffn)\.temperature: a parameter that nobody declares"):
        built()


def test_a_parameter_in_another_shape_than_declared_is_refused() -> None:
    model = built()
    model.norm.weight = nn.Parameter(torch.empty(TINY.d_model + 1, device="meta"))
    with pytest.raises(ValueError, match=r"^norm\.weight: its shape is \[129\], declared \[128\]"):
        require_declared(model, model.declared)


def test_a_declaration_of_nothing_is_refused() -> None:
    model = built()
    del model.head.weight
    with pytest.raises(ValueError, match=r"^head\.weight: declared, but the model has no such parameter"):
        require_declared(model, model.declared)


def test_nothing_that_a_declaration_says_has_a_default() -> None:
    whole = {"shape": (2, 2), "kind": Kind.MATRIX, "cut": Cut.OUTPUT, "initial": model_parameters(TINY)["embed.weight"].initial}
    Parameter(**whole)
    for missing in whole:
        with pytest.raises(TypeError, match=missing):
            Parameter(**{name: value for name, value in whole.items() if name != missing})


@pytest.mark.parametrize(
    ("kind", "shape", "cut", "said"),
    [
        (Kind.MATRIX, (2, 3, 4), Cut.OUTPUT, r"a matrix of shape \[2, 3, 4\]: a matrix has 2 dimensions; name another kind"),
        (Kind.MATRIX, (2,), Cut.OUTPUT, "has 2 dimensions"),
        (Kind.VECTOR, (), Cut.NOTHING, "has 1 dimensions"),
        (Kind.VECTOR, (2,), Cut.INPUT, "has no dimension for Cut.INPUT; use Cut.OUTPUT or Cut.NOTHING"),
        (Kind.CONVOLUTION, (2, 4), Cut.OUTPUT, "has 3 dimensions"),
        (Kind.VOCABULARY, (8, 4), Cut.NOTHING, "embedding and loss share them out over tp; use Cut.OUTPUT"),
    ],
)
def test_a_declaration_that_can_not_be_is_refused(kind: Kind, shape: tuple[int, ...], cut: Cut, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Parameter(shape=shape, kind=kind, cut=cut, initial=Initial.NORMAL)


def test_what_is_cut_is_cut_to_the_fullest_rank() -> None:
    odd = Parameter(shape=(7, 5), kind=Kind.MATRIX, cut=Cut.OUTPUT, initial=model_parameters(TINY)["embed.weight"].initial)
    assert odd.shape_on(2) == (4, 5)
    assert Parameter(shape=(7, 5), kind=odd.kind, cut=Cut.INPUT, initial=odd.initial).shape_on(2) == (7, 3)
    assert Parameter(shape=(7, 5), kind=odd.kind, cut=Cut.NOTHING, initial=odd.initial).shape_on(2) == (7, 5)
