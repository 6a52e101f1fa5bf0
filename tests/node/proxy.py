"""An HTTP server on 127.0.0.1 that misbehaves as told, alone or in front of a node."""

import http.client
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _refusals(request: Any, code: int, message: str) -> Any:
    def one(item: dict[str, Any]) -> dict[str, Any]:
        error = {"code": code, "message": message}
        return {"jsonrpc": "2.0", "id": item["id"], "error": error}

    return [one(item) for item in request] if isinstance(request, list) else one(request)
