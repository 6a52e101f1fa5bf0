"""The quote functions: prices of ticks, refusals and their order, shared memory, ladders.

Expected amounts come from the integer oracle; shared memory is an ordinary buffer laid out by hand.
"""

from typing import Any

import numpy as np
import pytest
from builders.native_pools import Answer, NativePool, answer, direction, integer, limbs
from oracle import swap_oracle as oracle

from arena.native import ffi, lib

V2, V3, V4 = lib.PSA_UNISWAP_V2, lib.PSA_UNISWAP_V3, lib.PSA_UNISWAP_V4
ETHER = 10**18
PRICE_0 = 1 << 96


def refusal(status: int) -> Answer:
    return Answer(status, 0, 0, 0, 0, 0, 0, False)


def small_pool(protocol: int = V3, fee: int = 3000, **changes: Any) -> NativePool:
    """Price 1, one position over (-120, 180), another over (-6000, 6000)."""
    fields: dict[str, Any] = {
        "sqrt_price": PRICE_0,
        "tick": 0,
        "liquidity": 5 * ETHER,
        "spacing": 60,
        "ticks": [(-6000, 2 * ETHER), (-120, 3 * ETHER), (180, -3 * ETHER), (6000, -2 * ETHER)],
    }
    return NativePool(protocol, fee, **(fields | changes))


def small_oracle(version: int = 3, fee: int = 3000) -> oracle.ConcentratedPool:
    net = {-6000: 2 * ETHER, -120: 3 * ETHER, 180: -3 * ETHER, 6000: -2 * ETHER}
    return oracle.ConcentratedPool(version, PRICE_0, 0, 5 * ETHER, fee, 60, net)


def swapped(result: oracle.Swapped) -> Answer:
    return Answer(
        lib.PSA_OK,
        result.amount_in,
        result.amount_out,
        result.sqrt_price,
        result.tick,
        result.liquidity,
        result.ticks_crossed,
        result.is_complete,
    )


# Ticks and prices


@pytest.mark.slow
def test_every_tick_has_the_oracles_price_and_every_price_step_its_tick() -> None:
    """Both functions at all 1,774,545 ticks; the tick also one unit of price below each of them.

    The tick of a price never falls as the price rises (it is the greatest tick not above it in both
    implementations), so agreement at both ends of every interval is agreement on all prices but for
    the interior, which the property tests sample.
    """
    words, tick = ffi.new("uint64_t[4]"), ffi.new("int32_t *")
    buffer = ffi.buffer(words)
    price_at, tick_at = lib.psa_sqrt_price_at_tick, lib.psa_tick_at_sqrt_price
    for t in range(oracle.MIN_TICK, oracle.MAX_TICK + 1):
        assert price_at(t, words) == lib.PSA_OK
        price = int.from_bytes(buffer, "little")
        assert price == oracle.sqrt_price_at_tick.__wrapped__(t)
        if t < oracle.MAX_TICK:
            assert tick_at(words, tick) == lib.PSA_OK
            assert tick[0] == t
        if t > oracle.MIN_TICK:
            buffer[:] = (price - 1).to_bytes(32, "little")
            assert tick_at(words, tick) == lib.PSA_OK
            assert tick[0] == t - 1


@pytest.mark.parametrize("tick", [-887273, 887273, -(2**31), 2**31 - 1])
def test_price_of_a_tick_outside_the_range_is_refused(tick: int) -> None:
    assert lib.psa_sqrt_price_at_tick(tick, ffi.new("uint64_t[4]")) == lib.PSA_BAD_ARGUMENT


@pytest.mark.parametrize(
    "price",
    [0, 1, oracle.MIN_SQRT_PRICE - 1, oracle.MAX_SQRT_PRICE, 1 << 160, 1 << 192, 2**256 - 1],
)
def test_tick_of_a_price_outside_the_range_is_refused(price: int) -> None:
    words = ffi.new("uint64_t[4]", limbs(price, 4))
    assert lib.psa_tick_at_sqrt_price(words, ffi.new("int32_t *")) == lib.PSA_BAD_ARGUMENT


def test_null_pointers_are_bad_arguments() -> None:
    words, pool = ffi.new("uint64_t[4]"), small_pool()
    null, bad = ffi.NULL, lib.PSA_BAD_ARGUMENT
    assert lib.psa_sqrt_price_at_tick(0, null) == bad
    assert lib.psa_tick_at_sqrt_price(null, ffi.new("int32_t *")) == bad
    assert lib.psa_tick_at_sqrt_price(words, null) == bad
    assert lib.psa_quote_copy(null, bytes(32), null, 0, 0, pool.result) == bad
    assert lib.psa_quote_copy(pool.copy, null, null, 0, 0, pool.result) == bad
    assert lib.psa_quote_copy(pool.copy, bytes(32), null, 0, 0, null) == bad
    depth, rungs = ffi.new("psa_depth *"), ffi.new("psa_rung *")
    assert lib.psa_depth_capacity(null, 0, 0) == 1
    assert lib.psa_depth_build(null, 0, 0, rungs, 1, depth) == bad
    assert lib.psa_depth_build(pool.copy, 0, 0, null, 1, depth) == bad
    assert lib.psa_depth_build(pool.copy, 0, 0, rungs, 0, depth) == bad
    assert lib.psa_depth_build(pool.copy, 0, 0, rungs, 1, null) == bad
    assert lib.psa_depth_quote(pool.copy, null, words, null, 0, 0, 1, pool.result) == bad
    assert lib.psa_depth_quote(pool.copy, depth, null, null, 0, 0, 1, pool.result) == bad


# Refusals


@pytest.mark.parametrize(
    ("status", "allowed", "refused"),
    [
        (lib.PSA_STATUS_ABSENT, False, lib.PSA_UNKNOWN_POOL),
        (lib.PSA_STATUS_SYNCING, True, lib.PSA_POOL_STALE),
        (lib.PSA_STATUS_STALE, True, lib.PSA_POOL_STALE),
        (lib.PSA_STATUS_REMOVED, False, lib.PSA_POOL_REMOVED),
    ],
)
@pytest.mark.parametrize("protocol", [V2, V3])
def test_pool_that_is_not_live_is_refused(
    protocol: int, status: int, allowed: bool, refused: int
) -> None:
    pool = small_pool(protocol, status=status, reserves=(10**9, 10**9))
    assert pool.quote(1000, True, True) == refusal(refused)
    found = pool.quote(1000, True, True, flags=lib.PSA_ALLOW_STALE)
    assert found.status == (lib.PSA_OK if allowed else refused)


def test_generation_of_another_pool_is_a_removed_pool() -> None:
    pool = small_pool()
    pool.row.generation = 2
    assert pool.quote(1000, True, True) == refusal(lib.PSA_POOL_REMOVED)


@pytest.mark.parametrize("protocol", [3, 8, 255])
def test_protocol_without_a_swap_is_refused(protocol: int) -> None:
    assert small_pool(protocol).quote(1, True, True) == refusal(lib.PSA_UNSUPPORTED_PROTOCOL)


@pytest.mark.parametrize("more", [0, lib.PSA_POOL_DYNAMIC_FEE])
def test_hooked_pool_is_refused_unless_hooks_are_allowed_and_the_fee_is_given(more: int) -> None:
    pool = small_pool(V4, 400, flags=lib.PSA_POOL_HOOKED | more)
    for allow in (
        0,
        lib.PSA_ALLOW_DYNAMIC,
        lib.PSA_FEE_GIVEN,
        lib.PSA_ALLOW_STALE,
        lib.PSA_ALLOW_HOOKS,
        lib.PSA_ALLOW_HOOKS | lib.PSA_ALLOW_DYNAMIC,
    ):
        assert pool.quote(1000, True, True, flags=allow) == refusal(lib.PSA_HOOKED_POOL)
    told = lib.PSA_FEE_GIVEN | lib.PSA_ALLOW_HOOKS
    by_curve = oracle.swap(small_oracle(4, 900), ETHER, True, True)
    assert pool.quote(ETHER, True, True, flags=told, lp_fee=900) == swapped(by_curve)
    above = pool.quote(ETHER, True, True, flags=told, lp_fee=1_000_001)
    assert above == refusal(lib.PSA_BAD_ARGUMENT)


def test_dynamic_fee_is_refused_allowed_or_given() -> None:
    pool = small_pool(V4, 400, flags=lib.PSA_POOL_DYNAMIC_FEE)
    assert pool.quote(ETHER, True, True) == refusal(lib.PSA_DYNAMIC_FEE)
    stored = oracle.swap(small_oracle(4, 400), ETHER, True, True)
    assert pool.quote(ETHER, True, True, flags=lib.PSA_ALLOW_DYNAMIC) == swapped(stored)
    given = oracle.swap(small_oracle(4, 900), ETHER, True, True)
    assert pool.quote(ETHER, True, True, flags=lib.PSA_FEE_GIVEN, lp_fee=900) == swapped(given)
    top = pool.quote(ETHER, True, True, flags=lib.PSA_FEE_GIVEN, lp_fee=1_000_000)
    assert (top.status, top.amount_in, top.amount_out) == (lib.PSA_OK, ETHER, 0)
    above = pool.quote(ETHER, True, True, flags=lib.PSA_FEE_GIVEN, lp_fee=1_000_001)
    assert above == refusal(lib.PSA_BAD_ARGUMENT)


@pytest.mark.parametrize("protocol", [V2, V3, V4])
def test_given_fee_for_a_pool_with_a_static_fee_is_a_bad_argument(protocol: int) -> None:
    pool = small_pool(protocol, reserves=(10**9, 10**9))
    found = pool.quote(1000, True, True, flags=lib.PSA_FEE_GIVEN, lp_fee=1)
    assert found == refusal(lib.PSA_BAD_ARGUMENT)


def test_unknown_flags_are_a_bad_argument() -> None:
    pool = small_pool()
    for flag in (lib.PSA_ONE_POOL, 128, 1 << 31):
        status = lib.psa_quote_copy(pool.copy, bytes(32), ffi.NULL, flag, 0, pool.result)
        assert status == lib.PSA_BAD_ARGUMENT


def test_v2_takes_no_price_limit() -> None:
    pool = NativePool(V2, 3000, reserves=(10**9, 10**9))
    assert pool.quote(1000, True, True, limit=PRICE_0) == refusal(lib.PSA_BAD_ARGUMENT)


@pytest.mark.parametrize(
    ("fee", "rest", "base"),
    [
        (3000, 997, 1000),
        (0, 1000, 1000),
        (2500, 9975, 10_000),
        (2550, 99_745, 100_000),
        (2555, 997_445, 1_000_000),
    ],
)
def test_v2_amounts_overflow_where_the_routers_fraction_does(
    fee: int, rest: int, base: int
) -> None:
    reserves = (7 * ETHER, 10**16 + 9)
    pool = NativePool(V2, fee, reserves=reserves)
    top = (2**256 - 1) // (rest * reserves[1])
    wanted = oracle.v2_amount_out(top, *reserves, rest, base)
    assert pool.quote(top, True, True) == Answer(lib.PSA_OK, top, wanted, 0, 0, 0, 0, True)
    assert pool.quote(top + 1, True, True) == refusal(lib.PSA_SWAP_REVERTS)
    # too much output is refused for its overflow before it is refused for lacking reserves
    top = (2**256 - 1) // base // reserves[0]
    assert pool.quote(top, True, False) == refusal(lib.PSA_INSUFFICIENT_LIQUIDITY)
    assert pool.quote(top + 1, True, False) == refusal(lib.PSA_SWAP_REVERTS)


@pytest.mark.parametrize("out_high", [1, 3, (1 << 47) + 5])
@pytest.mark.parametrize("reserve_in", [1, 10**9, (1 << 54) - 1])
@pytest.mark.parametrize("bits", range(140, 196, 3))
def test_long_division_corrects_a_digit_guessed_too_high(
    out_high: int, reserve_in: int, bits: int
) -> None:
    """An output just below k * 2^64 from an input beyond all reserves.

    With the divisor's low limb out of sight the first digit is guessed k; the true one is k - 1.
    The remainder then begins with the divisor's own first limbs, so the next digit is the largest.
    The last two amounts make those limbs nearly all ones.
    """
    reserves = (reserve_in, out_high << 64)
    pool = NativePool(V2, 3000, reserves=reserves)
    amounts = [1 << bits, (1 << bits) - 1, (1 << bits) + (1 << 64) - 1]
    amounts += [(1 << bits) // 997, ((1 << bits) - (1 << 70)) // 997]
    for amount in amounts:
        try:
            wanted = oracle.v2_amount_out(amount, *reserves, 997, 1000)
        except oracle.RevertError:
            assert pool.quote(amount, True, True) == refusal(lib.PSA_SWAP_REVERTS)
            continue
        found = pool.quote(amount, True, True)
        assert found == Answer(lib.PSA_OK, amount, wanted, 0, 0, 0, 0, True)


@pytest.mark.parametrize("reserves", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("exact_in", [True, False])
def test_v2_pool_without_reserves_is_not_initialized(
    reserves: tuple[int, int], exact_in: bool
) -> None:
    pool = NativePool(V2, 3000, reserves=reserves)
    assert pool.quote(1, True, exact_in) == refusal(lib.PSA_NOT_INITIALIZED)


def test_pool_without_price_is_not_initialized() -> None:
    pool = small_pool(sqrt_price=0)
    assert pool.quote(1, True, True) == refusal(lib.PSA_NOT_INITIALIZED)


@pytest.mark.parametrize("protocol", [V3, V4])
def test_amounts_up_to_the_ends_of_int256(protocol: int) -> None:
    pool, model = small_pool(protocol), small_oracle(protocol + 2)
    assert pool.quote(0, True, True) == refusal(lib.PSA_AMOUNT_OUT_OF_RANGE)
    assert pool.quote(0, True, False) == refusal(lib.PSA_AMOUNT_OUT_OF_RANGE)
    for exact_in in (True, False):
        # the side the contract writes as a negative number reaches one further
        top = (1 << 255) - (exact_in != (protocol == V4))
        assert pool.quote(top, True, exact_in) == swapped(oracle.swap(model, top, True, exact_in))
        assert pool.quote(top + 1, True, exact_in) == refusal(lib.PSA_AMOUNT_OUT_OF_RANGE)
        assert pool.quote(2**256 - 1, True, exact_in) == refusal(lib.PSA_AMOUNT_OUT_OF_RANGE)


def test_v4_amounts_beyond_int128_revert_and_v3_ones_do_not() -> None:
    liquidity = (1 << 128) - 1
    wide = {
        "sqrt_price": oracle.sqrt_price_at_tick(-600000),
        "tick": -600000,
        "liquidity": liquidity,
        "ticks": [],
    }
    for amount in ((1 << 127) - 1, 1 << 127):
        for exact_in in (True, False):
            v3 = small_pool(V3, 0, **wide).quote(amount, False, exact_in)
            v4 = small_pool(V4, 0, **wide).quote(amount, False, exact_in)
            assert v3.status == lib.PSA_OK
            fits = max(v3.amount_in, v3.amount_out) < 1 << 127
            assert v4 == (v3 if fits else refusal(lib.PSA_SWAP_REVERTS))


def test_price_limit_at_just_below_and_just_above_both_ends() -> None:
    pool, model = small_pool(), small_oracle()
    refused = refusal(lib.PSA_PRICE_LIMIT)
    for limit in (PRICE_0, PRICE_0 + 1, oracle.MIN_SQRT_PRICE, 0, 1 << 160, 1 << 200, 2**256 - 1):
        assert pool.quote(1000, True, True, limit) == refused
    for limit in (PRICE_0, PRICE_0 - 1, oracle.MAX_SQRT_PRICE, 0, 1 << 160, 1 << 200, 2**256 - 1):
        assert pool.quote(1000, False, True, limit) == refused
    for limit in (PRICE_0 - 1, oracle.MIN_SQRT_PRICE + 1):
        found = pool.quote(ETHER, True, True, limit)
        assert found == swapped(oracle.swap(model, ETHER, True, True, limit))
    for limit in (PRICE_0 + 1, oracle.MAX_SQRT_PRICE - 1):
        found = pool.quote(ETHER, False, True, limit)
        assert found == swapped(oracle.swap(model, ETHER, False, True, limit))


def test_v4_exact_output_at_a_fee_of_100_percent_is_refused_by_its_own_status() -> None:
    pool = small_pool(V4, 1_000_000)
    assert pool.quote(1, True, False) == refusal(lib.PSA_FEE_TOO_HIGH)
    # the contract looks at the amount first and at the price limit last
    assert pool.quote(0, True, False) == refusal(lib.PSA_AMOUNT_OUT_OF_RANGE)
    assert pool.quote(1, True, False, PRICE_0) == refusal(lib.PSA_FEE_TOO_HIGH)


@pytest.mark.parametrize("zero_for_one", [True, False])
def test_v4_protocol_fee_of_the_swaps_direction_is_part_of_the_fee(zero_for_one: bool) -> None:
    pool = small_pool(V4, 3000, protocol_fee=700 << 12 | 300)
    total = oracle.v4_total_fee(300 if zero_for_one else 700, 3000)
    found = pool.quote(ETHER, zero_for_one, True)
    assert found == swapped(oracle.swap(small_oracle(4, total), ETHER, zero_for_one, True))


@pytest.mark.parametrize(
    "changes",
    [
        {"sqrt_price": oracle.MIN_SQRT_PRICE - 1},
        {"sqrt_price": oracle.MAX_SQRT_PRICE},
        {"tick": -887273},
        {"tick": 887272},
        {"spacing": 0},
        {"spacing": -60},
        {"spacing": 32768},
        {"fee": 1_000_000},
        {"fee": 1_000_001, "protocol": V4},
        {"fee": 1_000_001, "protocol": V2, "reserves": (9, 9)},
        {"protocol": V2, "reserves": (1 << 112, 1)},
        {"protocol": V2, "reserves": (1, 1 << 112)},
        {"ticks": [(-60, 7 * ETHER), (60, -7 * ETHER)]},  # crossing would make liquidity negative
        {"ticks": [(-60, -(1 << 127)), (60, 0)], "liquidity": (1 << 128) - 1},  # or overflow it
    ],
)
def test_state_no_contract_can_hold_is_tick_data(changes: dict[str, Any]) -> None:
    pool = small_pool(**changes)
    assert pool.quote(1 << 192, True, True) == refusal(lib.PSA_TICK_DATA)


@pytest.mark.parametrize("index", [0, 1, 3, 4, 5, 2**32 - 1])
def test_wrong_current_index_is_tick_data(index: int) -> None:
    pool = small_pool()
    pool.copy.line.current_index = index
    assert pool.quote(1000, True, True) == refusal(lib.PSA_TICK_DATA)


def test_tick_count_without_arrays_is_tick_data() -> None:
    pool = small_pool()
    pool.copy.net = ffi.NULL
    assert pool.quote(1000, True, True) == refusal(lib.PSA_TICK_DATA)


# Results


def test_exact_output_equal_to_what_a_step_yields_crosses_its_tick() -> None:
    """Both sides of a rung's own output: rounding decides whether the tick is crossed."""
    for zero_for_one in (True, False):
        pool, model = small_pool(), small_oracle()
        totals = [
            integer(rung.amount_out, 4) for rung in pool.depth(zero_for_one, from_price=True).rungs
        ]
        total = next(total for total in totals if total > 0)
        for amount in range(total - 3, total + 4):
            found = pool.quote(amount, zero_for_one, False)
            assert found == swapped(oracle.swap(model, amount, zero_for_one, False))


@pytest.mark.parametrize("zero_for_one", [True, False])
@pytest.mark.parametrize("exact_in", [True, False])
@pytest.mark.parametrize("distance", [1, 3, 1 << 40, 1 << 88])
def test_amount_that_just_reaches_the_limit_ends_on_it(
    zero_for_one: bool, exact_in: bool, distance: int
) -> None:
    """Rounding leaves several prices for one amount; the one at the limit is the contract's."""
    pool, model = small_pool(), small_oracle()
    limit = PRICE_0 - distance if zero_for_one else PRICE_0 + distance
    whole = oracle.swap(model, 1 << 128, zero_for_one, exact_in, limit)
    assert whole.sqrt_price == limit
    total = whole.amount_in if exact_in else whole.amount_out
    for amount in (total - 1, total, total + 1):
        if amount > 0:
            wanted = swapped(oracle.swap(model, amount, zero_for_one, exact_in, limit))
            assert pool.quote(amount, zero_for_one, exact_in, limit) == wanted


def test_gap_without_liquidity_is_crossed_as_the_word_steps_do() -> None:
    """A limit on a word edge inside the gap: moving down leaves the tick below the edge."""
    net = {-600_000: ETHER, -400_020: -ETHER, 60: ETHER, 120: -ETHER}
    start = oracle.sqrt_price_at_tick(90)
    model = oracle.ConcentratedPool(3, start, 90, ETHER, 500, 60, net)
    pool = small_pool(
        V3, 500, sqrt_price=start, tick=90, liquidity=ETHER, ticks=sorted(net.items())
    )
    edge = -20 * 256 * 60
    for tick in (edge - 1, edge, edge + 1, edge - 256 * 60):
        for nudge in (-1, 0, 1):
            limit = oracle.sqrt_price_at_tick(tick) + nudge
            found = pool.quote(10**30, True, True, limit)
            assert found == swapped(oracle.swap(model, 10**30, True, True, limit))
            assert not found.is_complete
    assert pool.quote(10**30, True, True, oracle.sqrt_price_at_tick(edge)).tick == edge - 1


def test_result_carries_commit_and_block() -> None:
    pool = small_pool()
    pool.quote(1000, True, True)
    assert (pool.result.commit, pool.result.block_number) == (7, 1234)
    pool.copy.line.block_number = 0
    pool.copy.line.base_block = 999
    pool.quote(0, True, True)
    assert (pool.result.commit, pool.result.block_number) == (7, 999)


# Depth


def test_rungs_go_from_the_price_to_the_end_of_the_range_and_stay_inside_the_array() -> None:
    pool = small_pool()
    full = pool.depth(True, from_price=True).rungs
    assert integer(full[0].sqrt_price_x96, 3) == PRICE_0
    assert integer(full[-1].sqrt_price_x96, 3) == oracle.MIN_SQRT_PRICE + 1
    rungs, depth = ffi.new("psa_rung[]", 3), ffi.new("psa_depth *")
    ffi.memmove(rungs, b"\xaa" * ffi.sizeof(rungs), ffi.sizeof(rungs))
    flags = lib.PSA_ZERO_FOR_ONE | lib.PSA_FROM_PRICE
    assert lib.psa_depth_build(pool.copy, flags, 0, rungs, 2, depth) == lib.PSA_OK
    assert depth.count == 2 < len(full)
    last = ffi.addressof(rungs, 2)
    assert bytes(ffi.buffer(last)) == b"\xaa" * ffi.sizeof("psa_rung")


@pytest.mark.parametrize("spacing", [1, 60, 32767])
@pytest.mark.parametrize("from_price", [True, False])
def test_rungs_of_the_whole_range_fit_the_capacity(spacing: int, from_price: bool) -> None:
    reach = oracle.MAX_TICK // spacing * spacing
    ticks = [(-reach, ETHER), (reach, -ETHER)]
    pool = small_pool(V4, spacing=spacing, liquidity=ETHER, ticks=ticks)
    for zero_for_one, end in (
        (True, oracle.MIN_SQRT_PRICE + 1),
        (False, oracle.MAX_SQRT_PRICE - 1),
    ):
        rungs = pool.depth(zero_for_one, from_price=from_price).rungs
        assert integer(rungs[-1].sqrt_price_x96, 3) == end
        assert len(rungs) <= len(ticks) + 7000


@pytest.mark.parametrize("zero_for_one", [True, False])
@pytest.mark.parametrize("from_price", [True, False])
def test_depth_at_a_fee_of_100_percent_swallows_every_input(
    zero_for_one: bool, from_price: bool
) -> None:
    pool, model = small_pool(V4, 1_000_000), small_oracle(4, 1_000_000)
    depth = pool.depth(zero_for_one, from_price=from_price)
    for amount in (1, ETHER):
        wanted = swapped(oracle.swap(model, amount, zero_for_one, True))
        assert depth.quote([amount], True) == [wanted] == [pool.quote(amount, zero_for_one, True)]
    assert depth.quote([1], False) == [refusal(lib.PSA_FEE_TOO_HIGH)]


def test_depth_refuses_what_the_quote_refuses() -> None:
    depth, rungs = ffi.new("psa_depth *"), ffi.new("psa_rung[]", 8)
    for pool, status in (
        (small_pool(status=lib.PSA_STATUS_STALE), lib.PSA_POOL_STALE),
        (small_pool(V4, flags=lib.PSA_POOL_HOOKED), lib.PSA_HOOKED_POOL),
        (small_pool(sqrt_price=0), lib.PSA_NOT_INITIALIZED),
    ):
        assert lib.psa_depth_build(pool.copy, 0, 0, rungs, 8, depth) == status
        words = ffi.new("uint64_t[4]", [1, 0, 0, 0])
        arguments = (words, ffi.NULL, 0, 0, 1, pool.result)
        assert lib.psa_depth_quote(pool.copy, depth, *arguments) == lib.PSA_OK
        assert answer(pool.result) == refusal(status)
    assert small_pool().depth(True).quote([0], True) == [refusal(lib.PSA_AMOUNT_OUT_OF_RANGE)]


# Shared memory


class SharedPools:
    """An arena of a few slots in private memory, with one tick slab of 8 ticks per slot."""

    SLAB = 64 + 64 + 128 + 128  # header, ticks, net, gross at capacity 8

    def __init__(self, pools: list[NativePool], committed: int = 10) -> None:
        count = len(pools)
        self.header = ffi.new("psa_header *")
        self.header.committed = committed
        self.statics = ffi.new("psa_static[]", count)
        self.slots = ffi.new("psa_slot[]", count)
        self.heap = ffi.new("uint8_t[]", 64 + count * self.SLAB)
        arena = self.arena = ffi.new("psa_arena *")
        arena.header, arena.statics, arena.slots = self.header, self.statics, self.slots
        arena.heap, arena.heap_nbytes = self.heap, 64 + count * self.SLAB
        arena.max_pools = count
        for slot, pool in enumerate(pools):
            self.statics[slot] = pool.row[0]
            self.put(slot, 0, pool, committed - 3)

    def put(self, slot: int, which: int, pool: NativePool, stamp: int) -> None:
        offset = 64 + slot * self.SLAB
        line = pool.copy.line
        line.slab, line.slab_class, line.stamp = offset // 64, 0, stamp
        self.slots[slot].lines[which] = line
        n = line.tick_count
        ffi.memmove(self.heap + offset + 64, pool.ticks, 4 * n)
        ffi.memmove(self.heap + offset + 128, pool.net, 16 * n)

    def quote(
        self,
        slot: int,
        amount: int,
        zero_for_one: bool = True,
        exact_in: bool = True,
        *,
        generation: int = 0,
        commit: int = 0,
        limit: int | None = None,
    ) -> tuple[Answer, int]:
        """The answer and the commit it belongs to."""
        result = ffi.new("psa_quote_result *")
        status = lib.psa_quote(
            self.arena,
            slot,
            generation,
            commit,
            amount.to_bytes(32, "little"),
            ffi.NULL if limit is None else limit.to_bytes(32, "little"),
            direction(zero_for_one, exact_in),
            0,
            result,
        )
        assert status == result.status
        return answer(result), result.commit


def test_shared_quote_equals_the_copy() -> None:
    pools = [NativePool(V2, 3000, reserves=(ETHER, 3 * ETHER)), small_pool(), small_pool(V4)]
    shared = SharedPools(pools)
    for slot, pool in enumerate(pools):
        for zero_for_one in (True, False):
            for exact_in in (True, False):
                for amount in (0, 1, ETHER // 50, ETHER // 3, 50 * ETHER, 2**255, 2**256 - 1):
                    wanted = pool.quote(amount, zero_for_one, exact_in)
                    found = shared.quote(slot, amount, zero_for_one, exact_in, generation=1)
                    assert found == (wanted, 7)
    limit = oracle.sqrt_price_at_tick(-200)
    wanted = pools[1].quote(50 * ETHER, True, True, limit)
    assert shared.quote(1, 50 * ETHER, limit=limit) == (wanted, 7)


def test_shared_quote_picks_the_newest_version_not_after_the_commit() -> None:
    shared = SharedPools([NativePool(V2, 3000, reserves=(10**9, 10**9))], committed=10)
    newer = NativePool(V2, 3000, reserves=(10**9, 2 * 10**9))
    shared.put(0, 1, newer, 9)
    old, new = (
        NativePool(V2, 3000, reserves=(10**9, 10**9)).quote(5000, True, True),
        newer.quote(5000, True, True),
    )
    assert shared.quote(0, 5000) == (new, 9)
    assert shared.quote(0, 5000, commit=9) == (new, 9)
    assert shared.quote(0, 5000, commit=8) == (old, 7)
    assert shared.quote(0, 5000, commit=6) == (refusal(lib.PSA_SNAPSHOT_TOO_OLD), 0)
    # a version stamped beyond the last commit is an unfinished block: never read
    shared.put(0, 1, newer, 11)
    assert shared.quote(0, 5000) == (old, 7)


def test_shared_quote_gives_up_when_no_version_is_committed() -> None:
    """Both lines stay newer than the last commit: what a reader sees that is always overtaken."""
    shared = SharedPools([small_pool()], committed=10)
    shared.slots[0].lines[0].stamp = 11
    shared.slots[0].lines[1].stamp = 12
    assert shared.quote(0, 5000) == (refusal(lib.PSA_CONTENDED), 0)
    assert shared.quote(0, 5000, commit=10) == (refusal(lib.PSA_SNAPSHOT_TOO_OLD), 0)


def test_shared_quote_refuses_slots_and_generations_that_are_not_the_pools() -> None:
    shared = SharedPools([small_pool()])
    assert shared.quote(1, 5000) == (refusal(lib.PSA_UNKNOWN_POOL), 0)
    assert shared.quote(2**32 - 1, 5000) == (refusal(lib.PSA_UNKNOWN_POOL), 0)
    assert shared.quote(0, 5000, generation=2) == (refusal(lib.PSA_POOL_REMOVED), 7)
    shared.slots[0].lines[0].stamp = 0
    assert shared.quote(0, 5000) == (refusal(lib.PSA_UNKNOWN_POOL), 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slab", 2**32 - 1),
        ("slab", 2),
        ("slab_class", 1),
        ("slab_class", 40),
        ("slab_class", 255),
        ("tick_count", 9),
        ("tick_count", 2**32 - 1),
    ],
)
def test_line_that_points_outside_the_heap_is_never_followed(field: str, value: int) -> None:
    shared = SharedPools([small_pool()])
    setattr(shared.slots[0].lines[0], field, value)
    assert shared.quote(0, 5000)[0] == refusal(lib.PSA_TICK_DATA)


def test_batch_equals_single_quotes() -> None:
    pools = [NativePool(V2, 3000, reserves=(ETHER, 3 * ETHER)), small_pool(), small_pool(V4)]
    shared = SharedPools(pools)
    slots = [0, 1, 2, 1, 2**32 - 1, 0, 2]
    amounts = [ETHER // 7, ETHER, 0, 3, 5, 2**256 - 1, 9 * ETHER]
    flags = [0, 1, 16, 17, 0, 16, 17]
    words = np.array([limbs(a, 4) for a in amounts], dtype="<u8")
    results = ffi.new("psa_quote_result[]", len(slots))
    arguments = ffi.from_buffer("uint64_t[]", words)

    def batch(pools: Any, item_flags: Any, flags: int) -> int:
        status: int = lib.psa_quote_batch(
            shared.arena, pools, 0, arguments, item_flags, flags, len(amounts), results
        )
        return status

    assert batch(slots, flags, 0) == lib.PSA_OK
    for i, slot in enumerate(slots):
        zero_for_one, exact_in = bool(flags[i] & 16), not flags[i] & 1
        single, commit = shared.quote(slot, amounts[i], zero_for_one, exact_in)
        assert (answer(results[i]), results[i].commit) == (single, commit)
    # one pool for all amounts, flags for all, generations checked
    assert batch([1 << 32 | 1], ffi.NULL, lib.PSA_ONE_POOL | lib.PSA_EXACT_OUT) == lib.PSA_OK
    for i, amount in enumerate(amounts):
        assert answer(results[i]) == shared.quote(1, amount, False, False)[0]
    assert batch([2 << 32 | 1], ffi.NULL, lib.PSA_ONE_POOL) == lib.PSA_OK
    assert {answer(results[i]) for i in range(len(amounts))} == {refusal(lib.PSA_POOL_REMOVED)}
    # flags a batch does not take: one item's refuse that item, the call's refuse the call
    flags[1] |= lib.PSA_FEE_GIVEN
    assert batch(slots, flags, 0) == lib.PSA_OK
    assert answer(results[1]) == refusal(lib.PSA_BAD_ARGUMENT)
    assert answer(results[3]) == shared.quote(1, amounts[3], True, False)[0]
    assert batch(slots, ffi.NULL, lib.PSA_FEE_GIVEN) == lib.PSA_BAD_ARGUMENT
    assert batch(ffi.NULL, ffi.NULL, 0) == lib.PSA_BAD_ARGUMENT
