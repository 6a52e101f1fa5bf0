"""The made-up market of builders/market.py, which tests and benchmarks of routing begin with."""

import math
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from builders.market import FIRST_BLOCK, Market, make_market
from builders.market_shape import LOG_TICK, USDC, V2, V3, V4, WETH, MarketPool
from oracle.swap_oracle import tick_at_sqrt_price

import arena
from arena.errors import UnknownPool


@pytest.fixture
def market(arena_name: str) -> Iterator[Market]:
    with make_market(arena_name, 300, seed=5) as found:
        yield found


@pytest.fixture
def reader(market: Market) -> Iterator[arena.Arena]:
    with arena.attach(market.name) as found:
        yield found


def content(reader: arena.Arena) -> dict[str, tuple[str, int, int, object]]:
    """What each pool shows, by key."""
    found: dict[str, tuple[str, int, int, object]] = {}
    snapshot = reader.snapshot(list(reader))
    for key in snapshot:
        state = snapshot[key].state()
        if state.protocol == "uniswap_v2":
            assert state.reserve0 is not None
            assert state.reserve1 is not None
            found[key] = state.status, state.reserve0, state.reserve1, None
        elif state.sqrt_price_x96 is not None:
            assert state.liquidity is not None
            found[key] = state.status, state.sqrt_price_x96, state.liquidity, state.ticks
    return found


def ranged(market: Market) -> MarketPool:
    return next(pool for pool in market.live() if pool.protocol != V2)


def deviation(pool: MarketPool, reader: arena.Arena) -> float:
    state = reader[pool.key].state()
    if state.sqrt_price_x96 is None:
        assert state.reserve0 is not None
        assert state.reserve1 is not None
        return math.log(state.reserve1 / state.reserve0) - pool.log_price
    return 2 * math.log(state.sqrt_price_x96 / 2**96) - pool.log_price


def check(market: Market, reader: arena.Arena) -> None:
    """The arena shows what the market says, and nothing that a contract could not hold."""
    assert reader.head_block == market.head
    shown = {pool.key: pool for pool in market.pools if not pool.is_removed}
    assert set(reader) == shown.keys()
    snapshot = reader.snapshot(list(reader))
    for key in snapshot:
        pool, state = shown[key], snapshot[key].state()
        assert state.status == pool.status
        assert state.token0.address == market.tokens[pool.token0].address
        assert state.token1.decimals == market.tokens[pool.token1].decimals
        if state.sqrt_price_x96 is None:
            continue
        assert state.ticks == pool.ranges.ticks
        assert state.tick is not None
        assert state.liquidity == pool.ranges.liquidity_at(state.tick)
        assert state.tick - tick_at_sqrt_price(state.sqrt_price_x96) in (0, -1)


def test_a_market_has_hubs_parallel_pools_and_a_tail(market: Market, reader: arena.Arena) -> None:
    check(market, reader)
    assert len(market.live()) == 300
    pairs = Counter((pool.token0, pool.token1) for pool in market.pools)
    assert pairs[tuple(sorted((WETH, USDC), key=lambda n: market.tokens[n].address))] > 4  # type: ignore[index]
    protocols = Counter(pool.protocol for pool in market.pools)
    assert set(protocols) == {V2, V3, V4}
    assert 100 < protocols[V2] < 200
    tail = [pool for pool in market.pools if max(pool.token0, pool.token1) >= 15]
    with_weth = sum(WETH in (pool.token0, pool.token1) for pool in tail)
    assert 0.65 < with_weth / len(tail) < 0.95


def test_at_rest_every_pool_is_in_its_band(market: Market, reader: arena.Arena) -> None:
    for pool in market.pools:
        assert abs(deviation(pool, reader)) <= pool.band + LOG_TICK
        assert pool.band < pool.fee * 1e-6 + 0.05 or pool.tvl_usd < 1e5


def test_some_pools_are_right_on_a_tick(arena_name: str) -> None:
    with make_market(arena_name, 1_000, seed=1) as market, arena.attach(arena_name) as reader:
        states = [reader[pool.key].state() for pool in market.pools if pool.protocol != V2]
        sides = Counter(
            state.tick - tick_at_sqrt_price(state.sqrt_price_x96)  # type: ignore[operator,arg-type]
            for state in states
        )
    assert sides[-1] > 0
    assert sides[0] > 300


def test_a_block_is_one_commit_and_its_pushed_pools_come_back(
    market: Market, reader: arena.Arena
) -> None:
    commit = reader.committed
    first = market.block(touched=100, shock_share=0.2, shock=(0.01, 0.05))
    assert reader.committed == commit + 1
    assert first.number == reader.head_block == FIRST_BLOCK + 1
    assert len(first.touched) == 100
    assert 0 < len(first.pushed) < 50
    for pool in first.touched:
        off = abs(deviation(pool, reader)) - pool.band
        if pool in first.pushed:
            assert 0.01 - LOG_TICK < off < 0.05 + LOG_TICK
        else:
            assert off < LOG_TICK
    second = market.block(touched=100, shock_share=0)
    assert second.returned == first.pushed
    assert second.pushed == ()
    for pool in market.pools:
        assert abs(deviation(pool, reader)) <= pool.band + LOG_TICK


def test_positions_come_and_go(market: Market, reader: arena.Arena) -> None:
    pool = ranged(market)
    before = len(pool.ranges.positions)
    market.mint(pool)
    check(market, reader)
    assert len(pool.ranges.positions) == before + 1
    for _ in range(before):
        market.burn(pool)
    check(market, reader)
    with pytest.raises(ValueError, match="only its widest range"):
        market.burn(pool)
    pair = next(pool for pool in market.pools if pool.protocol == V2)
    with pytest.raises(ValueError, match="no positions"):
        market.mint(pair)


def test_a_reorg_leads_back_to_what_was(market: Market, reader: arena.Arena) -> None:
    market.block(touched=200, shock_share=0.1, liquidity=20)
    before, commit = content(reader), reader.committed
    for _ in range(3):
        market.block(touched=200, shock_share=0.1, liquidity=20)
    market.mint(ranged(market))
    assert content(reader) != before
    market.reorg(4)
    assert reader.committed == commit + 5
    assert content(reader) == before
    check(market, reader)
    market.block()
    assert reader.head_block == FIRST_BLOCK + 2
    with pytest.raises(ValueError, match="3 blocks cannot be undone"):
        market.reorg(3)


def test_pools_come_and_go(market: Market, reader: arena.Arena) -> None:
    new = market.add_pool()
    stale, removed = market.pools[7], market.pools[8]
    market.make_stale(stale)
    market.remove_pool(removed)
    announced = market.announce_pool()
    check(market, reader)
    assert reader[announced.key].status == "syncing"
    with pytest.raises(UnknownPool):
        reader[removed.key]
    for _ in range(3):
        assert not {stale, removed, announced} & set(market.block(touched=250).touched)
    market.make_live(stale)
    market.make_live(announced)
    assert market.add_pool(removed) is removed
    check(market, reader)
    assert len(market.live()) == 302
    with pytest.raises(ValueError, match="not removed"):
        market.add_pool(new)


def test_several_changes_can_be_one_commit(market: Market, reader: arena.Arena) -> None:
    commit = reader.committed
    with market.one_commit():
        market.block()
        market.remove_pool(market.pools[3])
        market.add_pool()
        market.mint(ranged(market))
        assert reader.committed == commit
    assert reader.committed == commit + 1
    check(market, reader)


def test_whatever_happens_market_and_arena_agree(arena_name: str, rng: random.Random) -> None:
    with (
        make_market(arena_name, 120, seed=rng.getrandbits(32), spare=8) as market,
        arena.attach(arena_name) as reader,
    ):
        for _ in range(80):
            anything(market, rng)
            check(market, reader)


def anything(market: Market, rng: random.Random) -> None:
    what = rng.choice(("block", "reorg", "mint", "burn", "add", "remove", "again", "stale", "live"))
    pool = rng.choice(market.live())
    if what == "block":
        market.block(touched=40, shock_share=0.2, liquidity=5)
    elif what == "reorg" and market.head > FIRST_BLOCK:
        market.reorg(rng.randint(1, min(5, market.head - FIRST_BLOCK)))
    elif what == "mint" and pool.protocol != V2:
        market.mint(pool)
    elif what == "burn" and len(pool.ranges.positions) > 1:
        market.burn(pool)
    elif what == "add" and len(market.live()) < 120:
        market.add_pool()
    elif what == "remove":
        market.remove_pool(pool)
    elif what == "again":
        removed = [each for each in market.pools if each.is_removed]
        if removed and len(market.live()) < 120:
            market.add_pool(rng.choice(removed))
    elif what == "stale":
        market.make_stale(pool)
    elif what == "live":
        for each in market.pools:
            if each.status == "stale":
                market.make_live(each)


def test_one_seed_is_one_market(leak_check: str) -> None:
    tables = []
    for number in range(2):
        name = f"{leak_check}-{number}"
        with make_market(name, 200, seed=11) as market, arena.attach(name) as reader:
            market.block(liquidity=10)
            market.remove_pool(market.pools[5])
            market.add_pool()
            market.reorg(1)
            market.block()
            frozen = reader.snapshot(list(reader))
            tables.append((frozen.table().tobytes(), content(reader)))
    assert tables[0] == tables[1]
    with make_market(f"{leak_check}-2", 200, seed=12) as market:
        assert market.pools[0].key not in tables[0][1]
