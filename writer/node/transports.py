"""How one JSON-RPC request reaches a node and its answer comes back: HTTP, WebSocket, local socket.

A transport knows bytes and connections. What it cannot do is a Transient (it may pass by itself), an
RpcRefused without address or method, or an error of the socket; what an answer means is not decided
here.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson

from arena.errors import RpcRefused
from arena.writer.host.sockets import check_path
from arena.writer.node.meanings import TOO_LARGE, Meaning, meaning_of

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
TOO_MANY_REQUESTS = 429
# HTTP: what passes by itself, besides every status from 500 on: those of a gateway while the node
# behind it starts or is busy. Cloudflare's own are 520 to 530.
_RETRIED_STATUS = frozenset({408, 425, TOO_MANY_REQUESTS})
_GATEWAY_STATUS = range(500, 600)
_MESSAGE_TOO_BIG, _TRY_AGAIN_LATER = 1009, 1013  # close codes of a WebSocket
_SPLIT_NBYTES = 1 << 20  # notifications are small; large answers come alone
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask for at once. Sizes in bytes, times in seconds.

    reth takes requests of 15 MB and gives answers of up to 160 MB; proxies often take 1 MB only,
    which callers find out by a refusal and then ask for less at a time.
    """

    timeout_s: float = 30.0
    tries: int = 5
    concurrency: int = 4
    max_request_nbytes: int = 8 << 20
    max_response_nbytes: int = 160 << 20
    first_pause_s: float = FIRST_PAUSE_S

    def __post_init__(self) -> None:
        sizes = self.max_request_nbytes, self.max_response_nbytes
        if min(self.timeout_s, self.tries, self.concurrency, *sizes) <= 0:
            raise ValueError("every limit is above 0")


class Transient(Exception):
    """May pass by itself. `pause_s` is what the node asked to wait; `is_rate` when it was there and
    said that it was asked too often, or may have said so; `refusal` where its words are not known."""

    def __init__(
        self,
        reason: str,
        pause_s: float = 0.0,
        *,
        is_rate: bool = False,
        refusal: RpcRefused | None = None,
    ) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.is_rate = is_rate
        self.refusal = refusal


class Transport(Protocol):
    async def exchange(self, body: bytes) -> bytes:
        """The answer to one request. Transient, RpcRefused, OSError, aiohttp.ClientError."""

    async def close(self) -> None: ...


class Stream(Protocol):
    async def send(self, body: bytes) -> None: ...

    async def receive(self) -> bytes:
        """The next JSON text. Transient when the connection ended."""

    async def close(self) -> None: ...


OpenStream = Callable[[], Coroutine[Any, Any, Stream]]


def shown_address(address: str) -> str:
    """Scheme, host and port of a URL, or a socket's path: safe to log."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    if parts.scheme == "ipc":
        return parts.path
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def stream_of(address: str, limits: Limits) -> OpenStream | None:
    """How to open a connection to this address; None for HTTP, which has requests only."""
    if "://" not in address:
        check_path(address)
        return lambda: _open_local(address, limits)
    scheme = address.split("://", 1)[0].lower()
    if scheme == "ipc":
        check_path(urlsplit(address).path)
        return lambda: _open_local(urlsplit(address).path, limits)
    if scheme in ("ws", "wss"):
        return lambda: _open_websocket(address, limits)
    if scheme in ("http", "https"):
        return None
    raise ValueError(
        f"the node's address {shown_address(address)} is none of http(s)://, ws(s):// and the "
        "path of an IPC socket"
    )


def open_transport(address: str, limits: Limits, open_stream: OpenStream | None) -> Transport:
    """What carries requests to that address; connects with the first one."""
    return _Http(address, limits) if open_stream is None else _Pooled(open_stream)


def pause_asked(value: str, now: datetime | None = None) -> float:
    """Seconds of a Retry-After field: a number, or an HTTP date; 0 for what is neither.

    Never below 0 nor above LONGEST_PAUSE_S: the other side may write what it likes.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), LONGEST_PAUSE_S)
    try:
        date = parsedate_to_datetime(value[:64])
        if date.tzinfo is None:  # "-0000": UTC by RFC 5322
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE_S)


def error_of(error: Any) -> tuple[int, str]:
    """Code and text of the `error` of an answer, whatever it is."""
    if not isinstance(error, dict):
        return 0, str(error)[:300]
    code = error.get("code")
    if isinstance(code, str) and re.fullmatch(r"-?[0-9]{1,9}", code, re.ASCII):
        code = int(code)
    reason = str(error.get("message", ""))[:300]
    if isinstance(error.get("data"), str) and len(error["data"]) < 300:
        reason = f"{reason} {error['data']}".strip()
    return (code if isinstance(code, int) else 0), reason


def too_long(max_nbytes: int) -> RpcRefused:
    """What an answer is that has more bytes than are taken."""
    return RpcRefused(code=TOO_LARGE, reason=f"the answer is above {max_nbytes} bytes")


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
            status = response.status
            passing = Transient(
                f"HTTP status {status}",
                pause_asked(response.headers.get("Retry-After", "")),
                is_rate=status == TOO_MANY_REQUESTS,
            )
            if status in _RETRIED_STATUS:
                raise passing
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > self._max_nbytes:
                    raise too_long(self._max_nbytes)
            # Some nodes put a JSON-RPC error into a body with another status.
            is_json = content.lstrip().startswith((b"{", b"["))
            if status in _GATEWAY_STATUS and not (is_json and _is_error(content)):
                raise passing
            if status != 200 and not is_json:
                raise RpcRefused(
                    code=status, reason=f"HTTP status {status} {response.reason or ''}".strip()
                )
            return bytes(content)

    async def close(self) -> None:
        await self._session.close()


def _is_error(content: bytes | bytearray) -> bool:
    """Whether the body of a status from 500 on is a node's own word for what is wrong."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    if isinstance(answer, list):
        return any(isinstance(each, dict) and "error" in each for each in answer)
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), dict):
        return False
    meaning = meaning_of(*error_of(answer["error"]))
    return meaning not in (Meaning.unclear, Meaning.wrong)


class _Pooled:
    """Connections with one request under way on each; one that failed is never used again."""

    def __init__(self, connect: OpenStream) -> None:
        self._connect = connect
        self._idle: list[Stream] = []

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
    def __init__(self, session: aiohttp.ClientSession, socket: Any, max_nbytes: int) -> None:
        self._session = session
        self._socket = socket
        self._max_nbytes = max_nbytes

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
        code = self._socket.close_code
        if isinstance(message.data, aiohttp.WebSocketError):
            # This side's own limit on a message.
            if message.data.code == _MESSAGE_TOO_BIG:
                raise too_long(self._max_nbytes)
        elif code == _MESSAGE_TOO_BIG:
            raise RpcRefused(code=code, reason="the WebSocket closed: message too big")
        reason = f"the WebSocket closed ({message.type.name}, {message.data})"
        raise Transient(reason, is_rate=code == _TRY_AGAIN_LATER)

    async def close(self) -> None:
        await self._session.close()


async def _open_websocket(address: str, limits: Limits) -> Stream:
    session = aiohttp.ClientSession()
    try:
        socket = await session.ws_connect(address, max_msg_size=limits.max_response_nbytes)
    except aiohttp.WSServerHandshakeError as error:
        await session.close()
        if error.status in _RETRIED_STATUS or error.status in _GATEWAY_STATUS:
            asked = "" if error.headers is None else error.headers.get("Retry-After", "")
            raise Transient(
                f"HTTP status {error.status}",
                pause_asked(asked),
                is_rate=error.status == TOO_MANY_REQUESTS,
            ) from None
        raise RpcRefused(code=error.status, reason=f"HTTP status {error.status}") from None
    except BaseException:
        await session.close()
        raise
    return _WebSocket(session, socket, limits.max_response_nbytes)


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
                raise Transient("the socket was closed before the answer was whole")
            content += chunk
            if len(content) > self._max_nbytes:
                raise too_long(self._max_nbytes)

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


async def _open_local(path: str, limits: Limits) -> Stream:
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
    except (ValueError, RecursionError):
        return 0
