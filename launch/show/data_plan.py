"""What a run will read, as a table with a bar for each share."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.units import count, human

BAR = 24
"""Characters of a whole."""


def reading_view(reading: dict[str, Any]) -> RenderableType:
    """Of `launch.runs.data_plan.DataReading` as JSON-ready values."""
    table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, 2, 0, 0))
    for column in ("phase", "dataset", "share", "", "tokens", "epochs", "of later epochs"):
        table.add_column(column, overflow="fold", justify="right" if column in ("share", "tokens", "epochs", "of later epochs") else "left")
    for number, phase in enumerate(reading["phases"], start=1):
        for line, source in enumerate(phase["sources"]):
            bar = Text("█" * round(source["share"] * BAR), style="cyan")
            share, tokens, epochs = f"{100 * source['share']:.3g} %", human(source["tokens"]), f"{source['epochs']:.3g}"
            again = count(source["repeated"], "row") if source["repeated"] else "–"
            table.add_row(str(number) if not line else "", source["dataset"], share, bar, tokens, epochs, again)
    shapes = [
        f"phase {number}: steps {phase['first_step']:,} to {phase['last_step']:,}, {phase['batch_rows']:,} rows × "
        f"{phase['seq_len']:,} tokens, {human(phase['tokens'])}tokens"
        for number, phase in enumerate(reading["phases"], start=1)
    ]
    whole = f"in all {reading['num_steps']:,} steps, {human(reading['tokens'])}tokens"
    return Group(*map(Text, shapes), Text(whole), Text(), table, *(Text(event) for event in reading["events"]))
