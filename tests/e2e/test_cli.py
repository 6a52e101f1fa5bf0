"""arena-writer and arena-replay as installed programs: what they serve, refuse and leave behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import arena.writer.demo

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(arena.writer.demo.__file__).parent
RECORDING = DEMO / "chain_v2.exex"  # blocks 56 to 103
STATES = DEMO / "states_v2.jsonl"  # at block 55
OLD_GENERATION = Path(__file__).parent.parent / "data/wire/golden/exex_g03_6a038d5.bin"
SECONDS = 30.0


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def start(
    processes: list[subprocess.Popen[str]], tmp_path: Path
) -> Callable[..., subprocess.Popen[str]]:
    def run(program: str, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(BIN / program), *map(str, words)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    return run


def run_words(name: str, feed: Path, states: Path) -> list[object]:
    return ["run", "--name", name, "--socket", feed, "--states", states]


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    code, _, err = end(process)
    assert code == 0, err


def until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < limit, "the condition was not met in time"
        time.sleep(0.005)


def status(name: str) -> dict[str, Any] | None:
    done = subprocess.run(
        [str(BIN / "arena-writer"), "status", name, "--json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(process: subprocess.Popen[str], error: str) -> str:
    """The one line a program ended with, which names the class."""
    code, _out, err = end(process)
    assert code == 2, err
    assert "Traceback" not in err
    line = err.strip().split("\n")[-1]
    assert f": {error}: " in line
    return line


@pytest.fixture
def feed(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Path:
    """A replay of the recording that keeps its connections open at the end."""
    path = tmp_path / "feed.sock"
    start("arena-replay", RECORDING, "--socket", path, "--at-once", "--linger", "60")
    until(path.exists)
    return path


PROGRAMS = sorted(each.name for each in metadata.distribution("pool-state-arena").entry_points)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_its_version(program: str) -> None:
    done = subprocess.run(
        [str(BIN / program), "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout == f"{program} {version}\n"
    assert (done.stderr, arena.__version__) == ("", version)
    shown = subprocess.run(
        [str(BIN / program), "--help"], capture_output=True, text=True, timeout=60
    )
    assert "--version" in shown.stdout


def test_a_writer_follows_a_replay_shows_its_status_and_cleans_up(
    start: Callable[..., subprocess.Popen[str]], feed: Path, arena_name: str
) -> None:
    writer = start("arena-writer", *run_words(arena_name, feed, STATES))
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "live" and pools.head_block == 103, writer)
    found = status(arena_name)
    assert found is not None
    assert (found["state"], found["phase"], found["head_block"]) == ("ready", "live", 103)
    assert found["pools"] == {"live": 5, "syncing": 0, "stale": 0}
    assert found["writer_pid"] == writer.pid
    assert found["counters"]["blocks"] == 48
    assert found["counters"]["bytes"] == RECORDING.stat().st_size
    assert found["counters"]["connections"] == 1
    pools.close()
    writer.send_signal(signal.SIGTERM)
    code, out, err = end(writer)
    assert (code, out) == (0, ""), err
    assert "event=stopped" in err
    assert not list(Path("/dev/shm").glob(f"{arena_name}*"))


@pytest.mark.slow
def test_status_for_people_names_phase_and_pools(
    start: Callable[..., subprocess.Popen[str]], feed: Path, arena_name: str
) -> None:
    writer = start("arena-writer", *run_words(arena_name, feed, STATES))
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "live", writer)
    code, out, err = end(start("arena-writer", "status", arena_name))
    assert code == 0, err
    words = out.split()
    assert words[words.index("phase") + 1] == "live"
    assert words[words.index("pools") + 1 : words.index("pools") + 3] == ["live", "5"]
    writer.send_signal(signal.SIGINT)
    assert end(writer)[0] == 0


@pytest.mark.slow
def test_keep_segment_leaves_the_last_block_readable(
    start: Callable[..., subprocess.Popen[str]], feed: Path, arena_name: str
) -> None:
    writer = start("arena-writer", *run_words(arena_name, feed, STATES), "--keep-segment")
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "live" and pools.head_block == 103, writer)
    stop(writer)
    found = status(arena_name)
    assert found is not None
    assert (found["state"], found["phase"], found["head_block"]) == ("closed", "stopped", 103)
    assert found["writer_pid"] is None
    for path in Path("/dev/shm").glob(f"{arena_name}*"):
        path.unlink()


@pytest.mark.slow
def test_a_dump_of_one_arena_starts_another_with_the_same_numbers(
    start: Callable[..., subprocess.Popen[str]], feed: Path, tmp_path: Path, arena_name: str
) -> None:
    writer = start("arena-writer", *run_words(arena_name, feed, STATES))
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "live" and pools.head_block == 103, writer)
    first = {key: pools[key].state() for key in pools}
    code, dumped, err = end(start("arena-dump", arena_name))
    assert code == 0, err
    file, path = tmp_path / "dump.jsonl", tmp_path / "again.sock"
    file.write_text(dumped)
    start("arena-replay", RECORDING, "--socket", path, "--at-once", "--linger", "60")
    until(path.exists)
    other = start("arena-writer", *run_words(arena_name + "-2", path, file))
    copies = arena.attach(arena_name + "-2", timeout=SECONDS)
    until(lambda: copies.phase == "live" and copies.head_block == 103, other)
    again = {key: copies[key].state() for key in copies}
    assert len(first) == 5
    assert {key: (s.reserve0, s.reserve1) for key, s in again.items()} == {
        key: (s.reserve0, s.reserve1) for key, s in first.items()
    }
    for process in (writer, other):
        stop(process)


@pytest.mark.slow
def test_an_idle_writer_keeps_its_heartbeat(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, arena_name: str
) -> None:
    writer = start("arena-writer", *run_words(arena_name, tmp_path / "none", STATES))
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "connecting", writer)
    ages = []

    def renewed() -> bool:
        ages.append(pools.heartbeat_age)
        return sum(after < before for before, after in pairwise(ages)) >= 5

    until(renewed, writer)
    stop(writer)


@pytest.mark.slow
def test_the_states_may_appear_after_the_writer_has_started(
    start: Callable[..., subprocess.Popen[str]], feed: Path, tmp_path: Path, arena_name: str
) -> None:
    late = tmp_path / "late.jsonl"
    writer = start("arena-writer", *run_words(arena_name, feed, late))
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "scraping", writer)
    (tmp_path / "next").write_bytes(STATES.read_bytes())
    (tmp_path / "next").rename(late)
    until(lambda: pools.phase == "live" and pools.head_block == 103, writer)
    stop(writer)


@pytest.mark.slow
def test_a_writer_that_waits_for_its_states_ends_at_once_when_told(
    start: Callable[..., subprocess.Popen[str]], feed: Path, tmp_path: Path, arena_name: str
) -> None:
    words = [*run_words(arena_name, feed, tmp_path / "no.jsonl"), "--scrape-timeout", "3600"]
    writer = start("arena-writer", *words)
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "scraping", writer)
    writer.send_signal(signal.SIGTERM)
    code, _out, err = end(writer)
    assert code == 0, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_states_that_never_appear_end_the_writer(
    start: Callable[..., subprocess.Popen[str]], feed: Path, tmp_path: Path, arena_name: str
) -> None:
    words = ["--name", arena_name, "--socket", feed, "--states", tmp_path / "no.jsonl"]
    writer = start("arena-writer", "run", *words, "--scrape-timeout", "0.2")
    assert "no.jsonl does not exist" in refusal(writer, "StateFileError")
    assert not list(Path("/dev/shm").glob(f"{arena_name}*"))


@pytest.mark.slow
def test_states_older_than_the_stream_end_the_writer(
    start: Callable[..., subprocess.Popen[str]], feed: Path, tmp_path: Path, arena_name: str
) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text(STATES.read_text().replace('"block": 55', '"block": 54'))
    words = ["--name", arena_name, "--socket", feed, "--states", old, "--scrape-timeout", "0.2"]
    line = refusal(start("arena-writer", "run", *words), "CoverageError")
    assert "block 54" in line
    assert "block 55 or later are needed" in line


@pytest.mark.slow
def test_a_second_writer_is_refused_and_names_the_first(
    start: Callable[..., subprocess.Popen[str]], feed: Path, arena_name: str
) -> None:
    words = ["run", "--name", arena_name, "--socket", feed, "--states", STATES]
    first = start("arena-writer", *words)
    pools = arena.attach(arena_name, timeout=SECONDS)
    until(lambda: pools.phase == "live", first)
    assert f"process {first.pid}" in refusal(start("arena-writer", *words), "ArenaBusy")
    assert pools.phase == "live"
    first.send_signal(signal.SIGTERM)
    assert end(first)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--mode", "0999"], "mode '0999'"),
        (["--mode", "01777"], "mode '01777'"),
        (["--tick-bytes", "many"], "size 'many'"),
        (["--undo-bytes", "5"], "an undo ring of '5' holds nothing"),
        (["--group", "no-such-group-here"], "no group named"),
    ],
)
def test_impossible_settings_are_refused(
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    arena_name: str,
    words: list[str],
    found: str,
) -> None:
    common = ["--name", arena_name, "--socket", tmp_path / "s", "--states", STATES]
    line = refusal(start("arena-writer", "run", *common, *words), "SettingsError")
    assert f"{words[0]}: {found}" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("arena-writer", ["run", "--name", "x"]),
        (
            "arena-writer",
            ["run", "--name", "x", "--socket", "s", "--states", "f", "--dialect", "x"],
        ),
        ("arena-writer", ["jump"]),
        ("arena-replay", []),
        ("arena-replay", [RECORDING, "--socket", "s", "--rate", "1", "--at-once"]),
        ("arena-demo", ["--rate", "0"]),
    ],
)
def test_wrong_usage_ends_with_code_2(
    start: Callable[..., subprocess.Popen[str]], program: str, words: list[object]
) -> None:
    code, _out, err = end(start(program, *words))
    assert code == 2
    assert "Usage:" in err


def test_status_of_a_missing_arena_is_refused(
    start: Callable[..., subprocess.Popen[str]], arena_name: str
) -> None:
    assert arena_name in refusal(start("arena-writer", "status", arena_name), "ArenaMissing")


def receive_all(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        data = bytearray()
        while piece := client.recv(1 << 16):
            data += piece
        return bytes(data)


def test_a_replay_serves_every_byte_ends_by_itself_and_removes_its_socket(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "feed.sock"
    replay = start("arena-replay", RECORDING, "--socket", path, "--at-once", "--linger", "0")
    until(path.exists, replay)
    assert path.stat().st_mode & 0o777 == 0o600
    assert receive_all(path) == RECORDING.read_bytes()
    assert end(replay)[0] == 0
    assert not path.exists()


@pytest.mark.slow
def test_an_impossible_socket_path_is_refused(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    longest = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    replay = start("arena-replay", RECORDING, "--socket", longest, "--at-once", "--linger", "0")
    until(longest.exists, replay)
    assert receive_all(longest) == RECORDING.read_bytes()
    assert end(replay)[0] == 0
    for path in (f"{longest}x", tmp_path / "no-folder" / "feed.sock"):
        refusal(start("arena-replay", RECORDING, "--socket", path), "Connection")


@pytest.mark.slow
def test_a_client_that_joins_a_paced_replay_late_starts_with_a_whole_block(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "feed.sock"
    replay = start("arena-replay", RECORDING, "--socket", path, "--rate", "10", "--linger", "0")
    until(path.exists, replay)
    with socket.socket(socket.AF_UNIX) as first:
        first.settimeout(SECONDS)
        first.connect(str(path))
        early = b""
        while len(early) < 1000:
            early += first.recv(1 << 16)
        late = receive_all(path)
        while piece := first.recv(1 << 16):
            early += piece
    whole = RECORDING.read_bytes()
    assert early == whole
    assert 0 < len(late) < len(whole)
    assert whole.endswith(late)
    # g15: u32 length 37, u32 variant 1 is BeginBlock
    assert late[:8] == b"\x25\0\0\0\1\0\0\0"
    assert end(replay)[0] == 0


def test_a_replay_stops_on_sigterm_and_removes_its_socket(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "feed.sock"
    replay = start("arena-replay", RECORDING, "--socket", path)
    until(path.exists, replay)
    replay.send_signal(signal.SIGTERM)
    assert end(replay)[0] == 0
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[:-1], "Deserialization"),
        (lambda data: b"\xff\xff\xff\xff" + data, "Deserialization"),
        (lambda data: b"", "Deserialization"),
        (lambda data: data[:4] + b"\xee" + data[5:], "Deserialization"),
        (lambda data: OLD_GENERATION.read_bytes(), "UnsupportedGeneration"),
        (lambda data: data + data, "InvalidMessage"),
    ],
)
def test_a_defective_recording_is_refused_before_anything_is_served(
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    error: str,
) -> None:
    file, path = tmp_path / "broken", tmp_path / "feed.sock"
    file.write_bytes(change(RECORDING.read_bytes()))
    replay = start("arena-replay", file, "--socket", path)
    refusal(replay, error)
    assert not path.exists()


def test_a_missing_recording_is_refused(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    replay = start("arena-replay", tmp_path / "none", "--socket", tmp_path / "s")
    assert str(tmp_path / "none") in refusal(replay, "FileNotFoundError")


@pytest.mark.slow
def test_a_socket_path_in_use_is_refused_and_an_abandoned_one_replaced(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "feed.sock"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        server.listen()
        words = [RECORDING, "--socket", path, "--at-once", "--linger", "0"]
        assert "another server" in refusal(start("arena-replay", *words), "Connection")
    bound_ns = os.stat(path).st_mtime_ns
    replay = start("arena-replay", *words)
    until(lambda: path.exists() and os.stat(path).st_mtime_ns != bound_ns, replay)
    assert receive_all(path) == RECORDING.read_bytes()
    assert end(replay)[0] == 0
    path.write_text("a file")
    assert "is no socket" in refusal(start("arena-replay", *words), "Connection")
    assert path.read_text() == "a file"
