"""How soon after the node's new head does a reader see its state, and whose share is it?

A real node is told to make a block of ten trades; arena-bridge follows it over WebSocket, arena-writer
reads the bridge's socket, a reader process waits for the block. Timed, in one clock: a subscriber of the
bench's own hears of the head (nobody can know earlier), the frames arrive at a plain client of the bridge
(the bridge's share), the reader returns from wait_block (the writer's share). Excluded: making the block.
Baseline: asking the node for the block and its logs, which cannot be left out.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import aiohttp
from chains.market import Market
from chains.process import Client, Node
from harness import Report, Row, arguments, percentile
from roles.processes import BridgeProcess, WriterProcess

import arena

READER = """
import json, signal, sys, time
import arena
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
seen, after = [], int(sys.argv[2])
with arena.attach(sys.argv[1], timeout=30) as pools:
    print("ready", flush=True)
    try:
        while after < int(sys.argv[3]):
            after = int(pools.wait_block(after=after, timeout=60))
            seen.append((after, time.monotonic_ns()))
    except KeyboardInterrupt:
        pass
print(json.dumps(seen), flush=True)
"""


def hear_heads(address: str, heard: dict[int, int], ready: threading.Event) -> None:
    """Note when the node tells of each head."""

    async def listen() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address) as connection,
        ):
            request = {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}
            await connection.send_json(request)
            await connection.receive()
            ready.set()
            async for message in connection:
                now = time.monotonic_ns()
                heard[int(json.loads(message.data)["params"]["result"]["number"], 16)] = now

    asyncio.run(listen())


def hear_frames(path: Path, heard: dict[int, int]) -> None:
    """Note when each block's EndBlock frame has arrived."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        pending = bytearray()
        while chunk := client.recv(1 << 18):
            now = time.monotonic_ns()
            pending += chunk
            while len(pending) >= 4 and len(pending) >= 4 + int.from_bytes(pending[:4], "little"):
                end = 4 + int.from_bytes(pending[:4], "little")
                if pending[4] == 3:  # EndBlock
                    heard[int.from_bytes(pending[16:24], "little")] = now
                del pending[:end]


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    blocks = 20 if options.smoke else 400
    name = f"psa-bench-bridge-{os.getpid()}"
    heads: dict[int, int] = {}
    frames: dict[int, int] = {}
    asked: list[float] = []
    with tempfile.TemporaryDirectory(prefix="psa-") as temporary:
        folder = Path(temporary)
        with Node(folder) as node:
            market = Market(node, seed=8)
            market.create_pools(v2=10, v3=10, v4=10, cake=10)
            pools = folder / "pools.json"
            pools.write_text(json.dumps(market.pool_list()))
            place = folder / "bridge.sock"
            more = ("--rpc", node.http, "--pools", str(pools))
            with (
                BridgeProcess(folder, node=node.ws, pools=pools, socket=place),
                WriterProcess(folder, name=name, socket=place, more=more),
                arena.attach(name, timeout=30) as reading,
            ):
                while reading.phase != "live":
                    market.step(2)
                    time.sleep(0.05)
                ready = threading.Event()
                threading.Thread(
                    target=hear_heads, args=(node.ws, heads, ready), daemon=True
                ).start()
                threading.Thread(target=hear_frames, args=(place, frames), daemon=True).start()
                ready.wait()
                first = node.block()["number"]
                reader = subprocess.Popen(
                    [sys.executable, "-P", "-c", READER, name, str(first), str(first + blocks)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert reader.stdout is not None
                reader.stdout.readline()
                for _ in range(blocks):
                    market.trade(10)
                    node.call("evm_mine")
                    time.sleep(0.03)
                seen = dict(json.loads(reader.communicate(timeout=60)[0]))
                client = Client(node.port)
                for number in list(heads)[-50:]:
                    begin = time.perf_counter()
                    found = node.block(number)
                    client.call("eth_getLogs", {"blockHash": found["hash"]})
                    asked.append(time.perf_counter() - begin)
                client.close()
    both = [number for number in range(first + 1, first + blocks + 1) if number in frames]
    assert len(both) == blocks, f"{len(both)} of {blocks} blocks came"
    shares = {
        "head heard until frames at a client (bridge)": lambda n: frames[n] - heads[n],
        "frames at a client until a reader returns (writer)": lambda n: seen[n] - frames[n],
        "head heard until a reader returns (both)": lambda n: seen[n] - heads[n],
    }
    base = report.add(Row("asking for a block and its logs", 1, asked))
    for label, share in shares.items():
        # Negative where the bridge's client was scheduled after the reader.
        row = report.add(Row(label, 1, [max(0, share(number)) / 1e9 for number in both]))
        row.ratio = percentile(row.samples, 0.5) / percentile(base.samples, 0.5)
        row.baseline = base.name
    report.show(options)


if __name__ == "__main__":
    main()
