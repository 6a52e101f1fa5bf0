"""Depth tables of pool handles: when they are made and dropped, and that changes are never missed.

A quote through a handle is compared with one of a fresh private copy, which walks.
"""

import contextlib
import gc
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked
from oracle import swap_oracle as oracle

import arena
from arena.layouts import slots
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.native._handle import depth_nbytes
from arena.readers import Arena, Pool
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = (TokenSpec(b"\1" * 20, 18, "A"), TokenSpec(b"\2" * 20, 18, "B"))
V3 = PoolSpec(b"\xb3" * 20, slots.UNISWAP_V3, *TOKENS, 3000, 10, b"\7" * 20)
V4 = PoolSpec(b"\xb4" * 32, slots.UNISWAP_V4, *TOKENS, 500, 10, b"\7" * 20)
V2 = PoolSpec(b"\xb2" * 20, slots.UNISWAP_V2, *TOKENS, 3000, 0, b"\7" * 20)
TICKS = 300
FIRST = 100
DEEP = 5 * 10**22  # crosses most of the ticks of one side


def ticked(seed: int = 1, spacing: int = 10, **fees: int) -> PoolValues:
    """Price 1; each spacing has liquidity of its own."""
    chance = random.Random(seed)
    half = TICKS // 2
    amounts = [10**24 + chance.randrange(10**23) for _ in range(2 * half)]
    ticks = [
        (n * spacing, below + above, above - below)
        for n, below, above in zip(
            range(-half, half + 1), [0, *amounts], [*amounts, 0], strict=True
        )
    ]
    return PoolValues(
        FIRST,
        3000,
        sqrt_price_x96=(1 << 96) + 1,
        tick=0,
        liquidity=amounts[half],
        ticks=tuple(ticks),
        **fees,
    )


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(WriterArena.create(arena_name, max_pools=3, tick_bytes=1 << 22)) as found:
        found.install(found.add_pool(V3), ticked(), slots.STATUS_LIVE)
        fees = {"lp_fee": 500, "protocol_fee": 100 << 12 | 50, "fee_block": 99}
        found.install(found.add_pool(V4), ticked(2, **fees), slots.STATUS_LIVE)
        reserves = {"reserve0": 10**24, "reserve1": 10**24}
        found.install(found.add_pool(V2), PoolValues(FIRST, 3000, **reserves), slots.STATUS_LIVE)
        found.set_head(FIRST)
        found.commit()
        found.set_phase("live")
        yield found


@pytest.fixture
def pools(writer: WriterArena) -> Iterator[Arena]:
    with arena.attach(writer.name, timeout=10) as found:
        yield found
    gc.collect()
    assert depth_nbytes() == 0, "a table outlived its handle"


def deepen(pool: Pool) -> None:
    """Ask until both directions have tables, or would have them."""
    for zero_for_one in (True, False):
        for _ in range(8):
            pool.quote_exact_in(DEEP, zero_for_one=zero_for_one, allow_stale=True)


AMOUNTS = [1, 10**19, 10**22, 3 * 10**22, DEEP, 10**24, 10**27]


def compare(pool: Pool, **options: Any) -> None:
    """Every way to ask, against walks of a copy."""
    copy = pool.freeze()
    tick = copy.state().tick or 0
    for zero_for_one in (True, False):
        way: dict[str, Any] = {"zero_for_one": zero_for_one}
        for amount in AMOUNTS:
            for limit in (None, oracle.sqrt_price_at_tick(tick + (-700 if zero_for_one else 700))):
                given = options if limit is None else {**options, "sqrt_price_limit_x96": limit}
                found = pool.quote_exact_in(amount, **way, **given)
                assert found == copy.quote_exact_in(amount, **way, **given)
                found = pool.quote_exact_out(amount, **way, **given)
                assert found == copy.quote_exact_out(amount, **way, **given)
        for side in (False, True):
            many = pool.quote_many(AMOUNTS, exact_out=side, **way, **options)
            walked = copy.quote_many(AMOUNTS, exact_out=side, **way, **options)
            assert list(many) == list(walked)


def block(number: int, key: bytes, protocol: int, revert: bool = False, **fields: Any) -> Any:
    """Records of a block with one event."""
    events = np.zeros(3, EVENT)
    events["block_number"], events["stream_seq"] = number, number
    events["flags"] = lib.PSA_EVENT_IS_REVERT if revert else 0
    events["kind"] = lib.PSA_EVENT_BEGIN_BLOCK, fields.pop("kind"), lib.PSA_EVENT_END_BLOCK
    event = events[1]
    event["key"] = np.frombuffer(key.ljust(32, b"\0"), "u1")
    event["key_nbytes"], event["protocol"], event["log_index"] = len(key), protocol, 1
    for name, value in fields.items():
        event[name] = value
    return events


def liquidity(number: int, spec: PoolSpec, lower: int, upper: int, amount: int) -> Any:
    return block(
        number,
        spec.key,
        spec.protocol,
        kind=lib.PSA_EVENT_CL_LIQUIDITY,
        tick_lower=lower,
        tick_upper=upper,
        update_type=lib.PSA_UPDATE_MINT if amount > 0 else lib.PSA_UPDATE_BURN,
        amount=[amount % 2**64, amount % 2**128 >> 64],
    )


def swapped(number: int, spec: PoolSpec, pool: Pool, amount: int, zero_for_one: bool) -> Any:
    """The Swap event of that swap."""
    found = pool.freeze().quote_exact_in(amount, zero_for_one=zero_for_one)
    price = found.sqrt_price_x96_after
    words = [price % 2**64, price >> 64 & 2**64 - 1, price >> 128, 0, 0, 0, 0, 0]
    fields: dict[str, Any] = {}
    left = found.liquidity_after
    fields["amount"] = [left % 2**64, left >> 64]
    return block(
        number,
        spec.key,
        spec.protocol,
        kind=lib.PSA_EVENT_CL_SWAP,
        words=words,
        tick=found.tick_after,
        **fields,
    )


def poke(writer: WriterArena, slot: int, tick: int) -> None:
    """Change the net of a tick in place, as no writer does: the slab keeps its serial."""
    native = writer.native.arena
    line = ffi.new("psa_line *")
    assert lib.psa_pool_read(ffi.addressof(native), slot, 0, 0, line) == lib.PSA_OK
    slab = native.heap + line.slab * 64
    ticks = ffi.cast("int32_t *", slab + 64)
    index = next(i for i in range(line.tick_count) if ticks[i] == tick)
    capacity = 8
    for _ in range(line.slab_class):
        capacity = capacity * 3 // 2
    net = ffi.cast("uint64_t *", slab + 64 + (4 * capacity + 63) // 64 * 64)
    net[2 * index] += 1 if tick > 0 else -1  # the walk finds more liquidity, in either direction


@pytest.mark.parametrize("side", ["quote_exact_in", "quote_exact_out"])
@pytest.mark.parametrize("zero_for_one", [True, False])
def test_a_table_answers_without_a_look_at_the_ticks_in_between(
    writer: WriterArena, pools: Arena, side: str, zero_for_one: bool
) -> None:
    pool = pools[V3.key]
    before = getattr(pool, side)(DEEP, zero_for_one=zero_for_one)
    assert before.ticks_crossed > 90
    deepen(pool)
    poke(writer, 0, -500 if zero_for_one else 500)
    after = getattr(pool, side)(DEEP, zero_for_one=zero_for_one)
    walked = getattr(pool.freeze(), side)(DEEP, zero_for_one=zero_for_one)
    assert after == before != walked


def test_a_table_is_made_once_as_many_ticks_were_walked_as_it_has_rungs(pools: Arena) -> None:
    pool = pools[V3.key]
    crossed = pool.freeze().quote_exact_in(DEEP, zero_for_one=True).ticks_crossed
    count = 0
    while depth_nbytes() == 0 and count < 100:
        pool.quote_exact_in(DEEP, zero_for_one=True)
        count += 1
    assert crossed * (count - 1) < TICKS < crossed * count + 10
    one = depth_nbytes()
    assert TICKS * 112 < one < (TICKS + 16) * 112
    compare(pool)
    assert one < depth_nbytes() < 2.1 * one  # and one of the other direction


def test_quotes_over_few_ticks_and_of_pairs_make_no_table(pools: Arena) -> None:
    for _ in range(400):
        found = pools[V3.key].quote_exact_in(10**21, zero_for_one=True)
        pools[V2.key].quote_exact_in(DEEP, zero_for_one=True)
    assert 0 < found.ticks_crossed <= 4
    assert depth_nbytes() == 0


def test_a_list_makes_its_table_on_the_way(pools: Arena) -> None:
    pool = pools[V3.key]
    amounts = [DEEP + n for n in range(50)]
    found = pool.quote_many(amounts, zero_for_one=True)
    assert depth_nbytes() > 0
    assert list(found) == list(pool.freeze().quote_many(amounts, zero_for_one=True))


def test_tables_go_with_their_handles(writer: WriterArena, pools: Arena) -> None:
    with arena.attach(writer.name, timeout=10) as other:
        deepen(pools[V3.key])
        first = depth_nbytes()
        deepen(other[V4.key])
        assert depth_nbytes() > first > 0
    gc.collect()
    assert depth_nbytes() == first


def test_tables_of_a_view_serve_the_views_after_it(writer: WriterArena, pools: Arena) -> None:
    with pools.snapshot() as view:
        deepen(view[V3.key])
        compare(view[V3.key])
    one = depth_nbytes()
    assert one > 0
    for number in range(FIRST + 1, FIRST + 4):
        writer.apply(swapped(number, V3, pools[V3.key], 10**20, True))
        writer.commit()
        with pools.snapshot() as view:
            compare(view[V3.key])
            assert depth_nbytes() == one
    poke(writer, 0, -500)  # shows that a fourth view answers by the table
    with pools.snapshot() as view:
        found = view[V3.key].quote_exact_in(DEEP, zero_for_one=True)
        assert found != view[V3.key].freeze().quote_exact_in(DEEP, zero_for_one=True)


@pytest.mark.parametrize("spec", [V3, V4], ids=["v3", "v4"])
def test_changes_of_ticks_price_and_fee_are_followed(
    writer: WriterArena, pools: Arena, spec: PoolSpec
) -> None:
    pool = pools[spec.key]
    number = FIRST
    chance = random.Random(5)

    def next_block(make: Callable[[int], Any]) -> None:
        nonlocal number
        deepen(pool)
        assert depth_nbytes() > 2 * TICKS * 112
        number += 1
        writer.apply(make(number))
        writer.commit()
        assert not writer.take_faults()[0]
        compare(pool)

    compare(pool)
    next_block(lambda n: liquidity(n, spec, -300, -200, 10**25))
    next_block(lambda n: liquidity(n, spec, -300, -200, -(10**25)))  # the same ticks as at first
    next_block(lambda n: liquidity(n, spec, -205 * 10, 205 * 10, 10**24))  # new ticks, in range
    for _ in range(6):
        way = chance.random() < 0.5
        amount = chance.choice([10**20, 10**22, DEEP])
        next_block(lambda n, way=way, amount=amount: swapped(n, spec, pool, amount, way))
    if spec is V4:
        words = [300 << 12 | 200, 0, 0, 0, 0, 0, 0, 0]
        kind = lib.PSA_EVENT_PROTOCOL_FEE
        next_block(lambda n: block(n, spec.key, spec.protocol, kind=kind, words=words))


def test_a_revert_brings_back_what_was(writer: WriterArena, pools: Arena) -> None:
    pool = pools[V3.key]
    before = pool.quote_exact_in(DEEP, zero_for_one=True)
    mint = liquidity(FIRST + 1, V3, -300, -200, 10**25)
    for _ in range(3):
        deepen(pool)
        writer.apply(mint)
        writer.commit()
        deepen(pool)
        compare(pool)
        assert pool.quote_exact_in(DEEP, zero_for_one=True) != before
        envelope = np.zeros(2, EVENT)
        envelope["kind"] = lib.PSA_EVENT_REORG_START, lib.PSA_EVENT_REORG_COMPLETE
        undo = mint.copy()
        undo["flags"] = lib.PSA_EVENT_IS_REVERT
        writer.apply(np.concatenate([envelope[:1], undo, envelope[1:]]))
        writer.commit()
        assert not writer.take_faults()[0]
        compare(pool)
        assert pool.quote_exact_in(DEEP, zero_for_one=True) == before


def test_a_slot_used_again_and_a_new_arena_are_other_pools(
    writer: WriterArena, pools: Arena
) -> None:
    pool = pools[V3.key]
    deepen(pool)
    writer.remove_pool(0)
    writer.commit()
    for _ in range(2):
        with pytest.raises(arena.PoolRemoved):
            pool.quote_exact_in(DEEP, zero_for_one=True)
    assert writer.add_pool(V3) == 0
    writer.install(0, ticked(9), slots.STATUS_LIVE)
    writer.commit()
    with pytest.raises(arena.PoolRemoved):
        pool.quote_exact_in(DEEP, zero_for_one=True)
    again = pools[V3.key]
    deepen(again)
    compare(again)
    writer.grow(max_pools=32, tick_bytes=1 << 23)
    compare(again)
    deepen(again)
    compare(again)


def test_a_new_arena_of_the_name_has_other_tables(writer: WriterArena, pools: Arena) -> None:
    pool = pools[V3.key]
    deepen(pool)
    compare(pool)
    name = writer.name
    writer.close(unlink=False)
    with unlinked(WriterArena.create(name, max_pools=3, tick_bytes=1 << 22)) as newer:
        newer.install(newer.add_pool(V3), ticked(77), slots.STATUS_LIVE)
        newer.set_head(FIRST)
        newer.commit()
        newer.set_phase("live")
        compare(pool)
        deepen(pool)
        compare(pool)


def test_given_fees_have_tables_of_their_own(writer: WriterArena, pools: Arena) -> None:
    dynamic = PoolSpec(b"\xd4" * 32, slots.UNISWAP_V4, *TOKENS, 0x800000, 10, b"\7" * 20)
    writer.grow(max_pools=8)
    fees = {"lp_fee": 500, "protocol_fee": 0, "fee_block": 99}
    writer.install(writer.add_pool(dynamic), ticked(3, **fees), slots.STATUS_LIVE)
    writer.commit()
    pool = pools[dynamic.key]
    for fee in (500, 3000, 0, 1_000_000, 500):
        for _ in range(6):
            pool.quote_exact_in(DEEP, zero_for_one=True, lp_fee=fee)
        found = pool.quote_exact_in(DEEP, zero_for_one=True, lp_fee=fee)
        assert found == pool.freeze().quote_exact_in(DEEP, zero_for_one=True, lp_fee=fee)
    deepen_with = {"allow_dynamic_fee": True}
    for _ in range(6):
        pool.quote_exact_in(DEEP, zero_for_one=True, **deepen_with)
    compare(pool, **deepen_with)


def test_all_tables_of_a_process_have_a_limit(writer: WriterArena, pools: Arena) -> None:
    wide = PoolSpec(b"\xc3" * 20, slots.UNISWAP_V3, *TOKENS, 100, 1, b"\7" * 20)
    values = ticked(4, spacing=1)
    reach = 887272
    ticks = ((-reach, 10**24, 10**24), *values.ticks, (reach, 10**24, -(10**24)))
    values = PoolValues(
        FIRST,
        100,
        sqrt_price_x96=values.sqrt_price_x96,
        tick=0,
        liquidity=(values.liquidity or 0) + 10**24,
        ticks=ticks,
    )
    writer.grow(max_pools=8)
    writer.install(writer.add_pool(wide), values, slots.STATUS_LIVE)
    writer.commit()
    amounts = [10**22 + n for n in range(80)]
    expected = pools[wide.key].quote_many(amounts, zero_for_one=True).amounts_out
    limit = 64 << 20
    with contextlib.ExitStack() as stack:
        for _ in range(90):  # an attachment each, so a handle each
            other = stack.enter_context(arena.attach(writer.name, timeout=10))
            found = other[wide.key].quote_many(amounts, zero_for_one=True).amounts_out
            assert found == expected
        assert limit - (1 << 20) < depth_nbytes() <= limit


def test_threads_share_a_handle_while_its_ticks_change(writer: WriterArena, pools: Arena) -> None:
    """Lists let go of the GIL while tables come and go; each answer is of one of the two states."""
    pool = pools[V3.key]
    amounts = [DEEP + n for n in range(64)]
    states = [pool.freeze().quote_many(amounts, zero_for_one=True).amounts_out]
    writer.apply(liquidity(FIRST + 1, V3, -300, -200, 10**25))
    writer.commit()
    states.append(pool.freeze().quote_many(amounts, zero_for_one=True).amounts_out)
    wrong: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = pool.quote_many(amounts, zero_for_one=True).amounts_out
            wrong.extend(
                out for out, *right in zip(found, *states, strict=True) if out not in right
            )

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(FIRST + 2, FIRST + 102):
        sign = 1 if number % 2 else -1
        writer.apply(liquidity(number, V3, -300, -200, sign * 10**25))
        writer.commit()
        pool.quote_exact_in(DEEP, zero_for_one=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("spec", [V3, V4])
def test_a_state_after_a_swap_answers_as_the_pool_does_behind_its_event(
    writer: WriterArena, pools: Arena, spec: PoolSpec
) -> None:
    """A Swap event leaves the ticks, their serial and so the handle's tables as they are."""
    pool = pools[spec.key]
    deepen(pool)
    tables = depth_nbytes()
    assert tables > 0
    chance = random.Random(7)
    for number in range(FIRST + 1, FIRST + 21):
        zero_for_one = chance.random() < 0.5
        amount = int(10 ** chance.uniform(18, 22.7))
        before = pool.freeze()
        after = before.after(pool.quote_exact_in(amount, zero_for_one=zero_for_one))
        writer.apply(swapped(number, spec, pool, amount, zero_for_one))
        writer.commit()
        state, expected = after.state(), pool.state()
        for name in ("sqrt_price_x96", "tick", "liquidity", "ticks", "lp_fee", "protocol_fee"):
            assert getattr(state, name) == getattr(expected, name), name
        for way in (True, False):
            for asked in AMOUNTS:
                there = pool.quote_exact_in(asked, zero_for_one=way)
                assert after.quote_exact_in(asked, zero_for_one=way) == there
                assert after.ladder(zero_for_one=way).quote(asked) == there
        with pytest.raises(ValueError, match="of commit"):
            before.after(pool.quote_exact_in(amount, zero_for_one=zero_for_one))
        with pytest.raises(ValueError, match="of commit"):
            after.after(pool.quote_exact_in(amount, zero_for_one=zero_for_one))
    assert depth_nbytes() == tables


@pytest.mark.parametrize("spec", [V2, V3, V4])
def test_a_copy_takes_quotes_of_every_way_to_ask_at_its_version(
    pools: Arena, spec: PoolSpec
) -> None:
    key, amount = spec.key, 10**22
    pool = pools[key]
    with pools.snapshot() as view:
        kept = pools.snapshot([key])
        group = pools.group([pool])
        group.read()
        copies = [pool.freeze(), view[key].freeze(), kept[key]]
        copies += [pickle.loads(pickle.dumps(kept[key])), pickle.loads(pickle.dumps(kept))[key]]
        quotes = [
            pool.quote_exact_in(amount, zero_for_one=True),
            pool.quote_exact_in(amount, zero_for_one=True, allow_stale=True),
            pool.quote_many([amount, 5], zero_for_one=True)[0],
            pool.ladder(zero_for_one=True).quote(amount),
            view[key].quote_exact_in(amount, zero_for_one=True),
            view.quote_batch([key], amount, zero_for_one=True)[0],
            pools.quote_batch([key, V2.key], [amount, 5], zero_for_one=True)[0],
            group.quote_batch(amount, zero_for_one=True)[0],
            kept[key].quote_exact_in(amount, zero_for_one=True),
            kept[key].quote_many([amount], zero_for_one=True)[0],
        ]
    expected = pool.freeze().after(quotes[0]).state()
    assert expected != pool.state()
    other = pools[V3.key if spec is V2 else V2.key].freeze()
    for quote in quotes:
        assert quote == quotes[0]
        for held in copies:
            assert held.after(quote).state() == expected
        with pytest.raises(ValueError, match="another pool"):
            other.after(quote)
