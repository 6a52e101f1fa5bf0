"""The documentation says what the program does: its blocks run, its tables name what there is.

Shell and Python blocks of README, tutorial, how-to pages and reference run in the order of their page,
shell blocks in one bash, Python blocks in one interpreter. Only the arena's name, the node's socket path and
waiting times are exchanged for the test's own. A comment `not run` above a block takes it out; NOT_RUN lists
all of those, so none is lost by accident. Blocks with the comment `run with a node` run beside a real node,
its database and a trader; those that change permissions need root.
"""

import codecs
import contextlib
import inspect
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from builders.reth_database import library_path
from chains.market import Market
from chains.mirror import DatabaseMirror
from chains.process import Client, Node
from chains.producer import NodeProducer
from doubles.feed_server import FeedServer
from roles.processes import remove_segments

import arena
import arena.writer.demo
from arena.layouts.header import COUNTER_NAMES
from arena.readers.quote import QuoteOptions
from arena.readers.table import TABLE
from arena.writer.lists.files import FilePools
from arena.writer.lists.nats import NatsPools
from arena.writer.lists.saved import SavedList
from arena.writer.lists.source import PoolSource
from arena.writer.scrapers.reth_tables import DatabaseAccess
from arena.writer.scrapers.reth_tables import inspect as inspect_database
from arena.writer.scrapers.statefile import StateFile

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BIN = Path(sys.executable).parent
DEMO = Path(arena.writer.demo.__file__).parent
LAST_BLOCK = 68  # of chain_reorg.exex
SECONDS = 60.0

PAGES = [
    "README.md",
    "docs/tutorial.md",
    *sorted(str(path.relative_to(ROOT)) for path in DOCS.glob("howto/*.md")),
    *sorted(str(path.relative_to(ROOT)) for path in DOCS.glob("reference/*.md")),
]
WITH_NODE = "run with a node"
EXECUTED = {"sh", "python"}
SHOWN = {"json", "ini"}

# Page and first line of every block that does not run here -> why.
NOT_RUN = {
    (
        "README.md",
        "python3 -m venv .venv && .venv/bin/pip install -q '.[writer]' && .venv/bin/arena-demo",
    ): ("command: demo"),
    (
        "README.md",
        "python3 -m venv .venv && .venv/bin/pip install -q '.[writer,test]' && .venv/bin/pytest -q "
        "-n auto --dist worksteal",
    ): ("command: tests"),
    (
        "README.md",
        "PSA_PROFILE=ci .venv/bin/pytest -q -n auto --dist worksteal "
        '-m "(slow or property) and not (node or nats or model)"',
    ): ("command: long tests"),
    ("docs/tutorial.md", "python3 -m venv .venv"): (
        "not run: the installation is what the tests run on"
    ),
    ("docs/howto/explore-a-recording.md", "python3 -m venv .venv"): (
        "not run: the installation is what the tests run on"
    ),
    ("docs/howto/watch.md", "pip install 'pool-state-arena[top]'"): (
        "not run: the installation is what the tests run on"
    ),
    ("docs/howto/watch.md", "arena-top pools"): "not run: it goes on until q",
    ("docs/howto/watch.md", "pip install 'pool-state-arena[web]'"): (
        "not run: the installation is what the tests run on"
    ),
    ("docs/howto/watch.md", "arena-web pools"): "not run: it goes on until it is told to stop",
    ("docs/howto/deploy.md", "groupadd --system arena"): "not run: needs root and the group",
    (
        "docs/howto/deploy.md",
        "python3 -m venv /opt/arena && /opt/arena/bin/pip install '.[writer]'",
    ): "not run: needs root and systemd",
    (
        "docs/howto/deploy.md",
        "docker build -f deploy/Dockerfile -t pool-state-arena .",
    ): "not run: needs a container runtime",
}

# The pool of the README, at a price of about 2000, with liquidity over the whole range.
README_POOL = {
    "pool": "0x88e6a0c2ddd26feeb64f039a2c41296fcb3f5640",
    "protocol": "uniswap_v3",
    "block": 47,
    "token0": {
        "address": "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48",
        "decimals": 6,
        "symbol": "USDC",
    },
    "token1": {
        "address": "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2",
        "decimals": 18,
        "symbol": "WETH",
    },
    "fee_pips": 500,
    "tick_spacing": 10,
    "sqrt_price_x96": str(int(1.0001**100000.25 * 2**96)),
    "tick": 200000,
    "liquidity": str(10**19),
    "ticks": [[-887270, str(10**19), str(10**19)], [887270, str(10**19), str(-(10**19))]],
}


@dataclass(frozen=True)
class Block:
    """A fenced block; `note` is the comment on the line above it."""

    page: str
    line: int
    language: str
    text: str
    note: str

    @property
    def key(self) -> tuple[str, str]:
        return self.page, self.text.split("\n")[0]


def read_blocks(page: str) -> list[Block]:
    found: list[Block] = []
    lines = (ROOT / page).read_text(encoding="utf-8").split("\n")
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = re.fullmatch(r"<!-- (.*) -->", lines[start - 1])
        text = "\n".join(lines[start + 1 : number])
        note = above[1] if above else ""
        found.append(Block(page, start + 1, lines[start][3:], text, note))
        start = None
    assert start is None, f"{page} ends inside a block"
    return found


def test_every_block_is_run_shown_or_listed() -> None:
    left_out = {}
    for page in PAGES:
        for block in read_blocks(page):
            assert block.language in EXECUTED | SHOWN, f"{page}:{block.line}: {block.language!r}"
            if block.language in EXECUTED and block.note not in ("", WITH_NODE):
                left_out[block.key] = block.note
    assert left_out == NOT_RUN
    # The commands of the README run in the release check instead.
    assert 'for name in demo tests "long tests"; do' in (ROOT / ".ci" / "run").read_text(
        encoding="utf-8"
    )


# ---- running a page


class Asked:
    """A process that is given one block at a time and says when, and how, it ended."""

    mark = "=== block ended with "

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self, what: str) -> str:
        """What the block printed; the test fails when the block did."""
        printed: list[str] = []
        limit = time.monotonic() + SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"{what} does not end; it printed\n{''.join(printed)}")
            if line is None:
                pytest.fail(f"{what} ended the process; it printed\n{''.join(printed)}")
            if line.startswith(self.mark):
                assert line == f"{self.mark}0\n", f"{what}: {line}{''.join(printed)}"
                return "".join(printed)
            printed.append(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


DRIVER = f"""
import sys, traceback
space = {{"__name__": "__main__"}}
for path in sys.stdin:
    try:
        exec(compile(open(path.strip()).read(), path.strip(), "exec"), space)
    except BaseException:
        traceback.print_exc()
        print("{Asked.mark}1", flush=True)
    else:
        print("{Asked.mark}0", flush=True)
"""


class Page:
    """Runs the blocks of one page in a folder, with the test's arena name and shorter waits."""

    def __init__(self, page: str, folder: Path, name: str, swaps: dict[str, str]) -> None:
        self.page = page
        self.folder = folder
        self.name = name
        self.work = folder  # where the reader of the page stands
        self.swaps = swaps
        self.swapped: set[str] = set()
        self.printed: dict[int, str] = {}
        self._count = 0
        self.shell = Asked(["bash"], folder)
        self.shell.tell(
            "trap 'kill -CONT $(jobs -p); kill $(jobs -p); wait' EXIT; set -eo pipefail"
        )
        self._python: Asked | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._python is not None:
            self._python.close()
        with contextlib.suppress(BrokenPipeError):  # a failed block has ended it
            self.shell.tell("exit 0")
        self.shell.close()
        for name in (self.name, f"{self.name}-bridged", f"{self.name}-replayed"):
            remove_segments(name)

    def own(self, text: str) -> str:
        """A block with the arena name, socket and waits of the test."""
        places = (
            r'(attach(?:_live)?\("|--name |--arena |arena-writer status |arena-dump |arena-quote '
            r"|arena-top |arena-verify |/dev/shm/)"
        )
        text = re.sub(places + r"(?:pools|tutorial)\b(?!\.jsonl)", rf"\g<1>{self.name}", text)
        text = re.sub(places + r"(bridged|replayed)\b", rf"\g<1>{self.name}-\g<2>", text)
        text = text.replace("/run/reth/pool-updates.sock", "feed.sock")
        for old, new in self.swaps.items():
            if old in text:
                self.swapped.add(old)
                text = text.replace(old, new)
        return text

    def write(self, text: str, suffix: str) -> Path:
        self._count += 1
        path = self.folder / f"block{self._count}{suffix}"
        path.write_text(text + "\n", encoding="utf-8")
        return path

    def start_shell(self, text: str) -> None:
        text = self.own(text)
        if re.fullmatch("arena-writer run .*[^&]", text):
            text += " 2>writer.log &"  # it runs until it is stopped
        path = self.write(text, ".sh")
        self.shell.tell(f". {path}; printf '\\n%s%d\\n' '{Asked.mark}' $?")

    def run_shell(self, text: str) -> str:
        self.start_shell(text)
        return self.shell.answer(f"{self.page}: {text}")

    def start_python(self, text: str) -> None:
        if self._python is None:
            self._python = Asked([sys.executable, "-P", "-c", DRIVER], self.work)
        self._python.tell(str(self.write(self.own(text), ".py")))

    def end_python(self, text: str) -> str:
        assert self._python is not None
        return self._python.answer(f"{self.page}: {text}")

    def run_python(self, text: str) -> str:
        self.start_python(text)
        return self.end_python(text)

    def run(self, block: Block) -> None:
        if block.language == "python":
            self.printed[block.line] = self.run_python(block.text)
        else:
            self.printed[block.line] = self.run_shell(block.text)
            if block.text.startswith("arena-writer run"):
                self.wait_live()

    def status(self) -> dict[str, Any] | None:
        done = subprocess.run(
            [str(BIN / "arena-writer"), "status", self.name, "--json"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return None if done.returncode else dict(json.loads(done.stdout))

    def wait_live(self, head: int = 0) -> dict[str, Any]:
        limit = time.monotonic() + SECONDS
        while True:
            found = self.status()
            if found is not None and found["phase"] == "live" and found["head_block"] >= head:
                return found
            assert time.monotonic() < limit, f"not live: {found}"
            time.sleep(0.05)


def runnable(page: str) -> list[Block]:
    return [block for block in read_blocks(page) if block.language in EXECUTED and not block.note]


def starts_its_writer(page: str) -> bool:
    return any(re.search("^arena-writer run", block.text, re.M) for block in runnable(page))


@pytest.fixture
def open_page(tmp_path: Path, arena_name: str) -> Callable[..., Any]:
    """A page with a stream on feed.sock, a state file pools.jsonl and, where it starts none, a writer."""

    @contextlib.contextmanager
    def opened(
        page: str, *, rate: str = "--at-once", swaps: dict[str, str] | None = None
    ) -> Iterator[Page]:
        states = (DEMO / "states_reorg.jsonl").read_text(encoding="utf-8")
        (tmp_path / "pools.jsonl").write_text(states + json.dumps(README_POOL) + "\n")
        with Page(page, tmp_path, arena_name, swaps or {}) as found:
            found.run_shell(
                f"arena-replay {DEMO / 'chain_reorg.exex'} --socket feed.sock {rate} "
                "--linger 600 2>replay.log &"
            )
            if not starts_its_writer(page):
                found.run_shell(
                    "arena-writer run --name pools --socket feed.sock --states pools.jsonl 2>writer.log &"
                )
                found.wait_live(LAST_BLOCK)
            yield found

    return opened


BESIDE_A_NODE = ("run-beside-reth", "run-against-rpc", "errors")
RECORDING_PAGE = "docs/howto/explore-a-recording.md"
ORDINARY = [
    page
    for page in PAGES
    if page not in ("README.md", RECORDING_PAGE, "docs/howto/recover.md") and runnable(page)
]


@pytest.mark.slow
@pytest.mark.parametrize("page", ORDINARY)
def test_the_blocks_of_a_page_run(page: str, open_page: Callable[..., Any]) -> None:
    with open_page(page) as opened:
        for block in runnable(page):
            opened.run(block)


@pytest.mark.slow
def test_the_readme_runs(open_page: Callable[..., Any]) -> None:
    """Its loop ends when the writer is stopped, which happens once the recording is over."""
    swaps = {"timeout=1)": "timeout=0.5)"}
    with open_page("README.md", rate="--rate 20", swaps=swaps) as opened:
        writer, reader = runnable("README.md")
        opened.run_python("import arena")  # which takes long on a busy machine
        opened.run(writer)
        opened.start_python(reader.text)
        opened.wait_live(LAST_BLOCK)
        time.sleep(2)  # longer than the loop's wait: it has seen the last block
        opened.run_shell("kill %2; wait %2")
        opened.end_python(reader.text)
        opened.run_python(
            f"assert block == {LAST_BLOCK}, block\n"
            "assert quote.amount_out > 10**9 and quote.is_complete, quote\n"
            "assert usdc_weth.key in [state.pool_key for state in states], states"
        )
        assert opened.swapped == set(swaps)


@contextlib.contextmanager
def stopped_once_live(replay: int, name: str) -> Iterator[None]:
    """Stop that process as soon as the arena is live. A shell that looks for it starts a program each
    time: on a busy machine the recording is over before it sees anything."""

    def hold() -> None:
        with arena.attach(name, timeout=SECONDS) as pools:
            pools.wait_live(timeout=SECONDS)
            os.kill(replay, signal.SIGSTOP)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        yield
        held.result()


@pytest.mark.slow
def test_the_page_on_a_recording_runs(tmp_path: Path, arena_name: str) -> None:
    """The replay stands still from live until the loop begins: a slow machine misses no reorg either."""
    swaps = {"--rate 1 ": "--rate 4 ", "timeout=20": "timeout=10"}
    (tmp_path / "writer").symlink_to(ROOT / "writer")
    with Page(RECORDING_PAGE, tmp_path, arena_name, swaps) as opened:
        opened.work = tmp_path / "tutorial"
        blocks = runnable(RECORDING_PAGE)
        for block in blocks:
            if block.text.startswith("commit, reorgs"):
                first, loop = block.text.split("\n", 1)
                opened.run_python(first)
                opened.run_shell("kill -CONT %1")
                opened.printed[block.line] = opened.run_python(loop)
            elif block.text.startswith("arena-writer run"):
                with stopped_once_live(int(opened.run_shell("jobs -p %1")), arena_name):
                    opened.run(block)
            else:
                opened.run(block)
        assert opened.swapped == set(swaps)

        def printed(start: str) -> str:
            return next(opened.printed[each.line] for each in blocks if each.text.startswith(start))

        assert printed("import arena").startswith("live ")
        assert "cannot pay that output" in printed("try:")
        assert printed("commit, reorgs").count("after a reorg") >= 1
        assert printed("print(pools.head_block, pools.counters") == "68 3 12\n"
        assert "the writer ended with 0" in printed("kill %2")
        assert printed("print(pools.phase, pools.writer_alive").startswith("stopped False 68\n")
        dump = (tmp_path / "tutorial" / "dump.jsonl").read_text().splitlines()
        assert json.loads(dump[0])["head_block"] == LAST_BLOCK
        assert len(dump) == 1 + 11


@pytest.mark.slow
def test_the_recovery_page_runs(open_page: Callable[..., Any]) -> None:
    with open_page("docs/howto/recover.md") as opened:
        blocks = runnable("docs/howto/recover.md")
        for block in blocks:
            opened.run(block)
        assert "rm /dev/shm/pools" in blocks[-1].text
        assert opened.status() is not None, "the clean-up removed a living arena"
        opened.run_shell("kill -9 %2; wait %2 || true")
        opened.run(blocks[-1])
        assert opened.status() is None


# ---- beside a node


class Beside:
    """A node with a trader, its event stream on feed.sock and its database; blocks come all the time."""

    def __init__(self, market: Market, folder: Path, database: Path) -> None:
        self.market = market
        self.producer = NodeProducer(market)
        self.mirror = DatabaseMirror(database, market)
        self.mirror.write(market.node.block())
        self.server = FeedServer(folder / "feed.sock", b"", folder / "stream.bin")
        self._done = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._trade)
        self._thread.start()

    def _trade(self) -> None:
        try:
            while not self._done.wait(0.2):
                self.mirror.write(self.market.step(3))
                self.server.send_bytes(self.producer.follow())
        except BaseException as error:
            self._failed = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self.server.close()
        self.mirror.close()
        assert self._failed is None, self._failed


# Runs a script as root whose users and groups exist nowhere else.
PRIVATELY = """
set -e
cp -a /etc {folder}/etc
mount --bind {folder}/etc /etc
useradd --system reth
useradd --system arena
. {script}
id -u arena
id -G arena
"""


def change_permissions(text: str, folder: Path, database: Path) -> None:
    """Run the page's commands as root, then open the database as the page's users would."""
    assert os.geteuid() == 0, "the commands that change permissions need root"
    script = folder / "permissions.sh"
    script.write_text(text)
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", PRIVATELY.format(folder=folder, script=script)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    user, groups = done.stdout.split("\n")[-3:-1]
    assert opened_as(int(user), [int(each) for each in groups.split()], database) == "opened"
    assert opened_as(65534, [65534], database).startswith("DatabasePermission: ")


def opened_as(user: int, groups: list[int], database: Path) -> str:
    """What a process of that user gets: `opened`, or the error."""
    read, write = os.pipe()
    # That user may not be able to read Python's own files, nor the package's.
    codecs.lookup("ascii")
    library = shutil.copy(library_path(), database.parent)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(groups[0])
            os.setuid(user)
            inspect_database(DatabaseAccess(str(database), library))
            os.write(write, b"opened")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        return answer.read()


@pytest.mark.node
@pytest.mark.parametrize("page", ["run-beside-reth", "run-against-rpc", "errors"])
def test_the_blocks_of_a_page_run_beside_a_node(page: str, tmp_path: Path, arena_name: str) -> None:
    name = f"docs/howto/{page}.md"
    blocks = [block for block in read_blocks(name) if block.note == WITH_NODE]
    assert blocks
    with (
        tempfile.TemporaryDirectory(prefix="psa-") as public,  # the test's own is its user's alone
        Node(tmp_path, more=("--chain-id", "1")) as node,
    ):
        os.chmod(public, 0o755)
        market = Market(node, seed=4)
        market.create_pools(v2=3, v3=3, v4=3, cake=3)
        old = market.step(3)
        (tmp_path / "pools.json").write_text(json.dumps(market.pool_list()))
        swaps = {
            "http://127.0.0.1:8545": node.http,
            "ws://127.0.0.1:8546": node.ws,
            "/var/lib/reth/reth.ipc": str(node.ipc),
            "/var/lib/reth": f"{public}/reth",
            "DATADIR": f"{public}/reth",
            "21500000": str(old["number"]),
            "/run/exex.sock": "feed.sock",
        }
        with (
            Beside(market, tmp_path, Path(public, "reth")),
            Page(name, tmp_path, arena_name, swaps) as opened,
        ):
            for block in blocks:
                if block.text.startswith("groupadd"):
                    change_permissions(opened.own(block.text), tmp_path, Path(public, "reth"))
                    continue
                opened.run(block)
                if block.text.startswith("arena-writer run"):
                    opened.run_shell("kill $!; wait $!")
                if "arena-writer scrape" in block.text:
                    # The processes that read a database each have a transaction of their own.
                    is_one_block = "--reth-db" not in block.text
                    check_scraped(tmp_path / "pools.jsonl", market, is_one_block)
                elif "arena-writer doctor" in block.text:
                    assert "start      would work" in opened.printed[block.line]


@pytest.mark.node
def test_the_tutorial_runs(tmp_path: Path, arena_name: str) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    swaps = {"8545": str(port)}
    page = "docs/tutorial.md"
    with Page(page, tmp_path, arena_name, swaps) as opened:
        opened.work = tmp_path / "tutorial"
        blocks = [block for block in read_blocks(page) if block.note == WITH_NODE]
        for block in blocks:
            opened.run(block)

        def printed(start: str) -> str:
            return next(opened.printed[each.line] for each in blocks if each.text.startswith(start))

        assert len(printed("import arena").splitlines()) == 12
        lines = printed("from collections").splitlines()
        assert len(lines) == 25
        assert int(lines[-1].split()[-2]) >= 1, "no reorg came"
        assert "12 pools compared at block " in printed("arena-verify")
        assert ", 0 differ" in printed("arena-verify")
        assert "the writer ended with 0" in printed("kill %2")
        assert printed("print(pools.phase").startswith("stopped False ")


@pytest.mark.node
def test_the_page_on_any_node_runs(tmp_path: Path, arena_name: str) -> None:
    page = "docs/howto/any-node.md"
    with tempfile.TemporaryDirectory(prefix="psa-") as folder, Node(tmp_path) as node:
        market = Market(node, seed=4)
        market.create_pools(v2=3, v3=3, v4=3, cake=3)
        (tmp_path / "pools.json").write_text(json.dumps(market.pool_list()))
        swaps = {"http://127.0.0.1:8545": node.http, "ws://127.0.0.1:8546": node.ws}
        with (
            Beside(market, tmp_path, Path(folder, "reth")),
            Page(page, tmp_path, arena_name, swaps) as opened,
        ):
            blocks = [block for block in read_blocks(page) if block.note == WITH_NODE]
            for block in blocks:
                opened.run(block)
            assert re.search(r"pools live +12", opened.printed[blocks[-1].line])


def check_scraped(path: Path, market: Market, is_one_block: bool) -> None:
    """The state file has every pool, as the node's getters say at the block of each line."""
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    blocks = {line["block"] for line in lines}
    assert max(blocks) == header["head_block"]
    assert len(blocks) == 1 or not is_one_block
    assert {line["pool"] for line in lines} == {pool.key for pool in market.pools}
    asked = Client(market.node.port)  # the trader has the other connection
    for line in lines:
        if line["protocol"] != "uniswap_v2":
            continue
        call = {"to": line["pool"], "data": "0x0902f1ac"}
        answer = asked.call("eth_call", call, hex(line["block"]))[2:]
        reserves = [int(answer[start : start + 64], 16) for start in (0, 64)]
        assert [int(line["reserve0"]), int(line["reserve1"])] == reserves
    asked.close()


# ---- tables that name what there is


def section(page: str, title: str) -> str:
    """Text of the section with that heading, subsections included."""
    text = (DOCS / "reference" / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found is not None, f"{page} has no section {title!r}"
    return found[1]


def spans(text: str) -> list[str]:
    """Code spans outside blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def first_column(text: str) -> list[str]:
    return [span for row in re.findall(r"^\| (.*?) \|", text, re.M) for span in spans(row)]


def is_exception(name: str) -> bool:
    found = getattr(arena, name)
    return inspect.isclass(found) and issubclass(found, BaseException)


PUBLIC = [name for name in arena.__all__ if not is_exception(name)]
CLASSES = [name for name in PUBLIC if inspect.isclass(getattr(arena, name))]
# Made in __init__, so not to be seen on the class.
INSTANCE = {
    "Arena": {"name", "follow", "require_writer", "heartbeat_limit", "owner"},
    "SharedSnapshot": {"snapshot"},
    "HeadBlock": {"commit"},
}
# Between modules of the package, or of collections.abc.Sequence.
INTERNAL = {
    "FrozenPool": {"answer", "store_answer"},
    "SharedSnapshot": {"put"},
    "QuoteBatch": {"count", "index"},
    "HeadBlock": {member for member in dir(int) if not member.startswith("_")},
}


def written(name: str, function: Any) -> str:
    """A signature as the page writes it: names and defaults."""
    words: list[str] = []
    starred = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            words.append("*")
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        words.append(prefix + parameter.name + default)
    return f"{name}({', '.join(words)})"


def members(name: str) -> dict[str, str]:
    """Public members of a class -> how the page writes them."""
    cls = getattr(arena, name)
    found = {}
    for member in dir(cls):
        if member.startswith("_") or member in INTERNAL.get(name, ()):
            continue
        value = inspect.getattr_static(cls, member)
        is_method = inspect.isroutine(value) or isinstance(value, classmethod)
        found[member] = written(member, getattr(cls, member)) if is_method else member
    return found | {member: member for member in INSTANCE.get(name, ())}


def test_attach_is_documented_as_it_is() -> None:
    assert written("attach", arena.attach) in spans(section("api.md", "attach"))
    assert set(PUBLIC) - set(CLASSES) == {"attach"}


@pytest.mark.parametrize("name", CLASSES)
def test_the_api_page_names_every_member_with_its_signature(name: str) -> None:
    text = section("api.md", name)
    shown = set(spans(text))
    missing = [how for how in members(name).values() if how not in shown]
    assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("name", CLASSES)
def test_the_api_page_names_nothing_that_is_not_there(name: str) -> None:
    there = set(members(name).values())
    if name == "Pool":
        there |= set(QuoteOptions.__annotations__)
    if name == "Snapshot":
        there |= set(TABLE.names or ())
    listed = [span for span in first_column(section("api.md", name)) if "..." not in span]
    assert listed, f"{name} has no table"
    assert [span for span in listed if span not in there] == []


def test_the_table_of_a_snapshot_is_documented() -> None:
    shown = set(first_column(section("api.md", "Snapshot")))
    columns = {column for column in TABLE.names or () if not column.startswith("reserved")}
    columns |= {"reserve0", "reserve1"}
    assert columns <= shown


def test_every_exception_is_documented_and_no_other() -> None:
    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert sorted(first_column(text)) == sorted(
        name for name in arena.__all__ if is_exception(name)
    )


def test_every_counter_is_documented_and_no_other() -> None:
    text = (DOCS / "reference" / "counters.md").read_text(encoding="utf-8")
    names = set(COUNTER_NAMES.values())
    shown = spans(text)
    assert names <= set(shown)
    listed = {span for span in first_column(text) if re.fullmatch(r"[a-z_0-9]+", span)}
    prefixed = {span for span in shown if re.match(r"(applied|fault|unsupported)_[a-z]", span)}
    assert listed | prefixed <= names


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "arena-writer run",
        "arena-writer config",
        "arena-writer doctor",
        "arena-writer scrape",
        "arena-writer status",
        "arena-replay",
        "arena-demo",
        "arena-dump",
        "arena-quote",
        "arena-top",
        "arena-web",
    ],
)
def test_every_option_is_documented_and_no_other(program: str) -> None:
    name, *command = program.split()
    done = subprocess.run(
        [str(BIN / name), *command, "--help"],
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    option = r"(?<![\w-])--[a-z][a-z-]*"
    of_all = {"--help", "--version"}  # said once
    shown = set(re.findall(option, done.stdout)) - of_all
    assert shown, done.stdout
    assert set(re.findall(option, section("cli.md", program))) - of_all == shown


def test_every_program_has_a_section() -> None:
    scripts = re.search(
        r"^\[project\.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert scripts is not None
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for name in re.findall(r"^([a-z-]+) =", scripts[1], re.M):
        assert f"\n## {name}" in page


def test_the_sample_of_the_state_file_page_loads(tmp_path: Path) -> None:
    (sample,) = [
        each for each in read_blocks("docs/reference/state-file.md") if each.language == "json"
    ]
    path = tmp_path / "sample.jsonl"
    path.write_text(sample.text + "\n", encoding="utf-8")
    states = StateFile(path, wait_s=0)
    keys = [spec.key for spec in states.list_pools()]
    scrape = states.read_pools(keys)
    assert (len(keys), len(scrape.pools), scrape.invalid) == (2, 2, ())
    assert states.get_current_block_number() == 18000104


def test_the_saved_list_of_the_pool_list_page_loads(tmp_path: Path) -> None:
    (sample,) = [
        each for each in read_blocks("docs/howto/pool-lists.md") if each.language == "json"
    ]
    saved = SavedList(tmp_path / "saved.json")
    saved.path.write_text(sample.text, encoding="utf-8")
    loaded = saved.load(chain="ethereum")
    written = SavedList(tmp_path / "written.json")
    written.save(loaded.targets, loaded.origin, chain="ethereum")
    assert written.path.read_text(encoding="utf-8") == sample.text


@pytest.mark.parametrize(
    ("title", "source"),
    [
        ("of a file", FilePools("pools.json")),
        ("of NATS", NatsPools("nats://127.0.0.1", "ethereum")),
    ],
)
def test_what_sources_of_pools_count_is_documented_and_nothing_else(
    title: str, source: PoolSource
) -> None:
    page = (DOCS / "howto" / "pool-lists.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| {title} \| \|\n((?:\|.*\n)*)", page, re.M)
    assert table is not None
    assert sorted(first_column(table[1])) == sorted(source.counts)


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], link


PLACES = ("arena/", "layouts/", "readers/", "writer/", "tests/", "examples/", "docs/")


@pytest.mark.parametrize(
    "page", ["docs/explanation/map.md", *(page for page in PAGES if "/add-a-" in page)]
)
def test_files_a_page_names_are_there(page: str) -> None:
    named = [
        word
        for span in spans((ROOT / page).read_text(encoding="utf-8"))
        for word in span.split()
        if word.startswith(PLACES) and "NAME" not in word and "*" not in word
    ]
    assert [place for place in named if not (ROOT / place).exists()] == []


def test_every_benchmark_is_named_by_what_it_measures() -> None:
    page = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"bench_\w+\.py", page))
    assert named == {path.name for path in (ROOT / "bench").glob("bench_*.py")}
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert named == set(re.findall(r"bench_\w+\.py", "\n".join(tables)))


def test_benchmarks_without_goals_are_named() -> None:
    page = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"((?:`bench_\w+\.py`[, and]*)+)\s+have none", page)
    assert found is not None
    without = {
        path.name
        for path in (ROOT / "bench").glob("bench_*.py")
        if not re.search(r"\.target = |\.compare\(|\.limit\(", path.read_text(encoding="utf-8"))
    }
    assert set(re.findall(r"bench_\w+\.py", found[1])) == without
