"""From the socket to state: how many events a second go through the whole writer?

A real arena-writer process reads a real Unix socket: from the first byte sent until a reader sees the last
block; frames in 256 KiB writes, and one write a frame as the producer does. Baseline: a process that only
drains the same bytes. bench_latency.py is about the time of one block.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import Report, Row, against, arguments
from live import hex_keys, random_keys, renumber, write_states
from workload import blocks, encode

import arena
from arena.native import lib

DRAIN = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
left, buffer = int(sys.argv[2]), bytearray(262144)
while left:
    left -= sock.recv_into(buffer)
print("done", flush=True)
"""


def send(connection: socket.socket, data: bytes, piece: int | None) -> None:
    """In writes of `piece` bytes, or one write a frame."""
    if piece is not None:
        for start in range(0, len(data), piece):
            connection.sendall(data[start : start + piece])
        return
    view, position = memoryview(data), 0
    while position < len(data):
        end = position + 4 + int.from_bytes(view[position : position + 4], "little")
        connection.sendall(view[position:end])
        position = end


def drained(path: Path, server: socket.socket, data: bytes) -> float:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", DRAIN, str(path), str(len(data))], stdout=subprocess.PIPE
    )
    connection, _ = server.accept()
    begin = time.perf_counter()
    send(connection, data, 256 * 1024)
    assert process.stdout is not None
    process.stdout.readline()
    elapsed = time.perf_counter() - begin
    connection.close()
    process.communicate()
    return elapsed


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    pool_count, count = (100, 3_000) if options.smoke else (5_000, 150_000)
    raw = random_keys(pool_count)
    name = f"psa-bench-feed-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        path, states = Path(folder) / "feed.sock", Path(folder) / "states.jsonl"
        write_states(states, hex_keys(raw))
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
        first = 2
        streams = []
        for seed in range(2 * options.repeat + 1):
            events = 300 if seed == 0 else count  # the first one only brings the writer live
            streams.append(
                encode(blocks(raw[:-3], events, 0.1, first=first, seed=seed), lib.PSA_DIALECT_EXEX)
            )
            first += events // 300
        streams = renumber(streams)
        drain = [drained(path, server, streams[1]) for _ in range(options.repeat)]
        writer = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "arena-writer"),
                "run",
                "--name",
                name,
                "--socket",
                str(path),
                "--states",
                str(states),
                "--tick-bytes",
                str(256 << 20),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            connection, _ = server.accept()
            connection.sendall(streams[0])
            with arena.attach(name, timeout=60) as pools:
                head = 2
                while pools.phase != "live" or pools.head_block < head:
                    assert writer.poll() is None, writer.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
                    time.sleep(0.01)
                for label, piece, part in (
                    ("256 KiB writes", 256 * 1024, streams[1 : 1 + options.repeat]),
                    ("one write a frame", None, streams[1 + options.repeat :]),
                ):
                    samples = []
                    for stream in part:
                        head += count // 300
                        begin = time.perf_counter()
                        sender = threading.Thread(target=send, args=(connection, stream, piece))
                        sender.start()
                        seen: int | None = pools.head_block
                        while seen is not None and seen < head:
                            seen = pools.wait_block(after=seen, timeout=30)
                        assert seen is not None
                        samples.append(time.perf_counter() - begin)
                        sender.join()
                    row = report.add(Row(f"socket to state, {label}", count, samples))
                    row.target = ">= 4 M events/s" if piece else ""
                    against(row, Row("drain", count, drain))
                report.add(Row("the same bytes only drained", count, drain))
                assert pools.phase == "live"
                assert pools.counters["events_applied"] >= count * 2 * options.repeat * 0.99
        finally:
            writer.terminate()
            writer.communicate()
            server.close()
    report.show(options)


if __name__ == "__main__":
    main()
