"""Which settings a parameter is optimised with. Pure."""

import difflib
from collections.abc import Collection

from model.declare import Kind, Parameter, Parameters
from model.optim.config import OptimizerConfig, ParamGroup

REST = ParamGroup(pattern="*")
"""The settings of parameters that no group matches."""


def group_of(name: str, parameter: Parameter, config: OptimizerConfig) -> ParamGroup:
    """The first group whose pattern matches the parameter, or REST."""
    return next((group for group in config.groups if group.matches(name, parameter)), REST)


def takes_muon(parameter: Parameter) -> bool:
    """Whether Muon is for this parameter; the others are AdamW's under Muon too."""
    return parameter.kind is Kind.MATRIX


def validate_groups(declared: Parameters, config: OptimizerConfig) -> None:
    """Raises ValueError for a group that has no effect: its pattern matches none of the parameters, or only earlier groups'."""
    for index, group in enumerate(config.groups):
        key = f"optimizer.groups[{index}].pattern={group.pattern!r}"
        matched = [name for name, parameter in declared.items() if group.matches(name, parameter)]
        if not matched:
            raise ValueError(f"{key}: matches no parameter; {_instead_of(group.pattern, declared)}")
        if not any(group_of(name, declared[name], config) is group for name in matched):
            raise ValueError(f"{key}: earlier groups take all that it matches, such as {matched[0]}; put it before them or leave it out")


def _instead_of(pattern: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(pattern, [*names, *(f"kind:{kind.value}" for kind in Kind)], n=1)
    return f"did you mean {near[0]}?" if near else "use a name or a pattern of names, such as embed.weight, *norm.weight or layers.0.*"
