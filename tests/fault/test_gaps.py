"""Blocks are lost, with a node at hand and without: real processes, a real socket, real HTTP.

The state file is as old as the start, so only the node's logs can bring the pools up to date; where
a test writes a newer one, it is to show that it is needed. Expected states are the simulated chain's.
"""

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.history import Producer, Universe, frames_of, write_states
from doubles.feed_server import FeedServer
from doubles.node_server import NodeServer
from roles.processes import ReaderProcess, WriterProcess

SECONDS = 30.0


class Stage:
    """A chain, its producer's socket, its node and one writer with a reader."""

    def __init__(self, folder: Path, name: str, *more: str, node: bool = True) -> None:
        self.universe = Universe(random.Random(f"gaps {folder.name}"))
        self.producer = Producer(self.universe, order="newest-first", envelope=True)
        self.states = folder / "states.jsonl"
        write_states(self.states, self.universe, self.universe.tip)
        self.node = NodeServer(self.universe.chain)
        self.server = FeedServer(folder / "feed.sock", b"", folder / "stream.bin")
        rpc = ("--rpc", self.node.address) if node else ()
        self.writer = WriterProcess(
            folder,
            name=name,
            socket=self.server.socket_path,
            states=self.states,
            dialect="exex",
            more=(*rpc, "--gap-timeout", "20", "--log-level", "debug", *more),
        )
        self.reader = ReaderProcess(folder, name)

    def mine(self, count: int = 1) -> bytes:
        """Blocks with events of every kind in the long run; the frames of them."""
        data = self.producer.mined([self.universe.mine() for _ in range(count)])
        self.node.chain = self.universe.chain
        return data

    def reorg(self, depth: int, count: int) -> bytes:
        old = self.universe.cut(depth)
        new = [self.universe.mine() for _ in range(count)]
        self.node.chain = self.universe.chain
        return self.producer.reorganised(old, new, self.universe.tip)

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), 20_000):
            self.server.send_bytes(data[start : start + 20_000])

    def start(self, blocks: int = 3) -> None:
        self.server.await_clients(1)
        self.send(self.mine(blocks))
        self.reader.wait_live()
        self.equal()
        self.know(self.universe.tip.number)

    def know(self, number: int) -> None:
        """Wait until the writer knows the hash of block `number`."""
        self.wait_log(f"event=hashes_known newest={number}")

    def truth(self) -> dict[str, Any]:
        tip = self.universe.tip
        return {key: tip.state(key) for key in self.universe.protocols}

    def equal(self) -> None:
        """Every pool is live and at the canonical tip."""
        self.reader.expect(self.universe.tip.number, self.truth(), settle=True, seconds=SECONDS)

    def missing(self) -> int:
        """How many blocks the last gap was closed with, without those that came before it: the newest
        may be fetched again, where nothing but its emptiness shows its hash."""
        undone, fetched = re.findall(r"undone=(\d+) fetched=(\d+)", self.log())[-1]
        return int(fetched) - int(undone)

    def log(self) -> str:
        return self.writer.log.read_text(errors="replace")

    def wait_log(self, text: str) -> None:
        limit = time.monotonic() + SECONDS
        while text not in self.log():
            assert time.monotonic() < limit, f"{text!r} is not in\n{self.writer.log_tail()}"
            time.sleep(0.02)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # all of it, whatever one of them has come to
            stack.callback(self.node.close)
            stack.callback(self.server.close)
            stack.push(self.writer)
            stack.push(self.reader)


@pytest.fixture
def stage(tmp_path: Path, arena_name: str) -> Iterator[Stage]:
    found = Stage(tmp_path, arena_name)
    yield found
    found.close()


def test_blocks_missed_while_disconnected_come_from_the_node(stage: Stage) -> None:
    stage.start()
    stage.server.drop()
    stage.mine(7)
    stage.server.await_clients(2)
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()
    assert stage.missing() == 7
    assert stage.log().count("event=scraping") == 1, "nothing was read anew"


@pytest.mark.slow
def test_a_lost_message_inside_a_connection(stage: Stage) -> None:
    stage.start()
    frames = frames_of(stage.mine(4))
    stage.send(b"".join(frames[:3] + frames[4:]))
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()
    assert stage.log().count("event=scraping") == 1


@pytest.mark.slow
def test_a_block_number_that_jumps(stage: Stage) -> None:
    stage.start()
    before = stage.producer.next_seq
    stage.mine(3)
    stage.producer.next_seq = before  # no trace of them in the numbering
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()
    assert stage.missing() == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "count"),
    [(3, 5), (1, 1), (8, 9)],
)
def test_a_reorg_inside_the_gap_leads_to_the_true_state(
    stage: Stage, depth: int, count: int
) -> None:
    stage.start(blocks=10)
    stage.server.drop()
    stage.reorg(depth, count)
    stage.server.await_clients(2)
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()
    assert f"undone={depth}" in stage.log()
    stage.send(stage.reorg(2, 2))
    stage.equal()


@pytest.mark.slow
def test_a_connection_lost_inside_a_reorg(stage: Stage) -> None:
    stage.start(blocks=8)
    frames = frames_of(stage.reorg(4, 5))
    stage.send(b"".join(frames[: len(frames) // 2]))
    stage.server.drop()
    stage.server.await_clients(2)
    stage.send(b"".join(frames[len(frames) // 2 :]))
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()


@pytest.mark.slow
def test_a_node_that_gives_few_blocks_at_once(stage: Stage) -> None:
    stage.start()
    stage.node.most_blocks = 2
    stage.server.drop()
    stage.mine(40)
    stage.server.await_clients(2)
    stage.node.ranges.clear()
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()
    assert all(high - low < 2 for low, high in stage.node.ranges)


@pytest.mark.slow
def test_a_node_that_is_down_for_a_while(stage: Stage) -> None:
    stage.start()
    stage.node.is_down = True
    stage.server.drop()
    stage.mine(5)
    stage.server.await_clients(2)
    stage.send(stage.mine())
    stage.wait_log("event=gap ")
    time.sleep(0.5)
    assert not stage.reader.ask(do="live", seconds=0.1)["ok"], "a gap is open"
    stage.node.is_down = False
    stage.wait_log("event=gap_closed")
    stage.equal()


@pytest.mark.slow
def test_a_node_without_these_blocks_means_reading_anew(stage: Stage) -> None:
    stage.start()
    stage.server.drop()
    stage.mine(5)
    stage.server.await_clients(2)
    stage.node.chain = stage.universe.chain[:1]
    stage.send(stage.producer.mined([stage.universe.mine()]))
    stage.wait_log("event=gap_not_closed")
    stage.wait_log("error=CoverageError")
    assert not stage.reader.ask(do="live", seconds=0.1)["ok"], "the file is too old"
    write_states(stage.states, stage.universe, stage.universe.tip)
    stage.equal()
    assert stage.log().count("event=scraping") > 1


@pytest.mark.slow
def test_without_a_node_pools_are_read_anew(tmp_path: Path, arena_name: str) -> None:
    stage = Stage(tmp_path, arena_name, "--scrape-timeout", "1", node=False)
    try:
        stage.server.await_clients(1)
        stage.send(stage.mine(3))
        stage.reader.wait_live()
        stage.server.drop()
        stage.mine(5)
        stage.server.await_clients(2)
        stage.send(stage.mine())
        stage.wait_log("error=CoverageError")
        assert not stage.reader.ask(do="live", seconds=0.1)["ok"]
        write_states(stage.states, stage.universe, stage.universe.tip)
        stage.equal()
        assert "event=gap_closed" not in stage.log()
    finally:
        stage.close()


def lose_messages(stage: Stage, reorg: bytes) -> None:
    """The stream_seq jumps."""


def lose_the_connection(stage: Stage, reorg: bytes) -> None:
    """And the next one begins behind it."""
    stage.server.drop()
    stage.server.await_clients(2)


def lose_the_connection_in_a_frame(stage: Stage, reorg: bytes) -> None:
    frames = frames_of(reorg)
    stage.send(frames[0] + frames[1][:-1])
    stage.server.drop()
    stage.server.await_clients(2)


def send_garbage(stage: Stage, reorg: bytes) -> None:
    """A frame that is none, in place of the reorg."""
    stage.send((8).to_bytes(4, "little") + b"\xff" * 8)
    stage.server.await_clients(2)


def lose_the_reverts(stage: Stage, reorg: bytes) -> None:
    """Without a trace in the numbering: the new blocks come as if they were the first."""
    stage.producer.next_seq -= len(frames_of(reorg))


@pytest.mark.slow
@pytest.mark.parametrize(
    "lose",
    [
        lose_messages,
        lose_the_reverts,
        pytest.param(lose_the_connection, marks=pytest.mark.slow),
        pytest.param(lose_the_connection_in_a_frame, marks=pytest.mark.slow),
        pytest.param(send_garbage, marks=pytest.mark.slow),
    ],
)
def test_a_state_file_from_before_a_reorg_that_was_lost_is_not_used(
    tmp_path: Path, arena_name: str, lose: Callable[[Stage, bytes], None]
) -> None:
    """The file holds the newest block there was; its branch ended where nobody heard of it."""
    stage = Stage(tmp_path, arena_name, "--scrape-timeout", "1", node=False)
    try:
        stage.server.await_clients(1)
        stage.send(stage.mine(6))
        stage.reader.wait_live()
        write_states(stage.states, stage.universe, stage.universe.tip)
        lose(stage, stage.reorg(3, 4))
        for _ in range(3):  # first whole block of the stream: no newer than the file's plus one
            stage.send(stage.mine())
        stage.wait_log("before the stream lost blocks")
        assert not stage.reader.ask(do="live", seconds=0.5)["ok"]
        write_states(stage.states, stage.universe, stage.universe.tip)
        stage.equal()
        stage.send(stage.mine(2))
        stage.equal()
    finally:
        stage.close()


@pytest.mark.slow
def test_a_node_of_another_chain_is_refused(tmp_path: Path, arena_name: str) -> None:
    universe = Universe(random.Random(1))
    states = tmp_path / "states.jsonl"
    write_states(states, universe, universe.tip)
    with NodeServer(universe.chain) as node:
        writer = WriterProcess(
            tmp_path,
            name=arena_name,
            socket=tmp_path / "feed.sock",
            states=states,
            dialect="exex",
            more=("--rpc", node.address, "--chain-id", "5"),
        )
        assert writer.process.wait(SECONDS) == 2
        assert "ChainMismatch" in writer.log_tail()
