"""arena-writer as a service: metrics, JSON lines, SIGHUP, and what a service manager is told.

Real processes on a recorded stream. Only the hung feed thread needs the service in this process, since
nothing from outside can make it hang.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from roles.processes import remove_segments

import arena
import arena.writer.demo
from arena.errors import PortRefused, RpcUnavailable
from arena.layouts.header import COUNTER_NAMES, PHASE_NAMES
from arena.layouts.protocols import PROTOCOL_NUMBERS
from arena.writer.host.room import Capacities
from arena.writer.scrapers.statefile import StateFile
from arena.writer.service import service
from arena.writer.service.metrics import MetricsServer

BIN = Path(sys.executable).parent
DEMO = Path(arena.writer.demo.__file__).parent
RECORDING = DEMO / "chain_reorg.exex"  # blocks 48 to 68, three reorgs
STATES = DEMO / "states_reorg.jsonl"
DOCS = Path(__file__).resolve().parents[2] / "docs"
LAST_BLOCK = 68
REVERTED_BLOCKS = 12
SECONDS = 30.0


def until(condition: Callable[[], bool], what: str = "") -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, f"the condition was not met in time {what}"
        time.sleep(0.005)


class Writer:
    """`arena-writer run` with its own log file and environment."""

    def __init__(
        self, folder: Path, name: str, *words: object, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"writer-{len(list(folder.glob('writer-*')))}.log"
        clean = {key: value for key, value in os.environ.items() if "ARENA_WRITER" not in key}
        for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            clean.pop(key, None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "arena-writer"), "run", *map(str, words)],
                cwd=folder,
                env=clean | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def text(self) -> str:
        return self.log.read_text()

    def wait_log(self, pattern: str) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def there() -> bool:
            match = re.search(pattern, self.text())
            assert match or self.process.poll() is None, self.text()
            found.extend([match] if match else [])
            return bool(found)

        until(there, f"{pattern!r} in {self.text()}")
        return found[0]

    def port(self) -> int:
        return int(self.wait_log(r"event\W+metrics\W+address\W+http://127\.0\.0\.1:(\d+)")[1])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@pytest.fixture
def run(tmp_path: Path, arena_name: str) -> Iterator[Callable[..., Writer]]:
    started: list[Writer] = []

    def start(*words: object, env: dict[str, str] | None = None) -> Writer:
        started.append(Writer(tmp_path, arena_name, *words, env=env))
        return started[-1]

    yield start
    for writer in started:
        if writer.process.poll() is None:
            writer.process.kill()
        writer.process.wait()
    remove_segments(arena_name)


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> Path:
        path = tmp_path / f"feed-{len(started)}.sock"
        process = subprocess.Popen(
            [str(BIN / "arena-replay"), str(RECORDING), "--socket", str(path), *words],
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        until(path.exists)
        return path

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def feed(replay: Callable[..., Path]) -> Path:
    """The whole recording at once, connections kept open."""
    return replay("--at-once", "--linger", "60")


@pytest.fixture
def words(arena_name: str, feed: Path) -> list[object]:
    return ["--name", arena_name, "--socket", feed, "--states", STATES]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket a service manager listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(SECONDS)
        yield bound


def live(name: str) -> arena.Arena:
    pools = arena.attach(name, timeout=SECONDS)
    until(lambda: pools.phase == "live" and pools.head_block == LAST_BLOCK)
    return pools


def page(port: int) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE "), "a family appears twice"
    return families


def value(families: dict[str, Metric], name: str, /, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return float(found)


# Metrics


LISTED = {"protocol": "uniswap_v2", "address": "0x" + "11" * 20}
LISTED |= {"token0": "0x" + "22" * 20, "token1": "0x" + "33" * 20}


@pytest.mark.slow
def test_a_writer_that_is_still_starting_ends_cleanly(
    run: Callable[..., Writer], tmp_path: Path
) -> None:
    """The node takes the connection and never answers."""
    (tmp_path / "pools.json").write_text(json.dumps([LISTED]))
    with socket.create_server(("127.0.0.1", 0)) as node:
        node.settimeout(SECONDS)
        address = f"http://127.0.0.1:{node.getsockname()[1]}"
        words = ("--socket", "feed.sock", "--rpc", address, "--pools", "pools.json")
        writer = run("--name", "unused", "--state-dir", tmp_path, *words)
        accepted, _ = node.accept()
        with accepted:
            assert writer.stop() == 0, writer.text()


@pytest.mark.slow
def test_a_state_folder_that_is_none_is_refused(run: Callable[..., Writer], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ("--name", "unused", "--socket", "feed.sock", "--states", "states.jsonl")
    for folder in ("file", "file/below"):
        writer = run(*words, "--state-dir", folder)
        assert writer.process.wait(SECONDS) == 2
        assert "SettingsError: --state-dir: " in writer.text()
        assert "file is no folder" in writer.text()


@pytest.mark.slow
def test_the_metrics_of_a_live_writer_are_those_of_its_arena(
    run: Callable[..., Writer], words: list[object], arena_name: str
) -> None:
    writer = run(*words, "--metrics-port", 0, "--chain-id", 5)
    pools = live(arena_name)
    until(lambda: value(page(writer.port()), "arena_commits_total") == pools.counters["commits"])
    found = page(writer.port())
    counters = pools.counters
    assert value(found, "arena_head_block") == LAST_BLOCK
    assert [value(found, "arena_phase", phase=phase) for phase in PHASE_NAMES] == [
        float(phase == "live") for phase in PHASE_NAMES
    ]
    assert value(found, "arena_pools", status="live") == len(pools)
    assert value(found, "arena_info", name=arena_name, chain_id="5", version=version()) == 1
    assert value(found, "arena_blocks_reverted_total") == counters["blocks_reverted"]
    for index, name in COUNTER_NAMES.items():
        if name.startswith("applied_"):
            protocol = next(
                each for each in PROTOCOL_NUMBERS if name.startswith(f"applied_{each}_")
            )
            kind = name.removeprefix(f"applied_{protocol}_")
            shown = value(found, "arena_events_applied_total", protocol=protocol, kind=kind)
            assert shown == counters[name], index
    applied = found["arena_events_applied"].samples
    assert sum(sample.value for sample in applied) == counters["events_applied"]
    assert value(found, "arena_event_faults_total", error="PoolNotFound") == 0
    assert value(found, "arena_starts_total", kind="start") == 1
    assert value(found, "arena_starts_total", kind="resync") == 0
    assert value(found, "arena_start_duration_seconds", kind="start") > 0
    assert value(found, "arena_scrape_pools_done") == len(pools)
    assert value(found, "arena_scrape_pools_wanted") == len(pools)
    assert value(found, "arena_segment_bytes") == sum(
        entry.stat().st_size for entry in Path("/dev/shm").glob(f"{arena_name}*")
    )
    assert 0 < value(found, "arena_tick_heap_used_bytes") < value(found, "arena_tick_heap_bytes")
    assert value(found, "process_resident_memory_bytes") > 1 << 20
    assert value(found, "arena_reorg_depth_blocks_count") == 3
    assert value(found, "arena_reorg_depth_blocks_sum") == REVERTED_BLOCKS
    pools.close()
    assert writer.stop() == 0


def version() -> str:
    import importlib.metadata

    return importlib.metadata.version("pool-state-arena")


@pytest.mark.slow
def test_every_block_that_was_shown_live_has_a_latency(
    run: Callable[..., Writer], replay: Callable[..., Path], arena_name: str
) -> None:
    feed = replay("--rate", "5", "--linger", "60")
    writer = run("--name", arena_name, "--socket", feed, "--states", STATES, "--metrics-port", "0")
    pools = live(arena_name)
    # The first blocks are replayed; later ones arrive one by one and are commits of their own.
    limit = time.monotonic() + SECONDS
    while (count := value(found := page(writer.port()), "arena_latency_seconds_count")) < 5:
        assert time.monotonic() < limit, count
        time.sleep(0.05)
    assert count <= pools.counters["commits"]
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in found["arena_latency_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == (math.inf, count)
    assert value(found, "arena_latency_seconds_sum") > 0
    pools.close()
    assert writer.stop() == 0


@pytest.fixture
def measured(run: Callable[..., Writer], words: list[object], arena_name: str) -> Writer:
    """A live writer with a page of metrics."""
    writer = run(*words, "--metrics-port", "0")
    live(arena_name).close()
    return writer


@pytest.mark.slow
def test_scrapes_leave_the_writer_lock_alone(
    measured: Writer, run: Callable[..., Writer], words: list[object], arena_name: str
) -> None:
    for _ in range(3):
        page(measured.port())
    second = run(*words)
    assert second.process.wait(SECONDS) == 2
    assert f"ArenaBusy: /{arena_name} has a living writer, process {measured.process.pid}" in (
        second.text()
    )
    assert measured.stop() == 0


@pytest.mark.slow
def test_the_metrics_answer_while_there_is_no_stream(
    run: Callable[..., Writer], tmp_path: Path, arena_name: str
) -> None:
    writer = run(
        "--name", arena_name, "--socket", tmp_path / "none", "--states", STATES,
        "--metrics-port", "0",
    )  # fmt: skip
    until(lambda: value(page(writer.port()), "arena_phase", phase="connecting") == 1)
    found = page(writer.port())
    assert value(found, "arena_head_block") == 0
    assert "arena_head_age_seconds" not in found
    assert value(found, "arena_starts_total", kind="start") == 0
    assert writer.stop() == 0


@pytest.mark.slow
def test_the_page_of_metrics_names_what_a_scrape_shows(measured: Writer) -> None:
    limit = time.monotonic() + SECONDS
    while "arena_start_duration_seconds" not in (found := page(measured.port())):
        assert time.monotonic() < limit, "the start is counted a moment after readers see it"
        time.sleep(0.05)
    shown: dict[str, set[str]] = {}
    for family in found.values():
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = family.name
            labels = set(sample.labels) - {"le"}
            shown[name] = shown.get(name, set()) | labels
    assert measured.stop() == 0
    text = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `((?:arena|process)_\w+)` \|([^|]*)\|", text, re.M)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert len(documented) == len(rows)
    assert documented == shown


def test_every_counter_of_the_header_is_on_the_page_of_metrics() -> None:
    text = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    spans = set(re.findall(r"`([a-z_0-9]+)`", text))
    grouped = re.compile(r"(applied|fault|unsupported)_")
    assert {name for name in COUNTER_NAMES.values() if not grouped.match(name)} <= spans


@contextlib.contextmanager
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.slow
def test_a_port_in_use_refuses_the_start_before_anything_is_made(
    run: Callable[..., Writer], words: list[object], arena_name: str
) -> None:
    with taken() as port:
        writer = run(*words, "--metrics-port", port)
        assert writer.process.wait(SECONDS) == 2
    (line,) = writer.text().strip().split("\n")
    assert line.startswith(f"arena-writer: PortRefused: 127.0.0.1:{port} cannot be listened on")
    assert "--metrics-port" in line
    assert not list(Path("/dev/shm").glob(f"{arena_name}*"))


def test_the_metrics_listen_on_this_machine_alone() -> None:
    server = MetricsServer(0)
    try:
        with pytest.raises(PortRefused) as caught:
            MetricsServer(server.port)
        assert caught.value.port == server.port
        with socket.socket() as other:  # another address of this machine is free
            other.bind(("127.0.0.2", server.port))
    finally:
        server.close()
    MetricsServer(server.port).close()


def test_extra_counts_are_metrics_of_their_prefix(
    arena_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    class Noted(MetricsServer):
        def __init__(self, port: int) -> None:
            super().__init__(port)
            ports.append(self.port)

    monkeypatch.setattr(service, "MetricsServer", Noted)
    settings = service.Settings(
        arena_name, tmp_path / "none", capacities=Capacities(4, 1 << 16), metrics_port=0
    )
    running = service.Service(
        settings,
        StateFile(tmp_path / "states.jsonl"),
        extra={"nats": lambda: {"messages_total": 7, "servers": 2}},
    )
    found: dict[str, Metric] = {}

    async def look() -> None:
        task = asyncio.ensure_future(running.run())
        while not found:
            await asyncio.sleep(0.01)
            assert not task.done()
            if ports:
                with contextlib.suppress(urllib.error.URLError):
                    found.update(await asyncio.to_thread(page, ports[0]))
        os.kill(os.getpid(), signal.SIGTERM)
        await task

    asyncio.run(look())
    assert value(found, "arena_nats_messages_total") == 7
    assert value(found, "arena_nats_servers") == 2
    assert found["arena_nats_messages"].type == "counter"
    assert found["arena_nats_servers"].type == "gauge"


def test_an_end_waits_for_no_answer_of_a_node(arena_name: str, tmp_path: Path) -> None:
    """Which accepts questions and answers none."""
    asked, is_closed = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def wait() -> None:
        asked.set()
        in_time.append(is_closed.wait(SECONDS))
        raise RpcUnavailable("closed")

    running = service.Service(
        service.Settings(arena_name, tmp_path / "none", capacities=Capacities(4, 1 << 16)),
        StateFile(tmp_path / "states.jsonl"),
        synced=wait,  # type: ignore[arg-type]
        close_sources=is_closed.set,
    )

    async def end() -> None:
        task = asyncio.ensure_future(running.run())
        assert await asyncio.to_thread(asked.wait, SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        await task

    asyncio.run(end())
    assert in_time == [True]


@pytest.mark.parametrize("prefix", ["", "Nats", "1a", "a-b", "a b"])
def test_a_prefix_that_is_no_name_is_refused(prefix: str) -> None:
    from arena.writer.host.counts import Latency, ReorgDepths
    from arena.writer.service.metrics import ArenaCollector, Starts

    with pytest.raises(ValueError, match="prefix"):
        ArenaCollector(
            "x",
            starts=Starts(),
            latency=Latency(),
            reorg_depths=ReorgDepths(),
            extra={prefix: dict},
        )


# Settings and logs


@pytest.mark.slow
def test_json_lines_hold_what_text_lines_hold(
    run: Callable[..., Writer], replay: Callable[..., Path], arena_name: str
) -> None:
    logged: dict[str, list[dict[str, Any]]] = {}
    for shape in ("text", "json"):
        feed = replay("--at-once", "--linger", "60")
        words = ["--name", arena_name, "--socket", feed, "--states", STATES]
        writer = run(*words, "--log-format", shape)
        live(arena_name).close()
        writer.wait_log(r"event\W+live\b")
        assert writer.stop() == 0
        lines = writer.text().strip().split("\n")
        if shape == "json":
            logged[shape] = [json.loads(line) for line in lines]
        else:
            logged[shape] = [dict(re.findall(r"(\w+)=('[^']*'|\S*)", line)) for line in lines]
    # How often progress is told depends on the machine, the first line of each event does not.
    plain, shaped = (
        {line["event"]: line for line in reversed(logged[shape])} for shape in ("text", "json")
    )
    once = {"metrics", "started", "connected", "progress", "scraping", "live", "stopped"}
    assert plain.keys() & once == shaped.keys() & once == once - {"metrics"}
    for event in plain.keys() & once:
        assert list(plain[event]) == list(shaped[event])
        for same in ("level", "logger", "event", "name", "phase", "pools", "kept"):
            assert plain[event].get(same) == (
                str(shaped[event][same]) if same in shaped[event] else None
            )


@pytest.mark.slow
def test_a_refusal_is_the_last_object_of_a_json_log(
    run: Callable[..., Writer], words: list[object], tmp_path: Path
) -> None:
    missing = tmp_path / "it's missing.jsonl"
    words[words.index(STATES)] = missing
    writer = run(*words, "--scrape-timeout", "0", "--log-format", "json")
    assert writer.process.wait(SECONDS) == 2
    last = json.loads(writer.text().strip().split("\n")[-1])
    assert (last["level"], last["event"], last["error"]) == ("ERROR", "refused", "StateFileError")
    assert str(missing) in last["reason"]


@pytest.mark.slow
def test_a_run_takes_its_settings_from_a_file(
    run: Callable[..., Writer], tmp_path: Path, feed: Path, arena_name: str
) -> None:
    path = tmp_path / "arena-writer.toml"
    path.write_text(
        f"name = {json.dumps(arena_name)}\nsocket = {json.dumps(str(feed))}\n"
        f'states = "wrong"\nmode = "0640"\nlog-level = "error"\n'
    )
    writer = run(
        "--config",
        path,
        "--log-level",
        "info",
        env={"ARENA_WRITER_STATES": str(STATES), "ARENA_WRITER_MAX_POOL": "5"},
    )
    live(arena_name).close()
    assert Path("/dev/shm", arena_name).stat().st_mode & 0o777 == 0o640
    writer.wait_log("event=unknown_variable name=ARENA_WRITER_MAX_POOL\n")
    assert writer.stop() == 0


def config_command(*words: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(BIN / "arena-writer"), "config", *map(str, words)],
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | (env or {}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_config_shows_what_a_run_would_use(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "pools"\nstates = "s"\nrpc = "https://u:secret@h/secret"\n')
    words = ["--config", path, "--socket", "/run/f.sock"]
    env = {"ARENA_WRITER_MAX_POOLS": "7", "ARENA_WRITER_NOPE": "1"}
    code, out, err = config_command("--check", *words, env=env)
    assert (code, err) == (0, "")
    assert "secret" not in out
    lines = out.split("\n")
    for line in (
        'name = "pools"  # file',
        'socket = "/run/f.sock"  # flag',
        "# node is not set",
        'rpc = "https://***@h/***"  # file',
        "max-pools = 7  # environment",
        'mode = "0600"  # default',
        "# ARENA_WRITER_NOPE is set, and no setting",
    ):
        assert line in lines
    code, out, err = config_command(*words, env=env)
    assert (code, err) == (0, "")
    again = tmp_path / "b.toml"
    again.write_text(out)
    assert config_command("--config", again) == (
        0,
        out.replace("# ARENA_WRITER_NOPE is set, and no setting\n", ""),
        "",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--mode", "0999"], "SettingsError: --mode: mode '0999'"),
        (["--tick-bytes", "x"], "SettingsError: --tick-bytes: size 'x'"),
        (["--rpc", "ftp://host"], "SettingsError: --rpc: the node's address ftp://host"),
        (["--name", "a/b"], "SettingsError: --name: 'a/b'"),
        (["--group", "no-such-group"], "SettingsError: --group: no group named"),
        (["--node", "ws://host"], "give --socket"),
        (["--reth-db", "x"], "--states already names pools"),
        (["--max-pools", "0"], "Invalid value for '--max-pools'"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_config_refuses_what_a_run_refuses(words: list[str], shown: str) -> None:
    common = ["--name", "x", "--socket", "s", "--states", "f"]
    code, out, err = config_command("--check", *common, *words)
    assert code == 2
    assert out == ""
    assert shown in err


@pytest.mark.slow
def test_config_opens_nothing_of_a_good_configuration(tmp_path: Path) -> None:
    code, _out, err = config_command(
        "--check", "--name", "psa-none", "--socket", tmp_path / "none", "--states",
        tmp_path / "none", "--rpc", "http://127.0.0.1:9", "--metrics-port", "0",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert not list(Path("/dev/shm").glob("psa-none*"))


@pytest.mark.slow
def test_sighup_takes_the_log_level_anew(
    run: Callable[..., Writer], words: list[object], tmp_path: Path, arena_name: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text('log-level = "info"\n')
    writer = run(*words, "--config", path)
    live(arena_name).close()

    def hang_up(count: int, level: str) -> None:
        path.write_text(level)
        writer.process.send_signal(signal.SIGHUP)
        until(lambda: len(re.findall(r"event=reload ", writer.text())) == count)

    assert "level=DEBUG" not in writer.text()
    hang_up(1, 'log-level = "debug"\nmax-pools = 5\n')
    writer.wait_log("event=log_level_set to=debug")
    writer.wait_log("event=setting_needs_restart name=max_pools")
    hang_up(2, 'log-level = "loud"\n')
    failed = writer.wait_log(r"event=reload_failed error=SettingsError reason=(.*)")
    assert "log-level" in failed[1]
    assert "'loud' was found" in failed[1]
    # Still at debug, and still at work.
    hang_up(3, 'log-level = "warning"\nmax-pools = 5\n')
    until(lambda: writer.text().count("event=setting_needs_restart ") == 2)
    path.write_text('log-level = "info"\n')
    assert writer.stop() == 0
    assert "event=stopped" not in writer.text()


# The service manager


def states(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def states_until(manager: socket.socket, state: str) -> list[str]:
    found: list[str] = []
    while state not in found:
        found += states(manager)
    return found


@pytest.mark.slow
def test_ready_is_sent_when_the_arena_is_live_and_not_before(
    run: Callable[..., Writer],
    feed: Path,
    manager: socket.socket,
    tmp_path: Path,
    arena_name: str,
) -> None:
    late = tmp_path / "late.jsonl"
    words = ["--name", arena_name, "--socket", feed, "--states", late]
    writer = run(*words, env={"NOTIFY_SOCKET": manager.getsockname()})
    before = states_until(manager, "STATUS=phase=scraping head=0")
    (tmp_path / "next").write_bytes(STATES.read_bytes())
    # A reload while it starts must not end the start.
    writer.process.send_signal(signal.SIGHUP)
    writer.wait_log("event=log_level_set")
    (tmp_path / "next").rename(late)
    before += states_until(manager, "READY=1")
    assert before[-2:] == [f"STATUS=phase=live head={LAST_BLOCK}", "READY=1"]
    assert before.count("READY=1") == 1
    assert "RELOADING=1" not in before
    assert not [state for state in before if state.startswith("WATCHDOG")]
    writer.process.send_signal(signal.SIGHUP)
    reload = states_until(manager, "READY=1")
    assert reload[0] == "RELOADING=1"
    assert reload[1].startswith("MONOTONIC_USEC=")
    writer.process.send_signal(signal.SIGTERM)
    assert states_until(manager, "STOPPING=1")[-2:] == ["STOPPING=1", "STATUS=stopping"]
    assert writer.process.wait(SECONDS) == 0


@pytest.mark.slow
def test_the_watchdog_is_fed_by_a_running_writer(
    run: Callable[..., Writer], words: list[object], manager: socket.socket
) -> None:
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    writer = run(*words, env=env)
    for _ in range(5):
        states_until(manager, "WATCHDOG=1")
    assert writer.stop() == 0


@pytest.mark.slow
def test_the_watchdog_starves_when_the_feed_thread_hangs(
    arena_name: str,
    feed: Path,
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads: list[service.FeedThread] = []

    class Noted(service.FeedThread):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            threads.append(self)

    monkeypatch.setattr(service, "FeedThread", Noted)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    settings = service.Settings(arena_name, feed, capacities=Capacities(64, 1 << 20))
    running = service.Service(settings, StateFile(STATES))
    released = threading.Event()
    hung = threading.Event()

    def hang() -> None:
        hung.set()
        released.wait(SECONDS)

    def drain() -> list[str]:
        manager.setblocking(False)
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found += states(manager)
        return found

    async def story() -> None:
        task = asyncio.ensure_future(running.run())
        seen: list[str] = []
        while "READY=1" not in seen or seen.count("WATCHDOG=1") < 3:
            seen += drain()
            assert not task.done()
            await asyncio.sleep(0.01)
        threads[0].submit(hang)
        await asyncio.to_thread(hung.wait, SECONDS)
        await asyncio.sleep(0.4)  # beyond the age at which it counts as silent
        drain()
        # The main thread goes on, looks five times an interval, and must not feed it.
        await asyncio.sleep(1.2)
        assert "WATCHDOG=1" not in drain()
        assert "event=feed_thread_silent" in caplog.text
        released.set()
        seen = []
        while "WATCHDOG=1" not in seen:
            seen += drain()
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await task

    with contextlib.ExitStack() as stack:
        stack.callback(released.set)
        asyncio.run(story())


@pytest.mark.slow
def test_a_notify_socket_that_is_none_refuses_the_start(
    run: Callable[..., Writer], words: list[object], arena_name: str
) -> None:
    writer = run(*words, env={"NOTIFY_SOCKET": "here"})
    assert writer.process.wait(SECONDS) == 2
    assert "arena-writer: SettingsError: NOTIFY_SOCKET: 'here' was found" in writer.text()
    assert not list(Path("/dev/shm").glob(f"{arena_name}*"))
