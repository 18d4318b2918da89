"""From options to a running server."""

import asyncio
import errno
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlencode

from aiohttp import web

from data_pipeline.config import StorageConfig
from launch.errors import UserError
from launch.runs.connection import leave_if_lost, searching_any
from launch.ui.access import Access, access_for
from launch.ui.run_page import FindAny
from launch.ui.server import Site, build_app

CLOSES_WITHIN_S = 2.0
LOOKS_EVERY_S = 2.0


def serve(
    storage: StorageConfig, address: str, *, host: str, port: int, token: str, tell: Callable[[str], None], ready: Callable[[str], None]
) -> None:
    """Serves until SIGINT or SIGTERM. `ready` is given the page's URL, with the token where there is one. Raises UserError."""
    access = access_for(host, token)
    with searching_any(address, tell=tell) as find:
        asyncio.run(_serve(storage, find, access, host=host, port=port, ready=ready))


async def _serve(storage: StorageConfig, find: FindAny, access: Access, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    site = Site(storage, find, clock=time.time)
    runner = web.AppRunner(build_app(site, access), handler_cancellation=True, access_log=None, shutdown_timeout=CLOSES_WITHIN_S)
    await runner.setup()
    try:
        listening = web.TCPSite(runner, host, port)
        try:
            await listening.start()
        except OSError as error:
            raise UserError(_why_not(host, port, error)) from error
        ready(url_of(host, runner.addresses[0][1], access.token))
        await _until(ended)
    finally:
        with suppress(asyncio.CancelledError):
            await runner.cleanup()


async def _until(ended: asyncio.Event) -> None:
    """Meanwhile a cluster that is lost is left, also while nobody looks at a page."""
    while not ended.is_set():
        await asyncio.to_thread(leave_if_lost)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), LOOKS_EVERY_S)


def url_of(host: str, port: int, token: str) -> str:
    """What to open in a browser."""
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/" + (f"?{urlencode({'token': token})}" if token else "")


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: is taken on {host}; choose another, or 0 for any that is free"
    return f"--host {host} --port {port}: can't listen there ({error.strerror or error}); choose another"
