"""Keys and slots over long random lives, against a list of slots that shares no code with the core.

Method: add, install, announce, remove, commit, abort and take over on a table of 8 slots and 16 buckets, with
keys whose searches begin in three neighbouring buckets, the last and the first among them. After every
step the writer's look-up, the readers' look-up and every reference ever seen are compared with the model.
"""

import random
from dataclasses import dataclass, field

import pytest
from builders.native_arena import PrivateArena
from hypothesis import given
from hypothesis import strategies as st

from arena.native import ffi, lib

CAPACITY = 8
BUCKETS = 16
PASSED = 2**32 - 1


class Core(PrivateArena):
    """One arena in private memory with its writer."""

    def __init__(self) -> None:
        super().__init__(
            max_pools=CAPACITY,
            max_tokens=4,
            undo_entry_count=4,
            undo_record_count=16,
            heap_nbytes=4096,
        )

    def open(self) -> None:
        super().open()
        assert lib.psa_slots_reclaim(self.writer) == lib.PSA_OK

    def add(self, key: bytes) -> tuple[int, int]:
        row = ffi.new("psa_static *", {"key": key, "key_nbytes": 32, "protocol": 0})
        slot = ffi.new("uint32_t *")
        return int(lib.psa_pool_add(self.writer, row, slot)), int(slot[0])

    def install(self, slot: int, number: int) -> int:
        line = ffi.new("psa_line *", {"fee_status": lib.PSA_STATUS_LIVE << 24})
        line.a[0] = line.b[0] = number
        return int(lib.psa_pool_install(self.writer, slot, line, ffi.NULL, ffi.NULL, ffi.NULL, 0))

    def find(self, key: bytes) -> int | None:
        slot = ffi.new("uint32_t *")
        return int(slot[0]) if lib.psa_pool_find(self.writer, key, slot) == lib.PSA_OK else None

    def reference(self, key: bytes) -> int | None:
        found = ffi.new("uint64_t *")
        return int(found[0]) if lib.psa_find(self.arena, key, found) == lib.PSA_OK else None

    def read(self, reference: int) -> int | str:
        """Number of the pool behind a reference, or why there is none."""
        line = ffi.new("psa_line *")
        status = lib.psa_pool_read(self.arena, reference & PASSED, reference >> 32, 0, line)
        if status == lib.PSA_POOL_REMOVED:
            return "removed"
        if status == lib.PSA_UNKNOWN_POOL or line.fee_status >> 24 == lib.PSA_STATUS_ABSENT:
            return "absent"
        assert status == lib.PSA_OK
        return "unread" if line.unsure & lib.PSA_UNSURE_UNREAD else int(line.a[0])

    def buckets(self) -> list[int]:
        return [int(self.arena.buckets[n]) for n in range(BUCKETS)]


def keys_by_home() -> dict[int, list[bytes]]:
    """Some keys by the bucket their search begins in, which an empty table shows."""
    chance = random.Random(5)
    core, homes = Core(), {}
    before = bytes(ffi.buffer(core.base, core.nbytes))
    for _ in range(400):
        key = chance.randbytes(32)
        assert core.add(key) == (lib.PSA_OK, 0)
        homes.setdefault(core.buckets().index(1), []).append(key)
        ffi.memmove(core.base, before, core.nbytes)
    assert len(homes) == BUCKETS
    return homes


HOMES = keys_by_home()
KEYS = [key for home in (BUCKETS - 2, BUCKETS - 1, 0) for key in HOMES[home][:5]]
HOME = {key: home for home, keys in HOMES.items() for key in keys}


@dataclass
class Slot:
    key: bytes
    state: str  # given, shown, unread, removed
    stamp: int = 0
    number: int = 0


@dataclass
class Slots:
    """What a writer has: its slots now and as last committed."""

    now: list[Slot] = field(default_factory=list)
    committed: list[Slot] = field(default_factory=list)
    index: dict[bytes, int] = field(default_factory=dict)

    def add(self, key: bytes, commit: int) -> int | str:
        at = self.index.get(key)
        if at is not None and self.now[at].state != "removed":
            return at
        if at is not None and self.now[at].stamp == commit:
            return "not committed"
        if at is None:
            if len(self.now) < CAPACITY:
                self.index[key] = len(self.now)
                self.now.append(Slot(key, "given"))
                return self.index[key]
            free = [
                (slot.stamp, n)
                for n, slot in enumerate(self.now)
                if slot.state == "removed" and slot.stamp < commit
            ]
            if not free:
                return "full"
            at = min(free)[1]
            if self.index.get(self.now[at].key) == at:
                del self.index[self.now[at].key]
            self.index[key] = at
        self.now[at] = Slot(key, "given", commit)
        return at

    def commit(self) -> None:
        self.committed = [Slot(**vars(slot)) for slot in self.now]

    def abort(self) -> None:
        """Lines go back; rows and buckets do not."""
        rows = [slot.key for slot in self.now]
        self.now = [Slot(**vars(slot)) for slot in self.committed]
        self.now += [Slot(key, "given") for key in rows[len(self.now) :]]
        for slot, key in zip(self.now, rows, strict=True):
            slot.key = key

    def reclaim(self) -> None:
        for slot in self.now:
            if slot.state == "given":
                slot.state = "removed"


def check(core: Core, model: Slots, seen: dict[int, bytes]) -> None:
    visible = {}
    for n, slot in enumerate(model.committed):
        if slot.state in ("shown", "unread"):
            visible[slot.key] = "unread" if slot.state == "unread" else slot.number
            assert core.reference(slot.key) is not None
            assert core.reference(slot.key) & PASSED == n
    for key in KEYS:
        at = model.index.get(key)
        is_there = at is not None and model.now[at].state != "removed"
        assert core.find(key) == (at if is_there else None)
        reference = core.reference(key)
        found = "none" if reference is None else core.read(reference)
        if key in visible:
            assert found == visible[key]
        else:
            assert found in ("none", "removed", "absent")
        if reference is not None:
            assert seen.setdefault(reference, key) == key, "a reference leads to two keys"
    for reference, key in seen.items():
        found = core.read(reference)
        assert found in ("removed", "absent") or found == visible.get(key)
    count = sum(slot.state in ("shown", "unread") for slot in model.now)
    assert core.arena.header.pool_count == count


def check_buckets(core: Core, model: Slots) -> None:
    """Every key is where its search comes by, and every passed bucket is one a search must cross."""
    buckets = core.buckets()
    crossed = set()
    for key, at in model.index.items():
        place = buckets.index(at + 1)
        way = [(HOME[key] + n) % BUCKETS for n in range((place - HOME[key]) % BUCKETS)]
        assert all(buckets[each] for each in way)
        crossed.update(way)
    used = [each for each in buckets if each not in (0, PASSED)]
    assert sorted(used) == sorted(at + 1 for at in model.index.values())
    assert {n for n, each in enumerate(buckets) if each == PASSED} <= crossed


STEPS = ["add", "add", "add", "show", "unread", "remove", "remove", "commit", "commit", "again"]


@pytest.mark.slow
@given(st.randoms(use_true_random=False), st.integers(50, 400))
def test_keys_and_slots_equal_a_list(chance: random.Random, steps: int) -> None:
    core, model, seen = Core(), Slots(), {}
    for number in range(1, steps):
        step = chance.choice([*STEPS, "abort" if chance.random() < 0.5 else "take over"])
        key = chance.choice(KEYS)
        commit = int(core.writer.next_commit)
        given = [n for n, slot in enumerate(model.now) if slot.state == "given"]
        shown = [n for n, slot in enumerate(model.now) if slot.state in ("shown", "unread")]
        if step == "add":
            want = model.add(key, commit)
            status, slot = core.add(key)
            expected = {"full": lib.PSA_FULL_POOLS, "not committed": lib.PSA_BAD_ARGUMENT}
            assert status == (expected[want] if isinstance(want, str) else lib.PSA_OK)
            if status == lib.PSA_OK:
                assert slot == want
            if status == lib.PSA_OK and chance.random() < 0.7:
                assert core.install(slot, number) == lib.PSA_OK
                at = model.now[slot]
                at.state, at.number, at.stamp = "shown", number, commit
        elif step in ("show", "again") and (given if step == "show" else shown):
            slot = chance.choice(given if step == "show" else shown)
            assert core.install(slot, number) == lib.PSA_OK
            at = model.now[slot]
            at.state, at.number, at.stamp = "shown", number, commit
        elif step == "unread" and given:
            slot = chance.choice(given)
            assert lib.psa_pool_announce(core.writer, slot) == lib.PSA_OK
            model.now[slot].state, model.now[slot].stamp = "unread", commit
        elif step == "remove" and shown:
            slot = chance.choice(shown)
            assert lib.psa_pool_remove(core.writer, slot) == lib.PSA_OK
            model.now[slot].state, model.now[slot].stamp = "removed", commit
            assert core.install(slot, number) == lib.PSA_POOL_REMOVED
            assert lib.psa_pool_announce(core.writer, slot) == lib.PSA_POOL_REMOVED
        elif step == "commit":
            if core.writer.pending:
                lib.psa_commit(core.writer)
                model.commit()
        elif step == "abort":
            lib.psa_abort(core.writer)
            model.abort()
        elif step == "take over":
            core.open()
            model.abort()
            model.reclaim()
            model.commit()
        check(core, model, seen)
        check_buckets(core, model)


def test_a_full_table_whose_keys_change_keeps_empty_buckets() -> None:
    """Else a search for a key that is not there would visit every bucket."""
    core, model = Core(), Slots()
    chance = random.Random(3)
    everything = [key for keys in HOMES.values() for key in keys[:10]]
    empty: list[int] = []
    for number in range(10_000):
        shown = [n for n, slot in enumerate(model.now) if slot.state == "shown"]
        if len(shown) == CAPACITY:
            slot = chance.choice(shown)
            assert lib.psa_pool_remove(core.writer, slot) == lib.PSA_OK
            model.now[slot] = Slot(model.now[slot].key, "removed", int(core.writer.next_commit))
        else:
            key = chance.choice(everything)
            slot = model.add(key, int(core.writer.next_commit))
            assert core.add(key) == (lib.PSA_OK, slot)
            assert core.install(slot, number) == lib.PSA_OK
            model.now[slot].state = "shown"
        lib.psa_commit(core.writer)
        check_buckets(core, model)
        empty.append(core.buckets().count(0))
    assert sum(empty[-1000:]) > 3 * 1000
