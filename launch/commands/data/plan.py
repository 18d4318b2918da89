"""`braid data plan`."""

from typing import Annotated

import typer

from data_pipeline.dataset.mixture import load_manifests, problem_with
from data_pipeline.store.open import open_store
from launch.commands.options import AsJson
from launch.commands.terminal import print_answer
from launch.config.load import load_config
from launch.config.storage import storage_to_look_at
from launch.errors import ConfigError
from launch.show.data_plan import reading_view


def plan(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships with braid.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    as_json: AsJson = False,
) -> None:
    """What each phase of a run would read of each dataset, what of it again, and what runs out when; exit status 1 where data runs out."""
    from data_pipeline.dataset.plan import load_plan
    from launch.runs.data_plan import as_json as plain
    from launch.runs.data_plan import reading_of

    config = load_config(recipe, overrides or [])
    store = open_store(storage_to_look_at(config.storage.root, config.storage.endpoint_url))
    manifests = load_manifests(store, config.data)
    if problem := problem_with(manifests, vocab_size=config.model.vocab_size):
        raise ConfigError(problem)
    reading = reading_of(config, load_plan(store, manifests, config.data, batch_rows=config.train.batch_rows))
    print_answer(plain(reading), reading_view, as_json=as_json)
    if reading.num_steps < config.train.num_steps:
        raise typer.Exit(1)
