"""arena-web as an installed program: served, refused and ended."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
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


def test_it_can_be_asked_by_the_sixth_protocol_and_by_name(writer: WriterArena) -> None:
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
