"""Prices of a quote against exact fractions of the oracle's integers.

Method: pools of every protocol are asked for amounts of every size; spot, marginal and effective price and
the price impact are worked out here as fractions of what the oracle says, and each float has to be the one
nearest to its fraction.
"""

import copy
import json
import math
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from builders.arenas import unlinked
from builders.copies import frozen, words
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import swap_oracle as oracle

import arena
from arena.errors import QuoteError
from arena.layouts import slots
from arena.layouts.slots import SOLIDLY, UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.readers.quote import RESULT, make_quote
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

NAMES = ("spot_price", "marginal_price", "effective_price", "price_impact")
POSITIONS = ((-6000, 6000, 10**21), (-600, 1200, 7 * 10**20), (60, 120, 10**24))
NET: dict[int, int] = {}
for low, high, amount in POSITIONS:
    NET[low] = NET.get(low, 0) + amount
    NET[high] = NET.get(high, 0) - amount


class Prices(NamedTuple):
    spot: Fraction
    marginal: Fraction
    effective: Fraction | None
    impact: Fraction | None


def of_quote(quote: Any) -> tuple[float | None, ...]:
    return tuple(getattr(quote, name) for name in NAMES)


def as_floats(prices: Prices) -> tuple[float | None, ...]:
    """The nearest floats: a quotient of integers is rounded once in Python."""
    return tuple(None if each is None else each.numerator / each.denominator for each in prices)


def all_prices(
    spot: Fraction, marginal: Fraction, amount_in: int, amount_out: int, fee: Fraction
) -> Prices:
    if amount_in == 0:
        return Prices(spot, marginal, None, None)
    effective = Fraction(amount_out, amount_in)
    return Prices(spot, marginal, effective, 1 - effective / spot - fee)


def of_pair(pair: oracle.Pair, amount: int, zero_for_one: bool, exact_in: bool) -> Prices:
    """Prices of one swap, which the pair makes."""
    reserve_in, reserve_out = pair.ends(zero_for_one)
    spot = Fraction(reserve_out, reserve_in)
    amount_in, amount_out = pair.quote(amount, zero_for_one, exact_in)
    is_solidly = isinstance(pair, oracle.SolidlyPair)
    fee = Fraction(pair.fee, 10_000 if is_solidly else oracle.PIPS)
    after_in = reserve_in + amount_in
    if is_solidly:
        after_in -= amount_in * pair.fee // 10_000
    marginal = Fraction(reserve_out - amount_out, after_in)
    return all_prices(spot, marginal, amount_in, amount_out, fee)


def of_ticks(
    pool: oracle.ConcentratedPool, amount: int, zero_for_one: bool, exact_in: bool
) -> Prices:
    swapped = oracle.swap(pool, amount, zero_for_one, exact_in)
    before, after = (
        Fraction(root**2, 1 << 192) ** (1 if zero_for_one else -1)
        for root in (pool.sqrt_price, swapped.sqrt_price)
    )
    fee = Fraction(pool.fee, oracle.PIPS)
    return all_prices(before, after, swapped.amount_in, swapped.amount_out, fee)


def amounts(source: random.Random, bits: int) -> list[int]:
    return [source.getrandbits(source.randint(1, bits)) | 1 for _ in range(60)]


@pytest.mark.parametrize("protocol", [UNISWAP_V2, SOLIDLY])
def test_prices_of_pairs_are_the_nearest_floats(protocol: int) -> None:
    source = random.Random(protocol)
    compared = 0
    for _ in range(40):
        reserves = tuple(source.getrandbits(source.randint(20, 111)) | 1 for _ in range(2))
        fee = source.choice([100, 3000, 2500, 10000, 100 * source.randrange(9999)])
        pool = frozen(protocol, fee, reserves=(reserves[0], reserves[1]))
        kind = oracle.SolidlyPair if protocol == SOLIDLY else oracle.Pair
        pair = kind(*reserves, fee // 100 if protocol == SOLIDLY else fee)
        for amount in amounts(source, 120):
            zero_for_one = source.random() < 0.5
            exact_in = protocol == SOLIDLY or source.random() < 0.7
            ask = pool.quote_exact_in if exact_in else pool.quote_exact_out
            try:
                expected = of_pair(pair, amount, zero_for_one, exact_in)
            except oracle.RevertError:
                with pytest.raises(QuoteError):
                    ask(amount, zero_for_one=zero_for_one)
                continue
            quote = ask(amount, zero_for_one=zero_for_one)
            if expected.marginal == 0:  # a drained pair has none
                expected = expected._replace(marginal=None)  # type: ignore[arg-type]
            assert of_quote(quote) == as_floats(expected)
            assert (quote.zero_for_one, quote.fee_pips) == (zero_for_one, fee)
            compared += 1
    assert compared > 1000


@pytest.mark.parametrize("version", [3, 4])
def test_prices_of_concentrated_pools_are_the_nearest_floats(version: int) -> None:
    source = random.Random(version)
    compared = partial = 0
    for _ in range(30):
        tick = source.randint(-7000, 7000)
        root = oracle.sqrt_price_at_tick(tick) + source.getrandbits(60)
        fees = [source.choice([0, 100, 3000, 999_999]), 0, 0]
        if version == 4:  # on top of the LP fee, another one each way
            fees[1:] = [source.randrange(1001), source.randrange(1001)]
        liquidity = sum(amount for each, amount in NET.items() if each <= tick)
        pool = frozen(
            UNISWAP_V3 if version == 3 else UNISWAP_V4,
            fees[0],
            sqrt_price=root,
            tick=tick,
            liquidity=liquidity,
            spacing=60,
            net=sorted(NET.items()),
            protocol_fee=fees[1] | fees[2] << 12,
        )
        for amount in amounts(source, 100):
            zero_for_one = source.random() < 0.5
            fee = oracle.v4_total_fee(fees[1 if zero_for_one else 2], fees[0])
            exact_in = fee == oracle.PIPS or source.random() < 0.6
            truth = oracle.ConcentratedPool(version, root, tick, liquidity, fee, 60, NET)
            ask = pool.quote_exact_in if exact_in else pool.quote_exact_out
            quote = ask(amount, zero_for_one=zero_for_one)
            assert of_quote(quote) == as_floats(of_ticks(truth, amount, zero_for_one, exact_in))
            assert (quote.zero_for_one, quote.fee_pips) == (zero_for_one, fee)
            compared += 1
            partial += not quote.is_complete
    assert compared == 1800
    assert partial > 50


def test_the_impact_leaves_the_fee_out() -> None:
    """A swap that hardly moves the price has next to none, whatever the fee."""
    for fee in (0, 3000, 100_000):
        pool = frozen(UNISWAP_V2, fee, reserves=(10**30, 3 * 10**30))
        quote = pool.quote_exact_in(10**18, zero_for_one=True)
        assert quote.price_impact == pytest.approx(1e-12, rel=0.2)
        assert quote.spot_price == 3.0
        assert quote.effective_price == pytest.approx(3 * (1 - fee / 1e6))
    half = pool.quote_exact_in(10**30, zero_for_one=False)
    assert half.spot_price == 1 / 3
    assert half.marginal_price < half.effective_price < half.spot_price


def test_a_fee_rounded_down_gives_a_negative_impact() -> None:
    quote = frozen(SOLIDLY, 3000, reserves=(10**12, 10**18)).quote_exact_in(1, zero_for_one=True)
    assert quote.amount_out == 999_999
    assert quote.price_impact == -2999 / 10**6


def test_without_a_price_it_is_none() -> None:
    empty = frozen(SOLIDLY, 3000, reserves=(0, 5)).quote_exact_in(7, zero_for_one=True)
    assert of_quote(empty) == (None, None, 5 / 7, None)
    nothing = frozen(SOLIDLY, 3000, reserves=(10, 5)).quote_exact_in(0, zero_for_one=True)
    assert of_quote(nothing) == (0.5, 0.5, None, None)
    root = oracle.sqrt_price_at_tick(60)
    dry = frozen(UNISWAP_V3, 3000, sqrt_price=root, tick=60, spacing=60)
    quote = dry.quote_exact_in(10**18, zero_for_one=True)
    assert (quote.amount_in, quote.is_complete) == (0, False)
    assert quote.effective_price is quote.price_impact is None
    assert quote.spot_price == root**2 / (1 << 192)
    assert quote.marginal_price == (oracle.MIN_SQRT_PRICE + 1) ** 2 / (1 << 192)


wide = st.integers(1, 256).flatmap(lambda bits: st.integers(0, 2**bits - 1))


@given(wide, wide)
@example(2**53 + 1, 1)
@example(2**54 + 3, 2)
@example(3 * 2**200 + 1, 3 * 2**147)
@example(2**256 - 1, 1)
@example(1, 2**256 - 1)
@example(2**53 * 2**100 + 2**99, 2**100)
@example(2**53 * 2**100 + 2**99 + 1, 2**100)
def test_a_quotient_is_rounded_once(amount_out: int, amount_in: int) -> None:
    raw = np.zeros(1, RESULT)
    raw["amount_in"], raw["amount_out"] = words(amount_in, 4), words(amount_out, 4)
    expected = amount_out / amount_in if amount_in else None
    assert make_quote(raw.tobytes()).effective_price == expected


@given(st.binary(min_size=192, max_size=192), st.sampled_from([0, 1, 2, 16, 200]))
def test_prices_of_any_bytes_are_none_or_numbers(data: bytes, protocol: int) -> None:
    """Pickles may hold anything."""
    raw = bytearray(data)
    raw[122] = protocol
    for status in (raw[124:128], bytes(4)):
        raw[124:128] = status
        raw[187] = 0  # else most fees are none
        for price in of_quote(make_quote(raw)):
            assert price is None or math.isfinite(price)


# ---- through an arena


TOKENS = (TokenSpec(b"\x22" * 20, 18, "A"), TokenSpec(b"\x33" * 20, 6, "B"))
V3 = PoolSpec(b"\x12" * 20, UNISWAP_V3, *TOKENS, 3000, 60, factory=b"\x44" * 20, hooks=bytes(20))
V2 = PoolSpec(b"\x11" * 20, UNISWAP_V2, *TOKENS, 3000)
V4 = replace(V3, key=b"\x13" * 32, protocol=UNISWAP_V4)
PAIR = PoolSpec(b"\x14" * 20, SOLIDLY, *TOKENS, 0, factory=b"\x44" * 20)
TICKS = tuple((tick, abs(net), net) for tick, net in sorted(NET.items()))
PRICE = {
    "sqrt_price_x96": 1 << 96,
    "tick": 0,
    "liquidity": 10**21 + 7 * 10**20,
    "ticks": TICKS,
}
RESERVES = {"reserve0": 10**24, "reserve1": 3 * 10**24}
VALUES = {
    V2: PoolValues(9, 3000, **RESERVES),
    V3: PoolValues(9, 3000, **PRICE),
    V4: PoolValues(9, 3000, lp_fee=3000, protocol_fee=500 << 12 | 1000, **PRICE),
    PAIR: PoolValues(9, 2000, **RESERVES),
}


@pytest.fixture
def pools(arena_name: str) -> Iterator[arena.Arena]:
    with unlinked(WriterArena.create(arena_name, max_pools=8, tick_bytes=1 << 16)) as writer:
        for spec, values in VALUES.items():
            writer.install(writer.add_pool(spec), values, slots.STATUS_LIVE)
        writer.set_head(9)
        writer.commit()
        with arena.attach(arena_name) as found:
            yield found


def test_every_way_to_ask_gives_the_same_prices(pools: arena.Arena) -> None:
    given = [1, 10**15, 10**19, 10**22]
    for key in pools:
        pool = pools[key]
        for zero_for_one in (True, False):
            one = [pool.quote_exact_in(each, zero_for_one=zero_for_one) for each in given]
            expected = [of_quote(quote) for quote in one]
            assert all(None not in prices for prices in expected)
            held = pools.snapshot([key])[key]
            many = (
                pool.quote_many(given, zero_for_one=zero_for_one),
                pool.freeze().quote_many(given, zero_for_one=zero_for_one),
                held.quote_many(given, zero_for_one=zero_for_one),
                pool.ladder(zero_for_one=zero_for_one).quote(given),
                pools.quote_batch([key] * 4, given, zero_for_one=zero_for_one),
            )
            for batch in many:
                assert list(batch) == one
                assert [of_quote(quote) for quote in batch] == expected
                assert [quote.fee_pips for quote in batch] == [one[0].fee_pips] * 4
                assert arrays(batch) == expected
                assert arrays(batch[::2]) == expected[::2]
            for again in (pickle.loads(pickle.dumps(one[2])), copy.copy(one[2])):
                assert of_quote(again) == expected[2]
                assert again._raw == one[2]._raw


def arrays(batch: arena.QuoteBatch) -> list[tuple[float, ...]]:
    columns = (
        batch.spot_prices,
        batch.marginal_prices,
        batch.effective_prices,
        batch.price_impacts,
    )
    assert all(column.dtype == np.float64 and len(column) == len(batch) for column in columns)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_an_item_without_an_answer_has_no_price(pools: arena.Arena) -> None:
    batch = pools.quote_batch([V2.key, V2.key], [0, 5], zero_for_one=True)
    for column in (batch.spot_prices, batch.effective_prices, batch.price_impacts):
        assert np.isnan(column).tolist() == [True, False]
    assert len(batch[:0].price_impacts) == 0


def test_v4_prices_know_the_fee_of_the_protocol_each_way(pools: arena.Arena) -> None:
    fees = [
        pools[V4.key].quote_exact_in(10**15, zero_for_one=way).fee_pips for way in (True, False)
    ]
    assert fees == [1000 + 3000 - 3, 500 + 3000 - 1]


def test_the_command_prints_them(pools: arena.Arena, capsys: pytest.CaptureFixture[str]) -> None:
    from arena.readers.cli import quote as command

    expected = pools[V3.key].quote_exact_in(10**18, zero_for_one=False)
    arguments = [pools.name, "0x" + V3.key.hex(), str(10**18), "--one-for-zero"]
    command([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert tuple(found[name] for name in NAMES) == of_quote(expected)
    assert found["fee_pips"] == 3000
    command(arguments)
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(lines["price_impact"]) == expected.price_impact
    command([pools.name, "0x" + PAIR.key.hex(), "0"])
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lines["effective_price"] == "none"
