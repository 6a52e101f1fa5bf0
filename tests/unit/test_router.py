"""What a router answers and refuses, beside what it finds, which differential/ compares."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from builders.market import Market, make_market
from roles.processes import remove_segments

import arena
from arena.errors import (
    AmountOutOfRange,
    ArenaClosed,
    InsufficientLiquidity,
    UnknownPool,
    UnknownToken,
)
from arena.readers.routes.cli import amount, cycles, route, units

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
    market.block()
    assert router.best(USDC, WETH, amount_in=10**10) == before, "nothing moves by itself"
    update = router.update()
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
    with pytest.raises(ValueError, match="below 0"):
        arena.Gas(tick=-1)
    with pytest.raises(UnknownPool):
        arena.Router(reader.group([]), numeraire=WETH)
    reader.close()
    with pytest.raises(ArenaClosed):
        router.update()


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


def test_amounts_as_people_write_them(router: arena.Router) -> None:
    usdc = router.token(USDC)
    assert units("1.5", usdc) == 1_500_000
    assert amount(1_500_000, usdc) == "1.5"
    assert amount(10**12, usdc) == "1000000"
    for text in ("1.0000001", "nan", "1e-7", "one", "inf"):
        with pytest.raises(ValueError, match="no amount|more digits"):
            units(text, usdc)


def test_the_command_prints_a_route(
    market: Market, router: arena.Router, capsys: pytest.CaptureFixture[str]
) -> None:
    route([market.name, USDC, WETH, "10000", "--gas-price", "0", "--json"])
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    found = router.best(USDC, WETH, amount_in=10**10)
    assert int(shown["amount_out"]) == found.amount_out
    assert [swap["pool"] for swap in shown["swaps"]] == [swap.pool for swap in found.swaps]
    route([market.name, USDC, WETH, "10000", "--gas-price", "0"])
    assert f"-> {amount(found.amount_out, found.token_out)} WETH" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        route([market.name, USDC, "NONE", "1"])
    assert end.value.code == 2
    assert "UnknownToken" in capsys.readouterr().err


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
