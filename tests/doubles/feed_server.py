"""A Unix socket server that sends prepared bytes when told to, as a process of its own.

Run as a script: `feed_server.py SOCKET STREAM`. It listens at once and obeys lines on stdin, each
answered by one JSON line on stdout; it ends by itself, clients closed, when stdin closes:

    send FROM TO        bytes FROM..TO of the file STREAM to every client
    drip FROM TO N PAUSE
                        the same in pieces of N bytes, each a write of its own, PAUSE seconds apart
    hex DIGITS          those bytes
    await N SECONDS     wait until N clients have been accepted since the start
    drop                close every client
    deaf                stop listening and remove the socket file
    listen              listen again
    status              only the answer

The answer is {"ok", "accepted", "clients", "sent", "error"}: clients accepted so far and connected
now, and bytes of this command that reached every client connected. `FeedServer` drives it.
"""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SEND_SECONDS = 60.0


class _Server:
    def __init__(self, path: str, stream: bytes) -> None:
        self.path = path
        self.stream = stream
        self.listener: socket.socket | None = None
        self.clients: list[socket.socket] = []
        self.accepted = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ)
        self.pending = b""
        self.listen()

    def listen(self) -> None:
        if self.listener is not None:
            return
        self._unlink()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def deaf(self) -> None:
        if self.listener is not None:
            self.selector.unregister(self.listener)
            self.listener.close()
            self.listener = None
            self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def accept_all(self) -> None:
        while self.listener is not None:
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                return
            client.settimeout(SEND_SECONDS)
            self.clients.append(client)
            self.accepted += 1

    def drop(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()

    def send(self, data: bytes, piece: int | None = None, pause: float = 0) -> int:
        """Bytes sent to every client; a client that fails is closed and forgotten."""
        self.accept_all()
        piece = piece or max(1, len(data))
        for start in range(0, len(data), piece):
            if start and pause:
                time.sleep(pause)
            for client in list(self.clients):
                try:
                    client.sendall(data[start : start + piece])
                except OSError:
                    client.close()
                    self.clients.remove(client)
        return len(data)

    def wait_accepted(self, count: int, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while self.accepted < count:
            left = limit - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.accepted} of {count} clients within {seconds} s")
            assert self.listener is not None
            with selectors.DefaultSelector() as waiting:
                waiting.register(self.listener, selectors.EVENT_READ)
                waiting.select(left)
            self.accept_all()

    def obey(self, line: str) -> dict[str, Any]:
        sent = 0
        error = None
        verb, *words = line.split()
        try:
            if verb == "send":
                sent = self.send(self.stream[int(words[0]) : int(words[1])])
            elif verb == "drip":
                data = self.stream[int(words[0]) : int(words[1])]
                sent = self.send(data, int(words[2]), float(words[3]))
            elif verb == "hex":
                sent = self.send(bytes.fromhex(words[0]))
            elif verb == "await":
                self.wait_accepted(int(words[0]), float(words[1]))
            elif verb in ("drop", "deaf", "listen"):
                getattr(self, verb)()
            elif verb != "status":
                raise ValueError(f"unknown command {verb}")
        except (OSError, ValueError, IndexError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        self.accept_all()
        return {
            "ok": error is None,
            "accepted": self.accepted,
            "clients": len(self.clients),
            "sent": sent,
            "error": error,
        }

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.accept_all()
                elif not self._read_commands():
                    self.drop()
                    self.deaf()
                    return

    def _read_commands(self) -> bool:
        """Obey every whole line read; False at the end of stdin."""
        data = os.read(0, 1 << 20)
        if not data:
            return False
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            sys.stdout.write(json.dumps(self.obey(line.decode())) + "\n")
            sys.stdout.flush()
        return True


class FeedServer:
    """The server as a child process serving `stream`; a context manager.

    The constructor returns once the socket exists. A command that fails raises RuntimeError.
    """

    def __init__(self, socket_path: Path, stream: bytes, stream_path: Path) -> None:
        self.socket_path = socket_path
        stream_path.write_bytes(stream)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(socket_path), str(stream_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.command("status")

    def command(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the feed server ended with {self._process.wait()}")
        result: dict[str, Any] = json.loads(answer)
        if not result["ok"]:
            raise RuntimeError(f"{line[:80]}: {result['error']}")
        return result

    def send(self, start: int, end: int) -> None:
        self.command(f"send {start} {end}")

    def drip(self, start: int, end: int, piece: int, *, pause: float = 0) -> None:
        self.command(f"drip {start} {end} {piece} {pause}")

    def send_bytes(self, data: bytes) -> None:
        """Bytes that are not part of the stream (garbage)."""
        self.command(f"hex {data.hex()}")

    def await_clients(self, accepted: int = 1, seconds: float = 30) -> None:
        """Wait until that many clients have been accepted since the start."""
        self.command(f"await {accepted} {seconds}")

    def drop(self) -> None:
        self.command("drop")

    def deaf(self) -> None:
        self.command("deaf")

    def listen(self) -> None:
        self.command("listen")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()

    def __enter__(self) -> "FeedServer":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


if __name__ == "__main__":
    _Server(sys.argv[1], Path(sys.argv[2]).read_bytes()).run()
