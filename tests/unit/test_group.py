"""Groups: what one call reads is what a snapshot of that commit shows, and nothing is told twice or missed.

Each test has a real writer in this process; tests/fault/test_groups_under_writes.py has one that never waits.
"""

import pickle
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked

from arena import errors
from arena.layouts import slots
from arena.layouts.words import from_limbs
from arena.native import lib
from arena.readers import Arena, Group, attach
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = [TokenSpec(bytes(19) + bytes([n]), 18, f"T{n}") for n in (1, 2)]
TICKS = ((-60, 10**20, 10**20), (60, 10**20, -(10**20)))
START = 100
POOLS = 9


def spec_of(index: int) -> PoolSpec:
    """Pools 0, 3, 6... are V2, 1, 4... V3, 2, 5... V4."""
    size = 32 if index % 3 == slots.UNISWAP_V4 else 20
    spacing = 0 if index % 3 == slots.UNISWAP_V2 else 60
    return PoolSpec(bytes([index + 1]) * size, index % 3, *TOKENS, 3000, spacing)


def key(index: int) -> str:
    return "0x" + spec_of(index).key.hex()


KEYS = [key(index) for index in range(POOLS)]
PAIRS = KEYS[::3]
PRICED = [text for text in KEYS if text not in PAIRS]


def values(index: int, block: int = START) -> PoolValues:
    """Numbers of more than 64 bits that name the pool and the block."""
    number = 10**21 * (index + 1) + block
    if index % 3 == slots.UNISWAP_V2:
        return PoolValues(block, 3000, reserve0=number, reserve1=2 * number)
    return PoolValues(
        block,
        3000,
        sqrt_price_x96=(1 << 96) + number,
        liquidity=10**20,
        ticks=TICKS,
        lp_fee=3000 + index,
    )


def write(writer: WriterArena, block: int, *members: int, status: int = slots.STATUS_LIVE) -> None:
    """One commit that writes these pools."""
    for index in members:
        writer.install(writer.add_pool(spec_of(index)), values(index, block), status)
    writer.set_head(block)
    writer.commit()


def remove(writer: WriterArena, index: int) -> int:
    slot = writer.find(spec_of(index).key)
    assert slot is not None
    writer.remove_pool(slot)
    writer.commit()
    return slot


def give_away(writer: WriterArena, slot: int, block: int) -> None:
    """Pool 12 gets that removed pool's slot, once no fresh one is left, in one commit."""
    others = range(20, 20 + writer.max_pools - POOLS)
    for index in others:
        writer.add_pool(spec_of(index))
    assert writer.add_pool(spec_of(12)) == slot
    write(writer, block, *others, 12)


def make(name: str, **options: Any) -> WriterArena:
    return WriterArena.create(name, **{"max_pools": 16, "tick_bytes": 1 << 20, **options})


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    with unlinked(make(arena_name)) as found:
        write(found, START, *range(POOLS))
        found.set_phase("live")
        found.heartbeat()
        yield found


def lines_now(pools: Arena, keys: list[str]) -> tuple[int, np.ndarray[Any, Any]]:
    """Commit and lines of a snapshot; keys without a pool give lines without values."""
    references = [pools.slots([text]) if text in pools else [slots.NO_SLOT] for text in keys]
    with pools.snapshot() as view:
        return view.commit, view.lines(np.array(references, np.uint64).reshape(-1))


def same(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


def test_a_read_is_what_a_snapshot_of_that_commit_shows(writer: WriterArena, pools: Arena) -> None:
    keys = [KEYS[4], KEYS[0], KEYS[4], KEYS[8]]
    group = pools.group(
        [KEYS[4].upper().replace("X", "x"), spec_of(0).key, pools[KEYS[4]], KEYS[8]]
    )
    assert (len(group), group.keys, group.commit, group.block_number) == (4, tuple(keys), 0, 0)
    assert group.touched.tolist() == []
    for block in range(START + 1, START + 5):
        write(writer, block, block % POOLS, 4)
        found = group.read()
        commit, lines = lines_now(pools, keys)
        assert same(found, lines)
        assert (group.commit, group.block_number) == (commit, block)
        assert group.statuses.tolist() == [slots.STATUS_LIVE] * 4
        assert group.read() is found


def test_reserves_and_prices_are_those_of_the_lines(writer: WriterArena, pools: Arena) -> None:
    reserves = pools.group(PAIRS, fields="reserves")
    prices = pools.group(PRICED, fields="price")
    for block in range(START + 1, START + 4):
        write(writer, block, 0, 1, 5)
        for entry, line in zip(reserves.read(), lines_now(pools, PAIRS)[1], strict=True):
            assert from_limbs(entry["reserve0"]) == from_limbs(line["a"])
            assert from_limbs(entry["reserve1"]) == from_limbs(line["b"])
        for entry, text in zip(prices.read(), PRICED, strict=True):
            want = values(KEYS.index(text), block if text in (KEYS[1], KEYS[5]) else START)
            fee = pools[text].state().lp_fee or 3000
            assert from_limbs(entry["sqrt_price_x96"]) == want.sqrt_price_x96
            assert from_limbs(entry["liquidity"]) == want.liquidity
            assert (entry["tick"], entry["fee_pips"]) == (0, fee)
    assert (reserves.read().dtype.itemsize, prices.read().dtype.itemsize) == (32, 56)


def test_the_highest_words_of_a_price_are_kept(writer: WriterArena, pools: Arena) -> None:
    high = 1461446703485210103287273052203988822378723970341
    group = pools.group([KEYS[1]], fields="price")
    slot = writer.add_pool(spec_of(1))
    empty = PoolValues(START + 1, 3000, sqrt_price_x96=high, tick=887271)
    writer.install(slot, empty, slots.STATUS_LIVE)
    writer.commit()
    assert from_limbs(group.read()[0]["sqrt_price_x96"]) == high
    assert group.read()[0]["tick"] == 887271


@pytest.mark.parametrize("fields", [None, "reserves"])
def test_touched_are_those_in_which_two_reads_differ(
    writer: WriterArena, pools: Arena, rng: random.Random, fields: Any
) -> None:
    keys = KEYS if fields is None else PAIRS
    group = pools.group(keys, fields=fields)
    group.read()
    assert group.touched.tolist() == list(range(len(keys)))
    before = lines_now(pools, keys)[1]
    block = START
    for _ in range(60):
        for _ in range(rng.randrange(4)):
            block += 1
            write(writer, block, *rng.sample(range(POOLS), rng.randrange(POOLS)))
        group.read()
        after = lines_now(pools, keys)[1]
        wanted = [n for n in range(len(keys)) if before[n].tobytes() != after[n].tobytes()]
        assert group.touched.tolist() == wanted
        before = after


def test_members_that_are_not_live_are_told(writer: WriterArena, pools: Arena) -> None:
    group, reserves = pools.group(KEYS), pools.group(PAIRS, fields="reserves")
    group.read()
    writer.set_status(writer.add_pool(spec_of(3)), slots.STATUS_STALE, slots.UNSURE_PRICE)
    writer.set_status(writer.add_pool(spec_of(1)), slots.STATUS_SYNCING)
    writer.commit()
    group.read()
    live = slots.STATUS_LIVE
    wanted = [live, slots.STATUS_SYNCING, live, slots.STATUS_STALE, *[live] * 5]
    assert group.statuses.tolist() == wanted
    assert group.touched.tolist() == [1, 3]
    assert from_limbs(reserves.read()[1]["reserve0"]) == values(3).reserve0
    assert reserves.statuses.tolist() == [live, slots.STATUS_STALE, live]


def test_a_pool_that_was_not_read_yet_has_no_values(writer: WriterArena, pools: Arena) -> None:
    slot = writer.add_pool(spec_of(9))
    writer.announce(slot)
    writer.commit()
    group = pools.group([key(9), KEYS[0]], fields="reserves")
    assert group.read()[0].tobytes() == bytes(32)
    assert group.statuses.tolist() == [slots.STATUS_SYNCING, slots.STATUS_LIVE]
    whole = pools.group([key(9), KEYS[0]])
    whole.read()
    assert whole.table()["key"][:, 0].tolist() == [1]


@pytest.mark.parametrize("fields", [None, "reserves"])
def test_a_removed_member_has_no_values_and_its_slots_next_pool_is_none_of_it(
    writer: WriterArena, pools: Arena, fields: Any
) -> None:
    group, references = pools.group(PAIRS, fields=fields), pools.slots(PAIRS)
    group.read()
    slot = remove(writer, 3)
    found = group.read()
    assert group.statuses.tolist() == [slots.STATUS_LIVE, slots.STATUS_REMOVED, slots.STATUS_LIVE]
    assert group.touched.tolist() == [1]
    if fields is None:
        with pools.snapshot() as view:
            assert same(found, view.lines(references))
        assert group.table()["key"][:, 0].tolist() == [1, 7]
    else:
        assert found[1].tobytes() == bytes(32)
    give_away(writer, slot, START + 1)
    assert group.read()[1].tobytes() == bytes(group.read().dtype.itemsize)
    assert group.statuses.tolist() == [slots.STATUS_LIVE, slots.STATUS_ABSENT, slots.STATUS_LIVE]
    for block in range(START + 2, START + 5):
        write(writer, block, 12, 0)
        group.read()
        assert group.touched.tolist() == [0]
        assert group.statuses[1] == slots.STATUS_ABSENT
    remove(writer, 12)
    write(writer, START + 5, 3)  # it comes back: another pool, as for handles
    group.read()
    assert group.statuses[1] == slots.STATUS_ABSENT
    assert pools.group(PAIRS).read()["status"].tolist() == [slots.STATUS_LIVE] * 3


def test_the_removal_is_touched_when_the_slot_was_given_away_between_two_reads(
    writer: WriterArena, pools: Arena
) -> None:
    group = pools.group(PAIRS)
    group.read()
    slot = remove(writer, 3)
    give_away(writer, slot, START + 1)
    group.read()
    assert (group.touched.tolist(), group.statuses[1]) == ([1], slots.STATUS_ABSENT)
    group.read()
    assert group.touched.tolist() == []


def test_a_grown_arena_is_followed_and_nothing_counts_as_touched(
    writer: WriterArena, pools: Arena
) -> None:
    group, references = pools.group(KEYS), pools.slots(KEYS)
    group.read()
    remove(writer, 2)
    group.read()
    for block in range(START + 1, START + 4):
        writer.grow(max_pools=16 + block, tick_bytes=(1 << 20) + 4096 * block)
        found = group.read()
        with pools.snapshot() as view:
            assert same(found, view.lines(references))
        assert group.touched.tolist() == []
        write(writer, block, 1, 7)
        found = group.read()
        assert group.touched.tolist() == [1, 7]
        with pools.snapshot() as view:
            assert same(found, view.lines(references))


def test_members_are_looked_up_in_an_arena_made_anew(arena_name: str) -> None:
    first = make(arena_name)
    write(first, START, *range(POOLS))
    with attach(arena_name, require_writer=False) as pools:
        group = pools.group(KEYS)
        group.read()
        first.close(unlink=False)
        with unlinked(make(arena_name)) as second:
            write(second, START + 50, 8, 7, 4)
            found = group.read()
            assert group.block_number == START + 50
            assert group.touched.tolist() == list(range(POOLS))
            there = [4, 7, 8]
            lines = lines_now(pools, KEYS)[1]
            assert same(found, lines)
            assert np.flatnonzero(group.statuses == slots.STATUS_LIVE).tolist() == there
            assert not group.statuses[:4].any()
            assert group.table()["key"][:, 0].tolist() == [5, 8, 9]
            statuses = group.quote_batch(1000, zero_for_one=True).statuses.tolist()
            assert [n for n, status in enumerate(statuses) if status == 0] == there
            assert set(statuses) == {0, lib.PSA_UNKNOWN_POOL}
            write(second, START + 51, 4)
            group.read()
            assert group.touched.tolist() == [4]
            # One that was lacking is found as soon as it comes.
            write(second, START + 52, 0)
            assert same(group.read(), lines_now(pools, KEYS)[1])
            assert 0 in group.touched.tolist()
            assert group.statuses[0] == slots.STATUS_LIVE


def test_a_pool_of_another_kind_in_an_arena_made_anew_is_refused(arena_name: str) -> None:
    first = make(arena_name)
    write(first, START, 0)
    with attach(arena_name, require_writer=False) as pools:
        group = pools.group([KEYS[0]], fields="reserves")
        first.close(unlink=False)
        with unlinked(make(arena_name)) as second:
            spec = PoolSpec(spec_of(0).key, slots.UNISWAP_V3, *TOKENS, 3000, 60)
            second.install(second.add_pool(spec), values(1), slots.STATUS_LIVE)
            second.commit()
            with pytest.raises(ValueError, match="no reserves"):
                group.read()


def test_without_follow_a_group_says_that_its_arena_was_replaced(arena_name: str) -> None:
    with unlinked(make(arena_name)) as writer:
        write(writer, START, 0)
        with attach(arena_name, follow=False) as pools:
            group = pools.group([KEYS[0]])
            writer.grow(max_pools=32)
            with pytest.raises(errors.ArenaReplaced):
                group.read()


def test_a_closed_arena_ends_its_groups_and_leaves_their_arrays(
    writer: WriterArena, pools: Arena
) -> None:
    group = pools.group(KEYS)
    found = group.read()
    kept = found.tobytes()
    pools.close()
    for use in (
        group.read,
        lambda: group.quote_batch(1, zero_for_one=True),
        group.table,
        group.to_arrow,
    ):
        with pytest.raises(errors.ArenaClosed):
            use()
    write(writer, START + 1, *range(POOLS))
    assert found.tobytes() == kept
    assert (group.block_number, group.keys) == (START, tuple(KEYS))
    assert group.statuses.tolist() == [slots.STATUS_LIVE] * POOLS


@pytest.mark.parametrize("fields", [None, "reserves", "price"])
def test_kept_arrays_cannot_be_written_or_made_writeable(
    writer: WriterArena, pools: Arena, fields: Any
) -> None:
    group = pools.group({None: KEYS, "reserves": PAIRS, "price": PRICED}[fields], fields=fields)
    read = group.read()
    name = (read.dtype.names or ())[0]
    for array in (read, read[1:], read[name], group.statuses, group.touched, group.touched[:1]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[-1]
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    before = read.tobytes()
    write(writer, START + 1, *range(POOLS))
    assert group.read() is read  # and it shows what was written since
    assert read.tobytes() != before


def test_what_a_group_is_of_is_not_changed(pools: Arena) -> None:
    group: Any = pools.group(PAIRS, fields="reserves")
    for name, value in (("keys", ()), ("fields", None), ("statuses", None), ("commit", 5)):
        with pytest.raises(AttributeError):
            setattr(group, name, value)
        with pytest.raises(AttributeError):
            delattr(group, name)
    assert (group.keys, group.fields, len(group)) == (tuple(PAIRS), "reserves", len(PAIRS))
    assert len(pools.group([])) == len(pools.group([]).read()) == 0


@pytest.mark.parametrize(
    ("keys", "fields", "error"),
    [
        ([KEYS[0], key(12)], None, errors.UnknownPool),
        (["0x12"], None, ValueError),
        ([5], None, TypeError),
        (5, None, TypeError),
        ([KEYS[0]], "prices", ValueError),
        ([KEYS[0]], "", ValueError),
        ([KEYS[0], KEYS[1]], "reserves", ValueError),
        ([KEYS[1], KEYS[0]], "price", ValueError),
    ],
)
def test_what_makes_no_group_is_refused(
    pools: Arena, keys: Any, fields: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        pools.group(keys, fields=fields)


def test_the_pool_that_does_not_fit_is_named(pools: Arena) -> None:
    with pytest.raises(ValueError, match=f"pool {KEYS[4]} has no reserves"):
        pools.group([KEYS[0], KEYS[3], KEYS[4]], fields="reserves")


def test_an_empty_group_reads_nothing_at_the_newest_block(pools: Arena) -> None:
    group = pools.group([])
    assert (len(group.read()), group.block_number, len(group.touched)) == (0, START, 0)
    assert len(group.table()) == 0
    assert len(group.quote_batch([], zero_for_one=True)) == 0


def test_a_group_pickles_as_its_keys(pools: Arena) -> None:
    group = pools.group(PAIRS, fields="reserves")
    group.read()
    other = pickle.loads(pickle.dumps(group))
    assert isinstance(other, Group)
    assert (other.keys, other.fields, other.commit) == (group.keys, "reserves", 0)
    assert same(other.read(), group.read())


@pytest.mark.parametrize("fields", [None, "reserves"])
def test_a_writer_that_is_always_ahead_is_told_and_then_forgotten(
    writer: WriterArena, pools: Arena, fields: Any
) -> None:
    """Both lines of one member newer than the last commit: what an overtaken read sees."""
    group = pools.group(PAIRS, fields=fields)
    group.read()
    write(writer, START + 1, 0, 3)
    lines = writer.native.arena.slots[writer.add_pool(spec_of(6))].lines
    stamps = [line.stamp for line in lines]
    for line in lines:
        line.stamp = 1 << 40
    with pytest.raises(errors.SnapshotContended, match="3 pools"):
        group.read()
    with pytest.raises(errors.SnapshotContended):
        group.quote_batch(1000, zero_for_one=True)
    assert group.block_number == START
    for line, stamp in zip(lines, stamps, strict=True):
        line.stamp = stamp
    group.read()
    assert (group.touched.tolist(), group.block_number) == ([0, 1], START + 1)
    fresh = pools.group(PAIRS, fields=fields)
    assert same(group.read(), fresh.read())


def test_the_table_is_that_of_a_snapshot(writer: WriterArena, pools: Arena) -> None:
    keys = [KEYS[5], KEYS[0], KEYS[7]]
    group = pools.group(keys)
    assert len(group.table()) == 0
    group.read()
    with pools.snapshot() as view:
        rows = {row["key"].tobytes(): row.tobytes() for row in view.table()}
    wanted = [rows[bytes.fromhex(text[2:]).ljust(32, b"\0")] for text in keys]
    assert [row.tobytes() for row in group.table()] == wanted
    write(writer, START + 1, 5)
    assert [row.tobytes() for row in group.table()] == wanted, "as of the last read"
    assert group.to_arrow()["key"].to_pylist() == keys
    with pytest.raises(ValueError, match="no table"):
        pools.group(PAIRS, fields="reserves").table()


def test_a_table_of_a_slot_that_was_given_away_says_so(writer: WriterArena, pools: Arena) -> None:
    group = pools.group(PAIRS)
    group.read()
    slot = remove(writer, 3)
    give_away(writer, slot, START + 1)
    with pytest.raises(errors.SnapshotTooOld):
        group.table()
    group.read()
    assert len(group.table()) == 2


def test_quotes_on_members_are_those_of_a_snapshot(writer: WriterArena, pools: Arena) -> None:
    group = pools.group([*KEYS, KEYS[4]])
    writer.set_status(writer.add_pool(spec_of(6)), slots.STATUS_STALE, slots.UNSURE_PRICE)
    writer.commit()
    amounts = [10**15 + n for n in range(len(group))]
    directions = np.arange(len(group)) % 2 == 0
    options: list[dict[str, Any]] = [
        {"zero_for_one": True},
        {"zero_for_one": directions, "exact_out": True},
        {"zero_for_one": directions.tolist(), "allow_stale": True, "allow_dynamic_fee": True},
    ]
    for option in options:
        found = group.quote_batch(amounts, **option)
        with pools.snapshot() as view:
            wanted = view.quote_batch(list(group.keys), amounts, **option)
        assert found.results.tobytes() == wanted.results.tobytes()
        assert (found.commit, found.block_number) == (wanted.commit, wanted.block_number)
        assert (found[2:].commit, found.block_number) == (pools.committed, pools.head_block)
        assert np.count_nonzero(found.statuses) == (0 if option.get("allow_stale") else 1)
    error = group.quote_batch(amounts, zero_for_one=True).error(6)
    assert isinstance(error, errors.PoolStale)
    assert KEYS[6] in str(error)
    for wrong in ([1, 2], np.zeros((2, 4), np.uint64)):
        with pytest.raises(ValueError, match="10 pools and 2 amounts"):
            group.quote_batch(wrong, zero_for_one=True)
    with pytest.raises(ValueError, match="10 pools and 2 directions"):
        group.quote_batch(1, zero_for_one=[True, False])
    with pytest.raises(ValueError, match="10 pools and 10 x 2 directions"):
        group.quote_batch(1, zero_for_one=[[True, False]] * 10)


def test_threads_that_share_a_group_spoil_nothing_but_its_values(pools: Arena) -> None:
    count = 50_000
    for _ in range(8):
        group = pools.group([PAIRS[0]] * count)
        begin = threading.Barrier(2)

        def read(group: Group = group, begin: threading.Barrier = begin) -> None:
            begin.wait()
            group.read()

        threads = [threading.Thread(target=read) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(group.touched) <= count
        assert group._group.touched_count <= count


def test_quotes_on_a_removed_member_say_so(writer: WriterArena, pools: Arena) -> None:
    group = pools.group(PAIRS)
    slot = remove(writer, 3)
    removed = [0, lib.PSA_POOL_REMOVED, 0]
    assert group.quote_batch(1000, zero_for_one=True).statuses.tolist() == removed
    give_away(writer, slot, START + 1)
    assert group.quote_batch(1000, zero_for_one=True).statuses.tolist() == removed
    group.read()
    assert group.quote_batch(1000, zero_for_one=True).statuses.tolist() == removed
