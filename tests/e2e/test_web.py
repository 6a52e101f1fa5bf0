"""arena-web as an installed program: served, refused and ended."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from builders.market import make_market
from builders.watched import HEAD, KEYS, watched
from builders.web import SECONDS, WEB, WebProcess

from arena.writing import WriterArena

# A Python in which the extra is not installed.
WITHOUT = """
import sys
sys.modules["starlette"] = sys.modules["uvicorn"] = None
from arena.readers.web.cli import web
web(sys.argv[1:])
"""


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with watched(arena_name) as found:
        yield found


def refused(*words: str) -> str:
    """What a refusal says; it is one line, and code 2."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_also_with_a_page_open(writer: WriterArena, number: int) -> None:
    with WebProcess(writer.name) as web:
        assert web.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(
            f"{web.address}/api/pools/{KEYS[0]}", timeout=SECONDS
        ) as answer:
            assert json.load(answer)["block_number"] == HEAD
        with urllib.request.urlopen(f"{web.address}/events", timeout=SECONDS) as events:
            assert events.readline().startswith(b"data: ")
            assert web.end(number) == (0, "")


def events_of(connection: socket.socket, seconds: float) -> int:
    """How many events come within that time."""
    end, text = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        with contextlib.suppress(TimeoutError):
            text += connection.recv(1 << 16)
    return text.count(b"data: ")


@pytest.mark.slow
def test_one_that_does_not_read_holds_nobody_up_and_nothing_is_kept_for_it(arena_name: str) -> None:
    with make_market(arena_name, 500, 7) as market, WebProcess(arena_name) as web:
        ask = b"GET /events?limit=500 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        with socket.socket() as stuck, socket.socket() as other:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for each in (stuck, other):
                each.connect(("127.0.0.1", web.port))
                each.sendall(ask)
            assert events_of(other, 1.0) > 0
            taken = 0
            for _ in range(100):  # of some 70 kB each
                market.block(500)
                market.owner.heartbeat()
                taken += events_of(other, 0.2)
            assert taken > 50
            # What the kernel kept for it, and not all that there was.
            assert events_of(stuck, 1.0) < taken / 2


def test_it_can_be_asked_over_ipv6_and_by_name(writer: WriterArena) -> None:
    with WebProcess(writer.name, "--host", "::1") as web:
        assert web.address.startswith("http://[::1]:")
        with urllib.request.urlopen(f"{web.address}/health", timeout=SECONDS) as answer:
            assert answer.status == 200
    with (
        WebProcess(writer.name, "--host", "localhost") as web,
        urllib.request.urlopen(f"http://localhost:{web.port}/health", timeout=SECONDS) as answer,
    ):
        assert answer.status == 200


def test_other_machines_are_let_in_on_demand_alone_with_a_warning(writer: WriterArena) -> None:
    text = refused(WEB, writer.name, "--host", "0.0.0.0", "--port", "0")
    assert text == (
        "arena-web: 0.0.0.0 is not this machine's own: whoever reaches it can read; --public\n"
    )
    with WebProcess(writer.name, "--host", "0.0.0.0", "--public") as web:
        request = urllib.request.Request(
            f"http://127.0.0.1:{web.port}/health", headers={"host": "pools.example"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            assert answer.status == 200
        code, errors = web.end()
    assert code == 0
    assert errors.startswith("arena-web: warning: 0.0.0.0 is open to other machines")


def test_what_keeps_it_from_serving_is_one_line(writer: WriterArena) -> None:
    text = refused(WEB, writer.name + "-other", "--port", "0", "--timeout", "0")
    assert text.startswith("arena-web: ArenaMissing: ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        text = refused(WEB, writer.name, "--port", port)
        assert "Address already in use" in text
    text = refused(sys.executable, "-P", "-c", WITHOUT, writer.name)
    assert text == ("arena-web: starlette is not installed: pip install 'pool-state-arena[web]'\n")
    for words in (["--interval", "0.1"], ["--port", "70000"], ["--port", "x"]):
        assert "is no " in refused(WEB, writer.name, *words)
