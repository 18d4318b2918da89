"""`braid incidents`: what went wrong in a run, what was done, and what it cost."""

from typing import Annotated

import typer

from launch.commands.options import AsJson, Endpoint, RunName, Storage
from launch.commands.terminal import print_answer
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at
from launch.runs.incidents import incident_of, incidents_of
from launch.runs.record import read_run
from launch.show.incidents import incident_view, incidents_table


def incidents(
    run: RunName,
    number: Annotated[int | None, typer.Argument(metavar="[N]", help="One of them, with its evidence.", show_default=False)] = None,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """What went wrong in a run, what was done about it, and what it cost. Asks the store only."""
    record = read_run(storage_to_look_at(storage, endpoint_url), run)
    if number is None:
        print_answer(incidents_of(record), incidents_table, as_json=as_json)
    else:
        print_answer(incident_of(record, number), incident_view, as_json=as_json)
