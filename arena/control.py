"""The control segment as anybody may read it: identity, state, generation, heartbeat, phase."""

import time
from dataclasses import dataclass
from typing import Any

from arena.errors import ArenaNotReady, LayoutMismatch
from arena.layouts import header as layout
from arena.lock import ControlSegment
from arena.native import ffi, lib, raise_status

REASON_NBYTES = 216  # of psa_phase.reason
BEAT_WATCH_S = 0.25  # five beats of an idle writer
_BEAT_PAUSE_S = 0.005


def control_pointer(control: ControlSegment) -> Any:
    """psa_control over the mapping; keeps it alive."""
    return ffi.from_buffer("psa_control *", control.map)


def check_control(control: Any, name: str) -> None:
    """Refuse a control segment of another layout. ArenaNotReady while it has no content yet."""
    if lib.psa_load_acquire_u64(ffi.addressof(control, "magic")) == 0:
        raise ArenaNotReady(f"{name} is still being created", name=name)
    check_identity(control, name, layout.CONTROL_MAGIC)


def check_identity(struct_pointer: Any, name: str, magic: int) -> None:
    found = bytes(ffi.buffer(struct_pointer.layout_digest))
    version = struct_pointer.layout_version
    if struct_pointer.magic != magic:
        raise LayoutMismatch(
            f"{name} is not a segment of this program: magic {struct_pointer.magic:#x}, "
            f"expected {magic:#x}; choose another name, or start the writer of this one, which replaces "
            "what no living writer holds",
            name=name,
            found=struct_pointer.magic,
            expected=magic,
            is_arena=False,
        )
    if (
        version != layout.LAYOUT_VERSION
        or struct_pointer.byte_order != layout.BYTE_ORDER
        or found != layout.LAYOUT_DIGEST
    ):
        raise LayoutMismatch(
            f"{name} has layout {version >> 16}.{version & 0xFFFF} digest {found.hex()}, this build "
            f"has {layout.LAYOUT_VERSION >> 16}.{layout.LAYOUT_VERSION & 0xFFFF} digest "
            f"{layout.LAYOUT_DIGEST.hex()}; run writer and readers of one version",
            name=name,
            found=found,
            expected=layout.LAYOUT_DIGEST,
            found_version=version,
            expected_version=layout.LAYOUT_VERSION,
            is_arena=True,
        )


def control_state(control: Any) -> int:
    """PSA_STATE_*."""
    return int(lib.psa_load_acquire_u32(ffi.addressof(control, "state")))


def control_generation(control: Any) -> int:
    """Number of the current data segment; 0 = none yet."""
    return int(lib.psa_load_acquire_u64(ffi.addressof(control, "generation")))


def heartbeat_age_ns(control: Any) -> int | None:
    """Nanoseconds since the writer's last sign of life.

    A sign from the future was timed by another clock (a time namespace) and says nothing. Then this
    watches for BEAT_WATCH_S whether another comes: 0 as soon as one does, else None.
    """

    def beat_ns() -> int:
        return int(lib.psa_load_acquire_u64(ffi.addressof(control, "heartbeat_ns")))

    first = beat_ns()
    began = time.monotonic_ns()
    if began >= first:
        return began - first
    while time.monotonic_ns() - began < BEAT_WATCH_S * 1e9:
        time.sleep(_BEAT_PAUSE_S)
        if beat_ns() != first:
            return 0
    return None


@dataclass(frozen=True, slots=True)
class Phase:
    """What the writer is doing, since when (CLOCK_MONOTONIC ns), why, and which blocks are missing."""

    name: str
    reason: str
    since_ns: int
    gap: tuple[int, int]


def read_phase(control: Any) -> Phase:
    """The current phase. SnapshotContended when it changed during every try."""
    record = ffi.new("psa_phase *")
    status = lib.psa_phase_read(control, record)
    if status:
        raise_status(status, "the phase changed during every try to read it")
    number = record.phase
    names = layout.PHASE_NAMES
    return Phase(
        name=names[number] if number < len(names) else f"phase {number}",
        reason=ffi.string(record.reason, REASON_NBYTES).decode("utf-8", "replace"),
        since_ns=record.since_ns,
        gap=(record.gap_first, record.gap_last),
    )
