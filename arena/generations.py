"""A writer's hold on an arena, and how it comes to a generation: creates, takes over, grows.

The control segment /NAME holds identity, generation, liveness and the writer lock, and outlives data
segments. The data segment /NAME.GENERATION holds the pools. A new generation is built whole before the
control segment names it; the old one is then marked superseded and unlinked.
"""

import os
import time
from typing import Any

from arena.capacities import PAGE_NBYTES, Capacities
from arena.claim import claim, supersede
from arena.control import (
    check_control,
    control_generation,
    control_pointer,
    control_state,
    read_phase,
)
from arena.errors import (
    ArenaClosed,
    ArenaDamaged,
    ArenaFull,
    ArenaMissing,
    ArenaNotReady,
    SnapshotContended,
)
from arena.images import ArenaImage, map_image
from arena.layouts import header as layout
from arena.layouts import slots
from arena.lock import ControlSegment
from arena.mapping import MappedArena
from arena.native import ffi, lib, lib_name, raise_status
from arena.office import Office, write_phase, write_state
from arena.segment import Access, Segment, data_name, segment_name, unlink
from arena.writable import FULL, WritableGeneration

# Of psa_writer: what is not in the segment and must survive a change of it.
_KEPT_BY_GROWTH = ("last_commit_ns", "reverted_top", "reverted_high", "stale_count", "fault_count")
_MAX_GENERATION = 1 << 62  # a number above it was written by no writer: they count from 1


class Hold:
    """What makes this process the writer: the locked control segment, its office there, and the present
    generation. Use after close raises ArenaClosed."""

    def __init__(self, control: ControlSegment, segment: Segment) -> None:
        """Begin to write in a segment, and free the slots a dead writer had no time to."""
        self.name = control.name
        self.control = control
        self.office = Office(control.name, control_pointer(control))
        self._pid = os.getpid()
        self._generation: WritableGeneration | None = WritableGeneration(control.name, segment)
        self.generation.check(lib.psa_slots_reclaim(self.generation.writer), "slots")

    @property
    def generation(self) -> WritableGeneration:
        """The one that is written to; after a growth it is another one."""
        if self._generation is None:
            raise ArenaClosed(f"the writer of {self.name} is closed", name=self.name)
        return self._generation

    def grow(self, capacities: Capacities) -> None:
        """Go on in a new generation, between two commits. ArenaFull, and nothing changed, when shared
        memory has no room for both."""
        old = self.generation
        number, found = old.number + 1, os.fstat(old.segment.fd)
        packed = capacities.packed(self.name)
        access = Access(found.st_mode & 0o777, found.st_gid)
        segment = _new_generation(
            self.name, number, packed, access, old.arena, origin=int(old.header.origin)
        )
        try:
            new = self._generation = WritableGeneration(self.name, segment)
        except BaseException:
            segment.close()
            unlink(segment.name)
            raise
        for field in _KEPT_BY_GROWTH:
            setattr(new.writer, field, getattr(old.writer, field))
        ffi.memmove(new.writer.faults, old.writer.faults, ffi.sizeof(old.writer.faults))
        shared = self.office.shared
        shared.data_nbytes = segment.nbytes
        lib.psa_store_release_u64(ffi.addressof(shared, "generation"), number)
        lib.psa_supersede(old.header)
        unlink(old.segment.name)
        old.close()

    def close(self, *, unlink_names: bool) -> None:
        """Drop the open commit, tell readers, give the lock back, let go; in a forked child only let go.
        A second close does nothing."""
        if self._generation is None:
            return
        generation = self._generation
        if os.getpid() == self._pid:
            lib.psa_abort(generation.writer)
            self.office.leave()
            if unlink_names:
                unlink(generation.segment.name)
                unlink(self.name)
                # Readers then look for a successor under the name.
                lib.psa_supersede(generation.header)
            self.control.unlock()
        self.office.close()
        self._generation = None
        generation.close()
        self.control.close()


def create(
    name: str,
    capacities: Capacities,
    access: Access,
    *,
    chain_id: int,
    image: ArenaImage | None,
) -> Hold:
    """Build a new generation and make it the current one; what WriterArena.create says."""
    name = segment_name(name)
    source = None if image is None else map_image(image)
    if source is not None:
        capacities = capacities.at_least(Capacities.of(source))
    packed = capacities.packed(name)
    control = claim(name, access)
    shared = control_pointer(control)
    previous = control_generation(shared)
    if previous > _MAX_GENERATION:
        previous = 0
    segment: Segment | None = None
    try:
        supersede(name, previous - 1)  # its writer may have died before it came to this
        # Before anything else: whoever sees a living writer must not see the last one's phase.
        write_phase(shared, layout.PHASE_NUMBERS["starting"])
        if control_state(shared) != layout.STATE_READY:
            write_state(shared, layout.STATE_CREATING)
        control.set_access(access)
        number = previous + 1
        segment = _new_generation(name, number, packed, access, source, origin=_new_origin(number))
        hold = Hold(control, segment)
        shared.data_nbytes = segment.nbytes
        shared.created_unix_ns = time.time_ns()
        shared.chain_id = chain_id
        hold.office.take()
        lib.psa_store_release_u64(ffi.addressof(shared, "generation"), number)
        write_state(shared, layout.STATE_READY)
        supersede(name, previous)
    except BaseException:
        if segment is not None:
            segment.close()
            unlink(segment.name)
        if previous == 0:
            unlink(name)
        control.unlock()
        control.close()
        raise
    return hold


def take_over(name: str, access: Access | None) -> Hold:
    """Continue on the segment a dead or closed writer left; what WriterArena.take_over says."""
    name = segment_name(name)
    control = ControlSegment.attach_writable(name, layout.CONTROL_NBYTES)
    try:
        control.lock()
        if not control.is_linked():
            raise ArenaMissing(f"{name} was unlinked just now", name=name)
        shared = control_pointer(control)
        check_control(shared, name)
        number = control_generation(shared)
        if control_state(shared) == layout.STATE_CREATING or number == 0:
            raise ArenaNotReady(
                f"the creation of {name} was never finished; create it anew", name=name
            )
        if number > _MAX_GENERATION:
            raise ArenaDamaged(
                f"{name} names generation {number}, which no writer counts to", name=name
            )
        phase = _phase_left(shared)
        write_phase(shared, layout.PHASE_NUMBERS["starting"])  # not the dead one's
        # What it had begun or not finished when it died, growing.
        unlink(data_name(name, number + 1))
        supersede(name, number - 1)
        segment = Segment.attach(data_name(name, number), writable=True)
        if access is not None:
            control.set_access(access)
            segment.set_access(access)
        MappedArena(segment, number).close()  # checks the header
        hold = Hold(control, segment)
        _settle_statuses(hold.generation, phase)
        hold.office.take()
        write_state(shared, layout.STATE_READY)
    except BaseException:
        control.unlock()
        control.close()
        raise
    return hold


def _phase_left(shared: Any) -> str:
    """What a dead writer was doing; as if nothing were finished when its record is no good."""
    try:
        return read_phase(shared).name
    except SnapshotContended:
        return "starting"


def _settle_statuses(generation: WritableGeneration, phase: str) -> None:
    """Values a dead writer was still joining to the stream are of no known block."""
    joining = phase in ("starting", "scraping", "replaying")
    status = slots.STATUS_STALE if joining else slots.STATUS_LIVE
    generation.set_status_all(slots.STATUS_SYNCING, status, slots.UNSURE_ALL if joining else 0)
    generation.commit()


def _new_origin(generation: int) -> int:
    """A number that no arena of the name had: generations begin at 1 again once a writer unlinked it.

    Microseconds of the wall clock in the high bits. The low twelve, by which slot generations of one arena
    differ from another's (index.c), go on with each generation and each millisecond.
    """
    now_us = time.time_ns() // 1000
    return now_us << 12 | (now_us // 1000 + generation) & 0xFFF


def _new_generation(
    name: str,
    generation: int,
    capacities: Any,
    access: Access,
    source: Any | None,
    *,
    origin: int,
) -> Segment:
    """A data segment, empty or with the content of `source`, that nothing names yet. ArenaFull."""
    nbytes = int(lib.psa_arena_nbytes(capacities))
    segment = Segment.create(
        data_name(name, generation),
        nbytes,
        reserve_bytes=nbytes  # the rest is given pages in steps
        - int(capacities.heap_nbytes)
        - int(capacities.undo_record_count) * slots.UNDO_RECORD.itemsize
        - PAGE_NBYTES,
        access=access,
    )
    try:
        base = ffi.from_buffer("uint8_t *", segment.map, require_writable=True)
        status = lib.psa_arena_format(base, nbytes, capacities, generation, layout.LAYOUT_DIGEST)
        if status == lib.PSA_OK:
            ffi.cast("psa_header *", base).origin = origin
        if status == lib.PSA_OK and source is not None:
            status = lib.psa_arena_copy(base, nbytes, segment.fd, source)
            if status == lib.PSA_FULL_SHM:
                raise ArenaFull(
                    f"{segment.name} needs pages for {source.header.heap_top} tick bytes, /dev/shm "
                    "has none left; make it larger",
                    name=name,
                    table=FULL[status][0],
                )
        if status:
            raise_status(status, f"{segment.name} cannot be made: {lib_name(status)}")
        del base
    except BaseException:
        segment.close()
        unlink(segment.name)
        raise
    return segment
