"""Which settings each parameter is optimised with."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.build import build_model
from model.optim.build import build_optimizer, initial_state
from model.optim.config import OptimizerConfig, ParamGroup
from model.optim.groups import validate_groups
from model.parameters import model_parameters
from model.presets import PRESETS
from tests.model.toys import declared

CONFIG = OptimizerConfig(lr=0.1, weight_decay=0.5)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(5, 4), nn.RMSNorm(4), nn.Linear(4, 5, bias=False)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False)])


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def assert_shrinks(config: OptimizerConfig, factors: dict[str, float]) -> None:
    """One step without a gradient multiplies every element of each parameter by its factor: 1 - lr · weight_decay."""
    model = toy()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, declared(model), config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["lr_scale"]
    optimizer.step()
    assert before.keys() == factors.keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * factors[name], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_the_input_embedding_is_not_decayed_by_default(name: str) -> None:
    factors = {"embed.weight": 1.0, "norm.weight": 0.95, "head.weight": 0.95, "layers.0.weight": 0.95}
    assert_shrinks(replace(CONFIG, name=name), factors)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_first_group_whose_pattern_matches_counts(name: str) -> None:
    groups = (
        ParamGroup(pattern="norm.*", weight_decay=0.0),
        ParamGroup(pattern="layers.*", lr_scale=2.0, weight_decay=1.0),
        ParamGroup(pattern="*.weight", lr_scale=0.5),
    )
    factors = {"embed.weight": 0.975, "norm.weight": 1.0, "head.weight": 0.975, "layers.0.weight": 0.8}
    assert_shrinks(replace(CONFIG, name=name, groups=groups), factors)


def test_no_groups_at_all_treat_all_parameters_alike() -> None:
    assert_shrinks(replace(CONFIG, groups=()), dict.fromkeys(("embed.weight", "norm.weight", "head.weight", "layers.0.weight"), 0.95))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_built_optimizer_has_the_state_that_its_first_step_starts_from(name: str) -> None:
    config = replace(CONFIG, name=name)
    model = toy()
    optimizer = build_optimizer(model, declared(model), config)
    assert set(optimizer.state) == set(model.parameters())
    keys = {frozenset(state) for state in optimizer.state.values()}
    assert keys == {frozenset({"step", "exp_avg", "exp_avg_sq"})} | ({frozenset({"momentum_buffer"})} if name == "muon" else set())
    assert all(not tensor.any() for state in initial_state(optimizer).values() for tensor in state.values())


def test_adamw_steps_from_it_as_torchs_does_from_none_with_every_setting_of_the_configuration() -> None:
    ours, theirs = toy(), toy()
    config = replace(CONFIG, beta1=0.8, beta2=0.7, eps=0.01)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.7), eps=0.01, fused=True)
    optimizers = [build_optimizer(ours, declared(ours), config), adamw]
    optimizers[1].param_groups[0]["weight_decay"] = 0.5
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for step in (1, 2):
            for parameter in model.parameters():
                parameter.grad = torch.sin(torch.arange(parameter.numel()) + step).view_as(parameter)
            optimizer.step()
    assert torch.equal(ours.head.weight, theirs.head.weight)
    assert optimizers[0].state[ours.head.weight]["step"] == 2


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_scale_is_that_of_the_gradients(name: str) -> None:
    scaled, plain = toy(), toy()
    optimizers = [build_optimizer(model, declared(model), replace(CONFIG, name=name)) for model in (scaled, plain)]
    for step in (1, 2):
        for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
            ours.grad = torch.sin(torch.arange(ours.numel()) + step).view_as(ours)
            theirs.grad = ours.grad * 0.3
        optimizers[0].step(grad_scale=torch.tensor(0.3))
        optimizers[1].step()
    assert all(map(torch.equal, scaled.parameters(), plain.parameters()))
    for ours, theirs in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_step_whose_gradients_are_not_finite_is_withheld_and_the_next_one_goes_on(name: str, number: float) -> None:
    """Weights, moments and step counts, to the bit."""
    bad, good = toy(), toy()
    optimizers = [build_optimizer(model, declared(model), replace(CONFIG, name=name)) for model in (bad, good)]
    for step in (1, 2):
        for ours, theirs in zip(bad.parameters(), good.parameters(), strict=True):
            theirs.grad = torch.sin(torch.arange(ours.numel()) + step).view_as(ours)
            ours.grad = torch.full_like(ours, number)
        optimizers[0].step(grad_scale=torch.tensor(torch.nan), found_inf=torch.tensor(1.0))
        for ours, theirs in zip(bad.parameters(), good.parameters(), strict=True):
            ours.grad = theirs.grad.clone()
        optimizers[0].step(grad_scale=torch.tensor(1.0), found_inf=torch.tensor(0.0))
        optimizers[1].step()
    assert all(map(torch.equal, bad.parameters(), good.parameters()))
    for ours, theirs in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


DECLARED = model_parameters(PRESETS["tiny"])
MISTAKES = {
    "embed.weigth": "optimizer.groups[1].pattern='embed.weigth': matches no parameter; did you mean embed.weight?",
    "bias": "optimizer.groups[1].pattern='bias': matches no parameter; use a name or a pattern of names, such as embed.weight",
    "layers.0.mixer.A_log": "optimizer.groups[1].pattern='layers.0.mixer.A_log': matches no parameter; did you mean layers.0.mixer.",
    "kind:vectors": "optimizer.groups[1].pattern='kind:vectors': matches no parameter; did you mean kind:vector?",
    "layers.3.*": "optimizer.groups[1].pattern='layers.3.*': earlier groups take all that it matches, such as layers.3.mixer.q_proj.weight",
}


@pytest.mark.parametrize("pattern", MISTAKES)
def test_a_group_without_effect_is_one_line_with_key_and_remedy(pattern: str) -> None:
    config = replace(CONFIG, groups=(ParamGroup(pattern="layers.*"), ParamGroup(pattern=pattern)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the line is compared below
        validate_groups(DECLARED, config)
    assert str(caught.value).startswith(MISTAKES[pattern])
    assert "\n" not in str(caught.value)


def test_the_built_model_is_asked_as_well() -> None:
    with pytest.raises(ValueError, match=r"^optimizer\.groups\[0\]\.pattern='gates\.\*': matches no parameter"):
        build_optimizer(toy(), declared(toy()), replace(CONFIG, groups=(ParamGroup(pattern="gates.*"),)))


@pytest.mark.parametrize("pattern", ["gates.*", "*.A_log", "*norm.weight", "layers.?.ffn.*", "head.weight", "kind:vector", "kind:[cv]*"])
def test_patterns_are_those_of_a_shell(pattern: str) -> None:
    validate_groups(DECLARED, replace(CONFIG, groups=(ParamGroup(pattern=pattern),)))


def test_a_group_can_be_for_what_a_parameter_is_declared_to_be() -> None:
    groups = (ParamGroup(pattern="kind:vector", weight_decay=0.0), ParamGroup(pattern="kind:convolution", lr_scale=0.5))
    model = build_model(PRESETS["tiny"], None, device=torch.device("cpu"), seed=0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    built = build_optimizer(model, model.declared, replace(CONFIG, groups=groups)).param_groups
    without_decay, slower = (
        {names[parameter] for group in built if chosen(group) for parameter in group["params"]}
        for chosen in (lambda group: group["weight_decay"] == 0, lambda group: group["lr_scale"] == 0.5)
    )
    assert without_decay == {name for name in names.values() if "norm" in name or name.startswith("gates.")}
    assert slower == {name for name in names.values() if name.endswith("_conv.weight")}


def test_negative_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^optimizer\.groups\[1\]\.weight_decay=-1\.0: negative; use 0 to turn it off$"):
        OptimizerConfig(groups=(ParamGroup(pattern="a"), ParamGroup(pattern="b", weight_decay=-1.0)))
