"""What the other tests lean on: the feed server, and the leak check of conftest.py."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from doubles.feed_server import FeedServer

CONFTEST = Path(__file__).resolve().parent.parent / "conftest.py"


def _connect(server: FeedServer) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(str(server.socket_path))
    return client


def _read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        assert part, f"closed after {len(data)} of {count} bytes"
        data += part
    return data


def test_server_sends_every_client_what_comes_after_it_connected(tmp_path: Path) -> None:
    stream = bytes(range(256))
    with (
        FeedServer(tmp_path / "s", stream, tmp_path / "stream") as server,
        _connect(server) as first,
    ):
        server.await_clients(1)
        server.send(0, 10)
        with _connect(server) as second:
            server.await_clients(2)
            server.drip(10, 100, 7)
            server.send_bytes(b"\xff\x00")
            assert _read(first, 102) == stream[:100] + b"\xff\x00"
            assert _read(second, 92) == stream[10:100] + b"\xff\x00"
            server.drop()
            assert first.recv(1) == b""
            assert second.recv(1) == b""


def test_server_goes_deaf_and_listens_again(tmp_path: Path) -> None:
    with FeedServer(tmp_path / "s", b"abc", tmp_path / "stream") as server:
        server.deaf()
        with pytest.raises(FileNotFoundError):
            _connect(server)
        server.listen()
        with _connect(server) as client:
            server.await_clients(1)
            server.send(0, 3)
            assert _read(client, 3) == b"abc"


def test_server_survives_a_client_that_leaves(tmp_path: Path) -> None:
    with FeedServer(tmp_path / "s", bytes(1_000_000), tmp_path / "stream") as server:
        _connect(server).close()
        server.await_clients(1)
        server.send(0, 1_000_000)
        assert server.command("status")["clients"] == 0


def test_server_reports_wrong_commands(tmp_path: Path) -> None:
    with FeedServer(tmp_path / "s", b"", tmp_path / "stream") as server:
        with pytest.raises(RuntimeError, match="unknown command dance"):
            server.command("dance")
        with pytest.raises(RuntimeError, match="0 of 1 clients"):
            server.await_clients(1, seconds=0)


def test_server_ends_when_its_stdin_closes(tmp_path: Path) -> None:
    server = FeedServer(tmp_path / "s", b"", tmp_path / "stream")
    with _connect(server) as client:
        server.await_clients(1)
        server.close()
        assert client.recv(1) == b""
    assert not (tmp_path / "s").exists()


def _run_pytest(folder: Path, body: str) -> str:
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "test_it.py").write_text(body)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run.stdout


@pytest.mark.slow
def test_leak_check_fails_a_test_that_leaves_shared_memory(tmp_path: Path) -> None:
    body = """
from pathlib import Path

def test_leaves(arena_name):
    Path("/dev/shm", arena_name + ".1").write_bytes(b"x")

def test_clean(arena_name):
    path = Path("/dev/shm", arena_name)
    path.write_bytes(b"x")
    path.unlink()
"""
    output = _run_pytest(tmp_path, body)
    assert "2 passed, 1 error" in output
    assert "test_leaves leaves behind: /dev/shm/psa-" in output
    leaked = output.split("leaves behind: /dev/shm/")[1].split()[0]
    assert not Path("/dev/shm", leaked).exists()


@pytest.mark.slow
def test_leak_check_fails_a_test_that_leaves_a_process(tmp_path: Path) -> None:
    body = """
import subprocess
kept = []

def test_leaves():
    kept.append(subprocess.Popen(["sleep", "20"]))

def test_cleans_up():
    for child in kept:
        child.kill()
        child.wait()
"""
    output = _run_pytest(tmp_path, body)
    assert "2 passed, 1 error" in output
    assert "sleep 20" in output
