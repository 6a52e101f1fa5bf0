"""From the socket to state: events a second through the whole writer, and the latency of one block.

A real arena-writer process reads a real Unix socket. Throughput: from the first byte sent until a reader sees
the last block; frames in 256 KiB writes, and one write a frame as the producer does. Latency: blocks of
three updates at a fixed pace; from the moment a block was due until a waiting reader process has a quote
on the new state of a pool. Baseline of throughput: a process that only drains the same bytes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import Report, Row, against, arguments, percentile
from workload import blocks, encode, symmetric_ticks

import arena
from arena.native import lib

READER = """
import json, sys, time
import arena
with arena.attach(sys.argv[1], timeout=30) as pools:
    pool = pools[sys.argv[2]]
    seen, after = [], pools.head_block
    print("ready", flush=True)
    while after < int(sys.argv[3]):
        after = pools.wait_block(after=after, timeout=30)
        pool.quote_exact_in(10**15, zero_for_one=True)
        seen.append((after, time.monotonic_ns()))
print(json.dumps(seen), flush=True)
"""

DRAIN = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
left, buffer = int(sys.argv[2]), bytearray(262144)
while left:
    left -= sock.recv_into(buffer)
print("done", flush=True)
"""


def write_states(path: Path, keys: "list[str]") -> None:
    rows, liquidity = symmetric_ticks(60)
    token = {"address": "0x" + "11" * 20, "decimals": 18, "symbol": "T"}
    other = {"address": "0x" + "22" * 20, "decimals": 18, "symbol": "U"}
    with path.open("w") as out:
        for key in keys:
            row = {
                "pool": key,
                "protocol": "uniswap_v3",
                "block": 1,
                "token0": token,
                "token1": other,
                "fee_pips": 3000,
                "tick_spacing": 10,
                "sqrt_price_x96": str(1 << 96),
                "tick": 0,
                "liquidity": str(liquidity),
                "ticks": [[tick, str(gross), str(net)] for tick, gross, net in rows],
            }
            out.write(json.dumps(row) + "\n")


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
    pool_count, count, paced = (100, 3_000, 50) if options.smoke else (5_000, 150_000, 2_000)
    import numpy as np

    raw = np.random.default_rng(5).integers(0, 256, (pool_count, 32), dtype="u1")
    raw[:, 20:] = 0
    keys = ["0x" + key[:20].tobytes().hex() for key in raw]
    name = f"psa-bench-feed-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        path, states = Path(folder) / "feed.sock", Path(folder) / "states.jsonl"
        write_states(states, keys)
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
                report.add(latency(connection, pools, name, keys[-1], raw, head, paced))
                assert pools.phase == "live"
                assert pools.counters["events_applied"] >= count * 2 * options.repeat * 0.99
        finally:
            writer.terminate()
            writer.communicate()
            server.close()
    report.show(options)


SEQUENCE = [1]


def renumber(streams: list[bytes]) -> list[bytes]:
    """Give the frames of all streams consecutive stream_seq values."""
    result = []
    for stream in streams:
        data = bytearray(stream)
        position = 0
        while position < len(data):
            size = int.from_bytes(data[position : position + 4], "little")
            data[position + 8 : position + 16] = SEQUENCE[0].to_bytes(8, "little")
            SEQUENCE[0] += 1
            position += 4 + size
        result.append(bytes(data))
    return result


def latency(
    connection: socket.socket,
    pools: arena.Arena,
    name: str,
    key: str,
    raw: object,
    head: int,
    paced: int,
) -> Row:
    import numpy as np

    # The last three pools are kept out of the throughput streams: their liquidity is known.
    events = blocks(np.asarray(raw)[-3:], 300 * paced, 0.0, first=head + 1, seed=99)
    events = events.reshape(paced, -1)[:, [0, 1, 2, 3, -1]].copy()
    events["tick"] = 0
    events["amount"][:, 1:4, 0] = symmetric_ticks(60)[1]
    events["words"][:, 1:4, 0] = np.arange(paced)[:, None]
    events["words"][:, -1, 0] = 3
    frames = [
        renumber([encode(np.ascontiguousarray(block), lib.PSA_DIALECT_EXEX)])[0] for block in events
    ]
    reader = subprocess.Popen(
        [sys.executable, "-P", "-c", READER, name, key, str(head + paced)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline().strip() == "ready"
    time.sleep(0.2)
    due, late, start = {}, [], time.monotonic_ns()
    for index, frame in enumerate(frames):
        moment = start + index * 2_000_000
        while (now := time.monotonic_ns()) < moment:
            time.sleep(max(0, (moment - now - 200_000)) / 1e9)
        due[head + 1 + index] = moment
        late.append((time.monotonic_ns() - moment) / 1e6)
        connection.sendall(frame)
    seen = json.loads(reader.stdout.read())
    reader.wait()
    first_seen = dict(seen)
    samples = []
    for block, moment in due.items():
        at = min((when for number, when in first_seen.items() if number >= block), default=None)
        assert at is not None
        samples.append((at - moment) / 1e9)
    row = Row("block due to a waiting reader's quote on it", 1, samples)
    row.target = "p50 <= 60 us, p99 <= 300 us"
    # What the machine does to a process that only sleeps until the next block is due.
    row.note = f"sent {percentile(late, 0.5):.2f} ms late, p99 {percentile(late, 0.99):.1f} ms"
    return row


if __name__ == "__main__":
    main()
