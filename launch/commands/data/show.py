"""`braid data show`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import AsJson, Endpoint, RunName, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at
from launch.runs.record import read_run
from launch.show.answer_json import answer_json
from launch.units import count

if TYPE_CHECKING:
    from data_pipeline.read.rows import Row, RowDocument

BEGINNING = 160
"""Characters."""


def show(
    run: RunName,
    step: Annotated[int, typer.Option("--step", min=1, help="Which step.")],
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=0, help="Only the rows of this rank, by the run's present layout; ranks along cp and tp share."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All of each row's text, not its beginning.")] = False,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """What a run read at a step, decoded, and where it lies; exit status 1 where some of it can't be read. Needs no cluster."""
    from launch.runs.rows import rows_of_step

    found = rows_of_step(read_run(storage_to_look_at(storage, endpoint_url), run), step, rank)
    if not found.was_trained:
        tell(f"{run}: has not trained on step {step} yet; this is what would be read")
    if as_json:
        numbered = [{"row": number} | asdict(row) for number, row in enumerate(found.rows, start=found.first_row)]
        typer.echo(answer_json({"run": run, "step": step, "was_trained": found.was_trained, "rows": numbered}, indent=1))
    else:
        for number, row in enumerate(found.rows, start=found.first_row):
            where = ", ".join(f"{first:,} to {end:,}" for first, end in row.ranges) or "?"
            typer.echo(
                f"row {number}: {row.dataset}, epoch {row.epoch}, sample {row.sample:,}, {row.shard} "
                f"tokens {where}, {count(len(row.documents), 'document')}"
            )
            for line in _lines(row, full=full):
                typer.echo(f"    {line}")
    for unknown in {row.dataset: row.unknown for row in found.rows if row.unknown}.values():
        tell(unknown)
    for problem in dict.fromkeys(row.problem for row in found.rows if row.problem):
        tell(f"braid: {problem}")
    if any(row.problem for row in found.rows):
        raise typer.Exit(1)


def _lines(row: Row, *, full: bool) -> Iterator[str]:
    """Which documents the row has, and how it begins; or each with all of its text."""
    named = [(_name_of(document), document.text) for document in row.documents]
    if full:
        yield from (f"{name}: {text!r}" if name else repr(text) for name, text in named)
    elif named:
        if any(name for name, _ in named):
            yield ", ".join(name or "?" for name, _ in named)
        yield repr(named[0][1][:BEGINNING])


def _name_of(document: RowDocument) -> str:
    """Such as `web/a.jsonl:12 (its id)`; "" where nothing is known of it."""
    own = f" ({document.id})" if document.id else ""
    return f"{document.file}:{document.number}{own}" if document.file else document.id
