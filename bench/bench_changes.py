"""Does adding ten pools while 300 are live delay the others' events?

A real node makes a block of ten trades every 60 ms; arena-writer follows it with its own bridge, a reader
process waits for each block. Timed: the node's head heard by a subscriber of the bench's own until the
reader returns. Baseline: the same run before the ten pools are listed; then from the moment they are
listed until all ten are live, over and over with fresh pools. Printed beside it: how long an added pool
takes from being listed to live, most of which is settling (two blocks) and the look at the file.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench_bridge import READER, hear_heads
from chains.market import Market
from chains.process import Node
from harness import Report, Row, arguments, percentile
from roles.processes import WriterProcess

import arena

BLOCK_S = 0.06
DEADLINE_S = 60.0


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    each, rounds, before = (4, 1, 20) if options.smoke else (75, 10, 300)
    name = f"psa-bench-changes-{os.getpid()}"
    heads: dict[int, int] = {}
    spans: list[tuple[int, int]] = []  # blocks while pools were added
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="psa-") as temporary:
        folder = Path(temporary)
        with Node(folder) as node:
            market = Market(node, seed=9)
            market.create_pools(v2=each, v3=each, v4=each, cake=each)
            fresh = [market.create_pools(v2=3, v3=3, v4=2, cake=2) for _ in range(rounds)]
            listed = [pool.key for pool in market.pools]
            late = [pool.key for pools in fresh for pool in pools]
            listed = [key for key in listed if key not in late]
            path = folder / "pools.json"
            path.write_text(json.dumps(market.pool_list(listed)))
            more = ("--node", node.ws, "--pools", str(path), "--audit-every", "0")
            with (
                WriterProcess(folder, name=name, more=more) as writer,
                arena.attach(name, timeout=60) as reading,
            ):

                def block() -> None:
                    began = time.monotonic()
                    market.trade(10)
                    node.call("evm_mine")
                    time.sleep(max(0.0, BLOCK_S - (time.monotonic() - began)))

                while reading.phase != "live":
                    block()
                ready = threading.Event()
                threading.Thread(
                    target=hear_heads, args=(node.ws, heads, ready), daemon=True
                ).start()
                ready.wait()
                first = node.block()["number"]
                reader = subprocess.Popen(
                    [sys.executable, "-P", "-c", READER, name, str(first), str(1 << 40)],
                    stdout=subprocess.PIPE,
                    stdin=subprocess.DEVNULL,
                    text=True,
                )
                assert reader.stdout is not None
                reader.stdout.readline()
                for _ in range(before):
                    block()
                for pools in fresh:
                    keys = [pool.key for pool in pools]
                    listed += keys
                    start, began = node.block()["number"], time.monotonic()
                    new = path.with_suffix(".new")
                    new.write_text(json.dumps(market.pool_list(listed)))
                    new.replace(path)
                    while not all(key in reading and reading[key].status == "live" for key in keys):
                        assert time.monotonic() < began + DEADLINE_S, writer.log_tail()
                        block()
                    took.append(time.monotonic() - began)
                    spans.append((start, node.block()["number"]))
                last = node.block()["number"]
                reader.send_signal(2)
                seen = dict(json.loads(reader.communicate(timeout=60)[0]))
    quiet = [n for n in range(first + 1, first + before + 1) if n in heads and n in seen]
    busy = [n for low, high in spans for n in range(low + 1, high + 1) if n in heads and n in seen]
    assert len(quiet) > before / 2, f"{len(quiet)} of {before} blocks came"
    assert len(busy) > (last - first - before) / 2

    def delays(numbers: list[int]) -> list[float]:
        return [max(0, seen[n] - heads[n]) / 1e9 for n in numbers]

    base = report.add(Row(f"block visible, {4 * each} pools live", 1, delays(quiet)))
    row = report.add(Row("block visible while ten are added", 1, delays(busy)))
    row.ratio = percentile(row.samples, 0.5) / percentile(base.samples, 0.5)
    row.baseline = base.name
    report.add(Row("ten pools listed until live", 1, took))
    report.show(options)


if __name__ == "__main__":
    main()
