"""References of the extension types: no call, answered or refused, keeps one or gives back one too many.

A case is a call with everything that it takes. It is made so often that one reference a call stands out: in
the counts of what outlives the call, and in the bytes held by what was made during it (tracemalloc; the
tables of depth_nbytes, which Python does not see). A debug build of Python counts all references besides:

    python3-dbg -m pytest tests/native/test_references.py
"""

import copy
import gc
import operator
import pickle
import reprlib
import sys
import tracemalloc
import weakref
from array import array
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked

from arena import errors
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOLS
from arena.native import _handle, ffi, lib
from arena.native._handle import (
    PoolHandle,
    StateFields,
    View,
    copy_pool,
    depth_nbytes,
    describe,
    ints_from_words,
    key_bytes,
    make_quote,
    references,
    wait_head,
    words_from_ints,
)
from arena.readers import Arena, FrozenPool, Pool, PoolState, Quote, Snapshot, Token, attach
from arena.readers.quote import RESULT, amounts_array
from arena.readers.token import token_of
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

# Calls. Where something stayed there is another round: a leak grows with it, caches and Python's lists of
# free tuples (2,000 of a size) do not.
ROUNDS = (100, 400, 1600, 8000)
FEWEST = 0.25  # references a call
SMALLEST = 12  # bytes a call, half of what an object has

TOKENS = (TokenSpec(b"\1" * 20, 18, "A"), TokenSpec(b"\2" * 20, None, "B"))
TICKS = tuple((60 * n, 10**20, 10**20 if n < 0 else -(10**20)) for n in range(-10, 11) if n)
CL: dict[str, Any] = {"sqrt_price_x96": 1 << 96, "liquidity": 2 * 10**20, "ticks": TICKS[8:12]}
DEEP: dict[str, Any] = {**CL, "liquidity": 10**21, "ticks": TICKS}
RESERVES = {"reserve0": 10**30, "reserve1": 3 * 10**24}
V2, V3, V4, SOLIDLY, STALE, EMPTY, DYNAMIC, HOOKED, GONE = (
    PoolSpec(bytes([n]) * size, protocol, *TOKENS, fee, spacing, b"\7" * 20, hooks)
    for n, size, protocol, fee, spacing, hooks in (
        (0xA1, 20, slots.UNISWAP_V2, 3000, 0, bytes(20)),
        (0xA2, 20, slots.UNISWAP_V3, 500, 60, bytes(20)),
        (0xA3, 32, slots.UNISWAP_V4, 3000, 60, bytes(20)),
        (0xA4, 20, slots.SOLIDLY, 0, 0, bytes(20)),
        (0xA5, 20, slots.UNISWAP_V3, 500, 60, bytes(20)),
        (0xA6, 20, slots.UNISWAP_V2, 3000, 0, bytes(20)),
        (0xA7, 32, slots.UNISWAP_V4, 0x800000, 60, bytes(20)),
        (0xA8, 32, slots.UNISWAP_V4, 3000, 60, bytes(19) + b"\x80"),
        (0xA9, 20, slots.UNISWAP_V2, 3000, 0, bytes(20)),
    )
)
VALUES = {
    V2: PoolValues(100, 3000, **RESERVES),
    V3: PoolValues(101, 500, **DEEP),
    V4: PoolValues(102, 3000, lp_fee=3000, protocol_fee=100 << 12 | 50, fee_block=99, **CL),
    SOLIDLY: PoolValues(103, 2000, **RESERVES),
    STALE: PoolValues(105, 500, **CL),
    EMPTY: PoolValues(106, 3000),
    DYNAMIC: PoolValues(107, 0, lp_fee=1234, fee_block=90, **DEEP),
    HOOKED: PoolValues(108, 0, lp_fee=3000, **CL),
    GONE: PoolValues(109, 3000, **RESERVES),
}
ANSWERED = ("amount_in", "amount_out", "sqrt_price_x96_after", "liquidity_after", "tick_after")
ANSWERED += ("ticks_crossed", "is_complete", "commit", "block_number", "zero_for_one", "fee_pips")
ANSWERED += ("spot_price", "marginal_price", "effective_price", "price_impact", "_raw")
READS = ("state", "_head", "_copy_bytes")
ONE, LARGE, HUGE = 10**18, 10**21, 1 << 256

Case = partial[Any]
HOLDERS = (partial, MethodType, BuiltinMethodType, PoolHandle, View, Arena, tuple, list, dict)


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 20)) as found:
        for spec, values in VALUES.items():
            status = slots.STATUS_STALE if spec is STALE else slots.STATUS_LIVE
            found.install(found.add_pool(spec), values, status)
        found.set_head(110)
        found.commit()
        found.set_phase("live")
        yield found


@pytest.fixture
def pools(writer: WriterArena) -> Iterator[Arena]:
    with attach(writer.name) as found:
        yield found


# ---- what is left of a call


def constants() -> list[Any]:
    """What C refers to by itself: the singletons, its own module, names, and what `describe` said."""
    said = [row.name for row in PROTOCOLS.values()]
    common: list[Any] = [None, True, False, NotImplemented, (), "", b"", *range(-5, 257)]
    common += ["zero_for_one", "key", "arena.readers.quote"]
    named = [*vars(_handle).values(), *vars(errors).values(), TypeError, ValueError, AttributeError]
    types = [Pool, PoolState, Quote, Snapshot, FrozenPool, int, str, bytes, bytearray, tuple, list]
    return [*common, *said, *slots.STATUS_NAMES, slots.STATUS_NAMES, token_of, *named, *types]


def parts(each: Any) -> list[Any]:
    """What something in a case refers to; what is shared by much else leads no further."""
    if isinstance(each, FunctionType):
        return [cell.cell_contents for cell in each.__closure__ or ()]
    return gc.get_referents(each) if isinstance(each, HOLDERS) else []


def outliving(case: Case) -> list[Any]:
    """Once each: what a case takes, what that refers to, and the constants."""
    found: dict[int, Any] = {}
    level: list[Any] = [case]
    for _ in range(6):
        found.update((id(each), each) for each in level)
        level = [part for each in level for part in parts(each) if id(part) not in found]
    found.update((id(each), each) for each in constants())
    return list(found.values())


def total_references() -> int:
    """Of the whole process; 0 where Python does not count them."""
    count: Callable[[], int] = getattr(sys, "gettotalrefcount", int)
    return count()


def kept_by(case: Case, calls: int, watched: list[Any]) -> str:
    """What stays of many calls, in words; empty when nothing does."""
    before = array("q", map(sys.getrefcount, watched))  # refers to nothing, small numbers neither
    tables, held, total = depth_nbytes(), tracemalloc.get_traced_memory()[0], total_references()
    for _ in range(calls):
        case()
    gc.collect()
    total = total_references() - total
    held = tracemalloc.get_traced_memory()[0] - held
    after = array("q", map(sys.getrefcount, watched))
    grown = [
        f"{now - then} references to {reprlib.repr(each)}"
        for each, then, now in zip(watched, before, after, strict=True)
        if abs(now - then) >= FEWEST * calls
    ]
    if held >= SMALLEST * calls:
        grown.append(f"{held} bytes")
    if depth_nbytes() != tables:
        grown.append(f"{depth_nbytes() - tables} bytes of tables")
    if abs(total) >= FEWEST * calls and not grown:
        grown.append(f"{total} references in all")
    return f"of {calls} calls: " + ", ".join(grown) if grown else ""


def leak_of(case: Case) -> str:
    """What stays of it in each round."""
    watched = outliving(case)
    for _ in range(20):
        case()
    gc.collect()
    found = ""
    for calls in ROUNDS:
        found = kept_by(case, calls, watched)
        if not found:
            break
    return found


def check(cases: dict[str, Case]) -> None:
    """Fail with the name of each case of which something stays."""
    gc.collect()
    gc.freeze()  # what was there before is not gone through for each case
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        found = {name: leak_of(case) for name, case in cases.items()}
    finally:
        if not was_tracing:
            tracemalloc.stop()
        gc.unfreeze()
    assert {name: what for name, what in found.items() if what} == {}


def refused(error: type[Exception], ask: Callable[..., object], *given: Any, **named: Any) -> None:
    try:
        ask(*given, **named)
    except error:
        return
    pytest.fail(f"no {error.__name__}")


def refusals(ask: Callable[..., object], cases: dict[str, tuple[Any, ...]]) -> dict[str, Case]:
    """Cases of one function: what each takes, after the error that it must raise."""
    return {name: partial(refused, error, ask, *given) for name, (error, *given) in cases.items()}


def test_what_stays_of_a_call_is_seen() -> None:
    kept: list[Any] = []
    with pytest.raises(AssertionError) as caught:
        check(
            {
                "an argument": partial(kept.append, 10**30),
                "a constant": partial(lambda: kept.append(Quote)),
                "something new": partial(lambda: kept.append(object())),
                "nothing": partial(object),
            }
        )
    assert [name in str(caught.value) for name in ("an arg", "a const", "something")] == [True] * 3
    assert "nothing" not in str(caught.value)


# ---- arguments


class Number:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Raising:
    def __index__(self) -> int:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError


class Lying:
    def __index__(self) -> Any:
        return "7"


class Unequal(str):
    """Hashes as the text, and is compared with it."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = str.__hash__


class Odd(int):
    def __index__(self) -> int:
        return 3


class Text(str):
    pass


class Mine(Pool):
    def quote_exact_in(self, amount_in: int, **options: Any) -> Quote:  # type: ignore[override]
        return super().quote_exact_in(amount_in, **options)


class Numbered(Pool):
    key: Any = 5  # type: ignore[misc]


class Named(str):
    """With a dictionary."""

    me: Any


class Patient(Pool):
    """Reads on though it is told to look for another arena."""

    def _refresh(self) -> Any:
        return self._where


class Silent(Patient):
    """Says nothing of what keeps its pool from being read."""

    def _unreadable(self, status: int) -> Any:
        return status


class Told(PoolState):
    """With a dictionary."""


def fail(*_: object) -> Any:
    raise ZeroDivisionError


def bound(kind: type[Pool], pool: Pool) -> Pool:
    mapped, slot, generation = pool._where
    return kind(pool._arena, pool.key, mapped, (slot, generation), pool._commit, pool._closed)


def way(ask: Any, *given: Any, **named: Any) -> Case:
    return partial(ask, *given, zero_for_one=True, **named)


# ---- handles


def test_quotes(pools: Arena) -> None:
    cases: dict[str, Case] = {}
    for spec in (V2, V3, V4, SOLIDLY):
        pool, name = pools[spec.key], PROTOCOLS[spec.protocol].name
        for amount in (1, ONE, LARGE, 2**70, 2**130):
            cases[f"in {name} {amount}"] = way(pool.quote_exact_in, amount)
        if spec is not SOLIDLY:
            cases[f"out {name}"] = partial(pool.quote_exact_out, ONE, zero_for_one=False)
    pool = pools[V3.key]
    ask: Any = pool.quote_exact_in
    cases |= {
        "another text": partial(ask, ONE, **{"".join(["zero_for_", "one"]): True}),
        "by name": way(ask, amount_in=ONE),
        "of the type": way(Pool.quote_exact_in, pool, ONE),
        "of the base": way(PoolHandle.quote_exact_in, pool, ONE),
        "bool": way(ask, True),
        "numpy": way(ask, np.int64(5)),
        "index": way(ask, Number(LARGE)),
        "subclass": way(ask, Odd(2**70)),
        "limit": way(ask, LARGE, sqrt_price_limit_x96=(1 << 96) - (1 << 80)),
        "stale": way(pools[STALE.key].quote_exact_in, ONE, allow_stale=True),
        "dynamic": way(pools[DYNAMIC.key].quote_exact_in, ONE, allow_dynamic_fee=True),
        "given fee": way(pools[DYNAMIC.key].quote_exact_in, ONE, lp_fee=500),
        "hooks": way(pools[HOOKED.key].quote_exact_in, ONE, lp_fee=500, allow_hooks=True),
        "subclass's": way(bound(Mine, pool).quote_exact_in, ONE),
        "a view's": way(pools.snapshot()[V3.key].quote_exact_in, ONE),
        "contended": partial(pool._without_answer, lib.PSA_CONTENDED, ONE, lib.PSA_ZERO_FOR_ONE),
        "closed before": partial(pool._without_answer, lib.PSA_CLOSED, ONE, lib.PSA_ZERO_FOR_ONE),
        "many": way(pool.quote_many, [ONE, LARGE, np.int64(5), Number(LARGE)]),
        "array": way(pool.quote_many, amounts_array([ONE, LARGE])),
        "none": way(pool.quote_many, []),
        "batch": way(pools.quote_batch, [pool, V2.key, "0x" + V4.key.hex()], ONE),
        "items": partial(list, pool.quote_many([ONE, LARGE], zero_for_one=True)),
    }
    check(cases)


def test_quotes_that_are_refused(writer: WriterArena, pools: Arena) -> None:
    pool, gone = pools[V3.key], pools[GONE.key]
    closed = pools.snapshot()
    of_closed = closed[V3.key]
    closed.close()
    remove(writer, GONE)
    ask: Any = pool.quote_exact_in
    batch = pool.quote_many([ONE, 2**255], zero_for_one=True)
    cases = {
        name: way(partial(refused, error, asked), *given)
        for name, (error, asked, *given) in {
            "no amount": (TypeError, ask),
            "two amounts": (TypeError, ask, 5, 6),
            "text": (TypeError, ask, "5"),
            "None": (TypeError, ask, None),
            "float": (TypeError, ask, 5.0),
            "raising": (ZeroDivisionError, ask, Raising()),
            "lying": (TypeError, ask, Lying()),
            "negative": (errors.AmountOutOfRange, ask, -1),
            "below 64 bits": (errors.AmountOutOfRange, ask, -(2**70)),
            "beyond": (errors.AmountOutOfRange, ask, HUGE),
            "far beyond": (errors.AmountOutOfRange, ask, 10**1000),
            "more than the pool takes": (errors.ArenaError, ask, 2**255),
            "stale": (errors.PoolStale, pools[STALE.key].quote_exact_in, ONE),
            "empty": (errors.ArenaError, pools[EMPTY.key].quote_exact_in, ONE),
            "dynamic": (errors.DynamicFee, pools[DYNAMIC.key].quote_exact_in, ONE),
            "hooked": (errors.HookedPool, pools[HOOKED.key].quote_exact_in, ONE),
            "out of solidly": (ValueError, pools[SOLIDLY.key].quote_exact_out, ONE),
            "more than there is": (errors.ArenaError, pools[V2.key].quote_exact_out, 10**40),
            "removed": (errors.PoolRemoved, gone.quote_exact_in, ONE),
            "of a closed view": (errors.ArenaClosed, of_closed.quote_exact_in, ONE),
            "of a stranger": (TypeError, PoolHandle.quote_exact_in, object(), 5),
            "of nobody": (TypeError, PoolHandle.quote_exact_in),
            "bound to nothing": (AttributeError, PoolHandle().quote_exact_in, 5),
            "a Pool bound to nothing": (AttributeError, Pool.__new__(Pool).quote_exact_in, 5),
            "many of text": (TypeError, pool.quote_many, [1, "5"]),
            "many beyond": (errors.AmountOutOfRange, pool.quote_many, [1, HUGE, -1]),
            "not many": (TypeError, pool.quote_many, 5),
            "unknown in a batch": (errors.UnknownPool, pools.quote_batch, [b"x" * 20], 5),
            "wrong in a batch": (TypeError, pools.quote_batch, [pool, 5], 5),
        }.items()
    }
    cases |= {
        "an item": partial(refused, errors.ArenaError, batch.__getitem__, 1),
        "an item on the way": partial(refused, errors.ArenaError, list, batch),
        "unknown name": way(partial(refused, TypeError, ask, 5, allow=1)),
        "amount twice": way(partial(refused, TypeError, ask, 5, amount_in=5)),
        "lying limit": way(partial(refused, TypeError, ask, 5, sqrt_price_limit_x96=Lying())),
        "raising limit": way(
            partial(refused, ZeroDivisionError, ask, 5, sqrt_price_limit_x96=Raising())
        ),
        "limit passed": way(
            partial(refused, errors.PriceLimitReached, ask, 5, sqrt_price_limit_x96=1 << 97)
        ),
        "a fee": way(partial(refused, ValueError, ask, 5, lp_fee=-1)),
        "hooks without a fee": way(partial(refused, ValueError, ask, 5, allow_hooks=True)),
        "no direction": partial(refused, TypeError, ask, 5),
        "a direction without a name": partial(refused, TypeError, ask, 5, True),
        "another name": partial(refused, TypeError, ask, 5, zero_for_two=True),
        "the other amount": way(partial(refused, TypeError, pool.quote_exact_out, amount_in=5)),
    }
    for name, error, given in (
        ("text", TypeError, "false"),
        ("None", TypeError, None),
        ("2", TypeError, 2),
        ("raising", ZeroDivisionError, Raising()),
        ("a list", TypeError, []),
    ):
        cases[f"direction {name}"] = partial(refused, error, ask, 5, zero_for_one=given)
    check(cases)
    pools.close()
    check({"closed": way(partial(refused, errors.ArenaClosed, ask, 5))})


def remove(writer: WriterArena, spec: PoolSpec) -> None:
    slot = writer.find(spec.key)
    assert slot is not None
    writer.remove_pool(slot)
    writer.commit()


def test_quotes_in_bytes_and_words(pools: Arena) -> None:
    pool: Any = pools[V3.key]
    amount, flags = ONE.to_bytes(32, "little"), lib.PSA_ZERO_FOR_ONE
    words = amounts_array([ONE, LARGE, 2**255])
    results = np.empty(3, RESULT)
    read_only = results.copy()
    read_only.flags.writeable = False
    given, many = pool._quote_given, pool._quote_words
    cases: dict[str, Case] = {
        "given": partial(given, amount, None, flags, 0),
        "limited": partial(given, amount, amount, flags, 0),
        "status": partial(given, bytes([255] * 32), None, flags, 0),
        "many": partial(many, words, flags, results),
        "none": partial(many, b"", flags, bytearray()),
    }
    cases |= refusals(
        given,
        {
            "nothing": (TypeError,),
            "short amount": (ValueError, b"1", None, flags, 0),
            "short limit": (ValueError, amount, b"1", flags, 0),
            "no limit": (TypeError, amount, 5, flags, 0),
            "text flags": (TypeError, amount, None, "1", 0),
            "raising flags": (ZeroDivisionError, amount, None, Raising(), 0),
            "raising fee": (ZeroDivisionError, amount, None, flags, Raising()),
        },
    )
    cases |= refusals(
        many,
        {
            "no words": (TypeError,),
            "words of text": (TypeError, "text", flags, results),
            "words with raising flags": (ZeroDivisionError, words, Raising(), results),
            "results of text": (TypeError, words, flags, "text"),
            "results in bytes": (TypeError, words, flags, bytes(3 * 144)),
            "read-only results": (TypeError, words, flags, read_only),
            "strided words": (ValueError, words[::2], flags, results),
            "too few": (ValueError, words, flags, results[:2]),
            "parts of words": (ValueError, bytes(33), flags, results[:1]),
        },
    )
    unbound: Any = PoolHandle()
    cases["words, bound to nothing"] = partial(
        refused, ValueError, unbound._quote_words, words, flags, results
    )
    check(cases)


def test_handles_come_and_go(pools: Arena) -> None:
    pool: Any = pools[V3.key]
    mapped, slot, generation = pool._where
    other: Any = bound(Pool, pools[V2.key])
    free: Any = PoolHandle()
    word = int(ffi.cast("uintptr_t", pool._closed))
    place = (pool._where, pool._closed, mapped.address, word, 0)

    def tabled(kind: type[Pool], source: Pool) -> None:
        """A handle that gets a table each way."""
        handle = bound(kind, source)
        for zero_for_one in (True, False):
            for _ in range(8):
                handle.quote_exact_in(10**30, zero_for_one=zero_for_one)
        assert depth_nbytes() > 0

    def tabled_again() -> None:
        for _ in range(8):
            pool.quote_many([10**30] * 4, zero_for_one=True)
        pool._bind_call(*place)

    def remade() -> None:
        """Tables of one handle, each of another fee."""
        handle = bound(Pool, pools[DYNAMIC.key])
        for fee in (500, 600):
            for _ in range(4):
                handle.quote_exact_in(10**30, zero_for_one=True, lp_fee=fee)

    def circle() -> None:
        handle: Any = bound(Mine, pool)
        handle.me = handle
        other: Any = Mine.__new__(Mine)
        other._name_call(of_handle := Named("0x"), [other])
        of_handle.me = other
        view: Any = View()
        view._bind_view(mapped, [view], {"me": view}, mapped.address, word, 0)

    def keys() -> None:
        one: Any = PoolHandle()
        one._name_call(pool.key, pools)
        assert (one.key, one._arena) == (pool.key, pools)

    check(
        {
            "made": partial(bound, Pool, pool),
            "of a subclass": partial(bound, Mine, pool),
            "bare": partial(PoolHandle, 1, two=3),
            "of a subclass, bare": partial(Mine.__new__, Mine, 1, two=3),
            "a subclass": partial(type, "Other", (Pool,), {}),
            "bound": partial(pool._bind, mapped, slot, generation, 0),
            "bound elsewhere and back": partial(
                lambda: (other._bind(mapped, slot, generation, 0), other._bind(mapped, 0, 1, 0))
            ),
            "bound alone": partial(PoolHandle._bind_call, free, *place),
            "with tables": partial(tabled, Pool, pool),
            "of a view, with tables": partial(tabled, Mine, pools.snapshot()[V3.key]),
            "tables, bound": partial(tabled_again),
            "tables, made again": partial(remade),
            "in circles": partial(circle),
            "key": partial(keys),
            "members": partial(
                operator.attrgetter("_where", "key", "_arena", "_closed", "_commit"), pool
            ),
            "repr": partial(repr, pool),
            "slot": partial(getattr, pool, "slot"),
            "hash": partial(hash, pool),
            "equal": partial(operator.eq, pool, other),
            "pickled": partial(lambda: pickle.loads(pickle.dumps(pool))),
            "looked up": partial(operator.getitem, pools, V2.key),
        }
        | refusals(
            free._bind_call,
            {
                "nothing": (TypeError,),
                "a list": (TypeError, [None, 0, 1], None, 1, 1, 0),
                "two": (TypeError, (None, 0), None, 1, 1, 0),
                "text": (TypeError, (None, "0", 1), None, 1, 1, 0),
                "raising": (ZeroDivisionError, (None, Raising(), 1), None, 1, 1, 0),
                "raising address": (TypeError, (None, 0, 1), None, Raising(), 1, 0),
                "no address": (ValueError, (None, 0, 1), None, 0, 1, 0),
                "no word": (ValueError, (None, 0, 1), None, 1, 0, 0),
            },
        )
        | {
            "no place": partial(refused, AttributeError, getattr, PoolHandle(), "_where"),
            "no key": partial(refused, AttributeError, getattr, PoolHandle(), "key"),
            "key not set": partial(refused, AttributeError, setattr, pool, "key", "0x"),
            "key not deleted": partial(refused, AttributeError, delattr, pool, "key"),
            "named twice": partial(refused, ValueError, pool._name_call, "0x", pools),
            "named by a number": partial(refused, TypeError, free._name_call, 5, pools),
            "not named": partial(refused, TypeError, free._name_call),
            "set place": partial(refused, AttributeError, setattr, free, "_where", (None, 0, 1)),
            "set commit": partial(refused, AttributeError, setattr, free, "_commit", 5),
            "a view's pickled": partial(refused, TypeError, pickle.dumps, pools.snapshot()[V3.key]),
        }
    )


# ---- quotes as values


def test_quotes_as_values(pools: Arena) -> None:
    pool = pools[V3.key]
    quote, same = (pool.quote_exact_in(LARGE, zero_for_one=True) for _ in range(2))
    other: Any = pool.quote_exact_in(ONE, zero_for_one=True)
    raw = quote.__reduce__()[1][0]
    negative = make_quote(raw[:112] + b"\xff" * 80)
    wide = make_quote(b"\xfe" * 192)
    nothing = make_quote(bytes(32) + raw[32:])  # has no effective price
    kind: Any = Quote

    def matched() -> None:
        match quote:
            case Quote(amount_in=_, is_complete=False):
                return
        pytest.fail("no match")

    cases: dict[str, Case] = {
        f"{name} {field}": partial(getattr, each, field)
        for name, each in (("a", quote), ("negative", negative), ("wide", wide), ("no", nothing))
        for field in ANSWERED
    }
    for name, sign in (("equal", operator.eq), ("unequal", operator.ne)):
        cases[f"{name} to the same"] = partial(sign, quote, same)
        cases[f"{name} to another"] = partial(sign, quote, other)
        cases[f"{name} to a number"] = partial(sign, quote, 5)
        cases[f"{name} to None"] = partial(sign, None, quote)
    cases |= {
        "not comparable": partial(kind.__eq__, quote, 5),
        "smaller": partial(refused, TypeError, operator.lt, quote, other),
        "hash": partial(hash, quote),
        "repr": partial(repr, wide),
        "str": partial(str, quote),
        "in a set": partial(lambda: {quote, same, other}),
        "reduced": partial(quote.__reduce__),
        "copied": partial(copy.copy, quote),
        "copied deeply": partial(copy.deepcopy, quote),
        "matched": partial(matched),
        "from bytes": partial(make_quote, raw),
        "from a bytearray": partial(make_quote, bytearray(raw)),
        "from a view": partial(make_quote, memoryview(raw)),
        "from an array": partial(make_quote, np.frombuffer(raw, np.uint8)),
        "short": partial(refused, ValueError, make_quote, raw[1:]),
        "strided": partial(refused, BufferError, make_quote, memoryview(raw + raw)[::2]),
        "text": partial(refused, TypeError, make_quote, "text"),
        "no source": partial(refused, TypeError, make_quote),
        "called": partial(refused, TypeError, kind),
        "new": partial(refused, TypeError, object.__new__, kind),
        "a subclass": partial(refused, TypeError, type, "Other", (kind,), {}),
        "set": partial(refused, AttributeError, setattr, quote, "amount_in", 5),
        "set more": partial(refused, AttributeError, setattr, quote, "more", 5),
        "deleted": partial(refused, AttributeError, delattr, quote, "amount_in"),
        "set on the type": partial(refused, TypeError, setattr, kind, "more", 5),
        "of the type": partial(refused, TypeError, vars(kind)["amount_in"].__get__, object()),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(quote, protocol)
        cases[f"pickled {protocol}"] = partial(pickle.dumps, quote, protocol)
        cases[f"unpickled {protocol}"] = partial(pickle.loads, data)
    check(cases)


# ---- integers, words and keys


def test_integers_and_words() -> None:
    def give(item: Any) -> Any:
        return operator.index(item).to_bytes(32, "little")

    words = amounts_array([5, LARGE, 2**130, 2**255, 2**64 - 1, 2**256 - 1])
    cases: dict[str, Case] = {
        f"{count} words, {signed}": partial(ints_from_words, words[:, :count], signed=signed)
        for count in (1, 2, 3, 4)
        for signed in (False, True)
    }
    cases |= {
        "a list": partial(words_from_ints, [5, LARGE, 2**130, 2**255, 2**256 - 1], None),
        "a tuple": partial(words_from_ints, (5, LARGE), None),
        "a generator": partial(lambda: words_from_ints((n for n in (5, LARGE)), give)),
        "nothing": partial(words_from_ints, [], None),
        "others": partial(words_from_ints, [5, np.int64(5), Number(LARGE), True, Odd(5)], give),
        "reversed": partial(ints_from_words, words[::-1]),
        "no words": partial(ints_from_words, words[:0]),
    }
    negative = amounts_array([-n % 2**256 for n in (1, 2**63, 2**64, 2**127, 2**200, 2**255)])
    cases["negative"] = partial(ints_from_words, negative, signed=True)
    cases |= refusals(
        words_from_ints,
        {
            "one argument": (TypeError, [1]),
            "three": (TypeError, [1], None, None),
            "no list": (TypeError, 5, None),
            "nobody to ask": (TypeError, [LARGE, None], None),
            "a negative": (TypeError, [LARGE, -1, LARGE], None),
            "far below": (TypeError, [LARGE, -(2**70)], None),
            "far beyond": (TypeError, [LARGE, 10**1000], None),
            "failing": (ZeroDivisionError, [LARGE, None, None], fail),
            "raising": (ZeroDivisionError, [LARGE, Raising()], give),
            "lying": (TypeError, [LARGE, Lying()], give),
            "short": (ValueError, [LARGE, None], lambda item: b"short"),
            "no bytes": (TypeError, [LARGE, None], lambda item: 5),
        },
    )
    cases["failing on the way"] = partial(
        lambda: refused(ZeroDivisionError, words_from_ints, (fail() for _ in "ab"), None)
    )
    cases |= refusals(
        ints_from_words,
        {
            "no array": (TypeError,),
            "None": (TypeError, None),
            "flat": (ValueError, np.zeros(4, "<u8")),
            "empty rows": (ValueError, np.zeros((2, 0), "<u8")),
            "5 words": (ValueError, np.zeros((2, 5), "<u8")),
            "half words": (ValueError, np.zeros((2, 4), "<u4")),
            "columns": (ValueError, np.zeros((4, 4), "<u8").T),
            "bytes": (ValueError, b"12345678"),
            "two arrays": (TypeError, words, True),
        },
    )
    cases["unknown name"] = partial(refused, TypeError, ints_from_words, words, sign=True)
    cases["no truth"] = partial(refused, ValueError, ints_from_words, words, signed=words)
    check(cases)


def test_keys() -> None:
    data = bytes(range(20))
    text = "0x" + data.hex()
    cases: dict[str, Case] = {
        name: partial(key_bytes, key)
        for name, key in {
            "text": text,
            "capitals": "0X" + data.hex().upper(),
            "a pool id": "0x" + "ab" * 32,
            "bytes": data,
            "a bytearray": bytearray(data),
            "a view": memoryview(data),
            "strided": memoryview(data + data)[::2],
            "of a subclass": Text(text),
        }.items()
    }
    cases |= refusals(
        key_bytes,
        {
            "nothing": (TypeError,),
            "short": (ValueError, "0x12"),
            "no 0x": (ValueError, "00" + data.hex()),
            "no digits": (ValueError, "0x" + "zz" * 20),
            "surrogates": (ValueError, "0x" + "\ud800" * 40),
            "short bytes": (ValueError, data[1:]),
            "long bytearray": (ValueError, bytearray(33)),
            "an empty view": (ValueError, memoryview(b"")),
            "None": (TypeError, None),
            "a number": (TypeError, 5),
            "a list": (TypeError, [data]),
        },
    )
    check(cases)


def test_references_of_pools(writer: WriterArena, pools: Arena) -> None:
    pool, gone = pools[V3.key], pools[GONE.key]
    keyless: Any = PoolHandle()
    odd: Any = bound(Numbered, pool)
    odd._bind_call((None, 0, 1), *[odd._closed, pool._where[0].address, 8, 0])
    mapped = pool._where[0]
    of_view = pools.snapshot()[V3.key]
    remove(writer, GONE)
    ask = partial(references, mapped.address, mapped, 0)
    mixed = [V2.key, "0x" + V4.key.hex(), pool, of_view, bytearray(SOLIDLY.key)]

    def turn(items: list[Any]) -> Case:
        return partial(references, *ask.args, tuple(items))

    cases: dict[str, Case] = {
        "mixed": turn(mixed),
        "none": turn([]),
        "missing": turn([pool, b"x" * 20, b"y" * 20]),
        "removed": turn([pool, gone]),
        "of another length": turn([V2.key + bytes(12)]),
        "found": partial(pools.slots, mixed),
        "of a mapping that is not this": partial(references, mapped.address, None, 0, (pool,)),
    }
    cases |= refusals(
        references,
        {
            "nothing": (TypeError,),
            "a list": (TypeError, *ask.args, [pool]),
            "raising": (TypeError, Raising(), mapped, 0, (pool,)),
            "wrong": (TypeError, *ask.args, (pool, 5)),
            "malformed": (ValueError, *ask.args, (pool, "0x12")),
            "without a key": (AttributeError, *ask.args, (pool, keyless)),
            "with a number for a key": (TypeError, *ask.args, (pool, odd)),
        },
    )
    removed: Any = PoolHandle()
    removed._bind_call(gone._where, gone._closed, mapped.address, pools._closed_word, 0)
    cases["removed, without a key"] = partial(
        refused, AttributeError, references, *ask.args, (pool, removed)
    )
    check(cases)


# ---- states


def test_states(pools: Arena) -> None:
    each_field = operator.attrgetter(*[each.name for each in fields(PoolState)])
    cases: dict[str, Case] = {}
    for spec in (V2, V3, V4, SOLIDLY, STALE, EMPTY):
        pool = pools[spec.key]
        name = f"{PROTOCOLS[spec.protocol].name} {spec.key[0]}"
        data = pool._copy_bytes()
        cases |= {
            f"{name}, state": partial(pool.state),
            f"{name}, head": partial(pool._head),
            f"{name}, bytes": partial(pool._copy_bytes),
            f"{name}, frozen": partial(lambda pool: pool.freeze().quote_many, pool),
            f"{name}, status": partial(getattr, pool, "status"),
            f"{name}, over": partial(PoolState._over, data),
            f"{name}, fields": partial(lambda data: each_field(PoolState._over(data)), data),
            f"{name}, arrays": partial(getattr, pool.state(), "tick_arrays"),
        }
        if spec in (V2, V3, V4, SOLIDLY):
            frozen, quote = pool.freeze(), pool.quote_exact_in(10**6, zero_for_one=True)
            stranger = frozen.after(quote).quote_exact_in(10**6, zero_for_one=False)
            cases |= {
                f"{name}, after": partial(frozen.after, quote),
                f"{name}, count": partial(getattr, frozen.after(quote), "swap_count"),
                f"{name}, after another": partial(refused, ValueError, frozen.after, stranger),
            }
    pool = pools[V4.key]
    state, data = pool.state(), pool._copy_bytes()
    values = {each.name: getattr(state, each.name) for each in fields(PoolState)}
    whole = PoolState(**values)
    for name in values:
        cases[f"{name}, first"] = partial(
            lambda name: operator.attrgetter(name, name)(PoolState._over(data)), name
        )
        cases[f"{name}, again"] = partial(getattr, state, name)
        cases[f"{name}, given"] = partial(getattr, whole, name)
        cases[f"{name}, not given"] = partial(refused, AttributeError, getattr, StateFields(), name)
        cases[f"{name}, set"] = partial(object.__setattr__, PoolState(**values), name, values)
    given, over = PoolState(**values), PoolState._over(data)
    patient = bound(Patient, pool)
    patient._bind(*pool._where, 0, ffi.new("uint32_t *", 1))
    cases |= {f"at once, {read}": partial(getattr(patient, read)) for read in READS}
    cases |= {
        "built": partial(PoolState, *values.values()),
        "of a subclass": partial(Told, **values),
        "bare": partial(StateFields),
        "replaced": partial(replace, state, tick=5),
        "equal": partial(operator.eq, state, whole),
        "unequal": partial(operator.eq, state, replace(state, tick=5)),
        "equal to a number": partial(operator.eq, state, 5),
        "hash": partial(hash, state),
        "repr": partial(repr, state),
        "pickled": partial(lambda: pickle.loads(pickle.dumps(state))),
        "copied": partial(copy.copy, state),
        "copied deeply": partial(copy.deepcopy, state),
        "its copy": partial(getattr, state, "_copy"),
        "no copy": partial(getattr, whole, "_copy"),
        "over the old": partial(object.__setattr__, over, "token0", 5),
        "not set": partial(refused, FrozenInstanceError, setattr, state, "tick", 5),
        "not deleted": partial(refused, FrozenInstanceError, delattr, state, "tick"),
        "deleted past that": partial(refused, AttributeError, object.__delattr__, given, "tick"),
        "copy not set": partial(refused, AttributeError, object.__setattr__, state, "_copy", b""),
        "too few": partial(refused, TypeError, PoolState, "uniswap_v2"),
        "too much": partial(refused, TypeError, StateFields, 5),
    }
    cases |= refusals(
        PoolState._over,
        {
            "nothing": (TypeError,),
            "text": (ValueError, "text"),
            "a bytearray": (ValueError, bytearray(data)),
            "short": (ValueError, data[:-1]),
            "no head": (ValueError, b""),
            "of no protocol": (ValueError, b"\xff" * len(data)),
        },
    )
    check(cases)


def test_states_that_cannot_be_read(writer: WriterArena, pools: Arena) -> None:
    pool, gone = pools[V3.key], pools[GONE.key]
    closed = pools.snapshot()
    of_closed = closed[V3.key]
    closed.close()
    free: Any = Pool.__new__(Pool)
    mapped, slot, generation = pool._where
    silent = bound(Silent, gone)
    remove(writer, GONE)
    cases: dict[str, Case] = {
        f"{name}, {read}": partial(refused, error, getattr(handle, read))
        for read in READS
        for name, error, handle in (
            ("removed", errors.PoolRemoved, gone),
            ("removed, without a word", TypeError, silent),
            ("of a closed view", errors.ArenaClosed, of_closed),
            ("bound to nothing", AttributeError, free),
            ("bound to nothing, bare", AttributeError, PoolHandle()),
        )
    }
    cases |= {
        "status of a removed one": partial(getattr, gone, "status"),
        "at a place": partial(copy_pool, mapped.address, slot, generation, 0),
        "at no place": partial(copy_pool, mapped.address, 99, 0, 0),
        "of a removed one": partial(copy_pool, mapped.address, gone._where[1], 0, 0),
        "at nothing": partial(refused, TypeError, copy_pool),
        "at a text": partial(refused, TypeError, copy_pool, "1", slot, generation, 0),
        "raising": partial(
            refused, ZeroDivisionError, copy_pool, mapped.address, slot, Raising(), 0
        ),
    }
    check(cases)
    pools.close()
    check(
        {
            f"closed, {read}": partial(refused, errors.ArenaClosed, getattr(pool, read))
            for read in READS
        }
    )


def say(token_of: Callable[[bytes], Any]) -> None:
    """As arena.readers.state does, but for the maker of tokens."""
    words = {
        row.number: (row.name, row.has_ticks, row.has_stored_fees) for row in PROTOCOLS.values()
    }
    describe(words, slots.STATUS_NAMES, token_of, PoolState)


def test_tokens_that_are_not_made_or_set_meanwhile(pools: Arena) -> None:
    state, data = pools[V3.key].state(), pools[V3.key]._copy_bytes()
    made: list[PoolState] = []

    def meanwhile(row: bytes) -> Any:
        object.__setattr__(made[0], "token0", [row])
        return token_of(row)

    def read() -> None:
        made[:] = [PoolState._over(data)]
        assert made[0].token0.symbol == "A"

    try:
        say(fail)
        check({"failing": partial(refused, ZeroDivisionError, getattr, state, "token0")})
        say(meanwhile)
        check({"set meanwhile": partial(read)})
        check({"said again": partial(say, token_of)})
    finally:
        say(token_of)


def test_what_was_set_while_a_token_was_made_is_seen_by_nobody_as_it_goes(pools: Arena) -> None:
    """Its weak references are told once nothing refers to it: the state must not, either."""
    state = PoolState._over(pools[V3.key]._copy_bytes())
    seen: list[Any] = []
    watching: list[Any] = []

    def meanwhile(row: bytes) -> Any:
        going = Number(5)
        watching.append(weakref.ref(going, lambda _: seen.append(state.token0)))
        object.__setattr__(state, "token0", going)
        return token_of(row)

    try:
        say(meanwhile)
        assert state.token0.symbol == "A"
    finally:
        say(token_of)
    assert seen == [state.token0]


# ---- views


def test_views(writer: WriterArena, pools: Arena) -> None:
    text = "0x" + V3.key.hex()
    view, gone = pools.snapshot(), "0x" + GONE.key.hex()
    before = view[gone]
    remove(writer, GONE)
    after = pools.snapshot()
    after._kept[gone] = before  # of the old set of pools
    get = operator.getitem
    mapped = view._mapped
    place = (mapped.address, view._arena._closed_word)
    mine, closed = Pool.__new__(Pool), pools.snapshot()
    closed.close()
    elsewhere = bound(Pool, pools[V3.key])
    elsewhere._bind_call((None, 0, 1), None, *place, 0)
    empty: Any = PoolHandle()
    kept = {"number": 5, "mine": mine, "empty": empty, "elsewhere": elsewhere, text: view[text]}
    bare: Any = View()
    bare._bind_view(mapped, view._closed, kept, *place, view.commit)

    def come_and_go() -> None:
        with pools.snapshot() as one:
            handle = one[text]
            assert handle.key == text
            handle.quote_exact_in(ONE, zero_for_one=True)

    def bind(*given: Any) -> None:
        free: Any = View(1, two=3)
        free._bind_view(*given)

    cases: dict[str, Case] = {
        f"by {name}": partial(get, view, key)
        for name, key in {
            "text": text,
            "capitals": text.upper(),
            "bytes": V3.key,
            "a bytearray": bytearray(V3.key),
            "a view": memoryview(V3.key),
            "a subclass": Text(text),
        }.items()
    }
    cases |= {
        "come and gone": partial(come_and_go),
        "bare": partial(View, 1, two=3),
        "of a subclass": partial(type("Other", (View,), {})),
        "bound": partial(bind, mapped, view._closed, kept, *place, 0),
        "kept": partial(get, bare, text),
        "at one block": partial(pools.at_one_block, lambda view: view[text].state()),
        "length": partial(len, view),
        "keys": partial(list, after),
        "in": partial(operator.contains, view, text),
        "not in": partial(operator.contains, after, gone),
        "repr": partial(repr, view),
        "batch": way(view.quote_batch, [text, view[text]], ONE),
        "pickled": partial(lambda: pickle.loads(pickle.dumps(view))[text]),
    }
    for name in ("number", "mine", "empty", "elsewhere", "nobody"):
        cases[f"{name} for a pool"] = partial(refused, AttributeError, get, bare, name)
    cases |= refusals(
        partial(get, view),
        {
            "short": (ValueError, "0x12"),
            "a number": (TypeError, 5),
            "None": (TypeError, None),
            "a list": (TypeError, [1]),
            "raising": (TypeError, Raising()),
            "unknown": (errors.UnknownPool, "0x" + "99" * 20),
            "unknown bytearray": (errors.UnknownPool, bytearray(20)),
        },
    )
    cases |= refusals(
        bind,
        {
            "nothing": (TypeError,),
            "no dict": (TypeError, None, None, [], 1, 1, 0),
            "an address of text": (TypeError, None, None, {}, "1", 1, 0),
            "no address": (ValueError, None, None, {}, 0, 1, 0),
            "no word": (ValueError, None, None, {}, 1, 0, 0),
        },
    )
    cases |= {
        "compared": partial(refused, ZeroDivisionError, get, view, Unequal(text)),
        "bound twice": partial(refused, ValueError, bare._bind_view, mapped, None, kept, *place, 0),
        "bound to nothing": partial(refused, AttributeError, get, View(), text),
        "closed": partial(refused, errors.ArenaClosed, get, closed, text),
        "removed": partial(refused, errors.ArenaError, get, after, gone),
    }
    check(cases)


# ---- waits, and the module


def test_waits(pools: Arena) -> None:
    mapped, word = pools._current(), pools._closed_word
    ask = partial(wait_head, mapped.address, word)
    check(
        {
            f"after {after!s:.9}, {until}": partial(ask, after, until, 0)
            for after, until in ((0, None), (-1, 0), (-(2**70), 5.0), (Number(5), None))
        }
        | {f"late, {after}": partial(ask, after, 0.0, 0) for after in (110, 2**63, 2**70)}
        | refusals(
            ask,
            {
                "nothing": (TypeError,),
                "no number": (TypeError, "5", 0, 0),
                "lying": (TypeError, Lying(), 0, 0),
                "raising": (ZeroDivisionError, Raising(), 0, 0),
                "no time": (TypeError, 5, "0", 0),
                "no spin": (TypeError, 5, 0, "0"),
            },
        )
        | {"waited": partial(pools.wait_block, 0, 1), "in vain": partial(pools.wait_block, 110, 0)}
    )


def test_the_module() -> None:
    address = int(ffi.cast("uintptr_t", lib.psa_functions()))
    table = bytearray(64)
    at = int(ffi.cast("uintptr_t", ffi.from_buffer(table)))
    said = (slots.STATUS_NAMES, token_of, PoolState)
    check(
        {"used": partial(_handle.use, address), "bytes of tables": partial(depth_nbytes)}
        | refusals(
            _handle.use,
            {
                "another table": (ImportError, at),
                "no table": (ValueError, 0),
                "text": (TypeError, "text"),
            },
        )
        | refusals(
            describe,
            {
                "nothing": (TypeError,),
                "no dict": (TypeError, [], (), None, None),
                "too few names": (ValueError, {}, ("live",), token_of, PoolState),
                "a protocol of text": (TypeError, {"1": ()}, *said),
                "words": (TypeError, {250: ("name",)}, *said),
                "a list of words": (TypeError, {250: ["name", True, True]}, *said),
                "numbers for truth": (TypeError, {250: ("name", 1, True)}, *said),
                "beyond": (ValueError, {256: ("name", True, True)}, *said),
                "no type": (TypeError, {}, slots.STATUS_NAMES, token_of, 5),
                "another type": (TypeError, {}, slots.STATUS_NAMES, token_of, Token),
            },
        )
    )
