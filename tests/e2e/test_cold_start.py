"""A start beside a node that never stands still: 300 pools are read while a trader goes on.

Method: real contracts on a real node, a seeded trader, frames encoded from the node's own logs, and
the installed arena-writer with a reader process of its own. The node's answers to the scraper are
held back, so that dozens of blocks come while pools are read. The truth is the contracts' getters.
"""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.history import frames_of
from chains.market import DYNAMIC_FEE, Market, traded_market
from chains.mirror import DatabaseMirror
from chains.producer import NodeProducer
from doubles.feed_server import FeedServer
from doubles.proxy import Fault, FaultyServer, lagging_answer
from roles.processes import ReaderProcess, WriterProcess

pytestmark = pytest.mark.node

SECONDS = 60.0
BLOCKS_AFTER = 50
LAG = 10
DEPTH = 40
BLOCK_S = 0.08
"""From one block to the next while the writer starts, if the node is fast enough."""
SLOW_READ_S = 0.06
"""How long a request for pool state waits before the node gets it."""
PIECE_NBYTES = 30_000


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    """On a node of its own: beyond some 500 blocks the node moves old states to disk and is slow."""
    with traded_market(tmp_path, seed=77, each=75, operations=15) as made:
        assert len(made.pools) == 300
        assert any(pool.fee_pips == DYNAMIC_FEE for pool in made.pools)
        yield made


class Stage:
    """The trader, the stream it causes, one writer and one reader; closed by the fixture."""

    def __init__(self, market: Market, folder: Path, arena_name: str) -> None:
        self.market = market
        self.folder = folder
        self.arena_name = arena_name
        self.producer = NodeProducer(market)
        self.server = FeedServer(folder / "feed.sock", b"", folder / "stream.bin")
        self.headers: deque[dict[str, Any]] = deque(maxlen=LAG + 1)
        self.after_block: Callable[[], None] = lambda: None
        self.traded = 0
        self.pools = folder / "pools.json"
        self.pools.write_text(json.dumps(market.pool_list()))
        self.closing: list[Any] = [self.server]
        self.trade()

    def write(self, *source: str) -> None:
        """Start the writer with where its pools come from, and the reader."""
        self.writer = WriterProcess(
            self.folder,
            name=self.arena_name,
            socket=self.server.socket_path,
            more=("--pools", str(self.pools), *source),
        )
        self.reader = ReaderProcess(self.folder, self.arena_name)

    def held_back(self, newest: Callable[[int], int] = lambda head: head) -> str:
        """The node's address, where each request for pool state waits, and for the one before it.

        The chain is shown up to newest(head).
        """
        forward = lagging_answer(self.market.node.port, newest)
        turn = threading.Lock()

        def in_turn(body: bytes) -> bytes:
            # Several at once would keep the node from mining.
            with turn:
                return forward(body)

        def slow(request: Any, number: int) -> Fault | None:
            items = request if isinstance(request, list) else [request]
            methods = {item["method"] for item in items}
            if "eth_getStorageValues" in methods:
                # Of two ways that wait equally long the writer may take either, and they differ in
                # the number of requests, so in how long the start takes.
                return Fault(error=(-32601, "the method eth_getStorageValues does not exist"))
            reads_state = methods & {"eth_call", "eth_getStorageAt"}
            return Fault(delay_s=SLOW_READ_S) if reads_state else None

        proxy = FaultyServer(in_turn, slow)
        self.closing.append(proxy)
        return proxy.http

    def trade(self, operations: int = 8) -> None:
        """One block more, and what the producer says of it."""
        self.market.keep_snapshot()
        self.headers.append(self.market.step(operations))
        self.send(self.producer.follow())
        self.traded += 1
        self.after_block()

    def reorg(self, depth: int, method: Any) -> None:
        self.market.reorg(depth, method=method, operations=2 * depth)
        if method != "anvil_reorg":
            self.market.step(12)
        self.headers.append(self.market.node.block())
        self.send(self.producer.follow())

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_NBYTES):
            self.server.send_bytes(data[start : start + PIECE_NBYTES])

    def log(self) -> str:
        return self.writer.log.read_text(errors="replace")

    def trade_until(self, pattern: str) -> None:
        """Go on trading until the writer's log has that."""
        limit = time.monotonic() + SECONDS
        due = time.monotonic()
        while not re.search(pattern, self.log()):
            assert time.monotonic() < limit, self.writer.log_tail()
            assert self.writer.process.poll() is None, self.writer.log_tail()
            self.trade()
            due += BLOCK_S
            time.sleep(max(0.0, due - time.monotonic()))

    def equal(self, *, settle: bool = False, every_word: bool = False) -> None:
        """Every pool is live, and what the node says at its newest block.

        The first view at that block must be so; with `settle`, as after a reorg that leads to a
        block number seen before, one must become so. Fees are compared where no hook sets them.
        """
        block = self.market.node.block()
        truth = self.market.states(block["hash"], every_word=every_word)
        assert len(truth) == 300
        fees = {
            key: (state.pop("lp_fee"), state.pop("protocol_fee"))
            for key, state in truth.items()
            if "lp_fee" in state
        }
        fixed = [key for key in fees if self.market.by_key[key].fee_pips != DYNAMIC_FEE]
        try:
            self.reader.expect(block["number"], truth, settle=settle, seconds=SECONDS)
            assert self.reader.fees(fixed) == {key: fees[key] for key in fixed}
        except AssertionError as error:
            error.add_note(self.writer.log_tail())
            raise

    def start(self, during: Callable[[], None] = lambda: None) -> None:
        """Trade through the whole start, `during` in the middle of the scrape, and compare."""
        self.trade_until("event=scraping")
        began, before = time.monotonic(), self.traded
        for _ in range(10):
            self.trade()
        during()
        assert "event=live " not in self.log(), "the scrape was over before its middle"
        self.trade_until("event=live ")
        seconds, blocks = time.monotonic() - began, self.traded - before
        print(f"{blocks} blocks in {seconds:.1f} s of reading pools, {blocks / seconds:.1f}/s")
        assert blocks >= 24
        self.equal(every_word=True)

    def go_on(self, *, reorgs: bool = False) -> None:
        for number in range(BLOCKS_AFTER):
            is_reorg = reorgs and number % 10 == 9
            if is_reorg:
                self.reorg(1 + number % 4, "anvil_reorg" if number % 20 == 9 else "evm_revert")
            else:
                self.trade()
            self.equal(settle=is_reorg)
        self.equal(every_word=True)

    def close(self) -> None:
        self.reader.__exit__(None, None, None)
        try:
            self.writer.__exit__(None, None, None)
        finally:
            for each in self.closing:
                each.__exit__(None, None, None)


@pytest.fixture
def stage(market: Market, tmp_path: Path, arena_name: str) -> Iterator[Stage]:
    made = Stage(market, tmp_path, arena_name)
    yield made
    made.close()


def test_a_start_while_the_trader_goes_on(stage: Stage) -> None:
    stage.write("--rpc", stage.held_back())
    stage.start()
    stage.go_on(reorgs=True)


@pytest.mark.parametrize("method", ["anvil_reorg", "evm_revert"])
def test_a_reorg_while_pools_are_read(stage: Stage, method: str) -> None:
    stage.write("--rpc", stage.held_back())

    def fork() -> None:
        # Pools that are done were read at a block of some seconds ago.
        stage.trade_until("pools_done=[1-9]")
        stage.reorg(min(DEPTH, len(stage.producer.chain) - 1), method)

    stage.start(fork)
    assert "event=scrape_again" in stage.log(), "no pool had been read on the old branch"
    stage.go_on()


def test_a_connection_lost_while_pools_are_read(stage: Stage) -> None:
    stage.write("--rpc", stage.held_back())

    def lose() -> None:
        stage.market.step(12)
        frames = frames_of(stage.producer.follow())
        stage.send(b"".join(frames[: len(frames) // 2]))
        stage.server.drop()
        for _ in range(4):  # nobody hears of these
            stage.market.step(12)
            stage.producer.follow()
        stage.server.await_clients(2)

    stage.start(lose)
    assert stage.log().count("event=connected") == 2
    stage.go_on()


def test_a_node_that_lags_is_waited_for(stage: Stage) -> None:
    stands_at = [stage.market.node.block()["number"]]
    stage.write("--rpc", stage.held_back(newest=lambda head: min(head - LAG, *stands_at)))

    def wait() -> None:
        stage.trade_until("event=scrape_not_confirmed error=NodeBehind")
        for _ in range(2 * LAG):
            stage.trade()
        assert "event=live " not in stage.log(), "the node has no block of the stream yet"
        stands_at[:] = [2**63]

    stage.start(wait)
    stage.go_on()


@pytest.mark.parametrize("with_node", [True, False])
def test_a_database_ten_blocks_behind(stage: Stage, tmp_path: Path, with_node: bool) -> None:
    with DatabaseMirror(tmp_path / "reth", stage.market) as mirror:

        def persist() -> None:
            if len(stage.headers) > LAG:
                mirror.write(stage.headers[0])

        for _ in range(LAG):
            stage.trade()
        persist()

        def come_up() -> None:
            for _ in range(2 * LAG):
                stage.trade()
            assert "event=live " not in stage.log(), "the database has no block of the stream yet"
            stage.after_block = persist

        node = ("--rpc", stage.market.node.http) if with_node else ()
        stage.write("--reth-db", str(mirror.database), *node)
        stage.start(come_up)
        first, scraped = first_and_scraped(stage.log())
        assert scraped >= first - 1, "pools were read before the database had come up"
        stage.go_on()


def first_and_scraped(log: str) -> tuple[int, int]:
    """The stream's first block, and the block of the database when pools were read."""
    first = int(log.split("event=scraping ")[1].split("first_block=")[1].split()[0])
    shown = [line for line in log.splitlines() if "event=progress" in line]
    blocks = [line.split("source_block=")[1].split()[0] for line in shown]
    return first, max(int(block) for block in blocks if block != "-")
