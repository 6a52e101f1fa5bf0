"""The short cut from socket to commit: what it is worth beside the road through Python.

Two arena-writer processes get the same streams in turn, one of them with the short cut left out. Latency:
from the last bytes of a block of three events to the commit that shows it, inside the writer, blocks 2 ms
apart, so that neither road stays in the processor's caches. Throughput: from the first byte sent until a
reader sees the last block, 256 KiB writes, and the processor time the writer spends on it, which a busy
machine changes less. Excluded: the reader and the sender.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bench_feed import renumber, send, write_states
from harness import Report, Row, against, arguments, percentile
from workload import blocks, encode, symmetric_ticks

import arena
from arena.native import lib

# arena-writer by one of the roads; when it ends it says how long each commit took from its bytes on.
WRITER = """
import json, sys, time
from arena.writer.cli.main import writer
from arena.writer.stream.pump import Pump
from arena.writer.stream.socket import Feed
from arena.writer.sync.intake import Intake

samples, received = [], [0]
if sys.argv.pop(1) == "python":
    Intake.is_plain = property(lambda self: False)
    read, apply = Feed._read, Intake._apply

    def _read(self, timeout):
        fault = read(self, timeout)
        received[0] = self.received_ns
        return fault

    def _apply(self, records):
        apply(self, records)
        if not self.arena.native.pending:
            samples.append(time.monotonic_ns() - received[0])

    Feed._read, Intake._apply = _read, _apply
else:
    run = Pump.run

    def _run(self, *arguments, **named):
        batch = run(self, *arguments, **named)
        samples.extend(self.latencies)
        return batch

    Pump.run = _run
out = sys.argv.pop(1)
try:
    writer()
finally:
    with open(out, "w") as file:
        json.dump(samples, file)
"""
ROADS = ("python", "pump")


class Writer:
    """One process, its producer's end of the socket, and a reader."""

    def __init__(self, road: str, folder: Path, states: Path, pool_count: int) -> None:
        self.path, self.out = folder / f"{road}.sock", folder / f"{road}.json"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen()
        name = f"psa-bench-pump-{road}-{os.getpid()}"
        size = str(max(256 << 20, pool_count * 16_000))
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-c", WRITER, road, str(self.out), "run"),
                *("--name", name, "--socket", str(self.path), "--states", str(states)),
                *("--tick-bytes", size),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.connection, _ = self.server.accept()
        self.pools: arena.Arena | None = None
        self.name = name

    def goes_live(self, stream: bytes, head: int) -> None:
        self.connection.sendall(stream)
        self.pools = arena.attach(self.name, timeout=60)
        while self.pools.phase != "live" or self.pools.head_block < head:
            assert self.process.poll() is None, "the writer has ended"
            time.sleep(0.01)

    def until(self, head: int) -> None:
        assert self.pools is not None
        seen: int | None = self.pools.head_block
        while seen is not None and seen < head:
            seen = self.pools.wait_block(after=seen, timeout=30)
        assert seen is not None

    def cpu_s(self) -> float:
        """Processor time of its threads so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def seconds(self, stream: bytes, head: int) -> tuple[float, float]:
        """From the first byte to the last block, and of that the writer's processor time."""
        begin, cpu_s = time.perf_counter(), self.cpu_s()
        sender = threading.Thread(target=send, args=(self.connection, stream, 256 * 1024))
        sender.start()
        self.until(head)
        elapsed = time.perf_counter() - begin
        sender.join()
        time.sleep(0.1)  # what is left to do behind the last commit
        return elapsed, self.cpu_s() - cpu_s

    def end(self) -> list[float]:
        """Stop it; seconds from bytes to commit."""
        self.process.terminate()
        self.process.wait(30)
        self.server.close()
        return [ns / 1e9 for ns in json.loads(self.out.read_text())]


def paced_frames(raw: np.ndarray, head: int, count: int) -> list[bytes]:
    """Blocks of three swaps from `head` + 1 on, of pools that the other streams leave alone."""
    events = blocks(raw[-3:], 300 * count, 0.0, first=head + 1, seed=99)
    events = events.reshape(count, -1)[:, [0, 1, 2, 3, -1]].copy()
    events["tick"] = 0
    events["amount"][:, 1:4, 0] = symmetric_ticks(60)[1]
    events["words"][:, 1:4, 0] = np.arange(count)[:, None]
    events["words"][:, -1, 0] = 3
    return [renumber([encode(np.ascontiguousarray(e), lib.PSA_DIALECT_EXEX)])[0] for e in events]


def measure(options: argparse.Namespace, report: Report) -> None:
    pool_count, count, paced = (100, 3_000, 50) if options.smoke else (5_000, 150_000, 2_000)
    raw = np.random.default_rng(5).integers(0, 256, (pool_count, 32), dtype="u1")
    raw[:, 20:] = 0
    first, streams = 2, []
    for seed in range(options.repeat + 1):
        events = 300 if seed == 0 else count  # the first one only brings the writers live
        kept = blocks(raw[:-3], events, 0.1, first=first, seed=seed)
        streams.append(encode(kept, lib.PSA_DIALECT_EXEX))
        first += events // 300
    streams = renumber(streams)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_states(folder / "states.jsonl", ["0x" + key[:20].tobytes().hex() for key in raw])
        writers = [Writer(road, folder, folder / "states.jsonl", pool_count) for road in ROADS]
        took: list[list[tuple[float, float]]] = [[], []]
        head = 2
        try:
            for writer in writers:
                writer.goes_live(streams[0], head)
            for stream in streams[1:]:
                head += count // 300
                for writer, seconds in zip(writers, took, strict=True):
                    seconds.append(writer.seconds(stream, head))
            for number, frames in enumerate(paced_frames(raw, head, paced), head + 1):
                for writer in writers:
                    writer.connection.sendall(frames)
                    time.sleep(0.002)
                    writer.until(number)
        finally:
            ends = [writer.end() for writer in writers]
    for what, index in (("socket to state", 0), ("writer's processor time of it", 1)):
        slow, fast = (
            Row(f"{what}, {road}", count, [each[index] for each in pairs])
            for road, pairs in zip(ROADS, took, strict=True)
        )
        against(report.add(fast), report.add(slow))
        fast.target = "<= 0.62 x"
    slow, fast = (
        Row(f"bytes to commit, block of 3, {road}", 1, samples[-paced:])
        for road, samples in zip(ROADS, ends, strict=True)
    )
    report.add(slow)
    report.add(fast).target = "p50 <= 12 us"
    fast.ratio = percentile(fast.samples, 0.5) / percentile(slow.samples, 0.5)


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    measure(options, report)
    report.show(options)


if __name__ == "__main__":
    main()
