"""Pools that come, go and come back, slots that are used again, and arenas that grow under readers.

Each test has a real writer and readers on the same segments; blocks are applied as event records.
"""

import gc
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.arenas import unlinked

from arena import errors, generations
from arena.images import ArenaImage
from arena.layouts import slots
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.readers import Arena, HeadBlock, PoolState, attach
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = [TokenSpec(bytes(19) + bytes([n]), 18, f"T{n}") for n in range(1, 8)]
Q96 = 1 << 96
START = 100  # block of every first reading
TICKS = ((-60, 10**20, 10**20), (60, 10**20, -(10**20)))


def spec_of(index: int) -> PoolSpec:
    """Pools 0, 3, 6... are V2, 1, 4... V3, 2, 5... V4; the key says which pool it is."""
    protocol = index % 3
    size = 32 if protocol == slots.UNISWAP_V4 else 20
    return PoolSpec(
        bytes([index + 1]) * size,
        protocol,
        TOKENS[index % 5],
        TOKENS[index % 5 + 1],
        3000,
        0 if protocol == slots.UNISWAP_V2 else 60,
    )


def key(index: int) -> str:
    return "0x" + spec_of(index).key.hex()


def values(index: int, block: int = START) -> PoolValues:
    """Numbers that name the pool and the block."""
    number = 10**18 * (index + 1) + block
    if spec_of(index).protocol == slots.UNISWAP_V2:
        return PoolValues(block, 3000, reserve0=number, reserve1=number)
    return PoolValues(
        block, 3000, sqrt_price_x96=Q96 + number, liquidity=10**20, ticks=TICKS, lp_fee=3000
    )


def number_of(state: PoolState) -> int:
    if state.sqrt_price_x96 is not None:
        return state.sqrt_price_x96 - Q96
    assert state.reserve0 is not None
    return state.reserve0


def add(writer: WriterArena, index: int, block: int = START) -> int:
    slot = writer.add_pool(spec_of(index))
    writer.install(slot, values(index, block), slots.STATUS_LIVE)
    return slot


def remove(writer: WriterArena, index: int) -> int:
    slot = writer.find(spec_of(index).key)
    assert slot is not None
    writer.remove_pool(slot)
    writer.commit()
    return slot


def block(number: int, *syncs: tuple[int, int], revert: bool = False) -> np.ndarray[Any, Any]:
    """One block that sets both reserves of V2 pools: (index, reserve)."""
    events = np.zeros(len(syncs) + 2, EVENT)
    events["block_number"] = number
    events["log_index"] = np.arange(len(events))
    events["flags"] = lib.PSA_EVENT_IS_REVERT if revert else 0
    events[0]["kind"], events[-1]["kind"] = lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK
    for event, (index, reserve) in zip(events[1:-1], syncs, strict=True):
        event["kind"] = lib.PSA_EVENT_V2_SYNC
        event["key"] = np.frombuffer(spec_of(index).key.ljust(32, b"\0"), "u1")
        event["words"] = [reserve, 0, 0, 0, reserve, 0, 0, 0]
    return events


def make(name: str, **options: Any) -> WriterArena:
    capacities = {"max_pools": 4, "max_tokens": 16, "tick_bytes": 1 << 16, "undo_blocks": 16}
    return WriterArena.create(name, **{**capacities, "undo_records": 256, **options})


def fill(writer: WriterArena, count: int = 4) -> None:
    for index in range(count):
        add(writer, index)
    writer.set_head(START)
    writer.commit()
    writer.set_phase("live")


@pytest.fixture
def writer(arena_name: str) -> Iterator[WriterArena]:
    """Four pools, 0 to 3, in an arena for four."""
    with unlinked(make(arena_name)) as found:
        fill(found)
        yield found


class Dying:
    """arena.native.lib, but one function ends the process that calls it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise KeyboardInterrupt
        return getattr(lib, name)


# The writer's side


def test_a_slot_is_used_again_after_its_removal_is_committed(
    writer: WriterArena, pools: Arena
) -> None:
    before = int(pools.slots([key(1)])[0])
    slot = writer.find(spec_of(1).key)
    assert slot == 1
    writer.remove_pool(slot)
    assert writer.find(spec_of(1).key) is None
    with pytest.raises(ValueError, match="commit first"):
        writer.add_pool(spec_of(1))
    with pytest.raises(errors.ArenaFull, match="4 of 4 pools"):
        writer.add_pool(spec_of(7))
    writer.commit()
    assert add(writer, 7) == slot
    writer.commit()
    after = int(pools.slots([key(7)])[0])
    assert after & slots.NO_SLOT == before & slots.NO_SLOT == slot
    assert after >> 32 > before >> 32
    assert writer.pools() == {spec_of(n).key: writer.find(spec_of(n).key) for n in (0, 7, 2, 3)}
    assert {each: number_of(pools[each].state()) for each in pools} == {
        key(n): number_of(pools[key(n)].state()) for n in (0, 7, 2, 3)
    }
    assert number_of(pools[key(7)].state()) == 8 * 10**18 + START


def test_a_slot_given_again_is_not_given_to_a_third_before_it_is_installed(
    writer: WriterArena, pools: Arena
) -> None:
    remove(writer, 0)
    slot = writer.add_pool(spec_of(6))
    writer.set_head(START + 1)
    writer.commit()  # a block in between, as while the pool is being read
    with pytest.raises(errors.ArenaFull):
        writer.add_pool(spec_of(9))
    assert key(6) not in pools
    writer.install(slot, values(6), slots.STATUS_LIVE)
    writer.commit()
    assert number_of(pools[key(6)].state()) == 7 * 10**18 + START


def test_what_comes_too_late_for_a_removed_pool_is_refused(writer: WriterArena) -> None:
    slot = writer.find(spec_of(0).key)
    assert slot is not None
    for commits in (0, 1):
        if not commits:
            writer.remove_pool(slot)
        else:
            writer.commit()
        with pytest.raises(errors.PoolRemoved):
            writer.install(slot, values(0), slots.STATUS_LIVE)
        with pytest.raises(errors.PoolRemoved):
            writer.announce(slot)
        with pytest.raises(errors.PoolRemoved):
            writer.apply(block(START + 1), only_slot=slot)
        with pytest.raises(ValueError, match="no pool"):
            writer.set_status(slot, slots.STATUS_LIVE)
        with pytest.raises(ValueError, match="no pool"):
            writer.remove_pool(slot)
    assert writer.slots_with(slots.STATUS_REMOVED).tolist() == [slot]


@pytest.mark.parametrize("status", [slots.STATUS_ABSENT, slots.STATUS_REMOVED, 5])
def test_no_status_takes_the_place_of_remove_pool(writer: WriterArena, status: int) -> None:
    with pytest.raises(ValueError, match=f"status {status}"):
        writer.set_status(0, status)
    with pytest.raises(ValueError, match="argument"):
        writer.set_status_all(slots.STATUS_LIVE, status)
    with pytest.raises(ValueError, match="argument"):
        writer.set_status_all(status, slots.STATUS_LIVE)


def test_the_spec_of_a_slot_is_its_present_pools(writer: WriterArena) -> None:
    slot = remove(writer, 1)
    assert writer.spec(slot) == spec_of(1)
    assert writer.add_pool(spec_of(6)) == slot
    assert writer.spec(slot) == spec_of(6)
    writer.install(slot, values(6), slots.STATUS_LIVE)


def test_an_aborted_use_leaves_the_slot_to_others(writer: WriterArena, pools: Arena) -> None:
    slot = remove(writer, 2)
    assert add(writer, 5) == slot
    writer.abort()
    assert key(5) not in pools
    assert key(2) not in pools
    with pytest.raises(errors.PoolRemoved):
        writer.install(slot, values(5), slots.STATUS_LIVE)
    assert add(writer, 8) == slot
    writer.commit()
    assert list(pools) == [key(n) for n in (0, 1, 8, 3)]
    assert number_of(pools[key(8)].state()) == 9 * 10**18 + START


def test_events_and_reverts_of_a_removed_pool_change_nothing(
    writer: WriterArena, pools: Arena
) -> None:
    writer.apply(block(START + 1, (0, 5), (3, 6)))
    slot = remove(writer, 0)
    writer.apply(block(START + 2, (0, 7)))
    found, _ = writer.take_faults()
    assert [fault.error for fault in found] == [errors.PoolNotFound]
    stamps = pools.versions["lines"]["stamp"][slot].tolist()
    writer.apply(block(START + 2, revert=True))
    writer.apply(block(START + 1, (0, 5), (3, 6), revert=True))
    assert pools.versions["lines"]["stamp"][slot].tolist() == stamps
    assert number_of(pools[key(3)].state()) == 4 * 10**18 + START
    assert key(0) not in pools
    add(writer, 0, START)
    writer.commit()
    assert number_of(pools[key(0)].state()) == 10**18 + START


def test_slots_that_were_never_shown_serve_the_next_writer(arena_name: str) -> None:
    with make(arena_name) as first:
        add(first, 0)
        first.commit()
        for index in (1, 2, 3):
            first.add_pool(spec_of(index))
        first.close(unlink=False)
    with WriterArena.take_over(arena_name) as second, attach(arena_name) as pools:
        for index in (4, 5, 6):
            assert add(second, index) in (1, 2, 3)
        second.commit()
        assert sorted(pools) == [key(n) for n in (0, 4, 5, 6)]
        for index in (0, 4, 5, 6):
            assert number_of(pools[key(index)].state()) == 10**18 * (index + 1) + START
        with pytest.raises(errors.ArenaFull):
            second.add_pool(spec_of(7))
        second.close(unlink=True)


def test_a_key_whose_row_a_dead_writer_left_half_written_is_found_again(
    writer: WriterArena, pools: Arena
) -> None:
    """A row is half written while its generation is 0; the same key has its bucket all the time."""
    slot = remove(writer, 1)
    reference = int(pools.statics["generation"][slot])
    writer.native.arena.statics[slot].generation = 0
    assert add(writer, 1) == slot
    writer.commit()
    assert number_of(pools[key(1)].state()) == 2 * 10**18 + START
    assert int(pools.statics["generation"][slot]) > reference


def test_a_slot_whose_bucket_a_dead_writer_never_stored_hides_no_pool(arena_name: str) -> None:
    """Between the row and its bucket: the key gets another slot, also after the index was built anew."""
    with make(arena_name) as first:
        fill(first)
        slot = remove(first, 0)
        assert first.add_pool(spec_of(6)) == slot
        native = first.native.arena
        for bucket in range(native.bucket_mask + 1):
            if native.buckets[bucket] == slot + 1:
                native.buckets[bucket] = 0
        first.close(unlink=False)
    with WriterArena.take_over(arena_name) as second, attach(arena_name) as pools:
        second.grow(max_pools=8)
        assert add(second, 6) == 4
        second.grow(max_pools=16)
        second.commit()
        assert number_of(pools[key(6)].state()) == 7 * 10**18 + START
        assert second.find(spec_of(6).key) == 4
        second.close(unlink=True)


# References and handles


def refuses(function: Any, wanted: type[Exception], *texts: str, no: str = "\0") -> None:
    with pytest.raises(wanted) as caught:
        function()
    for text in texts:
        assert text in str(caught.value)
    assert no not in str(caught.value), "the error names another pool"


def test_an_old_reference_leads_to_no_other_pool(writer: WriterArena, pools: Arena) -> None:
    old = pools.slots([key(0), key(3)])
    slot = remove(writer, 0)
    for reused in (False, True):
        if reused:
            assert add(writer, 6) == slot
            writer.commit()
        batch = pools.quote_batch(old, 1000, zero_for_one=True)
        assert batch.statuses.tolist() == [lib.PSA_POOL_REMOVED, 0]
        refuses(lambda batch=batch: batch[0], errors.PoolRemoved, no=key(6))
        refuses(lambda: pools.snapshot(old), errors.PoolRemoved, no=key(6))
        with pools.snapshot() as view:
            lines = view.lines(old)
            assert lines["status"][0] in (slots.STATUS_ABSENT, slots.STATUS_REMOVED)
            assert not lines["a"][0].any()
            assert lines["status"][1] == slots.STATUS_LIVE
            found = view.quote_batch(old, 1000, zero_for_one=True)
            assert found.statuses.tolist() == [lib.PSA_POOL_REMOVED, 0]


def test_references_survive_growth_and_not_a_recreation(arena_name: str) -> None:
    with make(arena_name) as first, attach(arena_name) as pools:
        fill(first)
        old = pools.slots([key(n) for n in range(4)])
        want = pools.quote_batch(old, 1000, zero_for_one=True).amounts_out
        first.grow(max_pools=8)
        assert pools.slots([key(n) for n in range(4)]).tolist() == old.tolist()
        assert pools.quote_batch(old, 1000, zero_for_one=True).amounts_out == want
        assert len(pools.snapshot(old)) == 4
        first.close(unlink=False)
        with make(arena_name, max_pools=2) as second:
            add(second, 6)
            add(second, 7)
            second.commit()
            assert sorted(pools) == [key(6), key(7)]
            batch = pools.quote_batch(old, 1000, zero_for_one=True)
            assert batch.statuses.tolist() == [lib.PSA_POOL_REMOVED] * 4
            refuses(lambda: pools.snapshot(old), errors.PoolRemoved, no=key(6))
            with pools.snapshot() as view:
                assert not view.lines(old)["status"].any()
            second.close(unlink=True)


def test_keys_of_removed_pools_are_unknown(writer: WriterArena, pools: Arena) -> None:
    remove(writer, 3)
    for use in (
        lambda: pools[key(3)],
        lambda: pools.slots([key(0), key(3)]),
        lambda: pools.snapshot([key(0), key(3)]),
        lambda: pools.quote_batch([key(0), key(3)], 5, zero_for_one=True),
    ):
        refuses(use, errors.UnknownPool, key(3))
    assert key(3) not in pools
    assert len(pools) == 3


def test_a_handle_of_a_removed_pool_says_so_for_good(writer: WriterArena, pools: Arena) -> None:
    handle = pools[key(0)]
    slot = remove(writer, 0)
    for step in ("removed", "another key", "grown", "the same key", "grown again"):
        if step == "another key":
            assert add(writer, 6) == slot
            writer.commit()
        elif step == "the same key":
            add(writer, 0)
            writer.commit()
        elif step != "removed":
            writer.grow(max_pools=2 * writer.native.arena.max_pools)
        for use in (
            handle.state,
            handle.freeze,
            lambda: handle.block_number,
            lambda: handle.protocol,
            lambda: handle.token0,
            lambda: handle.quote_exact_in(1000, zero_for_one=True),
            lambda: handle.quote_exact_out(1000, zero_for_one=True, allow_stale=True),
            lambda: handle.quote_many([1000], zero_for_one=True)[0],
            lambda: handle.ladder(zero_for_one=True),
        ):
            refuses(use, errors.PoolRemoved, key(0), no=key(6))
        assert handle.status == "removed"
        if step.startswith("grown again") or step == "the same key":
            assert pools[key(0)] is not handle
            assert number_of(pools[key(0)].state()) == 10**18 + START
            assert number_of(pickle.loads(pickle.dumps(handle)).state()) == 10**18 + START
        else:
            refuses(lambda: pools[key(0)], errors.UnknownPool, key(0))
            data = pickle.dumps(handle)
            refuses(lambda data=data: pickle.loads(data), errors.UnknownPool, key(0))


def test_a_handle_looks_its_key_up_in_a_recreated_arena(arena_name: str) -> None:
    with make(arena_name) as first, attach(arena_name) as pools:
        fill(first)
        handle, gone = pools[key(1)], pools[key(2)]
        remove(first, 1)
        first.close(unlink=False)
        with make(arena_name) as second:
            add(second, 4)
            add(second, 1)
            second.commit()
            assert number_of(handle.state()) == 2 * 10**18 + START
            assert handle.slot == 1
            refuses(gone.state, errors.UnknownPool, key(2))
            second.close(unlink=True)


def test_topology_grows_with_each_pool_added_or_removed(writer: WriterArena, pools: Arena) -> None:
    seen = [pools.topology]
    with pools.snapshot() as view:
        remove(writer, 2)
        seen.append(pools.topology)
        assert view.topology == seen[0]
    slot = writer.add_pool(spec_of(5))
    writer.announce(slot)
    writer.commit()
    seen.append(pools.topology)
    writer.install(slot, values(5), slots.STATUS_LIVE)
    writer.apply(block(START + 1, (0, 5)))
    assert pools.topology == seen[-1], "values and blocks are no change of the list"
    remove(writer, 5)
    writer.abort()
    seen.append(pools.topology)
    assert seen == sorted(set(seen))
    writer.grow(max_pools=8)
    assert pools.topology == seen[-1]


# Views of an older block


def test_a_view_from_before_a_removal_shows_the_pool_until_its_slot_is_used_again(
    writer: WriterArena, pools: Arena
) -> None:
    kept = pools.snapshot(list(pools))
    with pools.snapshot() as view, pools.snapshot() as other:
        handle = view[key(0)]
        slot = remove(writer, 0)
        assert number_of(handle.state()) == number_of(other[key(0)].state()) == 10**18 + START
        assert handle.status == "live"
        assert list(other) == [key(n) for n in range(4)]
        assert key(0) in other
        assert len(other.table()) == 4
        assert handle.quote_exact_in(1000, zero_for_one=True).amount_in == 1000
        refuses(lambda: other[key(9)], errors.UnknownPool, key(9))
        assert add(writer, 6) == slot
        for commits in (0, 1):  # the row is another's before the new pool is committed
            if commits:
                writer.commit()
            for use in (
                handle.state,
                lambda: handle.status,
                lambda: handle.quote_exact_in(1000, zero_for_one=True),
                lambda: handle.quote_many([1000], zero_for_one=True)[0],
                lambda: view[key(0)].state(),
                lambda: other.quote_batch([key(0)], 1000, zero_for_one=True),
                other.table,
                lambda: list(other),
                lambda: len(other),
                lambda: key(9) in other,
            ):
                refuses(use, errors.SnapshotTooOld, no=key(6))
        with pools.snapshot() as fresh:
            refuses(lambda: fresh[key(0)], errors.UnknownPool, key(0))
            assert key(0) not in fresh
            assert key(9) not in fresh
    assert number_of(kept[key(0)].state()) == 10**18 + START
    assert len(kept.table()) == 4


def test_a_view_does_not_call_a_pool_unknown_that_was_there(
    writer: WriterArena, pools: Arena
) -> None:
    """The key has left the index since, so the view cannot say whether it had the pool."""
    with pools.snapshot() as view:
        slot = remove(writer, 0)
        assert add(writer, 6) == slot
        writer.commit()
        refuses(lambda: view[key(0)], errors.SnapshotTooOld, key(0), no=key(6))
        refuses(lambda: key(0) in view, errors.SnapshotTooOld, key(0))
        refuses(
            lambda: view.quote_batch([key(1), key(0)], 5, zero_for_one=True),
            errors.SnapshotTooOld,
            key(0),
        )
        assert number_of(view[key(1)].state()) == 2 * 10**18 + START
    assert pools.at_one_block(lambda fresh: key(0) in fresh) is False


def test_lines_of_slots_beyond_the_table_are_refused(pools: Arena) -> None:
    with pools.snapshot() as view:
        for slot in (4, 1 << 20, (1 << 32) - 2):
            with pytest.raises(ValueError, match=f"slot {slot} "):
                view.lines(np.array([slot], np.uint64))
        with pytest.raises(ValueError, match="slot -1 "):
            view.lines(np.array([-1]))
        with pytest.raises(TypeError):
            view.lines(np.array([0.5]))


# Which pools a block touched


def wait(pools: Arena, after: int) -> HeadBlock:
    found = pools.wait_block(after, timeout=10)
    assert found is not None
    return found


def test_touched_names_the_pools_of_the_block(writer: WriterArena, pools: Arena) -> None:
    first = wait(pools, 0)
    assert first == START
    assert first.touched == [key(n) for n in range(4)]
    assert wait(pools, START - 1).touched == first.touched
    writer.apply(block(START + 1, (3, 5)))
    assert wait(pools, START).touched == [key(3)], "after a plain number: what has a later block"
    second = wait(pools, first)
    assert second.touched == [key(3)]
    writer.apply(block(START + 2))
    third = wait(pools, second)
    assert (third, third.touched) == (START + 2, [])
    assert wait(pools, START + 1).touched == []
    writer.apply(block(START + 3, (0, 5)))
    assert third.touched == [key(0)], "pools touched again by now are among them"
    assert pickle.loads(pickle.dumps(third)) == START + 2
    assert type(pickle.loads(pickle.dumps(third))) is int


def test_touched_has_what_a_reorg_turned_back(writer: WriterArena, pools: Arena) -> None:
    writer.apply(block(START + 1, (3, 5)))
    before = wait(pools, START)
    writer.apply(block(START + 1, (3, 5), revert=True))
    writer.apply(block(START + 1, (0, 7)))
    writer.apply(block(START + 2))
    assert wait(pools, before).touched == [key(0), key(3)]
    assert wait(pools, START).touched == [key(0)], "the other has no event after that block"


def test_touched_has_installed_pools_and_leaves_out_removed_and_announced_ones(
    writer: WriterArena, pools: Arena
) -> None:
    seen = wait(pools, 0)
    slot = remove(writer, 1)
    assert add(writer, 4, START + 1) == slot
    writer.set_head(START + 1)
    writer.commit()
    after = wait(pools, seen)
    assert after.touched == wait(pools, START).touched == [key(4)]
    remove(writer, 2)
    writer.announce(writer.add_pool(spec_of(5)))
    writer.set_head(START + 2)
    writer.commit()
    last = wait(pools, after)
    assert last.touched == []
    add(writer, 5, START + 2)
    writer.commit()
    assert last.touched == [key(5)]


def test_touched_goes_on_across_growth_and_starts_again_in_another_arena(arena_name: str) -> None:
    with make(arena_name) as first, attach(arena_name) as pools:
        fill(first)
        seen = wait(pools, 0)
        first.apply(block(START + 1, (0, 5)))
        first.grow(max_pools=8)
        first.apply(block(START + 2, (3, 5)))
        grown = wait(pools, seen)
        assert grown.touched == [key(0), key(3)]
        first.close(unlink=False)
        with make(arena_name) as second:
            fill(second)
            for number in range(START + 1, START + 20):  # past the commits of the other one
                second.apply(block(number))
            assert second.native.arena.header.committed > grown.commit
            assert wait(pools, grown).touched == [key(n) for n in range(4)]
            second.close(unlink=True)
    with pytest.raises(errors.ArenaClosed):
        _ = grown.touched


@pytest.mark.slow
def test_a_chain_of_waits_keeps_no_older_blocks(writer: WriterArena, pools: Arena) -> None:
    seen = wait(pools, 0)
    for number in range(START + 1, START + 20):
        writer.apply(block(number, (0, number)))
        seen = wait(pools, seen)
        assert seen.touched == [key(0)]
    gc.collect()
    assert sum(isinstance(each, HeadBlock) for each in gc.get_objects()) <= 1
    assert not any(isinstance(each, HeadBlock) for each in gc.get_referents(seen.__dict__))


# Pools without values


def test_an_announced_pool_shows_no_values(writer: WriterArena, pools: Arena) -> None:
    writer.grow(max_pools=8)
    for index in (4, 5, 6):
        writer.announce(writer.add_pool(spec_of(index)))
    writer.commit()
    for index in (4, 5, 6):
        spec, handle = spec_of(index), pools[key(index)]
        assert key(index) in pools
        assert (handle.status, handle.block_number) == ("syncing", 0)
        for source in (handle, pools.snapshot([key(index)])[key(index)], handle.freeze()):
            state = source.state()
            assert (state.pool_key, state.status) == (key(index), "syncing")
            assert (state.fee_pips, state.token0.symbol) == (3000, spec.token0.symbol)
            assert (state.reserve0, state.reserve1, state.sqrt_price_x96, state.tick) == (None,) * 4
            assert (state.liquidity, state.ticks, state.protocol_fee) == (None,) * 3
            assert (state.lp_fee, state.fee_block) == (None, None)
            assert state.tick_spacing == (None if index == 6 else 60)
            assert (state.hooks is not None) is (index == 5)
        frozen = handle.freeze()
        assert not frozen.is_read
        assert pools[key(0)].freeze().is_read
        refuses(frozen.ticks, errors.PoolStale, key(index))
        for asked in (handle, frozen):
            for allow in (False, True):
                refuses(
                    lambda asked=asked, allow=allow: asked.quote_exact_in(
                        1000, zero_for_one=True, allow_stale=allow
                    ),
                    errors.PoolStale,
                    key(index),
                    "no values yet" if allow else "allow_stale",
                )
                refuses(
                    lambda asked=asked, allow=allow: asked.ladder(
                        zero_for_one=True, allow_stale=allow
                    ),
                    errors.PoolStale,
                )
    with pools.snapshot() as view:
        assert len(view) == 7
        assert len(view.table()) == len(pools.snapshot(list(pools)).table()) == 4
        assert view.table()["key"][:, 0].tolist() == [1, 2, 3, 4]
        lines = view.lines(pools.slots([key(4), key(0)]))
        assert (lines["unsure"] & slots.UNSURE_UNREAD != 0).tolist() == [True, False]
    assert pools.quote_batch(
        [key(6)], 5, zero_for_one=True, allow_stale=True
    ).statuses.tolist() == [lib.PSA_POOL_STALE]


def test_nothing_but_an_install_gives_an_announced_pool_values(
    writer: WriterArena, pools: Arena
) -> None:
    writer.grow(max_pools=8)
    slot = writer.add_pool(spec_of(6))
    writer.announce(slot)
    writer.commit()
    with pytest.raises(ValueError, match="already"):
        writer.announce(slot)
    with pytest.raises(ValueError, match="no pool with values"):
        writer.set_status(slot, slots.STATUS_LIVE)
    wrong = block(START + 1, (6, 5))
    wrong[1]["kind"] = lib.PSA_EVENT_CL_SWAP
    wrong[1]["protocol"] = slots.UNISWAP_V3
    for events in (block(START + 1, (6, 5)), wrong, block(START + 1, (6, 5), revert=True)):
        writer.apply(events)
    writer.set_status_all(slots.STATUS_SYNCING, slots.STATUS_LIVE)
    writer.commit()
    assert writer.take_faults() == ([], 0)
    assert pools[key(6)].status == "syncing"
    assert pools[key(6)].state().reserve0 is None
    writer.install(slot, values(6), slots.STATUS_LIVE)
    writer.commit()
    assert number_of(pools[key(6)].state()) == 7 * 10**18 + START
    assert pools[key(6)].status == "live"


# Growth and images


def test_everything_goes_on_in_a_grown_arena(writer: WriterArena, pools: Arena) -> None:
    handle = pools[key(1)]
    before = (pools.committed, pools.head_block, pools.topology, pools.counters)
    with pools.snapshot() as view:
        writer.grow(max_pools=9, max_tokens=40, tick_bytes=1 << 17)
        assert pools.generation == 2
        assert before == (pools.committed, pools.head_block, pools.topology, pools.counters)
        assert number_of(handle.state()) == 2 * 10**18 + START
        writer.apply(block(START + 1, (0, 5)))
        writer.apply(block(START + 2, (0, 6)))
        assert number_of(view[key(0)].state()) == 10**18 + START, "the view stays where it was"
    assert pools.committed == before[0] + 2
    assert number_of(pools[key(0)].state()) == 6
    for index in range(4, 9):
        add(writer, index)
    writer.commit()
    assert len(pools) == 9
    with pytest.raises(errors.ArenaFull, match="9 of 9 pools"):
        writer.add_pool(spec_of(9))
    with pytest.raises(ValueError, match="only grows"):
        writer.grow(max_pools=8)


def test_a_pool_that_waits_for_room_is_found_after_growth(arena_name: str) -> None:
    """add_pool, an install that finds no room for its ticks, grow, install."""
    with make(arena_name, tick_bytes=4096) as owner, attach(arena_name) as pools:
        fill(owner, 1)
        slot = owner.add_pool(spec_of(1))
        many = tuple((60 * n, 5, 5 if n < 0 else -5) for n in (*range(-150, 0), *range(1, 151)))
        big = PoolValues(START, 3000, sqrt_price_x96=Q96, liquidity=750, ticks=many)
        with pytest.raises(errors.ArenaFull, match="tick heap"):
            owner.install(slot, big, slots.STATUS_LIVE)
        owner.grow(tick_bytes=1 << 16)
        owner.install(slot, big, slots.STATUS_LIVE)
        owner.commit()
        assert pools[key(1)].state().ticks == many
        assert owner.find(spec_of(1).key) == slot
        owner.close(unlink=True)


def test_faults_that_nobody_took_survive_growth(writer: WriterArena) -> None:
    writer.apply(block(START + 1, (9, 5)))
    writer.native.stale_count = 3
    writer.grow(max_pools=8)
    found, dropped = writer.take_faults()
    assert [(fault.error, fault.key[:20]) for fault in found] == [
        (errors.PoolNotFound, spec_of(9).key)
    ]
    assert (dropped, writer.native.stale_count) == (0, 3)


def test_growth_wakes_who_waits_for_a_block(writer: WriterArena, pools: Arena) -> None:
    """In C: with a timeout of an hour, only a wake-up ends the wait."""
    mapped = pools._current()
    now = ffi.new("uint64_t *")
    found: list[int] = []
    waiting = threading.Thread(
        target=lambda: found.append(
            lib.psa_wait_commit(mapped.pointer, mapped.committed[0], 3600 * 10**9, now)
        ),
        daemon=True,
    )
    waiting.start()
    place = Path(f"/proc/self/task/{waiting.native_id}/wchan")
    waits = 0
    for _ in range(500):
        waits = waits + 1 if "futex" in place.read_text() else 0
        if waits == 5:  # one may be for the interpreter's lock
            break
        waiting.join(0.01)
    writer.grow(max_pools=8)
    waiting.join(30)
    assert found == [lib.PSA_TIMED_OUT]
    later = threading.Timer(0.05, lambda: writer.apply(block(START + 1)))
    later.start()
    assert pools.wait_block(START, timeout=30) == START + 1
    later.join()


@contextmanager
def growth_that_died(name: str, at: str) -> Iterator[Arena]:
    """A reader of an arena whose writer died growing it, in a function of arena.native.lib."""
    with make(name) as writer, attach(name) as pools:
        fill(writer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generations, "lib", Dying(at))
            with pytest.raises(KeyboardInterrupt):
                writer.grow(max_pools=8)
        writer.close(unlink=False)
        yield pools


def test_a_growth_that_died_half_way_is_finished_by_the_next_writer(arena_name: str) -> None:
    """Killed after the new generation was named, before the old one was marked."""
    with growth_that_died(arena_name, "psa_supersede") as pools:
        assert pools.generation == 1
        with WriterArena.take_over(arena_name) as second:
            assert (second.generation, pools.generation) == (2, 2)
            second.apply(block(START + 1, (0, 5)))
            assert pools.head_block == START + 1
            assert number_of(pools[key(0)].state()) == 5
            second.close(unlink=True)


def test_a_generation_that_was_never_named_is_removed_by_the_next_writer(arena_name: str) -> None:
    with (
        growth_that_died(arena_name, "psa_store_release_u64") as pools,
        WriterArena.take_over(arena_name) as second,
    ):
        assert (second.generation, pools.generation) == (1, 1)
        assert number_of(pools[key(0)].state()) == 10**18 + START
        second.close(unlink=True)  # and the leak check looks for the other


def test_growth_without_room_leaves_the_present_generation(
    writer: WriterArena, pools: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(generations, "lib", Full())
        with pytest.raises(errors.ArenaFull, match="/dev/shm"):
            writer.grow(max_pools=8)
    writer.apply(block(START + 1, (0, 5)))
    assert (pools.generation, pools.head_block) == (1, START + 1)


class Full(Dying):
    """arena.native.lib on a machine whose shared memory has no pages for the ticks."""

    def __init__(self) -> None:
        super().__init__("")

    def psa_arena_copy(self, *_: Any) -> int:
        return int(lib.PSA_FULL_SHM)


def follow_growth(name: str, ready: Any, done: Any) -> None:
    with attach(name) as pools:
        handle = pools[key(0)]
        ready.set()
        seen = wait(pools, START)
        while seen < START + 40:
            newer = wait(pools, seen)
            assert number_of(handle.state()) >= int(newer)
            assert key(0) in newer.touched
            seen = newer
        done.put((pools.generation, int(seen), pools.committed))


def test_a_reader_in_another_process_follows_growth(writer: WriterArena) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Queue()
    process = context.Process(target=follow_growth, args=(writer.name, ready, done))
    process.start()
    try:
        assert ready.wait(30)
        for number in range(START + 1, START + 41):
            writer.apply(block(number, (0, number)))
            if number % 10 == 5:
                writer.grow(max_pools=writer.native.arena.max_pools + 1)
        committed = writer.native.arena.header.committed
        assert done.get(timeout=30) == (5, START + 40, committed)
        process.join(30)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def content(pools: Arena, writer: WriterArena) -> dict[str, Any]:
    """All that readers and the next writer can see."""
    with pools.snapshot() as view:
        return {
            "states": {each: view[each].state() for each in view},
            "head": (view.block_number, view.block_hash, view.commit, view.timestamp),
            "topology": view.topology,
            "counters": pools.counters,
            "undoable": writer.undoable(),
        }


@pytest.mark.parametrize("way", ["grow", "image"])
def test_a_reorg_is_undone_in_a_copy_as_in_the_original(arena_name: str, way: str) -> None:
    with make(arena_name) as first, attach(arena_name) as pools:
        fill(first)
        remove(first, 2)
        for number in range(START + 1, START + 6):
            first.apply(block(number, (0, number), (3, 2 * number)))
            assert first.note_hash(number, bytes([number]) * 32)
        assert not first.note_hash(START, bytes(32))
        before = content(pools, first)
        assert before["undoable"] == [(n, bytes([n]) * 32) for n in range(START + 5, START, -1)]
        taken = first.image()
        assert taken is not None
        if way == "grow":
            first.grow(max_pools=32)
            owner = first
        else:
            first.close(unlink=True)
            owner = WriterArena.create(
                arena_name, max_pools=2, image=pickle.loads(pickle.dumps(taken))
            )
        with attach(arena_name) as again:
            assert content(again, owner) == before
            for number in range(START + 5, START + 2, -1):
                owner.apply(block(number, (0, number), (3, 2 * number), revert=True))
            assert number_of(again[key(0)].state()) == START + 2
            assert number_of(again[key(3)].state()) == 2 * (START + 2)
            assert [number for number, _ in owner.undoable()] == [START + 2, START + 1]
            assert owner.take_faults() == ([], 0)
            assert add(owner, 6) == (4 if way == "grow" else 2)
            owner.commit()
            assert number_of(again[key(6)].state()) == 7 * 10**18 + START
        owner.close(unlink=True)


def test_images_that_contradict_themselves_are_refused(writer: WriterArena) -> None:
    taken = writer.image()
    assert taken is not None
    head = int(taken.record["block_number"])
    assert head == START
    (start, page), *rest = taken.pieces

    def patched(offset: int, data: bytes) -> ArenaImage:
        changed = page[:offset] + data + page[offset + len(data) :]
        return ArenaImage(taken.nbytes, ((start, changed), *rest))

    commits = 384
    wrong = [
        ArenaImage(taken.nbytes, ((start, page), (taken.nbytes - 1, b"12"))),
        ArenaImage(taken.nbytes, ((start, page), (-1, b"12"))),
        ArenaImage(100, ((start, page[:100]),)),
        patched(0, bytes(8)),
        patched(64, (500).to_bytes(4, "little")),
        patched(256, (5).to_bytes(4, "little")),  # more slots used than there are
        patched(272, (1 << 40).to_bytes(8, "little")),  # heap_top
        patched(commits, bytes(256)),
    ]
    for image in wrong:
        with pytest.raises(errors.LayoutMismatch):
            make(f"{writer.name}-copy", image=image)


def test_no_image_and_no_growth_inside_a_reorg_envelope(writer: WriterArena) -> None:
    start = np.zeros(1, EVENT)
    start["kind"] = lib.PSA_EVENT_REORG_START
    writer.apply(start)
    assert writer.image() is None
    with pytest.raises(RuntimeError, match="envelope"):
        writer.grow(max_pools=8)
