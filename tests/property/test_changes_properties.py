"""Which pools some commits wrote, and what a slab's serial says, under generated commits.

Method: commits of every kind (events, reverts, installs, removals, slots used again, all pools at once) with
aborts, take-overs and growth between them run on an ordinary buffer. The test keeps which pools each commit
wrote, and what every slab held under each serial; the arena must say the same.
"""

import copy
from typing import Any

import numpy as np
import pytest
from builders.native_arena import PrivateArena
from hypothesis import given, settings
from hypothesis import strategies as st

from arena.layouts.events import EVENT
from arena.native import ffi, lib

NO_SLOT = 2**32 - 1
SPACING = 10
FIRST = 100
SIZES = {
    "max_pools": 64,
    "max_tokens": 4,
    "undo_entry_count": 16,
    "undo_record_count": 2048,
    "heap_nbytes": 1 << 20,
}
STEPS = st.lists(
    st.sampled_from(
        ["block"] * 8
        + ["revert", "revert", "status", "install", "remove", "add", "all", "two", "empty"]
        + ["abort", "reopen", "killed", "grow", "burst"]
    ),
    min_size=1,
    max_size=40,
)


def key_of(number: int) -> bytes:
    return (number + 1).to_bytes(20, "big")


def is_pair(number: int) -> bool:
    return number % 2 == 0


class Told:
    """An arena, and what the test knows of it: pools by slot, and the slots each commit wrote."""

    def __init__(self, pools: int) -> None:
        self.core = PrivateArena(**SIZES)
        self.pools: dict[int, int] = {}  # slot -> number of its key
        self.generations: dict[int, int] = {}
        self.positions: dict[int, list[tuple[int, int, int]]] = {}
        self.blocks: dict[int, int] = {}  # slot -> block of its last event or reading
        self.written: dict[int, set[int]] = {0: set()}
        self.open: set[int] = set()
        self.head = FIRST
        self.undo: list[tuple[list[tuple[Any, ...]], dict[int, Any], dict[int, int]]] = []
        self.numbers = iter(range(1 << 20))
        self.seen: dict[tuple[int, int], tuple[Any, ...]] = {}
        for _ in range(pools):
            self.add()
        self.core.writer.record.block_number = FIRST
        self.commit()

    # ---- what a writer does

    def add(self) -> None:
        number = next(self.numbers)
        row = ffi.new("psa_static *", {"key_nbytes": 20})
        ffi.memmove(row.key, key_of(number), 20)
        row.protocol = lib.PSA_UNISWAP_V2 if is_pair(number) else lib.PSA_UNISWAP_V3
        row.tick_spacing = 0 if is_pair(number) else SPACING
        slot = ffi.new("uint32_t *")
        status = lib.psa_pool_add(self.core.writer, row, slot)
        if status == lib.PSA_FULL_POOLS:
            return
        assert status == lib.PSA_OK
        self.pools[slot[0]] = number
        self.install(slot[0])

    def install(self, slot: int) -> None:
        number = self.pools[slot]
        line = ffi.new("psa_line *", {"fee_status": 3000 | lib.PSA_STATUS_LIVE << 24})
        line.base_block = self.head
        line.a = [1000 + number, 0] if is_pair(number) else [0, 1 << 32]
        ticks, gross, net = ffi.NULL, ffi.NULL, ffi.NULL
        count = 0
        self.positions[slot] = []
        if is_pair(number):
            line.b = [1000, 0]
        elif number % 4 == 1:  # with ticks from the begin
            self.positions[slot] = [(-SPACING, SPACING, 7)]
            ticks, count = ffi.new("int32_t[]", [-SPACING, SPACING]), 2
            gross = ffi.new("uint64_t[]", [7, 0, 7, 0])
            net = ffi.new("uint64_t[]", [7, 0, 2**64 - 7, 2**64 - 1])
            line.b = [7, 0]
        status = lib.psa_pool_install(self.core.writer, slot, line, ticks, gross, net, count)
        assert status == lib.PSA_OK
        self.generations[slot] = self.core.arena.statics[slot].generation
        self.blocks[slot] = self.head
        self.open.add(slot)

    def remove(self, slot: int) -> None:
        assert lib.psa_pool_remove(self.core.writer, slot) == lib.PSA_OK
        self.open.add(slot)
        for known in (self.pools, self.generations, self.positions, self.blocks):
            del known[slot]

    def frame(self, block: int, updates: list[tuple[Any, ...]], *, revert: bool) -> np.ndarray:
        events = np.zeros(len(updates) + 2, dtype=EVENT)
        events["block_number"] = block
        events["stream_seq"] = 1
        events["flags"] = lib.PSA_EVENT_IS_REVERT if revert else 0
        events["kind"][[0, -1]] = lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK
        for index, (slot, kind, *values) in enumerate(updates, start=1):
            event = events[index]
            number = self.pools[slot]
            event["key"] = np.frombuffer(key_of(number).ljust(32, b"\0"), "u1")
            event["protocol"] = lib.PSA_UNISWAP_V2 if is_pair(number) else lib.PSA_UNISWAP_V3
            event["log_index"] = index
            if kind == "sync":
                event["kind"] = lib.PSA_EVENT_V2_SYNC
                event["words"][[0, 4]] = values
            elif kind == "swap":
                event["kind"] = lib.PSA_EVENT_CL_SWAP
                event["words"][1] = 1 << 32
                event["tick"], event["amount"][0] = values
            else:
                lower, upper, delta = values
                event["kind"] = lib.PSA_EVENT_CL_LIQUIDITY
                event["update_type"] = lib.PSA_UPDATE_MINT if delta > 0 else lib.PSA_UPDATE_BURN
                event["tick_lower"], event["tick_upper"] = lower, upper
                event["amount"] = [delta % 2**64, 0 if delta > 0 else 2**64 - 1]
        return events

    def apply(self, events: np.ndarray, *, commit: bool) -> None:
        pointer = ffi.cast("psa_event *", events.ctypes.data)
        pause = 0 if commit else 2**63
        assert lib.psa_apply(self.core.writer, pointer, len(events), pause, NO_SLOT) == lib.PSA_OK
        assert self.core.writer.fault_count == 0

    def updates(self, draw: Any) -> list[tuple[Any, ...]]:
        """Some events, and the positions after them."""
        found: list[tuple[Any, ...]] = []
        for slot in draw(st.lists(st.sampled_from(sorted(self.pools)), max_size=6)):
            held = self.positions[slot]
            if is_pair(self.pools[slot]):
                found.append((slot, "sync", draw(st.integers(0, 2**40)), 5))
            elif draw(st.booleans()):
                tick = draw(st.integers(-60, 60))
                active = sum(delta for low, up, delta in held if low <= tick < up)
                found.append((slot, "swap", tick, active))
            elif held and draw(st.booleans()):
                low, up, delta = held.pop()
                found.append((slot, "change", low, up, -delta))
            else:
                low = draw(st.integers(-6, 5))
                up = draw(st.integers(low + 1, 6))
                held.append((low * SPACING, up * SPACING, draw(st.integers(1, 9))))
                found.append((slot, "change", *held[-1]))
        return found

    def block(self, draw: Any) -> None:
        before = copy.deepcopy(self.positions), dict(self.blocks)
        updates = self.updates(draw)
        self.head += 1
        self.undo.append((updates, *before))
        for slot, *_ in updates:
            self.blocks[slot] = self.head
            self.open.add(slot)
        self.apply(self.frame(self.head, updates, revert=False), commit=True)
        self.committed()

    def revert(self) -> None:
        """Take the head block back; what was read or removed since is none of it."""
        updates, positions, blocks = self.undo.pop()
        self.apply(self.frame(self.head, updates, revert=True), commit=True)
        for slot, *_ in updates:
            self.positions[slot] = positions[slot]
            self.blocks[slot] = blocks[slot]
            self.open.add(slot)
        self.head -= 1
        # Those that say a later block than there is by now are set to this one.
        for slot, block in self.blocks.items():
            if block > self.head:
                self.blocks[slot] = self.head
                self.open.add(slot)
        self.committed()

    def commit(self) -> None:
        self.core.writer.pending = 1
        assert lib.psa_commit(self.core.writer) == lib.PSA_OK
        self.committed()

    def committed(self) -> None:
        number = self.core.arena.header.committed
        assert number == len(self.written)
        self.written[number] = self.open
        self.open = set()

    # ---- what a reader sees

    def changed(self, since: int, first_block: int = 0) -> list[int]:
        return changed(self.core.arena, since, self.core.arena.header.committed, first_block)

    def expected(self, since: int, first_block: int = 0) -> list[int]:
        slots = set().union(*(self.written[n] for n in range(since + 1, len(self.written))))
        return [
            self.generations[slot] << 32 | slot
            for slot in sorted(slots & self.pools.keys())
            if self.blocks[slot] >= first_block
        ]

    def compare(self, since: int) -> None:
        assert self.changed(since) == self.expected(since)

    def compare_slabs(self) -> None:
        """Whatever a slab holds under a serial it holds whenever it is seen under that serial."""
        line = ffi.new("psa_line *")
        ticks, net, gross = (ffi.new(f"{kind}[]", 256) for kind in ("int32_t", *["uint64_t"] * 2))
        for slot in self.pools:
            status = lib.psa_pool_read_ticks(
                self.core.arena, slot, 0, 0, line, ticks, net, gross, 128
            )
            assert status == lib.PSA_OK
            if line.slab == 0:
                continue
            serial = serial_of(self.core.arena, line.slab)
            count = line.tick_count
            content = tuple(ticks[0:count]), tuple(net[0 : 2 * count])
            assert 0 < serial <= self.core.arena.header.slab_serial
            assert self.seen.setdefault((line.slab, serial), content) == content


def serial_of(core: Any, slab: int) -> int:
    return int(ffi.cast("psa_slab *", core.heap + 64 * slab).serial)


def changed(core: Any, since: int, commit: int, first_block: int = 0, room: int = 64) -> list[int]:
    pools, count = ffi.new("uint64_t[]", room + 1), ffi.new("uint32_t *")
    status = lib.psa_changed(core, since, commit, first_block, pools, room, count)
    assert status == lib.PSA_OK
    assert pools[room] == 0
    return list(pools[0 : count[0]])


class Story(Told):
    """Told, with steps drawn by name."""

    def step(self, name: str, draw: Any) -> None:
        if name == "block":
            self.block(draw)
        elif name == "revert" and self.undo:
            self.revert()
        elif name == "install":
            self.forget()
            self.install(draw(st.sampled_from(sorted(self.pools))))
            self.commit()
        elif name == "remove" and len(self.pools) > 3:
            self.forget()
            self.remove(draw(st.sampled_from(sorted(self.pools))))
            self.commit()
        elif name in ("add", "two"):
            self.forget()
            for _ in range(2 if name == "two" else 1):
                self.add()
            self.commit()
        elif name == "status":
            slot = draw(st.sampled_from(sorted(self.pools)))
            live = lib.PSA_STATUS_LIVE
            assert lib.psa_pool_set_status(self.core.writer, slot, live, 0) == lib.PSA_OK
            self.open.add(slot)
            self.commit()
        elif name == "all":
            self.all()
        elif name == "empty":
            self.commit()
        elif name == "burst":  # more commits than the ring has entries for
            for _ in range(draw(st.integers(1, 20))):
                self.all() if draw(st.booleans()) else self.commit()
        elif name in ("abort", "reopen", "killed"):
            self.lose(name, draw)
        elif name == "grow":
            self.grow()

    def forget(self) -> None:
        """No block below what is read or leaves now is taken back: the model keeps no such past."""
        self.undo.clear()

    def all(self) -> None:
        live = lib.PSA_STATUS_LIVE
        assert lib.psa_set_status_all(self.core.writer, live, live, 0) == lib.PSA_OK
        self.open |= self.pools.keys()
        self.commit()

    def lose(self, name: str, draw: Any) -> None:
        """Write what is never committed: given up, or left by a writer that died before or while it said
        in the ring what it had written."""
        kept = copy.deepcopy(self.positions)
        updates = self.updates(draw)
        self.positions = kept
        self.apply(self.frame(self.head + 1, updates, revert=False), commit=False)
        if name == "abort":
            lib.psa_abort(self.core.writer)
            return
        if name == "killed":
            header = self.core.arena.header
            count = draw(st.integers(0, 64))
            dead_end(self.core.arena, header.committed + 1, count, draw(st.integers(0, 3)))
        self.core.open()

    def grow(self) -> None:
        fresh = PrivateArena(**SIZES)
        status = lib.psa_arena_copy(fresh.base, fresh.nbytes, -1, self.core.arena)
        assert status == lib.PSA_OK
        fresh.open()
        self.core = fresh


def dead_end(core: Any, commit: int, count: int, steps: int) -> None:
    """What a writer leaves in the ring that dies after so many of its steps there."""
    header = core.header
    entries, slots = core.change_entries, core.change_slots
    first = entries[(commit - 1) % header.change_entry_count].end
    header.change_reserved = max(header.change_reserved, first + count)
    if steps > 0:
        entries[commit % header.change_entry_count].stamp = commit
    if steps > 1:
        for index in range(count):
            slots[(first + index) % header.change_slot_count] = index % 3
    if steps > 2:
        entries[commit % header.change_entry_count].end = first + count


@given(st.data())
@settings(deadline=None)
def test_the_changed_pools_are_those_the_commits_wrote(data: st.DataObject) -> None:
    told = Story(data.draw(st.sampled_from([5, 40])))
    for name in data.draw(STEPS):
        told.step(name, data.draw)
        newest = told.core.arena.header.committed
        told.compare(newest)
        told.compare(newest - 1)
        told.compare(data.draw(st.integers(0, newest)))
        told.compare_slabs()
        first = data.draw(st.integers(FIRST, told.head + 1))
        since = data.draw(st.sampled_from([0, max(0, newest - 3)]))
        assert told.changed(since, first) == told.expected(since, first)
    for since in range(told.core.arena.header.committed + 1):
        told.compare(since)


@given(st.data())
@settings(deadline=None)
def test_a_serial_stands_for_one_content(data: st.DataObject) -> None:
    """As above, of blocks and of what undoes them alone: most of them change ticks."""
    told = Story(6)
    steps = st.sampled_from(["block"] * 5 + ["revert"] * 2 + ["abort", "reopen", "killed", "grow"])
    for name in data.draw(st.lists(steps, min_size=10, max_size=60)):
        told.step(name, data.draw)
        told.compare_slabs()
    assert told.core.writer.fault_count == 0


def one_of(told: Told, slot: int) -> tuple[int, int]:
    line = ffi.new("psa_line *")
    assert lib.psa_pool_read(told.core.arena, slot, 0, 0, line) == lib.PSA_OK
    return line.slab, serial_of(told.core.arena, line.slab)


def test_a_swap_keeps_the_serial_and_a_change_of_liquidity_takes_another() -> None:
    told = Told(4)
    first = one_of(told, 1)

    def block(*updates: tuple[Any, ...]) -> tuple[int, int]:
        told.head += 1
        told.apply(told.frame(told.head, list(updates), revert=False), commit=True)
        return one_of(told, 1)

    assert block((1, "swap", 3, 7)) == first
    changed = block((1, "change", -SPACING, SPACING, 1))
    assert changed[0] != first[0]
    assert changed[1] > first[1]
    again = block((1, "change", -SPACING, SPACING, 1), (1, "change", -SPACING, SPACING, 1))
    assert again[0] == first[0], "the slab of the version before the last one is used again"
    assert again[1] > changed[1]


def told_blocks(count: int) -> Told:
    """Blocks that write pool n % 4 each, after the commit that installed the pools."""
    told = Told(4)
    for number in range(count):
        slot = number % 4
        update = (slot, "sync", number, 1) if slot % 2 == 0 else (slot, "swap", 1, 0)
        if slot == 1:
            update = (slot, "swap", 1, 7)
        told.head += 1
        told.open.add(slot)
        told.blocks[slot] = told.head
        told.apply(told.frame(told.head, [update], revert=False), commit=True)
        told.committed()
    return told


def test_the_answer_comes_from_what_the_commits_say_they_wrote() -> None:
    told = told_blocks(3)  # pools 0, 1, 2 by commits 2, 3, 4
    core = told.core.arena
    assert [each % 2**32 for each in told.changed(1)] == [0, 1, 2]
    end = core.change_entries[4].end
    core.change_slots[end - 1] = 1  # commit 4 says pool 1, which another one wrote last
    assert [each % 2**32 for each in told.changed(1)] == [0, 1]
    for field, value in (("stamp", 77), ("end", 2**63), ("end", 0)):
        kept = getattr(core.change_entries[4], field)
        setattr(core.change_entries[4], field, value)
        assert [each % 2**32 for each in told.changed(1)] == [0, 1, 2], "all pools were looked at"
        setattr(core.change_entries[4], field, kept)
    core.change_slots[end - 1] = 2**32 - 1
    assert [each % 2**32 for each in told.changed(1)] == [0, 1, 2]


@pytest.mark.parametrize("lap", [0, 1, 2])
def test_slots_that_may_have_been_overwritten_are_not_believed(lap: int) -> None:
    told = told_blocks(3)
    core = told.core.arena
    core.change_slots[core.change_entries[4].end - 1] = 1
    first = core.change_entries[1].end
    for ahead, believed in ((0, True), (1, False)):
        core.header.change_reserved = first + core.header.change_slot_count + ahead + 256 * lap
        slots = [each % 2**32 for each in told.changed(1)]
        assert slots == ([0, 1] if believed and lap == 0 else [0, 1, 2])


def test_slots_a_dead_writer_overwrote_are_not_believed_of_the_next_one() -> None:
    told = told_blocks(3)
    core = told.core.arena
    dead_end(core, core.header.committed + 1, core.header.change_slot_count, 3)
    for number in range(core.header.change_slot_count):
        core.change_slots[number] = 3  # which no commit wrote after the first
    told.core.open()
    assert lib.psa_pool_set_status(told.core.writer, 0, lib.PSA_STATUS_LIVE, 0) == lib.PSA_OK
    told.open.add(0)
    told.commit()
    for since in range(1, told.core.arena.header.committed + 1):
        told.compare(since)


def test_a_commit_that_is_not_there_yet_is_answered_from_the_lines() -> None:
    told = told_blocks(2)
    core = told.core.arena
    dead_end(core, core.header.committed + 1, 3, 3)
    newest = core.header.committed
    assert changed(core, newest, newest + 1) == []
    assert changed(core, newest - 1, newest + 1) == told.expected(newest - 1)
    assert changed(core, newest, newest) == changed(core, newest + 5, newest) == []


def test_a_pool_written_twice_since_is_too_old_by_either_way() -> None:
    told = told_blocks(3)
    newest = told.core.arena.header.committed
    for _ in range(2):
        lib.psa_pool_set_status(told.core.writer, 2, lib.PSA_STATUS_LIVE, 0)
        lib.psa_commit(told.core.writer)
    pools, count = ffi.new("uint64_t[]", 64), ffi.new("uint32_t *")
    for since in (0, newest - 1):
        status = lib.psa_changed(told.core.arena, since, newest, 0, pools, 64, count)
        assert status == lib.PSA_SNAPSHOT_TOO_OLD


@pytest.mark.parametrize("since", [0, 1])
@pytest.mark.parametrize("room", [0, 1, 3, 4])
def test_too_little_room_is_said_and_nothing_is_stored_beyond_it(since: int, room: int) -> None:
    told = told_blocks(4)
    pools, count = ffi.new("uint64_t[]", [7] * 8), ffi.new("uint32_t *")
    newest = told.core.arena.header.committed
    status = lib.psa_changed(told.core.arena, since, newest, 0, pools, room, count)
    assert status == (lib.PSA_OK if room == 4 else lib.PSA_BUFFER_TOO_SMALL)
    assert count[0] == 4
    assert list(pools[room:8]) == [7] * (8 - room)


@pytest.mark.parametrize(
    ("max_pools", "slots", "entries"),
    [
        (1, 256, 16),
        (64, 256, 16),
        (65, 512, 32),
        (16_384, 65_536, 4096),
        (16_385, 65_536, 4096),
        (65_536, 65_536, 4096),
        (65_537, 131_072, 8192),
    ],
)
def test_the_ring_has_room_for_every_pool(max_pools: int, slots: int, entries: int) -> None:
    core = PrivateArena(**SIZES | {"max_pools": max_pools})
    header = core.arena.header
    assert (header.change_slot_count, header.change_entry_count) == (slots, entries)
