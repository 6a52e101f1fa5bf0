"""Native swaps against the integer oracle on generated pools, and on memory that is no pool.

Generated pools are what a chain could hold: ticks on the spacing, nets that sum to zero, liquidity
in range equal to the sum below the current tick, gaps without liquidity, any fee, any price.
"""

import random

import pytest
from builders.native_pools import Answer, NativePool, integer, limbs
from conftest import PROFILE
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import swap_oracle as oracle

from arena.native import ffi, lib

STATUS = {
    "AS": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "int256": lib.PSA_AMOUNT_OUT_OF_RANGE,
    "SPL": lib.PSA_PRICE_LIMIT,
    "InvalidFeeForExactOut": lib.PSA_FEE_TOO_HIGH,
    "SafeCastOverflow": lib.PSA_SWAP_REVERTS,
}

SHARE = 10 if PROFILE == "quick" else 1  # of the examples below

# spacings of live pools, the largest ones, and a few in between
SPACINGS = st.sampled_from([1, 10, 50, 60, 200, 887, 3465, 16000, 16383])
V4_SPACINGS = st.one_of(SPACINGS, st.sampled_from([20000, 32767]))


@st.composite
def magnitudes(draw: st.DrawFn, bits: int) -> int:
    """An integer of at most `bits` bits, every length as likely as any other."""
    length = draw(st.integers(1, bits))
    return draw(st.integers(0, (1 << length) - 1))


@st.composite
def fees(draw: st.DrawFn, version: int) -> int:
    top = 1_000_000 if version == 4 else 999_999
    return draw(st.one_of(st.sampled_from([0, 1, 100, 500, 3000, 10000, top]), st.integers(0, top)))


@st.composite
def pools(draw: st.DrawFn) -> oracle.ConcentratedPool:
    version = draw(st.sampled_from([3, 4]))
    spacing = draw(V4_SPACINGS if version == 4 else SPACINGS)
    reach = oracle.MAX_TICK // spacing
    center = draw(st.integers(-reach, reach))
    width = draw(st.sampled_from([3, 40, 600, 2 * reach]))
    low, high = max(-reach, center - width), min(reach, center + width)
    if high == low:
        low, high = -reach, reach
    # positions over a few ticks; between them nothing, so gaps without liquidity are common
    positions = draw(
        st.lists(
            st.tuples(st.integers(low, high), st.integers(low, high), magnitudes(124)), max_size=8
        )
    )
    net: dict[int, int] = {}
    for one, other, amount in positions:
        if one != other and amount:
            lower, upper = sorted((one * spacing, other * spacing))
            net[lower] = net.get(lower, 0) + amount
            net[upper] = net.get(upper, 0) - amount
    # a tick whose positions cancel stays initialised with a net of 0
    tick = draw(
        st.one_of(
            st.integers(
                max(oracle.MIN_TICK, low * spacing - 2),
                min(oracle.MAX_TICK - 1, high * spacing + 2),
            ),
            st.sampled_from(sorted(net) or [0]).map(lambda t: min(t, oracle.MAX_TICK - 1)),
        )
    )
    bottom, top = oracle.sqrt_price_at_tick(tick), oracle.sqrt_price_at_tick(tick + 1)
    price = draw(
        st.one_of(
            st.just(bottom), st.just(top - 1), st.integers(bottom, top - 1), st.just(bottom + 1)
        )
    )
    price = min(price, oracle.MAX_SQRT_PRICE - 1)
    if price == bottom and tick > oracle.MIN_TICK and draw(st.booleans()):
        tick -= 1  # as a swap leaves it that came down onto the price
    liquidity = sum(amount for t, amount in net.items() if t <= tick)
    return oracle.ConcentratedPool(
        version, price, tick, liquidity, draw(fees(version)), spacing, net
    )


def native(pool: oracle.ConcentratedPool) -> NativePool:
    return NativePool(
        lib.PSA_UNISWAP_V4 if pool.version == 4 else lib.PSA_UNISWAP_V3,
        pool.fee,
        sqrt_price=pool.sqrt_price,
        tick=pool.tick,
        liquidity=pool.liquidity,
        spacing=pool.spacing,
        ticks=sorted(pool.net.items()),
    )


def expected(
    pool: oracle.ConcentratedPool,
    amount: int,
    zero_for_one: bool,
    exact_in: bool,
    limit: int | None = None,
) -> Answer:
    try:
        swapped = oracle.swap(pool, amount, zero_for_one, exact_in, limit)
    except oracle.RevertError as reverted:
        return Answer(STATUS[reverted.args[0]], 0, 0, 0, 0, 0, 0, False)
    return Answer(
        lib.PSA_OK,
        swapped.amount_in,
        swapped.amount_out,
        swapped.sqrt_price,
        swapped.tick,
        swapped.liquidity,
        swapped.ticks_crossed,
        swapped.is_complete,
    )


@st.composite
def limits(draw: st.DrawFn, pool: oracle.ConcentratedPool) -> int:
    """A price limit: on ticks, on word edges, beside them, anywhere, out of range."""
    edges = [256 * pool.spacing * k for k in range(-3, 4)]
    ticks = [t for t in [*pool.net, *edges, pool.tick, pool.tick + 1] if abs(t) <= oracle.MAX_TICK]
    near = draw(st.sampled_from(ticks).map(oracle.sqrt_price_at_tick))
    return draw(
        st.one_of(
            st.sampled_from([near - 1, near, near + 1]),
            st.integers(oracle.MIN_SQRT_PRICE - 1, oracle.MAX_SQRT_PRICE + 1),
            st.integers(0, oracle.MAX_TICK).map(oracle.sqrt_price_at_tick),
            magnitudes(256),
        )
    )


@settings(max_examples=600 // SHARE, deadline=None)
@given(st.data())
def test_swap_equals_the_oracle(data: st.DataObject) -> None:
    pool = data.draw(pools())
    zero_for_one, exact_in = data.draw(st.booleans()), data.draw(st.booleans())
    limit = data.draw(st.one_of(st.none(), limits(pool)))
    amount = data.draw(magnitudes(256))
    found = native(pool).quote(amount, zero_for_one, exact_in, limit)
    wanted = expected(pool, amount, zero_for_one, exact_in, limit)
    assert found == wanted
    # what the swap took or gave, asked for again: on the edge of what reaches the same end
    end = wanted.amount_in if exact_in else wanted.amount_out
    for near in (end - 1, end, end + 1):
        if near > 0:
            found = native(pool).quote(near, zero_for_one, exact_in, limit)
            assert found == expected(pool, near, zero_for_one, exact_in, limit)


@settings(max_examples=200 // SHARE, deadline=None)
@given(st.data())
def test_depth_equals_the_plain_quote_at_and_around_every_rung(data: st.DataObject) -> None:
    pool = data.draw(pools())
    zero_for_one = data.draw(st.booleans())
    limit = data.draw(st.one_of(st.none(), limits(pool)))
    quoted = native(pool)
    depth = quoted.depth(zero_for_one)
    ahead = quoted.depth(zero_for_one, from_price=True)
    rungs = ahead.rungs
    if len(rungs) > 40:
        rungs = rungs[:20] + rungs[-20:]
    for exact_in in (True, False):
        totals = {integer(r.amount_in if exact_in else r.amount_out, 4) for r in rungs}
        amounts = {t + d for t in totals for d in (-1, 0, 1) if t + d >= 0}
        amounts |= {data.draw(magnitudes(256)) for _ in range(10)}
        asked = sorted(amounts)
        plain = [quoted.quote(amount, zero_for_one, exact_in, limit) for amount in asked]
        assert depth.quote(asked, exact_in, limit) == plain
        assert ahead.quote(asked, exact_in, limit) == plain
        amount = data.draw(st.sampled_from(asked))
        wanted = expected(pool, amount, zero_for_one, exact_in, limit)
        assert plain[asked.index(amount)] == wanted


@settings(max_examples=2000 // SHARE, deadline=None)
@given(st.data())
def test_v2_equals_the_router_library(data: st.DataObject) -> None:
    reserves = data.draw(st.tuples(magnitudes(112), magnitudes(112)))
    digits = data.draw(st.sampled_from([3, 4, 5, 6]))  # the router's is 3
    rest = data.draw(st.integers(0, 10**digits))
    fee = (10**digits - rest) * 10 ** (6 - digits)
    while digits > 3 and rest % 10 == 0:
        rest, digits = rest // 10, digits - 1
    zero_for_one, exact_in = data.draw(st.booleans()), data.draw(st.booleans())
    amount = data.draw(st.one_of(magnitudes(256), st.integers(0, max(reserves) + 1)))
    ends = reserves if zero_for_one else reserves[::-1]
    function = oracle.v2_amount_out if exact_in else oracle.v2_amount_in
    try:
        other = function(amount, *ends, rest, 10**digits)
    except oracle.RevertError as reverted:
        reason = reverted.args[0]
        if "INSUFFICIENT_LIQUIDITY" in reason:
            status = lib.PSA_NOT_INITIALIZED
        elif "INSUFFICIENT" in reason:
            status = lib.PSA_AMOUNT_OUT_OF_RANGE
        elif "underflow" in reason or (reason == "" and amount == ends[1]):
            status = lib.PSA_INSUFFICIENT_LIQUIDITY
        else:
            status = lib.PSA_SWAP_REVERTS
        wanted = Answer(status, 0, 0, 0, 0, 0, 0, False)
    else:
        pair = (amount, other) if exact_in else (other, amount)
        wanted = Answer(lib.PSA_OK, *pair, 0, 0, 0, 0, True)
    pool = NativePool(lib.PSA_UNISWAP_V2, fee, reserves=reserves)
    assert pool.quote(amount, zero_for_one, exact_in) == wanted


@settings(max_examples=2000 // SHARE, deadline=None)
@given(st.integers(oracle.MIN_SQRT_PRICE, oracle.MAX_SQRT_PRICE - 1))
def test_tick_of_any_price_equals_the_oracle(price: int) -> None:
    tick = ffi.new("int32_t *")
    assert lib.psa_tick_at_sqrt_price(ffi.new("uint64_t[4]", limbs(price, 4)), tick) == lib.PSA_OK
    assert tick[0] == oracle.tick_at_sqrt_price(price)


@pytest.mark.parametrize("seed", range(8))
def test_garbage_memory_gives_a_status_and_ends(seed: int) -> None:
    """Random lines, rows and ticks, from wholly random to almost a pool; also by depth.

    Torn reads look like this. The sanitizer builds run the same test.
    """
    source = random.Random(seed)
    statuses = set()
    for _ in range(1500):
        count = source.choice([0, 1, 2, 7, 40])
        spacing = source.choice([1, 60, source.getrandbits(15), source.getrandbits(32) - (1 << 31)])
        wild = source.random() < 0.5
        ticks = [
            source.getrandbits(32) - (1 << 31) if wild else source.randint(-887400, 887400)
            for _ in range(count)
        ]
        if source.random() < 0.7:
            ticks.sort()
        tick = source.choice(
            [0, source.randint(-887280, 887280), source.getrandbits(32) - (1 << 31)]
        )
        price = source.getrandbits(source.randint(1, 160))
        if abs(tick) < 887272 and source.random() < 0.7:
            price = oracle.sqrt_price_at_tick(tick)
        pool = NativePool(
            source.choice([0, 1, 2, 3, 255]) if source.random() < 0.2 else source.choice([1, 2]),
            source.choice([3000, source.getrandbits(24)]),
            sqrt_price=price,
            tick=tick,
            liquidity=source.getrandbits(source.randint(0, 128)),
            spacing=spacing,
            ticks=[(t, source.getrandbits(127) - (1 << 126)) for t in ticks],
            protocol_fee=source.getrandbits(24),
            flags=source.choice([0, 0, 0, source.getrandbits(8)]),
            status=source.choice([2, 2, 2, source.getrandbits(8)]),
        )
        if source.random() < 0.2:
            pool.copy.line.current_index = source.getrandbits(32)
        if source.random() < 0.1:
            pool.copy.line.tick_count = 0
        flags = source.getrandbits(5)
        fee = source.getrandbits(source.randint(1, 32))
        limit = source.choice([None, source.getrandbits(160), source.getrandbits(256)])
        amount = source.getrandbits(source.randint(1, 256))
        found = pool.quote(amount, bool(flags & 1), bool(flags & 2), limit, flags & 14, fee)
        statuses.add(found.status)
        assert found.status == lib.PSA_OK or found == Answer(found.status, 0, 0, 0, 0, 0, 0, False)
        rungs = ffi.new("psa_rung[]", 64)
        depth = ffi.new("psa_depth *")
        build = flags & 31 | source.choice([0, lib.PSA_FROM_PRICE])
        status = lib.psa_depth_build(pool.copy, build, fee, rungs, 64, depth)
        statuses.add(status)
        assert depth.count <= 64
        assert lib.psa_depth_capacity(pool.copy, flags & 31, fee) >= 1
        results = ffi.new("psa_quote_result *")
        words = ffi.new("uint64_t[4]", limbs(amount, 4))
        arguments = (words, ffi.NULL, flags & 31, fee, 1, results)
        assert lib.psa_depth_quote(pool.copy, depth, *arguments) == lib.PSA_OK
        statuses.add(results.status)
    assert {lib.PSA_OK, lib.PSA_TICK_DATA, lib.PSA_POOL_STALE, lib.PSA_BAD_ARGUMENT} <= statuses
