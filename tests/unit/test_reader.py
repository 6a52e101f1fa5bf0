"""Readers on a real arena: lookups, states, quotes, snapshots, waiting, health, life and pickling.

What a quote must answer is tested against the EVM elsewhere; here every way of asking must agree.
"""

import asyncio
import dataclasses
import json
import multiprocessing
import operator
import os
import pickle
import random
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from builders.arenas import unlinked
from roles.child import Child

import arena as package
from arena import errors
from arena.layouts import header, protocols, slots
from arena.layouts.words import from_limbs
from arena.native import lib
from arena.readers import Arena, FrozenPool, Pool, PoolState, Quote, Token, attach, frozen
from arena.readers.lookup import pin
from arena.readers.table import TABLE
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

ONE = TokenSpec(bytes(19) + b"\1", 18, "ONE")
TWO = TokenSpec(bytes(19) + b"\2", None, "TWÖ")
NATIVE = TokenSpec(bytes(20), 18, "ETH")
V2 = PoolSpec(b"\xaa" + b"\x11" * 19, slots.UNISWAP_V2, ONE, TWO, 3000)
V3 = PoolSpec(b"\xbb" + b"\x22" * 19, slots.UNISWAP_V3, ONE, TWO, 500, 10, b"\xfa" * 20)
V4 = PoolSpec(b"\xcc" + b"\x33" * 31, slots.UNISWAP_V4, NATIVE, TWO, 3000, 60, b"\xfb" * 20)
DYNAMIC = PoolSpec(b"\xdd" + b"\x44" * 31, slots.UNISWAP_V4, NATIVE, ONE, 0x800000, 60)
HOOKED = PoolSpec(
    b"\xee" + b"\x55" * 31, slots.UNISWAP_V4, NATIVE, ONE, 3000, 60, bytes(20), bytes(19) + b"\x80"
)
SPECS = (V2, V3, V4, DYNAMIC, HOOKED)
CL_TICKS = ((-6000, 9 * 10**20, 9 * 10**20), (-60, 10**20, 10**20), (60, 10**20, -(10**20)))
CL_TICKS = (*CL_TICKS, (6000, 9 * 10**20, -9 * 10**20))
CL = {"sqrt_price_x96": 1 << 96, "liquidity": 10**21, "ticks": CL_TICKS}
VALUES = {
    V2.key: PoolValues(100, 3000, reserve0=10**21, reserve1=3 * 10**21),
    V3.key: PoolValues(101, 500, **CL),
    V4.key: PoolValues(102, 3000, lp_fee=3000, protocol_fee=100 << 12 | 50, fee_block=99, **CL),
    DYNAMIC.key: PoolValues(103, 0, lp_fee=1234, fee_block=90, **CL),
    HOOKED.key: PoolValues(103, 0, lp_fee=3000, **CL),
}
HEAD = 104


def text(spec: PoolSpec) -> str:
    return "0x" + spec.key.hex()


def install(writer: WriterArena, spec: PoolSpec, **changes: Any) -> None:
    """Install a pool's values again, with changes."""
    slot = writer.add_pool(spec)
    fields = {name: getattr(VALUES[spec.key], name) for name in PoolValues.__slots__}
    writer.install(slot, PoolValues(**{**fields, **changes}), slots.STATUS_LIVE)


def fill(writer: WriterArena) -> None:
    for spec in SPECS:
        install(writer, spec)
    writer.set_head(HEAD, block_hash=b"\x77" * 32, timestamp=1700000000, base_fee=7)
    writer.commit()
    writer.set_phase("live")
    writer.heartbeat()


def make(name: str, **options: Any) -> WriterArena:
    return WriterArena.create(
        name, **{"max_pools": 32, "tick_bytes": 1 << 20, "chain_id": 1, **options}
    )


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(make(arena_name)) as found:
        fill(found)
        yield found


def next_block(writer: WriterArena, number: int, reserve0: int) -> None:
    """One commit that overwrites the V2 pool."""
    install(writer, V2, block_number=number, reserve0=reserve0)
    writer.set_head(number)
    writer.commit()


# Looking up


def test_keys_of_every_form_find_the_pool(pools: Arena) -> None:
    for spec in SPECS:
        key = text(spec)
        forms: list[Any] = [key, "0x" + key[2:].upper(), "0X" + key[2:], spec.key]
        for form in [*forms, bytearray(spec.key), memoryview(spec.key)]:
            assert pools[form].key == key
            assert form in pools
        assert pools[key] is pools[key]


def test_unknown_keys_raise_unknown_pool(pools: Arena) -> None:
    padded = "0x" + V2.key.ljust(32, b"\0").hex()  # the uniform key of a V2 pool is no pool id
    for key in ("0x" + "00" * 20, "0x" + "99" * 32, padded, b"\x99" * 20):
        assert key not in pools
        with pytest.raises(errors.UnknownPool) as caught:
            pools[key]
        assert isinstance(caught.value, KeyError)
        assert pools.name in str(caught.value)
        with pools.snapshot() as view:
            assert key not in view
            with pytest.raises(errors.UnknownPool):
                view[key]
    with pytest.raises(errors.UnknownPool):
        pools.snapshot([text(V2), padded])


@pytest.mark.parametrize("key", ["", "0x", "0x12", "aa" * 20, "0x" + "gg" * 20, b"", b"x" * 21])
def test_malformed_keys_are_value_errors(pools: Arena, key: Any) -> None:
    for use in (lambda: pools[key], lambda: key in pools, lambda: pools.snapshot([key])):
        with pytest.raises(ValueError, match="key"):
            use()


def test_keys_of_other_types_are_type_errors(pools: Arena) -> None:
    for key in (5, None, ["0x" + "11" * 20]):
        with pytest.raises(TypeError):
            pools[key]  # type: ignore[index]


def test_len_and_iteration_show_committed_pools_only(writer: WriterArena, pools: Arena) -> None:
    assert list(pools) == [text(spec) for spec in SPECS]
    assert len(pools) == len(SPECS)
    extra = PoolSpec(b"\x12" * 20, slots.UNISWAP_V2, ONE, TWO, 3000)
    slot = writer.add_pool(extra)
    assert text(extra) not in pools
    writer.install(slot, PoolValues(1, 3000, reserve0=1, reserve1=1), slots.STATUS_LIVE)
    assert text(extra) not in pools
    assert len(pools) == len(SPECS)
    writer.commit()
    assert text(extra) in pools
    assert len(pools) == len(SPECS) + 1
    assert pools[text(extra)].state().reserve0 == 1


def test_removed_pools_vanish_and_handles_say_so(writer: WriterArena, pools: Arena) -> None:
    before = pools[text(V2)]
    with pools.snapshot() as view:
        writer.remove_pool(0)
        writer.commit()
        assert view[text(V2)].status == "live"
    assert text(V2) not in pools
    assert text(V2) not in list(pools)
    assert before.status == "removed"
    with pytest.raises(errors.PoolRemoved):
        before.quote_exact_in(1000, zero_for_one=True)
    with pytest.raises(errors.UnknownPool):
        pools.snapshot([text(V2)])


def test_empty_arena_has_no_pools_and_no_head(arena_name: str) -> None:
    with make(arena_name) as writer, attach(arena_name) as pools:
        writer.add_pool(V2)
        assert (len(pools), list(pools), pools.head_block, pools.committed) == (0, [], 0, 0)
        with pools.snapshot() as view:
            assert (view.block_number, view.commit, len(view), view.block_hash) == (0, 0, 0, None)
            assert len(view.table()) == 0
            assert text(V2) not in view
            with pytest.raises(errors.UnknownPool):
                view[text(V2)]
        with pytest.raises(errors.UnknownPool):
            pools.snapshot([text(V2)])
        assert len(pools.snapshot([])) == 0
        writer.close(unlink=True)


# States


def expected_state(spec: PoolSpec) -> PoolState:
    values = VALUES[spec.key]
    tokens = [
        Token("0x" + token.address.hex(), token.decimals, token.symbol)
        for token in (spec.token0, spec.token1)
    ]
    fields: dict[str, Any] = {
        "protocol": ("uniswap_v2", "uniswap_v3", "uniswap_v4")[spec.protocol],
        "pool_key": text(spec),
        "block_number": values.block_number,
        "base_block": values.block_number,
        "tx_index": 0,
        "log_index": 0,
        "status": "live",
        "token0": tokens[0],
        "token1": tokens[1],
        "fee_pips": spec.fee_pips,
        "factory": "0x" + spec.factory.hex(),
    }
    if spec.protocol == slots.UNISWAP_V2:
        return PoolState(**fields, reserve0=values.reserve0, reserve1=values.reserve1)
    fields |= {name: getattr(values, name) for name in ("sqrt_price_x96", "tick", "liquidity")}
    fields |= {"ticks": values.ticks, "tick_spacing": spec.tick_spacing}
    if spec.protocol == slots.UNISWAP_V4:
        fields |= {name: getattr(values, name) for name in ("protocol_fee", "lp_fee", "fee_block")}
        fields["hooks"] = "0x" + spec.hooks.hex()
    return PoolState(**fields)


def test_state_is_what_was_installed_however_it_is_read(pools: Arena) -> None:
    frozen = pools.snapshot(list(pools))
    with pools.snapshot() as view:
        for spec in SPECS:
            expected = expected_state(spec)
            key = text(spec)
            assert pools[key].state() == expected
            assert view[key].state() == expected
            assert pools[key].freeze().state() == expected
            assert frozen[key].state() == expected
            assert pickle.loads(pickle.dumps(frozen))[key].state() == expected
            assert pickle.loads(pickle.dumps(pools[key].freeze())).state() == expected
            for pool in (pools[key], view[key], frozen[key]):
                assert pool.status == "live"
                assert pool.protocol == expected.protocol
                assert (pool.token0, pool.token1) == (expected.token0, expected.token1)
            assert pools[key].block_number == expected.block_number


def test_extreme_values_survive(writer: WriterArena, pools: Arena) -> None:
    high = (1 << 112) - 1
    install(writer, V2, reserve0=high, reserve1=high)
    net = (1 << 127) - 1
    ticks = ((-887270, net, net), (887270, net, -net))
    # The highest price of a range that ends at tick 887270: between 2**159 and 2**160.
    price = 1461373636630004318706518188784493106690254656249
    install(writer, V3, sqrt_price_x96=price, tick=887269, liquidity=net, ticks=ticks)
    writer.commit()
    assert pools[text(V2)].state().reserve0 == high
    state = pools[text(V3)].state()
    assert (state.sqrt_price_x96, state.tick, state.liquidity) == (price, 887269, net)
    assert state.ticks == ticks
    table = pools.snapshot().table()
    assert from_limbs(table["sqrt_price_x96"][1]) == price
    assert from_limbs(table["reserve1"][0]) == high


def test_many_ticks_are_copied_whole(writer: WriterArena, pools: Arena) -> None:
    """More than any first guess of a buffer."""
    ticks = tuple((10 * n, 5, 5 if n < 0 else -5) for n in (*range(-700, 0), *range(1, 701)))
    install(writer, V3, liquidity=3500, ticks=ticks)
    writer.commit()
    assert pools[text(V3)].state().ticks == ticks
    assert pools.snapshot([text(V2), text(V3), text(V4)])[text(V3)].state().ticks == ticks


def test_statuses_have_names_and_stale_pools_refuse_quotes(
    writer: WriterArena, pools: Arena
) -> None:
    pool = pools[text(V2)]
    answer = pool.quote_exact_in(1000, zero_for_one=True)
    for number, name in ((slots.STATUS_SYNCING, "syncing"), (slots.STATUS_STALE, "stale")):
        writer.set_status(0, number, slots.UNSURE_ALL)
        writer.commit()
        assert pool.status == pool.state().status == name
        for asked in (pool, pool.freeze()):
            with pytest.raises(errors.PoolStale, match="allow_stale"):
                asked.quote_exact_in(1000, zero_for_one=True)
            assert asked.quote_exact_in(1000, zero_for_one=True, allow_stale=True) == answer


# Quotes


def ask(pool: Any, amount: int, *, exact_out: bool, **options: Any) -> Quote | type[Exception]:
    """The answer, or the class of the error."""
    function = pool.quote_exact_out if exact_out else pool.quote_exact_in
    try:
        found: Quote = function(amount, **options)
    except Exception as error:
        return type(error)
    return found


AMOUNTS = [0, 1, 1000, 10**15, 10**18, 10**20, 3 * 10**21, 10**24, 1 << 112, 1 << 127, 1 << 255]


@pytest.mark.parametrize("exact_out", [False, True])
@pytest.mark.parametrize("zero_for_one", [False, True])
@pytest.mark.parametrize("spec", [V2, V3, V4], ids=["v2", "v3", "v4"])
def test_every_way_to_ask_gives_the_same_answer(
    pools: Arena, spec: PoolSpec, zero_for_one: bool, exact_out: bool, rng: random.Random
) -> None:
    key = text(spec)
    live = pools[key]
    frozen = pools.snapshot([key])[key]
    amounts = AMOUNTS + [rng.randrange(10 ** rng.randrange(1, 26)) for _ in range(40)]
    way = {"zero_for_one": zero_for_one, "exact_out": exact_out}
    answers = [ask(live, amount, **way) for amount in amounts]
    assert any(isinstance(answer, Quote) for answer in answers)
    with pools.snapshot() as view:
        for pool in (view[key], frozen, live.freeze(), pickle.loads(pickle.dumps(live))):
            assert [ask(pool, amount, **way) for amount in amounts] == answers
        batches = [
            live.quote_many(amounts, **way),
            frozen.quote_many(amounts, **way),
            view[key].quote_many(amounts, **way),
            live.ladder(**way).quote(amounts),
            pickle.loads(pickle.dumps(frozen.ladder(**way))).quote(amounts),
            pools.quote_batch([key] * len(amounts), amounts, **way),
            view.quote_batch([live] * len(amounts), amounts, **way),
        ]
    for batch in batches:
        assert len(batch) == len(amounts)
        for index, answer in enumerate(answers):
            if isinstance(answer, Quote):
                assert batch[index] == answer
                assert batch.error(index) is None
                assert batch.amounts_in[index] == answer.amount_in
                assert batch.amounts_out[index] == answer.amount_out
            else:
                assert type(batch.error(index)) is answer
                with pytest.raises(answer):
                    batch[index]
                assert batch.amounts_out[index] == 0


def test_quote_fields_are_plain_and_complete(pools: Arena) -> None:
    found = pools[text(V3)].quote_exact_in(10**18, zero_for_one=True)
    assert found.amount_in == 10**18
    assert 0 < found.amount_out < 10**18
    assert found.sqrt_price_x96_after < 1 << 96
    assert found.tick_after < 0
    assert found.liquidity_after == 10**21
    assert (found.ticks_crossed, found.is_complete) == (0, True)
    assert found.block_number == VALUES[V3.key].block_number
    assert found.commit == 1
    for name in ("amount_in", "amount_out", "sqrt_price_x96_after", "tick_after"):
        assert type(getattr(found, name)) is int
        assert f"{name}={getattr(found, name)}" in repr(found)
    assert type(found.is_complete) is bool
    assert pickle.loads(pickle.dumps(found)) == found
    assert hash(pickle.loads(pickle.dumps(found))) == hash(found)
    assert found != pools[text(V3)].quote_exact_in(10**18 + 1, zero_for_one=True)
    assert found != "quote"
    crossing = pools[text(V3)].quote_exact_in(10**19, zero_for_one=True)
    assert (crossing.ticks_crossed, crossing.liquidity_after) == (1, 9 * 10**20)


def test_v2_quote_is_the_routers_formula(pools: Arena, rng: random.Random) -> None:
    pool = pools[text(V2)]
    reserve_in, reserve_out = VALUES[V2.key].reserve0, VALUES[V2.key].reserve1
    for _ in range(50):
        amount = rng.randrange(1, 10 ** rng.randrange(2, 22))
        paid = amount * 997
        out = paid * reserve_out // (reserve_in * 1000 + paid)
        assert pool.quote_exact_in(amount, zero_for_one=True).amount_out == out
        wanted = rng.randrange(1, reserve_out)
        needed = reserve_in * wanted * 1000 // ((reserve_out - wanted) * 997) + 1
        if needed < 1 << 112:
            assert pool.quote_exact_out(wanted, zero_for_one=True).amount_in == needed


def test_price_limit_stops_the_swap(pools: Arena) -> None:
    limit = (1 << 96) - (1 << 80)
    frozen = pools[text(V3)].freeze()
    for pool in (pools[text(V3)], frozen):
        found = pool.quote_exact_in(10**20, zero_for_one=True, sqrt_price_limit_x96=limit)
        assert (found.sqrt_price_x96_after, found.is_complete) == (limit, False)
        assert found.amount_in < 10**20
        for wrong in (1 << 96, (1 << 96) + 1, 0):
            with pytest.raises(errors.PriceLimitReached):
                pool.quote_exact_in(10, zero_for_one=True, sqrt_price_limit_x96=wrong)
        for wrong in (-1, 1 << 256):
            with pytest.raises(ValueError, match="Q64.96"):
                pool.quote_exact_out(10, zero_for_one=True, sqrt_price_limit_x96=wrong)
    with pytest.raises(ValueError, match="limit"):
        pools[text(V2)].quote_exact_in(10, zero_for_one=True, sqrt_price_limit_x96=limit)
    with pytest.raises(ValueError, match="limit"):
        frozen.ladder(zero_for_one=True, sqrt_price_limit_x96=limit)


@pytest.mark.parametrize("amount", [-1, 1 << 256, -(1 << 300)])
def test_amounts_outside_uint256_are_out_of_range(pools: Arena, amount: int) -> None:
    for pool in (pools[text(V2)], pools[text(V2)].freeze()):
        for use in (
            lambda pool=pool: pool.quote_exact_in(amount, zero_for_one=True),
            lambda pool=pool: pool.quote_exact_out(amount, zero_for_one=True, allow_stale=True),
            lambda pool=pool: pool.quote_many([1, amount], zero_for_one=True),
            lambda pool=pool: pool.ladder(zero_for_one=True).quote([amount]),
        ):
            with pytest.raises(errors.AmountOutOfRange) as caught:
                use()
            assert isinstance(caught.value, ValueError)


def test_numpy_integers_are_amounts_and_floats_are_not(pools: Arena) -> None:
    pool = pools[text(V2)]
    expected = pool.quote_exact_in(1000, zero_for_one=True)
    assert pool.quote_exact_in(np.uint64(1000), zero_for_one=True) == expected  # type: ignore[arg-type]
    assert pool.quote_many(np.array([1000], np.uint64), zero_for_one=True)[0] == expected
    words = np.array([[1000, 0, 0, 0]], np.uint64)
    assert pool.quote_many(words, zero_for_one=True)[0] == expected
    for wrong in (1000.0, "1000", None):
        with pytest.raises(TypeError):
            pool.quote_exact_in(wrong, zero_for_one=True)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            pool.quote_many([wrong], zero_for_one=True)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        pool.quote_exact_in(1000, zero_for_one=True, slippage=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.quote_exact_in(1000, True)  # type: ignore[misc]
    with pytest.raises(ValueError, match="shape"):
        pool.quote_many(np.zeros((2, 3), np.uint64), zero_for_one=True)


def test_dynamic_fee_pools_want_a_fee_or_leave(pools: Arena) -> None:
    for pool in (pools[text(DYNAMIC)], pools[text(DYNAMIC)].freeze()):
        with pytest.raises(errors.DynamicFee, match="lp_fee"):
            pool.quote_exact_in(10**18, zero_for_one=True)
        stored = pool.quote_exact_in(10**18, zero_for_one=True, allow_dynamic_fee=True)
        assert stored == pool.quote_exact_in(10**18, zero_for_one=True, lp_fee=1234)
        other = pool.quote_exact_in(10**18, zero_for_one=True, lp_fee=0)
        assert other.amount_out > stored.amount_out
        ladder = pool.ladder(zero_for_one=True, lp_fee=1234)
        assert ladder.quote(10**18) == stored
        many = pool.quote_many([10**18], zero_for_one=True, allow_dynamic_fee=True)
        assert many[0] == stored
        for fee in (-1, 1_000_001):
            with pytest.raises(ValueError, match="lp_fee"):
                pool.quote_exact_in(10**18, zero_for_one=True, lp_fee=fee)
        with pytest.raises(errors.DynamicFee):
            pool.ladder(zero_for_one=True)


def test_hooked_pools_refuse_every_quote(pools: Arena) -> None:
    for pool in (pools[text(HOOKED)], pools[text(HOOKED)].freeze()):
        for options in ({}, {"lp_fee": 3000}, {"allow_dynamic_fee": True}):
            with pytest.raises(errors.HookedPool, match="allow_hooks"):
                pool.quote_exact_out(10, zero_for_one=False, **options)
    assert pools.quote_batch([text(HOOKED)], 10, zero_for_one=True).error(0) is not None


@pytest.mark.parametrize("exact_out", [False, True])
def test_hooks_that_only_set_the_fee_may_be_allowed_with_it(pools: Arena, exact_out: bool) -> None:
    """The dynamic-fee pool has the same curve and no hooks in swaps."""
    told: dict[str, Any] = {"lp_fee": 777, "allow_hooks": True}
    plain = pools[text(DYNAMIC)]
    ask = operator.attrgetter("quote_exact_out" if exact_out else "quote_exact_in")
    expected = ask(plain)(10**18, zero_for_one=True, lp_fee=777)
    with pools.snapshot() as view:
        copy = pools.snapshot([text(HOOKED)])[text(HOOKED)]
        for pool in (
            pools[text(HOOKED)],
            view[text(HOOKED)],
            copy,
            pickle.loads(pickle.dumps(copy)),
        ):
            found = ask(pool)(10**18, zero_for_one=True, **told)
            assert (found.amount_in, found.amount_out) == (expected.amount_in, expected.amount_out)
            many = pool.quote_many([10**18], zero_for_one=True, exact_out=exact_out, **told)
            assert many[0] == found
            assert (
                pool.ladder(zero_for_one=True, exact_out=exact_out, **told).quote(10**18) == found
            )
            with pytest.raises(ValueError, match="lp_fee"):
                ask(pool)(10**18, zero_for_one=True, allow_hooks=True)
            with pytest.raises(ValueError, match="lp_fee"):
                pool.quote_many([1], zero_for_one=True, allow_hooks=True)
    with pytest.raises(ValueError, match="lp_fee"):  # no hooks, and a fee that cannot change
        pools[text(V4)].quote_exact_in(1, zero_for_one=True, **told)


def test_errors_name_pool_and_amount(pools: Arena) -> None:
    with pytest.raises(errors.InsufficientLiquidity) as caught:
        pools[text(V2)].quote_exact_out(10**30, zero_for_one=True)
    assert text(V2) in str(caught.value)
    assert str(10**30) in str(caught.value)
    assert (caught.value.key, caught.value.amount) == (text(V2), 10**30)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), errors.InsufficientLiquidity)


def test_mixed_batches_match_single_quotes(pools: Arena) -> None:
    keys = [text(V2), text(V3), text(V4), text(HOOKED), text(V2)]
    amounts = [10**18, 10**19, 5, 10**18, 0]
    ways = [True, False, True, True, False]
    numbers = pools.slots(keys)
    assert (numbers & 0xFFFFFFFF).tolist() == [0, 1, 2, 4, 0]
    generations = set((numbers >> np.uint64(32)).tolist())
    assert len(generations) == 1
    assert 0 not in generations
    with pools.snapshot() as view:
        found = [
            pools.quote_batch(keys, amounts, zero_for_one=ways),
            pools.quote_batch([pools[key] for key in keys], amounts, zero_for_one=np.array(ways)),
            view.quote_batch(numbers, amounts, zero_for_one=ways),
        ]
    for batch in found:
        assert batch.statuses.tolist() == [
            0,
            0,
            0,
            lib.PSA_HOOKED_POOL,
            lib.PSA_AMOUNT_OUT_OF_RANGE,
        ]
        for index in range(3):
            assert batch[index] == pools[keys[index]].quote_exact_in(
                amounts[index], zero_for_one=ways[index]
            )
        assert "2 without" in repr(batch)
        assert len(batch[1:3]) == 2
        assert batch[1:3][0] == batch[1]
        with pytest.raises(errors.HookedPool, match="ee5555"):
            list(batch)
        with pytest.raises(IndexError):
            batch[5]
        with pytest.raises(errors.AmountOutOfRange):
            batch[-1]
    one = pools.quote_batch(keys[:3], 10**18, zero_for_one=True)
    assert one.amounts_in == [10**18] * 3
    assert len(pools.quote_batch([], [], zero_for_one=True)) == 0
    assert len(pools[text(V2)].quote_many([], zero_for_one=True)) == 0
    with pytest.raises(ValueError, match="2 pools and 1 amounts"):
        pools.quote_batch(keys[:2], [5], zero_for_one=True)
    with pytest.raises(ValueError, match="2 pools and 3 directions"):
        pools.quote_batch(keys[:2], 5, zero_for_one=[True] * 3)
    with pytest.raises(ValueError, match="slot 5 is not"):
        pools.quote_batch(np.array([0, 5], np.uint32), 5, zero_for_one=True)
    with pytest.raises(errors.UnknownPool):
        pools.quote_batch(["0x" + "99" * 20], 5, zero_for_one=True)


def test_contended_quotes_are_answered_from_a_copy(
    writer: WriterArena, pools: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer wins three times: the pool is copied and the copy quoted.

    Both versions are newer than the commit that quotes begin at, until the copy is made.
    """
    install(writer, V3)
    writer.commit()
    pool = pools[text(V3)]
    limit = (1 << 96) - (1 << 80)
    ways: list[Callable[[], Any]] = [
        lambda: pool.quote_exact_in(10**18, zero_for_one=True),
        lambda: pool.quote_exact_out(1 << 64, zero_for_one=False),
        lambda: pool.quote_exact_in(10**21, zero_for_one=True, sqrt_price_limit_x96=limit),
        lambda: pool.quote_many([1 << 64], zero_for_one=True)[0],
    ]
    expected = [ask() for ask in ways]
    header, copies = writer._live().header, 0
    committed = header.committed
    copy = Pool._copy

    def let_go(self: Pool) -> FrozenPool:
        nonlocal copies
        copies += 1
        header.committed = committed
        return copy(self)

    monkeypatch.setattr(Pool, "_copy", let_go)
    for count, (ask, answer) in enumerate(zip(ways, expected, strict=True), 1):
        header.committed = 0
        assert ask() == answer
        assert copies == count


def test_reentrant_and_threaded_quotes_do_not_mix(pools: Arena) -> None:
    """Each thread must get its own answer."""
    expected = {
        amount: (
            pools[text(V2)].quote_exact_in(amount, zero_for_one=True),
            pools[text(V3)].quote_exact_in(amount, zero_for_one=False),
        )
        for amount in range(10**15, 10**15 + 64)
    }
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            for amount, (first, second) in expected.items():
                if pools[text(V2)].quote_exact_in(amount, zero_for_one=True) != first:
                    wrong.append(amount)
                if pools[text(V3)].quote_exact_in(amount, zero_for_one=False) != second:
                    wrong.append(amount)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Snapshots


def test_snapshot_stays_at_its_block(writer: WriterArena, pools: Arena) -> None:
    with pools.snapshot() as view:
        assert (view.block_number, view.commit) == (HEAD, 1)
        assert (view.timestamp, view.base_fee, view.block_hash) == (
            1700000000,
            7,
            "0x" + "77" * 32,
        )
        before = view[text(V2)].state()
        quote = view[text(V2)].quote_exact_in(10**18, zero_for_one=True)
        next_block(writer, HEAD + 1, 10**22)
        assert pools.head_block == HEAD + 1
        assert view.block_number == HEAD
        assert view[text(V2)].state() == before
        assert view[text(V2)].quote_exact_in(10**18, zero_for_one=True) == quote
        assert pools[text(V2)].quote_exact_in(10**18, zero_for_one=True) != quote
        next_block(writer, HEAD + 2, 10**23)
        pool = view[text(V3)]  # not overwritten: still readable
        assert pool.state() == expected_state(V3)
        for use in (
            lambda: view[text(V2)].state(),
            lambda: view[text(V2)].quote_exact_in(1, zero_for_one=True),
            lambda: view[text(V2)].status,
            lambda: view.table(),
            lambda: len(view),
            lambda: view.lines(np.array([0], np.uint32)),
        ):
            with pytest.raises(errors.SnapshotTooOld):
                use()
        assert view.quote_batch([text(V2)], 5, zero_for_one=True).statuses.tolist() == [
            lib.PSA_SNAPSHOT_TOO_OLD
        ]


def test_frozen_snapshot_stays_valid_for_ever(writer: WriterArena, pools: Arena) -> None:
    frozen = pools.snapshot([text(V2), V3.key])
    expected = {key: frozen[key].state() for key in frozen}
    answer = frozen[text(V3)].quote_exact_in(10**19, zero_for_one=True)
    for number in range(1, 10):
        next_block(writer, HEAD + number, 10**20 + number)
        install(
            writer, V3, liquidity=10**18, ticks=((-60, 10**18, 10**18), (60, 10**18, -(10**18)))
        )
        writer.commit()
    pools.close()
    writer.close(unlink=True)
    copy = pickle.loads(pickle.dumps(frozen))
    for found in (frozen, copy):
        assert found.block_number == HEAD
        assert list(found) == [text(V2), text(V3)]
        assert len(found) == 2
        assert V2.key in found
        assert text(V4) not in found
        assert {key: found[key].state() for key in found} == expected
        assert found[V3.key].quote_exact_in(10**19, zero_for_one=True) == answer
        with pytest.raises(errors.UnknownPool):
            found[text(V4)]


def test_closed_snapshot_refuses_use(pools: Arena) -> None:
    with pools.snapshot() as view:
        pool = view[text(V2)]
    for use in (
        lambda: view[text(V2)],
        lambda: text(V2) in view,
        lambda: len(view),
        lambda: view.table(),
        lambda: pool.state(),
        lambda: pool.quote_exact_in(1, zero_for_one=True),
        lambda: pool.quote_many([1], zero_for_one=True),
        lambda: pool.status,
    ):
        with pytest.raises(errors.ArenaClosed):
            use()
    view.close()


def test_at_one_block_repeats_until_the_view_holds(writer: WriterArena, pools: Arena) -> None:
    seen: list[int] = []

    def read(view: Any) -> tuple[int, int | None]:
        seen.append(view.block_number)
        if len(seen) < 3:
            for _ in range(2):
                next_block(writer, pools.head_block + 1, pools.head_block)
        return view.block_number, view[text(V2)].state().reserve0

    block, reserve0 = pools.at_one_block(read)
    assert seen == [HEAD, HEAD + 2, HEAD + 4]
    assert (block, reserve0) == (HEAD + 4, HEAD + 3)


def test_at_one_block_gives_up_within_its_budget(writer: WriterArena, pools: Arena) -> None:
    tries = 0

    def read(view: Any) -> None:
        nonlocal tries
        tries += 1
        for _ in range(2):
            next_block(writer, pools.head_block + 1, pools.head_block)
        view[text(V2)].state()

    with pytest.raises(errors.SnapshotContended, match="3 tries") as caught:
        pools.at_one_block(read, budget=3)
    assert tries == 3
    assert isinstance(caught.value.__cause__, errors.SnapshotTooOld)


@pytest.mark.parametrize(
    ("tries", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("3", TypeError), (True, TypeError)],
)
def test_at_least_one_try_is_made(pools: Arena, tries: Any, error: type[Exception]) -> None:
    asked: list[Any] = []
    with pytest.raises(error, match="budget is"):
        pools.at_one_block(asked.append, budget=tries)
    assert asked == []
    for keys in (None, [], [text(V2)]):
        with pytest.raises(error, match="tries is"):
            pools.snapshot(keys, tries=tries)
    assert pools.at_one_block(len, budget=1) == len(SPECS)
    assert len(pools.snapshot([text(V2)], tries=1)) == 1


def test_at_one_block_passes_other_errors_on(pools: Arena) -> None:
    with pytest.raises(errors.UnknownPool):
        pools.at_one_block(lambda view: view["0x" + "99" * 20])


BUSY_WRITER = """
import sys, threading
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena
w = WriterArena.create(sys.argv[1], max_pools=16, tick_bytes=1 << 20)
t = TokenSpec(bytes(20), 18, "T")
first = w.add_pool(PoolSpec(b"\\x01" * 20, 0, t, t, 3000))
second = w.add_pool(PoolSpec(b"\\x02" * 20, 1, t, t, 500, 10))
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set())).start()
n = 0
while not stop.is_set():
    n += 1
    ticks = tuple((tick, n, n if tick < 0 else -n) for tick in (-60 - 10 * (n % 7), 60))
    w.install(first, PoolValues(n, 3000, reserve0=n, reserve1=3 * n), 2)
    w.install(second, PoolValues(n, 500, sqrt_price_x96=1 << 96, liquidity=n, ticks=ticks), 2)
    w.set_head(n)
    w.commit()
    if n == 1:
        print("ready", flush=True)
w.close(unlink=True)
"""


def test_no_view_mixes_blocks_while_a_writer_runs_flat_out(arena_name: str) -> None:
    """Every number the writer stores in block n is made from n."""
    keys = ["0x" + "01" * 20, "0x" + "02" * 20]

    def check(block: int, first: PoolState, second: PoolState) -> None:
        assert (first.reserve0, first.reserve1) == (block, 3 * block)
        assert second.liquidity == block
        assert second.ticks is not None
        assert [gross for _, gross, _ in second.ticks] == [block] * 2
        assert second.ticks[0][0] == -60 - 10 * (block % 7)
        assert (first.block_number, second.block_number) == (block, block)

    def pinned(view: Any) -> tuple[int, PoolState, PoolState]:
        return view.block_number, view[keys[0]].state(), view[keys[1]].state()

    def table(view: Any) -> tuple[int, Any]:
        return view.block_number, view.table()

    with Child("-c", BUSY_WRITER, arena_name) as child:
        assert child.answer() == "ready"
        with attach(arena_name) as pools:
            seen = set()
            for _ in range(150):
                check(*pools.at_one_block(pinned, budget=100_000))
                frozen = pools.snapshot(keys, tries=100_000)
                check(frozen.block_number, frozen[keys[0]].state(), frozen[keys[1]].state())
                seen.add(frozen.block_number)
                block, rows = pools.at_one_block(table, budget=100_000)
                assert rows["block_number"].tolist() == [block] * 2
                assert from_limbs(rows["liquidity"][1]) == from_limbs(rows["reserve0"][0]) == block
                state = pools[keys[1]].state()
                assert state.liquidity == state.block_number
                quote = pools[keys[0]].quote_exact_out(1, zero_for_one=True)
                assert quote.block_number >= block
            assert len(seen) > 1
        child.tell("stop")
        assert child.process.wait(60) == 0


def test_snapshot_of_keys_gives_up_within_its_budget(
    writer: WriterArena, pools: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = 0

    def overtaken(mapped: Any) -> Any:
        nonlocal pins
        pins += 1
        record = pin(mapped)
        for _ in range(2):
            next_block(writer, writer.head_block + 1, 10**20 + pins)
        return record

    monkeypatch.setattr(frozen, "pin", overtaken)
    with pytest.raises(errors.SnapshotContended, match="3 tries"):
        pools.snapshot([text(V2)], tries=3)
    assert pins == 3


def test_table_agrees_with_states(pools: Arena) -> None:
    frozen = pools.snapshot([text(spec) for spec in SPECS])
    with pools.snapshot() as view:
        tables = [view.table(), frozen.table(), pickle.loads(pickle.dumps(frozen)).table()]
    for table in tables:
        assert table.dtype == TABLE
        assert len(table) == len(SPECS)
        for row, spec in zip(table, SPECS, strict=True):
            state = expected_state(spec)
            assert row["key"].tobytes()[: row["key_nbytes"]] == spec.key
            assert protocols.PROTOCOL_NAMES[int(row["protocol"])] == state.protocol
            assert slots.STATUS_NAMES[row["status"]] == "live"
            assert row["block_number"] == state.block_number
            assert row["tick_count"] == len(state.ticks or ())
            assert row["tick"] == (state.tick or 0)
            assert from_limbs(row["reserve0"]) == (state.reserve0 or 0)
            assert from_limbs(row["reserve1"]) == (state.reserve1 or 0)
            assert from_limbs(row["sqrt_price_x96"]) == (state.sqrt_price_x96 or 0)
            assert from_limbs(row["liquidity"]) == (state.liquidity or 0)
            assert "0x" + row["token0"].tobytes().hex() == state.token0.address
            assert "0x" + row["token1"].tobytes().hex() == state.token1.address
            assert row["fee_pips"] == (state.fee_pips if state.lp_fee is None else state.lp_fee)
            assert row["protocol_fee"] == (state.protocol_fee or 0)


@pytest.mark.parametrize(
    ("method", "module"),
    [("to_arrow", "pyarrow"), ("to_polars", "polars"), ("to_pandas", "pandas")],
)
def test_frames_hold_the_table_or_name_the_extra(
    pools: Arena, method: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the library: it is handed exact columns, whatever is installed here."""
    from types import SimpleNamespace

    stand_in = SimpleNamespace(table=dict, DataFrame=dict)
    with pools.snapshot() as view:
        monkeypatch.setitem(sys.modules, module, stand_in)
        columns = getattr(view, method)()
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match="pip install .*(tables|pandas)"):
            getattr(view, method)()
    assert columns["key"] == [text(spec) for spec in SPECS]
    assert columns["protocol"] == ["uniswap_v2", "uniswap_v3", *["uniswap_v4"] * 3]
    assert columns["reserve1"] == [str(3 * 10**21), None, None, None, None]
    assert columns["sqrt_price_x96"] == [None, *[str(1 << 96)] * 4]
    assert columns["tick_count"].tolist() == [0, 4, 4, 4, 4]
    assert columns["status"] == ["live"] * 5


def test_lines_are_read_in_one_call_into_a_given_array(pools: Arena) -> None:
    numbers = pools.slots([text(V3), text(V2)])
    with pools.snapshot() as view:
        found = view.lines(numbers)
        out = np.ones(2, slots.LINE)
        assert view.lines(numbers, out) is out
        out.setflags(write=False)
        with pytest.raises(ValueError, match="writeable"):
            view.lines(numbers, out)
        assert (out == found).all()
        assert [from_limbs(line["b"]) for line in found] == [10**21, 3 * 10**21]
        empty = view.lines(np.array([slots.NO_SLOT, 9], np.uint32))
        assert not empty.tobytes().strip(b"\0")
        for wrong in (np.ones(3, slots.LINE), np.ones(2, "<u8"), np.ones(4, slots.LINE)[::2]):
            with pytest.raises(ValueError, match="out must be"):
                view.lines(numbers, wrong)


def test_shared_arrays_are_read_only_and_current(writer: WriterArena, pools: Arena) -> None:
    for array in (pools.versions, pools.statics, pools.tokens):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[0]
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    assert pools.statics["key"][0].tobytes()[:20] == V2.key
    assert pools.tokens["symbol"][0] == b"ONE"
    versions = pools.versions
    next_block(writer, HEAD + 1, 12345)
    lines = versions[0]["lines"]
    assert 12345 in [from_limbs(line["a"]) for line in lines]
    pools.close()
    assert 12345 in [from_limbs(line["a"]) for line in versions[0]["lines"]]


def test_shared_snapshot_is_handed_over_by_name(
    pools: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for shared_ndarray.SharedNDArray: an array that pickles, and a name to remove."""
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "shared_ndarray", SimpleNamespace(SharedNDArray=Block))
    frozen = pools.snapshot(list(pools))
    Block.unlinked = 0
    shared = frozen.to_shared()
    worker = pickle.loads(pickle.dumps(shared))
    states = {key: frozen[key].state() for key in frozen}
    for found in (shared.snapshot, worker.snapshot):
        assert found.block_number == HEAD
        assert {key: found[key].state() for key in found} == states
        assert found.table().tobytes() == frozen.table().tobytes()
        for array in (*found._arrays, found._arrays[0][:1]):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
    kept = worker.snapshot
    del worker, found, array
    assert Block.unlinked == 0
    assert kept[text(V3)].state() == states[text(V3)]
    shared.close()
    shared.close()
    assert Block.unlinked == 1
    monkeypatch.setitem(sys.modules, "shared_ndarray", None)
    with pytest.raises(ImportError, match=r"pool-state-arena\[workers\]"):
        frozen.to_shared()


class Block:
    """Does what shared_ndarray.SharedNDArray does, in private memory."""

    unlinked = 0

    def __init__(self, array: Any) -> None:
        self.array = array

    @classmethod
    def copy(cls, array: Any) -> "Block":
        return cls(array.copy())

    def unlink(self) -> None:
        Block.unlinked += 1


# Waiting


def test_wait_returns_at_once_when_the_head_is_above(pools: Arena) -> None:
    assert pools.wait_block(after=HEAD - 1, timeout=0) == HEAD
    assert pools.wait_block(after=0) == HEAD
    assert pools.wait_commit(after=0) == 1


def test_wait_times_out_with_none(pools: Arena) -> None:
    for timeout in (0, -1, np.float64(0), 0.05, 0.25):
        start = time.monotonic()
        assert pools.wait_block(after=HEAD, timeout=timeout) is None
        assert time.monotonic() - start >= timeout
        assert pools.wait_commit(after=1, timeout=timeout) is None


NO_TIMES: list[tuple[Any, type[Exception]]] = [
    *((value, ValueError) for value in (float("nan"), np.float32("nan"))),
    *((value, TypeError) for value in ("1", b"1", [1], True, np.False_, 1j, object())),
]


def test_what_is_no_time_is_refused_by_every_wait(pools: Arena) -> None:
    """Also where nothing is waited for, so that it does not depend on the chain."""
    waits: list[Callable[[Any], Any]] = [
        lambda timeout: pools.wait_block(HEAD, timeout),
        lambda timeout: pools.wait_block(HEAD - 1, timeout),
        lambda timeout: pools.wait_commit(1, timeout),
        lambda timeout: pools.wait_commit(0, timeout),
        lambda timeout: pools.wait_live(timeout),
        lambda timeout: attach(pools.name, timeout=timeout),
        lambda timeout: attach("psa-no-such-arena", timeout=timeout),
    ]
    for wait in waits:
        for timeout, error in NO_TIMES:
            with pytest.raises(error, match="timeout is"):
                wait(timeout)
    assert pools.wait_block(HEAD, -(10**400)) is None, "it is over"
    below = [(value, ValueError) for value in (-1, -1e-9, -(10**400))]
    for limit, error in [*NO_TIMES, *below]:
        with pytest.raises(error, match="heartbeat_limit is"):
            attach(pools.name, heartbeat_limit=limit)
    for forever in (None, float("inf"), 10**400):
        assert pools.wait_block(HEAD - 1, forever) == HEAD  # type: ignore[arg-type]
        assert pools.wait_commit(0, forever) == 1  # type: ignore[arg-type]
        assert pools.wait_live(forever) == HEAD  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spin_us", "error"),
    [(-1, ValueError), (-(10**30), ValueError)]
    + [(value, TypeError) for value in (1.0, 50.5, float("nan"), "50", None, True, np.True_, [])],
    ids=str,
)
def test_microseconds_to_look_for_are_a_whole_number(
    pools: Arena, spin_us: Any, error: type[Exception]
) -> None:
    for after in (HEAD - 1, HEAD):
        with pytest.raises(error, match="spin_us is"):
            pools.wait_block(after, 0, spin_us=spin_us)
    for fine in (0, 5, np.int64(5), 10**30):
        assert pools.wait_block(HEAD - 1, 0, spin_us=fine) == HEAD


def test_a_block_or_commit_to_wait_for_is_a_number(pools: Arena) -> None:
    for wrong in ("100", 100.0, float("nan"), None, b"1"):
        for wait in (pools.wait_block, pools.wait_commit):
            with pytest.raises(TypeError):
                wait(wrong, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["no", "", 2, None, 0.5, [], b"x"])
def test_flags_of_an_attachment_are_true_or_false(pools: Arena, wrong: Any) -> None:
    for name in ("follow", "require_writer"):
        with pytest.raises(TypeError, match=f"{name} is True or False, not"):
            attach(pools.name, **{name: wrong})


def later(function: Callable[[], None]) -> threading.Thread:
    """Run in a thread after a moment."""

    def work() -> None:
        time.sleep(0.05)
        function()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_wait_wakes_when_a_block_is_committed(writer: WriterArena, pools: Arena) -> None:
    thread = later(lambda: next_block(writer, HEAD + 1, 5))
    assert pools.wait_block(after=HEAD, timeout=30) == HEAD + 1
    thread.join()


def test_wait_goes_on_until_the_head_is_above_after_a_reorg(
    writer: WriterArena, pools: Arena
) -> None:
    def work() -> None:
        for head in (HEAD - 2, HEAD - 1, HEAD, HEAD + 1):
            writer.set_head(head)
            writer.commit()
            time.sleep(0.02)

    thread = later(work)
    assert pools.wait_commit(after=1, timeout=30) == 2
    assert pools.wait_block(after=HEAD, timeout=30) == HEAD + 1
    thread.join()


def test_commits_without_a_block_do_not_end_wait_block(writer: WriterArena, pools: Arena) -> None:
    def work() -> None:
        install(writer, V2, reserve0=5)
        writer.commit()

    thread = later(work)
    assert pools.wait_block(after=HEAD, timeout=0.3) is None
    assert pools.committed == 2
    thread.join()


def test_await_block_waits_without_holding_up_the_loop(writer: WriterArena, pools: Arena) -> None:
    async def story() -> tuple[int | None, int | None, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        nothing = await pools.await_block(after=HEAD, timeout=0.05)
        thread = later(lambda: next_block(writer, HEAD + 1, 5))
        found = await pools.await_block(after=HEAD, timeout=30)
        thread.join()
        ticking.cancel()
        return nothing, found, ticks

    nothing, found, ticks = asyncio.run(story())
    assert (nothing, found) == (None, HEAD + 1)
    assert ticks > 3


def test_await_block_can_be_cancelled(pools: Arena) -> None:
    async def story() -> bool:
        task = asyncio.create_task(pools.await_block(after=HEAD))
        await asyncio.sleep(0.02)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True
        return False

    assert asyncio.run(story())


def test_wait_in_another_process_is_woken(writer: WriterArena) -> None:
    code = """
import sys, arena
pools = arena.attach(sys.argv[1])
print("ready", flush=True)
print(pools.wait_block(after=int(sys.argv[2]), timeout=60), flush=True)
"""
    with Child("-c", code, writer.name, str(HEAD)) as child:
        assert child.answer() == "ready"
        next_block(writer, HEAD + 1, 5)
        assert child.answer() == str(HEAD + 1)
        assert child.process.wait(60) == 0


# Health


def test_health_of_a_living_writer(writer: WriterArena, pools: Arena) -> None:
    assert pools.phase == "live"
    assert pools.writer_pid == os.getpid()
    assert pools.writer_alive
    assert 0 <= pools.heartbeat_age < 60
    assert pools.generation == 1
    assert pools.chain_id == 1
    writer.set_phase("gap", "blocks lost", (5, 9))
    assert (pools.phase, pools.phase_reason) == ("gap", "blocks lost")
    assert pools.phase_record.gap == (5, 9)
    assert pools.counters["commits"] == 1
    assert set(pools.counters) == set(header.COUNTER_NAMES.values())
    writer.counters[lib.PSA_COUNTER_FRAMES] += np.uint64(3)
    assert pools.counters["frames"] == 3


def test_silent_writer_is_not_alive(writer: WriterArena) -> None:
    with attach(writer.name, heartbeat_limit=0.02) as pools:
        writer.heartbeat()
        time.sleep(0.05)
        assert not pools.writer_alive
        assert pools.writer_pid == os.getpid()
        writer.heartbeat()
        assert pools.heartbeat_age < 60


def test_closed_writer_is_not_alive_and_its_state_readable(writer: WriterArena) -> None:
    with attach(writer.name) as pools:
        writer.close(unlink=False)
        assert not pools.writer_alive
        assert pools.writer_pid is None
        assert pools.phase == "stopped"
        assert pools[text(V2)].state() == expected_state(V2)
    WriterArena.take_over(writer.name).close(unlink=True)


# Life of a handle


def test_attach_waits_for_a_writer_that_starts_later(arena_name: str) -> None:
    made: list[WriterArena] = []

    def work() -> None:
        made.append(make(arena_name))
        fill(made[0])

    thread = later(work)
    with attach(arena_name, timeout=30) as pools:
        thread.join()
        assert pools.wait_block(after=0, timeout=30) == HEAD
    made[0].close(unlink=True)


@pytest.mark.parametrize("name", ["", "a/b", "pools.1"])
def test_attach_refuses_impossible_names(name: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        attach(name)


def test_everything_after_close_raises_arena_closed(pools: Arena) -> None:
    pool = pools[text(V3)]
    view = pools.snapshot()
    ladder = pool.ladder(zero_for_one=True)
    answer = ladder.quote(10**18)
    assert not pools.closed
    pools.close()
    pools.close()
    assert pools.closed
    uses: list[Callable[[], Any]] = [
        lambda: pools[text(V2)],
        lambda: text(V2) in pools,
        lambda: len(pools),
        lambda: list(pools),
        lambda: pools.head_block,
        lambda: pools.committed,
        lambda: pools.phase,
        lambda: pools.phase_reason,
        lambda: pools.heartbeat_age,
        lambda: pools.writer_alive,
        lambda: pools.wait_block(after=0, timeout=1),
        lambda: pools.wait_commit(after=0, timeout=1),
        lambda: pools.snapshot(),
        lambda: pools.snapshot([text(V2)]),
        lambda: pools.versions,
        lambda: pools.counters,
        lambda: pools.quote_batch([text(V2)], 1, zero_for_one=True),
        lambda: pools.at_one_block(len),
        lambda: pool.state(),
        lambda: pool.status,
        lambda: pool.token0,
        lambda: pool.freeze(),
        lambda: pool.quote_exact_in(1, zero_for_one=True),
        lambda: pool.quote_exact_out(1, zero_for_one=True),
        lambda: pool.quote_exact_in(1, zero_for_one=True, allow_stale=True),
        lambda: pool.quote_many([1], zero_for_one=True),
        lambda: pool.ladder(zero_for_one=True),
    ]
    for use in uses:
        with pytest.raises(errors.ArenaClosed):
            use()
    assert ladder.quote(10**18) == answer
    assert view[text(V3)].quote_exact_in(10**18, zero_for_one=True) == answer


def test_close_while_other_threads_quote_is_safe(writer: WriterArena) -> None:
    outcomes: list[str] = []

    def work(pool: Pool) -> None:
        try:
            while True:
                pool.quote_exact_in(10**18, zero_for_one=True)
        except errors.ArenaClosed:
            outcomes.append("closed")

    for _ in range(5):
        pools = attach(writer.name)
        threads = [threading.Thread(target=work, args=(pools[text(V3)],)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        pools.close()
        for thread in threads:
            thread.join()
    assert outcomes == ["closed"] * 15


def test_closing_gives_memory_and_descriptors_back(writer: WriterArena) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(writer.name)

    before = (len(os.listdir("/proc/self/fd")), mappings())
    for _ in range(20):
        pools = attach(writer.name)
        pools[text(V2)].quote_exact_in(1000, zero_for_one=True)
        pools.close()
    del pools
    # The control segment's read-only mapping and descriptors stay while the writer lives here.
    after = (len(os.listdir("/proc/self/fd")), mappings())
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 1


def recreate(writer: WriterArena, *, unlink: bool) -> WriterArena:
    writer.close(unlink=unlink)
    found = make(writer.name)
    fill(found)
    next_block(found, HEAD + 50, 4242)
    return found


@pytest.mark.parametrize("unlink", [False, True])
def test_handles_follow_a_recreated_arena(arena_name: str, unlink: bool) -> None:
    first = make(arena_name)
    fill(first)
    with attach(arena_name) as pools:
        pool = pools[text(V2)]
        gone = PoolSpec(b"\x12" * 20, slots.UNISWAP_V2, ONE, TWO, 3000)
        first.install(first.add_pool(gone), PoolValues(1, 1, reserve0=1, reserve1=1))
        first.commit()
        lost = pools[text(gone)]
        view = pools.snapshot()
        versions = pools.versions
        second = recreate(first, unlink=unlink)
        assert pool.state().reserve0 == 4242
        assert pool.quote_exact_in(10, zero_for_one=True).block_number == HEAD + 50
        assert pools.head_block == HEAD + 50
        assert pools.generation == second.generation
        assert pools.writer_alive
        assert pools.phase == "live"
        assert pools[text(V2)].state().reserve0 == 4242
        with pytest.raises(errors.UnknownPool):
            lost.state()
        # What was taken before stays as it was.
        assert view[text(V2)].state() == expected_state(V2)
        assert from_limbs(versions[0]["lines"][1]["b"]) == 3 * 10**21
        second.close(unlink=True)


def test_waiting_readers_follow_a_recreated_arena(arena_name: str) -> None:
    first = make(arena_name)
    fill(first)
    with attach(arena_name) as pools:
        made: list[WriterArena] = []
        thread = later(lambda: made.append(recreate(first, unlink=False)))
        assert pools.wait_block(after=HEAD, timeout=30) == HEAD + 50
        thread.join()
        made[0].close(unlink=True)


def test_handles_told_not_to_follow_raise_arena_replaced(arena_name: str) -> None:
    first = make(arena_name)
    fill(first)
    with attach(arena_name, follow=False) as pools:
        pool = pools[text(V2)]
        view = pools.snapshot()
        second = recreate(first, unlink=False)
        for use in (
            lambda: pools.head_block,
            lambda: pool.state(),
            lambda: pool.quote_exact_in(1, zero_for_one=True),
        ):
            with pytest.raises(errors.ArenaReplaced) as caught:
                use()
            assert (caught.value.generation, caught.value.found) == (1, 2)
        assert view[text(V2)].state() == expected_state(V2)
        second.close(unlink=True)


def test_unlinked_arena_without_successor_stays_readable(arena_name: str) -> None:
    writer = make(arena_name)
    fill(writer)
    with attach(arena_name) as pools:
        pool = pools[text(V2)]
        writer.close(unlink=True)
        for _ in range(3):
            assert pool.state() == expected_state(V2)
            assert pools.head_block == HEAD
            assert not pools.writer_alive


# Other processes


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_handles_and_snapshots_work_in_other_processes(
    writer: WriterArena, pools: Arena, method: Literal["spawn", "fork"]
) -> None:
    frozen = pools.snapshot([text(V2), text(V3)])
    quote = pools[text(V3)].quote_exact_in(10**18, zero_for_one=True)
    ask = operator.methodcaller("quote_exact_in", 10**18, zero_for_one=True)
    view = pools.snapshot()
    calls: list[tuple[Callable[[Any], Any], Any, Any]] = [
        (operator.attrgetter("head_block"), pools, HEAD),
        (operator.itemgetter(text(V2)), frozen, frozen[text(V2)].state()),
        (operator.methodcaller("state"), pools[text(V3)], expected_state(V3)),
        (ask, pools[text(V3)], quote),
        (ask, frozen[text(V3)], quote),
        (operator.attrgetter("commit", "block_number"), view, (1, HEAD)),
        (operator.methodcaller("__contains__", text(V2)), view, True),
        (operator.attrgetter("amount_out"), quote, quote.amount_out),
    ]
    with multiprocessing.get_context(method).Pool(1) as workers:
        assert workers.apply(os.getpid) != os.getpid()
        for function, given, expected in calls:
            found = workers.apply_async(function, (given,)).get(60)
            assert (found.state() if isinstance(found, FrozenPool) else found) == expected
        workers.close()
        workers.join()


def test_forked_child_uses_inherited_handles(writer: WriterArena, pools: Arena) -> None:
    pool = pools[text(V3)]
    quote = pool.quote_exact_in(10**18, zero_for_one=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fine = pool.quote_exact_in(10**18, zero_for_one=True) == quote
            fine = fine and pools.wait_block(after=HEAD, timeout=30) == HEAD + 1
            fine = fine and pools.writer_pid == os.getppid()
            pools.close()
            code = 0 if fine else 2
        finally:
            os._exit(code)
    time.sleep(0.05)
    next_block(writer, HEAD + 1, 5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.quote_exact_in(10**18, zero_for_one=True) == quote
    assert pools.writer_pid == os.getpid()


def test_handles_of_one_arena_share_an_attachment_after_unpickling(pools: Arena) -> None:
    data = pickle.dumps([pools[text(V2)], pools[text(V3)], pools])
    first, second, arena = pickle.loads(data)
    assert first._arena is second._arena is arena
    assert arena is not pools
    arena.close()
    again = pickle.loads(data)[2]
    assert again.head_block == HEAD
    again.close()


def test_snapshot_of_another_generation_does_not_unpickle(arena_name: str) -> None:
    first = make(arena_name)
    fill(first)
    with attach(arena_name) as pools:
        data = pickle.dumps(pools.snapshot())
        second = recreate(first, unlink=False)
        with pytest.raises(errors.SnapshotTooOld, match="generation"):
            pickle.loads(data)
        second.close(unlink=True)


def test_pool_of_a_snapshot_does_not_pickle(pools: Arena) -> None:
    with pools.snapshot() as view, pytest.raises(TypeError, match="freeze"):
        pickle.dumps(view[text(V2)])


# The package and its commands


def test_package_offers_attach_and_every_exception() -> None:
    assert package.attach is attach
    assert package.Arena is Arena
    names = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ArenaError)
    ]
    for name in names:
        assert getattr(package, name) is getattr(errors, name)
    assert {*names, "attach", "Quote", "PoolState"} <= set(dir(package)) & set(package.__all__)
    with pytest.raises(AttributeError):
        package.no_such_name  # noqa: B018


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = Path(sysconfig.get_path("scripts")) / name
    return subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_dump_is_a_state_file_that_rebuilds_the_arena(writer: WriterArena, arena_name: str) -> None:
    writer.set_status(3, slots.STATUS_STALE, slots.UNSURE_ALL)
    writer.commit()
    done = script("arena-dump", arena_name)
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["head_block"] == HEAD
    assert first["block_hash"] == "0x" + "77" * 32
    assert [line["pool"] for line in lines] == [text(spec) for spec in SPECS]
    other = make(arena_name + "-copy")
    with other, attach(arena_name) as pools:
        for line in lines:
            tokens = [
                TokenSpec(bytes.fromhex(t["address"][2:]), t["decimals"], t["symbol"])
                for t in (line["token0"], line["token1"])
            ]
            spec = PoolSpec(
                bytes.fromhex(line["pool"][2:]),
                protocols.PROTOCOL_NUMBERS[line["protocol"]],
                *tokens,
                line["fee_pips"],
                line.get("tick_spacing", 0),
                bytes.fromhex(line["factory"][2:]),
                bytes.fromhex(line.get("hooks", "0x" + "00" * 20)[2:]),
            )
            numbers = {
                name: int(line[name])
                for name in (
                    *("reserve0", "reserve1", "sqrt_price_x96", "tick", "liquidity"),
                    *("protocol_fee", "lp_fee", "fee_block"),
                )
                if name in line
            }
            ticks = tuple(
                (tick, int(gross), int(net)) for tick, gross, net in line.get("ticks", [])
            )
            values = PoolValues(line["block"], line["fee_pips"], ticks=ticks, **numbers)
            status = slots.STATUS_NAMES.index(line["status"])
            other.install(other.add_pool(spec), values, status)
        other.set_head(first["head_block"])
        other.commit()
        with attach(arena_name + "-copy") as copies:
            for key in pools:
                ours, theirs = pools[key].state(), copies[key].state()
                live = ours.status == "live"
                assert theirs.base_block == (HEAD if live else ours.base_block)
                for name in (each.name for each in dataclasses.fields(PoolState)):
                    if name not in ("block_number", "base_block"):
                        assert getattr(ours, name) == getattr(theirs, name), name
        other.close(unlink=True)


def test_dump_stops_quietly_when_nobody_reads_on(writer: WriterArena) -> None:
    path = Path(sysconfig.get_path("scripts")) / "arena-dump"
    code = f"{path} {writer.name} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.slow
def test_quote_command_prints_what_the_reader_answers(pools: Arena) -> None:
    for spec, options, arguments in (
        (V2, {"zero_for_one": True}, []),
        (V3, {"zero_for_one": False}, ["--one-for-zero"]),
        (DYNAMIC, {"zero_for_one": True, "lp_fee": 9}, ["--zero-for-one", "--lp-fee", "9"]),
        (
            V3,
            {"zero_for_one": True, "sqrt_price_limit_x96": (1 << 96) - 10**20},
            ["--limit", hex((1 << 96) - 10**20)],
        ),
    ):
        expected = pools[text(spec)].quote_exact_in(10**18, **options)  # type: ignore[arg-type]
        done = script("arena-quote", pools.name, text(spec), str(10**18), "--json", *arguments)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        for name in ("amount_in", "amount_out", "sqrt_price_x96_after", "liquidity_after"):
            assert int(found[name]) == getattr(expected, name)
        assert found["tick_after"] == expected.tick_after
        assert found["is_complete"] is expected.is_complete
        assert found["head_block"] == HEAD
    expected = pools[text(V2)].quote_exact_out(777, zero_for_one=True)
    done = script("arena-quote", pools.name, text(V2), "777", "--exact-out")
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert int(lines["amount_in"]) == expected.amount_in
    assert int(lines["amount_out"]) == 777
    assert lines["is_complete"] == "true"
    assert lines["token_in"] == "0x" + ONE.address.hex()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("arena-dump", ["{no}"], "no shared memory segment"),
        ("arena-dump", ["a/b"], "segment name"),
        ("arena-quote", ["{no}", text(V2), "1"], "no shared memory segment"),
        ("arena-quote", ["{name}", "0x12", "1"], "no pool key"),
        ("arena-quote", ["{name}", "0x" + "99" * 20, "1"], "has no pool"),
        ("arena-quote", ["{name}", text(DYNAMIC), "1"], "lp_fee"),
        (
            "arena-quote",
            ["{name}", text(V2), "10000000000000000000000000", "--exact-out"],
            "cannot pay",
        ),
    ],
)
def test_commands_fail_with_one_clear_line(
    writer: WriterArena, command: str, arguments: list[str], words: str
) -> None:
    filled = [part.format(name=writer.name, no=writer.name + "-no") for part in arguments]
    done = script(command, *filled, "--timeout", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{command}: ")
    assert words in done.stderr
