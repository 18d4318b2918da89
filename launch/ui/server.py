"""The page over HTTP: files, JSON, and streams of what is new. It only reads; whatever may take long is done by threads."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import StoreError
from launch.errors import NoSuchLog, NoSuchRun, OnlyWeights, UserError
from launch.show.answer_json import answer_json
from launch.ui.access import HEADERS, Access
from launch.ui.feed import Feed, Said
from launch.ui.library import Library
from launch.ui.metrics import RunsMetrics
from launch.ui.run_page import FindAny, RunPage
from orchestrator.codec import DecodeError
from orchestrator.errors import JournalBroken
from orchestrator.health.exposition import CONTENT_TYPE

NUM_THREADS = 32
POLL_S = 1.0
LIST_POLL_S = 2.0
MAX_KEPT = 32
"""Runs whose pages were looked at."""
HEARTBEAT_S = 10.0
"""A page that hears nothing for longer than twice that connects anew."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NOT_THERE = (NoSuchRun, NoSuchLog, OnlyWeights, UserError)
IN_TROUBLE = (StoreError, JournalBroken, DecodeError)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """A run that somebody looked at."""

    page: RunPage
    feed: Feed


class Site:
    """All that is served of one storage root. Made within the event loop that serves it."""

    def __init__(
        self, storage: StorageConfig, find: FindAny, *, clock: Callable[[], float], poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._storage, self._find, self._clock, self._poll_s, self._heartbeat_s = storage, find, clock, poll_s, heartbeat_s
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="page")
        self._store = open_store(storage)
        self._runs: dict[str, Open] = {}
        self._list = Feed(Library(storage, clock=clock).look, pool=self._pool, poll_s=2 * poll_s)
        self._metrics = RunsMetrics(storage, self._store, find, clock=clock)
        self._files = _files()

    def close(self) -> None:
        """Ends the streams; what a thread is at is not waited for."""
        for feed in (self._list, *(opened.feed for opened in self._runs.values())):
            feed.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/run/{name}", self._page),
            web.get("/static/{file:.+}", self._file),
            web.get("/metrics", self._metrics_now),
            web.get("/api/runs", self._runs_now),
            web.get("/api/runs/events", self._runs_events),
            web.get("/api/run/{name}", self._run_now),
            web.get("/api/run/{name}/events", self._run_events),
            web.get("/api/run/{name}/curves", self._curves),
            web.get("/api/run/{name}/checkpoints", self._checkpoints),
            web.get("/api/run/{name}/goodput", self._goodput),
            web.get("/api/run/{name}/incidents", self._incidents),
            web.get(r"/api/run/{name}/incidents/{number:\d{1,9}}", self._incident),
            web.get("/api/run/{name}/ranks", self._ranks),
            web.get("/api/run/{name}/log", self._log),
        ]

    async def _page(self, request: web.Request) -> web.Response:
        return self._answer_file("index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer_file(request.match_info["file"])

    def _answer_file(self, name: str) -> web.Response:
        """One of the files that were read when the server began: no path of a request ever reaches a disk."""
        if name not in self._files:
            raise web.HTTPNotFound(text=f"no such file: {name}")
        kind = KINDS.get(name[name.rfind(".") :], "text/plain")
        return web.Response(body=self._files[name], content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})

    async def _metrics_now(self, request: web.Request) -> web.Response:
        text = await self._in_thread(self._metrics.text)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _runs_now(self, request: web.Request) -> web.Response:
        return _json_text((await self._list.now()).text)

    async def _runs_events(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, self._list)

    async def _run_now(self, request: web.Request) -> web.Response:
        return _json_text((await (await self._open(request)).feed.now()).text)

    async def _run_events(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, (await self._open(request)).feed)

    async def _curves(self, request: web.Request) -> web.Response:
        page = (await self._open(request)).page
        x = "ended_at_s" if request.query.get("x") == "time" else "step"
        first, last = _number(request, "first", -math.inf), _number(request, "last", math.inf)
        width = int(_number(request, "width", 1000))
        return await self._answer(lambda: page.curves(x=x, first=first, last=last, width=width), compressed=True)

    async def _checkpoints(self, request: web.Request) -> web.Response:
        return await self._answer((await self._open(request)).page.checkpoints)

    async def _goodput(self, request: web.Request) -> web.Response:
        return await self._answer((await self._open(request)).page.goodput, compressed=True)

    async def _incidents(self, request: web.Request) -> web.Response:
        return await self._answer((await self._open(request)).page.incidents, compressed=True)

    async def _incident(self, request: web.Request) -> web.Response:
        page, number = (await self._open(request)).page, int(request.match_info["number"])
        return await self._answer(lambda: page.incident(number), compressed=True)

    async def _ranks(self, request: web.Request) -> web.Response:
        return await self._answer((await self._open(request)).page.ranks, compressed=True)

    async def _log(self, request: web.Request) -> web.Response:
        page, search = (await self._open(request)).page, request.query.get("search", "")
        rank, attempt = int(_number(request, "rank", 0)), int(_number(request, "attempt", 0))
        return await self._answer(lambda: page.log(rank=rank, attempt=attempt, search=search), compressed=True)

    async def _open(self, request: web.Request) -> Open:
        """Raises NoSuchRun and the like; only runs that are there are kept."""
        name = request.match_info["name"]
        if name not in self._runs:
            page = await self._in_thread(lambda: RunPage(self._storage, self._store, name, self._find, clock=self._clock))
            opened = Open(page=page, feed=Feed(page.look, pool=self._pool, poll_s=self._poll_s))
            await opened.feed.now()
            self._keep(name, opened)
        return self._runs[name]

    def _keep(self, name: str, opened: Open) -> None:
        """Forgets those that nobody follows where there are many: what was read of a long run is large."""
        for other in [other for other, its in self._runs.items() if not its.feed.is_followed][: max(0, len(self._runs) + 1 - MAX_KEPT)]:
            del self._runs[other]
        self._runs.setdefault(name, opened)

    async def _in_thread(self, act: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, act)

    async def _answer(self, act: Callable[[], Any], *, compressed: bool = False) -> web.Response:
        answer = _json_text(await self._in_thread(lambda: answer_json(act())))
        if compressed:
            answer.enable_compression()
        return answer

    async def _stream(self, request: web.Request, feed: Feed) -> web.StreamResponse:
        """Server-sent events: `state` where something is new, and `still` where for a while nothing was."""
        async with aclosing(feed.follow(self._heartbeat_s)) as following:
            said = await anext(following)
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n" + _event(said, is_news=True))
            await self._go_on(response, following, said.version)
        return response

    async def _go_on(self, response: web.StreamResponse, following: AsyncIterator[Said], version: int) -> None:
        try:
            async for said in following:
                await response.write(_event(said, is_news=said.version != version))
                version = said.version
        except ConnectionResetError:
            return  # the page was closed


def build_app(site: Site, access: Access) -> web.Application:
    """What serves a site to those who may read it. It closes the site when it ends."""
    app = web.Application(middlewares=[_guard(access), _errors_as_lines])
    app.add_routes(site.routes())
    app.on_response_prepare.append(_harden)

    async def close(_: web.Application) -> None:
        site.close()

    app.on_shutdown.append(close)
    return app


def _guard(access: Access) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.answers_to(request.host):
            return _line(421, "braid ui: does not go by this name; use the address that it printed when it started")
        if request.method not in ("GET", "HEAD"):
            return _line(405, "braid ui: only reads; use GET")
        if access.token and (given := request.query.get("token")) is not None and access.is_token(given):
            return _signed_in(request, access)
        if not access.lets_in(authorization=request.headers.get("Authorization", ""), cookies=request.cookies):
            return _line(
                401,
                "braid ui: open the address that it printed when it started, which has the token, or send `Authorization: Bearer TOKEN`",
            )
        return await handler(request)

    return guard


def _signed_in(request: web.Request, access: Access) -> web.Response:
    """The same address without the token, which from here on is in a cookie and in no history."""
    answer = web.Response(status=303, headers={"Location": str(request.rel_url.without_query_params("token")), "Cache-Control": "no-store"})
    answer.set_cookie(access.cookie, access.token, httponly=True, samesite="Lax", path="/", max_age=30 * 24 * 3600)
    return answer


@web.middleware
async def _errors_as_lines(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NOT_THERE as error:
        return _line(404, str(error))
    except IN_TROUBLE as error:
        return _line(503, str(error))
    except web.HTTPException as error:
        return _line(error.status, error.text or error.reason)


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def _line(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=" ".join(text.split()) + "\n", headers={"Cache-Control": "no-store"})


def _json_text(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def _event(said: Said, *, is_news: bool) -> bytes:
    if not is_news:
        return f'event: still\ndata: {{"age_s": {said.age_s}}}\n\n'.encode()
    return f'id: {said.version}\nevent: state\ndata: {{"age_s": {said.age_s}, "state": {said.text}}}\n\n'.encode()


def _number(request: web.Request, name: str, default: float) -> float:
    """Raises HTTPBadRequest."""
    try:
        number = float(request.query.get(name, default))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name}={request.query[name]}: use a number") from error
    if math.isnan(number) or (math.isinf(number) and name in request.query):
        raise web.HTTPBadRequest(text=f"{name}={number}: use a finite number")
    return number


def _files() -> Mapping[str, bytes]:
    """The page's own files, by their path below static/."""
    found: dict[str, bytes] = {}
    pending = [("", files("launch.ui") / "static")]
    while pending:
        prefix, folder = pending.pop()
        for one in folder.iterdir():
            if one.is_dir():
                pending.append((f"{prefix}{one.name}/", one))
            else:
                found[prefix + one.name] = one.read_bytes()
    return found
