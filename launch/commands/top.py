"""`braid top`: the first screen of a run's page, in a terminal."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import StoreError
from launch.commands.options import Address, Endpoint, RunName, Storage
from launch.commands.terminal import tell, until_interrupted
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at
from launch.runs.connection import searching_any
from launch.show.console import console
from launch.show.top import top_view
from launch.status import ENDED

POLL_S = 1.0


def top(
    run: RunName,
    once: Annotated[bool, typer.Option("--once", help="Show it once, as where there is no terminal.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """What to look at first: is the run moving, is it recovering, what would be lost, and the one command to type. Until it ends."""
    from launch.ui.run_page import RunPage  # numpy, which other commands do without

    where, screen = storage_to_look_at(storage, endpoint_url), console()
    with searching_any(address, tell=tell) as find:
        page = RunPage(where, open_store(where), run, find, clock=time.time)
        if once or not screen.is_terminal:
            screen.print(top_view(page.look()))
        else:
            until_interrupted(lambda: _show(_views(page.look), screen))


def _views(look: Any) -> Iterator[RenderableType]:
    """Again and again until the run has ended. A store that is away is told, with what was seen last. Raises what the first look raises."""
    seen, trouble = look(), ""
    while True:
        yield top_view(seen, trouble=trouble)
        if seen["status"]["state"] in (*ENDED, "weights"):
            return
        time.sleep(POLL_S)
        try:
            seen, trouble = look(), ""
        except StoreError as error:
            trouble = str(error)


def _show(views: Iterator[RenderableType], screen: Console) -> None:
    with Live(console=screen, auto_refresh=False, transient=False) as live:
        for view in views:
            live.update(view, refresh=True)
