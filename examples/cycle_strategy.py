"""A strategy in asyncio that lists, block by block, the cycles of up to three pools that pay.

python cycle_strategy.py NAME TOKEN

Gains are counted in TOKEN, and swaps count as free: pass gas=arena.Gas() where TOKEN is the wrapped coin, or
name that as `native`. A block changes few pools, and only cycles through those are looked at. Nothing is
traded. It ends when the writer does.
"""

import asyncio
import sys

import arena

SHOWN = 3  # cycles of a block


def look(router: arena.Router) -> tuple[arena.RouterUpdate, arena.Cycles]:
    """Bring the index to the newest block and search it: native code, in a thread beside the loop."""
    return router.update(), router.cycles(max_hops=3, each=False, limit=SHOWN)


async def follow(name: str, numeraire: str) -> None:
    with arena.attach(name, timeout=30) as pools:
        pools.wait_live(timeout=60)
        router = await asyncio.to_thread(arena.Router, pools, numeraire=numeraire)
        coin = router.token(numeraire)
        print(f"{name}: live at block {router.block_number}, {router}", flush=True)
        blocks, head = 0, await pools.await_block(router.block_number - 1)
        while pools.writer_alive and pools.phase != "stopped":
            update, cycles = await asyncio.to_thread(look, router)
            if update.touched:
                blocks += 1
                print(
                    f"block {update.block_number}: {len(update.touched)} pools changed", flush=True
                )
            for cycle in cycles if update.touched else ():
                tokens = [swap.token_in.symbol for swap in cycle.swaps]
                print(
                    f"  {' -> '.join([*tokens, tokens[0]])} takes {cycle.amount_in} gives "
                    f"{cycle.amount_out}, {cycle.profit / 10**coin.decimals:.6f} {coin.symbol} gained"
                )
            head = await pools.await_block(pools.head_block if head is None else head, timeout=1)
        print(f"{blocks} blocks looked at")


if __name__ == "__main__":
    asyncio.run(follow(*sys.argv[1:]))
