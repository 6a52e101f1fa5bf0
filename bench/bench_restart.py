"""How soon is a killed writer live again, with 100 blocks missing?

A real node with 300 pools; arena-writer with its own bridge is killed with kill -9, the chain goes on for
100 blocks of six trades, the writer is started again. Timed: from starting the process until its arena
is live at the node's head: from the segment it left, from a checkpoint (the segment is spoiled), and, as
the baseline, cold. Importing Python and the packages is part of it. A block every 100 ms comes meanwhile.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from chains.market import Market
from chains.process import Node
from harness import Report, Row, arguments, percentile
from roles.processes import WriterProcess, remove_segments

import arena

DEADLINE_S = 120.0
MARKS = {"segment": "event=segment_found", "checkpoint": "event=checkpoint_found", "cold": ""}


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    each, times, missing = (4, 1, 10) if options.smoke else (75, 7, 100)
    name = f"psa-bench-restart-{os.getpid()}"
    took: dict[str, list[float]] = {source: [] for source in MARKS}
    with tempfile.TemporaryDirectory(prefix="psa-") as temporary:
        folder = Path(temporary)
        with Node(folder) as node:
            market = Market(node, seed=10)
            market.create_pools(v2=each, v3=each, v4=each, cake=each)
            path = folder / "pools.json"
            path.write_text(json.dumps(market.pool_list()))
            more = ("--node", node.ws, "--pools", str(path), "--checkpoint-every", "5")

            def start(*options: str) -> tuple[WriterProcess, float]:
                """A writer, and the seconds until its arena was live."""
                began = time.monotonic()
                writer = WriterProcess(folder, name=name, more=(*more, *options))
                while True:
                    log = writer.log.read_text()[mark:]
                    if "event=gap_closed" in log or "event=live " in log:
                        break
                    assert time.monotonic() < began + DEADLINE_S, writer.log_tail()
                    assert writer.process.poll() is None, writer.log_tail()
                    market.step(2)
                    time.sleep(0.1)
                return writer, time.monotonic() - began

            mark = 0
            writer, _ = start()
            for _ in range(times):
                for source, text in MARKS.items():
                    mark = writer.log.stat().st_size
                    while (
                        source == "checkpoint"
                        and "event=checkpoint " not in (writer.log.read_text()[mark:])
                    ):
                        market.step(6)
                        time.sleep(0.05)
                    time.sleep(0.5)  # the newest hash is known
                    writer.process.kill()
                    writer.process.wait()
                    if source == "checkpoint":
                        with arena.attach(name, require_writer=False) as reading:
                            segment = Path(f"/dev/shm/{name}.{reading.generation}")
                        with segment.open("r+b") as shared:
                            shared.write(bytes(8))
                    for _ in range(missing):
                        market.step(6)
                    mark = writer.log.stat().st_size
                    writer, seconds = start(*(("--cold-start",) if source == "cold" else ()))
                    took[source].append(seconds)
                    assert text in writer.log.read_text()[mark:], writer.log_tail()
            assert writer.stop() == 0
            remove_segments(name)
    base = report.add(Row("cold", 1, took.pop("cold")))
    for source, seconds in took.items():
        row = report.add(Row(f"from a {source}, {missing} blocks missing", 1, seconds))
        row.ratio = percentile(row.samples, 0.5) / percentile(base.samples, 0.5)
        row.baseline = base.name
    report.show(options)


if __name__ == "__main__":
    main()
