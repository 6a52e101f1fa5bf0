"""The processes of test_touched_under_kills.py: writers that are killed, and a reader of what blocks touched.

Which pools a block touches follows from its number alone. Lines on stdin are commands, lines on stdout are
answers.
"""

import json
import os
import random
import sys
from typing import Any

import numpy as np

import arena
from arena.layouts.events import EVENT
from arena.native import lib
from arena.writing import WriterArena
from roles.kill import _readable
from roles.nursery import nurse

POOLS = 2_000
FIRST = 1_000
LAP = 256


def key(index: int) -> bytes:
    return (index + 1).to_bytes(20, "big")


def touched_at(position: int) -> list[int]:
    chance = random.Random(position)
    return chance.sample(range(POOLS), chance.choice((0, 1, 2, 3, 5, 40)))


def lap_events() -> np.ndarray[Any, Any]:
    """One lap as event records with block numbers from 0."""
    rows = []
    for position in range(LAP):
        pools = touched_at(position)
        events = np.zeros(len(pools) + 2, dtype=EVENT)
        events["block_number"] = position
        events["stream_seq"] = 1
        events["log_index"] = np.arange(len(events))
        events["kind"] = lib.PSA_EVENT_V2_SYNC
        events["kind"][[0, -1]] = lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK
        for event, pool in zip(events[1:-1], pools, strict=True):
            event["key"] = np.frombuffer(key(pool).ljust(32, b"\0"), "u1")
            event["words"][[0, 4]] = position + 1, pool + 1
        rows.append(events)
    return np.concatenate(rows)


def write_for_ever(name: str, lap: np.ndarray[Any, Any]) -> None:
    """Blocks, and now and then a part of one that is given up."""
    with WriterArena.take_over(name) as owner:
        laps, position = divmod(owner.head_block - FIRST, LAP)
        mine = lap.copy()
        os.write(1, b"writing\n")
        while True:
            mine["block_number"] = lap["block_number"] + FIRST + 1 + laps * LAP
            start = int(np.searchsorted(lap["block_number"], position))
            owner.apply(mine[start:], min_commit_ns=0)
            laps, position = laps + 1, 0
            ahead = mine[: len(mine) // 2].copy()
            ahead["block_number"] += LAP
            owner.apply(
                ahead[: int(np.flatnonzero(ahead["block_number"] == ahead["block_number"][0])[-1])]
            )
            owner.abort()


def reader(name: str) -> None:
    """Wait for blocks until stdin says stop; answer with counts.

    `missed`: pools that a block touched since the last one and that were not named; `extra`: pools named
    that no block touched up to what the arena was at afterwards.
    """
    keys = ["0x" + key(index).hex() for index in range(POOLS)]
    by_position = [{keys[index] for index in touched_at(position)} for position in range(LAP)]

    def touched(low: int, high: int) -> set[str]:
        if high - low >= LAP:
            low = high - LAP
        return set().union(*(by_position[(n - FIRST - 1) % LAP] for n in range(low + 1, high + 1)))

    counts = {"waits": 0, "missed": 0, "extra": 0, "contended": 0, "twice": 0, "short": 0}
    with arena.attach(name, timeout=10, require_writer=False) as pools:
        seen = pools.wait_block(0)
        assert seen is not None
        print("ready", flush=True)
        os.set_blocking(0, False)
        while not os.read(0, 10) if _readable() else True:
            newer = pools.wait_block(seen, timeout=0.01)
            if newer is None:
                continue
            try:
                named = newer.touched
            except arena.SnapshotContended:
                counts["contended"] += 1
                continue
            found = set(named)
            counts["waits"] += 1
            counts["twice"] += len(found) != len(named)
            counts["missed"] += not touched(seen, newer) <= found
            counts["extra"] += not found <= touched(seen, pools.head_block)
            counts["short"] += newer - seen < 100
            seen = newer
    print(json.dumps(counts), flush=True)


def nursery(name: str) -> None:
    lap = lap_events()
    nurse(lambda: write_for_ever(name, lap))


if __name__ == "__main__":
    {"nursery": nursery, "reader": reader}[sys.argv[1]](sys.argv[2])
