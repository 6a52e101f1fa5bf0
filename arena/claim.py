"""A name claimed for a writer, and what others left under it taken out of the way."""

import contextlib
import logging
import os

from arena.control import check_identity, control_pointer
from arena.errors import ArenaDamaged, ArenaError, ArenaMissing, ArenaNotReady, LayoutMismatch
from arena.layouts import header as layout
from arena.lock import ControlSegment
from arena.native import ffi, lib
from arena.office import write_state
from arena.segment import DIRECTORY, Access, Segment, data_name, unlink

log = logging.getLogger(__name__)

_CLAIM_TRIES = 64


def claim(name: str, access: Access) -> ControlSegment:
    """The locked control segment of a name in this build's layout, created or replaced as needed."""
    for _ in range(_CLAIM_TRIES):
        try:
            control = ControlSegment.attach_writable(name, layout.CONTROL_NBYTES)
        except ArenaMissing:
            try:
                control = ControlSegment.create(name, layout.CONTROL_NBYTES, access)
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
                        write_state(shared, layout.STATE_CLOSED)
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
                supersede(name, int(number))


def supersede(name: str, generation: int) -> None:
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
