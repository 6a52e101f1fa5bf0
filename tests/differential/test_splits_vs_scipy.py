"""Splits against the bound of scipy's solver, against single paths, and against parts over disjoint paths.

The solver shares no code with the product, see oracle/split_dual.py: a split is never above its bound, and
the bound that comes with a split is never below it.
"""

import math
import os
import random

import numpy as np
import pytest
from builders.market import make_market
from oracle.routes import Graph, float_pool
from oracle.split_dual import SplitProblem
from oracle.split_parts import check_split, in_parts

import arena
from arena.errors import InsufficientLiquidity

SEED = int(os.environ.get("PSA_SEED", "1"))
STORM = {"shock_share": 0.3, "shock": (0.002, 0.05)}
WEI = (16.0, 23.0)  # logs of what orders are worth: from 30 to 300 million dollars
KINDS = {"calm": {}, "storm": STORM, "rough": {}, "rough storm": STORM}


def orders(
    market: object, prices: dict[str, float], count: int, seed: int
) -> list[tuple[str, str, int]]:
    """Token sold, token bought, wei; half of them between hubs."""
    draws, found = random.Random(seed), []
    tokens = market.tokens  # type: ignore[attr-defined]
    while len(found) < count:
        sell, buy = draws.sample(tokens[:15] if len(found) % 2 else tokens[:60], 2)
        if sell.address in prices and buy.address in prices:
            amount = int(10 ** draws.uniform(*WEI) / prices[sell.address]) + 1
            found.append((sell.address, buy.address, amount))
    return found


def grain(frozen: arena.FrozenSnapshot, split: arena.Split) -> float:
    """By how much rounding may be in favour of who swaps, as a share: Solidly rounds its fee down."""
    pairs = [swap for swap in split.swaps if frozen[swap.pool].state().protocol == "solidly"]
    return 1e-9 + sum(1 / swap.amount_in for swap in pairs)


def compare(name: str, kind: str, pools: int, count: int, seed: int) -> list[float]:
    """Orders of one market; by how much each split is below the solver's bound."""
    gaps = []
    with (
        make_market(name, pools, seed, is_rough="rough" in kind) as market,
        arena.attach(name, require_writer=False) as reader,
    ):
        market.block(**KINDS[kind])
        router = arena.Router(reader, numeraire="WETH")
        frozen = reader.snapshot(list(router._market.keys))
        keys = Graph(frozen).ends
        floats = [float_pool(frozen[key].state()) for key in keys]
        prices = router.prices()
        for sell, buy, amount in orders(market, prices, count, seed):
            try:
                split = router.split(sell, buy, amount_in=amount)
            except (InsufficientLiquidity, arena.errors.AmountOutOfRange):
                continue
            tokens = [token.address for token in split.tokens]
            problem = SplitProblem(floats, tokens, amount)
            free, held = problem.bounds([prices[token] for token in tokens])
            slack = grain(frozen, split)
            case = (kind, seed, sell, buy, amount)
            # Any prices give a bound: what the solver left lying it may have missed, too.
            assert split.bound >= held.value * (1 - 1e-8 - held.left), case
            inside = {address for swap in split.swaps for address in _ends(swap)} <= set(tokens)
            if split.bound == math.inf:  # swaps through other tokens gave more
                assert not inside, case
                assert split.amount_out > held.value * (1 - 1e-8 - held.left), case
                continue
            assert split.bound <= free.value * (1 + 1e-8), case
            if inside:  # a path or parts may lead through others
                assert split.amount_out <= held.value * (1 + slack), case
            gaps.append(1 - split.amount_out / held.value)
    return gaps


def _ends(swap: arena.Swap) -> tuple[str, str]:
    return swap.token_in.address, swap.token_out.address


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_those_of_another_solver(arena_name: str, kind: str) -> None:
    gaps = compare(arena_name, kind, 300, 8, SEED)
    assert len(gaps) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_many_orders_are_those_of_another_solver(arena_name: str, kind: str) -> None:
    """Over 200 with all kinds."""
    gaps = []
    for seed in (SEED, SEED + 1):
        gaps += compare(arena_name, kind, 300, 30, seed)
    assert len(gaps) > 30
    print(
        f"{kind}: {len(gaps)} orders, gap p50 {np.median(gaps):.1e}, p90 {np.quantile(gaps, 0.9):.1e}"
    )


def against_parts(name: str, kind: str, pools: int, count: int, seed: int) -> tuple[int, float]:
    """How many orders were answered, and the most by which a split is below paths or parts."""
    most, done = -1.0, 0
    with (
        make_market(name, pools, seed, is_rough="rough" in kind) as market,
        arena.attach(name, require_writer=False) as reader,
    ):
        market.block(**KINDS[kind])
        router = arena.Router(reader, numeraire="WETH")
        frozen = reader.snapshot(list(router._market.keys))
        graph, prices = Graph(frozen), router.prices()
        for sell, buy, amount in orders(market, prices, count, seed):
            if amount >> 127:
                continue
            parts = in_parts(frozen, graph, sell, buy, amount)
            try:
                best = router.best(sell, buy, amount_in=amount).amount_out
            except InsufficientLiquidity:
                best = 0
            try:
                split = router.split(sell, buy, amount_in=amount)
            except InsufficientLiquidity:
                assert max(best, parts) == 0
                continue
            check_split(frozen, split, grain(frozen, split))
            assert split.amount_out >= best
            most, done = max(most, 1 - split.amount_out / max(parts, 1)), done + 1
    return done, most


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_not_below_parts(arena_name: str, kind: str) -> None:
    done, most = against_parts(arena_name, kind, 200, 25, SEED)
    assert done > 15
    assert most <= 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_splits_are_not_below_parts(arena_name: str, kind: str) -> None:
    """Over 1,000 with all kinds."""
    total = 0
    for seed in range(SEED, SEED + 3):
        done, most = against_parts(arena_name, kind, 300, 100, seed)
        assert most <= 0, seed
        total += done
    print(f"{kind}: {total} orders")
    assert total > 250
