"""Servers that misbehave as told, alone or in front of a node: over HTTP, or on a Unix socket."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do with one request in place of answering it.

    `status` other than 200 answers with it; `error` answers every call with (code, message);
    `whole_error` answers a batch with a single error; `body` answers with these bytes; `cut`
    answers truly but ends early, with a length that fits ("json") or without ("connection");
    `delay_s` waits first, and with nothing else the true answer follows.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: tuple[int, str] | None = None
    whole_error: tuple[int, str] | None = None
    body: bytes | None = None
    cut: Literal["json", "connection"] | None = None
    delay_s: float = 0.0


Rule = Callable[[Any, int], Fault | None]
"""Given a request (object or list) and its number from 0: what goes wrong, None for nothing."""


def node_answer(port: int) -> Callable[[bytes], bytes]:
    """What the node on that port answers."""

    def forward(body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    return forward


def lagging_answer(port: int, newest: Callable[[int], int]) -> Callable[[bytes], bytes]:
    """What the node on that port would answer had it seen blocks up to newest(its head) only."""
    forward = node_answer(port)

    def one(request: dict[str, Any], last: int) -> dict[str, Any]:
        if request["method"] == "eth_blockNumber":
            return {"jsonrpc": "2.0", "id": request["id"], "result": hex(last)}
        if request["method"] == "eth_getBlockByNumber":
            asked, *more = request["params"]
            number = last if asked == "latest" else int(asked, 16)
            if number > last:
                return {"jsonrpc": "2.0", "id": request["id"], "result": None}
            request = request | {"params": [hex(number), *more]}
        answered: dict[str, Any] = json.loads(forward(json.dumps(request).encode()))
        return answered

    def answer(body: bytes) -> bytes:
        if b"eth_blockNumber" not in body and b"eth_getBlockByNumber" not in body:
            return forward(body)
        asked = json.loads(body)
        question = {"jsonrpc": "2.0", "id": 0, "method": "eth_blockNumber", "params": []}
        last = newest(int(json.loads(forward(json.dumps(question).encode()))["result"], 16))
        if isinstance(asked, list):
            return json.dumps([one(item, last) for item in asked]).encode()
        return json.dumps(one(asked, last)).encode()

    return answer


def plain_answer(body: bytes) -> bytes:
    """Every call gets its own first parameter, or its method's name, as the result."""

    def one(request: dict[str, Any]) -> dict[str, Any]:
        result = (request["params"] or [request["method"]])[0]
        return {"jsonrpc": "2.0", "id": request["id"], "result": result}

    asked = json.loads(body)
    return json.dumps(
        [one(item) for item in asked] if isinstance(asked, list) else one(asked)
    ).encode()


class FaultyServer:
    """Serves `answer`, except where `rule` says otherwise. Counts what it saw."""

    def __init__(self, answer: Callable[[bytes], bytes], rule: Rule = lambda request, number: None):
        self.rule = rule
        self.request_count = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = json.loads(body)
                with outer._lock:
                    number = outer.request_count
                    outer.request_count += 1
                    outer._at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer._at_once)
                try:
                    outer._serve(self, answer, body, request, outer.rule(request, number))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with outer._lock:
                        outer._at_once -= 1

            def log_message(self, *unused: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.http = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _serve(
        self,
        handler: BaseHTTPRequestHandler,
        answer: Callable[[bytes], bytes],
        body: bytes,
        request: Any,
        fault: Fault | None,
    ) -> None:
        fault = fault or Fault()
        if fault.delay_s:
            self._released.wait(fault.delay_s)
        if fault.status != 200:
            content = b"not today"
        elif fault.error:
            content = json.dumps(_refusals(request, *fault.error)).encode()
        elif fault.whole_error:
            code, message = fault.whole_error
            whole = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
            content = json.dumps(whole).encode()
        elif fault.body is not None:
            content = fault.body
        else:
            content = answer(body)
        length = len(content)
        if fault.cut:
            content = content[: len(content) // 2]
            length = len(content) if fault.cut == "json" else length
        handler.send_response(fault.status)
        for name, value in fault.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(content)
        if fault.cut == "connection":
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Swallower:
    """A node's IPC socket again at `path`; what the node says can be swallowed.

    `swallow` keeps back, from now on and for the connections there are, the answers on those that
    subscribed to something, or on all. Connections made later are whole.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._pairs: list[dict[str, Any]] = []
        self.swallowed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            node = socket.socket(socket.AF_UNIX)
            try:
                node.connect(str(self._target))
            except OSError:
                client.close()
                continue
            pair = {"client": client, "node": node, "subscribed": False, "silent": False}
            self._pairs.append(pair)
            threading.Thread(target=self._ask, args=(pair,), daemon=True).start()
            threading.Thread(target=self._answer, args=(pair,), daemon=True).start()

    def _ask(self, pair: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            while data := pair["client"].recv(1 << 16):
                pair["subscribed"] |= b"eth_subscribe" in data
                pair["node"].sendall(data)
            pair["node"].shutdown(socket.SHUT_RDWR)

    def _answer(self, pair: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            while data := pair["node"].recv(1 << 16):
                if pair["silent"]:
                    self.swallowed += len(data)
                else:
                    pair["client"].sendall(data)
            pair["client"].shutdown(socket.SHUT_RDWR)

    def swallow(self, *, only_subscriptions: bool) -> None:
        for pair in self._pairs:
            pair["silent"] |= pair["subscribed"] or not only_subscriptions

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        for pair in self._pairs:
            for end in ("client", "node"):
                with contextlib.suppress(OSError):
                    pair[end].shutdown(socket.SHUT_RDWR)
                pair[end].close()


def _refusals(request: Any, code: int, message: str) -> Any:
    def one(item: dict[str, Any]) -> dict[str, Any]:
        error = {"code": code, "message": message}
        return {"jsonrpc": "2.0", "id": item["id"], "error": error}

    return [one(item) for item in request] if isinstance(request, list) else one(request)
