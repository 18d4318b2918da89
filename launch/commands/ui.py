"""`braid ui`: the runs of a store as a web page."""

import os
import webbrowser
from typing import Annotated

import typer

from launch.commands.options import Address, Endpoint, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at

PORT = 7788
TOKEN = "BRAID_UI_TOKEN"


def ui(
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
    host: Annotated[
        str, typer.Option(help="Where to listen. Beyond loopback a token is needed, which is in the printed address.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = PORT,
    opens: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
) -> None:
    """Serve a page with every run of a store: how it does, live where its cluster answers. It only reads.

    With BRAID_UI_TOKEN set, that is the token, on loopback too.
    """
    from launch.ui.serve import serve  # aiohttp and numpy, which other commands do without

    def ready(url: str) -> None:
        typer.echo(url)
        tell("Ctrl-C ends it")
        if opens:
            webbrowser.open(url)

    where = storage_to_look_at(storage, endpoint_url)
    serve(where, address, host=host, port=port, token=os.environ.get(TOKEN, ""), tell=tell, ready=ready)
