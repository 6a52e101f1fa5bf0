"""What a router finds against an enumeration that prunes nothing, on made-up markets in real arenas.

The enumeration shares no code with the product but the quotes of a frozen snapshot; see oracle/routes.py and
oracle/route_batches.py.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from builders.market import Market, make_market
from oracle.route_batches import FloatMarket, count_and_size_cycles, size_cycles
from oracle.routes import (
    Graph,
    best_float_input,
    best_path_in,
    best_path_out,
    canonical,
    float_pool,
    rounding_loss,
    run_in,
)
from oracle.split_parts import check_amounts, check_split, in_parts

import arena
from arena.errors import InsufficientLiquidity, UnknownToken

SEED = int(os.environ.get("PSA_SEED", "1"))
STORM = (0.002, 0.05)
Cycle = tuple[tuple[str, bool], ...]


@contextmanager
def routed(name: str, pools: int, seed: int) -> Iterator[tuple[Market, arena.Arena, arena.Router]]:
    """A market, a reader of it, and a router for which gas is free."""
    with (
        make_market(name, pools, seed) as market,
        arena.attach(name, require_writer=False) as reader,
    ):
        yield market, reader, arena.Router(reader, numeraire="WETH")


class Enumeration:
    """All cycles through some pools of a snapshot, with what they are worth."""

    def __init__(self, router: arena.Router, frozen: arena.FrozenSnapshot) -> None:
        self.keys = router._market.keys
        self.floats = {key: float_pool(frozen[key].state()) for key in self.keys}
        self.market = FloatMarket([self.floats[key] for key in self.keys])
        addresses = sorted(
            {name for pool in self.floats.values() for name in (pool.token0, pool.token1)}
        )
        held = [router._worth(router._market.find(address)) for address in addresses]
        self.worth = np.array(held)  # profits are counted in these
        self.worth_of = dict(zip(addresses, held, strict=True))
        self.numeraire = addresses.index(router.token("WETH").address)

    def rank(self, sides: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A router begins a cycle at the numeraire, else at the token with most neighbours."""
        tokens = self.market.source[sides]
        found: npt.NDArray[np.int64] = self.market.degree[tokens] + np.where(
            tokens == self.numeraire, 1 << 40, 0
        )
        return found

    def rolled(self, sides: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Each begun there."""
        first = self.rank(sides).argmax(axis=1)
        places = (first[:, None] + np.arange(sides.shape[1])) % sides.shape[1]
        return np.take_along_axis(sides, places, axis=1)

    def values(self, cycle: Cycle) -> npt.NDArray[np.float64]:
        """Where tokens have equally many neighbours either may come first, and the optimum is its own."""
        numbers = {key: number for number, key in enumerate(self.keys)}
        sides = np.array([[2 * numbers[key] + (not way) for key, way in cycle]], np.int64)
        rank = self.rank(sides)[0]
        begun = np.concatenate(
            [np.roll(sides, -at, axis=1) for at in np.flatnonzero(rank == rank.max())]
        )
        _, profit = size_cycles(self.market, begun)
        found: npt.NDArray[np.float64] = profit * self.worth[self.market.source[begun[:, 0]]]
        return found

    def cycles(
        self, touched: npt.NDArray[np.int64], max_hops: int, least: float
    ) -> tuple[int, dict[Cycle, float]]:
        """How many there are, and the value of those worth more than half of `least`."""
        count, found = 0, {}
        for rows in count_and_size_cycles(self.market, touched, max_hops):
            count += len(rows.pools)
            gains = rows.log_rate > 0
            if not gains.any():
                continue
            sides = self.rolled(rows.pools[gains] * 2 + ~rows.zero_for_one[gains])
            _, profit = size_cycles(self.market, sides)
            value = profit * self.worth[self.market.source[sides[:, 0]]]
            for at in np.flatnonzero(value > least / 2):
                hops = tuple((self.keys[side >> 1], not side & 1) for side in sides[at].tolist())
                found[canonical(hops)] = float(value[at])
        return count, found

    def slack(self, cycle: Cycle, amount: float, start: str) -> float:
        """By how much integers may be worth less than doubles, units of the numeraire."""
        return rounding_loss(cycle, self.floats, amount) * self.worth_of[start]


def check_block(
    router: arena.Router, reader: arena.Arena, max_hops: int, least: float, samples: random.Random
) -> tuple[int, int]:
    """Compare the cycles through what a block touched; how many there were in all, and how many paid."""
    update = router.update()
    frozen = reader.snapshot(list(router._market.keys))
    assert frozen.commit == update.commit
    numbers = {key: number for number, key in enumerate(router._market.keys)}
    touched = np.array([numbers[key] for key in update.touched], np.int64)
    everything = Enumeration(router, frozen)
    count, expected = everything.cycles(touched, max_hops, least)
    found = router.cycles(max_hops=max_hops, min_profit=least)
    assert (found.commit, found.block_number) == (frozen.commit, frozen.block_number)
    assert list(found.profits) == sorted(found.profits, reverse=True)
    seen: dict[Cycle, arena.Route] = {}
    for route in found:
        hops = tuple((swap.pool, swap.zero_for_one) for swap in route.swaps)
        assert canonical(hops) not in seen, "twice"
        seen[canonical(hops)] = route
    assert seen.keys() <= expected.keys(), "extra"
    for cycle, value in expected.items():
        route = seen.get(cycle)
        if route is None:  # the doubles are above, the integers may not be
            if value > least and everything.values(cycle).min() > least * (1 + 1e-9):
                spare = everything.values(cycle).min() - least
                assert lost_at_most(everything, cycle) >= spare, (cycle, value)
            continue
        hops = tuple((swap.pool, swap.zero_for_one) for swap in route.swaps)
        if not value * (1 + 1e-6) >= route.profit >= value * (1 - 1e-6):
            slack = everything.slack(hops, float(route.amount_in), route.token_in.address)
            values = everything.values(cycle)
            assert values.max() * (1 + 1e-6) >= route.profit
            assert route.profit >= values.min() * (1 - 1e-6) - slack - 1
    for route in samples.sample(list(seen.values()), min(40, len(seen))):
        check_cycle(everything, frozen, route)
    return count, len(seen)


def lost_at_most(everything: Enumeration, cycle: Cycle) -> float:
    """The most that rounding may cost a cycle, whichever token it begins with."""
    most = 0.0
    for at in range(len(cycle)):
        hops = cycle[at:] + cycle[:at]
        pool = everything.floats[hops[0][0]]
        start = pool.token0 if hops[0][1] else pool.token1
        amount = best_float_input(hops, everything.floats)
        most = max(most, everything.slack(hops, amount, start))
    return most


def check_cycle(everything: Enumeration, frozen: arena.FrozenSnapshot, route: arena.Route) -> None:
    """Its amounts are the pools' own, and a thousandth more or less brings no more than rounding."""
    hops = tuple((swap.pool, swap.zero_for_one) for swap in route.swaps)
    check_amounts(frozen, route.swaps)
    assert route.token_in == route.token_out
    gain = route.amount_out - route.amount_in
    loss = rounding_loss(hops, everything.floats, float(route.amount_in)) + 1
    for near in (route.amount_in * 999 // 1000, route.amount_in * 1001 // 1000):
        out = run_in(frozen, hops, near)
        assert out is None or out - near <= gain + loss, (route, near)


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_cycles_are_those_of_an_enumeration(arena_name: str, seed: int) -> None:
    samples = random.Random(seed)
    total = paying = 0
    with routed(arena_name, 500, seed) as (market, reader, router):
        for block in range(4):
            market.block(touched=60, shock_share=0.12, shock=STORM, liquidity=5)
            count, paid = check_block(router, reader, 4 if block == 3 else 3, 1e14, samples)
            total, paying = total + count, paying + paid
    assert total > 10_000
    assert paying > 50


@pytest.mark.slow
@pytest.mark.parametrize(("pools", "share"), [(5_000, 0.03), (20_000, 0.05)])
def test_cycles_of_four_are_those_of_an_enumeration(
    arena_name: str, pools: int, share: float
) -> None:
    """Over 10^7 of them with both."""
    with routed(arena_name, pools, SEED) as (market, reader, router):
        market.block(touched=150, shock_share=share, shock=(0.002, 0.02), liquidity=5)
        total, paying = check_block(router, reader, 4, 1e14, random.Random(SEED))
    print(f"{total} cycles, {paying} pay")
    assert total > 250 * pools
    assert paying > 20


def compare_paths(
    market: Market, reader: arena.Arena, router: arena.Router, cases: int, max_hops: int, seed: int
) -> int:
    """Best paths for random amounts between random tokens, half of them hubs; how many there were."""
    draws = random.Random(seed)
    frozen = reader.snapshot(list(router._market.keys))
    assert frozen.commit == router.commit
    graph, prices, found = Graph(frozen), router.prices(), 0
    for case in range(cases):
        choice = market.tokens[:15] if case % 2 else market.tokens
        sell, buy = draws.sample(choice, 2)
        wei = 10 ** draws.uniform(16, 21.5)
        given = sell if case % 4 < 2 else buy
        amount = int(wei / prices[given.address]) + 1
        if given is sell:
            expected = best_path_in(frozen, sell.address, buy.address, amount, max_hops, graph)
            ask = {"amount_in": amount}
        else:
            expected = best_path_out(frozen, sell.address, buy.address, amount, max_hops, graph)
            ask = {"amount_out": amount}
        try:
            route = router.best(sell.address, buy.address, max_hops=max_hops, **ask)
        except (InsufficientLiquidity, UnknownToken):
            assert expected is None, (sell, buy, amount, expected)
            continue
        assert expected is not None, route
        assert (route.amount_in, route.amount_out) == (expected.amount_in, expected.amount_out)
        assert (route.token_in.address, route.token_out.address) == (sell.address, buy.address)
        if given is sell:
            check_amounts(frozen, route.swaps)
        found += 1
    return found


def test_best_paths_are_those_of_an_enumeration(arena_name: str) -> None:
    with routed(arena_name, 300, SEED) as (market, reader, router):
        market.block(shock_share=0.05)
        router.update()
        assert compare_paths(market, reader, router, 120, 3, SEED) > 60
        assert compare_paths(market, reader, router, 20, 4, SEED) > 5


@pytest.mark.slow
def test_best_paths_of_many_cases_are_those_of_an_enumeration(arena_name: str) -> None:
    with routed(arena_name, 1_000, SEED) as (market, reader, router):
        found = 0
        for block in range(10):
            market.block(shock_share=0.05)
            router.update()
            found += compare_paths(market, reader, router, 600, 3, SEED + block)
    print(f"{found} paths")
    assert found >= 5_000


COARSE = 10**8  # units of a swap, of which rounding one down is no gap of the optimum


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_splits_are_above_single_paths_and_parts_and_near_their_bound(
    arena_name: str, seed: int
) -> None:
    draws, gaps, below, better = random.Random(seed), [], [], 0
    with routed(arena_name, 400, seed) as (market, reader, router):
        market.block()
        router.update()
        frozen = reader.snapshot(list(router._market.keys))
        graph, prices = Graph(frozen), router.prices()
        for case in range(90):
            sell, buy = draws.sample(market.tokens[:15] if case % 2 else market.tokens[:60], 2)
            amount = int(10 ** draws.uniform(17.5, 21.5) / prices[sell.address]) + 1
            try:
                best = router.best(sell.address, buy.address, amount_in=amount)
            except InsufficientLiquidity:
                continue
            split = router.split(sell.address, buy.address, amount_in=amount)
            check_split(frozen, split)
            assert split.amount_out >= best.amount_out
            if case < 16:
                parts = in_parts(frozen, graph, sell.address, buy.address, amount)
                below.append(1 - split.amount_out / parts)
            if min(min(swap.amount_in, swap.amount_out) for swap in split.swaps) > COARSE:
                gaps.append(split.order_gap)
            better += split.amount_out > best.amount_out
    assert len(gaps) > 10
    assert better > 10
    assert max(below) <= 0
    print(f"gap p50 {np.median(gaps):.1e}, p90 {np.quantile(gaps, 0.9):.1e}, most {max(gaps):.1e}")
    assert np.quantile(gaps, 0.9) <= 1e-6
