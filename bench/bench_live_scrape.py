"""How much later does a reader see a live block while the writer reads pools?

A writer process follows a real socket, a reader process waits for blocks; timed is from the moment a block
of three updates was due until the reader has a quote on it (as in bench_latency.py). Meanwhile the writer
does nothing else, or reads pools without pause in a thread beside the feed thread: from a Reth database
through its reader processes, or from a node's JSON-RPC. Baseline: the same writer with nothing else to do.
Two cores are shared by writer, reader, producer and what is read from: how late the producer itself woke up
is in the samples, and shown, because the tail is mostly waiting for a core.
"""

import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench_rethdb import build
from chains.market import Market
from chains.process import Node
from harness import Report, Row, arguments, percentile
from live import hex_keys, latency, random_keys, renumber, write_states
from workload import blocks, encode

import arena
from arena.native import lib
from arena.writer.lists.pool_list import parse_pool_list

WRITER = """
import asyncio, pickle, sys, threading, time
from pathlib import Path
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.statefile import StateFile
from arena.writer.service.service import Service
from arena.writer.service.settings import Settings

name, path, states, source, targets = sys.argv[1:]

def read_without_pause():
    wanted = pickle.loads(Path(targets).read_bytes())
    if source.startswith("http"):
        scraper = RpcScraper(JsonRpc(source), wanted)
    else:
        scraper = RethDB(source, wanted)
    keys = [target.spec.key for target in wanted]
    while True:
        begin = time.monotonic()
        found = scraper.read_pools(keys)
        assert not found.invalid, found.invalid[0]
        print(f"{len(found.pools) / (time.monotonic() - begin):.0f}", flush=True)

if source:
    threading.Thread(target=read_without_pause, daemon=True).start()
asyncio.run(Service(Settings(name=name, socket=Path(path)), StateFile(Path(states))).run())
"""


def measure(folder: Path, label: str, source: str, targets: Path, paced: int) -> tuple[Row, str]:
    """The row of one case, and how fast pools were read meanwhile."""
    raw = random_keys(20)
    path, states = folder / "feed.sock", folder / "states.jsonl"
    path.unlink(missing_ok=True)
    write_states(states, hex_keys(raw))
    name = f"psa-bench-live-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        writer = subprocess.Popen(
            [sys.executable, "-P", "-c", WRITER, name, path, states, source, targets],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            connection, _ = server.accept()
            first = blocks(raw[:-3], 300, 0.1, first=2, seed=0)
            connection.sendall(renumber([encode(first, lib.PSA_DIALECT_EXEX)])[0])
            with arena.attach(name, timeout=60) as pools:
                while pools.phase != "live":
                    assert writer.poll() is None, writer.stderr.read()[-2000:]  # type: ignore[union-attr]
                    time.sleep(0.01)
                if source:  # the first read fills caches
                    assert writer.stdout is not None
                    writer.stdout.readline()
                row = latency(connection, name, raw, pools.head_block, paced)
        finally:
            writer.terminate()
            rates, _ = writer.communicate()
    row.name = label
    read = [float(rate) for rate in rates.split()]
    return row, f"{percentile(read, 0.5):.0f} pools/s" if read else "-"


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    paced, scale, count = (200, 0.01, 2) if options.smoke else (3_000, 0.2, 20)
    folder = Path(mkdtemp(prefix="psa-bench-"))
    try:
        targets = folder / "targets.pickle"
        targets.write_bytes(pickle.dumps(build(folder / "reth", scale)))
        (folder / "node").mkdir()
        with Node(folder / "node") as node:
            market = Market(node, seed=3)
            market.create_pools(v2=count, v3=count, v4=count, cake=count)
            listed = parse_pool_list(market.pool_list(), name="pools").targets
            by_node = folder / "node.pickle"
            by_node.write_bytes(pickle.dumps(listed))
            rows = []
            for label, source, wanted in (
                ("nothing else to do", "", targets),
                ("reading a Reth database", str(folder / "reth"), targets),
                ("reading through JSON-RPC", node.http, by_node),
            ):
                row, rate = measure(folder, label, source, wanted, paced)
                row.note = f"{rate} read meanwhile, {row.note}" if source else row.note
                rows.append(report.add(row))
        for row in rows[1:]:
            row.ratio = percentile(row.samples, 0.5) / percentile(rows[0].samples, 0.5)
            row.baseline = rows[0].name
    finally:
        shutil.rmtree(folder)
    report.show(options)


if __name__ == "__main__":
    main()
