"""The processes of test_writer_killed.py: writers that are killed, and a reader that never stops.

The event stream repeats every LAP blocks and comes back to its first state, so the expected state at a
block follows from the block number alone. Lines on stdin are commands, lines on stdout are answers.
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
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena
from roles.nursery import nurse

LAP = 512
PER_BLOCK = 40
POOLS = 12
FIRST = 1_000
SPACING = 10
LOW, HIGH = 2**64 - 1, 2**96


def key(index: int) -> bytes:
    return bytes([index + 1]) * (32 if index % 3 == 2 else 20)


def create(name: str) -> None:
    token = [TokenSpec(address=bytes([n]) * 20, decimals=18, symbol=f"T{n}") for n in (1, 2)]
    # A killed fallocate gives its pages back: a heap that takes longer to reserve than a writer lives
    # here would never be reserved.
    with WriterArena.create(name, max_pools=64, tick_bytes=1 << 20, undo_blocks=128) as owner:
        for index in range(POOLS):
            is_v2 = index % 3 == 0
            spec = PoolSpec(
                key=key(index),
                protocol=index % 3,
                token0=token[0],
                token1=token[1],
                fee_pips=3000,
                tick_spacing=0 if is_v2 else SPACING,
                factory=bytes(20),
                hooks=bytes(20),
            )
            start = start_state()[index]
            price = {} if is_v2 else {"sqrt_price_x96": start[0]}
            reserves = {"reserve0": start[0], "reserve1": start[1]} if is_v2 else {}
            values = PoolValues(block_number=FIRST, fee_pips=3000, **price, **reserves)
            owner.install(owner.add_pool(spec), values, status=2)
        owner.set_head(FIRST)
        owner.commit()
        owner.set_phase("live")
        owner.close(unlink=False)


def plan() -> list[list[tuple[Any, ...]]]:
    """Events of each block of a lap: (pool, "sync", r0, r1), (pool, "swap", price, tick, liquidity),
    (pool, "change", lower, upper, delta). Liquidity minted in a lap is burned in it."""
    random_ = random.Random(7)
    blocks: list[list[tuple[Any, ...]]] = [[] for _ in range(LAP)]
    ranges: dict[int, list[tuple[int, int, int]]] = {pool: [] for pool in range(POOLS)}
    for position in range(LAP):
        closing = position == LAP - 1
        for _ in range(0 if closing else PER_BLOCK):
            pool = random_.randrange(POOLS)
            if pool % 3 == 0:
                reserves = random_.randrange(2**112), random_.randrange(2**112)
                blocks[position].append((pool, "sync", *reserves))
                continue
            held = ranges[pool]
            action = random_.choice(["swap", "mint", "burn"])
            if action == "swap":
                tick = random_.randrange(-400, 400)
                active = sum(d for low, up, d in held if low <= tick < up)
                price = random_.randrange(2**95, 2**97)
                blocks[position].append((pool, "swap", price, tick, active))
            elif action == "mint" or not held:
                lower = random_.randrange(-40, 39) * SPACING
                upper = random_.randrange(lower // SPACING + 1, 41) * SPACING
                held.append((lower, upper, random_.randrange(1, 2**100)))
                blocks[position].append((pool, "change", *held[-1]))
            else:
                lower, upper, delta = held.pop(random_.randrange(len(held)))
                blocks[position].append((pool, "change", lower, upper, -delta))
    for pool in range(POOLS):
        if pool % 3 == 0:
            blocks[-1].append((pool, "sync", 10**12, 10**12))
            continue
        for lower, upper, delta in ranges[pool]:
            blocks[-1].append((pool, "change", lower, upper, -delta))
        blocks[-1].append((pool, "swap", HIGH, 0, 0))
    return blocks


def start_state() -> list[Any]:
    """[reserve0, reserve1] or [sqrt_price_x96, tick, liquidity, {tick: [gross, net]}] of each pool."""
    return [[10**12, 10**12] if pool % 3 == 0 else [HIGH, 0, 0, {}] for pool in range(POOLS)]


def expected() -> list[list[Any]]:
    """State of every pool after each block of a lap, by position."""
    state, states = start_state(), []
    for block in plan():
        for pool, kind, *values in block:
            if kind == "sync":
                state[pool] = list(values)
            elif kind == "swap":
                state[pool] = [*values, state[pool][3]]
            else:
                lower, upper, delta = values
                price, tick, liquidity, ticks = state[pool]
                ticks = {at: list(pair) for at, pair in ticks.items()}
                for at, sign in ((lower, 1), (upper, -1)):
                    gross, net = ticks.get(at, (0, 0))
                    ticks[at] = [gross + delta, net + sign * delta]
                    if ticks[at][0] == 0:
                        del ticks[at]
                if lower <= tick < upper:
                    liquidity += delta
                state[pool] = [price, tick, liquidity, ticks]
        states.append(list(state))
    return states


def shown(pool: Any) -> list[Any]:
    """A reader's PoolState in the form of the expected one."""
    if pool.protocol == "uniswap_v2":
        return [pool.reserve0, pool.reserve1]
    ticks = {tick: [gross, net] for tick, gross, net in pool.ticks}
    return [pool.sqrt_price_x96, pool.tick, pool.liquidity, ticks]


def lap_events() -> np.ndarray[Any, Any]:
    """One lap as event records with block numbers from 0."""
    rows = []
    for position, block in enumerate(plan()):
        size = len(block) + 2
        events = np.zeros(size, dtype=EVENT)
        events["block_number"] = position
        events["stream_seq"] = 1
        events["log_index"] = np.arange(size)
        events[0]["kind"] = lib.PSA_EVENT_BEGIN_BLOCK
        events[-1]["kind"] = lib.PSA_EVENT_END_BLOCK
        for event, (pool, kind, *values) in zip(events[1:-1], block, strict=True):
            event["key"] = np.frombuffer(key(pool).ljust(32, b"\0"), dtype="u1")
            event["protocol"] = pool % 3
            if kind == "sync":
                event["kind"] = lib.PSA_EVENT_V2_SYNC
                first, second = values
                event["words"] = [first & LOW, first >> 64, 0, 0, second & LOW, second >> 64, 0, 0]
            elif kind == "swap":
                price, event["tick"], liquidity = values
                event["kind"] = lib.PSA_EVENT_CL_SWAP
                event["words"] = [price & LOW, price >> 64 & LOW, price >> 128, 0, 0, 0, 0, 0]
                event["amount"] = [liquidity & LOW, liquidity >> 64]
            else:
                event["kind"] = lib.PSA_EVENT_CL_LIQUIDITY
                event["tick_lower"], event["tick_upper"], delta = values
                up = delta > 0
                event["update_type"] = lib.PSA_UPDATE_MINT if up else lib.PSA_UPDATE_BURN
                delta &= 2**128 - 1
                event["amount"] = [delta & LOW, delta >> 64]
        rows.append(events)
    return np.concatenate(rows)


def write_for_ever(name: str, lap: np.ndarray[Any, Any]) -> None:
    with WriterArena.take_over(name) as owner:
        done = owner.head_block - FIRST
        laps, position = divmod(done, LAP)
        mine = lap.copy()
        os.write(1, b"writing\n")
        while True:
            mine["block_number"] = lap["block_number"] + FIRST + 1 + laps * LAP
            start = int(np.searchsorted(lap["block_number"], position))
            owner.apply(mine[start:], min_commit_ns=0)
            faults, _ = owner.take_faults()
            assert not faults, faults[0]
            laps, position = laps + 1, 0


def nursery(name: str) -> None:
    lap = lap_events()
    nurse(lambda: write_for_ever(name, lap))


def reader(name: str) -> None:
    """Check whole snapshots until stdin says stop; answer with the counts."""
    states = expected()
    counts = {"snapshots": 0, "wrong": 0, "too_old": 0, "highest": 0}
    with arena.attach(name, timeout=10, require_writer=False) as pools:
        keys = [key(index) for index in range(POOLS)]
        print("ready", flush=True)
        os.set_blocking(0, False)
        while not os.read(0, 10) if _readable() else True:
            try:
                with pools.snapshot() as view:
                    block = view.block_number
                    found = [shown(view[k].state()) for k in keys]
            except arena.SnapshotTooOld:
                counts["too_old"] += 1
                continue
            want = states[(block - FIRST - 1) % LAP] if block > FIRST else start_state()
            counts["snapshots"] += 1
            counts["wrong"] += found != want
            counts["highest"] = max(counts["highest"], block)
    print(json.dumps(counts), flush=True)


def _readable() -> bool:
    import select

    return bool(select.select([0], [], [], 0)[0])


if __name__ == "__main__":
    {"nursery": nursery, "reader": reader}[sys.argv[1]](sys.argv[2])
