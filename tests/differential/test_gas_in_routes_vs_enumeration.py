"""What a router answers where gas is dear, against enumerations that subtract it.

The enumeration knows what a swap, a tick and a transaction cost, and asks the quotes of a frozen snapshot for
amounts and ticks; see oracle/routes.py.
"""

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from builders.market import Market, make_market
from conftest import SEED
from oracle.routes import (
    FloatPool,
    Graph,
    Hop,
    Side,
    best_float_input,
    best_input,
    cycles,
    float_pool,
    marginal_product,
    rounding_loss,
    run_in,
    run_out,
)

import arena
from arena.errors import InsufficientLiquidity, UnknownToken

WEI = 10**11  # a unit of gas
GAS = arena.Gas(
    transaction=40_000,
    swaps={"uniswap_v2": 50_000, "uniswap_v3": 110_000, "uniswap_v4": 170_000},
    tick=45_000,
    price=WEI,
)


def ticks_in(frozen: arena.FrozenSnapshot, route: Iterable[Hop], amount: int) -> int:
    """Crossed by a route that takes this amount whole."""
    ticks = 0
    for key, zero_for_one in route:
        quote = frozen[key].quote_exact_in(amount, zero_for_one=zero_for_one)
        amount, ticks = quote.amount_out, ticks + quote.ticks_crossed
    return ticks


def ticks_out(frozen: arena.FrozenSnapshot, route: tuple[Hop, ...], amount: int) -> int:
    ticks = 0
    for key, zero_for_one in reversed(route):
        quote = frozen[key].quote_exact_out(amount, zero_for_one=zero_for_one)
        amount, ticks = quote.amount_in, ticks + quote.ticks_crossed
    return ticks


def units(frozen: arena.FrozenSnapshot, keys: Iterable[str], ticks: int) -> int:
    """Of gas."""
    assert GAS.swaps is not None
    swaps = sum(GAS.swaps[frozen[key].state().protocol] for key in keys)
    return GAS.transaction + swaps + GAS.tick * ticks


@contextmanager
def routed(
    name: str, pools: int, seed: int
) -> Iterator[tuple[Market, arena.Router, arena.FrozenSnapshot]]:
    """A market a block after it began, a router that pays, and everything copied."""
    with (
        make_market(name, pools, seed) as market,
        arena.attach(name, require_writer=False) as reader,
    ):
        router = arena.Router(reader, numeraire="WETH", gas=GAS)
        market.block(touched=pools // 2, shock_share=0.5, shock=(0.005, 0.05), liquidity=9)
        router.update()
        frozen = reader.snapshot(list(reader))
        assert frozen.commit == router.commit
        yield market, router, frozen


# ---- paths


@dataclass(frozen=True, slots=True)
class Paid:
    """A path, the value it leaves after gas, and that value's parts."""

    hops: tuple[Hop, ...]
    amount: int  # asked for: out, or in with exact_out
    value: float


def every_path(
    frozen: arena.FrozenSnapshot,
    graph: Graph,
    ends: tuple[str, str],
    amount: int,
    worth: float,
    max_hops: int,
    *,
    exact_out: bool,
) -> Iterator[Paid]:
    """All paths that carry the amount; `worth` of the other token's unit."""
    for hops in graph.ways(*ends, max_hops, frozenset(ends)):
        other = run_out(frozen, hops, amount) if exact_out else run_in(frozen, hops, amount)
        if not other:
            continue
        ticks = (ticks_out if exact_out else ticks_in)(frozen, hops, amount)
        cost = units(frozen, [key for key, _ in hops], ticks) * WEI
        yield Paid(hops, other, (-other if exact_out else other) * worth - cost)


def most_of_each_pair(found: list[Paid], graph: Graph, *, exact_out: bool) -> list[Paid]:
    """Of paths through the same tokens the one that gives most, or takes least."""
    best: dict[tuple[tuple[str, str], ...], Paid] = {}
    for path in found:
        tokens = tuple(
            graph.ends[key] if zero_for_one else graph.ends[key][::-1]
            for key, zero_for_one in path.hops
        )
        former = best.get(tokens)
        sign = -1 if exact_out else 1
        if former is None or sign * path.amount > sign * former.amount:
            best[tokens] = path
    return list(best.values())


@pytest.mark.parametrize("exact_out", [False, True])
def test_paths_leave_most_after_gas(arena_name: str, exact_out: bool) -> None:
    draws, found, changed, behind = random.Random(SEED), 0, 0, []
    with routed(arena_name, 90, SEED) as (market, router, frozen):
        graph, prices = Graph(frozen), router.prices()
        free = arena.Router(frozen, numeraire="WETH")
        for _ in range(60):
            sell, buy = (token.address for token in draws.sample(market.tokens[:12], 2))
            given = buy if exact_out else sell
            other = router._worth(router._market.find(sell if exact_out else buy))
            amount = int(10 ** draws.uniform(16, 20.5) / prices[given]) + 1
            ask = {"amount_out" if exact_out else "amount_in": amount}
            every = list(
                every_path(frozen, graph, (sell, buy), amount, other, 3, exact_out=exact_out)
            )
            try:
                route = router.best(sell, buy, **ask)
            except (InsufficientLiquidity, UnknownToken):
                assert not every
                continue
            hops = tuple((swap.pool, swap.zero_for_one) for swap in route.swaps)
            (mine,) = [path for path in every if path.hops == hops]
            assert mine.amount == (route.amount_in if exact_out else route.amount_out)
            ticks = (ticks_out if exact_out else ticks_in)(frozen, hops, amount)
            assert route.ticks_crossed == ticks
            assert route.gas == units(frozen, [key for key, _ in hops], ticks)
            assert route.gas_cost == pytest.approx(route.gas * WEI, rel=1e-12)
            promised = most_of_each_pair(every, graph, exact_out=exact_out)
            best = max(path.value for path in promised)
            assert mine.value >= best - abs(best) * 1e-12
            behind.append((max(path.value for path in every) - mine.value) / WEI)
            changed += free.best(sell, buy, **ask).swaps != route.swaps
            found += 1
    print(
        f"{found} paths, {changed} others than without gas, at most {max(behind):.0f} units behind"
    )
    # Of pools of a pair one may be better by what it gives, of the next one by its gas.
    assert sum(each > 1 for each in behind) <= found // 15
    assert found > 30
    assert changed > 3


# ---- cycles


def most_without(frozen: arena.FrozenSnapshot, hops: tuple[Hop, ...], top: int, ticks: int) -> int:
    """The most, up to `top`, that crosses no more ticks than these; 0 when nothing does."""
    low, high = 0, top + 1
    while high - low > 1:
        middle = (low + high) // 2
        if run_in(frozen, hops, middle) and ticks_in(frozen, hops, middle) > ticks:
            high = middle
        else:
            low = middle
    return low


def best_net(
    frozen: arena.FrozenSnapshot, hops: tuple[Hop, ...], worth: float
) -> tuple[float, int, int]:
    """What a cycle leaves after gas, at which input, across how many ticks: where the gain is most, and where
    it stops short of each of the ticks before that."""
    top = best_input(frozen, hops)
    if top is None:
        return float("-inf"), 0, 0
    best = float("-inf"), 0, 0
    for ticks in range(ticks_in(frozen, hops, top.amount_in) + 1):
        amount = most_without(frozen, hops, top.amount_in, ticks)
        out = run_in(frozen, hops, amount) if amount else None
        if out and ticks_in(frozen, hops, amount) == ticks:
            cost = units(frozen, [key for key, _ in hops], ticks) * WEI
            best = max(best, ((out - amount) * worth - cost, amount, ticks))
    return best


def test_cycles_leave_most_after_gas(arena_name: str) -> None:
    """All that pay are found, each where it leaves most, and of those through the same pairs the best.

    A cycle may begin at another token than the router's choice, whose price differs a little.
    """
    least = 10**15
    with routed(arena_name, 60, SEED) as (_, router, frozen):
        floats = {key: float_pool(frozen[key].state()) for key in frozen}
        expected = {}
        for cycle in cycles(frozen, 3):
            if most_value(router, frozen, floats, cycle) > least:
                value = worst_beginning(router, frozen, floats, cycle)
                if value > least * (1 + 1e-6):
                    expected[frozenset(cycle)] = value
        every = router.cycles(everywhere=True, max_hops=3, min_profit=least)
        mine = check_cycles(router, frozen, floats, every, least)
        assert expected.keys() <= mine.keys()
        few = router.cycles(everywhere=True, max_hops=3, min_profit=least, each=False)
        check_best_of_pairs(frozen, expected, check_cycles(router, frozen, floats, few, least))


def check_cycles(
    router: arena.Router,
    frozen: arena.FrozenSnapshot,
    floats: dict[str, FloatPool],
    found: arena.Cycles,
    least: float,
) -> dict[frozenset[Hop], float]:
    """Each is charged with its gas, and leaves most with it; their profits."""
    mine, stopped = {}, 0
    for route in found:
        hops = tuple((swap.pool, swap.zero_for_one) for swap in route.swaps)
        worth = worth_of_start(router, frozen, hops)
        ticks = ticks_in(frozen, hops, route.amount_in)
        assert route.gas == units(frozen, [key for key, _ in hops], ticks)
        gain = (route.amount_out - route.amount_in) * worth
        assert route.profit == pytest.approx(gain - route.gas * WEI, rel=1e-9)
        assert route.profit > least
        loss = (rounding_loss(hops, floats, float(route.amount_in)) + 1) * worth
        assert route.profit >= best_net(frozen, hops, worth)[0] * (1 - 1e-6) - loss
        mine[frozenset(hops)] = route.profit
        top = best_input(frozen, hops)
        assert top is not None
        stopped += ticks < ticks_in(frozen, hops, top.amount_in)
    assert list(found.profits) == sorted(found.profits, reverse=True)
    print(f"{len(found)} pay, {stopped} of them short of where the gain is most")
    assert len(found) > 5
    assert stopped > 0
    return mine


def most_value(
    router: arena.Router,
    frozen: arena.FrozenSnapshot,
    floats: dict[str, FloatPool],
    cycle: tuple[Hop, ...],
) -> float:
    """What a cycle leaves at most, ticks left out: doubles are never below integers."""
    if marginal_product(cycle, floats) <= 1:
        return 0.0
    start = amount = best_float_input(cycle, floats)
    for key, zero_for_one in cycle:
        amount = floats[key].out(zero_for_one, amount)
    cost = units(frozen, [key for key, _ in cycle], 0) * WEI
    return (amount - start) * (1 + 1e-9) * worth_of_start(router, frozen, cycle) - cost


def worth_of_start(
    router: arena.Router, frozen: arena.FrozenSnapshot, hops: tuple[Hop, ...]
) -> float:
    state = frozen[hops[0][0]].state()
    start = state.token0 if hops[0][1] else state.token1
    return router._worth(router._market.find(start.address))


def worst_beginning(
    router: arena.Router,
    frozen: arena.FrozenSnapshot,
    floats: dict[str, FloatPool],
    cycle: tuple[Hop, ...],
) -> float:
    """What a cycle leaves after gas, begun where that is least, and less what rounding may take."""
    least = float("inf")
    for at in range(len(cycle)):
        hops = cycle[at:] + cycle[:at]
        worth = worth_of_start(router, frozen, hops)
        net, amount, _ = best_net(frozen, hops, worth)
        loss = rounding_loss(hops, floats, float(amount)) + 1 if amount else 0.0
        least = min(least, net - loss * worth)
    return least


def check_best_of_pairs(
    frozen: arena.FrozenSnapshot,
    expected: dict[frozenset[Hop], float],
    mine: dict[frozenset[Hop], float],
) -> None:
    """Of cycles through the same pairs there is one, and none of the others leaves more."""

    def pairs(cycle: frozenset[Hop]) -> frozenset[tuple[str, ...]]:
        ends = []
        for key, zero_for_one in cycle:
            state = frozen[key].state()
            tokens = state.token0.address, state.token1.address
            ends.append(tokens if zero_for_one else tokens[::-1])
        return frozenset(ends)

    best = {pairs(cycle): profit for cycle, profit in mine.items()}
    assert len(best) == len(mine)
    for cycle, value in expected.items():
        assert best[pairs(cycle)] >= value * (1 - 1e-6), cycle


# ---- splits


def room_above(side: Side, rate: float) -> float:
    """What goes in until the last of it gives no more than `rate`."""
    root = math.sqrt(rate / side.keep)
    at = int(np.searchsorted(-side.root, -root)) - 1
    if at < 0:
        return 0.0
    end = side.into[at + 1] if at + 1 < len(side.into) else side.most
    paid = side.into[at] + side.liquidity[at] * (1 / root - 1 / side.root[at])
    return float(min(paid, end)) / side.keep


def poured(sides: list[Side], amount: float) -> list[float]:
    """An amount over pools of one pair so that the last of it gives as much in each."""
    high = max(side.rate for side in sides)
    low = high * 1e-12
    for _ in range(100):
        rate = math.sqrt(low * high)
        if sum(room_above(side, rate) for side in sides) > amount:
            low = rate
        else:
            high = rate
    return [room_above(side, high) for side in sides]


def in_integers(
    frozen: arena.FrozenSnapshot, hops: tuple[Hop, ...], parts: list[float], amount: int
) -> tuple[int, int] | None:
    """What comes out of the parts, the largest of which takes the rest, and the ticks crossed."""
    wholes = [int(part) for part in parts]
    largest = wholes.index(max(wholes))
    wholes[largest] += amount - sum(wholes)
    out = ticks = 0
    for hop, whole in zip(hops, wholes, strict=True):
        if whole > 0:
            found = run_in(frozen, (hop,), whole)
            if found is None:
                return None
            out, ticks = out + found, ticks + ticks_in(frozen, (hop,), whole)
    return out, ticks


def best_split(
    frozen: arena.FrozenSnapshot,
    floats: dict[str, FloatPool],
    hops: list[Hop],
    amount: int,
    worth: float,
) -> tuple[float, int]:
    """The most that an amount leaves after gas over any of these pools, and over how many."""
    best = float("-inf"), 0
    for count in range(1, len(hops) + 1):
        for chosen in itertools.combinations(hops, count):
            sides = [floats[key].side(way) for key, way in chosen]
            if any(side.rate == 0 for side in sides):
                continue
            found = in_integers(frozen, chosen, poured(sides, float(amount)), amount)
            if found is not None:
                cost = units(frozen, [key for key, _ in chosen], found[1]) * WEI
                best = max(best, (found[0] * worth - cost, count))
    return best


def test_splits_leave_most_after_gas(arena_name: str) -> None:
    """Over the pools of one pair, against every choice of them."""
    draws, behind, counts = random.Random(SEED), [], []
    with routed(arena_name, 400, SEED) as (_, router, frozen):
        graph, prices = Graph(frozen), router.prices()
        floats = {key: float_pool(frozen[key].state()) for key in frozen}
        pairs = [
            (sell, buy, hops)
            for sell, others in graph.hops.items()
            for buy, hops in others.items()
            if 3 <= len(hops) <= 7 and sell in prices
        ]
        for sell, buy, hops in draws.sample(pairs, min(60, len(pairs))):
            amount = int(10 ** draws.uniform(17.5, 23) / prices[sell]) + 1
            worth = router._worth(router._market.find(buy))
            expected, count = best_split(frozen, floats, hops, amount, worth)
            try:
                split = router.split(sell, buy, amount_in=amount, max_hops=1)
            except InsufficientLiquidity:
                assert not count
                continue
            ticks = sum(
                ticks_in(frozen, ((swap.pool, swap.zero_for_one),), swap.amount_in)
                for swap in split.swaps
            )
            assert split.gas == units(frozen, [swap.pool for swap in split.swaps], ticks)
            assert split.gas_cost == pytest.approx(split.gas * WEI, rel=1e-12)
            net = split.amount_out * worth - split.gas_cost
            single = router.best(sell, buy, amount_in=amount, max_hops=1)
            assert net >= (single.amount_out * worth - single.gas_cost) * (1 - 1e-12)
            behind.append((expected - net) / WEI)
            counts.append((len(split.swaps), count))
    several = sum(mine > 1 for mine, _ in counts)
    print(
        f"{len(behind)} splits, {several} over several pools, at most {max(behind):.0f} units behind"
    )
    assert len(behind) > 15
    assert several > 3
    # Which pools are worth it is a guess: one after the other is left out.
    assert sum(each > 1 for each in behind) <= 1 + len(behind) // 8
