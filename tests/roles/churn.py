"""The processes of test_writer_killed_changing_pools.py: writers that are killed, a reader that never stops.

Each commit is one block that removes a pool, adds one or installs one anew, by a plan of LAP blocks that
ends as it began; every few blocks the arena grows. So the block number alone tells which pools there are
and in which block each got its values, and every value names pool and block. Lines on stdin are
commands, lines on stdout are answers.
"""

import json
import os
import random
import select
import sys
from typing import Any

import arena
from arena.layouts import slots
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena
from roles.nursery import nurse

LAP = 360
SLOTS = 6
KEYS = 15
FIRST = 1_000
GROWTH = 9  # blocks between two growths
Q96 = 1 << 96


def spec_of(index: int) -> PoolSpec:
    protocol = index % 3
    token = [TokenSpec(bytes([n]) * 20, 18, f"T{n}") for n in (1, 2)]
    size = 32 if protocol == slots.UNISWAP_V4 else 20
    spacing = 0 if protocol == slots.UNISWAP_V2 else 10
    return PoolSpec(bytes([index + 1]) * size, protocol, *token, 3000, spacing)


def values(index: int, block: int) -> PoolValues:
    number = 10**15 * (index + 1) + block
    if index % 3 == slots.UNISWAP_V2:
        return PoolValues(block, 3000, reserve0=number, reserve1=number)
    pairs = 1 + (index * 7 + block) % 20
    lower = [(-10 * n, number + n, number + n) for n in range(pairs, 0, -1)]
    upper = [(10 * n, number + n, -number - n) for n in range(1, pairs + 1)]
    return PoolValues(
        block,
        3000,
        sqrt_price_x96=Q96 + number,
        liquidity=sum(net for _, _, net in lower),
        ticks=(*lower, *upper),
        lp_fee=3000,
    )


def make_plan() -> list[tuple[str, int]]:
    chance = random.Random(11)
    there, steps = set(range(SLOTS)), []

    def step(what: str, key: int) -> None:
        steps.append((what, key))
        there.discard(key) if what == "remove" else there.add(key)

    while len(steps) < LAP - 2 * KEYS - SLOTS:
        if chance.random() < 0.2:
            step("install", chance.choice(sorted(there)))
        elif len(there) == SLOTS or (len(there) > SLOTS - 2 and chance.random() < 0.4):
            step("remove", chance.choice(sorted(there)))
        else:
            step("add", chance.choice(sorted(set(range(KEYS)) - there)))
    for key in sorted(there - set(range(SLOTS))):
        step("remove", key)
    for key in sorted(set(range(SLOTS)) - there):
        step("add", key)
    while len(steps) < LAP:
        step("install", len(steps) % SLOTS)
    return steps


PLAN = make_plan()


def written() -> list[dict[int, int]]:
    """Per place in the plan: the pools there are, and the place of the block that wrote each."""
    now: dict[int, int] = {}
    found: list[dict[int, int]] = []
    for turn in range(2 * LAP):
        what, key = PLAN[turn % LAP]
        if what == "remove":
            now.pop(key, None)
        else:
            now[key] = turn % LAP
        found.append(dict(now))
    return found[LAP:]


WRITTEN = written()


def expected(block: int) -> dict[str, PoolValues]:
    """Values of every pool at a block, by key."""
    if block == FIRST:
        pools = dict.fromkeys(range(SLOTS), FIRST)
    else:
        place = (block - FIRST - 1) % LAP
        pools = {
            index: max(FIRST, block - (place - at) % LAP) for index, at in WRITTEN[place].items()
        }
    return {"0x" + spec_of(n).key.hex(): values(n, at) for n, at in pools.items()}


def shows(state: Any, want: PoolValues) -> bool:
    """Whether a reader's PoolState has just these values, and no other pool's facts."""
    fields = (state.status, state.base_block, state.fee_pips)
    if fields != ("live", want.block_number, 3000):
        return False
    if state.protocol == "uniswap_v2":
        return bool((state.reserve0, state.reserve1) == (want.reserve0, want.reserve1))
    found = (state.sqrt_price_x96, state.liquidity, state.ticks, state.tick_spacing)
    return bool(found == (want.sqrt_price_x96, want.liquidity, want.ticks, 10))


def fill(owner: WriterArena) -> None:
    for index in range(SLOTS):
        owner.install(owner.add_pool(spec_of(index)), values(index, FIRST), slots.STATUS_LIVE)
    owner.set_head(FIRST)
    owner.commit()


def one_block(owner: WriterArena, block: int) -> None:
    what, key = PLAN[(block - FIRST - 1) % LAP]
    spec = spec_of(key)
    if what == "remove":
        slot = owner.find(spec.key)
        assert slot is not None, spec
        owner.remove_pool(slot)
    else:
        owner.install(owner.add_pool(spec), values(key, block), slots.STATUS_LIVE)
    owner.set_head(block)
    owner.commit()


def write_for_ever(name: str) -> None:
    with WriterArena.take_over(name) as owner:
        os.write(1, b"writing\n")
        block = owner.head_block
        while True:
            block += 1
            one_block(owner, block)
            if block % GROWTH == 0:
                owner.grow(tick_bytes=owner.native.arena.heap_nbytes + 4096 * (block % 50 == 0))


def nursery(name: str) -> None:
    nurse(lambda: write_for_ever(name))


# What a reader may meet while pools come and go.
DOCUMENTED = (arena.SnapshotTooOld, arena.UnknownPool, arena.PoolRemoved, arena.SnapshotContended)


class Watch:
    """One look after another at an arena that changes; counts what is wrong."""

    def __init__(self, pools: arena.Arena) -> None:
        self.pools = pools
        self.handles: dict[str, Any] = {}
        self.counts = dict.fromkeys(["views", "wrong", "other", "answers", "generation"], 0)

    def whole(self) -> None:
        with self.pools.snapshot() as view:
            want = expected(view.block_number)
            found = {key: view[key].state() for key in want}
            same = set(view) == set(want) and len(view.table()) == len(want)
            for index in range(KEYS):
                key = "0x" + spec_of(index).key.hex()
                same = same and (key in view) == (key in want)
        self.counts["views"] += 1
        self.counts["wrong"] += not same or not all(shows(found[key], want[key]) for key in want)

    def held(self, index: int) -> None:
        """A handle and a reference of some time ago: this pool's numbers, or none."""
        key = "0x" + spec_of(index).key.hex()
        if key not in self.handles:
            self.handles[key] = (self.pools[key], self.pools.slots([key]))
        handle, reference = self.handles[key]
        try:
            state = handle.state()
            self.counts["answers"] += 1
            self.counts["wrong"] += state.pool_key != key
            self.counts["wrong"] += not shows(state, values(index, state.base_block))
            quote = handle.quote_exact_in(1000, zero_for_one=True)
            self.counts["wrong"] += quote.amount_in != 1000
        except DOCUMENTED:
            del self.handles[key]
        batch = self.pools.quote_batch(reference, 1000, zero_for_one=True)
        if batch.statuses[0] not in (0, lib.PSA_POOL_REMOVED):
            self.counts["wrong"] += 1
        frozen = self.pools.snapshot(reference)
        self.counts["wrong"] += list(frozen) != [key]

    def turn(self, number: int) -> None:
        try:
            self.whole() if number % 2 else self.held(number // 2 % KEYS)
        except DOCUMENTED:
            self.counts["other"] += 1
        self.counts["generation"] = self.pools.generation


def reader(name: str) -> None:
    """Look until stdin says stop; answer with the counts."""
    with arena.attach(name, timeout=10, require_writer=False) as pools:
        watch, number = Watch(pools), 0
        print("ready", flush=True)
        while not select.select([0], [], [], 0)[0]:
            watch.turn(number)
            number += 1
    print(json.dumps(watch.counts), flush=True)


if __name__ == "__main__":
    {"nursery": nursery, "reader": reader}[sys.argv[1]](sys.argv[2])
