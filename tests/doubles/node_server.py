"""A node's JSON-RPC interface over HTTP for one simulated chain, with faults on demand.

Only what closing a gap asks for. Imports nothing of the product.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from builders.history import SimBlock, answer


class NodeServer:
    """Serves `chain` (set it anew at any time) at `address`; a context manager.

    `is_down` answers 503, `most_blocks` refuses longer ranges of logs, `most_batch` longer batches;
    `calls` counts requests by method, `ranges` keeps the ranges of logs that were answered.
    """

    def __init__(self, chain: tuple[SimBlock, ...]) -> None:
        self.chain = chain
        self.is_down = False
        self.most_blocks = 10**9
        self.calls: dict[str, int] = {}
        self.ranges: list[tuple[int, int]] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if node.is_down:
                    self._send(503, b"busy")
                    return
                view = node.chain
                result: Any
                if isinstance(body, list):
                    result = [node._one(view, each) for each in body]
                else:
                    result = node._one(view, body)
                self._send(200, json.dumps(result).encode())

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *unused: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _one(self, view: tuple[SimBlock, ...], request: dict[str, Any]) -> dict[str, Any]:
        method, params = request["method"], request.get("params", [])
        self.calls[method] = self.calls.get(method, 0) + 1
        head = {"jsonrpc": "2.0", "id": request["id"]}
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            span = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
            if span[1] - span[0] + 1 > self.most_blocks:
                text = f"block range exceeds {self.most_blocks}"
                return head | {"error": {"code": -32602, "message": text}}
            self.ranges.append(span)
        if method == "eth_syncing":
            return head | {"result": False}
        try:
            return head | {"result": self.answer(view, method, params)}
        except LookupError as error:
            code = getattr(error, "code", -32000)
            return head | {"error": {"code": code, "message": str(error)}}

    def answer(self, view: tuple[SimBlock, ...], method: str, params: list[Any]) -> Any:
        """LookupError is a refusal, with its `code` if it has one."""
        return answer(view, method, params)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
