"""Reads of a psa_arena that writer, readers and status have in common.

Each returns the status of the C call: the caller knows what a failure means to it, and says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.native import ffi, lib

READ_TRIES = 64
_TICKS = 64  # room for so many at first, and for so many more than were there at the last try
NO_POOL = (slots.STATUS_ABSENT, slots.STATUS_REMOVED)


def is_visible(status: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which statuses belong to pools that exist."""
    found: npt.NDArray[np.bool_] = (status != slots.STATUS_ABSENT) & (
        status != slots.STATUS_REMOVED
    )
    return found


def slots_where(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """(n,) slots that are chosen, ascending."""
    return np.flatnonzero(chosen).astype(np.uint32)


def newest_commit(arena: Any) -> tuple[int, Any]:
    """Status, and psa_commit_record of the newest commit, as a pointer."""
    record = ffi.new("psa_commit_record *")
    return lib.psa_pin(arena, record), record


def lines_at(
    arena: Any, references: npt.NDArray[np.uint64], commit: int, lines: npt.NDArray[np.void]
) -> tuple[int, int]:
    """Copy the lines of n pools as of `commit` into `lines`, (n,) of dtype LINE; all zero where there
    is no pool then.

    Status, and the index of the pool it is about.
    """
    if len(references) == 0 or commit == 0:
        lines[:] = np.zeros((), slots.LINE)
        return lib.PSA_OK, 0
    failed = ffi.new("uint32_t *")
    status = lib.psa_snapshot(
        arena,
        ffi.from_buffer("uint64_t *", references),
        len(references),
        commit,
        ffi.from_buffer("psa_line *", lines),
        failed,
    )
    return status, int(failed[0])


def slot_lines(arena: Any, commit: int) -> tuple[int, int, npt.NDArray[np.void]]:
    """Status, the slot it is about, and the line of each slot as of `commit`, (slots_used,)."""
    used = int(arena.header.slots_used)
    lines = np.empty(used, slots.LINE)
    status, slot = lines_at(arena, np.arange(used, dtype=np.uint64), commit, lines)
    return status, slot, lines


@dataclass(frozen=True, slots=True)
class PoolWords:
    """One pool's line and ticks, copied.

    `line` (1,) LINE; `ticks` (n,) int32; `net`, `gross` (n, 2) little-endian limbs, int128 and uint128.
    """

    line: npt.NDArray[np.void]
    ticks: npt.NDArray[np.int32]
    net: npt.NDArray[np.uint64]
    gross: npt.NDArray[np.uint64]


def read_pool(arena: Any, slot: int, generation: int, commit: int) -> tuple[int, PoolWords]:
    """Status, and one pool as of `commit` (0: the newest); `generation` 0 = any.

    PSA_BUFFER_TOO_SMALL when the writer added more ticks between the tries than each had room for.
    """
    line = np.zeros(1, slots.LINE)
    pointer = ffi.from_buffer("psa_line *", line)
    capacity = _TICKS
    for _ in range(READ_TRIES):
        ticks = np.empty(capacity, np.int32)
        net, gross = np.empty((2, capacity, 2), "<u8")
        status = lib.psa_pool_read_ticks(
            arena,
            slot,
            generation,
            commit,
            pointer,
            ffi.from_buffer("int32_t *", ticks),
            ffi.from_buffer("uint64_t *", net),
            ffi.from_buffer("uint64_t *", gross),
            capacity,
        )
        if status != lib.PSA_BUFFER_TOO_SMALL:
            break
        capacity = pointer.tick_count + _TICKS
    count = pointer.tick_count if status == lib.PSA_OK else 0
    return status, PoolWords(line, ticks[:count], net[:count], gross[:count])
