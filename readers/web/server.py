"""The routes of arena-web: pages, the streams that keep them live, the JSON API and its errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arena.errors import (
    ArenaError,
    PoolRemoved,
    QuoteError,
    UnknownPool,
)
from arena.readers.frozen import FrozenSnapshot
from arena.readers.state import key_bytes, key_text
from arena.readers.views.monitor import View
from arena.readers.web import answers
from arena.readers.web.asked import MOST_ZOOM, check_names, flag, integer, page, swap
from arena.readers.web.live import PoolFeed, TableFeed
from arena.readers.web.watcher import Watcher, why_not_live

MOST_STREAMS = 64
SEND_S = 30.0  # a page that takes nothing for so long is let go
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_LOCAL = ["127.0.0.1", "localhost", "[::1]", "::1"]
# Of the first class that an exception is of.
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (UnknownPool, 404),
    (PoolRemoved, 404),
    (QuoteError, 422),
    (ArenaError, 503),
    (ValueError, 422),
)


class _Headers:
    """Puts the same headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sending)


class _Stream(StreamingResponse):
    """Server-sent events. Who takes them slowly gets fewer of them, who takes none is let go."""

    def __init__(self, events: AsyncIterator[str], opened: "set[_Stream]") -> None:
        super().__init__(events, media_type="text/event-stream")
        self._opened = opened

    async def stream_response(self, send: Send) -> None:
        async def sending(message: Message) -> None:
            await asyncio.wait_for(send(message), SEND_S)

        self._opened.add(self)
        try:
            await super().stream_response(sending)
        except TimeoutError:  # in the middle of an answer: nothing is left to say
            return
        finally:
            self._opened.discard(self)


class Site:
    """What is served of one watcher. `public` answers requests by any host name, not this machine's alone."""

    def __init__(
        self, watcher: Watcher, *, public: bool = False, on_end: Callable[[], None] | None = None
    ) -> None:
        self.watcher = watcher
        self.failure: BaseException | None = None
        self._on_end = on_end
        self.streams: set[_Stream] = set()
        static = files("arena.readers.web").joinpath("static")
        self._static = {
            each.name: each.read_bytes()
            for each in static.iterdir()
            if each.name.rpartition(".")[2] in _TYPES
        }
        self._openapi = files("arena.readers.web").joinpath("openapi.json").read_bytes()
        middleware = [Middleware(_Headers)]
        if not public:  # else a page of another site could have its name point here, and read along
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=_LOCAL))
        self.app = Starlette(
            routes=self._routes(),
            middleware=middleware,
            lifespan=self._lifespan,
            exception_handlers={
                ArenaError: self._refuse,
                ValueError: self._refuse,
                HTTPException: self._refuse_http,
            },
        )

    def _routes(self) -> list[Route]:
        pool = "/api/pools/{key}"
        return [
            Route("/", self._file("board.html")),
            Route("/pools/{key}", self._file("pool.html")),
            Route("/static/{name}", self._static_file),
            Route("/events", self._table_events),
            Route("/events/pools/{key}", self._pool_events),
            Route("/health", self._health),
            Route("/api/openapi.json", self._document),
            Route("/api/status", self._status),
            Route("/api/pools", self._pools),
            Route(pool, self._pool),
            Route(f"{pool}/quote", self._quote),
            Route(f"{pool}/depth", self._depth),
            Route(f"{pool}/ticks", self._ticks),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watcher.watch())
        task.add_done_callback(self._ended)
        yield
        self.watcher.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self.failure = task.exception()
        self.watcher.close()
        if self._on_end is not None:
            self._on_end()

    # Errors

    def _refuse(self, request: Request, error: Exception) -> Response:
        status = next(number for kind, number in _STATUSES if isinstance(error, kind))
        message = error.args[0] if error.args else ""
        return self._error(status, type(error).__name__, str(message))

    def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPException")
        return self._error(error.status_code, kind, error.detail)

    def _error(self, status: int, kind: str, message: str) -> Response:
        found = {
            **answers.of_view(self.watcher.view),
            "error": {"type": kind, "message": message},
        }
        headers = {"retry-after": "1"} if status == 503 else {}
        return JSONResponse(found, status, headers)

    # Files

    def _file(self, name: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return Response(self._static[name], media_type=_TYPES[name.rpartition(".")[2]])

        return answer

    async def _static_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404, f"there is no file {name[:80]!r}")
        return Response(self._static[name], media_type=_TYPES[name.rpartition(".")[2]])

    async def _document(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    # Streams

    async def _table_events(self, request: Request) -> Response:
        return self._stream(TableFeed(page(request.query_params)).message)

    async def _pool_events(self, request: Request) -> Response:
        check_names(request.query_params, ())
        return self._stream(PoolFeed(self.watcher.monitor, _key(request)).message)

    def _stream(self, message: Callable[[View], dict[str, Any]]) -> Response:
        if len(self.streams) >= MOST_STREAMS:
            return self._error(503, "TooManyStreams", f"{MOST_STREAMS} pages are open already")
        return _Stream(self._events(message), self.streams)

    async def _events(self, message: Callable[[View], dict[str, Any]]) -> AsyncIterator[str]:
        """One event a look. Looks that come while the page still takes an event are left out."""
        view: View | None = self.watcher.view
        while view is not None:
            text = json.dumps(message(view), separators=(",", ":"), allow_nan=False)
            yield f"data: {text}\n\n"
            view = await self.watcher.look_after(view)

    # The API

    async def _health(self, request: Request) -> Response:
        check_names(request.query_params, ())
        view = self.watcher.fresh()
        refusal = why_not_live(view)
        if refusal is not None:
            raise refusal
        return JSONResponse({**answers.of_view(view), "is_live": True})

    async def _status(self, request: Request) -> Response:
        check_names(request.query_params, ())
        return JSONResponse(answers.status(self.watcher.fresh()))

    async def _pools(self, request: Request) -> Response:
        asked = page(request.query_params, "allow_stale")
        self._check_live(request)
        return JSONResponse(answers.pools(self.watcher.fresh(), asked))

    async def _pool(self, request: Request) -> Response:
        snapshot, key = self._snapshot(request, ("allow_stale",))
        found = answers.pool(snapshot[key].state())
        return JSONResponse({**answers.of_snapshot(self.watcher.view, snapshot), **found})

    async def _ticks(self, request: Request) -> Response:
        snapshot, key = self._snapshot(request, ("allow_stale",))
        found = answers.ticks(snapshot[key].state())
        return JSONResponse(
            {**answers.of_snapshot(self.watcher.view, snapshot), "pool": key, **found}
        )

    async def _depth(self, request: Request) -> Response:
        query = request.query_params
        names = ("zoom", "allow_stale", "allow_dynamic_fee")
        snapshot, key = self._snapshot(request, names)
        pool = snapshot[key]
        found = answers.depth(
            pool,
            pool.state(),
            integer(query, "zoom", 0, -MOST_ZOOM, MOST_ZOOM),
            {
                "allow_stale": flag(query, "allow_stale"),
                "allow_dynamic_fee": flag(query, "allow_dynamic_fee"),
            },
        )
        return JSONResponse(
            {**answers.of_snapshot(self.watcher.view, snapshot), "pool": key, **found}
        )

    async def _quote(self, request: Request) -> Response:
        snapshot, key = self._snapshot(request, None)
        pool = snapshot[key]
        tokens = (pool.token0, pool.token1)
        asked = swap(request.query_params, tokens)
        ask = pool.quote_exact_out if asked.is_exact_out else pool.quote_exact_in
        found = ask(asked.amount, zero_for_one=asked.zero_for_one, **asked.options)
        return JSONResponse(
            {
                **answers.of_snapshot(self.watcher.view, snapshot),
                "pool": key,
                **answers.quote(found, asked, tokens),
            }
        )

    def _snapshot(
        self, request: Request, names: tuple[str, ...] | None
    ) -> tuple[FrozenSnapshot, str]:
        """A copy of the pool asked for, as it is now."""
        if names is not None:
            check_names(request.query_params, names)
        key = _key(request)
        self._check_live(request)
        return self.watcher.monitor.snapshot(key), key

    def _check_live(self, request: Request) -> None:
        """Refuse values that are not the newest, unless the request takes those, too."""
        if flag(request.query_params, "allow_stale"):
            return
        refusal = why_not_live(self.watcher.fresh())
        if refusal is not None:
            raise refusal


def _key(request: Request) -> str:
    text = request.path_params["key"]
    found = key_text(key_bytes(text))
    if len(found) not in (42, 66):
        raise ValueError(f"{text[:80]!r} is neither an address nor a pool id")
    return found
