"""What arena-bridge sends, read with nothing but the rules of the wire, against the node's own logs.

Method: real contracts and a trader on a real node; clients are plain sockets. Expected frames are encoded
by tests/chains/producer.py from the node's logs, orphaned blocks as they were when they happened.
"""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.history import frames_of
from chains.market import Market, traded_market
from chains.producer import NodeProducer
from roles.processes import BridgeProcess

pytestmark = pytest.mark.node

SECONDS = 60.0
BLOCKS = 300


class Client:
    """Collects what the socket brings."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self.data = bytearray()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := self._socket.recv(1 << 16):
            self.data += chunk
        self.ended.set()

    def wait(self, nbytes: int) -> bytes:
        limit = time.monotonic() + SECONDS
        while len(self.data) < nbytes:
            assert time.monotonic() < limit, f"{len(self.data)} of {nbytes} bytes came"
            time.sleep(0.005)
        return bytes(self.data)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the bridge has ended it
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._socket.close()


def numbers(data: bytes) -> list[int]:
    """stream_seq of every frame."""
    return [int.from_bytes(frame[8:16], "little") for frame in frames_of(data)]


def without_numbers(data: bytes) -> list[bytes]:
    return [frame[:8] + frame[16:] for frame in frames_of(data)]


def same(client: Client, expected: bytes | bytearray) -> None:
    """The client has got exactly these frames, whatever their numbers."""
    found = client.wait(len(expected))
    for index, (ours, theirs) in enumerate(
        zip(without_numbers(found), without_numbers(bytes(expected)), strict=True)
    ):
        assert ours == theirs, f"frame {index} differs"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with traded_market(tmp_path, seed=31, each=10) as made:
        yield made


@pytest.fixture
def pools(market: Market, tmp_path: Path) -> Path:
    path = tmp_path / "pools.json"
    path.write_text(json.dumps(market.pool_list()))
    return path


def start(
    market: Market, folder: Path, pools: Path, *more: str, node: str | None = None
) -> tuple[BridgeProcess, NodeProducer]:
    bridge = BridgeProcess(
        folder,
        node=node or market.node.http,
        pools=pools,
        socket=folder / "bridge.sock",
        more=("--log-level", "debug", *more),
    )
    head = market.node.block()
    bridge.wait_log(f"event=sent block={head['number']} ")
    producer = NodeProducer(market, is_bridge="exex" not in more)
    producer.follow()  # the newest block, which was sent before anybody listened
    return bridge, producer


@contextlib.contextmanager
def listening(
    market: Market, folder: Path, pools: Path, *more: str, node: str | None = None
) -> Iterator[tuple[BridgeProcess, NodeProducer, Client]]:
    """A bridge that knows of its first client."""
    bridge, producer = start(market, folder, pools, *more, node=node)
    with bridge:
        client = Client(bridge.socket)
        bridge.wait_log("event=client_connected clients=1")
        yield bridge, producer, client
        client.close()


def stop_and_reorg(market: Market, bridge: BridgeProcess, turn: int) -> None:
    """A reorg of which the bridge sees the end only, so that it is one envelope."""
    depth = 1 + turn % 10
    bridge.process.send_signal(signal.SIGSTOP)
    if turn % 2:
        market.reorg(depth, method="anvil_reorg", operations=4 * depth)
    else:
        market.reorg(depth, method="evm_revert", operations=0)
        for _ in range(1 + turn % 4):
            market.step(8)
    bridge.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("dialect", ["bridge", "exex"])
def test_300_blocks_with_reorgs_are_what_the_logs_encode_to(
    dialect: str, market: Market, tmp_path: Path, pools: Path
) -> None:
    more = ("--poll", "0.01", "--dialect", dialect)
    bridge, producer = start(market, tmp_path, pools, *more)
    with bridge:
        first, second = Client(bridge.socket), Client(bridge.socket)
        bridge.wait_log("event=client_connected clients=2")
        expected = bytearray()
        blocks = reorgs = 0
        while blocks < BLOCKS:
            market.keep_snapshot()
            if blocks % 12 == 11:
                same(first, expected)
                before = market.node.block()["number"]
                stop_and_reorg(market, bridge, reorgs)
                reorgs += 1
                blocks += max(1, market.node.block()["number"] - before)
                expected += producer.follow()
                first.wait(len(expected))  # a block more would be part of the same envelope
                continue
            market.step(blocks % 9)  # empty blocks too
            blocks += 1
            expected += producer.follow()
            if blocks % 10 == 0:
                first.wait(len(expected))
        found, other = first.wait(len(expected)), second.wait(len(expected))
        assert reorgs >= 20
        assert without_numbers(found) == without_numbers(bytes(expected))
        assert other == found
        sent = numbers(found)
        assert sent == list(range(sent[0], sent[0] + len(sent)))
        print(f"{blocks} blocks, {reorgs} reorgs, {len(sent)} frames, {len(found)} bytes")
        first.close()
        second.close()


def test_the_subscription_brings_the_same(market: Market, tmp_path: Path, pools: Path) -> None:
    for transport in ("ws", "ipc"):
        address = str(getattr(market.node, transport))
        bridge, producer = start(market, tmp_path, pools, node=address)
        with bridge:
            client = Client(bridge.socket)
            bridge.wait_log("event=client_connected clients=1")
            expected = bytearray()
            for _ in range(30):
                market.step(6)
                expected += producer.follow()
            same(client, expected)
            client.close()
        bridge.log.unlink()


def test_a_client_that_stops_reading_is_disconnected_and_disturbs_nobody(
    market: Market, tmp_path: Path, pools: Path
) -> None:
    bridge, producer = start(market, tmp_path, pools, "--poll", "0.01", "--client-buffer", "16KiB")
    with bridge:
        reader = Client(bridge.socket)
        deaf = socket.socket(socket.AF_UNIX)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(str(bridge.socket))
        bridge.wait_log("event=client_connected clients=2")
        expected = bytearray()
        limit = time.monotonic() + SECONDS
        while "event=client_too_slow" not in bridge.log.read_text():
            assert time.monotonic() < limit
            market.step(40)
            expected += producer.follow()
            reader.wait(len(expected))
        bridge.wait_log("event=client_left clients=1")
        market.step(10)
        expected += producer.follow()
        same(reader, expected)
        taken = bytearray()
        deaf.settimeout(SECONDS)
        while chunk := deaf.recv(1 << 16):
            taken += chunk
        assert taken, "it was disconnected before it got anything"
        assert bytes(reader.data).startswith(bytes(taken))
        deaf.close()
        reader.close()


def test_a_changed_list_counts_from_the_next_block(
    market: Market, tmp_path: Path, pools: Path
) -> None:
    everything = market.pool_list()
    few = everything[::2]
    pools.write_text(json.dumps(few))
    bridge, producer = start(market, tmp_path, pools, "--poll", "0.01")
    producer.tracked = {entry.get("pool_id", entry["address"]) for entry in few}
    with bridge:
        client = Client(bridge.socket)
        bridge.wait_log("event=client_connected clients=1")
        expected = bytearray()

        def trade() -> None:
            for _ in range(5):
                market.step(10)
                expected.extend(producer.follow())
            same(client, expected)

        trade()
        pools.write_text("[")
        bridge.wait_log("event=pools_kept")
        trade()
        replaced = tmp_path / "next.json"
        replaced.write_text(json.dumps(everything[1::2]))
        replaced.rename(pools)
        bridge.wait_log("event=pools_changed pools=20 added=20 removed=20")
        producer.tracked = {entry.get("pool_id", entry["address"]) for entry in everything[1::2]}
        trade()
        # Blocks from before the change are reverted with the events of the pools of now.
        bridge.process.send_signal(signal.SIGSTOP)
        market.node.call("anvil_rollback", 8)
        market.step(5)
        bridge.process.send_signal(signal.SIGCONT)
        expected += producer.follow()
        same(client, expected)
        client.close()


def test_a_chain_cut_back_is_a_revert_without_new_blocks(
    market: Market, tmp_path: Path, pools: Path
) -> None:
    with listening(market, tmp_path, pools, node=market.node.ws) as (_, producer, client):
        expected = bytearray()
        for _ in range(6):
            market.step(10)
            expected += producer.follow()
        client.wait(len(expected))
        market.reorg(4, method="anvil_rollback", operations=0)
        expected += producer.follow()
        same(client, expected)
        market.step(10)
        expected += producer.follow()
        same(client, expected)


def test_a_chain_that_joins_nothing_sent_means_a_new_connection(
    market: Market, tmp_path: Path, pools: Path
) -> None:
    with listening(market, tmp_path, pools, "--poll", "0.01") as (bridge, producer, client):
        market.step(10)
        same(client, producer.follow())
        market.node.call("anvil_reset")
        for _ in range(3):
            market.node.call("evm_mine")
        assert client.ended.wait(SECONDS), "the client is still connected"
        bridge.wait_log("event=joined_anew")
        again = Client(bridge.socket)
        bridge.wait_log("event=client_left clients=0")
        limit = time.monotonic() + SECONDS
        while not again.data:
            assert time.monotonic() < limit
            market.node.call("evm_mine")
            time.sleep(0.05)
        begin, end = frames_of(bytes(again.data))[:2]
        assert (begin[4], end[4]) == (1, 3)
        assert begin[16:24] == end[16:24]
        again.close()


def test_a_node_that_stays_away_ends_the_connections(
    market: Market, tmp_path: Path, pools: Path
) -> None:
    """Readers are told by the writer whose stream ended; nothing else tells them."""
    with listening(market, tmp_path, pools, node=market.node.ws) as (bridge, producer, client):
        market.step(10)
        same(client, producer.follow())
        market.node.process.send_signal(signal.SIGSTOP)
        try:
            assert client.ended.wait(SECONDS), "the client is still connected"
            bridge.wait_log("event=node_lost")
        finally:
            market.node.process.send_signal(signal.SIGCONT)
        bridge.wait_log("event=client_left clients=0")
        again = Client(bridge.socket)
        bridge.wait_log("event=client_connected clients=1", times=2)
        market.step(10)
        same(again, producer.follow())
        again.close()


def test_the_socket_has_the_rights_asked_for(market: Market, tmp_path: Path, pools: Path) -> None:
    bridge, _ = start(market, tmp_path, pools)
    with bridge:
        assert stat.S_IMODE(bridge.socket.stat().st_mode) == 0o600
        again = run_bridge(market, pools, bridge.socket)
        assert again.returncode == 2
        assert "Connection: another server listens" in again.stderr
    assert not bridge.socket.exists()
    bridge.log.unlink()
    group = os.getgid()
    bridge, _ = start(market, tmp_path, pools, "--mode", "0660", "--group", str(group))
    with bridge:
        found = bridge.socket.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group)


def run_bridge(
    market: Market, pools: Path, path: Path, *more: str, node: str | None = None
) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "arena-bridge")
    options = ["--node", node or market.node.http, "--pools", str(pools), "--socket", str(path)]
    return subprocess.run(
        [program, *options, *more], capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_refusals_name_what_was_found(market: Market, tmp_path: Path, pools: Path) -> None:
    path = tmp_path / "bridge.sock"
    cases: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
        ("ChainMismatch", {}, ("--chain-id", "5")),
        ("RpcUnavailable", {"node": "ws://127.0.0.1:1"}, ()),
        ("ValueError", {"node": "gopher://node"}, ()),
        ("Connection", {}, ("--group", "nobody-has-this-group")),
        ("ValueError", {}, ("--mode", "rw")),
    ]
    for name, change, more in cases:
        done = run_bridge(market, pools, path, *more, **change)
        assert done.returncode == 2, done
        assert f"arena-bridge: {name}: " in done.stderr, done.stderr
    done = run_bridge(market, tmp_path / "none.json", path)
    assert done.returncode == 2
    assert "arena-bridge: PoolListError: " in done.stderr
    assert not path.exists()
