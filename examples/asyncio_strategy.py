"""A strategy in asyncio: for every pair of tokens, the round trip through two pools that pays most.

python asyncio_strategy.py NAME

One coroutine a pair sleeps until a block comes and looks again when a pool of its pair was touched; all of
them share one thread that waits. Nothing is traded. It ends when the writer does.
"""

import asyncio
import sys
from collections import defaultdict
from itertools import permutations

import arena

AMOUNT_WEI = 10**15
Trip = tuple[int, str, str]  # what is left of AMOUNT_WEI, key of the first pool, of the second


def best_trip(view: arena.Snapshot, venues: list[str]) -> tuple[int, Trip | None]:
    """Block, and the best way of token0 to token1 in one pool and back in another."""
    trips = []
    for first, second in permutations(venues, 2):
        try:
            there = view[first].quote_exact_in(AMOUNT_WEI, zero_for_one=True)
            back = view[second].quote_exact_in(there.amount_out, zero_for_one=False)
        except arena.QuoteError:  # hooks, a dynamic fee, no liquidity
            continue
        if there.is_complete and back.is_complete:
            trips.append((back.amount_out - AMOUNT_WEI, first, second))
    return view.block_number, max(trips, default=None)


async def watch(pools: arena.Arena, pair: str, venues: list[str]) -> int:
    """Follow one pair until the writer ends; how often it was looked at."""
    looks = 0
    group = pools.group(venues)
    head = await pools.await_block(pools.head_block - 1)
    while pools.writer_alive and pools.phase != "stopped":
        group.read()
        if len(group.touched):  # all of them after the first read
            block, trip = pools.at_one_block(lambda view: best_trip(view, venues))
            looks += 1
            if trip is not None:
                gain, first, second = trip
                verdict = "PAYS" if gain > 0 else "costs"
                print(
                    f"block {block} {pair}: {first[:10]} then {second[:10]} {verdict} {abs(gain)} wei",
                    flush=True,
                )
        after = pools.head_block if head is None else head
        head = await pools.await_block(after, timeout=1)
    return looks


async def follow(name: str) -> None:
    with arena.attach(name, timeout=30) as pools:
        pools.wait_live(timeout=60)
        pairs = defaultdict(list)
        for key in pools:
            pairs[f"{pools[key].token0.symbol}/{pools[key].token1.symbol}"].append(key)
        traded = {pair: venues for pair, venues in pairs.items() if len(venues) > 1}
        print(f"{name}: live at block {pools.head_block}, watching {', '.join(traded)}", flush=True)
        looks = await asyncio.gather(*(watch(pools, *each) for each in traded.items()))
        for pair, count in zip(traded, looks, strict=True):
            print(f"{pair}: {len(traded[pair])} pools, looked at {count} times")


if __name__ == "__main__":
    asyncio.run(follow(*sys.argv[1:]))
