"""A copy of a data segment's content: taken of one generation, mapped to begin another with."""

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np

from arena.control import check_identity
from arena.errors import ArenaFull, LayoutMismatch
from arena.layouts import header as layout
from arena.layouts import slots
from arena.mapping import owned
from arena.native import ffi, lib
from arena.writable import WritableGeneration

_MAP_NORESERVE = (
    0x4000  # Linux, but for alpha, mips, parisc and sparc; mmap names it from Python 3.13
)
UNDO_BLOCKS_KEPT = 64  # that an image can undo; a reorg that goes deeper is read anew


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


def take_image(generation: WritableGeneration) -> ArenaImage:
    """A copy of everything at the last commit, and of what undoes its newest blocks. Between commits."""
    head = generation.header
    view = memoryview(generation.segment.map)
    entries, records = _undo_kept(generation)
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
    return ArenaImage(generation.segment.nbytes, tuple(sorted(copied)))


def _undo_kept(generation: WritableGeneration) -> tuple[bytes, list[tuple[int, int]]]:
    """The table of undo entries with only the newest blocks in it, and (offset, size) of the pieces
    of the ring with their records, ascending and apart."""
    head = generation.header
    count = int(head.undo_record_count)
    table = np.frombuffer(
        generation.segment.map, slots.UNDO_ENTRY, head.undo_entry_count, head.undo_entries_offset
    )
    kept = np.zeros_like(table)
    runs = []
    seq = int(generation.writer.record.undo_top)
    for _ in range(min(UNDO_BLOCKS_KEPT, _undo_depth(generation))):
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


def _undo_depth(generation: WritableGeneration) -> int:
    """How many blocks can be undone, at most UNDO_BLOCKS_KEPT."""
    numbers = ffi.new("uint64_t[]", UNDO_BLOCKS_KEPT)
    hashes = ffi.new("uint8_t[]", 32 * UNDO_BLOCKS_KEPT)
    return int(lib.psa_undo_blocks(generation.writer, numbers, hashes, UNDO_BLOCKS_KEPT))


def map_image(image: ArenaImage) -> Any:
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
