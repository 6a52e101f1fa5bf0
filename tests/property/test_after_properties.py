"""Chains of swaps by `after` against the oracle, which runs on its own evolving state.

Method: a frozen pool and the oracle begin alike. Each turn both are asked for the same swap, of any size, in
either direction, exact input or output, with a price limit at times; answers or refusals have to be equal,
and then `after` on one side and the contract's arithmetic on the other lead to the next state.
"""

import copy
import pickle
import random
from typing import Any

import pytest
from builders.copies import frozen
from conftest import PROFILE
from oracle import swap_oracle as oracle

from arena.errors import AmountOutOfRange, QuoteError, SwapReverts
from arena.layouts.slots import (
    POOL_DYNAMIC_FEE,
    POOL_HOOKED,
    SOLIDLY,
    UNISWAP_V2,
    UNISWAP_V3,
    UNISWAP_V4,
)
from arena.native import ffi, lib
from arena.readers import FrozenPool
from arena.readers.quote import make_quote

SEEDS = range(6 if PROFILE == "quick" else 60)
SWAPS = 120


def random_ticks(source: random.Random, version: int) -> oracle.ConcentratedPool:
    """Overlapping positions with gaps between them, a price somewhere among them."""
    spacing = source.choice([1, 10, 60, 200])
    net: dict[int, int] = {}
    for _ in range(source.randint(1, 12)):
        low, high = sorted(spacing * source.randint(-400, 400) for _ in range(2))
        amount = source.getrandbits(source.randint(10, 90)) + 1
        if low != high:
            net[low] = net.get(low, 0) + amount
            net[high] = net.get(high, 0) - amount
    tick = source.randint(-450, 450) * spacing + source.randrange(spacing)
    price = oracle.sqrt_price_at_tick(tick)
    price += source.randrange(oracle.sqrt_price_at_tick(tick + 1) - price)
    liquidity = sum(amount for at, amount in net.items() if at <= tick)
    return oracle.ConcentratedPool(version, price, tick, liquidity, 0, spacing, net)


def random_amount(source: random.Random, pool: oracle.ConcentratedPool) -> int:
    if source.random() < 0.5:  # about what the liquidity in range takes
        return pool.liquidity // source.randint(1, 5000) + 1
    return source.getrandbits(source.randint(1, 130)) + 1


def random_limit(source: random.Random, pool: oracle.ConcentratedPool) -> int | None:
    if source.random() < 0.7:
        return None
    near = [pool.tick + source.randint(-500, 500), *pool.net]
    tick = min(max(source.choice(near), oracle.MIN_TICK + 1), oracle.MAX_TICK - 1)
    return oracle.sqrt_price_at_tick(tick) + source.choice([-1, 0, 0, 1])


def check_state(now: FrozenPool, pool: oracle.ConcentratedPool) -> None:
    state = now.state()
    found = (state.sqrt_price_x96, state.tick, state.liquidity)
    assert found == (pool.sqrt_price, pool.tick, pool.liquidity)
    assert [(tick, net) for tick, _, net in state.ticks or ()] == sorted(pool.net.items())


def check_no_reuse(began: FrozenPool, now: FrozenPool, source: random.Random) -> None:
    """Ladders of the state as it is now, and depth tables of the state as it was, on the one that is
    now: all answer as the plain quote of the present state."""
    for zero_for_one in (True, False):
        amounts = [source.getrandbits(source.randint(1, 110)) + 1 for _ in range(8)]
        plain = now.quote_many(amounts, zero_for_one=zero_for_one)
        try:
            ladder = now.ladder(zero_for_one=zero_for_one)
        except QuoteError:
            assert plain.statuses.all()
            continue
        assert ladder.quote(amounts).results.tobytes() == plain.results.tobytes()
        for from_price in (lib.PSA_FROM_PRICE, 0):
            flags = lib.PSA_ZERO_FOR_ONE if zero_for_one else 0
            size = lib.psa_depth_capacity(began._pool, flags, 0)
            rungs, depth = ffi.new("psa_rung[]", size), ffi.new("psa_depth *")
            build = (began._pool, flags | from_price, 0, rungs, size, depth)
            assert lib.psa_depth_build(*build) == lib.PSA_OK
            results = ffi.new("psa_quote_result[]", len(amounts))
            words = b"".join(amount.to_bytes(32, "little") for amount in amounts)
            pointer = ffi.from_buffer("uint64_t *", words)
            ask = (now._pool, depth, pointer, ffi.NULL, flags, 0, len(amounts), results)
            assert lib.psa_depth_quote(*ask) == lib.PSA_OK
            assert bytes(ffi.buffer(results)) == plain.results.tobytes()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["v3", "v4", "dynamic", "hooked"])
def test_concentrated_pools_follow_the_oracle(kind: str, seed: int) -> None:
    source = random.Random(f"{kind} {seed}")
    version = 3 if kind == "v3" else 4
    pool = random_ticks(source, version)
    lp_fee = source.choice([0, 100, 500, 3000, 10000, 400_000])
    protocol_fees = [source.randrange(1001) if version == 4 else 0 for _ in range(2)]
    began = now = frozen(
        UNISWAP_V3 if version == 3 else UNISWAP_V4,
        lp_fee,
        sqrt_price=pool.sqrt_price,
        tick=pool.tick,
        liquidity=pool.liquidity,
        spacing=pool.spacing,
        net=sorted(pool.net.items()),
        protocol_fee=protocol_fees[0] | protocol_fees[1] << 12,
        row_flags={"dynamic": POOL_DYNAMIC_FEE, "hooked": POOL_HOOKED}.get(kind, 0),
    )
    first = began._state._copy
    done = refused = 0
    for turn in range(SWAPS):
        zero_for_one, exact_in = source.random() < 0.5, source.random() < 0.6
        amount, limit = random_amount(source, pool), random_limit(source, pool)
        options: dict[str, Any] = {"sqrt_price_limit_x96": limit}
        fee = lp_fee
        if kind in ("dynamic", "hooked"):  # another one each time, as a hook sets it
            fee = options["lp_fee"] = source.choice([0, 700, 3000, 50_000])
            options["allow_hooks"] = kind == "hooked"
        pool.fee = oracle.v4_total_fee(protocol_fees[0 if zero_for_one else 1], fee)
        ask = now.quote_exact_in if exact_in else now.quote_exact_out
        try:
            swapped = oracle.swap(pool, amount, zero_for_one, exact_in, limit)
        except oracle.RevertError:
            with pytest.raises(QuoteError):
                ask(amount, zero_for_one=zero_for_one, **options)
            refused += 1
            continue
        quote = ask(amount, zero_for_one=zero_for_one, **options)
        assert (quote.amount_in, quote.amount_out) == (swapped.amount_in, swapped.amount_out)
        assert (quote.ticks_crossed, quote.is_complete) == (
            swapped.ticks_crossed,
            swapped.is_complete,
        )
        before = now._state._copy
        after = now.after(quote)
        assert now._state._copy == before
        pool.sqrt_price, pool.tick = swapped.sqrt_price, swapped.tick
        pool.liquidity = swapped.liquidity
        now = after
        done += 1
        check_state(now, pool)
        if turn % 10 == 0 and kind in ("v3", "v4"):
            check_no_reuse(began, now, source)
    assert began._state._copy == first
    assert now.swap_count == done > SWAPS // 4
    assert done + refused == SWAPS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protocol", [UNISWAP_V2, SOLIDLY])
def test_pairs_follow_the_oracle(protocol: int, seed: int) -> None:
    source = random.Random(f"{protocol} {seed}")
    reserves = [source.getrandbits(source.randint(30, 110)) + 1 for _ in range(2)]
    is_v2 = protocol == UNISWAP_V2
    fee = source.choice([3000, 2500, 10000, 0, 30] if is_v2 else [100, 3000, 10000, 0, 200_000])
    began = now = frozen(protocol, fee, reserves=(reserves[0], reserves[1]))
    pair = oracle.Pair(*reserves, fee) if is_v2 else oracle.SolidlyPair(*reserves, fee // 100)
    done = refused = 0
    for _ in range(SWAPS * 3):
        zero_for_one = source.random() < 0.5
        exact_in = not is_v2 or source.random() < 0.6
        reserve_in, reserve_out = pair.ends(zero_for_one)
        near = (reserve_in if exact_in else reserve_out) // source.randint(2, 3000)
        amount = source.choice([near, near, source.getrandbits(source.randint(1, 116))]) + 1
        ask = now.quote_exact_in if exact_in else now.quote_exact_out
        try:
            expected = pair.quote(amount, zero_for_one, exact_in)
        except oracle.RevertError:
            with pytest.raises(QuoteError):
                ask(amount, zero_for_one=zero_for_one)
            refused += 1
            continue
        quote = ask(amount, zero_for_one=zero_for_one)
        assert (quote.amount_in, quote.amount_out) == expected
        try:
            pair.swap(*expected, zero_for_one)
        except oracle.RevertError:
            with pytest.raises(SwapReverts):
                now.after(quote)
            refused += 1
            continue
        now = now.after(quote)
        done += 1
        state = now.state()
        assert (state.reserve0, state.reserve1) == (pair.reserve0, pair.reserve1)
    start = began.state()
    assert [start.reserve0, start.reserve1] == reserves
    assert now.swap_count == done > SWAPS
    assert done + refused == SWAPS * 3


# ---- what is refused


def test_a_quote_of_something_else_is_refused() -> None:
    values: dict[str, Any] = {"reserves": (10**20, 3 * 10**20)}
    pool = frozen(UNISWAP_V2, 3000, **values)
    quote = pool.quote_exact_in(10**18, zero_for_one=True)
    for other, why in (
        (frozen(UNISWAP_V2, 3000, slot=6, **values), "another pool"),
        (frozen(UNISWAP_V2, 3000, commit=8, **values), "of commit 7, the state of commit 8"),
        (frozen(UNISWAP_V2, 3000, reserves=(10**20, 3 * 10**20 + 1)), "another swap"),
        (frozen(SOLIDLY, 3000, **values), "another protocol"),
        (pool.after(quote), "another swap"),
    ):
        with pytest.raises(ValueError, match=f"not of this state.*{why}"):
            other.after(quote)
    back = pool.after(quote).quote_exact_in(10**18, zero_for_one=False)
    with pytest.raises(ValueError, match="another swap"):
        pool.after(back)
    for wrong in (None, 5, quote.amount_in, pool):
        with pytest.raises(TypeError, match="takes a Quote"):
            pool.after(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "at"), [("tick", 148), ("liquidity", 168), ("price", 152)])
def test_a_quote_from_beside_the_state_is_refused(field: str, at: int) -> None:
    """Ticks, liquidity and price all have to be those the quote starts from."""
    pool = frozen(UNISWAP_V3, 3000, sqrt_price=1 << 96, liquidity=10**20, spacing=60)
    raw = bytearray(pool.quote_exact_in(10**15, zero_for_one=True)._raw)
    assert pool.after(make_quote(raw)).swap_count == 1
    raw[at] ^= 1
    with pytest.raises(ValueError, match="another swap"):
        pool.after(make_quote(raw))


def test_a_swap_that_a_pair_refuses_has_no_state_after_it() -> None:
    dust = frozen(UNISWAP_V2, 3000, reserves=(10**20, 10**10))
    quote = dust.quote_exact_in(5, zero_for_one=True)
    assert quote.amount_out == 0
    with pytest.raises(SwapReverts, match="pays nothing"):
        dust.after(quote)
    full = frozen(UNISWAP_V2, 3000, reserves=((1 << 112) - 10, 1 << 111))
    assert full.after(full.quote_exact_in(9, zero_for_one=True)).state().reserve0 == (1 << 112) - 1
    with pytest.raises(SwapReverts, match="112 bits"):
        full.after(full.quote_exact_in(10, zero_for_one=True))
    drained = frozen(SOLIDLY, 3000, reserves=(0, 7))
    with pytest.raises(SwapReverts, match="all of a reserve"):
        drained.after(drained.quote_exact_in(10**6, zero_for_one=True))
    wide = frozen(SOLIDLY, 0, reserves=((1 << 128) - 10, 1 << 127))
    assert wide.after(wide.quote_exact_in(9, zero_for_one=True)).state().reserve0 == (1 << 128) - 1
    with pytest.raises(AmountOutOfRange, match="128 bits") as caught:
        wide.after(wide.quote_exact_in(10, zero_for_one=True))
    assert caught.value.fields["key"] == wide.key


def test_a_changed_state_is_a_value_like_another() -> None:
    pool = frozen(UNISWAP_V3, 3000, sqrt_price=1 << 96, liquidity=10**20, spacing=60)
    assert (pool.swap_count, "after" in repr(pool)) == (0, False)
    quote = pool.quote_exact_in(10**17, zero_for_one=True)
    once = pool.after(quote)
    twice = once.after(once.quote_exact_in(10**17, zero_for_one=True))
    assert repr(once) == repr(pool).removesuffix(")") + ", after 1 swap)"
    assert repr(twice).endswith("after 2 swaps)")
    assert once.state().block_number == pool.state().block_number
    asked = twice.quote_exact_out(10**15, zero_for_one=False)
    for again in (pickle.loads(pickle.dumps(twice)), copy.copy(twice), copy.deepcopy(twice)):
        assert again.swap_count == 2
        assert again.state() == twice.state()
        assert again.quote_exact_out(10**15, zero_for_one=False) == asked
        assert again.after(asked).state() == twice.after(asked).state()
    assert pool.after(pickle.loads(pickle.dumps(quote))).state() == once.state()


def test_an_unfinished_swap_leaves_the_pool_where_it_stopped() -> None:
    net = [(-600, 10**20), (600, -(10**20))]
    pool = frozen(UNISWAP_V3, 3000, sqrt_price=1 << 96, liquidity=10**20, spacing=60, net=net)
    quote = pool.quote_exact_in(10**30, zero_for_one=True)
    assert not quote.is_complete
    after = pool.after(quote).state()
    assert (after.sqrt_price_x96, after.liquidity) == (oracle.MIN_SQRT_PRICE + 1, 0)
    again = pool.after(quote)
    with pytest.raises(QuoteError):
        again.quote_exact_in(1, zero_for_one=True)
    back = again.quote_exact_in(10**30, zero_for_one=False)
    assert back.ticks_crossed == 2
