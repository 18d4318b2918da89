"""How far a build is, on a terminal, and what is said at its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from data_pipeline.dataset.progress import BuildProgress, Pace, pace_of
from launch.commands.terminal import tell
from launch.show.console import console
from launch.units import count, human

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
NOTHING = BuildProgress(num_documents=0, num_tokens=0, num_shards=0)


class Shown:
    """Shows the progress of a build; `clock` tells seconds."""

    def __init__(self, show: Callable[[str, BuildProgress], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._began_s = 0.0
        self.begun: BuildProgress | None = None
        """Where the build began: behind what an earlier one had finished. None before that."""
        self.last = NOTHING

    def show(self, now: BuildProgress) -> None:
        if self.begun is None:
            self.begun, self._began_s = now, self._clock()
        self.last = now
        self._show(line_of(now, pace_of(self.begun, now, self._clock() - self._began_s)), now)


def line_of(now: BuildProgress, pace: Pace) -> str:
    """What is done, how fast, and for how long still."""
    done = f"{now.num_documents:,} documents, {human(now.num_tokens)}tokens, {count(now.num_shards, 'shard')}"
    rates = f"{human(pace.text_bytes_per_s)}B/s of text, {human(pace.tokens_per_s)}tokens/s"
    return f"{done} · {rates}" + ("" if pace.left_s is None else f" · {_duration(pace.left_s)} left")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def shown(first: str) -> Iterator[Shown]:
    """Begins to show a build, whose first part is called `first`; after Ctrl-C it says what is finished, and the command ends."""
    columns = SpinnerColumn(), BarColumn(bar_width=20), TaskProgressColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(first, total=None)
        of_build = Shown(lambda line, now: progress.update(task, description=line, completed=now.read_bytes, total=now.size_bytes or None))
        try:
            yield of_build
        except KeyboardInterrupt:
            progress.stop()
            tell(f"interrupted; {count(of_build.last.num_shards, 'shard')} finished. The same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None


def tell_built(name: str, shown: Shown) -> None:
    done, kept = shown.last, shown.begun.num_shards if shown.begun else 0
    earlier = f", {kept} of them by a build that was interrupted" if kept else ""
    tell(f"{done.num_tokens:,} tokens in {done.num_shards} shards{earlier}; use it with data.dataset={name}")
    if done.num_unknown:
        tell(f"{done.num_unknown:,} of them ({done.num_unknown / done.num_tokens:.2%}) stand for text that the tokenizer doesn't know")
