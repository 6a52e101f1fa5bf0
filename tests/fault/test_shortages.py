"""What is used up or cut short around the programs: descriptors, memory, room in a socket's path, the
reader of a pipe. Each ends, or goes on, with one line that says what to do, and never a traceback.
"""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from roles.processes import remove_segments

import arena
import arena.writer.demo
from arena.layouts import slots
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

BIN = Path(sys.executable).parent
DEMO = Path(arena.writer.demo.__file__).parent
RECORDING = DEMO / "chain_v2.exex"
STATES = DEMO / "states_v2.jsonl"
SECONDS = 60.0
NOBODY = "ws://127.0.0.1:9"


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / str(words[0])), *map(str, words[1:])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def until(condition: Callable[[], object], what: Callable[[], str] = str) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, what()
        time.sleep(0.01)


def is_one_line(found: subprocess.CompletedProcess[str], program: str) -> bool:
    return found.stderr.count("\n") == 1 and found.stderr.startswith(f"{program}: ")


# The path of a socket


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "program"),
    [
        (("arena-writer", "run", "--states", "s", "--socket", "{}"), "arena-writer"),
        (("arena-writer", "config", "--check", "--name", "a", "--socket", "{}"), "arena-writer"),
        (("arena-writer", "run", "--pools", "p", "--node", "{}"), "arena-writer"),
        (("arena-writer", "run", "--pools", "p", "--socket", "s", "--rpc", "{}"), "arena-writer"),
        (("arena-writer", "run", "--pools", "p", "--node", "ipc://{}"), "arena-writer"),
        (("arena-writer", "doctor", "--states", "s", "--socket", "{}"), "arena-writer"),
        (("arena-record", "out.rec", "--socket", "{}"), "arena-record"),
        (("arena-replay", str(RECORDING), "--socket", "{}"), "arena-replay"),
        (("arena-bridge", "--pools", "p", "--node", "{}", "--socket", "s"), "arena-bridge"),
        (("arena-verify", "a", "--rpc", "{}"), "arena-verify"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_path_too_long_for_a_socket_is_refused_with_both_numbers(
    words: tuple[str, ...], program: str, tmp_path: Path, arena_name: str
) -> None:
    filled = [word.format("/" + "a" * 140) for word in words]
    if filled[1] == "run":
        filled += ["--name", arena_name]
    found = run(*filled, cwd=tmp_path)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert found.stderr.splitlines()[-1].startswith(f"{program}: ")
    assert "needs 141 bytes, a socket's path has at most 107" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_of_temporary_files_too_deep_for_a_socket_is_refused(
    tmp_path: Path, arena_name: str
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    (tmp_path / "pools.json").write_text("[]")
    environment = {key: os.environ[key] for key in os.environ if "RUNTIME_DIR" not in key}
    found = run(
        *("arena-writer", "run", "--name", arena_name),
        *("--node", NOBODY, "--pools", tmp_path / "pools.json"),
        env=environment | {"TMPDIR": str(deep)},
    )
    assert found.returncode == 2
    assert is_one_line(found, "arena-writer")


# Descriptors


@pytest.mark.parametrize("limit", [6, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "command",
    ["run", *(pytest.param(each, marks=pytest.mark.slow) for each in ("replay", "record"))],
)
def test_a_start_without_enough_descriptors_says_so(
    command: str, limit: int, tmp_path: Path, arena_name: str
) -> None:
    words: tuple[object, ...] = {
        "run": ("arena-writer", "run", "--name", arena_name, "--socket", "s", "--states", STATES),
        "replay": ("arena-replay", RECORDING, "--socket", "s"),
        "record": ("arena-record", "out.rec", "--socket", "s"),
    }[command]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    found = run(*words, cwd=tmp_path, preexec_fn=limited)
    assert found.returncode == 2, found.stderr
    assert is_one_line(found, str(words[0]))
    assert f"may open {limit} files, 256 are enough: the hard limit is {limit}" in found.stderr
    assert "LimitNOFILE" in found.stderr


class Program:
    """A command with its log; ended with SIGTERM."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.log = folder / f"{words[0]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / str(words[0])), *map(str, words[1:])],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def text(self) -> str:
        return self.log.read_text()

    def until(self, words: str, count: int = 1) -> None:
        until(
            lambda: self.text().count(words) >= count or self.process.poll() is not None, self.text
        )
        assert self.text().count(words) >= count, self.text()

    def let_open(self, *, more: bool) -> None:
        """Let it open files again, or none but those it has."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (hard if more else 3, hard))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(*words: object) -> Program:
        started.append(Program(tmp_path, *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.slow
def test_a_live_writer_without_descriptors_waits_for_one_to_connect(
    programs: Callable[..., Program], tmp_path: Path, arena_name: str
) -> None:
    replay = ("arena-replay", RECORDING, "--socket", tmp_path / "feed.sock", "--rate", "50")
    first = programs(*replay)
    writer = programs(
        *("arena-writer", "run", "--name", arena_name, "--socket", tmp_path / "feed.sock"),
        *("--states", STATES, "--state-dir", tmp_path / "state"),
    )
    try:
        with arena.attach(arena_name, timeout=SECONDS) as pools:
            assert pools.wait_live(SECONDS)
            writer.let_open(more=False)
            first.process.wait(SECONDS)
            programs(*replay, "--linger", "60")
            writer.until("LimitNOFILE")
            assert pools.writer_alive
            writer.let_open(more=True)
            writer.until("event=connected", 2)
            assert pools.writer_alive
        assert "Traceback" not in writer.text()
        assert writer.stop() == 0
    finally:
        remove_segments(arena_name)


@pytest.mark.slow
def test_a_server_without_descriptors_takes_its_clients_later(
    programs: Callable[..., Program], tmp_path: Path
) -> None:
    path = tmp_path / "feed.sock"
    server = programs("arena-replay", RECORDING, "--socket", path, "--at-once", "--linger", "60")
    server.until("event=listening")
    server.let_open(more=False)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        server.until("event=out_of_resources")
        assert "LimitNOFILE" in server.text()
        server.let_open(more=True)
        assert client.recv(1)
    assert "Traceback" not in server.text()
    assert server.stop() == 0


# Memory


@pytest.mark.parametrize("kilobytes", [60_000, pytest.param(80_000, marks=pytest.mark.slow)])
def test_a_start_without_memory_ends_in_one_line(
    kilobytes: int, tmp_path: Path, arena_name: str
) -> None:
    """In between, a library of numpy's ends the process by itself, with a line of its own."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (kilobytes << 10, kilobytes << 10))

    try:
        found = subprocess.run(
            [
                *(str(BIN / "arena-writer"), "run", "--name", arena_name, "--socket", "s"),
                *("--states", "none.jsonl", "--scrape-timeout", "0"),
            ],
            cwd=tmp_path,
            preexec_fn=limited,
            capture_output=True,
            text=True,
            timeout=SECONDS,  # where there is enough, it goes on to wait for its producer
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{kilobytes} kB are enough here")
    assert "Traceback" not in found.stderr
    if found.returncode == 1:
        assert "OpenBLAS" in found.stderr
        return
    assert found.returncode == 2
    assert "ulimit" in found.stderr


# The reader of a pipe


@pytest.fixture
def small_arena(arena_name: str) -> Iterator[str]:
    token = TokenSpec(bytes(20), 18, "T")
    with WriterArena.create(arena_name, max_pools=512, tick_bytes=1 << 20) as writer:
        for number in range(1, 400):  # more than a pipe and a buffer hold
            key = number.to_bytes(20, "big")
            slot = writer.add_pool(PoolSpec(key, slots.UNISWAP_V2, token, token, 3000))
            writer.install(
                slot, PoolValues(5, 3000, reserve0=1000, reserve1=2000), slots.STATUS_LIVE
            )
        writer.set_head(5)
        writer.commit()
        yield arena_name
        writer.close(unlink=True)


PRINTING = [
    ("arena-dump", "{}"),
    ("arena-quote", "{}", "0x" + (7).to_bytes(20, "big").hex(), "10"),
    ("arena-writer", "status", "{}"),
    ("arena-writer", "status", "{}", "--json"),
    ("arena-writer", "config", "--name", "a", "--socket", "s", "--states", "s"),
    ("arena-writer", "doctor", "--states", str(STATES), "--socket", "none"),
    ("arena-writer", "run", "--help"),
    ("arena-bridge", "--help"),
]


def closing_after(nbytes: int, words: tuple[str, ...], name: str) -> tuple[int, str]:
    """Exit code and errors of a command whose reader leaves after that many bytes."""
    command = [str(BIN / words[0]), *(word.format(name) for word in words[1:])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    if nbytes:
        process.stdout.read(nbytes)
    process.stdout.close()
    problems = process.stderr.read()
    process.stderr.close()
    return process.wait(SECONDS), problems


@pytest.mark.slow
@pytest.mark.parametrize("nbytes", [0, 1])
@pytest.mark.parametrize("words", PRINTING, ids=lambda words: "-".join(words[:3:2]))
def test_who_closes_the_pipe_has_seen_enough(
    words: tuple[str, ...], nbytes: int, small_arena: str
) -> None:
    code, problems = closing_after(nbytes, words, small_arena)
    assert problems == ""
    assert code == (2 if "doctor" in words else 0)  # that is its verdict: nobody serves the socket


@pytest.mark.slow
@pytest.mark.parametrize("words", PRINTING, ids=lambda words: "-".join(words[:3:2]))
def test_output_that_cannot_be_written_is_an_error_in_one_line(
    words: tuple[str, ...], small_arena: str
) -> None:
    with open("/dev/full", "wb") as full:
        found = subprocess.run(
            [str(BIN / words[0]), *(word.format(small_arena) for word in words[1:])],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert found.returncode == 2
    assert found.stderr.startswith(f"{words[0]}: OSError: ")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", PRINTING[:4], ids=lambda words: "-".join(words[:3:2]))
def test_a_command_without_any_output_works(words: tuple[str, ...], small_arena: str) -> None:
    found = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", str(BIN / words[0])]
        + [word.format(small_arena) for word in words[1:]],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.slow
def test_a_writer_whose_log_nobody_reads_goes_on(tmp_path: Path, arena_name: str) -> None:
    process = subprocess.Popen(
        [
            *(str(BIN / "arena-writer"), "run", "--name", arena_name, "--socket", "feed.sock"),
            *("--states", str(STATES), "--state-dir", "state"),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        process.stderr.readline()
        process.stderr.close()
        with arena.attach(arena_name, timeout=SECONDS) as pools:
            command = [str(BIN / "arena-replay"), str(RECORDING), "--socket", "feed.sock"]
            with subprocess.Popen(
                [*command, "--rate", "50"], cwd=tmp_path, stderr=subprocess.DEVNULL
            ) as replay:
                assert pools.wait_live(SECONDS)
                replay.wait(SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        remove_segments(arena_name)
