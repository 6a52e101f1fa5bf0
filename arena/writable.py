"""One generation of an arena as its writer has it: mapped for writing, with what C keeps beside it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaDamaged, ArenaFull
from arena.layouts import header as layout
from arena.layouts.events import EVENT
from arena.mapping import header_offset
from arena.native import ffi, lib, lib_name, raise_status
from arena.reads import newest_commit, slot_lines
from arena.segment import Segment
from arena.specs import PoolSpec, TokenSpec, pool_row, token_row

# What is full, by status, and what its owner makes larger.
FULL = {
    lib.PSA_FULL_POOLS: ("pools", "--max-pools"),
    lib.PSA_FULL_TICKS: ("tick heap", "--tick-bytes"),
    lib.PSA_FULL_TOKENS: ("tokens", "--max-pools"),
    lib.PSA_FULL_SHM: ("pages of /dev/shm", "the size of /dev/shm"),
}


class WritableGeneration:
    """One generation, mapped for writing.

    `writer` is a psa_writer, `arena` its psa_arena, `header` the segment's psa_header, `counters` (384,)
    a writable view; all of them die with close.
    """

    def __init__(self, name: str, segment: Segment) -> None:
        """Open a segment of arena `name`. ArenaDamaged, and nothing of account changed, when it
        contradicts itself; ArenaFull when it lost pages and there are no others."""
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
        if status in FULL:
            raise ArenaFull(
                f"{segment.name} has lost pages it once had, and /dev/shm has none left; make it larger",
                name=name,
                table=FULL[status][0],
            )
        if status:
            raise_status(status, f"{segment.name} cannot be written: its header contradicts itself")
        self.name = name
        self.segment = segment
        self._kept = (base, touched, dirty)  # the psa_writer points into them
        self.writer = writer
        self.arena = ffi.addressof(writer, "arena")
        self.header = self.arena.header
        self.counters = np.frombuffer(
            segment.map, "<u8", layout.COUNTERS, header_offset("counters")
        )

    @property
    def number(self) -> int:
        """Number of the data segment, from 1."""
        return int(self.header.generation)

    def check(self, status: int, what: str, **fields: Any) -> None:
        """Raise what the status of a call on `writer` means; ArenaFull shows how full each table is."""
        if status == 0:
            return
        if status in FULL:
            table, remedy = FULL[status]
            head = self.header
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

    @property
    def head_block(self) -> int:
        """Head of the last commit; 0 = none yet."""
        status, record = newest_commit(self.arena)
        self.check(status, "commit record")
        return int(record.block_number)

    def lines(self) -> npt.NDArray[np.void]:
        """(slots_used,) committed line of each slot."""
        status, slot, lines = slot_lines(self.arena, self.header.committed)
        self.check(status, f"slot {slot}", slot=slot)
        return lines

    def undoable(self) -> list[tuple[int, bytes | None]]:
        """Blocks that can be undone, the head first: number, and hash where it was noted."""
        capacity = int(self.header.undo_entry_count)
        numbers = np.zeros(capacity, np.uint64)
        hashes = np.zeros((capacity, 32), np.uint8)
        count = lib.psa_undo_blocks(
            self.writer,
            ffi.from_buffer("uint64_t *", numbers),
            ffi.from_buffer("uint8_t *", hashes),
            capacity,
        )
        return [
            (int(numbers[index]), found if any(found := hashes[index].tobytes()) else None)
            for index in range(count)
        ]

    def add_pool(self, spec: PoolSpec) -> int:
        """Slot of a pool, new or known. ValueError, ArenaFull."""
        row = pool_row(spec)
        row.token0 = self._add_token(spec.token0)
        row.token1 = self._add_token(spec.token1)
        slot = ffi.new("uint32_t *")
        status = lib.psa_pool_add(self.writer, row, slot)
        if status == lib.PSA_BAD_ARGUMENT:
            raise ValueError(f"pool {spec.key.hex()} is removed by the open commit: commit first")
        self.check(status, f"pool {spec.key.hex()}", key=spec.key)
        return int(slot[0])

    def _add_token(self, spec: TokenSpec) -> int:
        index = ffi.new("uint32_t *")
        status = lib.psa_token_add(self.writer, token_row(spec), index)
        self.check(status, f"token {spec.address.hex()}", address=spec.address)
        return int(index[0])

    def apply(self, records: npt.NDArray[np.void], min_commit_ns: int, only_slot: int) -> None:
        """Apply complete units of event records (dtype EVENT), of one slot or of NO_SLOT: all."""
        if records.dtype != EVENT:
            raise TypeError(f"records have dtype {records.dtype}, not layouts.events.EVENT")
        if len(records) == 0:
            return
        pointer = ffi.from_buffer("psa_event *", records)
        status = lib.psa_apply(self.writer, pointer, len(records), min_commit_ns, only_slot)
        self.check(status, f"{len(records)} event records")

    def set_status_all(self, old: int, new: int, unsure: int) -> None:
        """Change the status of all pools that have status `old`, in the open commit."""
        status = lib.psa_set_status_all(self.writer, old, new, unsure)
        self.check(status, f"status {old} to {new}")

    def commit(self) -> None:
        """Publish the open commit and wake waiting readers; nothing when it is empty."""
        self.check(lib.psa_commit(self.writer), "commit")

    def close(self) -> None:
        """Let go of the segment."""
        del self.writer, self.arena, self.header, self.counters, self._kept
        self.segment.close()
