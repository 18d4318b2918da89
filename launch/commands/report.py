"""`braid report`: a run on one page, to be kept or sent."""

import time
from pathlib import Path
from typing import Annotated

import typer

from launch.commands.options import AsJson, Endpoint, RunName, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at
from launch.errors import UserError
from launch.runs.record import read_run
from launch.show.answer_json import answer_json


def report(
    run: RunName,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; RUN.html here without it.")] = None,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Write all that is to be said of a run into one HTML file: proof, goodput, curves, incidents, checkpoints. Asks the store only."""
    from launch.ui.report import report_of  # numpy, which other commands do without

    record = read_run(storage_to_look_at(storage, endpoint_url), run)
    found = report_of(record, now_s=time.time())
    if as_json:
        typer.echo(answer_json(found, indent=1))
        return
    from launch.show.report import report_html

    path = Path(f"{run}.html") if out is None else out
    try:
        path.write_text(report_html(found), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; name a file that can be written") from error
    tell(f"written: {path}")
