"""Applying, undoing, aborting and taking over, against a dictionary model that shares no code.

Method: generated block sequences with reverts run through psa_apply on an ordinary buffer; after every
commit each pool's line and ticks are compared with the model, which keeps whole copies per block.
"""

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from builders.native_arena import PrivateArena
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.swap_oracle import v4_total_fee

from arena.layouts.events import EVENT
from arena.native import ffi, lib

NO_SLOT = 2**32 - 1
Q96 = 1 << 96
SPACING = 10


class Core(PrivateArena):
    """One arena in private memory with its writer."""

    def __init__(self, **capacities: int) -> None:
        usual = {"max_pools": 64, "max_tokens": 16, "undo_entry_count": 64, "heap_nbytes": 1 << 20}
        super().__init__(**{"undo_record_count": 4096} | usual | capacities)

    def add(self, key: bytes, protocol: int, *, block: int, price: int = Q96) -> int:
        row = ffi.new("psa_static *")
        ffi.memmove(row.key, key.ljust(32, b"\0"), 32)
        row.protocol = protocol
        row.key_nbytes = len(key)
        row.tick_spacing = 0 if protocol == 0 else SPACING
        row.flags = lib.PSA_POOL_DYNAMIC_FEE if protocol == 2 else 0
        slot = ffi.new("uint32_t *")
        assert lib.psa_pool_add(self.writer, row, slot) == lib.PSA_OK
        line = ffi.new("psa_line *")
        line.fee_status = 3000 | lib.PSA_STATUS_LIVE << 24
        line.base_block = block
        if protocol == 0:
            line.a[0] = line.b[0] = 10**12
        else:
            line.a = [price & (2**64 - 1), (price >> 64) & (2**64 - 1)]
            line.sqrt_price_hi = price >> 128
        status = lib.psa_pool_install(self.writer, slot[0], line, ffi.NULL, ffi.NULL, ffi.NULL, 0)
        assert status == lib.PSA_OK
        return int(slot[0])

    def copy(self, *, max_pools: int, heap_nbytes: int) -> "Core":
        """What this one holds, in a larger one."""
        fresh = Core(max_pools=max_pools, heap_nbytes=heap_nbytes)
        status = lib.psa_arena_copy(fresh.base, fresh.nbytes, -1, self.arena)
        assert status == lib.PSA_OK
        fresh.open()
        return fresh

    def free_slabs(self) -> list[set[int]]:
        """Offsets of the free slabs of each class."""
        found = []
        for head in self.writer.slab_free:
            chain: set[int] = set()
            while head:
                assert head not in chain
                chain.add(head)
                head = ffi.cast("psa_slab *", self.arena.heap + 64 * head).next_free
            found.append(chain)
        return found

    def apply(self, events: np.ndarray, min_commit_ns: int = 0) -> None:
        pointer = ffi.cast("psa_event *", events.ctypes.data)
        status = lib.psa_apply(self.writer, pointer, len(events), min_commit_ns, NO_SLOT)
        assert status == lib.PSA_OK

    def pool(self, slot: int) -> dict[str, object]:
        line = ffi.new("psa_line *")
        ticks = ffi.new("int32_t[]", 4096)
        net = ffi.new("uint64_t[]", 8192)
        gross = ffi.new("uint64_t[]", 8192)
        status = lib.psa_pool_read_ticks(self.arena, slot, 0, 0, line, ticks, net, gross, 4096)
        assert status == lib.PSA_OK
        rows = {}
        for i in range(line.tick_count):
            signed = net[2 * i] | net[2 * i + 1] << 64
            signed -= (1 << 128) if signed >> 127 else 0
            rows[ticks[i]] = (gross[2 * i] | gross[2 * i + 1] << 64, signed)
        assert list(rows) == sorted(rows)
        assert line.current_index == sum(tick <= line.tick for tick in rows)
        return {
            "a": line.a[0] | line.a[1] << 64 | line.sqrt_price_hi << 128,
            "b": line.b[0] | line.b[1] << 64,
            "tick": line.tick,
            "ticks": rows,
            "fees": (line.fee_status & 0xFFFFFF, line.protocol_fee, line.fee_block),
            "status": line.fee_status >> 24,
        }


@dataclass
class Model:
    pools: dict[bytes, dict[str, object]] = field(default_factory=dict)
    before: dict[int, dict[bytes, dict[str, object]]] = field(default_factory=dict)
    head: int = 0

    def apply(self, block: int, updates: list[tuple]) -> None:
        self.before[block] = copy.deepcopy(self.pools)
        self.head = block
        for update in updates:
            key, kind = update[0], update[1]
            pool = self.pools[key]
            if kind == "sync":
                pool["a"], pool["b"] = update[2], update[3]
            elif kind == "swap":
                pool["a"], pool["tick"], pool["b"] = update[2], update[3], update[4]
                if len(update) > 5:
                    pool["fees"] = after_swap(pool["fees"], block, *update[5:])
            elif kind == "protocol fee":
                pool["fees"] = (pool["fees"][0], update[2], block)
            else:
                lower, upper, delta = update[2:]
                ticks = pool["ticks"]
                for tick, sign in ((lower, 1), (upper, -1)):
                    gross, net = ticks.get(tick, (0, 0))
                    ticks[tick] = (gross + delta, net + sign * delta)
                    if ticks[tick][0] == 0:
                        del ticks[tick]
                if lower <= pool["tick"] < upper:
                    pool["b"] += delta

    def revert(self, block: int) -> None:
        self.pools = self.before.pop(block)
        self.head = block - 1


V2, V3, V4 = b"\x01" * 20, b"\x03" * 20, b"\x04" * 32
PROTOCOL = {V2: 0, V3: 1, V4: 2}


def after_swap(
    fees: tuple[int, int, int], block: int, whole: int, zero_for_one: bool
) -> tuple[int, int, int]:
    """The fees of a pool with a dynamic one after a swap that paid `whole`."""
    lp, protocol, _ = fees
    half = protocol & 0xFFF if zero_for_one else protocol >> 12
    if v4_total_fee(half, lp) != whole:
        near = range(max(0, whole - half - 3), min(whole + 3, 1_000_000) + 1)
        lp = next(each for each in near if v4_total_fee(half, each) == whole)
    return lp, protocol, block


def frame(block: int, updates: list[tuple], *, revert: bool, seq: int) -> np.ndarray:
    events = np.zeros(len(updates) + 2, dtype=EVENT)
    events["block_number"] = block
    events["stream_seq"] = seq
    events["flags"] = lib.PSA_EVENT_IS_REVERT if revert else 0
    events[0]["kind"] = lib.PSA_EVENT_BEGIN_BLOCK
    events[-1]["kind"] = lib.PSA_EVENT_END_BLOCK
    for i, update in enumerate(updates, start=1):
        key, kind = update[0], update[1]
        event = events[i]
        event["key"] = np.frombuffer(key.ljust(32, b"\0"), dtype="u1")
        event["key_nbytes"] = len(key)
        event["protocol"] = PROTOCOL[key]
        event["log_index"] = i
        if kind == "sync":
            event["kind"] = lib.PSA_EVENT_V2_SYNC
            event["words"] = [update[2], 0, 0, 0, update[3], 0, 0, 0]
        elif kind == "swap":
            price = update[2]
            event["kind"] = lib.PSA_EVENT_CL_SWAP
            mask = 2**64 - 1
            event["words"] = [price & mask, price >> 64 & mask, price >> 128, 0, 0, 0, 0, 0]
            event["tick"] = update[3]
            event["amount"] = [update[4], 0]
            if len(update) > 5:
                event["present"] = lib.PSA_HAS_SWAP_FEE
                event["words"][4:6] = update[5:]
        elif kind == "protocol fee":
            event["kind"] = lib.PSA_EVENT_PROTOCOL_FEE
            event["words"][0] = update[2]
        else:
            delta = update[4] & (2**128 - 1)
            event["kind"] = lib.PSA_EVENT_CL_LIQUIDITY
            event["tick_lower"], event["tick_upper"] = update[2], update[3]
            event["update_type"] = lib.PSA_UPDATE_MINT if update[4] > 0 else lib.PSA_UPDATE_BURN
            event["amount"] = [delta & (2**64 - 1), delta >> 64]
    return events


def compare(core: Core, model: Model, slots: dict[bytes, int]) -> None:
    for key, slot in slots.items():
        found = core.pool(slot)
        assert found.pop("status") == lib.PSA_STATUS_LIVE
        assert found == model.pools[key]
    assert core.writer.record.block_number == model.head


def fresh(core: Core) -> tuple[Model, dict[bytes, int]]:
    slots = {key: core.add(key, PROTOCOL[key], block=100) for key in (V2, V3, V4)}
    core.writer.record.block_number = 100
    assert lib.psa_commit(core.writer) == lib.PSA_OK
    model = Model(head=100)
    for key in slots:
        start = {"a": 10**12, "b": 10**12, "tick": 0, "ticks": {}, "fees": (3000, 0, 0)}
        if key != V2:
            start |= {"a": Q96, "b": 0}
        model.pools[key] = start
    return model, slots


@st.composite
def updates_of_block(draw: st.DrawFn, ranges: dict) -> list:
    """Updates that follow what `ranges` says: the ranges with liquidity of each pool, and the V4 pool's
    protocol fee."""
    updates: list[tuple] = []
    for _ in range(draw(st.integers(0, 6))):
        key = draw(st.sampled_from([V2, V3, V4]))
        if key == V2:
            amount = st.integers(0, 2**64 - 1)
            updates.append((key, "sync", draw(amount), draw(amount)))
            continue
        kind = draw(st.sampled_from(["swap", "mint", "mint", "burn", "protocol fee"]))
        if kind == "protocol fee":
            if key == V4:
                half = st.integers(0, 1000)
                fee = ranges["protocol fee"] = draw(half) << 12 | draw(half)
                updates.append((key, kind, fee))
        elif kind == "swap":
            tick = draw(st.integers(-300, 300))
            liquidity = sum(d for low, up, d in ranges[key] if low <= tick < up)
            swap = (key, "swap", draw(st.integers(2**90, 2**100)), tick, liquidity)
            if key == V4 and draw(st.booleans()):
                zero_for_one, fee = draw(st.booleans()), ranges["protocol fee"]
                lp = draw(st.sampled_from([0, 1, 500, 999_999, 1_000_000]) | st.integers(0, 10**6))
                half = fee & 0xFFF if zero_for_one else fee >> 12
                swap += (v4_total_fee(half, lp), zero_for_one)
            updates.append(swap)
        elif kind == "mint":
            lower = draw(st.integers(-30, 29)) * SPACING
            upper = draw(st.integers(lower // SPACING + 1, 30)) * SPACING
            delta = draw(st.integers(1, 2**62))
            ranges[key].append((lower, upper, delta))
            updates.append((key, "liquidity", lower, upper, delta))
        elif ranges[key]:
            index = draw(st.integers(0, len(ranges[key]) - 1))
            lower, upper, delta = ranges[key][index]
            part = draw(st.integers(1, delta))
            ranges[key][index] = (lower, upper, delta - part)
            if part == delta:
                ranges[key].pop(index)
            updates.append((key, "liquidity", lower, upper, -part))
    return updates


@given(st.data())
@settings(deadline=None)
def test_blocks_and_reverts_equal_the_model(data: st.DataObject) -> None:
    core = Core()
    model, slots = fresh(core)
    ranges: dict = {V3: [], V4: [], "protocol fee": 0}
    ranges_before: dict[int, dict] = {}
    blocks: dict[int, list[tuple]] = {}
    seq = 1
    for _ in range(data.draw(st.integers(1, 12))):
        depth = data.draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
        depth = min(depth, model.head - 100)
        if depth:
            reverted = list(range(model.head - depth + 1, model.head + 1))
            oldest_first = data.draw(st.booleans())
            for block in reverted if oldest_first else reversed(reverted):
                core.apply(frame(block, blocks[block], revert=True, seq=seq))
                seq += 1
            for block in reversed(reverted):
                model.revert(block)
                ranges = ranges_before.pop(block)
            compare(core, model, slots)
            assert core.writer.fault_count == 0
        block = model.head + 1
        ranges_before[block] = copy.deepcopy(ranges)
        blocks[block] = data.draw(updates_of_block(ranges))
        core.apply(frame(block, blocks[block], revert=False, seq=seq))
        seq += 1
        model.apply(block, blocks[block])
        action = data.draw(st.sampled_from(["", "", "abort", "reopen", "again"]))
        if action == "abort":
            garbage = data.draw(updates_of_block(copy.deepcopy(ranges)))
            core.apply(frame(block + 1, garbage, revert=False, seq=seq), min_commit_ns=2**63)
            lib.psa_abort(core.writer)
        elif action == "reopen":
            garbage = data.draw(updates_of_block(copy.deepcopy(ranges)))
            core.apply(frame(block + 1, garbage, revert=False, seq=seq), min_commit_ns=2**63)
            core.open()
        elif action == "again":
            core.apply(frame(block, blocks[block], revert=False, seq=seq))
        compare(core, model, slots)
        assert core.writer.fault_count == 0


@given(
    st.lists(st.integers(-2000, 2000), min_size=2, max_size=700, unique=True),
    st.lists(st.integers(-21_000, 21_000), min_size=1, max_size=20),
)
def test_the_current_index_is_found_among_many_ticks(places: list[int], targets: list[int]) -> None:
    core = Core()
    _, slots = fresh(core)
    places = sorted(places)[: len(places) // 2 * 2]
    pairs = zip(places[::2], places[1::2], strict=True)
    mints = [(V3, "liquidity", low * SPACING, up * SPACING, 1) for low, up in pairs]
    core.apply(frame(101, mints, revert=False, seq=1))
    for block, tick in enumerate(targets, start=102):
        active = sum(
            low * SPACING <= tick < up * SPACING
            for low, up in zip(places[::2], places[1::2], strict=True)
        )
        core.apply(frame(block, [(V3, "swap", Q96, tick, active)], revert=False, seq=block))
        assert len(core.pool(slots[V3])["ticks"]) == len(places)  # and pool() checks the index
    assert core.writer.fault_count == 0


def test_nothing_of_a_block_is_visible_before_its_commit() -> None:
    core = Core()
    model, slots = fresh(core)
    core.apply(frame(101, [(V2, "sync", 5, 6)], revert=False, seq=1), min_commit_ns=2**63)
    compare_before = core.pool(slots[V2])
    assert compare_before["a"] == 10**12
    lib.psa_commit(core.writer)
    assert core.pool(slots[V2])["a"] == 5
    assert model.pools[V2]["a"] == 10**12


def test_a_burn_of_more_than_was_minted_makes_the_pool_stale_and_changes_nothing() -> None:
    core = Core()
    _, slots = fresh(core)
    core.apply(frame(101, [(V3, "liquidity", -10, 10, 1000)], revert=False, seq=1))
    core.apply(frame(102, [(V3, "liquidity", -10, 10, -1001)], revert=False, seq=2))
    found = core.pool(slots[V3])
    assert found["status"] == lib.PSA_STATUS_STALE
    assert found["ticks"] == {-10: (1000, 1000), 10: (1000, -1000)}
    assert core.writer.fault_count == 1
    assert core.writer.faults[0].status == lib.PSA_ARITHMETIC_OVERFLOW
    assert core.pool(slots[V4])["status"] == lib.PSA_STATUS_LIVE


@pytest.mark.parametrize("fee", [1001, 1001 << 12, 0xFFF, 1 << 24, 2**64 - 1])
def test_a_protocol_fee_no_contract_takes_makes_the_pool_stale(fee: int) -> None:
    core = Core()
    _, slots = fresh(core)
    core.apply(frame(101, [(V4, "protocol fee", fee)], revert=False, seq=1))
    found = core.pool(slots[V4])
    assert (found["status"], found["fees"]) == (lib.PSA_STATUS_STALE, (3000, 0, 0))
    assert core.writer.faults[0].status == lib.PSA_INVALID_EVENT_DATA


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_protocol_fee_of_a_pool_without_one_makes_it_stale(protocol: int) -> None:
    core = Core()
    _, slots = fresh(core)
    events = frame(101, [(V4, "protocol fee", 5)], revert=False, seq=1)
    key = V3 if protocol else V2
    events[1]["key"] = np.frombuffer(key.ljust(32, b"\0"), dtype="u1")
    core.apply(events)
    assert core.pool(slots[key])["status"] == lib.PSA_STATUS_STALE
    assert core.pool(slots[V4])["fees"] == (3000, 0, 0)


def test_a_static_fee_that_a_swap_contradicts_shows_a_missed_protocol_fee() -> None:
    core = Core()
    _, slots = fresh(core)
    core.arena.statics[slots[V4]].flags = 0
    swap = (V4, "swap", Q96 + 5, 0, 0)
    core.apply(frame(101, [(*swap, 3000, True), (*swap, 3000, False)], revert=False, seq=1))
    assert core.pool(slots[V4])["status"] == lib.PSA_STATUS_LIVE
    core.apply(frame(102, [(*swap, v4_total_fee(7, 3000), True)], revert=False, seq=2))
    found = core.pool(slots[V4])
    assert (found["status"], found["fees"]) == (lib.PSA_STATUS_STALE, (3000, 0, 0))
    assert core.writer.fault_count == 1


@pytest.mark.parametrize(("whole", "half"), [(1_000_001, 0), (6, 7), (2**24 - 1, 0)])
def test_a_swap_fee_no_contract_takes_makes_the_pool_stale(whole: int, half: int) -> None:
    core = Core()
    _, slots = fresh(core)
    updates = [(V4, "protocol fee", half), (V4, "swap", Q96 + 5, 0, 0, whole, True)]
    core.apply(frame(101, updates, revert=False, seq=1))
    assert core.pool(slots[V4])["status"] == lib.PSA_STATUS_STALE


@pytest.mark.parametrize(
    "update", [(V4, "protocol fee", 5), (V4, "swap", Q96 + 9, 0, 0, 5000, True)]
)
def test_a_reverted_fee_below_a_scrape_makes_the_pool_stale(update: tuple[Any, ...]) -> None:
    core = Core()
    _, slots = fresh(core)
    core.apply(frame(100, [update], revert=True, seq=1))
    found = core.pool(slots[V4])
    assert found["status"] == lib.PSA_STATUS_STALE
    core.apply(frame(100, [(V4, "swap", Q96 + 5, 0, 0)], revert=False, seq=2))
    assert core.pool(slots[V4])["status"] == lib.PSA_STATUS_STALE, "no price tells the fee"
    assert core.writer.fault_count == 0


def past_the_ring() -> tuple[Core, dict[bytes, int]]:
    """Ten blocks over an undo ring of four; V3 is touched in 103 alone, V2 in the others."""
    core = Core(undo_entry_count=4)
    _, slots = fresh(core)
    for block in range(101, 111):
        update = (V3, "swap", Q96 + block, 0, 0) if block == 103 else (V2, "sync", block, block)
        core.apply(frame(block, [update], revert=False, seq=block))
    return core, slots


def revert_past_the_ring(core: Core) -> None:
    for block in range(110, 102, -1):
        updates = [(V3, "swap", Q96 + block, 0, 0)] if block == 103 else []
        core.apply(frame(block, updates, revert=True, seq=200))


def test_a_revert_below_the_ring_makes_touched_pools_stale_and_an_epilogue_settles_them() -> None:
    core, slots = past_the_ring()
    start = np.zeros(1, dtype=EVENT)
    start["kind"] = lib.PSA_EVENT_REORG_START
    start["stream_seq"] = 200
    core.apply(start)
    revert_past_the_ring(core)
    final = np.zeros(3, dtype=EVENT)
    final["block_number"] = 102
    final["stream_seq"] = 300
    final[0]["kind"] = lib.PSA_EVENT_V2_FINAL
    final[0]["key"] = np.frombuffer(V2.ljust(32, b"\0"), dtype="u1")
    final[0]["words"] = [102, 0, 0, 0, 102, 0, 0, 0]
    final[1]["kind"] = lib.PSA_EVENT_SLOT0_FINAL
    final[1]["protocol"] = 1
    final[1]["key"] = np.frombuffer(V3.ljust(32, b"\0"), dtype="u1")
    final[1]["words"] = [0, 1 << 32, 0, 0, 0, 0, 0, 0]
    final[2]["kind"] = lib.PSA_EVENT_REORG_COMPLETE
    core.apply(final[:1])
    assert core.pool(slots[V2])["a"] == 110, "the envelope is published as one commit"
    core.apply(final[1:])
    v2, v3 = core.pool(slots[V2]), core.pool(slots[V3])
    assert (v2["a"], v2["b"], v2["status"]) == (102, 102, lib.PSA_STATUS_LIVE)
    assert (v3["a"], v3["status"]) == (Q96, lib.PSA_STATUS_LIVE)
    assert core.writer.record.block_number == 102


@pytest.mark.parametrize(
    ("liquidity", "price"), [(700, 0), (0, 0), (699, 0), (701, 0), (2**127, 0), (700, 1)]
)
def test_an_epilogue_that_contradicts_the_ticks_or_what_was_turned_back_makes_its_pool_stale(
    liquidity: int, price: int
) -> None:
    core = Core()
    _, slots = fresh(core)
    core.apply(frame(101, [(V3, "liquidity", -10, 10, 700)], revert=False, seq=1))
    swap = [(V3, "swap", Q96 + 5, 0, 700)]
    core.apply(frame(102, swap, revert=False, seq=2))
    events = np.zeros(3, dtype=EVENT)
    events["kind"] = (
        lib.PSA_EVENT_REORG_START,
        lib.PSA_EVENT_SLOT0_FINAL,
        lib.PSA_EVENT_REORG_COMPLETE,
    )
    events["block_number"] = 101
    final = events[1]
    final["protocol"] = 1
    final["key"] = np.frombuffer(V3.ljust(32, b"\0"), dtype="u1")
    final["words"] = [price, 1 << 32, 0, 0, 0, 0, 0, 0]
    final["amount"] = [liquidity % 2**64, liquidity >> 64]
    core.apply(events[:1])
    core.apply(frame(102, swap, revert=True, seq=3))
    core.apply(events[1:])
    is_right = (liquidity, price) == (700, 0)
    found = core.pool(slots[V3])["status"]
    assert found == (lib.PSA_STATUS_LIVE if is_right else lib.PSA_STATUS_STALE)
    assert core.writer.fault_count == (0 if is_right else 1)


def test_a_revert_below_the_ring_without_epilogue_leaves_touched_pools_stale() -> None:
    core, slots = past_the_ring()
    revert_past_the_ring(core)
    assert core.pool(slots[V2])["status"] == lib.PSA_STATUS_STALE
    assert core.pool(slots[V3])["status"] == lib.PSA_STATUS_STALE
    assert core.pool(slots[V4])["status"] == lib.PSA_STATUS_LIVE


def test_a_pool_scraped_on_the_reverted_branch_follows_the_inverse_of_its_payload() -> None:
    core = Core()
    _, slots = fresh(core)
    for block in (101, 102):
        core.apply(frame(block, [], revert=False, seq=block))
    line = ffi.new("psa_line *")
    line.fee_status = 3000 | lib.PSA_STATUS_LIVE << 24
    line.base_block = 102
    line.a = [0, 1 << 32]
    line.b = [700, 0]
    ticks = ffi.new("int32_t[]", [-20, -10, 10, 20])
    gross = ffi.new("uint64_t[]", [500, 0, 200, 0, 200, 0, 500, 0])
    minus = 2**64 - 1
    net = ffi.new("uint64_t[]", [500, 0, 200, 0, 2**64 - 200, minus, 2**64 - 500, minus])
    status = lib.psa_pool_install(core.writer, slots[V3], line, ticks, gross, net, 4)
    assert status == lib.PSA_OK
    lib.psa_commit(core.writer)
    core.apply(frame(102, [(V3, "liquidity", -10, 10, 200)], revert=True, seq=9))
    found = core.pool(slots[V3])
    assert found["ticks"] == {-20: (500, 500), 20: (500, -500)}
    assert (found["b"], found["status"]) == (500, lib.PSA_STATUS_LIVE)
    # The branch that replaces it counts from its first block, also below the old scrape.
    core.apply(frame(102, [(V3, "liquidity", -30, 30, 5)], revert=False, seq=10))
    assert core.pool(slots[V3])["b"] == 505
    core.apply(frame(102, [(V3, "liquidity", -30, 30, 5)], revert=True, seq=11))
    assert core.pool(slots[V3])["b"] == 500
    assert core.writer.fault_count == 0


NAMES = [bytes([16 + n]) * (32 if n % 3 == 2 else 20) for n in range(9)]
PROTOCOL |= {key: n % 3 for n, key in enumerate(NAMES)}


def updates_for(chance: random.Random, key: bytes, ranges: list[tuple[int, int, int]]) -> tuple:
    """One random event of a pool."""
    if PROTOCOL[key] == 0:
        return (key, "sync", chance.randrange(2**64), chance.randrange(2**64))
    what = chance.choice(["swap", "mint", "mint", "burn"])
    if what == "burn" and ranges:
        lower, upper, delta = ranges.pop(chance.randrange(len(ranges)))
        return (key, "liquidity", lower, upper, -delta)
    if what == "swap":
        tick = chance.randrange(-300, 300)
        active = sum(d for low, up, d in ranges if low <= tick < up)
        return (key, "swap", chance.randrange(2**90, 2**100), tick, active)
    lower = chance.randrange(-30, 29) * SPACING
    upper = chance.randrange(lower // SPACING + 1, 31) * SPACING
    ranges.append((lower, upper, chance.randrange(1, 2**62)))
    return (key, "liquidity", *ranges[-1])


@dataclass
class World:
    """Pools that come and go between blocks, and all that is needed to turn blocks back."""

    pools: dict[bytes, dict] = field(default_factory=dict)
    ranges: dict[bytes, list] = field(default_factory=dict)
    base: dict[bytes, int] = field(default_factory=dict)
    before: dict[int, tuple] = field(default_factory=dict)
    blocks: dict[int, list[tuple]] = field(default_factory=dict)
    head: int = 100

    def add(self, key: bytes) -> None:
        start = {"a": Q96, "b": 0} if PROTOCOL[key] else {"a": 10**12, "b": 10**12}
        self.pools[key] = {**start, "tick": 0, "ticks": {}, "fees": (3000, 0, 0)}
        self.ranges[key], self.base[key] = [], self.head

    def remove(self, key: bytes) -> None:
        del self.pools[key], self.ranges[key], self.base[key]

    def apply(self, updates: list[tuple], ranges: dict[bytes, list]) -> None:
        self.head += 1
        self.before[self.head] = copy.deepcopy((self.pools, self.ranges))
        self.blocks[self.head] = updates
        model = Model(pools=self.pools)
        model.apply(self.head, updates)
        self.ranges = ranges

    def revert(self) -> list[tuple]:
        """Turn the head back for the pools that are still there; what its block held."""
        pools, ranges = self.before.pop(self.head)
        for key, base in self.base.items():
            if base < self.head:
                self.pools[key], self.ranges[key] = pools[key], ranges[key]
        self.head -= 1
        return self.blocks.pop(self.head + 1)

    def depth(self) -> int:
        """Blocks above the reading of every pool that is there now."""
        floor = max([100, *self.base.values()])
        return min(self.head - floor, 50)


def look(core: Core, world: World, slots: dict[bytes, int]) -> None:
    found = ffi.new("uint64_t *")
    line = ffi.new("psa_line *")
    for key in NAMES:
        status = lib.psa_find(core.arena, key.ljust(32, b"\0"), found)
        if key not in world.pools:
            if status == lib.PSA_OK:
                place = int(found[0])
                status = lib.psa_pool_read(core.arena, place & NO_SLOT, place >> 32, 0, line)
                assert status in (lib.PSA_POOL_REMOVED, lib.PSA_UNKNOWN_POOL)
            continue
        assert status == lib.PSA_OK
        assert int(found[0]) & NO_SLOT == slots[key]
        shown = core.pool(slots[key])
        assert shown.pop("status") == lib.PSA_STATUS_LIVE
        assert shown == world.pools[key]
    assert core.arena.header.pool_count == len(world.pools)
    assert core.writer.record.block_number == world.head
    assert core.writer.fault_count == 0


@given(st.randoms(use_true_random=False), st.integers(10, 60))
def test_pools_come_and_go_between_blocks_reverts_aborts_and_growth(
    chance: random.Random, steps: int
) -> None:
    """Undone blocks turn back the pools that are still there and touch no other, whose slot they may have
    changed; nothing of the tick heap is lost; a copy goes on as the original would."""
    core, world = Core(max_pools=4, heap_nbytes=1 << 17), World()
    slots: dict[bytes, int] = {}
    given_up: set[bytes] = set()  # fresh slots of adds that were aborted wait for the same key
    core.writer.record.block_number = 100
    core.writer.pending = 1
    lib.psa_commit(core.writer)
    for seq in range(1, steps):
        room = core.arena.max_pools - len(world.pools) - len(given_up)
        what = chance.choice(["block"] * 4 + ["remove", "add", "add", "revert", "drop", "copy"])
        if what == "block":
            ranges = copy.deepcopy(world.ranges)
            keys = [chance.choice(sorted(world.pools)) for _ in range(5)] if world.pools else []
            updates = [updates_for(chance, key, ranges[key]) for key in keys]
            core.apply(frame(world.head + 1, updates, revert=False, seq=seq))
            world.apply(updates, ranges)
        elif what == "remove" and world.pools:
            key = chance.choice(sorted(world.pools))
            if chance.random() < 0.5:  # and change it in the same commit
                ranges = copy.deepcopy(world.ranges)
                updates = [updates_for(chance, key, ranges[key])]
                events = frame(world.head + 1, updates, revert=False, seq=seq)
                core.apply(events, min_commit_ns=2**63)
                world.apply(updates, ranges)
            world.remove(key)
            assert lib.psa_pool_remove(core.writer, slots.pop(key)) == lib.PSA_OK
            lib.psa_commit(core.writer)
        elif what == "add" and room:
            key = chance.choice([key for key in NAMES if key not in world.pools])
            given_up.discard(key)
            slots[key] = core.add(key, PROTOCOL[key], block=world.head)
            world.add(key)
            lib.psa_commit(core.writer)
        elif what == "revert" and world.depth():
            for _ in range(chance.randrange(1, world.depth() + 1)):
                block = world.head
                gone = world.revert()
                mine = [update for update in gone if update[0] in world.pools]
                core.apply(frame(block, mine, revert=True, seq=seq))
        elif what == "drop":
            for key in sorted(world.pools)[:2]:
                assert lib.psa_pool_remove(core.writer, slots[key]) == lib.PSA_OK
            used = core.arena.header.slots_used
            if room:
                other = next(key for key in NAMES if key not in world.pools)
                core.add(other, PROTOCOL[other], block=world.head)
            if chance.random() < 0.5:
                lib.psa_abort(core.writer)
                given_up |= {other} if core.arena.header.slots_used > used else set()
            else:
                given_up.clear()
                core.open()
                lib.psa_slots_reclaim(core.writer)
        elif what == "copy":
            pools = core.arena.max_pools + chance.choice([0, 0, 1])
            heap = core.arena.heap_nbytes + chance.choice([0, 4096])
            larger = core.copy(max_pools=pools, heap_nbytes=heap)
            assert list(larger.arena.header.counters) == list(core.arena.header.counters)
            assert larger.arena.header.committed == core.arena.header.committed
            assert record_of(larger) == record_of(core)
            assert undoable(larger) == undoable(core)
            core = larger
        look(core, world, slots)
        free = core.free_slabs()
        again = core.copy(max_pools=core.arena.max_pools, heap_nbytes=core.arena.heap_nbytes)
        assert again.free_slabs() == free, "a slab is neither used nor free, or both"


def record_of(core: Core) -> bytes:
    return bytes(ffi.buffer(ffi.addressof(core.writer.record)))


def undoable(core: Core) -> tuple[list[int], bytes]:
    numbers, hashes = ffi.new("uint64_t[]", 64), ffi.new("uint8_t[]", 64 * 32)
    count = lib.psa_undo_blocks(core.writer, numbers, hashes, 64)
    return list(numbers[0:count]), bytes(ffi.buffer(hashes))


def test_noted_hashes_belong_to_the_blocks_of_the_present_branch() -> None:
    core = Core()
    fresh(core)
    for block in (101, 102, 103):
        core.apply(frame(block, [(V2, "sync", block, 1)], revert=False, seq=block))
        assert lib.psa_undo_set_hash(core.writer, block, bytes([block]) * 32) == lib.PSA_OK
    core.apply(frame(103, [(V2, "sync", 103, 1)], revert=True, seq=110))
    assert lib.psa_undo_set_hash(core.writer, 103, bytes([1]) * 32) == lib.PSA_UNKNOWN_POOL
    core.apply(frame(103, [(V2, "sync", 7, 1)], revert=False, seq=111))
    numbers, hashes = undoable(core)
    assert numbers == [103, 102, 101]
    assert hashes[:96] == bytes(32) + bytes([102]) * 32 + bytes([101]) * 32
