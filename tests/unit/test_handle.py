"""The extension types: handles that answer quotes, quotes as values, integers from and to words.

Answers are compared with a call of the core through cffi whose result is decoded here, and refusals with
a slow reading of the same arguments in Python.
"""

import copy
import gc
import operator
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import swap_oracle

from arena import errors
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOLS
from arena.native import EXCEPTIONS, _handle, ffi, lib
from arena.native._handle import PoolHandle, ints_from_words, make_quote, words_from_ints
from arena.readers import Arena, Pool, PoolState, Quote, Token, attach
from arena.readers.quote import amounts_array
from arena.readers.state import token_of
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = (TokenSpec(b"\1" * 20, 18, "A"), TokenSpec(b"\2" * 20, 18, "B"))
TICKS = tuple((60 * n, 10**20, 10**20 if n < 0 else -(10**20)) for n in range(-10, 11) if n)
CL: dict[str, Any] = {"sqrt_price_x96": 1 << 96, "liquidity": 10**21, "ticks": TICKS}
RESERVES = {"reserve0": 10**30, "reserve1": 3 * 10**24}
V2, V3, V4, SOLIDLY, WIDE, STALE, EMPTY = (
    PoolSpec(bytes([n]) * size, protocol, *TOKENS, fee, spacing, b"\7" * 20)
    for n, size, protocol, fee, spacing in (
        (0xA1, 20, slots.UNISWAP_V2, 3000, 0),
        (0xA2, 20, slots.UNISWAP_V3, 500, 60),
        (0xA3, 32, slots.UNISWAP_V4, 3000, 60),
        (0xA4, 20, slots.SOLIDLY, 0, 0),
        (0xA5, 20, slots.UNISWAP_V2, 3000, 0),
        (0xA6, 20, slots.UNISWAP_V3, 500, 60),
        (0xA7, 20, slots.UNISWAP_V2, 3000, 0),
    )
)
VALUES = {
    V2: PoolValues(100, 3000, **RESERVES),
    V3: PoolValues(101, 500, **CL),
    V4: PoolValues(102, 3000, lp_fee=3000, protocol_fee=100 << 12 | 50, fee_block=99, **CL),
    SOLIDLY: PoolValues(103, 2000, **RESERVES),
    WIDE: PoolValues(104, 3000, reserve0=(1 << 112) - 1, reserve1=(1 << 112) - 1),
    STALE: PoolValues(105, 500, **CL),
    EMPTY: PoolValues(106, 3000),
}
SIZES = [1, 10**18, *(2**bits + n for bits in (63, 64, 95, 112, 128, 192, 255) for n in (-1, 0, 1))]
SIZES += [0, 2**256 - 1]
FIELDS = (
    *("amount_in", "amount_out", "sqrt_price_x96_after", "liquidity_after", "tick_after"),
    *("ticks_crossed", "is_complete", "commit", "block_number"),
)


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 20)) as found:
        for spec, values in VALUES.items():
            status = slots.STATUS_STALE if spec is STALE else slots.STATUS_LIVE
            found.install(found.add_pool(spec), values, status)
        found.set_head(110)
        found.commit()
        yield found


def fields(quote: Quote) -> tuple[Any, ...]:
    return tuple(getattr(quote, name) for name in FIELDS)


# ---- the reference


def through_cffi(pool: Pool, data: bytes, flags: int, limit: Any, lp_fee: int) -> tuple[Any, ...]:
    """Fields of the core's answer, decoded here; the error of its status."""
    result = ffi.new("psa_quote_result *")
    mapped, slot, generation = pool._where
    status = lib.psa_quote(
        mapped.pointer, slot, generation, pool._commit, data, limit, flags, lp_fee, result
    )
    if status:
        raise EXCEPTIONS[status]("refused")
    raw = bytes(ffi.buffer(result))
    places = ((0, 32), (32, 64), (64, 96), (96, 112), (112, 116), (116, 120), (120, 121))
    numbers = [
        int.from_bytes(raw[at:end], "little") for at, end in (*places, (128, 136), (136, 144))
    ]
    numbers[4] = int.from_bytes(raw[112:116], "little", signed=True)
    return (*numbers[:6], bool(numbers[6]), *numbers[7:])


def truth(given: Any) -> bool:
    """What equals True or False, as a key of a dictionary does."""
    try:
        return {True: True, False: False}[given]
    except KeyError:
        raise TypeError("no truth value") from None


def read_slowly(
    pool: Pool, exact_out: bool, amount: Any, zero_for_one: Any, options: dict[str, Any]
) -> tuple[Any, ...]:
    """What a quote answers, by the page of the API: one look at each argument after another."""
    flags = lib.PSA_ZERO_FOR_ONE if truth(zero_for_one) else 0
    flags |= lib.PSA_EXACT_OUT if exact_out else 0
    if options.keys() - {"sqrt_price_limit_x96", "allow_stale", "lp_fee", "allow_hooks"}:
        raise TypeError("no such option")
    limit, lp_fee = options.get("sqrt_price_limit_x96"), options.get("lp_fee")
    if truth(options.get("allow_stale", False)):
        flags |= lib.PSA_ALLOW_STALE
    if truth(options.get("allow_hooks", False)):
        flags |= lib.PSA_ALLOW_HOOKS
        if lp_fee is None:
            raise ValueError("hooks without a fee")
    if lp_fee is not None:
        flags |= lib.PSA_FEE_GIVEN
        if not 0 <= lp_fee <= 10**6:
            raise ValueError("no fee")
    if limit is not None and not 0 <= operator.index(limit) < 2**256:
        raise ValueError("no price")
    number = operator.index(amount)
    if not 0 <= number < 2**256:
        raise errors.AmountOutOfRange("no uint256")
    bound = ffi.NULL if limit is None else operator.index(limit).to_bytes(32, "little")
    return through_cffi(pool, number.to_bytes(32, "little"), flags, bound, lp_fee or 0)


def outcome(ask: Callable[[], Any]) -> Any:
    """An answer, or the type of an error."""
    try:
        return ask()
    except Exception as error:
        return type(error)


# ---- answers


@pytest.mark.parametrize(
    "spec", VALUES, ids=["v2", "v3", "v4", "solidly", "wide", "stale", "empty"]
)
def test_every_field_is_the_cores(pools: Arena, spec: PoolSpec) -> None:
    for pool in (pools[spec.key], pools.snapshot()[spec.key]):
        for exact_out, ask in ((False, pool.quote_exact_in), (True, pool.quote_exact_out)):
            for amount in SIZES:
                for way in (True, False):
                    found = outcome(lambda: fields(ask(amount, zero_for_one=way)))  # noqa: B023
                    assert found == outcome(
                        lambda: read_slowly(pool, exact_out, amount, way, {})  # noqa: B023
                    ), (amount, way)


@pytest.mark.parametrize("amount", SIZES)
def test_pairs_and_copies_agree_with_the_oracle(pools: Arena, amount: int) -> None:
    for spec in (V2, WIDE):
        values = VALUES[spec]
        pool, frozen = pools[spec.key], pools[spec.key].freeze()
        for way in (True, False):
            given_, taken = values.reserve0, values.reserve1
            if not way:
                given_, taken = taken, given_
            try:
                wanted = swap_oracle.v2_amount_out(amount, given_, taken, 997, 1000)
            except swap_oracle.RevertError:
                with pytest.raises(errors.ArenaError):
                    pool.quote_exact_in(amount, zero_for_one=way)
                continue
            found = pool.quote_exact_in(amount, zero_for_one=way)
            assert (found.amount_in, found.amount_out) == (amount, wanted)
            assert frozen.quote_exact_in(amount, zero_for_one=way) == found
            assert pool.quote_many([amount], zero_for_one=way)[0] == found
            assert pool.quote_many([amount], zero_for_one=way).amounts_out == [wanted]


def test_ticks_and_copies_agree_with_the_oracle(pools: Arena) -> None:
    curve = swap_oracle.ConcentratedPool(
        version=3, sqrt_price=1 << 96, tick=0, liquidity=10**21, fee=500, spacing=60,
        net={tick: net for tick, _, net in TICKS},
    )  # fmt: skip
    pool = pools[V3.key]
    for amount in [10**15, 10**18, 2**63, 2**64, 2**65, 5 * 10**19]:
        for way in (True, False):
            for exact_in, ask in ((True, pool.quote_exact_in), (False, pool.quote_exact_out)):
                wanted = swap_oracle.swap(curve, amount, way, exact_in)
                found = ask(amount, zero_for_one=way)
                assert (found.amount_in, found.amount_out, found.ticks_crossed) == (
                    wanted.amount_in,
                    wanted.amount_out,
                    wanted.ticks_crossed,
                )


def test_iterating_a_batch_takes_each_item(pools: Arena) -> None:
    amounts = [10**18, 2**64, 2**255, 10**19]
    batch = pools[V3.key].quote_many(amounts, zero_for_one=True)
    assert [status == 0 for status in batch.statuses] == [True, True, False, True]
    taken: list[Quote] = []
    with pytest.raises(errors.AmountOutOfRange):
        taken.extend(batch)
    assert [fields(quote) for quote in taken] == [fields(batch[n]) for n in (0, 1)]
    assert [fields(quote) for quote in batch[::-3]] == [fields(batch[n]) for n in (3, 0)]
    assert list(batch[:0]) == []


# ---- arguments of any type


class Raising:
    def __index__(self) -> int:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError


class Lying:
    def __index__(self) -> Any:
        return "7"


class Number:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Level(IntEnum):
    low = 7
    high = 2**70


class Odd(int):
    def __rshift__(self, other: object) -> Any:
        raise ZeroDivisionError

    def __index__(self) -> int:
        return 3


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([*SIZES, -1, 2**256, -(2**63), -(2**64), -(2**256), 10**1000]),
)
THINGS = st.one_of(
    NUMBERS,
    st.booleans(),
    st.none(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=40),
    st.lists(st.integers(), max_size=2),
    st.builds(np.int64, st.integers(-(2**63), 2**63 - 1)),
    st.builds(np.uint64, st.integers(0, 2**64 - 1)),
    st.builds(Number, NUMBERS),
    st.sampled_from(
        [
            *(lambda: np.array([1]), lambda: np.array(3), lambda: np.float64(2), Raising, Lying),
            *(lambda: Odd(5), lambda: Odd(2**70), lambda: Level.high, lambda: Level.low),
            *(lambda: Decimal(3), lambda: Fraction(3), lambda: 3j, object, lambda: object),
        ]
    ).map(lambda make: make()),
)
DIRECTIONS = st.one_of(
    st.booleans(),
    st.sampled_from([0, 1, 1.0, 0.0, 2, "false", None]),
    st.booleans().map(np.bool_),
    st.booleans().map(Odd),
    THINGS,
)
OPTIONS = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "allow_stale": THINGS,
            "sqrt_price_limit_x96": st.one_of(st.none(), st.integers(0, 2**161), NUMBERS),
            "lp_fee": st.one_of(st.none(), st.integers(-1, 10**6 + 1)),
            "allow_hooks": st.one_of(st.booleans(), THINGS),
            "limit": THINGS,
        },
    ),
)


@settings(max_examples=settings.get_profile("ci").max_examples)
@given(st.sampled_from(list(VALUES)), st.booleans(), THINGS, DIRECTIONS, OPTIONS)
@example(V2, False, Odd(2**70), True, {})
@example(V2, False, 5, Raising(), {})
@example(V2, True, Lying(), True, {"allow_stale": True})
def test_any_argument_is_answered_or_refused_as_a_slow_reading_says(
    pools: Arena, spec: PoolSpec, exact_out: bool, amount: Any, way: Any, options: dict[str, Any]
) -> None:
    pool = pools[spec.key]
    ask = pool.quote_exact_out if exact_out else pool.quote_exact_in
    found = outcome(lambda: fields(ask(amount, zero_for_one=way, **options)))
    assert found == outcome(lambda: read_slowly(pool, exact_out, amount, way, options))


def test_names_and_places_of_arguments_are_those_of_the_signature(pools: Arena) -> None:
    pool: Any = pools[V2.key]
    expected = pool.quote_exact_in(5, zero_for_one=True)
    assert pool.quote_exact_in(zero_for_one=True, amount_in=5) == expected
    assert pool.quote_exact_in(5, **{"".join(["zero_for_", "one"]): True}) == expected
    assert Pool.quote_exact_in(pool, 5, zero_for_one=True) == expected
    assert pool.quote_exact_out(amount_out=5, zero_for_one=True).amount_out == 5
    for wrong in (
        lambda: pool.quote_exact_in(),
        lambda: pool.quote_exact_in(5),
        lambda: pool.quote_exact_in(5, True),
        lambda: pool.quote_exact_in(5, 6, zero_for_one=True),
        lambda: pool.quote_exact_in(zero_for_one=True),
        lambda: pool.quote_exact_in(5, amount_in=5, zero_for_one=True),
        lambda: pool.quote_exact_out(amount_in=5, zero_for_one=True),
        lambda: pool.quote_exact_in(5, zero_for_two=True),
        lambda: Pool.quote_exact_in(),
        lambda: Pool.quote_exact_in(object(), 5, zero_for_one=True),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_errors_carry_what_was_asked(pools: Arena) -> None:
    with pytest.raises(errors.PoolStale, match="7 out of pool 0xa6.*token1 to token0") as stale:
        pools[STALE.key].quote_exact_out(7, zero_for_one=False)
    assert (stale.value.key, stale.value.amount) == ("0x" + STALE.key.hex(), 7)
    with pytest.raises(errors.AmountOutOfRange, match=f"amount {2**256} is no uint256") as large:
        pools[V2.key].quote_exact_in(2**256, zero_for_one=True)
    assert large.value.amount == 2**256
    with pytest.raises(TypeError, match="zero_for_one is True or False, not 'false'"):
        pools[V2.key].quote_exact_in(5, zero_for_one="false")  # type: ignore[arg-type]
    for wrong in ("false", None, 2, float("nan"), ["false"], [None], [2]):
        with pytest.raises(TypeError, match="zero_for_one is True or False, not"):
            pools.quote_batch([V2.key], 5, zero_for_one=wrong)  # type: ignore[arg-type]
    for right in (1, np.True_, [1], [np.True_], np.array([1], np.uint8), np.array(True)):
        assert pools.quote_batch([V2.key], 5, zero_for_one=right)[0] == (  # type: ignore[arg-type]
            pools[V2.key].quote_exact_in(5, zero_for_one=True)
        )


# ---- handles


class Mine(Pool):
    asked = 0

    def quote_exact_in(self, amount_in: int, **options: Any) -> Quote:  # type: ignore[override]
        self.asked += 1
        return super().quote_exact_in(amount_in, **options)


def bound(kind: type[Pool], pool: Pool) -> Pool:
    mapped, slot, generation = pool._where
    return kind(pool._arena, pool.key, mapped, (slot, generation), 0, pool._closed)


def test_a_subclass_is_asked_once_a_call(pools: Arena) -> None:
    mine = bound(Mine, pools[V2.key])
    amounts: list[Any] = [5, np.int64(5), True]
    for count, amount in enumerate(amounts, 1):
        wanted = pools[V2.key].quote_exact_in(int(amount), zero_for_one=True)
        assert mine.quote_exact_in(amount, zero_for_one=True) == wanted
        assert mine.asked == count
    assert mine.quote_exact_out(5, zero_for_one=True).amount_out == 5


def test_a_handle_bound_to_nothing_answers_nothing() -> None:
    for kind in (PoolHandle, Pool):
        handle: Any = kind.__new__(kind)
        for ask in (handle.quote_exact_in, handle.quote_exact_out):
            with pytest.raises(AttributeError):
                ask(5, zero_for_one=True)
        with pytest.raises(AttributeError):
            handle._where  # noqa: B018


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ((None, 0, 1), None, 1, 1),
        ([None, 0, 1], None, 1, 1, 0),
        ((None, 0), None, 1, 1, 0),
        ((None, "0", 1), None, 1, 1, 0),
        ((None, 0, 1), None, "1", 1, 0),
        ((None, 0, 1), None, 0, 1, 0),
        ((None, 0, 1), None, 1, 0, 0),
    ],
)
def test_a_handle_is_bound_to_a_place_only(arguments: tuple[Any, ...]) -> None:
    handle: Any = PoolHandle()
    with pytest.raises((TypeError, ValueError)):
        handle._bind_call(*arguments)
    with pytest.raises(AttributeError):
        handle._where = (None, 0, 1)


def test_a_handle_keeps_what_it_reads_and_goes_with_its_circle(pools: Arena) -> None:
    mine = bound(Mine, pools[V2.key])
    mine.me = mine  # type: ignore[attr-defined]
    mapped = weakref.ref(mine._where[0])
    pools.close()
    assert mapped() is not None
    with pytest.raises(errors.ArenaClosed):
        mine.quote_exact_in(5, zero_for_one=True)
    gone = weakref.ref(mine)
    del mine
    gc.collect()
    assert gone() is None
    gc.collect()
    assert mapped() is None


def walk_over(kind: type) -> list[Any]:
    """Collections of a type, as the collector has them, that hold many keys."""
    return [
        each for each in gc.get_objects() if type(each) is kind and len(each) > 40 and KEY in each
    ]


KEY = "0x" + V2.key.hex()


def test_a_list_of_pools_may_change_while_it_is_walked(pools: Arena) -> None:
    """By a key that finds the list, whoever made it; what was asked for is answered."""

    class Clearing(Pool):
        @property
        def key(self) -> Any:
            for each in walk_over(list):
                each.clear()
            return KEY

    with attach(pools.name) as others:  # a handle of another attachment is asked for its key
        given: list[Any] = [bound(Clearing, pools[V2.key]), *[KEY] * 50, bytearray(V3.key)]
        expected = [*others.slots([V2.key]).tolist() * 51, *others.slots([V3.key]).tolist()]
        assert others.slots(given).tolist() == expected
        assert given == []
        with pytest.raises(TypeError, match="tuple"):
            _handle.references(pools._current().address, pools._current(), 0, [KEY])  # type: ignore[arg-type]


def test_what_a_handle_is_of_is_not_changed(pools: Arena) -> None:
    pool: Any = pools[V2.key]
    for name, value in (("key", "0x" + V3.key.hex()), ("_arena", None), ("_where", (None, 0, 1))):
        with pytest.raises(AttributeError):
            setattr(pool, name, value)
        with pytest.raises(AttributeError):
            delattr(pool, name)
    with pytest.raises(ValueError, match="named already"):
        pool._name_call("0x" + V3.key.hex(), pools)
    assert (pool.key, pools[V2.key].key) == (KEY, KEY)
    free: Any = Pool.__new__(Pool)
    for wrong in (5, None, V2.key):
        with pytest.raises(TypeError):
            free._name_call(wrong, pools)


class Telling(Pool):
    """Returns what it is to raise."""

    answer: Any = None

    def _unreadable(self, status: int) -> Any:
        return self.answer


def test_what_keeps_a_pool_from_being_read_is_raised_and_not_returned(
    writer: WriterArena, pools: Arena
) -> None:
    telling = bound(Telling, pools[V2.key])
    whole = telling._copy_bytes()
    slot = writer.find(V2.key)
    assert slot is not None
    writer.remove_pool(slot)
    writer.commit()
    for answer in (None, 5, "text", b"", bytes(1000), b"\xff" * len(whole), whole, object(), {}):
        Telling.answer = answer
        for read in (telling.state, telling.freeze, telling._copy_bytes, telling._head):
            with pytest.raises(TypeError, match="_unreadable is to raise"):
                read()
        with pytest.raises(TypeError, match="_unreadable is to raise"):
            telling.status  # noqa: B018
    with pytest.raises(errors.PoolRemoved):
        bound(Pool, pools[V3.key])._unreadable(lib.PSA_POOL_REMOVED)


def test_states_are_made_of_a_type_over_their_fields_only(pools: Arena) -> None:
    words = {
        row.number: (row.name, row.has_ticks, row.has_stored_fees) for row in PROTOCOLS.values()
    }
    state = pools[V3.key].state()
    for wrong in (int, object, type, Pool, Quote, Token, bytes, 5, None, state):
        with pytest.raises(TypeError):
            _handle.describe(words, slots.STATUS_NAMES, token_of, wrong)  # type: ignore[arg-type]
    changed = {**words, slots.UNISWAP_V3: ("other", True, False)}
    for number, wrong in (
        (250, ("name", 1, True)),
        (250, ["name", True, True]),
        ("1", ("n", 1, 1)),
    ):
        with pytest.raises(TypeError):
            _handle.describe({**changed, number: wrong}, slots.STATUS_NAMES, token_of, PoolState)  # type: ignore[dict-item]
    assert (pools[V3.key].state(), pools[V3.key].protocol) == (state, "uniswap_v3")


def test_threads_quote_one_pool_or_the_other_while_a_handle_is_bound(pools: Arena) -> None:
    handle, other = bound(Pool, pools[V2.key]), pools[WIDE.key]
    places = [handle._where, other._where]
    allowed = {pools[spec.key].quote_exact_in(10**18, zero_for_one=True) for spec in (V2, WIDE)}
    found: set[Quote] = set()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            found.update(handle.quote_exact_in(10**18, zero_for_one=True) for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for turn in range(20_000):
            mapped, slot, generation = places[turn % 2]
            handle._bind(mapped, slot, generation, 0)
    finally:
        done.set()
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    assert found == allowed


def test_threads_that_quote_meet_a_close_as_an_error(pools: Arena) -> None:
    pool = pools[V3.key]
    expected = pool.quote_exact_in(10**18, zero_for_one=True)
    ends: list[Any] = []
    begun = threading.Barrier(5)

    def work() -> None:
        begun.wait()
        try:
            while pool.quote_exact_in(10**18, zero_for_one=True) == expected:
                pass
        except Exception as error:
            ends.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    pools.close()
    for thread in threads:
        thread.join()
    assert ends == [errors.ArenaClosed] * 4


def test_a_signal_handler_may_quote(pools: Arena) -> None:
    pool, asked = pools[V3.key], 0
    one, two = (pool.quote_exact_in(10**18 + n, zero_for_one=True) for n in (0, 1))
    wrong: list[Quote] = []

    def ask(*_: object) -> None:
        nonlocal asked
        asked += 1
        found = pool.quote_exact_in(10**18 + 1, zero_for_one=True)
        if found != two:
            wrong.append(found)

    before = signal.signal(signal.SIGALRM, ask)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while asked < 50:
            assert pool.quote_exact_in(10**18, zero_for_one=True) == one
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert wrong == []


def test_no_call_leaves_anything_behind(pools: Arena) -> None:
    """100,000 plain calls, and fewer of each other kind: what is alive afterwards was so before."""
    pool, stale = pools[V3.key], pools[STALE.key]
    amount, large = 10**18, 10**21
    raw = pool.quote_exact_in(amount, zero_for_one=True).__reduce__()[1][0]
    words = np.frombuffer(words_from_ints([large] * 10, None), "<u8").reshape(-1, 4)

    def refused(ask: Callable[..., object], *arguments: Any, **more: Any) -> None:
        with pytest.raises((errors.ArenaError, TypeError, ValueError)):
            ask(*arguments, **more)

    def plain() -> None:
        for _ in range(10_000):
            fields(pool.quote_exact_in(amount, zero_for_one=True))
        for _ in range(200):
            pool.quote_exact_out(large, zero_for_one=True)
            pool.quote_exact_in(np.int64(5), zero_for_one=True)  # type: ignore[arg-type]
            pool.quote_exact_in(amount, zero_for_one=True, allow_stale=True)
            refused(stale.quote_exact_in, amount, zero_for_one=True)
            refused(pool.quote_exact_in, 1 << 256, zero_for_one=True)
            refused(pool.quote_exact_in, amount, True)
            refused(make_quote, b"short")
            refused(words_from_ints, [1, -1, None], None)
            refused(words_from_ints, 5, None)
            refused(ints_from_words, words[:, :0])
            refused(pool._bind_call, (None, 0), None, 1, 1, 0)
            quote = make_quote(raw)
            assert quote == copy.copy(quote)
            hash(quote), repr(quote), ints_from_words(words, signed=True)
            amounts_array([large, np.int64(5)])
            pool._bind(*pool._where, 0)

    plain()
    gc.collect()
    watched = (amount, large, pool, pool._where[0], Quote, PoolHandle, raw, words, b"short")
    counts, blocks = [sys.getrefcount(each) for each in watched], sys.getallocatedblocks()
    for _ in range(10):
        plain()
    gc.collect()
    assert [sys.getrefcount(each) for each in watched] == counts
    assert sys.getallocatedblocks() - blocks < 1000


# ---- quotes as values


def test_a_quote_is_a_value(pools: Arena) -> None:
    pool = pools[V3.key]
    quote = pool.quote_exact_in(10**21, zero_for_one=True)
    same = pool.quote_exact_in(10**21, zero_for_one=True)
    other = pool.quote_exact_in(10**18, zero_for_one=True)
    assert quote is not same
    assert quote == same
    assert operator.ne(quote, same) is False
    assert hash(quote) == hash(same)
    assert quote != other
    assert {quote: 1}[same] == 1
    assert quote != fields(quote)
    assert quote.__eq__(5) is NotImplemented
    with pytest.raises(TypeError):
        quote < same  # type: ignore[operator] # noqa: B015
    assert repr(quote) == (
        f"Quote(amount_in={quote.amount_in}, amount_out={quote.amount_out}, "
        f"sqrt_price_x96_after={quote.sqrt_price_x96_after}, tick_after={quote.tick_after}, "
        f"liquidity_after={quote.liquidity_after}, ticks_crossed={quote.ticks_crossed}, "
        f"is_complete={quote.is_complete}, block_number={quote.block_number})"
    )
    match quote:
        case Quote(amount_in=paid, is_complete=False):
            assert paid == quote.amount_in
        case _:
            pytest.fail("no match")
    for name in FIELDS:
        with pytest.raises(AttributeError):
            setattr(quote, name, 1)
    with pytest.raises(AttributeError):
        quote.more = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        Quote()


def test_equality_leaves_out_whence_a_quote_is(pools: Arena) -> None:
    raw = bytearray(pools[V3.key].quote_exact_in(10**18, zero_for_one=True).__reduce__()[1][0])
    quote = make_quote(raw)
    for at in range(len(raw)):
        raw[at] ^= 1
        changed = make_quote(raw)
        raw[at] ^= 1
        is_whence = 128 <= at < 144 or at >= 188  # commit, block and slot
        assert (changed == quote) is is_whence, at
        assert (hash(changed) == hash(quote)) is is_whence, at


def test_quotes_pickle_by_the_name_in_readers(pools: Arena) -> None:
    quote = pools[V3.key].quote_exact_in(10**21, zero_for_one=True)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(quote, protocol)
        assert b"arena.readers.quote" in data
        assert fields(pickle.loads(data)) == fields(quote)
    for again in (copy.copy(quote), copy.deepcopy(quote)):
        assert fields(again) == fields(quote)
    assert Quote.__module__ == "arena.readers.quote"


@given(st.binary(min_size=192, max_size=192))
def test_a_quote_says_what_its_bytes_say(raw: bytes) -> None:
    quote = make_quote(raw)
    assert [quote.amount_in, quote.amount_out, quote.sqrt_price_x96_after] == [
        int.from_bytes(raw[at : at + 32], "little") for at in (0, 32, 64)
    ]
    assert quote.liquidity_after == int.from_bytes(raw[96:112], "little")
    assert quote.tick_after == int.from_bytes(raw[112:116], "little", signed=True)
    assert quote.ticks_crossed == int.from_bytes(raw[116:120], "little")
    assert quote.is_complete is (raw[120] != 0)
    assert quote.zero_for_one is (raw[121] != 0)
    assert quote.fee_pips == int.from_bytes(raw[184:188], "little")
    assert quote._raw == raw
    assert (quote.commit, quote.block_number) == (
        int.from_bytes(raw[128:136], "little"),
        int.from_bytes(raw[136:144], "little"),
    )
    assert make_quote(memoryview(raw)) == make_quote(np.frombuffer(raw, np.uint8)) == quote


@pytest.mark.parametrize("source", [b"", bytes(191), bytes(193), "text", None, 5])
def test_a_quote_is_made_of_its_bytes_only(source: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        make_quote(source)


# ---- integers and words


WORDS = st.one_of(
    st.sampled_from(SIZES), st.integers(0, 256).flatmap(lambda n: st.integers(0, 2**n))
)
UINTS = WORDS.map(lambda n: min(n, 2**256 - 1))


@given(st.lists(UINTS, max_size=20))
@example([])
def test_words_of_ints_and_back(numbers: list[int]) -> None:
    data = b"".join(number.to_bytes(32, "little") for number in numbers)
    words = amounts_array(numbers)
    assert (words.tobytes(), words.shape, words.dtype) == (data, (len(numbers), 4), "<u8")
    forms = (tuple(numbers), iter(numbers), (n for n in numbers), map(Number, numbers))
    for form in forms:
        assert amounts_array(form).tobytes() == data  # type: ignore[arg-type]
    assert ints_from_words(words) == numbers
    wide = np.zeros((len(numbers), 11), "<u8")
    wide[:, 3:7] = words
    assert ints_from_words(wide[:, 3:7]) == numbers
    assert ints_from_words(wide[::-1, 3:7]) == numbers[::-1]
    for count in (1, 2, 3):
        assert ints_from_words(words[:, :count]) == [n % 2 ** (64 * count) for n in numbers]


@given(
    st.integers(1, 4), st.lists(st.integers(0, 255).flatmap(lambda n: st.integers(-(2**n), 2**n)))
)
@example(
    2, [-(2**127), 2**127 - 1, -1, -(2**64), 2**64 - 1, -(2**63), -(2**63) - 1, 2**63, -(2**64) - 1]
)
@example(4, [-(2**255), -(2**128), -(2**192), 2**255 - 1, 0])
def test_signed_words(count: int, numbers: list[int]) -> None:
    half = 1 << (64 * count - 1)
    kept = [(n + half) % (2 * half) - half for n in numbers]
    data = b"".join(n.to_bytes(8 * count, "little", signed=True) for n in kept)
    words = np.frombuffer(data, "<u8").reshape(-1, count)
    assert ints_from_words(words, signed=True) == kept


@given(st.lists(THINGS, max_size=4))
def test_any_items_become_words_or_are_refused(items: list[Any]) -> None:
    def slowly() -> bytes:
        data = b""
        for item in items:
            number = operator.index(item)
            if not 0 <= number < 2**256:
                raise errors.AmountOutOfRange("no uint256")
            data += number.to_bytes(32, "little")
        return data

    assert outcome(lambda: amounts_array(items).tobytes()) == outcome(slowly)


def test_a_list_may_change_while_it_is_read() -> None:
    class Clearing:
        def __index__(self) -> int:
            items.clear()
            return 9

    items: list[Any] = [1, Clearing(), *range(10**18, 10**18 + 50)]
    assert ints_from_words(amounts_array(items)) == [1, 9, *range(10**18, 10**18 + 50)]
    assert items == []


@pytest.mark.parametrize("wrong", [5, None, 1.5, object()])
def test_amounts_are_many(wrong: Any) -> None:
    with pytest.raises(TypeError):
        amounts_array(wrong)


def test_what_is_no_array_of_words_is_refused() -> None:
    for wrong in (
        np.zeros(4, "<u8"),
        np.zeros((2, 0), "<u8"),
        np.zeros((2, 5), "<u8"),
        np.zeros((2, 4), "<u4"),
        np.zeros((4, 4), "<u8").T,
        np.zeros((2, 8), "<u8")[:, ::2],
        b"12345678",
    ):
        with pytest.raises(ValueError, match="words are"):
            ints_from_words(wrong)
    for nothing in (None, [[1]], 5):
        with pytest.raises(TypeError):
            ints_from_words(nothing)
    with pytest.raises(TypeError):
        words_from_ints([1])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="32 bytes"):
        words_from_ints([None], lambda item: b"short")
    with pytest.raises(TypeError):
        words_from_ints([None], lambda item: 5)  # type: ignore[arg-type,return-value]


# ---- the module


def test_another_table_of_functions_is_refused() -> None:
    table = bytearray(64)
    at = int(ffi.cast("uintptr_t", ffi.from_buffer(table)))
    with pytest.raises(ImportError, match="two installations"):
        _handle.use(at)
    with pytest.raises(ValueError, match="no table"):
        _handle.use(0)
    with pytest.raises(TypeError):
        _handle.use("text")  # type: ignore[arg-type]
    before = PoolHandle
    _handle.use(int(ffi.cast("uintptr_t", lib.psa_functions())))
    assert _handle.PoolHandle is before
