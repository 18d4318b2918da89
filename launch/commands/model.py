"""`braid model`: what a model holds and costs, before anybody trains it."""

from typing import Annotated

import typer

from launch.commands.options import AsJson, ModelOverrides
from launch.commands.terminal import print_answer
from launch.show.model_cost import cost_view
from model.presets import PRESETS


def model(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help=f"A model by name: {', '.join(PRESETS)}.")],
    overrides: ModelOverrides = None,
    as_json: AsJson = False,
) -> None:
    """What a model holds and costs: parameters, FLOPs per token, and memory of each GPU in a layout."""
    from launch.config.load import load_model_plan  # OmegaConf, which other commands do without
    from launch.config.model_cost import cost_of

    print_answer(cost_of(load_model_plan(preset, overrides or [])), cost_view, as_json=as_json)
