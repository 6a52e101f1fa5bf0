"""Pools looked up in an arena: their places, lines and rows, as of one commit.

Each function is one call, tried again where the writer was in the way. A status that is no answer
becomes an exception here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import PoolRemoved, SnapshotTooOld
from arena.layouts import slots
from arena.mapping import MappedArena
from arena.native import ffi, lib, raise_status
from arena.native._handle import copy_pool
from arena.readers.frozen_pool import FrozenPool
from arena.readers.state import key_text
from arena.reads import is_visible


def pin(mapped: MappedArena) -> Any:
    """psa_commit_record of the newest commit, as a pointer."""
    record = ffi.new("psa_commit_record *")
    status = lib.psa_pin(mapped.pointer, record)
    if status:
        raise_status(status, "the commit record changed during every try to read it")
    return record


def find_pool(mapped: MappedArena, data: bytes) -> tuple[int, int] | None:
    """Slot and generation of a 20- or 32-byte key; None when the arena has none."""
    found = ffi.new("uint64_t *")
    if lib.psa_find(mapped.pointer, data.ljust(32, b"\0"), found):
        return None
    place = place_of(int(found[0]))
    return place if mapped.pointer.statics[place[0]].key_nbytes == len(data) else None


def place_of(reference: int) -> tuple[int, int]:
    """Slot and generation of a reference; generation 0 = any."""
    return reference & slots.NO_SLOT, reference >> 32


def is_there(mapped: MappedArena, place: tuple[int, int], key: str, commit: int = 0) -> bool:
    """Whether the pool found at a place exists at `commit` (0: the newest). SnapshotTooOld."""
    line = ffi.new("psa_line *")
    slot, generation = place
    status = lib.psa_pool_read(mapped.pointer, slot, generation, commit, line)
    if status in (lib.PSA_UNKNOWN_POOL, lib.PSA_POOL_REMOVED):
        return False
    if status:
        raise read_error(mapped, status, slot, commit, key)
    return int(line.fee_status) >> 24 != slots.STATUS_ABSENT


def seek_pools(
    mapped: MappedArena, wanted: Sequence[bytes]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """(n,) references of n keys of 20 or 32 bytes, and which of them have no pool at the newest commit.
    SnapshotTooOld when the writer overtook the look."""
    found = np.zeros(len(wanted), np.uint64)
    if not wanted:
        return found, np.zeros(0, np.bool_)
    data = b"".join([key.ljust(32, b"\0") for key in wanted])
    lib.psa_find_many(mapped.pointer, data, len(wanted), ffi.from_buffer("uint64_t *", found))
    sizes = np.fromiter(map(len, wanted), np.uint8, len(wanted))
    is_gone = found == slots.NO_SLOT
    numbers = np.where(is_gone, 0, slot_numbers(found))
    is_gone |= mapped.statics["key_nbytes"][numbers] != sizes
    lines = read_lines(mapped, found, int(pin(mapped).stamp))
    return found, is_gone | ~is_visible(lines["status"])


def check_references(references: npt.NDArray[Any], limit: int) -> npt.NDArray[np.uint64]:
    """(n,) references as C takes them, NO_SLOT among them. TypeError; ValueError for a plain slot that is
    not below `limit`."""
    if references.dtype.kind not in "ui" or references.ndim != 1:
        raise TypeError(
            f"references are (n,) integers, not {references.shape} of {references.dtype}"
        )
    if len(references) == 0:
        return np.zeros(0, np.uint64)
    smallest = int(references.min())
    if smallest < 0:
        raise ValueError(f"slot {smallest} is not from 0 to {limit - 1}")
    found = np.ascontiguousarray(references, np.uint64)
    if smallest >> 32 == 0:  # else every one has a generation
        beyond = (found >> np.uint64(32) == 0) & (found >= limit) & (found != slots.NO_SLOT)
        if beyond.any():
            raise ValueError(f"slot {int(found[beyond][0])} is not from 0 to {limit - 1}")
    return found


def slot_numbers(references: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """(n,) slots of n references."""
    return (references & slots.NO_SLOT).astype(np.uint32)


def read_lines(
    mapped: MappedArena,
    references: npt.NDArray[np.uint64],
    commit: int,
    out: npt.NDArray[np.void] | None = None,
) -> npt.NDArray[np.void]:
    """(n,) lines (dtype LINE) of n pools as of `commit`; all zero where there is no pool then."""
    lines = np.empty(len(references), slots.LINE) if out is None else out
    if len(references) == 0 or commit == 0:
        lines[:] = np.zeros((), slots.LINE)
        return lines
    failed = ffi.new("uint32_t *")
    status = lib.psa_snapshot(
        mapped.pointer,
        ffi.from_buffer("uint64_t *", references),
        len(references),
        commit,
        ffi.from_buffer("psa_line *", lines),
        failed,
    )
    if status:
        raise read_error(mapped, status, int(references[failed[0]]), commit)
    return lines


def read_rows(
    mapped: MappedArena, lines: npt.NDArray[np.void], numbers: npt.NDArray[np.uint32], commit: int
) -> npt.NDArray[np.void]:
    """(n,) static rows of the pools whose lines were read. SnapshotTooOld when a slot has another
    pool since."""
    references = lines["generation"].astype(np.uint64) << np.uint64(32) | numbers
    rows, failed = _rows(mapped, references)
    if failed is not None:
        raise _given_away(int(numbers[failed]), commit)
    return rows


def rows_at(mapped: MappedArena, references: npt.NDArray[np.uint64]) -> npt.NDArray[np.void] | None:
    """(n,) static rows of n references; None when a slot is another pool's by now."""
    rows, failed = _rows(mapped, references)
    return rows if failed is None else None


def _rows(
    mapped: MappedArena, references: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.void], int | None]:
    """(n,) static rows, and the index of one that is of another generation."""
    rows = np.empty(len(references), slots.STATIC)
    if len(references) == 0:
        return rows, None
    failed = ffi.new("uint32_t *")
    status = lib.psa_rows_read(
        mapped.pointer,
        ffi.from_buffer("uint64_t *", references),
        len(references),
        ffi.from_buffer("psa_static *", rows),
        failed,
    )
    return rows, int(failed[0]) if status else None


def visible(
    mapped: MappedArena, commit: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.void], npt.NDArray[np.void]]:
    """Slots, lines and static rows of the pools there are at `commit`. SnapshotTooOld."""
    numbers = np.arange(mapped.header.slots_used, dtype=np.uint32)
    lines = read_lines(mapped, numbers.astype(np.uint64), commit)
    there = is_visible(lines["status"])
    numbers, lines = numbers[there], lines[there]
    return numbers, lines, read_rows(mapped, lines, numbers, commit)


def row_keys(rows: npt.NDArray[np.void]) -> list[str]:
    """Keys of static rows, as text."""
    data = rows["key"].tobytes().hex()
    return [
        "0x" + data[64 * index : 64 * index + 2 * size]
        for index, size in enumerate(rows["key_nbytes"].tolist())
    ]


def _given_away(slot: int, commit: int, key: str | None = None) -> SnapshotTooOld:
    return SnapshotTooOld(
        f"slot {slot} was given to another pool since commit {commit}; take a new snapshot",
        commit=commit,
        key=key,
    )


def reference_key(mapped: MappedArena, reference: int) -> str | None:
    """Key of the pool a reference leads to, as text; None when its slot is another's by now."""
    row = rows_at(mapped, np.array([reference], np.uint64))
    return None if row is None else key_text(row["key"][0].tobytes()[: int(row["key_nbytes"][0])])


def read_error(
    mapped: MappedArena, status: int, reference: int, commit: int, key: str | None = None
) -> Exception:
    """What kept a pool from being read; `key` where it is known, for the slot may be another's."""
    slot, generation = place_of(reference)
    if key is None and generation:
        key = reference_key(mapped, reference)
    pool = f"pool {key}" if key else f"the pool of slot {slot}"
    if status == lib.PSA_POOL_REMOVED:
        return PoolRemoved(f"{pool} was removed", key=key)
    if status == lib.PSA_SNAPSHOT_TOO_OLD:
        return SnapshotTooOld(
            f"{pool} was overwritten twice since commit {commit}; take a new snapshot, "
            "or snapshot(keys) to keep a copy",
            key=key,
            commit=commit,
        )
    try:
        raise_status(status, f"{pool} cannot be read", key=key)
    except Exception as error:
        return error
    raise AssertionError("a status that is no failure")


def read_frozen(mapped: MappedArena, reference: int, commit: int) -> FrozenPool:
    """Private copy of the pool of a reference as of `commit` (0: the newest)."""
    found = copy_pool(mapped.address, *place_of(reference), commit)
    if isinstance(found, int):
        raise read_error(mapped, found, reference, commit)
    return FrozenPool(found)
