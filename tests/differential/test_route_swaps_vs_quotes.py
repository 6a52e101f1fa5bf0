"""Every swap of every answer of a router against the pools' own quotes at the commit that the answer names.

PSA_SWAPS says how many swaps; a million take about a minute. Quotes are those of a frozen snapshot of that
commit; of every hundredth the reader's own oracle of the contracts, where it has the protocol, says the same.
"""

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from builders.market import Market, make_market
from oracle.swap_oracle import ConcentratedPool, swap, v2_amount_out

import arena
from arena.errors import InsufficientLiquidity

SEED = int(os.environ.get("PSA_SEED", "1"))
SWAPS = int(os.environ.get("PSA_SWAPS", "3000"))
BLOCK = {"touched": 60, "shock_share": 0.3, "shock": (0.002, 0.05), "liquidity": 5}


def answers(market: Market, router: arena.Router, draws: random.Random) -> Iterator[Any]:
    """All cycles of the market, and paths and splits for orders from dust to more than pools hold."""
    yield from router.cycles(max_hops=3, everywhere=True, limit=5_000)
    yield from router.cycles(max_hops=4, limit=2_000)
    prices = router.prices()
    for case in range(100):
        sell, buy = draws.sample(market.tokens[:15] if case % 2 else market.tokens[:60], 2)
        if sell.address not in prices or buy.address not in prices:
            continue
        names = sell.address, buy.address
        wei = 10 ** draws.uniform(10, 23.5)
        amount = min(int(wei / prices[sell.address]) + 1, 2**127 - 1)
        for ask in (router.best, router.split):
            try:
                yield ask(*names, amount_in=amount)
            except InsufficientLiquidity:
                continue
        try:
            wanted = int(wei / prices[buy.address]) + 1
            yield router.best(*names, amount_out=wanted)
        except InsufficientLiquidity:
            continue


def by_contract(state: Any, amount: int, zero_for_one: bool) -> int | None:
    """What an oracle of the contracts gives; None where there is none."""
    if state.protocol == "uniswap_v2":
        reserves = (state.reserve0, state.reserve1)[:: 1 if zero_for_one else -1]
        return v2_amount_out(amount, *reserves, 1_000_000 - state.fee_pips, 1_000_000)
    if state.protocol != "uniswap_v3":
        return None
    pool = ConcentratedPool(
        3,
        state.sqrt_price_x96,
        state.tick,
        state.liquidity,
        state.fee_pips,
        state.tick_spacing,
        {tick: net for tick, _, net in state.ticks},
    )
    found = swap(pool, amount, zero_for_one, True)
    return found.amount_out if found.is_complete else None


def requote(name: str, wanted: int, seed: int, is_rough: bool) -> tuple[int, int]:
    """How many swaps were asked again, and of how many protocols; at least `wanted`."""
    draws, done, kinds, calls = random.Random(seed), 0, set(), 0
    with (
        make_market(name, 400, seed, is_rough=is_rough) as market,
        arena.attach(name, require_writer=False) as reader,
    ):
        router = arena.Router(reader, numeraire="WETH")
        while done < wanted:
            market.block(**BLOCK)
            router.update()
            frozen = reader.snapshot(list(router._market.keys))
            assert frozen.commit == router.commit
            states = {key: frozen[key].state() for key in router._market.keys}
            pools = {key: frozen[key] for key in states}
            for answer in answers(market, router, draws):
                assert (answer.commit, answer.block_number) == (frozen.commit, frozen.block_number)
                for each in answer.swaps:
                    quote = pools[each.pool].quote_exact_in(
                        each.amount_in, zero_for_one=each.zero_for_one
                    )
                    assert quote.is_complete
                    exact_out = quote.amount_out > each.amount_out
                    if exact_out:  # amounts in of an exact output buy at least that
                        least = pools[each.pool].quote_exact_out(
                            each.amount_out, zero_for_one=each.zero_for_one
                        )
                        assert (least.amount_in, least.is_complete) == (each.amount_in, True)
                    else:
                        assert quote.amount_out == each.amount_out
                    calls += 1
                    kinds.add(states[each.pool].protocol)
                    assert int(getattr(states[each.pool], "hooks", None) or "0x0", 16) == 0
                    if calls % 100 == 0 and not exact_out:
                        expected = by_contract(states[each.pool], each.amount_in, each.zero_for_one)
                        assert expected is None or expected == each.amount_out
                done += len(answer.swaps)
    return done, len(kinds)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("is_rough", [False, True])
def test_swaps_are_the_pools_own_quotes(arena_name: str, is_rough: bool) -> None:
    done, kinds = requote(arena_name, SWAPS // 2, SEED, is_rough)
    print(f"{done} swaps of {kinds} protocols")
    assert done >= SWAPS // 2
    assert kinds == (4 if is_rough else 3)
