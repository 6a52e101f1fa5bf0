"""Starts the processes of the demo, shows what they say, and cleans up after them."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from arena.errors import ArenaError
from arena.writer.service.status import read_status

HERE = Path(__file__).resolve().parent
BLOCKS_PER_S = 16.0
END_TIMEOUT_S = 15.0
QUOTES_SHOWN = 6
RECORDINGS = ("reorg", "v2", "v3", "v4")

WRITER = "from arena.writer.cli.main import writer; writer()"
REPLAY = "from arena.writer.cli.main import replay; replay()"


class DemoFailed(ArenaError):
    """A process of the demo ended when it should not, or did not do its part in time."""


@dataclass
class Scene:
    """One recording as it plays, and everything the readers said of it so far."""

    name: str
    title: str
    pools: dict[str, str]
    reorg_depths: list[int]
    quote_count: int
    block: int = 0
    blocks_seen: int = 0
    worth: dict[str, dict[str, Any]] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    quotes: list[dict[str, Any]] = field(default_factory=list)
    matches: int = 0
    mismatches: int = 0
    missed: int = 0
    reorgs: int = 0
    notes: list[str] = field(default_factory=list)

    def take(self, record: dict[str, Any]) -> str | None:
        """Take one line of a reader; a line worth printing, or None."""
        if "pools" in record:
            before, self.worth = self.worth, record["pools"]
            self.moved = {key for key in self.worth if self.worth[key] != before.get(key)}
            self.block = record["block"]
            self.blocks_seen += 1
            if before and self.moved:
                return f"block {self.block}: " + ", ".join(
                    f"{self.pools[key]} {_worth(self.worth[key])}" for key in sorted(self.moved)
                )
            return f"block {self.block}"
        if "quote" in record:
            self.quotes.append(record)
            self.matches += record["match"]
            self.mismatches += not record["match"]
            return self.quote_line(record)
        self.missed = record["missed"]
        return None

    def quote_line(self, record: dict[str, Any]) -> str:
        quote, found = record["quote"], record["found"]
        side = "amount_out" if quote["mode"] == "exact_in" else "amount_in"
        direction = "token0 to token1" if quote["zero_for_one"] else "token1 to token0"
        verdict = "match" if record["match"] else "MISMATCH"
        return (
            f"  {verdict}: {self.pools[quote['pool']]} at block {quote['block']}, {side} "
            f"{found.get(side, found.get('error'))}, contract {quote[side]} "
            f"({quote['mode']} {quote['amount']}, {direction})"
        )

    def see_reorgs(self, count: int) -> list[str]:
        """Lines for reorgs the writer has counted since the last call."""
        lines = []
        while self.reorgs < count:
            depth = self.reorg_depths[self.reorgs] if self.reorgs < len(self.reorg_depths) else 0
            self.reorgs += 1
            lines.append(
                f"  reorg {self.reorgs}: {depth} blocks undone, replaced, published as one commit"
            )
        self.notes += lines
        return lines


def run_demo(*, blocks_per_s: float | None = None, plain: bool = False) -> int:
    """Play every recording once; 0 when every number matched, 1 otherwise.

    DemoFailed when a process died. Sockets, segments and processes are gone afterwards, also after
    Ctrl-C and SIGTERM.
    """
    console = Console()
    fancy = console.is_terminal and not plain
    previous = signal.signal(signal.SIGTERM, _interrupt)
    scenes: list[Scene] = []
    try:
        with tempfile.TemporaryDirectory(prefix="arena-demo-") as folder:
            for index, name in enumerate(RECORDINGS):
                scene = load_scene(name)
                arena_name = f"arena-demo-{os.getpid()}-{name}"
                explain(console, scene, arena_name, first=index == 0)
                play(scene, arena_name, Path(folder), console, blocks_per_s or BLOCKS_PER_S, fancy)
                scenes.append(scene)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return summarise(console, scenes)


def load_scene(name: str) -> Scene:
    """The recording's description out of recordings.json."""
    listed = json.loads((HERE / "recordings.json").read_text(encoding="utf-8"))
    found = next(entry for entry in listed if entry["name"] == name)
    return Scene(
        name=name,
        title=found["title"],
        pools=found["pools"],
        reorg_depths=[reorg["depth"] for reorg in found["reorgs"]],
        quote_count=found["quotes"],
    )


def explain(console: Console, scene: Scene, arena_name: str, *, first: bool) -> None:
    """One line for each part."""
    console.print(f"\n{scene.title} ({len(scene.pools)} pools)", style="bold", highlight=False)
    if not first:
        return
    for line in (
        "arena-replay  serves the recorded frames of real contracts' events on a Unix socket",
        f"arena-writer  follows them and keeps the pools in shared memory, /dev/shm/{arena_name}",
        "reader 1      another process: sleeps until a block is published, then reads the pools",
        "reader 2      another process: quotes swaps and compares with what the contracts returned",
    ):
        console.print("  " + line, highlight=False)


def play(
    scene: Scene, arena_name: str, folder: Path, console: Console, rate: float, fancy: bool
) -> None:
    """Run the processes of one recording until it has been served and read to its end."""
    socket = folder / f"{scene.name}.sock"
    quotes = HERE / f"quotes_{scene.name}.jsonl"
    with Processes(folder, scene.name) as processes:
        states = HERE / f"states_{scene.name}.jsonl"
        writer = ["-c", WRITER, "run", "--name", arena_name, "--socket", str(socket)]
        processes.start("writer", [*writer, "--states", str(states), "--max-pools", "64"])
        try:
            readers = [[arena_name, "pools", *scene.pools]]
            if scene.quote_count:
                readers.append([arena_name, "quotes", str(quotes)])
            streams = [
                processes.start_reader(["-m", "arena.writer.demo.reader", *words])
                for words in readers
            ]
            recording = str(HERE / f"chain_{scene.name}.exex")
            replay = ["-c", REPLAY, recording, "--socket", str(socket), "--rate", str(rate)]
            processes.start("replay", [*replay, "--linger", "0.3"])
            with screen(console, scene, fancy) as show:
                follow(scene, arena_name, processes, streams, show)
        finally:
            processes.stop()
            _remove_segments(arena_name)


def follow(
    scene: Scene,
    arena_name: str,
    processes: "Processes",
    streams: list[IO[bytes]],
    show: Any,
) -> None:
    """Show what the readers say; once the replay has ended stop the writer, and the readers end."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        pending = dict.fromkeys((stream.fileno() for stream in streams), b"")
        stopping: float | None = None
        while selector.get_map():
            for key, _ in selector.select(0.05):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                    continue
                *lines, pending[key.fd] = (pending[key.fd] + data).split(b"\n")
                for line in lines:
                    show(scene.take(json.loads(line)))
            if stopping is None:
                processes.require_alive()
                is_over = processes.has_ended("replay")
                for note in scene.see_reorgs(_reorg_count(arena_name)):
                    show(note)
                if is_over:
                    stopping = time.monotonic()
                    processes.terminate("writer")
            elif time.monotonic() - stopping > END_TIMEOUT_S:
                raise DemoFailed("the readers did not end after the writer had stopped")
    processes.require_success()


def _reorg_count(arena_name: str) -> int:
    try:
        return int(read_status(arena_name)["counters"]["reorgs"])
    except ArenaError:
        return 0  # not created yet, or gone


@contextlib.contextmanager
def screen(console: Console, scene: Scene, fancy: bool) -> Iterator[Any]:
    """A function to show one line: in a live table on a terminal, printed otherwise."""
    if not fancy:

        def show_line(line: str | None) -> None:
            if line is not None:
                console.print(line, highlight=False, soft_wrap=True, markup=False)

        yield show_line
        return
    with Live(render(scene), console=console, refresh_per_second=20) as live:

        def show_table(line: str | None) -> None:
            live.update(render(scene))

        yield show_table


def render(scene: Scene) -> Group:
    """The pools, the reorgs and the last quotes as they stand."""
    table = Table(title=f"block {scene.block}", title_justify="left", expand=True)
    table.add_column("pool")
    table.add_column("state")
    for key, name in scene.pools.items():
        style = "bold green" if key in scene.moved else ""
        table.add_row(name, _worth(scene.worth.get(key, {})), style=style)
    lines: list[Any] = [table]
    lines += [Text(note, style="yellow") for note in scene.notes]
    for record in scene.quotes[-QUOTES_SHOWN:]:
        style = "green" if record["match"] else "bold red"
        lines.append(Text(scene.quote_line(record), style=style, no_wrap=True, overflow="ellipsis"))
    if scene.quote_count:
        lines.append(Text(f"  {scene.matches} quotes match, {scene.mismatches} do not"))
    return Group(*lines)


def summarise(console: Console, scenes: list[Scene]) -> int:
    """Print one line for each recording; the exit code."""
    console.print()
    good = True
    for scene in scenes:
        expected = len(scene.reorg_depths)
        fine = (
            scene.mismatches == 0
            and scene.reorgs == expected
            and (scene.matches > 0 or scene.quote_count == 0)
        )
        good = good and fine
        reorgs = (
            f"{scene.reorgs} of {expected} reorgs" if expected else "no reorgs in this recording"
        )
        quotes = (
            f"{scene.matches} of {scene.quote_count} quotes match the contracts, {scene.mismatches} "
            f"differ, {scene.missed} not asked in time"
            if scene.quote_count
            else "no quotes in this recording"
        )
        console.print(
            f"{'ok    ' if fine else 'FAILED'}  {scene.title}: {scene.blocks_seen} views, {reorgs}, {quotes}",
            highlight=False,
            soft_wrap=True,
        )
    return 0 if good else 1


def _worth(worth: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in worth.items()) or "-"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _remove_segments(arena_name: str) -> None:
    """What a killed writer left behind."""
    for path in Path("/dev/shm").glob(f"{arena_name}*"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


class Processes:
    """The processes of one recording; each has its log in `folder` and is gone after stop.

    They run in sessions of their own: Ctrl-C reaches only the demo, which ends them in order.
    """

    def __init__(self, folder: Path, name: str):
        self._folder = folder
        self._name = name
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, role: str, words: list[str], *, piped: bool = False) -> subprocess.Popen[bytes]:
        with self._log(role).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                start_new_session=True,
            )
        self._running[role] = process
        return process

    def start_reader(self, words: list[str]) -> IO[bytes]:
        """Start a reader; its standard output."""
        role = f"reader{sum(role.startswith('reader') for role in self._running) + 1}"
        process = self.start(role, words, piped=True)
        assert process.stdout is not None
        return process.stdout

    def has_ended(self, role: str) -> bool:
        return self._running[role].poll() is not None

    def terminate(self, role: str) -> None:
        self._running[role].terminate()

    def require_alive(self) -> None:
        """DemoFailed, with the end of its log, when a process other than the replay has ended."""
        for role, process in self._running.items():
            if role != "replay" and process.poll() is not None:
                self._fail(role, process.returncode)

    def require_success(self) -> None:
        """Wait for all; DemoFailed when one ended with another code than 0."""
        for role, process in self._running.items():
            try:
                code = process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise DemoFailed(f"the {role} does not end") from error
            if code != 0:
                self._fail(role, code)

    def stop(self) -> None:
        """End what still runs: politely, then by force."""
        running = [process for process in self._running.values() if process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + END_TIMEOUT_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self._running.values():
            if process.stdout is not None:
                process.stdout.close()

    def _log(self, role: str) -> Path:
        return self._folder / f"{self._name}-{role}.log"

    def _fail(self, role: str, code: int) -> None:
        tail = self._log(role).read_text(errors="replace")[-2000:]
        raise DemoFailed(f"the {role} ended with code {code}; its log ends:\n{tail}", role=role)
