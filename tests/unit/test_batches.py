"""Batches: every item is what a single quote answers, wherever chunks and runs of one pool begin and end.

Single quotes are held against the contracts elsewhere; here amounts of pairs are computed once more with
Python's integers.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked

from arena import errors
from arena.layouts import slots
from arena.native import ffi, lib
from arena.readers import Arena
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
