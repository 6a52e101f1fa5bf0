"""What a router answers and refuses, beside what it finds, which differential/ compares."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from builders.arenas import unlinked
from builders.market import Market, make_market
from oracle.swap_oracle import sqrt_price_at_tick
from roles.processes import remove_segments

import arena
from arena.errors import (
    AmountOutOfRange,
    ArenaClosed,
    InsufficientLiquidity,
    UnknownPool,
    UnknownToken,
)
from arena.layouts import slots
from arena.readers.routes.cli import cycles, route
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

WETH, USDC = "WETH", "USDC"


@pytest.fixture
def market(arena_name: str) -> Iterator[Market]:
    with make_market(arena_name, 120, 3) as made:
        yield made


@pytest.fixture
def reader(market: Market) -> Iterator[arena.Arena]:
    with arena.attach(market.name, require_writer=False) as attached:
        yield attached


@pytest.fixture
def router(reader: arena.Arena) -> arena.Router:
    return arena.Router(reader, numeraire=WETH)


def test_a_path_is_of_the_commit_that_it_names(
    market: Market, reader: arena.Arena, router: arena.Router
) -> None:
    before = router.best(USDC, WETH, amount_in=10**10)
    mined = market.block()
    assert router.best(USDC, WETH, amount_in=10**10) == before, "nothing moves by itself"
    update = router.update()
    assert set(update.touched) == {pool.key for pool in mined.touched}
    after = router.best(USDC, WETH, amount_in=10**10)
    assert (after.commit, after.block_number) == (update.commit, update.block_number)
    assert update.commit == reader.committed == before.commit + 1
    assert not update.rebuilt
    assert update.touched
    assert router.update().touched == ()


def test_a_path_runs_from_token_to_token(router: arena.Router) -> None:
    found = router.best(USDC, WETH, amount_in=10**10, max_hops=3)
    assert found.token_in.symbol == USDC
    assert found.token_out.symbol == WETH
    for one, other in zip(found.swaps, found.swaps[1:], strict=False):
        assert (one.token_out, one.amount_out) == (other.token_in, other.amount_in)
    out = router.best(USDC, WETH, amount_out=found.amount_out)
    assert out.amount_out == found.amount_out
    assert out.amount_in <= found.amount_in


def test_a_curve_is_its_splits_at_one_commit(
    market: Market, reader: arena.Arena, router: arena.Router
) -> None:
    amounts = [10**k for k in range(6, 14)]
    splits = [router.split(USDC, WETH, amount_in=amount) for amount in amounts]
    market.block()
    assert router.curve(USDC, WETH, iter(amounts)) == tuple(splits)
    pool = next(each for each in market.live() if each.protocol == slots.UNISWAP_V3)
    ends = [market.tokens[index].address for index in (pool.token0, pool.token1)]
    alone = arena.Router(reader.group([pool.key]), numeraire=ends[1])
    some, none = alone.curve(*ends, [10**6, 1 << 126])
    assert some is not None
    assert none is None, "more than its range takes"
    assert router.curve(USDC, WETH, []) == ()
    rates = [split.amount_out / split.amount_in for split in splits[2:]]
    assert rates == sorted(rates, reverse=True), "more is never cheaper"
    with pytest.raises(UnknownToken):
        router.curve("NONE", WETH, amounts)
    with pytest.raises(AmountOutOfRange):
        router.curve(USDC, WETH, [1 << 127])


def test_gas_counts(reader: arena.Arena, router: arena.Router) -> None:
    dear = arena.Gas(
        price=10**12, swaps={"uniswap_v2": 1_000, "uniswap_v3": 2_000, "uniswap_v4": 3_000}
    )
    paying = arena.Router(reader, numeraire=WETH, gas=dear)
    found = paying.best(USDC, WETH, amount_in=10**10)
    each = {"uniswap_v2": 1_000, "uniswap_v3": 2_000, "uniswap_v4": 3_000}
    units_used = dear.transaction + dear.tick * found.ticks_crossed
    units_used += sum(each[reader[swap.pool].protocol] for swap in found.swaps)
    assert found.gas == units_used
    assert found.gas_cost == pytest.approx(units_used * 10**12)
    free = router.best(USDC, WETH, amount_in=10**10)
    assert (free.gas, free.gas_cost) == (0, 0.0)
    assert free.amount_out >= found.amount_out


def test_gas_of_a_quote(reader: arena.Arena) -> None:
    swaps = {"uniswap_v2": 1, "uniswap_v3": 2, "uniswap_v4": 3, "solidly": 4}
    gas = arena.Gas(transaction=1000, swaps=swaps, tick=10)
    seen, most = set(), 0
    for key in reader:
        state = reader[key].state()
        with contextlib.suppress(arena.ArenaError):
            quote = reader[key].quote_exact_in(10**21, zero_for_one=True)
            assert gas.units(quote) == 1000 + swaps[state.protocol] + 10 * quote.ticks_crossed
            seen.add(state.protocol)
            most = max(most, quote.ticks_crossed)
    assert len(seen) >= 3
    assert most > 0


def test_cycles_leave_their_profit_after_gas(market: Market, reader: arena.Arena) -> None:
    gas = arena.Gas(price=10**9)
    paying = arena.Router(reader, numeraire=WETH, gas=gas)
    market.block(shock_share=0.3, shock=(0.01, 0.1))
    paying.update()
    found = paying.cycles(min_profit=1e13)
    assert len(found) > 3
    assert list(found.profits) == [each.profit for each in found]
    for each in found[:20]:
        assert each.profit > 1e13
        if each.token_in.symbol == WETH:
            gain = each.amount_out - each.amount_in
            assert each.profit == pytest.approx(gain - each.gas_cost, rel=1e-9)
    assert paying.cycles(limit=2)[0] == paying.cycles()[0]
    assert len(paying.cycles(limit=2)) == 2
    assert len(paying.cycles(each=False)) < len(paying.cycles())
    with pytest.raises(IndexError):
        found[len(found)]


def test_cycles_through_named_tokens_and_pools(market: Market, router: arena.Router) -> None:
    market.block(shock_share=0.5, shock=(0.01, 0.1))
    router.update()
    everywhere = router.cycles(everywhere=True)
    assert len(everywhere) > 10
    through = router.cycles(through=[USDC])
    expected = [
        each for each in everywhere if USDC in {swap.token_in.symbol for swap in each.swaps}
    ]
    assert list(through) == expected
    pool = everywhere[0].swaps[0].pool
    assert list(router.cycles(through=[pool])) == [
        each for each in everywhere if pool in {swap.pool for swap in each.swaps}
    ]


def test_pools_that_are_not_live_are_left_out(market: Market, router: arena.Router) -> None:
    found = router.best(USDC, WETH, amount_in=10**10)
    gone = next(pool for pool in market.pools if pool.key == found.swaps[0].pool)
    market.make_stale(gone)
    router.update()
    assert router.left_out == 1
    other = router.best(USDC, WETH, amount_in=10**10)
    assert found.swaps[0].pool not in {swap.pool for swap in other.swaps}
    market.make_live(gone)
    router.update()
    assert router.left_out == 0
    market.remove_pool(gone)
    assert router.update().rebuilt
    assert router.pools == 119


def test_a_router_says_whether_it_is_current(market: Market, router: arena.Router) -> None:
    assert router.is_current
    market.block()
    assert not router.is_current
    router.update()
    assert router.is_current
    market.owner.close(unlink=False)
    assert not router.is_current, "the writer is gone"
    assert router.best(USDC, WETH, amount_in=10**10).block_number == market.head
    remove_segments(market.name)


def test_a_frozen_snapshot_and_a_group_can_be_routed_through(
    market: Market, reader: arena.Arena, router: arena.Router
) -> None:
    keys = list(reader)
    frozen = reader.snapshot(keys)
    here = router.best(USDC, WETH, amount_in=10**10)
    kept = arena.Router(frozen, numeraire=WETH)
    few = arena.Router(reader.group([swap.pool for swap in here.swaps]), numeraire=WETH)
    assert kept.best(USDC, WETH, amount_in=10**10) == here
    assert few.best(USDC, WETH, amount_in=10**10) == here
    assert few.pools == len(here.swaps)
    market.block(touched=100)
    assert kept.update().touched == ()
    assert kept.best(USDC, WETH, amount_in=10**10) == here
    assert few.update().block_number == market.head
    assert not kept.is_current


def test_prices_come_by_a_path(router: arena.Router, reader: arena.Arena) -> None:
    prices = router.prices()
    assert prices[router.token(WETH).address] == 1.0
    one = router.price(USDC)
    assert one.value == prices[router.token(USDC).address]
    ends = {token for key in one.path for token in (reader[key].token0, reader[key].token1)}
    assert {router.token(WETH), router.token(USDC)} <= ends
    turned = router.price(WETH, of=USDC)
    assert turned.value == pytest.approx(1 / one.value)


def test_what_is_refused(router: arena.Router, reader: arena.Arena) -> None:
    with pytest.raises(UnknownToken, match="no pool has a token 'NONE'"):
        router.best("NONE", WETH, amount_in=1)
    with pytest.raises(ValueError, match="sold and bought"):
        router.best(WETH, WETH, amount_in=1)
    with pytest.raises(ValueError, match="amount_in or amount_out"):
        router.best(USDC, WETH)
    with pytest.raises(ValueError, match="max_hops is 5"):
        router.best(USDC, WETH, amount_in=1, max_hops=5)
    with pytest.raises(ValueError, match="max_hops is 1"):
        router.cycles(max_hops=1)
    with pytest.raises(ValueError, match="below 0"):
        router.cycles(min_profit=-1.0)
    for wrong in ("no", "", 2, None, 0.5, []):
        for name in ("each", "everywhere"):
            given: dict[str, Any] = {name: wrong}
            with pytest.raises(TypeError, match=f"{name} is True or False, not"):
                router.cycles(**given)
    for name, least in (("limit", 0), ("max_hops", 2)):
        for number in (2.5, "3", True):
            given = {name: number}
            with pytest.raises(TypeError, match=f"{name} is a whole number"):
                router.cycles(**given)
        given = {name: least - 1}
        with pytest.raises(ValueError, match=f"{name} is {least - 1}"):
            router.cycles(**given)
    assert len(router.cycles(limit=0)) == 0
    with pytest.raises(AmountOutOfRange):
        router.best(USDC, WETH, amount_in=2**256)
    with pytest.raises(AmountOutOfRange):
        router.split(USDC, WETH, amount_in=2**127)
    with pytest.raises(InsufficientLiquidity):
        router.best(USDC, WETH, amount_out=10**40)
    with pytest.raises(InsufficientLiquidity):
        router.best(USDC, WETH, amount_in=0)
    with pytest.raises(UnknownToken):
        arena.Router(reader, numeraire="NONE")
    with pytest.raises(ValueError, match="pips"):
        arena.Router(reader, numeraire=WETH, fees={next(iter(reader)): 1_000_001})
    with pytest.raises(ValueError, match="protocols are"):
        arena.Gas(swaps={"curve": 1})
    with pytest.raises(ValueError, match="limit is -1"):
        router.cycles(limit=-1)
    for name in (USDC, b"USDC"):
        with pytest.raises(TypeError, match="a sequence of names"):
            router.cycles(through=name)
    for token in (10**11, None, [USDC], bytearray(20)):
        for ask in (router.token, router.price, lambda name: router.cycles(through=[name])):
            with pytest.raises(TypeError, match="a symbol, an address or a Token, not"):
                ask(token)  # type: ignore[operator]
        with pytest.raises(TypeError, match="a symbol, an address or a Token, not"):
            router.best(token, WETH, amount_in=1)
    with pytest.raises(UnknownPool):
        arena.Router(reader.group([]), numeraire=WETH)
    reader.close()
    with pytest.raises(ArenaClosed):
        router.update()


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), float("inf"), -float("inf"), 2**128])
def test_gas_is_whole_and_not_below_0(value: Any) -> None:
    for name in ("transaction", "tick", "price", "tip"):
        with pytest.raises(ValueError, match=f"gas: {name} is {value}, no whole number"):
            arena.Gas(**{name: value})
    with pytest.raises(ValueError, match=r"gas: swaps\['uniswap_v4'\] is"):
        arena.Gas(swaps={"uniswap_v4": value})


def test_the_most_gas_there_may_be_adds_up(reader: arena.Arena) -> None:
    most = (1 << 40) - 1
    dear = arena.Gas(most, dict.fromkeys(("uniswap_v2", "uniswap_v3", "uniswap_v4"), most), price=1)
    found = arena.Router(reader, numeraire=WETH, gas=dear).best(USDC, WETH, amount_in=10**10)
    assert found.gas == most * (1 + len(found.swaps)) + dear.tick * found.ticks_crossed
    assert found.gas_cost == pytest.approx(found.gas, rel=1e-12)


def test_profits_cannot_be_written(market: Market, router: arena.Router) -> None:
    market.block(shock_share=0.5, shock=(0.01, 0.1))
    router.update()
    found = router.cycles()
    for each in (found, found[1:]):
        with pytest.raises(ValueError, match="read-only"):
            each.profits[0] = 1.0
    assert len(router.cycles(limit=0)) == 0


def test_a_pool_that_comes_twice_is_named(reader: arena.Arena) -> None:
    key = next(iter(reader))
    with pytest.raises(ValueError, match=f"pool {key} comes twice"):
        arena.Router(reader.snapshot([key, key]), numeraire=reader[key].token0.address)


def test_threads_share_a_router(market: Market, router: arena.Router) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                router.update()
                found = router.best(USDC, WETH, amount_in=10**10)
                assert found.amount_out > 0
                router.cycles()
                router.prices()
        except BaseException as error:  # shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        market.block(touched=20, liquidity=2)
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_command_prints_a_route(
    market: Market, router: arena.Router, capsys: pytest.CaptureFixture[str]
) -> None:
    route([market.name, USDC, WETH, "10000", "--gas-price", "0", "--json"])
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    found = router.best(USDC, WETH, amount_in=10**10)
    assert int(shown["amount_out"]) == found.amount_out
    assert [swap["pool"] for swap in shown["swaps"]] == [swap.pool for swap in found.swaps]
    route([market.name, USDC, WETH, "10000", "--gas-price", "0"])
    assert (
        f"-> {Decimal(found.amount_out).scaleb(-18).normalize():f} WETH" in capsys.readouterr().out
    )
    for words in (
        [USDC, "NONE", "1"],
        [USDC, WETH, "1e999999"],
        [USDC, WETH, "1", "--gas-price", "x"],
    ):
        with pytest.raises(SystemExit) as end:
            route([market.name, *words])
        assert end.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("arena-route: ")


def test_the_command_prints_cycles(market: Market, capsys: pytest.CaptureFixture[str]) -> None:
    market.block(shock_share=0.5, shock=(0.01, 0.1))
    cycles([market.name, "--limit", "3", "--json", "--gas-price", "1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert [int(line["profit_wei"]) for line in lines] == sorted(
        (int(line["profit_wei"]) for line in lines), reverse=True
    )
    cycles([market.name, "--limit", "3"])
    assert "3 cycles" in capsys.readouterr().out


def test_a_watch_says_that_the_writer_is_lost_and_ends_with_its_reader(market: Market) -> None:
    program = "from arena.readers.routes.cli import cycles; cycles()"
    words = [sys.executable, "-P", "-c", program, market.name, "--watch", "--limit", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        try:
            assert watching.stdout.readline().startswith(f"block {market.head}: ")
            lost = f"arena-cycles: no living writer, waiting behind block {market.head}\n"
            assert watching.stderr.readline() == lost  # this one gives no sign between its commits
            market.block()
            while not watching.stdout.readline().startswith(f"block {market.head}: "):
                assert watching.poll() is None
            watching.stdout.close()
            assert watching.wait(timeout=10) == 0  # though no block follows
        finally:
            watching.kill()


# ---- arenas of a few pools, where everything is known

E18 = 10**18
COIN, DAI, GUSD = (
    TokenSpec(bytes([n]) * 20, decimals, symbol)
    for n, decimals, symbol in ((1, 18, WETH), (2, 18, "DAI"), (3, 2, "GUSD"))
)


def pair(
    n: int, a: TokenSpec, b: TokenSpec, reserve0: int, reserve1: int
) -> tuple[PoolSpec, PoolValues]:
    spec = PoolSpec(bytes([0xC0 + n]) * 20, slots.UNISWAP_V2, a, b, 3000)
    return spec, PoolValues(100, 3000, reserve0=reserve0, reserve1=reserve1)


def one_range(
    n: int, liquidity: int, low: int, high: int, *, fee: int = 500, lp_fee: int | None = None
) -> tuple[PoolSpec, PoolValues]:
    """Between the coin and DAI, at its lower end; of V4 with an LP fee."""
    price = sqrt_price_at_tick(low)
    ticks = ((low, liquidity, liquidity), (high, liquidity, -liquidity))
    state: dict[str, Any] = {"sqrt_price_x96": price, "tick": low, "liquidity": liquidity}
    if lp_fee is None:
        spec = PoolSpec(bytes([0xC0 + n]) * 20, slots.UNISWAP_V3, COIN, DAI, fee, 10)
        return spec, PoolValues(100, fee, ticks=ticks, **state)
    spec = PoolSpec(bytes([0xC0 + n]) * 32, slots.UNISWAP_V4, COIN, DAI, 0x800000, 10)
    more: dict[str, Any] = {"lp_fee": lp_fee, "protocol_fee": 0, "fee_block": 100}
    return spec, PoolValues(100, lp_fee, ticks=ticks, **state, **more)


@contextlib.contextmanager
def filled(
    name: str, *pools: tuple[PoolSpec, PoolValues], base_fee: int = 10**9
) -> Iterator[tuple[WriterArena, arena.Arena]]:
    with unlinked(WriterArena.create(name, max_pools=16, tick_bytes=1 << 20)) as writer:
        for spec, values in pools:
            writer.install(writer.add_pool(spec), values, slots.STATUS_LIVE)
        writer.set_head(100, base_fee=base_fee)
        writer.commit()
        writer.set_phase("live")
        with arena.attach(name, require_writer=False) as reader:
            yield writer, reader


def test_prices_are_those_of_the_reserves(arena_name: str) -> None:
    pools = (
        pair(1, COIN, DAI, 10 * E18, 30_000 * E18),
        pair(2, DAI, GUSD, 3_000 * E18, 2_990_00),
        pair(3, COIN, GUSD, 1, 1),  # thin: the path through DAI is wider
    )
    with filled(arena_name, *pools) as (_, reader):
        router = arena.Router(reader, numeraire=WETH)
        dai = 10 / 30_000
        assert router.price("DAI").value == pytest.approx(dai, rel=1e-12)
        assert router.price("GUSD").value == pytest.approx(dai * 3_000 * E18 / 2_990_00, rel=1e-12)
        assert router.price("GUSD").path == tuple("0x" + spec.key.hex() for spec, _ in pools[:2])


@pytest.mark.parametrize("reserves", [(E18, 0), (0, E18), (0, 0)])
def test_a_pair_without_a_reserve_is_left_out(arena_name: str, reserves: tuple[int, int]) -> None:
    """No swap goes through it; `sync` leaves such pairs where a token's balance is taken away."""
    pools = pair(1, COIN, DAI, 10 * E18, 30_000 * E18), pair(2, COIN, DAI, 5 * E18, 16_000 * E18)
    with filled(arena_name, *pools) as (writer, reader):
        router = arena.Router(reader, numeraire=WETH)
        assert len(router.cycles(everywhere=True)) == 1
        spec, values = pair(2, COIN, DAI, *reserves)
        writer.install(writer.add_pool(spec), values, slots.STATUS_LIVE)
        writer.commit()
        router.update()
        for each in (router, arena.Router(reader, numeraire=WETH)):
            assert (each.pools, each.left_out) == (2, 1)
            assert each.price("DAI").value == pytest.approx(10 / 30_000, rel=1e-12)
            assert len(each.cycles(everywhere=True)) == 0
            assert each.market().swaps == ()
            for sell, buy in ((WETH, "DAI"), ("DAI", WETH)):
                split = each.split(sell, buy, amount_in=E18)
                assert [swap.pool for swap in split.swaps] == ["0x" + pools[0][0].key.hex()]
        alone = reader.group(["0x" + spec.key.hex()])
        with pytest.raises(InsufficientLiquidity):
            arena.Router(alone, numeraire=WETH).best(WETH, "DAI", amount_in=E18)


@pytest.mark.parametrize("place", ["edge", "middle"])
def test_dust_with_much_virtual_liquidity_sets_no_price(arena_name: str, place: str) -> None:
    """A range one tick wide, far off the market: more than the other pool's reserves, by its looks."""
    tick, liquidity = 50_000, 10**26
    ends = [sqrt_price_at_tick(each) for each in (tick, tick + 1)]
    spec = PoolSpec(bytes([0xC9]) * 20, slots.UNISWAP_V3, COIN, DAI, 100, 1)
    dust = PoolValues(
        *(100, 100),
        sqrt_price_x96=ends[0] if place == "edge" else sum(ends) // 2,
        tick=tick,
        liquidity=liquidity,
        ticks=((tick, liquidity, liquidity), (tick + 1, liquidity, -liquidity)),
    )
    true = pair(1, COIN, DAI, 100_000 * E18, 300_000_000 * E18)
    virtual = liquidity * 2**96 // ends[0]
    assert virtual > 50 * 100_000 * E18, "of the coin"
    only, beside = pair(2, DAI, GUSD, 3_000 * E18, 3_000_00), pair(3, COIN, GUSD, E18, 3_000_00)
    with filled(arena_name, true, (spec, dust), only, beside) as (_, reader):
        router = arena.Router(reader, numeraire=WETH)
        assert router.price("DAI").value == pytest.approx(1 / 3_000, rel=1e-9)
        assert router.price("DAI").path == ("0x" + true[0].key.hex(),)
        with_gas = arena.Router(reader, numeraire="DAI", native=WETH, gas=arena.Gas(price=10**9))
        assert with_gas.best("DAI", WETH, amount_in=E18).gas_cost == pytest.approx(
            3_000 * 10**9 * with_gas.best("DAI", WETH, amount_in=E18).gas, rel=1e-9
        )


def test_what_lies_on_one_side_only_sets_no_price(arena_name: str) -> None:
    """All the coin of a pool far below the market is there for whoever pays too much: it is not wanted."""
    asked = one_range(2, 10**23, -60_000, -59_000)
    true = pair(1, COIN, DAI, 1_000 * E18, 1_000 * E18)
    with filled(arena_name, true, asked) as (_, reader):
        assert arena.Router(reader, numeraire=WETH).price("DAI").value == pytest.approx(1, rel=1e-3)


def test_a_token_whose_only_pool_has_ranges_beside_its_price_is_routed(arena_name: str) -> None:
    spec = PoolSpec(bytes([0xC9]) * 20, slots.UNISWAP_V3, COIN, DAI, 500, 10)
    liquidity = 10**24
    values = PoolValues(
        *(100, 500),
        sqrt_price_x96=sqrt_price_at_tick(0),
        tick=0,
        liquidity=0,
        ticks=(
            *((-2000, liquidity, liquidity), (-1000, liquidity, -liquidity)),
            *((1000, liquidity, liquidity), (2000, liquidity, -liquidity)),
        ),
    )
    with filled(arena_name, (spec, values), pair(2, DAI, GUSD, E18, 10**5)) as (_, reader):
        router = arena.Router(reader, numeraire=WETH)
        assert router.price("DAI").value == pytest.approx(1, rel=1e-3), "between the two ranges"
        key = "0x" + spec.key.hex()
        for sell, buy in ((WETH, "DAI"), ("DAI", WETH)):
            found = router.best(sell, buy, amount_in=E18)
            quote = reader[key].quote_exact_in(E18, zero_for_one=sell == WETH)
            assert found.amount_out == quote.amount_out > 0
            assert router.split(sell, buy, amount_in=E18).amount_out == quote.amount_out


def test_a_split_fills_ranges_up(arena_name: str) -> None:
    """Each takes less than its share of the amount: they are used up, and the pair takes the rest."""
    ranges = [one_range(n, 100 * E18 * n, -2000, -1980) for n in (2, 3, 4)]
    pools = pair(1, COIN, DAI, 10_000 * E18, 10_000 * E18), *ranges
    keys = ["0x" + spec.key.hex() for spec, _ in pools]
    with filled(arena_name, *pools) as (_, reader):
        router = arena.Router(reader, numeraire=WETH)
        split = router.split("DAI", WETH, amount_in=10 * E18)
        parts = {swap.pool: swap for swap in split.swaps}
        assert parts.keys() == set(keys)
        for key in keys[1:]:
            every = reader[key].quote_exact_in(100 * E18, zero_for_one=False)
            assert not every.is_complete
            assert parts[key].amount_in == pytest.approx(every.amount_in, rel=1e-9)
            assert parts[key].amount_out == pytest.approx(every.amount_out, rel=1e-9)
        assert parts[keys[0]].amount_in == 10 * E18 - sum(parts[key].amount_in for key in keys[1:])
        assert split.gap < 1e-10


def test_a_split_carries_what_no_path_does(arena_name: str) -> None:
    ranges = [one_range(n, 1000 * E18, -20, 0) for n in (1, 2, 3)]
    keys = ["0x" + spec.key.hex() for spec, _ in ranges]
    with filled(arena_name, *ranges) as (_, reader):
        router = arena.Router(reader, numeraire=WETH)
        full = reader[keys[0]].quote_exact_in(E18, zero_for_one=False)
        most = router.split("DAI", WETH, amount_in=3 * full.amount_in)
        assert most.amount_out == 3 * full.amount_out
        assert len(most.swaps) == 3
        with pytest.raises(InsufficientLiquidity, match="no path"):
            router.best("DAI", WETH, amount_in=2 * full.amount_in)
        with pytest.raises(InsufficientLiquidity, match="no pools between"):
            router.split("DAI", WETH, amount_in=3 * full.amount_in + 1)


def test_a_split_takes_a_circle_along(arena_name: str) -> None:
    """Two pools between tokens in the middle stand apart: what passes there gains, in both directions."""
    other = TokenSpec(bytes([4]) * 20, 18, "X")
    pools = (
        pair(1, COIN, DAI, 10_000 * E18, 10_000 * E18),
        pair(2, DAI, GUSD, 10_000 * E18, 10_000 * 10**14),
        pair(3, DAI, other, 1_000 * E18, 1_000 * E18),
        pair(4, DAI, other, 1_000 * E18, 1_050 * E18),
        pair(5, COIN, other, E18, E18),
        pair(6, GUSD, other, 10**14, E18),
    )
    with filled(arena_name, *pools) as (_, reader):
        router = arena.Router(reader, numeraire=WETH)
        split = router.split(WETH, "GUSD", amount_in=100 * E18)
        ends = [(swap.token_in.symbol, swap.token_out.symbol) for swap in split.swaps]
        assert ("DAI", "X") in ends
        assert ("X", "DAI") in ends
        assert split.gap < 1e-9


def test_a_fee_that_the_caller_knows_is_taken(arena_name: str) -> None:
    dynamic = one_range(1, 10**24, -1000, 1000, lp_fee=3000)
    key = "0x" + dynamic[0].key.hex()
    with filled(arena_name, dynamic, pair(2, COIN, DAI, E18, E18)) as (_, reader):
        assert arena.Router(reader, numeraire=WETH).left_out == 1
        router = arena.Router(reader, numeraire=WETH, fees={key: 777})
        assert router.left_out == 0
        other = "0x" + (bytes([0xC2]) * 20).hex()
        for known in (other, bytes([0xC2]) * 20):
            with pytest.raises(ValueError, match=f"pool {other} takes no fee"):
                arena.Router(reader, numeraire=WETH, fees={key: 777, known: 3000})
        with pytest.raises(TypeError):
            arena.Router(reader, numeraire=WETH, fees={key: 777.5})  # type: ignore[dict-item]
        absent = {key: 777, bytes(32): 3000}
        assert arena.Router(reader, numeraire=WETH, fees=absent).left_out == 0
        found = router.best("DAI", WETH, amount_in=E18)
        quote = reader[key].quote_exact_in(E18, zero_for_one=False, lp_fee=777)
        assert [swap.pool for swap in found.swaps] == [key]
        assert found.amount_out == quote.amount_out


def test_a_cycle_that_uses_up_a_range_is_found(arena_name: str) -> None:
    """Its best input is all that the range takes, which doubles may put a little above that."""
    for liquidity in range(100 * E18, 100 * E18 + 10 * 10**15, 10**15):
        pools = (
            pair(1, COIN, DAI, 10_000 * E18, 10_000 * E18),
            one_range(2, liquidity, -2000, -1980),
        )
        with filled(arena_name, *pools) as (_, reader):
            (found,) = arena.Router(reader, numeraire=WETH).cycles(everywhere=True)
        cheap = next(swap for swap in found.swaps if swap.token_in.symbol == "DAI")
        assert cheap.amount_out > liquidity // 2000
        assert found.profit > 0.1 * cheap.amount_out


def test_all_that_a_range_takes_or_gives_can_be_asked_for(arena_name: str) -> None:
    """To the last unit, where doubles may see the end before it."""
    for liquidity in range(100 * E18, 100 * E18 + 10 * 10**15, 10**15):
        with filled(arena_name, one_range(1, liquidity, -2000, -1980)) as (_, reader):
            router = arena.Router(reader, numeraire=WETH)
            pool = reader["0x" + (bytes([0xC1]) * 20).hex()]
            for is_out in (False, True):
                ask = pool.quote_exact_out if is_out else pool.quote_exact_in
                most, more = 1, 1 << 100
                while more - most > 1:
                    middle = (most + more) // 2
                    is_whole = ask(middle, zero_for_one=False).is_complete
                    most, more = (middle, more) if is_whole else (most, middle)
                side = "amount_out" if is_out else "amount_in"
                found = router.best("DAI", WETH, **{side: most})
                assert getattr(found, side) == most
                with pytest.raises(InsufficientLiquidity):
                    router.best("DAI", WETH, **{side: most + 1})


def test_a_failed_update_leaves_no_old_pools_under_a_new_arena(arena_name: str) -> None:
    with filled(arena_name, pair(1, COIN, DAI, E18 * 1000, E18 * 1000)) as (former, reader):
        former.set_head(101, base_fee=1)
        former.commit()  # of the number that the other arena will have come to
        router = arena.Router(reader, numeraire=WETH)
        assert router.best("DAI", WETH, amount_in=E18).amount_out < E18
        former.close(unlink=True)
        with unlinked(WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 20)) as writer:
            writer.set_head(90, base_fee=1)
            writer.commit()
            with pytest.raises(UnknownPool):
                router.update()
            assert not router.is_current
            spec, values = pair(1, COIN, DAI, E18 * 2000, E18 * 1000)
            writer.install(writer.add_pool(spec), values, slots.STATUS_LIVE)
            writer.set_head(100, base_fee=1)
            writer.commit()
            assert router.update().rebuilt
            assert router.best("DAI", WETH, amount_in=E18).amount_out > E18


def test_a_group_that_lost_a_member_is_routed_through_the_others(arena_name: str) -> None:
    pools = pair(1, COIN, DAI, E18, E18), pair(2, COIN, DAI, E18, E18)
    with filled(arena_name, *pools) as (writer, reader):
        router = arena.Router(reader.group([spec.key for spec, _ in pools]), numeraire=WETH)
        writer.remove_pool(writer.slot_of(pools[0][0].key))
        writer.commit()
        assert router.update().rebuilt
        assert router.pools == 1
        assert (
            router.best(WETH, "DAI", amount_in=1000).swaps[0].pool == "0x" + pools[1][0].key.hex()
        )


def test_gas_needs_a_price_and_a_coin(arena_name: str) -> None:
    pools = pair(1, COIN, DAI, E18, E18), pair(2, DAI, GUSD, E18, 10**5)
    with filled(arena_name, *pools, base_fee=0) as (_, reader):
        router = arena.Router(reader, numeraire=WETH, gas=arena.Gas())
        router.update()
        with pytest.raises(ValueError, match="no base fee"):
            router.best(WETH, "DAI", amount_in=1000)
        wrong = arena.Router(reader, numeraire="GUSD", gas=arena.Gas(price=1))
        with pytest.raises(ValueError, match="pass native"):
            wrong.best(WETH, "DAI", amount_in=1000)
        right = arena.Router(reader, numeraire="GUSD", gas=arena.Gas(price=1), native=WETH)
        assert right.best(WETH, "DAI", amount_in=1000).amount_out > 0
    with pytest.raises(TypeError, match="an Arena, a Group or a FrozenSnapshot"):
        arena.Router("pools", numeraire=WETH)  # type: ignore[arg-type]


@pytest.mark.parametrize("fee_pips", [3000, 100_000, 300_000])
def test_a_split_knows_the_fee_of_a_solidly_pair(arena_name: str, fee_pips: int) -> None:
    """Two equal pairs, one of each kind: the parts are those that leave both at one price after the fee,
    found here by trying shares on copies of the pairs."""
    tokens = (TokenSpec(b"\1" * 20, 18, "A"), TokenSpec(b"\2" * 20, 18, "B"))
    given, reserves = 10**24, {"reserve0": 10**24, "reserve1": 10**24}
    pairs = (
        PoolSpec(b"\x11" * 20, slots.UNISWAP_V2, *tokens, 3000),
        PoolSpec(b"\x12" * 20, slots.SOLIDLY, *tokens, 0, factory=b"\4" * 20),
    )
    with unlinked(WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16)) as writer:
        for spec, fee in zip(pairs, (3000, fee_pips), strict=True):
            writer.install(writer.add_pool(spec), PoolValues(9, fee, **reserves), slots.STATUS_LIVE)
        writer.set_head(9)
        writer.commit()
        with arena.attach(arena_name, require_writer=False) as reader:
            split = arena.Router(reader, numeraire="B").split("A", "B", amount_in=given)
            first, second = (reader[spec.key].freeze() for spec in pairs)
            most = max(
                first.quote_exact_in(given - part, zero_for_one=True).amount_out
                + (second.quote_exact_in(part, zero_for_one=True).amount_out if part else 0)
                for part in range(0, given, given // 1000)
            )
    assert split.amount_out >= most
    assert split.gap < 1e-6
