"""The arena as its writer holds it: create, take over, change pools, commit.

The control segment /NAME holds identity, generation, liveness and the writer lock, and outlives data
segments. The data segment /NAME.GENERATION holds the pools. A new generation is built whole before the
control segment names it; the old one is then marked superseded and unlinked.
"""

import contextlib
import logging
import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arena.errors import (
    ArenaClosed,
    ArenaDamaged,
    ArenaError,
    ArenaFull,
    ArenaMissing,
    ArenaNotReady,
    InvalidEventData,
    LayoutMismatch,
    SnapshotContended,
)
from arena.layouts import header as layout
from arena.layouts import slots
from arena.layouts.events import EVENT
from arena.layouts.words import ints_from_limbs
from arena.mapping import (
    REASON_NBYTES,
    MappedArena,
    Phase,
    PoolSpec,
    TokenSpec,
    check_control,
    check_identity,
    control_generation,
    control_pointer,
    control_state,
    header_offset,
    lib_name,
    owned,
    read_phase,
    read_spec,
)
from arena.native import EXCEPTIONS, ffi, lib, raise_status
from arena.segment import DIRECTORY, ControlSegment, Segment, data_name, segment_name, unlink

__all__ = [
    "ArenaImage",
    "Fault",
    "MappedArena",
    "Phase",
    "PoolSpec",
    "PoolValues",
    "TokenSpec",
    "WriterArena",
    "check_control",
    "control_pointer",
    "control_state",
    "read_phase",
]

log = logging.getLogger(__name__)

_CLAIM_TRIES = 64
# Of psa_writer: what is not in the segment and must survive a change of it.
_KEPT_BY_GROWTH = ("last_commit_ns", "reverted_top", "reverted_high", "stale_count", "fault_count")
_SYMBOL_NBYTES = 32
_MAP_NORESERVE = (
    0x4000  # Linux, but for alpha, mips, parisc and sparc; mmap names it from Python 3.13
)
_PAGE = 4096
_MAX_GENERATION = 1 << 62  # a number above it was written by no writer: they count from 1
UNDO_BLOCKS_KEPT = 64  # that an image can undo; a reorg that goes deeper is read anew
# 64 blocks of 17,800 records, three for a liquidity event and one for each pool another touches: 10 times
# Ethereum's 500 events a block, whatever they are.
UNDO_NBYTES = 96 << 20

_FULL = {
    lib.PSA_FULL_POOLS: ("pools", "--max-pools"),
    lib.PSA_FULL_TICKS: ("tick heap", "--tick-bytes"),
    lib.PSA_FULL_TOKENS: ("tokens", "--max-pools"),
    lib.PSA_FULL_SHM: ("pages of /dev/shm", "the size of /dev/shm"),
}


def _cut_utf8(text: str, nbytes: int) -> bytes:
    """At most `nbytes` of UTF-8, cut between characters."""
    return text.encode("utf-8", "replace")[:nbytes].decode("utf-8", "ignore").encode()


def process_start_time(pid: int) -> int:
    """Clock ticks since boot at which a process started; 0 when there is no such process.

    Source: field 22 of /proc/PID/stat; field 2 may hold spaces and parentheses.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


def _boot_id() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


@dataclass(frozen=True, slots=True)
class PoolValues:
    """A pool's whole state at the end of `block_number`.

    `ticks` are (tick, liquidity_gross, liquidity_net), ascending. For V4 the stored fee is `lp_fee`, and
    `fee_block` is the block at which lp_fee and protocol_fee (24 bits as stored) were read.
    """

    block_number: int
    fee_pips: int
    reserve0: int = 0
    reserve1: int = 0
    sqrt_price_x96: int = 0
    tick: int = 0
    liquidity: int = 0
    ticks: tuple[tuple[int, int, int], ...] = ()
    protocol_fee: int = 0
    lp_fee: int = 0
    fee_block: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """One event that could not be applied; `slot` is None when its pool is not in the arena."""

    status: int
    error: type[Exception]
    slot: int | None
    key: bytes
    block_number: int
    tx_index: int
    log_index: int
    kind: int
    protocol: int
    made_stale: bool


@dataclass(frozen=True, slots=True)
class ArenaImage:
    """A data segment's content at its last commit: pieces (offset, bytes), the header page first.

    What lies between the pieces is zero or of no account.
    """

    nbytes: int
    pieces: tuple[tuple[int, bytes], ...]

    @property
    def header(self) -> np.void:
        """The header page (dtype layouts.header.HEADER)."""
        found: np.void = np.frombuffer(self.pieces[0][1], layout.HEADER)[0]
        return found

    @property
    def record(self) -> np.void:
        """Its commit record (dtype layouts.header.COMMIT_RECORD)."""
        header = self.header
        found: np.void = header["commits"][int(header["committed"]) & 1]
        return found


def _pad_key(key: bytes) -> bytes:
    if len(key) not in (20, 32):
        raise ValueError(f"a pool key has 20 or 32 bytes, not {len(key)}")
    return key.ljust(32, b"\0")


def _limit(value: int, bits: int, field: str, *, signed: bool = False) -> int:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise InvalidEventData(
            f"{field} {value} does not fit {'int' if signed else 'uint'}{bits}",
            field=field,
            value=value,
        )
    return value


class WriterArena:
    """The arena as its one writer holds it: both segments, the writer lock, and the open commit.

    Only one thread may change pools and commit; heartbeat and set_phase may come from another. Use after
    close raises ArenaClosed.
    """

    def __init__(self, name: str, control: ControlSegment, segment: Segment) -> None:
        self.name = name
        self._control = control
        self._segment = segment
        self._shared = control_pointer(control)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._open = True
        self._specs: dict[int, PoolSpec] = {}
        self._line = ffi.new("psa_line *")
        self._slot = ffi.new("uint32_t *")
        self._write_to(segment)
        self._check(lib.psa_slots_reclaim(self._writer), "slots")

    def _write_to(self, segment: Segment) -> None:
        """Go on in this segment. ArenaDamaged, and nothing of account changed, when it contradicts itself."""
        base = ffi.from_buffer("uint8_t *", segment.map, require_writable=True)
        head = ffi.cast("psa_header *", base)
        touched = ffi.new("uint64_t[]", head.max_pools)
        dirty = ffi.new("uint32_t[]", head.max_pools)
        writer = ffi.new("psa_writer *")
        status = lib.psa_writer_open(writer, base, segment.nbytes, segment.fd, touched, dirty)
        if status == lib.PSA_DAMAGED:
            what = ffi.string(writer.damage).decode()
            raise ArenaDamaged(
                f"{segment.name} contradicts itself at {what} {writer.damage_at}: another program wrote "
                "to it, or its memory failed",
                segment=segment.name,
                what=what,
                index=writer.damage_at,
            )
        if status in _FULL:
            raise ArenaFull(
                f"{segment.name} has lost pages it once had, and /dev/shm has none left; make it larger",
                name=self.name,
                table=_FULL[status][0],
            )
        if status:
            raise_status(status, f"{segment.name} cannot be written: its header contradicts itself")
        self._segment, self._base, self._writer = segment, base, writer
        self._touched, self._dirty = touched, dirty
        self._arena = ffi.addressof(writer, "arena")
        self._header = self._arena.header
        self._counters = np.frombuffer(
            segment.map, "<u8", layout.COUNTERS, header_offset("counters")
        )

    # Life

    @classmethod
    def create(
        cls,
        name: str,
        *,
        max_pools: int = 16384,
        max_tokens: int | None = None,
        tick_bytes: int = 64 << 20,
        undo_blocks: int = 1024,
        undo_bytes: int = UNDO_NBYTES,
        undo_records: int | None = None,
        mode: int = 0o600,
        group: str | int | None = None,
        chain_id: int = 0,
        image: ArenaImage | None = None,
    ) -> Self:
        """Build a new generation and make it the current one.

        `max_tokens` is twice `max_pools` unless given, `undo_records` what fits `undo_bytes`. With an
        `image` it begins with that content, and capacities are at least the image's; LayoutMismatch
        when the image is no arena's, ArenaDamaged when it contradicts itself. ArenaBusy while another
        writer lives, ArenaFull when shared memory has no room for the fixed tables, OwnerMismatch when
        the name belongs to another user. What this user has under the name and no living writer holds is
        replaced when it is no control segment of this layout: of another one, or damaged.
        """
        name = segment_name(name)
        max_tokens = 2 * max_pools if max_tokens is None else max_tokens
        if undo_records is None:
            undo_records = undo_bytes // slots.UNDO_RECORD.itemsize
        source = None if image is None else _map_image(image)
        if source is not None:
            max_pools = max(max_pools, source.max_pools)
            max_tokens = max(max_tokens, source.max_tokens)
            tick_bytes = max(tick_bytes, source.heap_nbytes)
            undo_blocks = max(undo_blocks, source.undo_entry_count)
            undo_records = max(undo_records, source.undo_record_count)
        capacities = _capacities(name, max_pools, max_tokens, undo_blocks, undo_records, tick_bytes)
        control = _claim(name, mode, group)
        shared = control_pointer(control)
        previous = control_generation(shared)
        if previous > _MAX_GENERATION:
            previous = 0
        segment: Segment | None = None
        try:
            _supersede(name, previous - 1)  # its writer may have died before it came to this
            # Before anything else: whoever sees a living writer must not see the last one's phase.
            _write_phase(shared, layout.PHASE_NUMBERS["starting"])
            if control_state(shared) != layout.STATE_READY:
                lib.psa_store_release_u32(ffi.addressof(shared, "state"), layout.STATE_CREATING)
            control.set_access(mode, group)
            generation = previous + 1
            segment = _new_generation(name, generation, capacities, mode, group, source)
            writer = cls(name, control, segment)
            shared.data_nbytes = segment.nbytes
            shared.created_unix_ns = time.time_ns()
            shared.chain_id = chain_id
            writer._take_office()
            lib.psa_store_release_u64(ffi.addressof(shared, "generation"), generation)
            lib.psa_store_release_u32(ffi.addressof(shared, "state"), layout.STATE_READY)
            _supersede(name, previous)
        except BaseException:
            if segment is not None:
                segment.close()
                unlink(segment.name)
            if previous == 0:
                unlink(name)
            control.unlock()
            control.close()
            raise
        return writer

    @classmethod
    def take_over(
        cls, name: str, *, mode: int | None = None, group: str | int | None = None
    ) -> Self:
        """Continue on the segment a dead or closed writer left, at its last commit.

        `mode`, and then `group`, are the permissions from now on; None leaves them. Pools that were live
        then still are, at that block, also those it showed as syncing while a gap
        was open; those it was just reading are stale.
        ArenaMissing, ArenaPermission, ArenaBusy, LayoutMismatch; ArenaDamaged when it was cut short or
        its content contradicts itself; ArenaNotReady when its creation was never finished.
        """
        name = segment_name(name)
        control = ControlSegment.attach_writable(name, layout.CONTROL_NBYTES)
        try:
            control.lock()
            if not control.is_linked():
                raise ArenaMissing(f"{name} was unlinked just now", name=name)
            shared = control_pointer(control)
            check_control(shared, name)
            generation = control_generation(shared)
            if control_state(shared) == layout.STATE_CREATING or generation == 0:
                raise ArenaNotReady(
                    f"the creation of {name} was never finished; create it anew", name=name
                )
            if generation > _MAX_GENERATION:
                raise ArenaDamaged(
                    f"{name} names generation {generation}, which no writer counts to", name=name
                )
            phase = _phase_left(shared)
            _write_phase(shared, layout.PHASE_NUMBERS["starting"], "", (0, 0))  # not the dead one's
            # What it had begun or not finished when it died, growing.
            unlink(data_name(name, generation + 1))
            _supersede(name, generation - 1)
            segment = Segment.attach(data_name(name, generation), writable=True)
            if mode is not None:
                control.set_access(mode, group)
                segment.set_access(mode, group)
            MappedArena(segment, generation).close()  # checks the header
            writer = cls(name, control, segment)
            writer._settle_statuses(phase)
            writer._take_office()
            lib.psa_store_release_u32(ffi.addressof(shared, "state"), layout.STATE_READY)
        except BaseException:
            control.unlock()
            control.close()
            raise
        return writer

    def _settle_statuses(self, phase: str) -> None:
        """Values a dead writer was still joining to the stream are of no known block."""
        joining = phase in ("starting", "scraping", "replaying")
        status = slots.STATUS_STALE if joining else slots.STATUS_LIVE
        unsure = slots.UNSURE_ALL if joining else 0
        self.set_status_all(slots.STATUS_SYNCING, status, unsure)
        self.commit()

    def grow(
        self,
        *,
        max_pools: int | None = None,
        max_tokens: int | None = None,
        tick_bytes: int | None = None,
        undo_bytes: int | None = None,
    ) -> None:
        """Go on in a new generation with larger tables, which attached readers follow.

        What is given is a capacity, None keeps it; ValueError for one below the present. Slots, commits
        and what can be undone stay; `counters` and `native` are other objects then. Between two commits:
        RuntimeError inside a reorg envelope. ArenaFull when shared memory has no room, for both
        generations at the same time; the present one then stays.
        """
        writer = self._live()
        self.commit()
        if writer.in_reorg:
            raise RuntimeError(f"{self.name} cannot grow inside a reorg envelope")
        head = self._header
        wanted = [
            (max_pools, int(head.max_pools)),
            (max_tokens, int(head.max_tokens)),
            (tick_bytes, int(head.heap_nbytes)),
            (undo_bytes, self.undo_bytes),
        ]
        pools, tokens, heap, undo = (now if given is None else given for given, now in wanted)
        if any(given is not None and given < now for given, now in wanted):
            raise ValueError(
                f"{self.name} only grows: {pools} pools, {tokens} tokens, {heap} tick bytes, "
                f"{undo} undo bytes"
            )
        records = undo // slots.UNDO_RECORD.itemsize
        capacities = _capacities(self.name, pools, tokens, head.undo_entry_count, records, heap)
        old, generation = self._segment, self.generation + 1
        access = os.fstat(old.fd)
        segment = _new_generation(
            self.name, generation, capacities, access.st_mode & 0o777, access.st_gid, self._arena
        )
        try:
            fresh = ffi.from_buffer("psa_header *", segment.map, require_writable=True)
            fresh.origin = head.origin
            del fresh
            self._write_to(segment)
        except BaseException:
            segment.close()
            unlink(segment.name)
            raise
        for field in _KEPT_BY_GROWTH:
            setattr(self._writer, field, getattr(writer, field))
        ffi.memmove(self._writer.faults, writer.faults, ffi.sizeof(writer.faults))
        self._shared.data_nbytes = segment.nbytes
        lib.psa_store_release_u64(ffi.addressof(self._shared, "generation"), generation)
        lib.psa_supersede(head)
        unlink(old.name)
        del head, writer
        old.close()

    def image(self) -> ArenaImage | None:
        """A copy of everything at the last commit, and of what undoes its newest 64 blocks; None inside
        a reorg envelope."""
        writer = self._live()
        self.commit()
        if writer.in_reorg:
            return None
        head = self._header
        view = memoryview(self._segment.map)
        entries, records = self._undo_kept()
        pieces = (
            (0, layout.HEADER_NBYTES),
            (head.statics_offset, head.slots_used * slots.STATIC.itemsize),
            (head.slots_offset, head.slots_used * slots.SLOT.itemsize),
            (head.tokens_offset, head.tokens_used * slots.TOKEN.itemsize),
            *records,
            (head.heap_offset, head.heap_top),
        )
        try:
            copied = [(start, bytes(view[start : start + size])) for start, size in pieces]
        finally:
            view.release()
        copied.append((head.undo_entries_offset, entries))
        return ArenaImage(self._segment.nbytes, tuple(sorted(copied)))

    def _undo_kept(self) -> tuple[bytes, list[tuple[int, int]]]:
        """The table of undo entries with only the newest blocks in it, and (offset, size) of the pieces
        of the ring with their records, ascending and apart."""
        head = self._header
        count = int(head.undo_record_count)
        table = np.frombuffer(
            self._segment.map, slots.UNDO_ENTRY, head.undo_entry_count, head.undo_entries_offset
        )
        kept = np.zeros_like(table)
        runs = []
        seq = int(self._writer.record.undo_top)
        for _ in range(min(UNDO_BLOCKS_KEPT, self._undo_depth())):
            entry = table[seq % len(table)]
            kept[seq % len(table)] = entry
            first, size = int(entry["first_record"]) % count, int(entry["record_count"])
            runs.append((first, min(first + size, count)))
            runs.append((0, max(first + size - count, 0)))
            seq = int(entry["prev"])
        pieces: list[tuple[int, int]] = []
        for first, end in sorted(run for run in runs if run[0] < run[1]):
            if pieces and first <= pieces[-1][1]:
                pieces[-1] = (pieces[-1][0], max(end, pieces[-1][1]))
            else:
                pieces.append((first, end))
        nbytes = slots.UNDO_RECORD.itemsize
        start = int(head.undo_records_offset)
        return kept.tobytes(), [
            (start + first * nbytes, (end - first) * nbytes) for first, end in pieces
        ]

    def _undo_depth(self) -> int:
        """How many blocks can be undone, at most UNDO_BLOCKS_KEPT."""
        numbers = ffi.new("uint64_t[]", UNDO_BLOCKS_KEPT)
        hashes = ffi.new("uint8_t[]", 32 * UNDO_BLOCKS_KEPT)
        return int(lib.psa_undo_blocks(self._writer, numbers, hashes, UNDO_BLOCKS_KEPT))

    def _take_office(self) -> None:
        shared = self._shared
        pid = os.getpid()
        shared.writer_pid = pid
        shared.writer_start_time = process_start_time(pid)
        ffi.memmove(shared.boot_id, _boot_id(), 16)
        ffi.memmove(shared.writer_version, _version().encode()[:31].ljust(32, b"\0"), 32)
        self.heartbeat()
        self.set_phase("starting")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(unlink=False)

    def close(self, *, unlink: bool) -> None:
        """Stop writing: state closed, phase stopped, lock given back. Committed pools stay readable.

        With `unlink` the names go too; readers that are attached keep their frozen mapping. Changes
        since the last commit are dropped. A second close does nothing; in a forked child close only
        lets go.
        """
        if not self._open:
            return
        if os.getpid() == self._pid:
            lib.psa_abort(self._writer)
            self.set_phase("stopped")
            lib.psa_store_release_u32(ffi.addressof(self._shared, "state"), layout.STATE_CLOSED)
            if unlink:
                _unlink_both(self._segment.name, self.name)
                # Readers then look for a successor under the name.
                lib.psa_supersede(self._header)
            self._control.unlock()
        with self._lock:
            self._open = False
            del self._shared, self._writer, self._arena, self._header, self._base, self._counters
        self._segment.close()
        self._control.close()

    def _live(self) -> Any:
        if not self._open:
            raise ArenaClosed(f"the writer of {self.name} is closed", name=self.name)
        return self._writer

    def _check(self, status: int, what: str, **fields: Any) -> None:
        if status == 0:
            return
        if status in _FULL:
            table, remedy = _FULL[status]
            head = self._header
            raise ArenaFull(
                f"{what}: {self.name} has no room left in {table} "
                f"({head.slots_used} of {head.max_pools} pools, {head.tokens_used} of "
                f"{head.max_tokens} tokens, {head.heap_top} of {head.heap_nbytes} tick bytes, "
                f"{head.heap_reserved} of them with pages); raise {remedy}",
                name=self.name,
                table=table,
                **fields,
            )
        raise_status(status, f"{what}: {lib_name(status)}", **fields)

    # Pools

    def add_pool(self, spec: PoolSpec) -> int:
        """Slot of a pool, new or known. A new one is invisible until its first install or announcement
        is committed.

        ValueError for a key of a wrong length, or one whose removal is not committed yet; ArenaFull when
        pools or tokens are at capacity.
        """
        writer = self._live()
        row = ffi.new("psa_static *")
        ffi.memmove(row.key, _pad_key(spec.key), 32)
        ffi.memmove(row.factory, _address(spec.factory, "factory"), 20)
        ffi.memmove(row.hooks, _address(spec.hooks, "hooks"), 20)
        row.key_nbytes = len(spec.key)
        row.protocol = spec.protocol
        row.fee_pips = spec.fee_pips
        row.tick_spacing = spec.tick_spacing
        if spec.protocol == slots.UNISWAP_V4:
            if int.from_bytes(spec.hooks, "big") & slots.HOOKS_SWAP_BITS:
                row.flags |= slots.POOL_HOOKED
            if spec.fee_pips == slots.DYNAMIC_FEE_PIPS:
                row.flags |= slots.POOL_DYNAMIC_FEE
        row.token0 = self._add_token(spec.token0)
        row.token1 = self._add_token(spec.token1)
        status = lib.psa_pool_add(writer, row, self._slot)
        if status == lib.PSA_BAD_ARGUMENT:
            raise ValueError(f"pool {spec.key.hex()} is removed by the open commit: commit first")
        self._check(status, f"pool {spec.key.hex()}", key=spec.key)
        slot = int(self._slot[0])
        self._specs.pop(slot, None)
        return slot

    def _add_token(self, spec: TokenSpec) -> int:
        token = ffi.new("psa_token *")
        ffi.memmove(token.address, _address(spec.address, "token"), 20)
        if spec.decimals is not None:
            token.decimals = spec.decimals
            token.flags = slots.TOKEN_DECIMALS_KNOWN
        symbol = _cut_utf8(spec.symbol, _SYMBOL_NBYTES)
        token.symbol_nbytes = len(symbol)
        ffi.memmove(token.symbol, symbol, len(symbol))
        self._check(
            lib.psa_token_add(self._writer, token, self._slot),
            f"token {spec.address.hex()}",
            address=spec.address,
        )
        return int(self._slot[0])

    def find(self, key: bytes) -> int | None:
        """Slot of a key of 20 or 32 bytes; None when it has none, or was removed."""
        found = lib.psa_pool_find(self._live(), _pad_key(key), self._slot) == lib.PSA_OK
        return int(self._slot[0]) if found else None

    def pools(self) -> dict[bytes, int]:
        """Slots of the pools that are committed and not removed, by key of 20 or 32 bytes."""
        statuses = self._statuses()
        gone = (statuses == slots.STATUS_ABSENT) | (statuses == slots.STATUS_REMOVED)
        there = np.flatnonzero(~gone)
        return {self.spec(int(slot)).key: int(slot) for slot in there}

    def slot_of(self, key: bytes) -> int | None:
        """Slot of a pool that is committed and not removed; None for any other key."""
        slot = self.find(key)
        if slot is None:
            return None
        status = lib.psa_pool_read(self._arena, slot, 0, self._header.committed, self._line)
        gone = self._line.fee_status >> 24 in (slots.STATUS_ABSENT, slots.STATUS_REMOVED)
        return None if status or gone else slot

    def status(self, slot: int) -> int:
        """Committed status of a slot."""
        status = lib.psa_pool_read(self._arena, slot, 0, self._header.committed, self._line)
        return slots.STATUS_ABSENT if status else int(self._line.fee_status) >> 24

    def announce(self, slot: int) -> None:
        """Show a new pool as syncing, without values, in the open commit.

        ValueError when it is shown already, PoolRemoved when it was taken away.
        """
        status = lib.psa_pool_announce(self._live(), slot)
        if status == lib.PSA_BAD_ARGUMENT:
            raise ValueError(f"slot {slot} shows a pool already, or was never given out")
        self._check(status, f"slot {slot}", slot=slot)

    def remove_pool(self, slot: int) -> None:
        """Take a pool away in the open commit; its slot may be used again once that is committed.

        Ask add_pool for a slot if it comes back. ValueError when the slot shows no pool.
        """
        if lib.psa_pool_remove(self._live(), slot):
            raise ValueError(f"slot {slot} shows no pool that could be removed")
        self._specs.pop(slot, None)

    def spec(self, slot: int) -> PoolSpec:
        """What add_pool was given, as the segment holds it. IndexError for a slot never used."""
        self._live()
        found = self._specs.get(slot)
        if found is None:
            found = self._specs[slot] = read_spec(self._arena, slot)
        return found

    def install(
        self, slot: int, values: PoolValues, status: int = slots.STATUS_SYNCING, *, unsure: int = 0
    ) -> None:
        """Replace a pool's whole state in the open commit.

        InvalidEventData when the values contradict each other or do not fit; ArenaFull when the tick
        heap is at capacity; PoolRemoved when the pool was taken away. Nothing is changed then.
        """
        writer = self._live()
        spec = self.spec(slot)
        line = self._line
        ffi.memmove(line, bytes(128), 128)
        fee = values.fee_pips
        if spec.protocol == slots.UNISWAP_V2:
            _limit(values.reserve0, 112, "reserve0")
            _limit(values.reserve1, 112, "reserve1")
            low, liquidity = values.reserve0, values.reserve1
        else:
            _limit(values.sqrt_price_x96, 160, "sqrt_price_x96")
            line.sqrt_price_hi = values.sqrt_price_x96 >> 128
            low = values.sqrt_price_x96 & ((1 << 128) - 1)
            liquidity = _limit(values.liquidity, 128, "liquidity")
            line.tick = _limit(values.tick, 24, "tick", signed=True)
        if spec.protocol == slots.UNISWAP_V4:
            fee = values.lp_fee
            line.protocol_fee = _limit(values.protocol_fee, 24, "protocol_fee")
            line.fee_block = values.fee_block
        ffi.memmove(line.a, low.to_bytes(16, "little"), 16)
        ffi.memmove(line.b, liquidity.to_bytes(16, "little"), 16)
        line.fee_status = _limit(fee, 24, "fee") | status << 24
        line.unsure = unsure
        line.base_block = _limit(values.block_number, 64, "block_number")
        for tick, gross, net in values.ticks:
            _limit(tick, 24, "tick", signed=True)
            _limit(gross, 128, "liquidity_gross")
            _limit(net, 128, "liquidity_net", signed=True)
        count = len(values.ticks)
        ticks = struct.pack(f"<{count}i", *(tick for tick, _, _ in values.ticks))
        gross_bytes = b"".join([gross.to_bytes(16, "little") for _, gross, _ in values.ticks])
        net_bytes = b"".join([net.to_bytes(16, "little", signed=True) for *_, net in values.ticks])
        found = lib.psa_pool_install(
            writer,
            slot,
            line,
            ffi.from_buffer("int32_t *", ticks),
            ffi.from_buffer("uint64_t *", gross_bytes),
            ffi.from_buffer("uint64_t *", net_bytes),
            count,
        )
        self._check(found, f"state of pool {spec.key.hex()}", key=spec.key, slot=slot)

    def set_status(self, slot: int, status: int, unsure: int = 0) -> None:
        """Change one pool's status to SYNCING, LIVE or STALE in the open commit.

        ValueError for another status, or when the slot shows no pool that has been read.
        """
        if lib.psa_pool_set_status(self._live(), slot, status, unsure):
            raise ValueError(
                f"slot {slot} cannot get status {status}: it shows no pool with values"
            )

    def set_status_all(self, from_status: int, to_status: int, unsure: int = 0) -> None:
        """Change the status of all pools that have status `from_status`, in the open commit."""
        found = lib.psa_set_status_all(self._live(), from_status, to_status, unsure)
        self._check(found, f"status {from_status} to {to_status}")

    def set_protocol_fee(self, slot: int, protocol_fee: int, block_number: int) -> None:
        """A V4 pool's protocol fee as a block up to the head set it, in the open commit; without
        effect when its fees are of that block or a later one. A fee no contract takes makes it stale.

        ValueError for a pool without values, or of another protocol.
        """
        writer = self._live()
        status = lib.psa_pool_set_protocol_fee(writer, slot, protocol_fee, block_number)
        if status == lib.PSA_INVALID_EVENT_DATA:
            self.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        elif status:
            raise ValueError(f"slot {slot} shows no V4 pool with values")

    def values(self, slot: int) -> PoolValues:
        """A pool's committed values; `block_number` is that of the head. ValueError for a slot without a
        pool."""
        self._live()
        line = ffi.new("psa_line *")
        count = 64
        while True:
            ticks = np.zeros(count, np.int32)
            net, gross = np.zeros((2, count, 2), "<u8")
            pointers = (ffi.from_buffer("int32_t *", ticks), ffi.from_buffer("uint64_t *", net))
            status = lib.psa_pool_read_ticks(
                self._arena,
                slot,
                0,
                self._header.committed,
                line,
                *pointers,
                ffi.from_buffer("uint64_t *", gross),
                count,
            )
            if status != lib.PSA_BUFFER_TOO_SMALL:
                break
            count = line.tick_count
        if status or line.fee_status >> 24 in (slots.STATUS_ABSENT, slots.STATUS_REMOVED):
            raise ValueError(f"slot {slot} of {self.name} holds no pool")
        fee = int(line.fee_status & 0xFFFFFF)
        low, high = line.a[0] | line.a[1] << 64, line.b[0] | line.b[1] << 64
        block = self.head_block
        if self.spec(slot).protocol == slots.UNISWAP_V2:
            return PoolValues(block, fee, reserve0=low, reserve1=high)
        used = int(line.tick_count)
        columns = (
            ticks[:used].tolist(),
            ints_from_limbs(gross[:used]),
            ints_from_limbs(net[:used], signed=True),
        )
        return PoolValues(
            block,
            fee,
            sqrt_price_x96=low | line.sqrt_price_hi << 128,
            tick=int(line.tick),
            liquidity=high,
            ticks=tuple(zip(*columns, strict=True)),
            protocol_fee=int(line.protocol_fee),
            lp_fee=fee if self.spec(slot).protocol == slots.UNISWAP_V4 else 0,
            fee_block=int(line.fee_block),
        )

    def stale_slots(self) -> npt.NDArray[np.uint32]:
        """(n,) slots whose committed status is STALE, ascending."""
        return self.slots_with(slots.STATUS_STALE)

    def slots_with(self, status: int) -> npt.NDArray[np.uint32]:
        """(n,) slots with that committed status, ascending."""
        self._live()
        return np.flatnonzero(self._statuses() == status).astype(np.uint32)

    def unread_slots(self) -> npt.NDArray[np.uint32]:
        """(n,) slots of pools that are announced and have no values yet, ascending."""
        self._live()
        return np.flatnonzero(self._lines()["unsure"] & slots.UNSURE_UNREAD).astype(np.uint32)

    def slots_scraped_above(self, block_number: int) -> npt.NDArray[np.uint32]:
        """(n,) slots of pools whose values were read above that block, ascending."""
        self._live()
        return np.flatnonzero(self._lines()["scrape_block"] > block_number).astype(np.uint32)

    def slots_with_fees_from(self, block_number: int) -> npt.NDArray[np.uint32]:
        """(n,) slots of V4 pools whose fees were read, or told, at that block or above, ascending."""
        self._live()
        lines = self._lines()
        chosen = np.flatnonzero(lines["fee_block"] >= block_number)
        return np.array(
            [
                slot
                for slot in chosen.tolist()
                if self._arena.statics[slot].protocol == slots.UNISWAP_V4
            ],
            np.uint32,
        )

    def _statuses(self) -> npt.NDArray[np.uint8]:
        """(slots_used,) committed status of each slot."""
        found: npt.NDArray[np.uint8] = self._lines()["status"].copy()
        return found

    def _lines(self) -> npt.NDArray[np.void]:
        """(slots_used,) committed line of each slot."""
        used = self._header.slots_used
        commit = self._header.committed
        lines = np.zeros(used, slots.LINE)
        if used and commit:
            numbers = np.arange(used, dtype=np.uint64)
            failed = ffi.new("uint32_t *")
            status = lib.psa_snapshot(
                self._arena,
                ffi.from_buffer("uint64_t *", numbers),
                used,
                commit,
                ffi.from_buffer("psa_line *", lines),
                failed,
            )
            self._check(status, f"slot {failed[0]}", slot=failed[0])
        return lines

    # Blocks

    def apply(
        self,
        records: npt.NDArray[np.void],
        *,
        min_commit_ns: int = 0,
        only_slot: int | None = None,
    ) -> None:
        """Apply complete units of event records (dtype layouts.events.EVENT) in arrival order.

        Commits at block ends when `min_commit_ns` passed since the last commit (0: each block).
        `only_slot` restricts to one pool and leaves head, undo ring and commits alone. Events that
        cannot be applied are counted and listed by take_faults.
        """
        writer = self._live()
        if records.dtype != EVENT:
            raise TypeError(f"records have dtype {records.dtype}, not layouts.events.EVENT")
        if len(records) == 0:
            return
        status = lib.psa_apply(
            writer,
            ffi.from_buffer("psa_event *", records),
            len(records),
            min_commit_ns,
            slots.NO_SLOT if only_slot is None else only_slot,
        )
        self._check(status, f"{len(records)} event records")

    def follows(self, records: npt.NDArray[np.void], tip: int) -> bool:
        """Whether `records` are nothing but whole blocks from tip + 1 on, none of them reverted."""
        pointer = ffi.from_buffer("psa_event *", records)
        return bool(lib.psa_blocks_follow(pointer, len(records), tip))

    def commit(self) -> None:
        """Publish the open commit and wake waiting readers; nothing when it is empty."""
        self._check(lib.psa_commit(self._live()), "commit")

    def abort(self) -> None:
        """Drop everything since the last commit."""
        self._check(lib.psa_abort(self._live()), "abort")

    def undo_clear(self) -> None:
        """Forget all undo entries: after a gap no block below can be undone."""
        self._check(lib.psa_undo_clear(self._live()), "undo ring")

    def undoable(self) -> list[tuple[int, bytes | None]]:
        """Blocks that can be undone, the head first: number, and hash where it was noted."""
        capacity = int(self._header.undo_entry_count)
        numbers = np.zeros(capacity, np.uint64)
        hashes = np.zeros((capacity, 32), np.uint8)
        count = lib.psa_undo_blocks(
            self._live(),
            ffi.from_buffer("uint64_t *", numbers),
            ffi.from_buffer("uint8_t *", hashes),
            capacity,
        )
        return [
            (int(numbers[index]), found if any(found := hashes[index].tobytes()) else None)
            for index in range(count)
        ]

    def note_hash(self, block_number: int, block_hash: bytes) -> bool:
        """Keep the hash of a block that can be undone; False when there is none of that number."""
        if len(block_hash) != 32:
            raise ValueError(f"a block hash has 32 bytes, not {len(block_hash)}")
        return bool(lib.psa_undo_set_hash(self._live(), block_number, block_hash) == lib.PSA_OK)

    def set_head(
        self,
        block_number: int,
        *,
        block_hash: bytes = bytes(32),
        timestamp: int = 0,
        base_fee: int = 0,
        stream_seq: int = 0,
    ) -> None:
        """Set the head the open commit will publish."""
        writer = self._live()
        record = writer.record
        record.block_number = record.fees_block = block_number
        if len(block_hash) != 32:
            raise ValueError(f"a block hash has 32 bytes, not {len(block_hash)}")
        ffi.memmove(record.block_hash, block_hash, 32)
        record.timestamp = timestamp
        record.base_fee = base_fee
        record.stream_seq = stream_seq
        writer.pending = 1

    def take_faults(self) -> tuple[list[Fault], int]:
        """Faults since the last call, and how many more there were than the list holds."""
        writer = self._live()
        listed = min(writer.fault_count, lib.PSA_FAULTS)
        found = []
        for index in range(listed):
            fault = writer.faults[index]
            found.append(
                Fault(
                    status=fault.status,
                    error=EXCEPTIONS.get(fault.status, ArenaError),
                    slot=None if fault.slot == slots.NO_SLOT else fault.slot,
                    key=bytes(ffi.buffer(fault.key)),
                    block_number=fault.block_number,
                    tx_index=fault.tx_index,
                    log_index=fault.log_index,
                    kind=fault.kind,
                    protocol=fault.protocol,
                    made_stale=bool(fault.made_stale),
                )
            )
        dropped = writer.fault_count - listed
        writer.fault_count = 0
        return found, dropped

    @property
    def fees_block(self) -> int:
        """The block up to which protocol fees of V4 are in the open commit."""
        return int(self._live().record.fees_block)

    @fees_block.setter
    def fees_block(self, block_number: int) -> None:
        writer = self._live()
        writer.record.fees_block = block_number
        writer.pending = 1

    @property
    def head_block(self) -> int:
        """Head of the last commit; 0 = none yet."""
        self._live()
        record = ffi.new("psa_commit_record *")
        self._check(lib.psa_pin(self._arena, record), "commit record")
        return int(record.block_number)

    @property
    def committed(self) -> int:
        """Number of the last commit; 0 = none yet."""
        self._live()
        return int(self._header.committed)

    @property
    def generation(self) -> int:
        """Number of the data segment, from 1."""
        self._live()
        return int(self._header.generation)

    @property
    def chain_id(self) -> int:
        """Chain the pools belong to; 0 = unknown."""
        self._live()
        return int(self._shared.chain_id)

    @property
    def max_pools(self) -> int:
        """Capacity in pools, as of the present generation."""
        self._live()
        return int(self._header.max_pools)

    @property
    def max_tokens(self) -> int:
        """Capacity in tokens, as of the present generation."""
        self._live()
        return int(self._header.max_tokens)

    @property
    def tick_bytes(self) -> int:
        """Size of the tick heap, as of the present generation."""
        self._live()
        return int(self._header.heap_nbytes)

    @property
    def undo_bytes(self) -> int:
        """Size of the undo ring, as of the present generation."""
        self._live()
        return int(self._header.undo_record_count) * slots.UNDO_RECORD.itemsize

    @property
    def is_tight(self) -> bool:
        """More than three quarters of the tick heap were handed out at some time."""
        head = self._header
        return bool(4 * head.heap_top > 3 * head.heap_nbytes)

    @property
    def slot_count(self) -> int:
        """Slots given out so far; slots are 0 .. slot_count - 1."""
        self._live()
        return int(self._header.slots_used)

    @property
    def native(self) -> Any:
        """The psa_writer; it dies with close, and another one goes on after grow."""
        return self._live()

    @property
    def counters(self) -> npt.NDArray[np.uint64]:
        """(192,) writable view of the counters of this generation, indices as
        layouts.header.COUNTER_NAMES."""
        self._live()
        return self._counters

    # Liveness

    def heartbeat(self) -> None:
        """Tell readers that this writer is alive and not hung."""
        with self._lock:
            self._live()
            shared = self._shared
            shared.heartbeat_count = (shared.heartbeat_count + 1) & 0xFFFFFFFFFFFFFFFF
            now = time.monotonic_ns()
            lib.psa_store_release_u64(ffi.addressof(shared, "heartbeat_ns"), now)

    @property
    def phase_name(self) -> str:
        """The phase that readers see."""
        self._live()
        return read_phase(self._shared).name

    def set_phase(self, phase: str | int, reason: str = "", gap: tuple[int, int] = (0, 0)) -> None:
        """Tell readers what the writer is doing. `reason` is cut at 216 bytes; ValueError for no phase."""
        number = layout.PHASE_NUMBERS.get(phase) if isinstance(phase, str) else phase
        if number is None or not 0 <= number < len(layout.PHASE_NAMES):
            raise ValueError(f"{phase!r} is no phase; phases are {', '.join(layout.PHASE_NAMES)}")
        with self._lock:
            self._live()
            _write_phase(self._shared, number, reason, gap)


@cache
def _version() -> str:
    import importlib.metadata  # readers have no use for it

    try:
        return importlib.metadata.version("pool-state-arena")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _capacities(
    name: str, max_pools: int, max_tokens: int, undo_blocks: int, undo_records: int, tick_bytes: int
) -> Any:
    """psa_capacities that fit together. ValueError."""
    capacities = ffi.new("psa_capacities *")
    try:
        capacities.max_pools = max_pools
        capacities.max_tokens = max_tokens
        capacities.undo_entry_count = undo_blocks
        capacities.undo_record_count = undo_records
        capacities.heap_nbytes = -(-tick_bytes // _PAGE) * _PAGE
    except OverflowError as error:
        raise ValueError(f"a capacity of {name} is out of range: {error}") from error
    if lib.psa_arena_nbytes(capacities) == 0:
        raise ValueError(
            f"a capacity of {name} is out of range: max_pools {max_pools}, max_tokens {max_tokens}, "
            f"tick_bytes {tick_bytes}, undo_blocks {undo_blocks}, undo_records {undo_records}"
        )
    return capacities


def _new_generation(
    name: str,
    generation: int,
    capacities: Any,
    mode: int,
    group: str | int | None,
    source: Any | None,
) -> Segment:
    """A data segment, empty or with the content of `source`, that nothing names yet. ArenaFull."""
    nbytes = int(lib.psa_arena_nbytes(capacities))
    segment = Segment.create(
        data_name(name, generation),
        nbytes,
        reserve_bytes=nbytes  # the rest is given pages in steps
        - int(capacities.heap_nbytes)
        - int(capacities.undo_record_count) * slots.UNDO_RECORD.itemsize
        - _PAGE,
        mode=mode,
        group=group,
    )
    try:
        base = ffi.from_buffer("uint8_t *", segment.map, require_writable=True)
        status = lib.psa_arena_format(base, nbytes, capacities, generation, layout.LAYOUT_DIGEST)
        if status == lib.PSA_OK and source is not None:
            status = lib.psa_arena_copy(base, nbytes, segment.fd, source)
            if status == lib.PSA_FULL_SHM:
                raise ArenaFull(
                    f"{segment.name} needs pages for {source.header.heap_top} tick bytes, /dev/shm "
                    "has none left; make it larger",
                    name=name,
                    table=_FULL[status][0],
                )
        if status:
            raise_status(status, f"{segment.name} cannot be made: {lib_name(status)}")
        del base
    except BaseException:
        segment.close()
        unlink(segment.name)
        raise
    return segment


def _map_image(image: ArenaImage) -> Any:
    """psa_arena over a private copy of the segment an image was taken of. LayoutMismatch; ArenaFull when
    there is no address space for it."""
    if image.nbytes < layout.HEADER_NBYTES:
        raise LayoutMismatch(f"an image of {image.nbytes} bytes has no room for its header")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        memory = mmap.mmap(-1, image.nbytes, flags=flags)
    except OSError as error:
        raise ArenaFull(f"no memory for an image of {image.nbytes} bytes: {error}") from error
    for start, piece in image.pieces:
        if start < 0 or start + len(piece) > image.nbytes:
            raise LayoutMismatch(f"an image of {image.nbytes} bytes has a piece beyond its end")
        memory[start : start + len(piece)] = piece
    base = ffi.from_buffer("uint8_t *", memory, require_writable=True)
    pointer = owned("psa_arena *", base)
    head = ffi.cast("psa_header *", base)
    check_identity(head, "the image", layout.DATA_MAGIC)
    if lib.psa_arena_open(pointer, base, image.nbytes):
        raise LayoutMismatch("capacities and offsets in the image's header do not fit its size")
    return pointer


def _write_phase(shared: Any, number: int, reason: str = "", gap: tuple[int, int] = (0, 0)) -> None:
    record = ffi.new("psa_phase *")
    record.phase = number
    record.since_ns = time.monotonic_ns()
    record.gap_first, record.gap_last = gap
    text = _cut_utf8(reason, REASON_NBYTES)
    ffi.memmove(record.reason, text, len(text))
    lib.psa_phase_write(shared, record)


def _phase_left(shared: Any) -> str:
    """What a dead writer was doing; as if nothing were finished when its record is no good."""
    try:
        return read_phase(shared).name
    except SnapshotContended:
        return "starting"


def _address(value: bytes, field: str) -> bytes:
    if len(value) != 20:
        raise ValueError(f"{field} address has 20 bytes, not {len(value)}")
    return value


def _unlink_both(data: str, control: str) -> None:
    unlink(data)
    unlink(control)


def _claim(name: str, mode: int, group: str | int | None) -> ControlSegment:
    """The locked control segment of a name in this build's layout, created or replaced as needed."""
    for _ in range(_CLAIM_TRIES):
        try:
            control = ControlSegment.attach_writable(name, layout.CONTROL_NBYTES)
        except ArenaMissing:
            try:
                control = ControlSegment.create(name, layout.CONTROL_NBYTES, mode=mode, group=group)
            except FileExistsError:
                continue
        try:
            control.lock()
            if control.is_linked():
                shared = control_pointer(control)
                if shared.magic == 0:
                    shared.layout_version = layout.LAYOUT_VERSION
                    shared.byte_order = layout.BYTE_ORDER
                    ffi.memmove(shared.layout_digest, layout.LAYOUT_DIGEST, 32)
                    magic = ffi.addressof(shared, "magic")
                    lib.psa_store_release_u64(magic, layout.CONTROL_MAGIC)
                try:
                    check_identity(shared, name, layout.CONTROL_MAGIC)
                except LayoutMismatch as error:
                    log.warning(
                        "event=segment_replaced error=%s reason=%r",
                        type(error).__name__,
                        str(error).split("; ")[0],  # the remedy is done here
                    )
                    if error.is_arena:
                        # The first 64 bytes mean the same in every layout.
                        state = ffi.addressof(shared, "state")
                        lib.psa_store_release_u32(state, layout.STATE_CLOSED)
                    _sweep(name)
                    unlink(name)
                else:
                    return control
        except BaseException:
            control.unlock()
            control.close()
            raise
        control.unlock()
        control.close()
    raise ArenaNotReady(f"{name} is being created and unlinked over and over", name=name)


def _sweep(name: str) -> None:
    """Unlink the data of every generation: no control segment names any of them."""
    for each in os.listdir(DIRECTORY):
        bare, _, number = each.rpartition(".")
        if "/" + bare == name and number.isdecimal() and str(int(number)) == number:
            with contextlib.suppress(ArenaError):  # of another user, or of another layout
                _supersede(name, int(number))


def _supersede(name: str, generation: int) -> None:
    """Mark an old generation's data as standing still, and unlink it."""
    if generation <= 0:
        return
    old = data_name(name, generation)
    try:
        segment = Segment.attach(old, writable=True)
    except ArenaMissing:
        return
    except (ArenaNotReady, ArenaDamaged):  # empty, or too large for any
        unlink(old)
        return
    except LayoutMismatch:  # a folder or the like
        return
    if segment.nbytes >= layout.HEADER_NBYTES:
        head = ffi.from_buffer("psa_header *", segment.map)
        lib.psa_supersede(head)
        del head
    segment.close()
    unlink(old)
