"""A healthy start and a healthy stop log no warning, and a list of dead pools no page of them.

Real processes: on a recording, beside a node through a bridge of its own or the writer's.
"""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chains.market import Market
from chains.process import Node
from doubles.feed_server import FeedServer
from roles.processes import BridgeProcess, ReaderProcess, WriterProcess

import arena.writer.demo

DEMO = Path(arena.writer.demo.__file__).parent
STARTS = 2  # what depends on which thread comes first shows in one of several
SECONDS = 60.0


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if not re.search(r" level=(INFO|DEBUG) ", line)]


@pytest.mark.slow
def test_a_start_and_a_stop_on_a_stream_log_no_warning(tmp_path: Path, arena_name: str) -> None:
    stream = (DEMO / "chain_reorg.exex").read_bytes()
    states = DEMO / "states_reorg.jsonl"
    for _ in range(STARTS):
        with FeedServer(tmp_path / "feed.sock", stream, tmp_path / "stream.bin") as server:
            with WriterProcess(
                tmp_path, name=arena_name, socket=server.socket_path, states=states
            ) as writer:
                server.await_clients(1)
                server.send(0, len(stream))
                with ReaderProcess(tmp_path, arena_name) as reader:
                    reader.wait_live()
            assert complaints(writer.log.read_text()) == []


@pytest.fixture
def market(tmp_path: Path) -> Callable[[Node], Market]:
    def made(node: Node) -> Market:
        found = Market(node, seed=9)
        found.create_pools(v2=2, v3=2, v4=2, cake=2)
        found.step(5)
        return found

    return made


@pytest.mark.node
@pytest.mark.parametrize("transport", ["ws", "ipc", "http"])
def test_a_start_and_a_stop_with_the_writers_own_bridge_log_no_warning(
    transport: str, tmp_path: Path, arena_name: str, market: Callable[[Node], Market]
) -> None:
    with Node(tmp_path) as node:
        trader = market(node)
        pools = tmp_path / "pools.json"
        pools.write_text(json.dumps(trader.pool_list()))
        more = ("--node", str(getattr(node, transport)), "--pools", str(pools))
        for _ in range(STARTS):
            with WriterProcess(tmp_path, name=arena_name, more=more) as writer:
                live_at_a_new_block(trader, tmp_path, arena_name)
            assert complaints(writer.log.read_text()) == []


@pytest.mark.node
def test_a_start_and_a_stop_beside_a_bridge_log_no_warning(
    tmp_path: Path, arena_name: str, market: Callable[[Node], Market]
) -> None:
    with Node(tmp_path) as node:
        trader = market(node)
        pools = tmp_path / "pools.json"
        pools.write_text(json.dumps(trader.pool_list()))
        path = tmp_path / "bridge.sock"
        with BridgeProcess(tmp_path, node=node.ws, pools=pools, socket=path) as bridge:
            for _ in range(STARTS):
                more = ("--rpc", node.http, "--pools", str(pools))
                with WriterProcess(tmp_path, name=arena_name, socket=path, more=more) as writer:
                    live_at_a_new_block(trader, tmp_path, arena_name)
                assert complaints(writer.log.read_text()) == []
        assert complaints(bridge.log.read_text()) == []


@pytest.mark.node
def test_dead_pools_are_five_lines_and_a_count(
    tmp_path: Path, arena_name: str, market: Callable[[Node], Market], rng: random.Random
) -> None:
    """Addresses without a contract, half the list of them not even addresses."""
    with Node(tmp_path) as node:
        trader = market(node)
        dead = [
            {
                "protocol": "uniswap_v2",
                "address": "0x" + rng.randbytes(20 if number % 2 else 3).hex(),
                "token0": "0x" + "11" * 20,
                "token1": "0x" + "22" * 20,
            }
            for number in range(2000)
        ]
        pools = tmp_path / "pools.json"
        pools.write_text(json.dumps([*dead, *trader.pool_list()]))
        more = ("--node", node.ws, "--pools", str(pools))
        with WriterProcess(tmp_path, name=arena_name, more=more) as writer:
            live_at_a_new_block(trader, tmp_path, arena_name)
            time.sleep(2)  # several rounds of reading the dead ones again
        found = complaints(writer.log.read_text())
        assert sum("event=pool_not_live " in line for line in found) == 5
        assert sum("event=pool_refused " in line for line in found) == 5
        (count,) = [line for line in found if "event=pools_not_live " in line]
        assert "error=AccountMissing count=1000 " in count
        (count,) = [line for line in found if "event=pools_refused " in line]
        assert "count=1000 " in count
        assert len(found) == 12


def live_at_a_new_block(trader: Market, folder: Path, name: str) -> None:
    """Blocks come until a reader sees the arena live at one made since."""
    with ReaderProcess(folder, name) as reader:
        block = trader.step(4)["number"]
        limit = time.monotonic() + SECONDS
        while not reader.ask(do="live", block=block, seconds=0.1)["ok"]:
            assert time.monotonic() < limit
            trader.step(4)
