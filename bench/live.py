"""What benchmarks of a live writer share: its pools and its stream, and the latency of one block.

A block's latency is from the moment it was due until a waiting reader process has a quote on the new state
of a pool. Blocks of three updates come every two milliseconds, so that caches have gone cold in between.
"""

import itertools
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from harness import Row, percentile
from workload import blocks, encode, symmetric_ticks

from arena.native import lib

PACE_NS = 2_000_000
SPIN_NS = 200_000  # as floor.c: the sender stays awake for so long before a block is due
TICKS = 60

READER = """
import json, sys, time
import arena
with arena.attach(sys.argv[1], timeout=30) as pools:
    pool = pools[sys.argv[2]]
    seen, after = [], pools.head_block
    print("ready", flush=True)
    while after < int(sys.argv[3]):
        after = pools.wait_block(after=after, timeout=30)
        pool.quote_exact_in(10**15, zero_for_one=True).amount_out
        seen.append((after, time.monotonic_ns()))
print(json.dumps(seen), flush=True)
"""


def random_keys(count: int) -> npt.NDArray[np.uint8]:
    """(count, 32) keys of 20 bytes. The last three are for paced blocks: nothing else changes them."""
    raw = np.random.default_rng(5).integers(0, 256, (count, 32), dtype="u1")
    raw[:, 20:] = 0
    return raw


def hex_keys(raw: npt.NDArray[np.uint8]) -> list[str]:
    return ["0x" + key[:20].tobytes().hex() for key in raw]


def write_states(path: Path, keys: list[str]) -> None:
    rows, liquidity = symmetric_ticks(TICKS)
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


_sequence = itertools.count(1)


def renumber(streams: list[bytes]) -> list[bytes]:
    """The frames of all streams with stream_seq values that follow those of the frames before."""
    result = []
    for stream in streams:
        data = bytearray(stream)
        position = 0
        while position < len(data):
            size = int.from_bytes(data[position : position + 4], "little")
            data[position + 8 : position + 16] = next(_sequence).to_bytes(8, "little")
            position += 4 + size
        result.append(bytes(data))
    return result


def paced_frames(raw: npt.NDArray[np.uint8], first: int, count: int) -> list[bytes]:
    """`count` blocks of one update of each of the last three pools, their liquidity as it is."""
    events = blocks(raw[-3:], 300 * count, 0.0, first=first, seed=99)
    events = events.reshape(count, -1)[:, [0, 1, 2, 3, -1]].copy()
    events["tick"] = 0
    events["amount"][:, 1:4, 0] = symmetric_ticks(TICKS)[1]
    events["words"][:, 1:4, 0] = np.arange(count)[:, None]
    events["words"][:, -1, 0] = 3
    return renumber([encode(np.ascontiguousarray(block), lib.PSA_DIALECT_EXEX) for block in events])


def latency(
    connection: socket.socket, name: str, raw: npt.NDArray[np.uint8], head: int, count: int
) -> Row:
    """Of `count` blocks after `head`, in one round."""
    frames = paced_frames(raw, head + 1, count)
    reader = subprocess.Popen(
        [sys.executable, "-P", "-c", READER, name, hex_keys(raw)[-1], str(head + count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline().strip() == "ready"
    time.sleep(0.2)
    start = time.monotonic_ns() + PACE_NS
    due = [start + index * PACE_NS for index in range(count)]
    late = []
    for moment, frame in zip(due, frames, strict=True):
        time.sleep(max(0, moment - time.monotonic_ns() - SPIN_NS) / 1e9)
        while (now := time.monotonic_ns()) < moment:
            pass
        connection.sendall(frame)
        late.append((now - moment) / 1e3)
    seen = json.loads(reader.stdout.read())
    reader.wait()
    numbers, moments = zip(*seen, strict=True)
    # A reader that slept over a block sees it with the next one.
    first_seen = np.searchsorted(numbers, np.arange(head + 1, head + 1 + count))
    row = Row("block due to a waiting reader's quote on it", 1)
    row.add_round([(moments[at] - then) / 1e9 for at, then in zip(first_seen, due, strict=True)])
    # What the machine does to a process that only sleeps until the next block is due.
    row.note = f"sent {percentile(late, 0.5):.0f} us late, p99 {percentile(late, 0.99):,.0f} us"
    return row
