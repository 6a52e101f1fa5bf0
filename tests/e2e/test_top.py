"""arena-top as an installed program: in a terminal of its own, printed once, refused, and hung up on."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.watched import HEAD, KEYS, watched
from roles.processes import WriterProcess

import arena
import arena.writer.demo

BIN = Path(sys.executable).parent
TOP = str(BIN / "arena-top")
DEMO = Path(arena.writer.demo.__file__).parent
SECONDS = 30.0
# A Python in which Textual cannot be imported, as where the extra is not installed.
WITHOUT = """
import sys
sys.modules["textual"] = sys.modules["rich"] = None
from arena.readers.views.cli import top
top(sys.argv[1:])
"""
# SIGHUP ignored, as below nohup.
DEAF = (
    "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
)


def printed(
    *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ | {"COLUMNS": "80", "LINES": "24"} | (environment or {}),
    )


class Terminal:
    """A program in a pseudo terminal; `text` is everything it wrote, without escape sequences."""

    def __init__(
        self, words: list[str], environment: dict[str, str], size: tuple[int, int]
    ) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color"} | environment)
            os.execv(words[0], words)
        rows, columns = size
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.raw = b""
        self.status: int | None = None

    def read(self) -> None:
        """What there is within a moment."""
        if self.fd >= 0 and select.select([self.fd], [], [], 0.02)[0]:
            with contextlib.suppress(OSError):  # the other side is closed
                self.raw += os.read(self.fd, 65_536)

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode("utf-8", "replace"))

    def wait_text(self, text: str) -> None:
        self.wait(lambda: text in self.text)

    def wait(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < limit, self.text[-3000:]
            self.read()

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def hang_up(self) -> None:
        os.close(self.fd)
        self.fd = -1

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def close(self) -> None:
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.fd >= 0:
            os.close(self.fd)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str, size: tuple[int, int] = (24, 80), **environment: str) -> Terminal:
        opened.append(Terminal(list(words), environment, size))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_terminal_shows_the_arena_takes_keys_and_is_left_as_it_was(
    arena_name: str, terminal: Callable[..., Terminal]
) -> None:
    with watched(arena_name) as writer:
        window = terminal(TOP, arena_name)
        window.wait_text("USDC/WETH")
        before = window.text.count("uniswap_v4")
        window.type("\x0c")  # Ctrl-L
        window.wait(lambda: window.text.count("uniswap_v4") > before)
        window.type("/stale")
        window.wait_text("0 found")
        window.type("\x1b")
        window.wait_text("6 pools")
        writer.set_head(HEAD + 77)
        writer.commit()
        window.wait_text(str(HEAD + 77))
        window.type("q")
        window.wait(window.has_ended)
        assert window.status == 0
        assert b"\x1b[?1049h" in window.raw  # the other screen, and back
        assert window.raw.rindex(b"\x1b[?1049l") > window.raw.rindex(b"\x1b[?1049h")
        assert b"\x1b[31mX" not in window.raw  # a token's name is no command
        assert b"\x1b[?1000h" not in window.raw  # no mouse is asked for


@contextlib.contextmanager
def replaying(folder: Path, recording: str) -> Iterator[Path]:
    """A recording of the demo, served on a socket until the end."""
    feed = folder / f"{recording}.sock"
    words = ["arena-replay", DEMO / recording, "--socket", feed, "--at-once", "--linger", 60]
    process = subprocess.Popen(
        [str(BIN / str(words[0])), *map(str, words[1:])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + SECONDS
        while not feed.exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        yield feed
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_writer_is_told_and_the_next_one_followed(
    arena_name: str, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    with replaying(tmp_path, "chain_v2.exex") as feed:
        first = WriterProcess(
            tmp_path, name=arena_name, socket=feed, states=DEMO / "states_v2.jsonl"
        )
        try:
            with arena.attach(arena_name, timeout=SECONDS) as reader:
                reader.wait_live(timeout=SECONDS)
            window = terminal(TOP, arena_name)
            window.wait_text("103")  # the recording's last block
            window.wait_text("5 live")
        finally:
            first.process.kill()
            first.process.wait()
    window.wait_text("is gone: killed, or crashed")
    with (
        replaying(tmp_path, "chain_reorg.exex") as feed,
        WriterProcess(tmp_path, name=arena_name, socket=feed, states=DEMO / "states_reorg.jsonl"),
    ):
        window.wait_text("11 live")
        window.raw = b""
        window.type("\x0c")
        window.wait_text("LIVE")
        window.wait_text("68")
        assert "is gone" not in window.text
        window.type("q")
        window.wait(window.has_ended)
        assert window.status == 0


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "ctrl+c"])
def test_without_colour_not_one_is_sent(
    arena_name: str, terminal: Callable[..., Terminal], key: str
) -> None:
    with watched(arena_name):
        window = terminal(TOP, arena_name, NO_COLOR="1")
        window.wait_text("USDC/WETH")
        window.type("j")
        window.wait(lambda: window.text.count("> ") > 1)
        window.type(key)
        window.wait(window.has_ended)
        codes = {
            code
            for found in re.findall(rb"\x1b\[([0-9;]*)m", window.raw)
            for code in found.decode().split(";")
        }
        # Reset, bold, faint, reverse; the terminal's own colours.
        assert codes <= {"", "0", "1", "2", "7", "39", "49"}
        assert window.status == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 20), (60, 250)])
def test_a_terminal_of_any_size_will_do(
    arena_name: str, terminal: Callable[..., Terminal], size: tuple[int, int]
) -> None:
    with watched(arena_name):
        window = terminal(TOP, arena_name, size=size)
        window.wait_text("~" if size[1] < 80 else "USDC/WETH")  # it takes keys by now
        for key in ("j", "\r", "?", "x", "\x1b", "/", "w", "\r", "q"):
            window.type(key)
            window.read()
        window.wait(window.has_ended)
        assert window.status == 0
        assert "Traceback" not in window.text


@pytest.mark.parametrize("is_deaf", [False, True], ids=["hangup", "nohup"])
def test_a_terminal_that_is_closed_ends_it(
    arena_name: str, terminal: Callable[..., Terminal], is_deaf: bool
) -> None:
    with watched(arena_name):
        before = [sys.executable, "-c", DEAF] if is_deaf else []
        window = terminal(*before, TOP, arena_name)
        window.wait_text("USDC/WETH")
        window.hang_up()
        window.wait(window.has_ended)
        assert window.status is not None
        ended = os.waitstatus_to_exitcode(window.status)
        assert ended == (1 if is_deaf else -signal.SIGHUP)


def test_one_picture_and_one_object_need_no_textual(arena_name: str) -> None:
    with watched(arena_name), arena.attach(arena_name) as reader:
        run = (sys.executable, "-P", "-c", WITHOUT, arena_name)
        done = printed(*run, "--once")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.split("\n")
        assert lines[0].startswith(f"{arena_name}  LIVE")
        assert "  WETH/?[31mX?]0;t???   uniswap_v4    0.25 %d" in done.stdout
        assert "\x1b" not in done.stdout
        assert max(map(len, lines)) <= 80
        done = printed(*run, "--json", "--search", "weth")
        found = json.loads(done.stdout)
        assert (found["phase"], found["head_block"], found["matching"]) == ("live", HEAD, 4)
        assert found["pools"] == {"live": 4, "syncing": 1, "stale": 1}
        assert found["writer_pid"] == os.getpid()
        for row in found["shown"]:
            state = reader[row["pool"]].state()
            assert row["protocol"] == state.protocol
            for name in ("reserve0", "reserve1", "sqrt_price_x96", "liquidity"):
                value = getattr(state, name)
                assert row.get(name) == (None if value is None else str(value)), name
            assert row["token1"]["symbol"] == state.token1.symbol
        done = printed(*run)
        assert done.returncode == 2
        assert done.stderr == (
            "arena-top: textual is not installed: pip install 'pool-state-arena[top]', "
            "or take --once or --json\n"
        )


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["--sort", "price", "--reverse", "--protocol", "uniswap_v2"], [KEYS[3], KEYS[0]]),
        (["--status", "stale"], [KEYS[4]]),
        (["--rows", "2"], list(KEYS[:2])),
        (["--rows", "0"], []),
        (["--touched-first", "--search", "a6a6"], [KEYS[5]]),
    ],
)
def test_options_choose_what_is_printed(arena_name: str, words: list[str], keys: list[str]) -> None:
    with watched(arena_name):
        found = json.loads(printed(TOP, arena_name, "--json", *words).stdout)
        assert [row["pool"] for row in found["shown"]] == keys
        done = printed(TOP, arena_name, "--once", *words, environment={"COLUMNS": "120"})
        table = [line for line in done.stdout.split("\n") if "0xa" in line]
        assert [re.findall(r"0xa\d", line)[-1] for line in table] == [key[:4] for key in keys]


def test_a_reader_that_leaves_the_pipe_is_no_error(arena_name: str) -> None:
    with watched(arena_name):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{TOP} {arena_name} --once --rows 100000 | true"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_encoded_is_replaced(arena_name: str) -> None:
    with watched(arena_name):
        plain = {"PYTHONIOENCODING": "ascii"}
        done = printed(TOP, arena_name, "--once", environment=plain)
        assert (done.returncode, done.stderr) == (0, "")
        assert "WETH/???" in done.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "a live view needs a terminal that can move its cursor; take --once or --json"),
        (["--once", "--interval", "0"], "is no number of seconds from 0.05 to 3600"),
        (["--once", "--rows", "-1"], "is no number of pools"),
        (["--sort", "tick"], "invalid choice"),
    ],
)
def test_what_it_cannot_do_is_refused_with_code_2(
    arena_name: str, words: list[str], error: str
) -> None:
    with watched(arena_name):
        done = printed(TOP, arena_name, *words)
        assert done.returncode == 2
        assert error in done.stderr
        assert "Traceback" not in done.stderr


def test_a_name_without_an_arena_is_refused(arena_name: str) -> None:
    done = printed(TOP, arena_name, "--once", "--timeout", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("arena-top: ArenaMissing: ")
    assert done.stderr.count("\n") == 1
