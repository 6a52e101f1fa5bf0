"""A router that was brought up to a block equals one that was built there, whatever happened before."""

import contextlib
import random

import pytest
from builders.market import Market, make_market
from hypothesis import settings

import arena
from arena.errors import ArenaFull
from arena.native import ffi, lib

pytestmark = pytest.mark.property

POOLS = 60
STEPS = 25
HISTORIES = 10  # of a market


def step(market: Market, draws: random.Random) -> None:
    """Something that happens to an arena."""
    live = market.live()
    kind = draws.randrange(10)
    if kind < 4:
        market.block(touched=draws.randrange(1, 12), liquidity=draws.randrange(3))
    elif kind == 4:
        market.reorg(draws.randrange(1, 6))
    elif kind == 5:
        ranged = [pool for pool in live if not pool.is_pair]
        draws.choice((market.mint, market.burn))(draws.choice(ranged))
    elif kind == 6:
        market.add_pool()
    elif kind == 7 and len(live) > POOLS // 2:
        market.remove_pool(draws.choice(live))
    elif kind == 8:
        market.make_stale(draws.choice(live))
    else:
        stale = [pool for pool in market.pools if pool.status == "stale" and not pool.is_removed]
        if stale:
            market.make_live(draws.choice(stale))


def built_here(router: arena.Router, reader: arena.Arena) -> arena.Router:
    """A router of this block, at the prices of the other one."""
    fresh = arena.Router(reader, numeraire="WETH")
    prices = ffi.from_buffer("double *", router._log_prices)
    assert lib.psa_route_reprice(fresh._route, prices, router._facts().floor) == lib.PSA_OK
    return fresh


def check(router: arena.Router, reader: arena.Arena, what: object) -> None:
    """Whether it equals a router built here."""
    fresh = built_here(router, reader)
    assert router.commit == fresh.commit == reader.committed
    assert router.left_out == fresh.left_out
    assert lib.psa_route_same(router._route, fresh._route), what
    found = [list(each.cycles(everywhere=True, limit=50)) for each in (router, fresh)]
    assert found[0] == found[1]


@pytest.mark.parametrize("floor", [0.0, 1e14])
def test_an_index_that_is_kept_equals_one_that_is_built(arena_name: str, floor: float) -> None:
    """After each history, and after each step of a market's first."""
    done = 0
    for seed in range(-(-settings().max_examples // HISTORIES)):
        draws = random.Random(seed)
        with (
            make_market(arena_name, POOLS, seed, is_rough=seed % 2 == 1) as market,
            arena.attach(arena_name, require_writer=False) as reader,
        ):
            router = arena.Router(reader, numeraire="WETH")
            for history in range(HISTORIES):
                prices = ffi.from_buffer("double *", router._log_prices)
                assert lib.psa_route_reprice(router._route, prices, floor) == lib.PSA_OK
                for _ in range(STEPS):
                    with contextlib.suppress(
                        ArenaFull, ValueError
                    ):  # fewer blocks than it would undo
                        step(market, draws)
                    router.update()
                    if history == 0:
                        check(router, reader, (seed, market.head))
                check(router, reader, (seed, history, market.head))
                done += 1
    print(f"{done} histories of {STEPS} steps")
