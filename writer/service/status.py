"""What `arena-writer status` shows: one arena's control segment and header, as readers see them."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena.control import (
    check_control,
    control_pointer,
    control_state,
    heartbeat_age_ns,
    read_phase,
)
from arena.errors import ArenaError
from arena.layouts import header, slots
from arena.lock import ControlSegment
from arena.mapping import MappedArena, header_offset
from arena.native import ffi, lib, raise_status
from arena.owner import user_id
from arena.reads import newest_commit, slot_lines
from arena.writer.sync.faultlog import named_counters

STATE_NAMES = {
    header.STATE_CREATING: "creating",
    header.STATE_READY: "ready",
    header.STATE_CLOSED: "closed",
}
SNAPSHOT_TRIES = 100


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a writer is: its phase, its head block, and how long ago its feed thread last beat."""

    phase: str
    head_block: int
    heartbeat_age_ns: int


def read_vitals(name: str) -> Vitals:
    """The few words of read_status that are cheap, of a writer of this process. As read_status."""
    control = ControlSegment.attach(name, header.CONTROL_NBYTES)
    try:
        shared = control_pointer(control)
        check_control(shared, control.name)
        mapped = MappedArena.open(control.name, shared)
        status, record = newest_commit(mapped.pointer)
        if status:
            raise_status(status, f"{control.name} changed during every try to read its head")
        age_ns = time.monotonic_ns() - _heartbeat_ns(shared)
        return Vitals(read_phase(shared).name, int(record.block_number), max(0, age_ns))
    finally:
        control.close()


def _heartbeat_ns(shared: Any) -> int:
    return int(lib.psa_load_acquire_u64(ffi.addressof(shared, "heartbeat_ns")))


def read_status(name: str, *, owner: int | str | None = None) -> dict[str, Any]:
    """State, phase, head, pools by status and counters; also of an arena whose writer is gone.

    ArenaMissing, ArenaPermission, ArenaNotReady, LayoutMismatch; OwnerMismatch unless the arena
    belongs to `owner`, None: this process's user.
    """
    owner_uid = user_id(owner)
    control = ControlSegment.attach(name, header.CONTROL_NBYTES, owner_uid=owner_uid)
    try:
        shared = control_pointer(control)
        check_control(shared, control.name)
        phase = read_phase(shared)
        mapped = MappedArena.open(control.name, shared, owner_uid=owner_uid)
        phase_age_ns = time.monotonic_ns() - phase.since_ns
        heartbeat_age = heartbeat_age_ns(shared)
        record, pools = _pools_by_status(mapped)
        counters = mapped.array(header_offset("counters"), np.dtype("<u8"), header.COUNTERS)
        return {
            "name": control.name,
            "chain_id": int(shared.chain_id),
            "writer_version": ffi.string(shared.writer_version, 32).decode(),
            "state": STATE_NAMES.get(control_state(shared), "unknown"),
            "phase": phase.name,
            "reason": phase.reason,
            # The future is the time of another clock, and no age.
            "phase_age_ms": phase_age_ns // 1_000_000 if phase_age_ns >= 0 else None,
            "gap_first": phase.gap[0] or None,
            "gap_last": phase.gap[1] or None,
            "writer_pid": control.holder(),
            "heartbeat_age_ms": None if heartbeat_age is None else heartbeat_age // 1_000_000,
            "generation": mapped.generation,
            "committed": int(record.stamp),
            "head_block": int(record.block_number),
            "head_timestamp": int(record.timestamp) or None,
            "max_pools": int(mapped.header.max_pools),
            "tick_bytes_used": int(mapped.header.heap_top),
            "tick_bytes": int(mapped.header.heap_nbytes),
            "segment_bytes": header.CONTROL_NBYTES + mapped.segment.nbytes,
            "pools": pools,
            "counters": named_counters(counters),
        }
    finally:
        control.close()


def _pools_by_status(mapped: MappedArena) -> tuple[Any, dict[str, int]]:
    """The newest commit record, and how many pools have each status at that commit."""
    status = lib.PSA_OK
    for _ in range(SNAPSHOT_TRIES):
        status, record = newest_commit(mapped.pointer)
        if status == lib.PSA_OK:
            status, _, lines = slot_lines(mapped.pointer, int(record.stamp))
        if status == lib.PSA_OK:
            counts = np.bincount(lines["status"], minlength=slots.STATUS_REMOVED + 1)
            named = {
                "live": slots.STATUS_LIVE,
                "syncing": slots.STATUS_SYNCING,
                "stale": slots.STATUS_STALE,
            }
            return record, {word: int(counts[number]) for word, number in named.items()}
    raise_status(status, f"{mapped.segment.name} changed during every try to read it")
    raise ArenaError("unreachable")
