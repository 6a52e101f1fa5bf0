"""The oracles of routing, oracle/routes.py and oracle/route_batches.py, against the plainest text of each.

Method: a market so small that every sequence of pools can be tried, and one pool in integers.
"""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from builders.market import Market, make_market
from oracle.route_batches import FloatMarket, count_and_size_cycles
from oracle.routes import (
    FloatPool,
    Graph,
    Route,
    best_input,
    best_path_in,
    best_path_out,
    canonical,
    cycles,
    float_pool,
    marginal_product,
    paths,
    rounding_loss,
    run_in,
    run_out,
)

import arena
from arena.readers import FrozenSnapshot


@pytest.fixture
def market(arena_name: str) -> Iterator[Market]:
    with make_market(arena_name, 70, seed=3) as found:
        found.block(touched=60, shock_share=0.3, shock=(0.002, 0.03))
        yield found


@pytest.fixture
def snapshot(market: Market) -> FrozenSnapshot:
    with arena.attach(market.name) as reader:
        return reader.snapshot(list(reader))


def floats_of(snapshot: FrozenSnapshot) -> dict[str, FloatPool]:
    return {key: float_pool(snapshot[key].state()) for key in snapshot}


def every_cycle(snapshot: FrozenSnapshot, keys: list[str], hops: int) -> set[Route]:
    """Every sequence of different pools that ends where it begins, and comes to no token twice."""
    found = set()
    for chosen in itertools.permutations(keys, hops):
        for ways in itertools.product((True, False), repeat=hops):
            ends = []
            for key, zero_for_one in zip(chosen, ways, strict=True):
                both = snapshot[key].token0.address, snapshot[key].token1.address
                ends.append(both if zero_for_one else both[::-1])
            follows = all(ends[n][1] == ends[(n + 1) % hops][0] for n in range(hops))
            if follows and len({source for source, _ in ends}) == hops:
                found.add(canonical(tuple(zip(chosen, ways, strict=True))))
    return found


def test_cycles_are_all_sequences_that_close(snapshot: FrozenSnapshot) -> None:
    keys = [key for key in snapshot if snapshot[key].protocol == "uniswap_v2"][:9]
    keys += [key for key in snapshot if snapshot[key].protocol != "uniswap_v2"][:9]
    part = {key: snapshot[key] for key in keys}
    wanted = every_cycle(snapshot, keys, 2) | every_cycle(snapshot, keys, 3)
    found = list(cycles(part, 3))
    assert len(found) == len(set(found)) >= 20
    assert set(found) == wanted
    through = set(keys[4:7])
    some = list(cycles(part, 3, through))
    assert len(some) == len(set(some))
    assert set(some) == {cycle for cycle in wanted if through & {key for key, _ in cycle}}
    few = keys[5:13]
    four = set(cycles({key: snapshot[key] for key in few}, 4))
    assert {cycle for cycle in four if len(cycle) == 4} == every_cycle(snapshot, few, 4)


def test_pools_that_are_not_live_carry_nothing(market: Market) -> None:
    market.make_stale(market.pools[0])
    with arena.attach(market.name) as reader:
        snapshot = reader.snapshot(list(reader))
    assert market.pools[0].key not in Graph(snapshot).ends
    assert market.pools[1].key in Graph(snapshot).ends


def test_doubles_follow_the_integers(snapshot: FrozenSnapshot, rng: random.Random) -> None:
    asked = 0
    for key, pool in floats_of(snapshot).items():
        for zero_for_one in (True, False):
            for _ in range(20):
                amount = int(10 ** rng.uniform(3, 30))
                exact = run_in(snapshot, ((key, zero_for_one),), amount)
                if exact is None:
                    continue
                asked += 1
                loss = rounding_loss([(key, zero_for_one)], {key: pool}, float(amount))
                found = pool.out(zero_for_one, float(amount))
                assert found * (1 - 1e-9) - loss <= exact <= found * (1 + 1e-9)
    assert asked > 2_000


def test_no_amount_near_or_far_beats_the_best_input(
    snapshot: FrozenSnapshot, rng: random.Random
) -> None:
    floats = floats_of(snapshot)
    gaining = [each for each in cycles(snapshot, 3) if marginal_product(each, floats) > 1]
    assert len(gaining) > 50
    for cycle in rng.sample(gaining, 50):
        best = best_input(snapshot, cycle, floats)
        assert best is not None
        assert run_in(snapshot, cycle, best.amount_in) == best.amount_out
        assert best.profit == best.amount_out - best.amount_in
        factors = [10 ** rng.uniform(-3, 3) for _ in range(20)]
        factors += [1 + sign * 10 ** -rng.uniform(1, 9) for sign in (1, -1) for _ in range(20)]
        loss = rounding_loss(cycle, floats, best.amount_in)
        for factor in factors:
            amount = max(1, round(best.amount_in * factor))
            out = run_in(snapshot, cycle, amount)
            assert out is None or out - amount <= best.profit + int(loss)


def test_arrays_hold_every_cycle_and_size_it(market: Market, snapshot: FrozenSnapshot) -> None:
    floats = floats_of(snapshot)
    keys = list(floats)
    touched = np.array([2, 11, 17, 40])
    wanted = set(cycles(snapshot, 4, {keys[index] for index in touched}))
    found: dict[Route, tuple[float, float, float]] = {}
    pools = FloatMarket(list(floats.values()))
    for part in count_and_size_cycles(pools, touched, 4, rows=1000):
        for row in range(len(part.pools)):
            hops = zip(part.pools[row].tolist(), part.zero_for_one[row].tolist(), strict=True)
            cycle = tuple((keys[index], zero_for_one) for index, zero_for_one in hops)
            assert canonical(cycle) not in found
            found[canonical(cycle)] = part.log_rate[row], part.amount_in[row], part.profit[row]
            if part.log_rate[row] > 0 and row % 97 == 0:
                best = best_input(snapshot, cycle, floats)
                assert best is not None
                assert part.profit[row] == pytest.approx(best.profit, 1e-3, best.amount_in * 1e-6)
    assert found.keys() == wanted
    for cycle, (log_rate, amount_in, profit) in found.items():
        assert np.exp(log_rate) == pytest.approx(marginal_product(cycle, floats), 1e-12)
        assert (profit != 0) == (amount_in != 0) == (log_rate > 0)


def test_a_replaced_pool_is_in_the_arrays(market: Market, snapshot: FrozenSnapshot) -> None:
    pools = FloatMarket(list(floats_of(snapshot).values()))
    market.block(touched=60, shock_share=0.3)
    with arena.attach(market.name) as reader:
        later = floats_of(reader.snapshot(list(snapshot)))
    pools.replace(dict(enumerate(later.values())))
    fresh = FloatMarket(list(later.values()))
    sides = np.arange(2 * len(later))
    for amount in (0.0, 1.0, 1e9, 1e18, 1e33):
        amounts = np.full(len(sides), amount)
        out, _ = pools.swap(sides, amounts)
        assert out.tolist() == fresh.swap(sides, amounts)[0].tolist()
        for side in sides.tolist():
            exact = fresh.pools[side >> 1].out(side & 1 == 0, amount)
            assert out[side] == pytest.approx(exact, 1e-12)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_best_pool_of_each_pair_makes_the_best_path(
    market: Market, snapshot: FrozenSnapshot, rng: random.Random, most: int
) -> None:
    """More into a pool never gives less, less out of it never costs more: compared with every path."""
    addresses = [token.address for token in market.tokens]
    for _ in range(12):
        sell, buy = rng.sample(range(8), 2)
        for exponent in (-3, 0, 3):
            worth = 10**exponent * 100.0
            amount = max(1, int(worth / market.tokens[sell].raw_usd))
            wanted = max(1, int(worth / market.tokens[buy].raw_usd))
            every = list(paths(snapshot, addresses[sell], addresses[buy], most))
            outs = [out for route in every if (out := run_in(snapshot, route, amount))]
            costs = [cost for route in every if (cost := run_out(snapshot, route, wanted))]
            best = best_path_in(snapshot, addresses[sell], addresses[buy], amount, most)
            assert (best.amount_out if best else None) == max(outs, default=None)
            if best:
                assert run_in(snapshot, best.hops, amount) == best.amount_out
            least = best_path_out(snapshot, addresses[sell], addresses[buy], wanted, most)
            assert (least.amount_in if least else None) == min(costs, default=None)
            if least:
                assert run_out(snapshot, least.hops, wanted) == least.amount_in


def test_more_in_never_gives_less_out(snapshot: FrozenSnapshot, rng: random.Random) -> None:
    for key in snapshot:
        for zero_for_one in (True, False):
            hop = ((key, zero_for_one),)
            amounts = sorted(
                int(10 ** rng.uniform(0, 30)) + near for near in range(3) for _ in "ab"
            )
            outs = [run_in(snapshot, hop, amount) for amount in amounts]
            whole = [out for out in outs if out is not None]
            assert whole == sorted(whole)
            costs = [run_out(snapshot, hop, amount) for amount in amounts]
            answered = [cost for cost in costs if cost is not None]
            assert answered == sorted(answered)
