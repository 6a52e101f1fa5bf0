"""Batches: every item is what a single quote answers, wherever chunks and runs of one pool begin and end.

Single quotes are held against the contracts elsewhere; here amounts of pairs are computed once more with
Python's integers.
"""

import copy
import pickle
import random
import re
from array import array
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked

from arena import errors
from arena.layouts import slots
from arena.native import ffi, lib
from arena.readers import Arena, QuoteBatch
from arena.readers.quote import RESULT
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = [TokenSpec(bytes(19) + bytes([n]), 18, f"T{n}") for n in (1, 2)]
TICKS = ((-6000, 9 * 10**20, 9 * 10**20), (-60, 10**20, 10**20), (60, 10**20, -(10**20)))
CONCENTRATED: dict[str, Any] = {
    "sqrt_price_x96": 1 << 96,
    "liquidity": 10**21,
    "ticks": (*TICKS, (6000, 9 * 10**20, -9 * 10**20)),
}
RESERVES = (10**21, 3 * 10**21)
LIVE = slots.STATUS_LIVE
KINDS = {
    "pair": (slots.UNISWAP_V2, 3000, PoolValues(100, 3000, *RESERVES), LIVE),
    "v3": (slots.UNISWAP_V3, 500, PoolValues(101, 500, **CONCENTRATED), LIVE),
    "v4": (
        slots.UNISWAP_V4,
        3000,
        PoolValues(102, 3000, lp_fee=3000, protocol_fee=100 << 12 | 50, **CONCENTRATED),
        LIVE,
    ),
    "dynamic": (slots.UNISWAP_V4, 0x800000, PoolValues(103, 0, lp_fee=9, **CONCENTRATED), LIVE),
    "solidly": (slots.SOLIDLY, 0, PoolValues(104, 3000, *RESERVES), LIVE),
    "stale": (slots.UNISWAP_V3, 500, PoolValues(105, 500, **CONCENTRATED), slots.STATUS_STALE),
    "empty": (slots.UNISWAP_V2, 3000, PoolValues(106, 3000, 0, 0), LIVE),
}
FLAGS = [
    z | out | stale | dynamic
    for z in (0, lib.PSA_ZERO_FOR_ONE)
    for out in (0, lib.PSA_EXACT_OUT)
    for stale in (0, lib.PSA_ALLOW_STALE)
    for dynamic in (0, lib.PSA_ALLOW_DYNAMIC)
]
AMOUNTS = [0, 1, 1000, 10**15, 10**18, 2 * 10**21, 10**24, 1 << 128, 1 << 255, (1 << 256) - 1]


def key_of(kind: str) -> bytes:
    number = list(KINDS).index(kind) + 1
    return bytes([number]) * (32 if KINDS[kind][0] == slots.UNISWAP_V4 else 20)


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 20)) as found:
        for kind, (protocol, fee, values, status) in KINDS.items():
            spacing = 60 if protocol in (slots.UNISWAP_V3, slots.UNISWAP_V4) else 0
            slot = found.add_pool(PoolSpec(key_of(kind), protocol, *TOKENS, fee, spacing))
            found.install(slot, values, LIVE)
            if status != LIVE:
                found.set_status(slot, status, slots.UNSURE_PRICE)
        found.set_head(110)
        found.commit()
        yield found


def words_of(amounts: list[int]) -> np.ndarray[Any, Any]:
    data = b"".join(amount.to_bytes(32, "little") for amount in amounts)
    return np.frombuffer(data, "<u8").reshape(-1, 4)


def single(arena: Any, reference: int, commit: int, amount: int, flags: int) -> bytes:
    result = ffi.new("psa_quote_result *")
    data = amount.to_bytes(32, "little")
    place = (reference & slots.NO_SLOT, reference >> 32)
    status = lib.psa_quote(arena, *place, commit, data, ffi.NULL, flags, 0, result)
    assert status == result.status or flags & lib.PSA_FEE_GIVEN
    return bytes(ffi.buffer(result))


def ask(
    arena: Any, references: list[int], commit: int, amounts: list[int], flags: list[int]
) -> tuple[int, list[bytes]]:
    results = np.full(len(amounts) * RESULT.itemsize, 0xAA, np.uint8)  # every byte is to be written
    status = lib.psa_quote_batch(
        arena,
        ffi.from_buffer("uint64_t *", np.array(references, np.uint64)),
        commit,
        ffi.from_buffer("uint64_t *", words_of(amounts)),
        ffi.from_buffer("uint32_t *", np.array(flags, np.uint32)),
        lib.PSA_ONE_POOL if len(references) == 1 else 0,
        len(amounts),
        ffi.from_buffer("psa_quote_result *", results),
    )
    data = results.tobytes()
    return status, [data[n : n + RESULT.itemsize] for n in range(0, len(data), RESULT.itemsize)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 129])
def test_many_amounts_on_one_pool_are_answered_as_one_by_one(
    writer: WriterArena, pools: Arena, rng: random.Random, kind: str, count: int
) -> None:
    arena = pools._current().pointer
    reference = int(pools.slots([key_of(kind)])[0])
    amounts = [rng.choice(AMOUNTS) for _ in range(count)]
    for flags in ([rng.choice(FLAGS) for _ in range(count)], [rng.choice(FLAGS)] * count):
        for commit in (0, pools.committed):
            wanted = [
                single(arena, reference, commit, amount, flag)
                for amount, flag in zip(amounts, flags, strict=True)
            ]
            assert ask(arena, [reference], commit, amounts, flags) == (0, wanted)


@pytest.mark.parametrize("count", [64, 200])
def test_runs_of_one_pool_among_others_are_answered_as_one_by_one(
    writer: WriterArena, pools: Arena, rng: random.Random, count: int
) -> None:
    arena = pools._current().pointer
    known = [int(reference) for reference in pools.slots([key_of(kind) for kind in KINDS])]
    other = known[1] + (1 << 32)  # of another generation
    known += [slots.NO_SLOT, known[1] & slots.NO_SLOT, other, 15, 1 << 31]
    for _ in range(20):
        references: list[int] = []
        while len(references) < count:
            references += [rng.choice(known)] * rng.choice([1, 1, 2, 3, 63, 64, 65, 70])
        references = references[:count]
        amounts = [rng.choice(AMOUNTS) for _ in references]
        flags = [rng.choice(FLAGS) for _ in references]
        wanted = [
            single(arena, reference, 0, amount, flag)
            for reference, amount, flag in zip(references, amounts, flags, strict=True)
        ]
        assert ask(arena, references, 0, amounts, flags) == (0, wanted)


def test_an_item_with_flags_of_no_batch_is_refused_alone(writer: WriterArena, pools: Arena) -> None:
    arena = pools._current().pointer
    reference = int(pools.slots([key_of("v3")])[0])
    for bad in (0, 30, 63, 64, 65, 99):
        flags = [lib.PSA_ZERO_FOR_ONE] * 100
        flags[bad] = lib.PSA_FEE_GIVEN
        status, found = ask(arena, [reference], 0, [10**18] * 100, flags)
        assert status == 0
        statuses = np.frombuffer(b"".join(found), RESULT)["status"].tolist()
        assert statuses.pop(bad) == lib.PSA_BAD_ARGUMENT
        assert set(statuses) == {0}


def test_a_commit_that_is_too_old_for_a_pool_is_told_for_its_items(
    writer: WriterArena, pools: Arena
) -> None:
    arena, commit = pools._current().pointer, pools.committed
    pair, v3 = (int(reference) for reference in pools.slots([key_of("pair"), key_of("v3")]))
    slot = writer.add_pool(PoolSpec(key_of("pair"), slots.UNISWAP_V2, *TOKENS, 3000, 0))
    references = [pair] * 70 + [v3] * 70
    plain = ([10**15] * 140, [0] * 140)
    for block in (111, 112):
        assert ask(arena, references, commit, *plain)[0] == 0
        writer.install(slot, PoolValues(block, 3000, *RESERVES), LIVE)
        writer.commit()
    status, found = ask(arena, references, commit, *plain)
    results = np.frombuffer(b"".join(found), RESULT)
    assert status == lib.PSA_SNAPSHOT_TOO_OLD
    assert results["status"].tolist() == [lib.PSA_SNAPSHOT_TOO_OLD] * 70 + [0] * 70
    assert not results["amount_out"][:70].any()
    # Without a commit, and both lines newer than the last one, each item gives up.
    for line in writer.native.arena.slots[slot].lines:
        line.stamp = 1 << 40
    status, found = ask(arena, references, 0, *plain)
    results = np.frombuffer(b"".join(found), RESULT)
    assert status == lib.PSA_CONTENDED
    assert results["status"].tolist() == [lib.PSA_CONTENDED] * 70 + [0] * 70
    with pytest.raises(errors.SnapshotContended):
        pools.quote_batch(np.array([pair], np.uint64), 5, zero_for_one=True)


def amount_out(reserve_in: int, reserve_out: int, amount: int) -> int:
    """UniswapV2Library.getAmountOut."""
    paid = amount * 997
    return paid * reserve_out // (reserve_in * 1000 + paid)


def test_arrays_handles_and_lists_ask_the_same(writer: WriterArena, pools: Arena) -> None:
    count = 130
    amounts = [10**15 + n for n in range(count)]
    directions = np.arange(count) % 3 == 0
    wanted = [
        amount_out(*(RESERVES if zero_for_one else RESERVES[::-1]), amount)
        for amount, zero_for_one in zip(amounts, directions.tolist(), strict=True)
    ]
    pair = pools[key_of("pair")]
    references = np.repeat(pools.slots([pair]), count)
    for named in (references, [pair] * count, [pair.key] * count):
        for asked in (amounts, words_of(amounts), np.array(amounts, np.uint64)):
            for ways in (directions, directions.tolist()):
                found = pools.quote_batch(named, asked, zero_for_one=ways)
                assert found.amounts_out == wanted
                assert [quote.amount_out for quote in found] == wanted
                assert (found.commit, found.block_number) == (None, None)
    up = pair.quote_many(words_of(amounts), zero_for_one=False)
    down = pair.quote_many(amounts, zero_for_one=True)
    mixed = [(down if zero else up)[n].amount_out for n, zero in enumerate(directions.tolist())]
    assert mixed == wanted


def test_errors_of_items_name_the_way_they_were_asked(writer: WriterArena, pools: Arena) -> None:
    stale, pair = pools[key_of("stale")], pools[key_of("pair")]
    every = stale.quote_many([5, 6], zero_for_one=True, exact_out=True)
    assert isinstance(every.error(1), errors.PoolStale)
    assert "6 out of pool" in str(every.error(1))
    assert "token0 to token1" in str(every[1:].error(0))
    each = pools.quote_batch([pair, stale], [7, 8], zero_for_one=[True, False])
    assert each.error(0) is None
    assert f"8 into pool {stale.key}, token1 to token0" in str(each[1:].error(0))
    one_way = pools.quote_batch(pools.slots([stale]), 9, zero_for_one=False)
    assert f"9 into pool {stale.key}, token1 to token0" in str(one_way.error(0))


def test_plain_slots_are_checked_also_among_references(writer: WriterArena, pools: Arena) -> None:
    references = pools.slots([key_of("pair"), key_of("v3")])
    plain = references & np.uint64(slots.NO_SLOT)
    for named in (references, plain, plain.astype(np.int64)):
        found = pools.quote_batch(named, 1000, zero_for_one=True)
        assert found.statuses.tolist() == [0, 0]
    for wrong in (np.array([references[0], len(KINDS)], np.uint64), np.array([-1, 0])):
        with pytest.raises(ValueError, match="slot"):
            pools.quote_batch(wrong, 1000, zero_for_one=True)
    assert len(pools.quote_batch(np.zeros(0, np.uint64), [], zero_for_one=True)) == 0


def test_a_batch_pickles_however_its_pools_were_named(writer: WriterArena, pools: Arena) -> None:
    names = [pools[key_of(kind)].key for kind in ("pair", "stale", "v3")]
    frozen = pools.snapshot(names)
    with pools.snapshot() as view:
        asked: list[QuoteBatch] = [
            pools.quote_batch(names, 7, zero_for_one=True),
            pools.quote_batch([pools[name] for name in names], 7, zero_for_one=True),
            pools.quote_batch(pools.slots(names), 7, zero_for_one=True),
            view.quote_batch(pools.slots(names), [7, 7, 7], zero_for_one=[True] * 3),
            pools.group(names).quote_batch(7, zero_for_one=True),
            pools.quote_batch(pools.slots(names), 7, zero_for_one=True)[::1],
        ]
    more = [pools[names[1]].quote_many([7], zero_for_one=True)]
    more += [frozen[names[1]].quote_many([7], zero_for_one=True)]
    for found in (*asked, *more):
        for again in (pickle.loads(pickle.dumps(found)), copy.copy(found), copy.deepcopy(found)):
            assert again.results.tobytes() == found.results.tobytes()
            assert (again.commit, again.block_number) == (found.commit, found.block_number)
            assert [str(again.error(n)) for n in range(len(found))] == [
                str(found.error(n)) for n in range(len(found))
            ]
    for found in asked:
        error = pickle.loads(pickle.dumps(found)).error(1)
        assert names[1] in str(error)


def test_an_error_counts_from_the_end_as_an_item_does(writer: WriterArena, pools: Arena) -> None:
    names = [key_of(kind) for kind in ("pair", "stale", "v3")]
    for asked in (names, pools.slots(names)):
        found = pools.quote_batch(asked, [5, 6, 7], zero_for_one=[True, False, True])
        assert isinstance(found.error(-2), errors.PoolStale)
        assert str(found.error(-2)) == str(found.error(1)) == str(found[1:].error(-2))
        assert "6 into pool 0x" in str(found.error(-2))
        assert (found.error(-1), found.error(-3), found.error(np.int64(2))) == (None, None, None)
        for beyond in (3, -4, 10**30):
            with pytest.raises(IndexError):
                found.error(beyond)
            with pytest.raises(IndexError):
                found[beyond]
    empty = pools.quote_batch([], [], zero_for_one=True)
    for beyond in (0, -1):
        with pytest.raises(IndexError):
            empty.error(beyond)
    same = pools[key_of("pair")].quote_many([5, 6], zero_for_one=True)._keys
    assert list(same) == [pools[key_of("pair")].key] * 2
    with pytest.raises(IndexError):
        same[2]


class Number:
    def __index__(self) -> int:
        return 10**15


def ways_to_ask(pools: Arena) -> list[Callable[[Any], QuoteBatch]]:
    """Every batch that takes amounts for two pools or of one."""
    names = [key_of("pair"), key_of("v3")]
    view, group = pools.snapshot(), pools.group(names)
    return [
        lambda amounts: pools.quote_batch(names, amounts, zero_for_one=True),
        lambda amounts: pools.quote_batch(pools.slots(names), amounts, zero_for_one=True),
        lambda amounts: view.quote_batch(names, amounts, zero_for_one=True),
        lambda amounts: group.quote_batch(amounts, zero_for_one=True),
    ]


def ways_to_ask_one(pools: Arena) -> list[Callable[[Any], QuoteBatch]]:
    pool = pools[key_of("pair")]
    frozen, ladder = pool.freeze(), pools[key_of("v3")].ladder(zero_for_one=True)
    return [
        lambda amounts: pool.quote_many(amounts, zero_for_one=True),
        lambda amounts: frozen.quote_many(amounts, zero_for_one=True),
        ladder.quote,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        *(b"\1\2", bytearray(b"\1\2"), memoryview(b"\1\2"), "12", "", b""),
        *({1, 2}, frozenset((1, 2)), set(), {1: 5, 2: 6}, {}, MappingProxyType({1: 2, 3: 4})),
        *(1.5, None, np.float64(2), np.array(2.0), np.array([1.0, 2.0]), object(), np.True_),
        *([1.0, 2.0], ["1", "2"], [None, None], np.array([True, False])),
    ],
    ids=lambda value: f"{type(value).__name__} {re.sub('0x[0-9a-f]+', '', repr(value))}",
)
def test_what_is_no_list_of_amounts_is_refused(
    writer: WriterArena, pools: Arena, wrong: Any
) -> None:
    for ask_batch in (*ways_to_ask(pools), *ways_to_ask_one(pools)):
        with pytest.raises(TypeError):
            ask_batch(wrong)


def test_the_error_says_what_amounts_are(writer: WriterArena, pools: Arena) -> None:
    for wrong in (b"\1\2", {1, 2}, {1: 2, 3: 4}, 1.5, None):
        with pytest.raises(TypeError, match=f"a list or an array, not {type(wrong).__name__}"):
            ways_to_ask(pools)[0](wrong)


def test_one_amount_for_all_is_what_a_single_quote_takes(writer: WriterArena, pools: Arena) -> None:
    amount = 10**15
    singles = [10**15, np.int64(amount), np.uint64(amount), np.array(amount), Number()]
    singles += [np.array(amount, np.uint64), np.array(amount, ">u8")]
    wanted = [
        pools[key_of(kind)].quote_exact_in(amount, zero_for_one=True) for kind in ("pair", "v3")
    ]
    ladder = pools[key_of("v3")].ladder(zero_for_one=True)
    for single_amount in singles:
        found = pools[key_of("pair")].quote_exact_in(single_amount, zero_for_one=True)
        assert found == wanted[0]
        assert ladder.quote(single_amount) == wanted[1]
        for ask_batch in ways_to_ask(pools):
            assert list(ask_batch(single_amount)) == wanted
    for many in ((amount, amount), range(amount, amount + 1), array("Q", [amount] * 2)):
        listed = [many[0], many[-1]]
        assert list(ways_to_ask(pools)[0](listed)) == wanted
    assert list(ways_to_ask(pools)[0](array("Q", [amount] * 2))) == wanted
    assert list(ways_to_ask(pools)[0](iter([amount] * 2))) == wanted
    for beyond in (-1, 1 << 256, np.int64(-1), np.array(-1)):
        for ask_batch in ways_to_ask(pools):
            with pytest.raises(errors.AmountOutOfRange):
                ask_batch(beyond)


def test_pools_of_a_batch_have_an_order(writer: WriterArena, pools: Arena) -> None:
    names = [pools[key_of(kind)].key for kind in ("pair", "v3")]
    for wrong in (set(names), frozenset(names), names[0], key_of("pair"), 5, None):
        with pytest.raises(TypeError, match="a list or an array"):
            pools.quote_batch(wrong, 5, zero_for_one=True)
        with pytest.raises(TypeError, match="a list or an array"):
            pools.slots(wrong)
    assert len(pools.quote_batch(dict.fromkeys(names), 5, zero_for_one=True)) == 2  # type: ignore[arg-type]
    assert len(pools.snapshot(set(names))) == 2  # type: ignore[call-overload]


FLAGS_OF_A_QUOTE = ("allow_stale", "allow_dynamic_fee")


@pytest.mark.parametrize(
    "wrong", ["no", "", "false", 2, -1, None, 0.5, [], [True], (), b"", object()]
)
def test_options_are_true_or_false_and_nothing_that_counts_as_one(
    writer: WriterArena, pools: Arena, wrong: Any
) -> None:
    live, names = pools[key_of("v3")], [key_of("v3")]
    frozen, group, view = live.freeze(), pools.group(names), pools.snapshot()
    way: dict[str, Any] = {"zero_for_one": True}
    for pool in (live, frozen):
        for name in (*FLAGS_OF_A_QUOTE, "allow_hooks"):
            given: dict[str, Any] = {**way, name: wrong, "lp_fee": 5}
            for use in (pool.quote_exact_in, pool.quote_exact_out):
                with pytest.raises(TypeError, match=f"{name} is True or False, not"):
                    use(5, **given)
            for many in (pool.quote_many, lambda _, **more: pool.ladder(**more)):  # noqa: B023
                with pytest.raises(TypeError, match=f"{name} is True or False, not"):
                    many([5], **given)
        for name in (*FLAGS_OF_A_QUOTE, "exact_out", "allow_hooks", "zero_for_one"):
            with pytest.raises(TypeError, match=f"{name} is True or False, not"):
                pool.quote_many([5], **{**way, name: wrong})
        for name in ("exact_out", "zero_for_one"):
            with pytest.raises(TypeError, match=f"{name} is True or False, not"):
                pool.ladder(**{**way, name: wrong})
    for name in (*FLAGS_OF_A_QUOTE, "exact_out"):
        for batch in (
            lambda **more: pools.quote_batch(names, 5, **more),
            lambda **more: view.quote_batch(names, 5, **more),
            lambda **more: group.quote_batch(5, **more),
        ):
            with pytest.raises(TypeError, match=f"{name} is True or False, not"):
                batch(**{**way, name: wrong})


def test_numpy_truth_is_truth(writer: WriterArena, pools: Arena) -> None:
    stale = pools[key_of("stale")]
    wanted = stale.quote_exact_in(10**15, zero_for_one=True, allow_stale=True)
    for yes in (np.True_, 1):
        given: dict[str, Any] = {"zero_for_one": yes, "allow_stale": yes}
        assert stale.quote_exact_in(10**15, **given) == wanted
        assert pools.quote_batch([stale], 10**15, **given)[0] == wanted
        assert stale.quote_many([10**15], exact_out=np.False_, **given)[0] == wanted  # type: ignore[arg-type]
