"""JSON-RPC over HTTP, WebSocket or a local socket (IPC), called from any thread.

One background thread runs the connections. Every request is bounded in size, in time and in how
many are under way at once; what may pass by itself (connection lost, time-out, 429, 5xx, an answer cut
short) is tried again with growing pauses. Messages show host and port of the address only: the
rest of it often holds a key.
"""

import asyncio
import itertools
import json
import logging
import random
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from arena.errors import RpcAnswerInvalid, RpcError, RpcRefused, RpcUnavailable

__all__ = ["Call", "JsonRpc", "Limits", "shown_address"]

log = logging.getLogger(__name__)

Call = tuple[str, Sequence[Any]]
"""Method and positional parameters."""

T = TypeVar("T")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
# HTTP: Too Many Requests and what a gateway says while the node behind it starts or is busy.
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_SPLIT_NBYTES = 1 << 20  # notifications are small; large answers come alone
TOO_LARGE = 413  # HTTP: Content Too Large; also the code of a request this side refuses to send
_RATE_CODES = frozenset({429, -32005})
_RATE_TEXT = re.compile(r"rate|too many requests|per second|throttl|capacity", re.IGNORECASE)


class Limits:
    """What one client may ask for at once. Sizes in bytes, times in seconds.

    reth takes requests of 15 MB and gives answers of up to 160 MB; proxies often take 1 MB only,
    which callers find out by a refusal and then ask for less at a time.
    """

    __slots__ = (
        "concurrency",
        "first_pause_s",
        "max_request_nbytes",
        "max_response_nbytes",
        "timeout_s",
        "tries",
    )

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        tries: int = 5,
        concurrency: int = 4,
        max_request_nbytes: int = 8 << 20,
        max_response_nbytes: int = 160 << 20,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        if min(timeout_s, tries, concurrency, max_request_nbytes, max_response_nbytes) <= 0:
            raise ValueError("every limit is above 0")
        self.timeout_s = timeout_s
        self.tries = tries
        self.concurrency = concurrency
        self.max_request_nbytes = max_request_nbytes
        self.max_response_nbytes = max_response_nbytes
        self.first_pause_s = first_pause_s


class _TransientError(Exception):
    """May pass by itself. `pause_s` is what the node asked to wait."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _Transport(Protocol):
    async def exchange(self, body: bytes) -> bytes:
        """The answer to one request. _TransientError, RpcRefused, OSError, aiohttp.ClientError."""

    async def close(self) -> None: ...


def shown_address(address: str) -> str:
    """Scheme, host and port of a URL, or a socket's path: safe to log."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    if parts.scheme == "ipc":
        return parts.path
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


class JsonRpc:
    """A node's JSON-RPC interface: `http(s)://`, `ws(s)://`, or the path of its IPC socket.

    Calls block and may come from several threads. Connects with the first call. ValueError for an
    address of another kind; RpcError, after `close` too.
    """

    def __init__(self, address: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.shown = shown_address(address)
        self._open_stream = _stream_of(address, self.limits)
        self._address = address
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._transport: _Transport | None = None
        self._under_way: asyncio.Semaphore | None = None
        self._closed = False

    # Calling

    def call(self, method: str, *parameters: Any) -> Any:
        """The result. RpcRefused when the node answers with an error, RpcUnavailable, RpcError."""
        return _unwrap(self.call_many([(method, parameters)])[0])

    def call_many(self, calls: Sequence[Call]) -> list[Any]:
        """Results in order, each call a request of its own, several under way at once.

        What the node refused is an RpcRefused in its place; anything else raises.
        """
        return self._gather([self._single(call) for call in calls])

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results in order of one batch request. RpcRefused in place of what was refused; raised
        when the node refuses the batch as a whole."""
        results: list[Any] = _unwrap(self.batch_many([calls])[0])
        return results

    def batch_many(self, batches: Sequence[Sequence[Call]]) -> list[Any]:
        """Results of several batches, several under way at once. RpcRefused in place of a call or
        of a whole batch that was refused."""
        return self._gather([self._batch(calls) for calls in batches])

    @property
    def can_subscribe(self) -> bool:
        """The address is a connection that the node can speak on first: WebSocket or IPC."""
        return self._open_stream is not None

    def subscribe(
        self,
        *parameters: Any,
        on_message: Callable[[Any], None],
        on_end: Callable[[str], None],
    ) -> Callable[[], None]:
        """eth_subscribe on a connection of its own; returns what ends it again.

        `on_message` is called with each result, `on_end` once with the reason when the connection or
        the subscription could not be had or is over, both in the background thread. Nothing is
        tried again, and a node that falls silent is not noticed. RpcUnavailable after `close`.
        """
        work = self._submit(self._listen(parameters, on_message, on_end))

        def end() -> None:
            work.cancel()

        return end

    def close(self) -> None:
        """Close every connection and end the thread. Safe to call twice."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._shut(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # The background thread

    def _gather(self, work: list[Coroutine[Any, Any, T]]) -> list[T]:
        async def together() -> list[T]:
            tasks = [asyncio.ensure_future(item) for item in work]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

        try:
            future = self._submit(together())
        except RpcError:
            for item in work:
                item.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise self._closed_error() from None
        except BaseException:
            future.cancel()
            raise

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise self._closed_error()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._under_way = asyncio.Semaphore(self.limits.concurrency)
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="jsonrpc", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _closed_error(self) -> RpcUnavailable:
        return RpcUnavailable(
            f"the client of {self.shown} is closed; make a new one", address=self.shown
        )

    def _make_transport(self) -> _Transport:
        if self._open_stream is None:
            return _Http(self._address, self.limits)
        return _Pooled(self._open_stream)

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def _listen(
        self,
        parameters: tuple[Any, ...],
        on_message: Callable[[Any], None],
        on_end: Callable[[str], None],
    ) -> None:
        request = self._request(("eth_subscribe", parameters))
        try:
            assert self._open_stream is not None, "look at can_subscribe first"
            async with asyncio.timeout(self.limits.timeout_s):
                stream = await self._open_stream()
            try:
                await stream.send(orjson.dumps(request))
                async with asyncio.timeout(self.limits.timeout_s):
                    self._result(orjson.loads(await stream.receive()), request)
                while True:
                    message = orjson.loads(await stream.receive())
                    if isinstance(message, dict) and message.get("method") == "eth_subscription":
                        on_message(message["params"]["result"])
            finally:
                await stream.close()
        except TimeoutError:
            reason = f"no answer within {self.limits.timeout_s:g} s"
        except (_TransientError, RpcError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            reason = str(error) or type(error).__name__
        except (OSError, aiohttp.ClientError) as error:
            reason = f"{type(error).__name__}: {_redacted(error)}"
        on_end(reason)

    # One request

    def _request(self, call: Call) -> dict[str, Any]:
        method, parameters = call
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": [*parameters]}

    async def _single(self, call: Call) -> Any:
        request = self._request(call)
        try:
            return await self._send(
                orjson.dumps(request), call[0], lambda answer: self._result(answer, request)
            )
        except RpcRefused as error:
            return error

    async def _batch(self, calls: Sequence[Call]) -> Any:
        if not calls:
            return []
        requests = [self._request(call) for call in calls]
        name = f"batch of {len(calls)}, {calls[0][0]}"
        try:
            return await self._send(
                orjson.dumps(requests), name, lambda answer: self._results(answer, requests, name)
            )
        except RpcRefused as error:
            return error

    async def _send(self, body: bytes, name: str, read: Callable[[Any], T]) -> T:
        limits = self.limits
        if len(body) > limits.max_request_nbytes:
            raise RpcRefused(
                f"{name}: the request has {len(body)} bytes, the limit is "
                f"{limits.max_request_nbytes}; ask for less at once",
                address=self.shown,
                method=name,
                code=TOO_LARGE,
                reason="request too large",
            )
        assert self._under_way is not None
        reasons: list[str] = []
        invalid: RpcAnswerInvalid | None = None
        for attempt in range(limits.tries):
            pause, invalid = 0.0, None
            async with self._under_way:
                if self._transport is None:
                    self._transport = self._make_transport()
                try:
                    async with asyncio.timeout(limits.timeout_s):
                        answer = await self._transport.exchange(body)
                    return read(orjson.loads(answer))
                except _TransientError as error:
                    reasons.append(str(error))
                    pause = error.pause_s
                except TimeoutError:
                    reasons.append(f"no answer within {limits.timeout_s:g} s")
                except orjson.JSONDecodeError as error:
                    reasons.append(f"the answer is no whole JSON text ({error})")
                except (OSError, aiohttp.ClientError) as error:
                    reasons.append(f"{type(error).__name__}: {_redacted(error)}")
                except RpcRefused as error:
                    raise self._refused(name, error.code, error.reason) from None
                except RpcAnswerInvalid as error:
                    if self._open_stream is None:
                        raise
                    invalid = error
                    reasons.append(str(error))
                if self._open_stream is not None:
                    # It may have been another request's answer; the next would be one too late as well.
                    await self._transport.close()
            if attempt + 1 < limits.tries:
                pause = max(pause, limits.first_pause_s * 2**attempt * random.uniform(0.75, 1.25))
                pause = min(pause, LONGEST_PAUSE_S)
                log.debug(
                    'event=rpc_retry node=%s method="%s" try=%d pause_ms=%d reason="%s"',
                    self.shown,
                    name,
                    attempt + 1,
                    int(pause * 1000),
                    reasons[-1],
                )
                await asyncio.sleep(pause)
        if invalid is not None:
            raise invalid
        raise RpcUnavailable(
            f"{self.shown} gave no answer to {name} in {limits.tries} tries: "
            f"{'; '.join(dict.fromkeys(reasons))}; is the node up, and is this its address?",
            address=self.shown,
            method=name,
            tries=limits.tries,
            reason=reasons[-1],
        )

    def _refused(self, name: str, code: int, reason: str) -> RpcRefused:
        return RpcRefused(
            f"{self.shown} refuses {name}: {reason} (code {code})",
            address=self.shown,
            method=name,
            code=code,
            reason=reason,
        )

    def _result(self, answer: Any, request: dict[str, Any]) -> Any:
        """The result of one answer object. RpcRefused, RpcAnswerInvalid, _TransientError."""
        if not isinstance(answer, dict) or answer.get("id", request["id"]) not in (
            request["id"],
            None,
        ):
            raise self._no_answer(request["method"])
        if (error := answer.get("error")) is not None:
            code, reason = _error_of(error)
            if code == 429 or (code in _RATE_CODES and _RATE_TEXT.search(reason)):
                raise _TransientError(f"{reason} (code {code})")
            raise self._refused(request["method"], code, reason)
        if "result" not in answer:
            raise self._no_answer(request["method"])
        return answer["result"]

    def _results(self, answer: Any, requests: list[dict[str, Any]], name: str) -> list[Any]:
        if isinstance(answer, dict):  # the batch as a whole was refused
            self._result(answer | {"id": None}, {"id": None, "method": name})
        if not isinstance(answer, list):
            raise self._no_answer(name)
        by_id = {
            item["id"]: item
            for item in answer
            if isinstance(item, dict) and isinstance(item.get("id"), int)
        }
        results: list[Any] = []
        for request in requests:
            if request["id"] not in by_id:
                raise _TransientError(f"{len(by_id)} answers to {len(requests)} calls of a batch")
            try:
                results.append(self._result(by_id[request["id"]], request))
            except RpcRefused as error:
                results.append(error)
        return results

    def _no_answer(self, name: str) -> RpcAnswerInvalid:
        return RpcAnswerInvalid(
            f"{self.shown} answers {name} with something that is not a JSON-RPC answer; "
            "is this the address of a node?",
            address=self.shown,
            method=name,
        )


def _unwrap(result: Any) -> Any:
    if isinstance(result, RpcRefused):
        raise result
    return result


def _error_of(error: Any) -> tuple[int, str]:
    if not isinstance(error, dict):
        return 0, str(error)[:300]
    code = error.get("code")
    reason = str(error.get("message", ""))[:300]
    if isinstance(error.get("data"), str) and len(error["data"]) < 300:
        reason = f"{reason} {error['data']}".strip()
    return (code if isinstance(code, int) else 0), reason


def _redacted(error: BaseException) -> str:
    """An error's text without the paths of URLs."""
    return re.sub(r"(\w+://[^/\s]*@?)[^\s'\"]*", r"\1", str(error))


# Transports


def _stream_of(address: str, limits: Limits) -> Callable[[], Coroutine[Any, Any, "_Stream"]] | None:
    """How to open a connection to this address; None for HTTP, which has requests only."""
    if "://" not in address:
        return lambda: _open_local(address, limits)
    scheme = address.split("://", 1)[0].lower()
    if scheme == "ipc":
        return lambda: _open_local(urlsplit(address).path, limits)
    if scheme in ("ws", "wss"):
        return lambda: _open_websocket(address, limits)
    if scheme in ("http", "https"):
        return None
    raise ValueError(
        f"the node's address {shown_address(address)} is none of http(s)://, ws(s):// and the "
        "path of an IPC socket"
    )


class _Http:
    """One request, one POST; connections are kept."""

    def __init__(self, address: str, limits: Limits) -> None:
        self._address = address
        self._max_nbytes = limits.max_response_nbytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limits.concurrency),
            timeout=aiohttp.ClientTimeout(total=limits.timeout_s),
            headers={"Content-Type": "application/json"},
        )

    async def exchange(self, body: bytes) -> bytes:
        async with self._session.post(self._address, data=body, allow_redirects=False) as response:
            if response.status in _RETRIED_STATUS:
                pause = response.headers.get("Retry-After", "")
                raise _TransientError(
                    f"HTTP status {response.status}", float(pause) if pause.isdigit() else 0.0
                )
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > self._max_nbytes:
                    raise _too_long(self._max_nbytes)
            # Some nodes put a JSON-RPC error into a body with a 4xx status.
            if response.status != 200 and not content.lstrip().startswith((b"{", b"[")):
                raise RpcRefused(
                    code=response.status,
                    reason=f"HTTP status {response.status} {response.reason or ''}".strip(),
                )
            return bytes(content)

    async def close(self) -> None:
        await self._session.close()


class _Stream(Protocol):
    async def send(self, body: bytes) -> None: ...

    async def receive(self) -> bytes:
        """The next JSON text. _TransientError when the connection ended."""

    async def close(self) -> None: ...


class _Pooled:
    """Connections with one request under way on each; one that failed is never used again."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, _Stream]]) -> None:
        self._connect = connect
        self._idle: list[_Stream] = []

    async def exchange(self, body: bytes) -> bytes:
        stream = self._idle.pop() if self._idle else await self._connect()
        try:
            await stream.send(body)
            answer = await stream.receive()
        except BaseException:
            await stream.close()
            await self.close()  # the node may have gone: what is idle is no better
            raise
        self._idle.append(stream)
        return answer

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for stream in idle:
            await stream.close()


class _WebSocket:
    def __init__(self, session: aiohttp.ClientSession, socket: Any) -> None:
        self._session = session
        self._socket = socket

    async def send(self, body: bytes) -> None:
        await self._socket.send_str(body.decode())

    async def receive(self) -> bytes:
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            text: str = message.data
            return text.encode()
        if message.type is aiohttp.WSMsgType.BINARY:
            content: bytes = message.data
            return content
        raise _TransientError(f"the WebSocket closed ({message.type.name}, {message.data})")

    async def close(self) -> None:
        await self._session.close()


async def _open_websocket(address: str, limits: Limits) -> _Stream:
    session = aiohttp.ClientSession()
    try:
        socket = await session.ws_connect(address, max_msg_size=limits.max_response_nbytes)
    except aiohttp.WSServerHandshakeError as error:
        await session.close()
        if error.status in _RETRIED_STATUS:
            raise _TransientError(f"HTTP status {error.status}") from None
        raise RpcRefused(code=error.status, reason=f"HTTP status {error.status}") from None
    except BaseException:
        await session.close()
        raise
    return _WebSocket(session, socket)


class _Local:
    """A stream of JSON texts. Nodes end each with a newline or with nothing at all, and may send
    several at once where nobody asked."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_nbytes: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._max_nbytes = max_nbytes
        self._content = bytearray()  # received and not yet handed out

    async def send(self, body: bytes) -> None:
        self._writer.write(body + b"\n")
        await self._writer.drain()

    async def receive(self) -> bytes:
        content, scanned = self._content, 0
        while True:
            if text := self._first_text(scanned):
                return text
            scanned = len(content)
            chunk = await self._reader.read(1 << 20)
            if not chunk:
                raise _TransientError("the socket was closed before the answer was whole")
            content += chunk
            if len(content) > self._max_nbytes:
                raise _too_long(self._max_nbytes)

    def _first_text(self, scanned: int) -> bytes | None:
        """Take the first whole JSON text off what was received; `scanned` bytes have no newline."""
        content = self._content
        if content[:1].isspace():  # the newline of the text before may come late
            del content[: len(content) - len(content.lstrip())]
            scanned = 0
        end = content.find(b"\n", scanned) + 1
        if not end and content.endswith((b"}", b"]")):
            if _is_whole(content):
                end = len(content)
            elif len(content) <= _SPLIT_NBYTES:
                end = _end_of_text(content)
        text = bytes(content[:end])
        del content[:end]
        return text.strip() or None

    async def close(self) -> None:
        self._writer.close()


async def _open_local(path: str, limits: Limits) -> _Stream:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    return _Local(reader, writer, limits.max_response_nbytes)


def _is_whole(content: bytes | bytearray) -> bool:
    try:
        orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return True


def _end_of_text(content: bytes | bytearray) -> int:
    """Where the first of several JSON texts without a separator ends; 0 when it is not whole."""
    try:
        return json.JSONDecoder().raw_decode(content.decode())[1]
    except ValueError:
        return 0


def _too_long(max_nbytes: int) -> RpcRefused:
    return RpcRefused(code=TOO_LARGE, reason=f"the answer is above {max_nbytes} bytes")
