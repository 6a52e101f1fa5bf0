"""A NATS server as a process, and a publisher of pool lists on it, for tests.

Imports nothing of the product. The server listens on 127.0.0.1 only.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg

SECONDS = 30.0
T = TypeVar("T")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class NatsServer:
    """`nats-server` on one port, which it keeps over restarts; a context manager that ends it."""

    def __init__(self, folder: Path, *more: str, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.url = f"nats://127.0.0.1:{self.port}"
        self._log = folder / "nats.log"
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        # Debian installs it among the system's programs, which not every user has in the path.
        program = shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "nats-server is missing: apt-get install nats-server"
        command = [program, "-a", "127.0.0.1", "-p", str(self.port), *self._more]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        limit = time.monotonic() + SECONDS
        while True:
            assert self._process.poll() is None, self._log.read_text()
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1) as found,
            ):
                if found.recv(4) == b"INFO":
                    return self
            assert time.monotonic() < limit, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(SECONDS)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.kill()


class Publisher:
    """Answers for a list of pools and publishes on its subjects; connects again by itself.

    `records` is the list, a record by its id. `reseed`: how whitelist.reseed is answered, "full"
    with a `.full` message or not at all; `replies`: whether requests are, with ids alone. `asked`
    counts both by subject.
    """

    def __init__(self, url: str, chain: str, *, reseed: bool = True, replies: bool = True) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.chain = chain
        self.asked = {"reseed": 0, "request": 0}
        self.reseed = reseed
        self.replies = replies
        self._url = url
        self._client = Client()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # -- what it says

    def say(self, suffix: str, **content: Any) -> None:
        """Publish a message of this chain."""
        self.send(f"whitelist.pools.{self.chain}.{suffix}", {"chain": self.chain} | content)

    def send(self, subject: str, content: Any) -> None:
        """Publish bytes as they are, anything else as JSON; the server has it on return."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()

        async def publish() -> None:
            await self._client.publish(subject, raw)
            await self._client.flush()

        self._run(publish())

    def flood(self, suffix: str, contents: list[dict[str, Any]]) -> None:
        """Publish many messages in one go."""

        async def publish() -> None:
            for content in contents:
                raw = json.dumps({"chain": self.chain} | content).encode()
                await self._client.publish(f"whitelist.pools.{self.chain}.{suffix}", raw)
            await self._client.flush()

        self._run(publish())

    async def _on_reseed(self, message: Msg) -> None:
        self.asked["reseed"] += 1
        if self.reseed:
            content = {"chain": self.chain, "pools": list(self.records.values())}
            await self._client.publish(
                f"whitelist.pools.{self.chain}.full", json.dumps(content).encode()
            )

    async def _on_request(self, message: Msg) -> None:
        self.asked["request"] += 1
        if self.replies:
            content = {"type": "full", "chain": self.chain, "pools": list(self.records)}
            await message.respond(json.dumps(content).encode())

    # -- its life

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    async def _connect(self) -> None:
        async def ignore(error: Exception) -> None:
            pass  # it tries again for as long as it lives

        await self._client.connect(
            self._url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=ignore
        )
        await self._client.subscribe("whitelist.reseed", cb=self._on_reseed)
        await self._client.subscribe(
            f"whitelist.snapshot.request.{self.chain}", cb=self._on_request
        )
        await self._client.flush()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._connect())
        return self

    def close(self) -> None:
        """Go away; safe to call twice."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._loop.close()

    def __exit__(self, *exc: object) -> None:
        self.close()
