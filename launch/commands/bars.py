"""How far long work is: bars on stderr, where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from launch.show.console import console

Done = Callable[[int, int], None]
"""Takes how much is done, of how much."""


@contextmanager
def bars(*, of_bytes: bool = False) -> Iterator[Callable[[str], Done]]:
    """Begins a bar for a part of the work, given its description."""
    on = console(stderr=True)
    amount = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) if of_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount)
    with Progress(*columns, console=on, transient=True, disable=not on.is_terminal) as progress:

        def begin(description: str) -> Done:
            task = progress.add_task(description, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield begin
