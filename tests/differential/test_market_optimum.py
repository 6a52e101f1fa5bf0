"""The optimum over a whole market, certified from both sides without the product's own search.

What the swaps leave is counted from the pools' own quotes; what all pools give at most against the prices is
searched pool by pool in doubles of the oracle. The one is at most the optimum, the other at least, so where
they meet both are it.
"""

import math
import os
import pickle

import pytest
from builders.market import make_market
from oracle.routes import GOLDEN, FloatPool, Graph, float_pool

import arena

SEED = int(os.environ.get("PSA_SEED", "1"))
STORM = (0.002, 0.05)


def most_against(pool: FloatPool, prices: dict[str, float]) -> float:
    """What one pool gives at most: golden section over the log of the input, both ways."""
    found = 0.0
    for zero_for_one in (True, False):
        ends = (pool.token0, pool.token1) if zero_for_one else (pool.token1, pool.token0)
        paid, got = prices[ends[0]], prices[ends[1]]
        side = pool.side(zero_for_one)
        if side.rate * got <= paid:
            continue
        low, high = 0.0, math.log(min(side.most / side.keep, 1e38))

        def gain(log_amount: float) -> float:
            amount = math.exp(log_amount)
            return side.swap(amount) * got - amount * paid  # noqa: B023 used at once

        for _ in range(80):
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            if gain(left) < gain(right):
                low = left
            else:
                high = right
        found = max(found, gain(0.5 * (low + high)))
    return found


def check_optimum(
    reader: arena.Arena, router: arena.Router, optimum: arena.MarketOptimum
) -> tuple[float, float]:
    """What was found over what the oracle's bound is, and the product's bound over it."""
    frozen = reader.snapshot(list(router._market.keys))
    assert optimum.block_number == frozen.block_number
    left: dict[str, int] = {}
    seen = set()
    for swap in optimum.swaps:
        quote = frozen[swap.pool].quote_exact_in(swap.amount_in, zero_for_one=swap.zero_for_one)
        assert quote.is_complete
        assert quote.amount_out == swap.amount_out
        left[swap.token_in.address] = left.get(swap.token_in.address, 0) - swap.amount_in
        left[swap.token_out.address] = left.get(swap.token_out.address, 0) + swap.amount_out
        seen.add(swap.pool)
    assert len(seen) == len(optimum.swaps)
    assert optimum.left == left
    numeraire = router.token("WETH").address
    short = math.fsum(
        -amount * optimum.prices[address]
        for address, amount in left.items()
        if amount < 0 and address != numeraire
    )
    profit = left.get(numeraire, 0) - short
    assert optimum.profit == pytest.approx(profit, rel=1e-6, abs=1e3)
    assert optimum.uncovered == pytest.approx(short, rel=1e-6, abs=1e3)
    bound = 0.0
    graph = Graph(frozen)
    joined = {key for hops in graph.hops.values() for each in hops.values() for key, _ in each}
    for key in joined:
        pool = float_pool(frozen[key].state())
        if pool.token0 in optimum.prices and pool.token1 in optimum.prices:
            bound += most_against(pool, optimum.prices)
    return profit / bound, optimum.bound / bound


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_what_the_swaps_leave_meets_the_bound_of_an_oracle(arena_name: str, seed: int) -> None:
    with (
        make_market(arena_name, 250, seed) as market,
        arena.attach(arena_name, require_writer=False) as reader,
    ):
        router = arena.Router(reader, numeraire="WETH")
        for _ in range(3):
            market.block(touched=40, shock_share=0.5, shock=STORM)
            router.update()
            optimum = router.market()
            assert optimum.is_settled
            assert optimum.bound > 1e16, "the market gives away nothing that is worth a search"
            found, stated = check_optimum(reader, router, optimum)
            assert stated == pytest.approx(1, abs=1e-6)
            assert 1 - 1e-4 < found <= 1 + 1e-9
            assert optimum.gap < 1e-4
            again = pickle.loads(pickle.dumps(optimum))
            assert (again.swaps, again.bound, again.prices) == (
                optimum.swaps,
                optimum.bound,
                optimum.prices,
            )
            best = max(router.cycles(everywhere=True, max_hops=4, limit=1).profits)
            assert best <= optimum.bound


def test_it_does_not_hang_on_where_the_search_began(arena_name: str) -> None:
    with (
        make_market(arena_name, 250, SEED) as market,
        arena.attach(arena_name, require_writer=False) as reader,
    ):
        router = arena.Router(reader, numeraire="WETH")
        for _ in range(4):
            market.block(touched=60, shock_share=0.3, shock=STORM)
            router.update()
            warm = router.market()
            cold = arena.Router(reader, numeraire="WETH").market()
            assert warm.bound == pytest.approx(cold.bound, rel=1e-6)
            # Prices may differ within the fees of a token's pools.
            assert warm.prices.keys() == cold.prices.keys()


def test_a_market_without_anything_to_take(arena_name: str) -> None:
    with (
        make_market(arena_name, 60, SEED) as market,
        arena.attach(arena_name, require_writer=False) as reader,
    ):
        router = arena.Router(reader, numeraire="WETH")
        pairs: dict[frozenset[str], str] = {}
        for pool in market.live():
            pair = frozenset(market.tokens[index].address for index in (pool.token0, pool.token1))
            pairs.setdefault(pair, pool.key)
        tree, reached = [], {router.token("WETH").address}
        while more := [each for each in pairs.items() if len(each[0] & reached) == 1]:
            tree.append(more[0][1])
            reached |= more[0][0]
        calm = arena.Router(reader.group(tree), numeraire="WETH").market()
        assert (calm.bound, calm.profit, calm.swaps, calm.gap) == (0, 0, (), 0)
        assert calm.is_settled
        assert set(calm.prices) == reached
