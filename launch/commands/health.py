"""Commands about how a run went: `braid goodput`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from launch.commands.options import AsJson, Endpoint, RunName, Storage
from launch.commands.terminal import print_answer, tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at
from launch.errors import UserError
from launch.runs.goodput import answer, read_goodput, timeline_shares
from launch.runs.record import read_run
from launch.show.goodput import goodput_view
from launch.show.picture import timeline_svg

PICTURE_PARTS = 1152
"""As many as its picture has pixels."""


def goodput(
    run: RunName,
    as_json: AsJson = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.svg", help="Also draw the run's time, coloured by what it went into.")
    ] = None,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Where a run's time went, every second of it, and what failures cost. Asks the store only."""
    if picture is not None and picture.suffix.lower() != ".svg":
        raise UserError(f"--picture {picture}: is drawn as SVG; name a file that ends with .svg, which browsers show and convert")
    found = read_goodput(read_run(storage_to_look_at(storage, endpoint_url), run), now_s=time.time())
    told = answer(found)
    if picture is not None:
        _write(picture, timeline_svg(told, timeline_shares(found, PICTURE_PARTS)))
    print_answer(told, goodput_view, as_json=as_json)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--picture {path}: {error.strerror}; name a file that can be written") from error
    tell(f"drawn: {path}")
