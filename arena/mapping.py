"""One generation of an arena as any process may map it: read-only, its header checked."""

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from arena.control import check_identity, control_generation
from arena.errors import ArenaDamaged, ArenaMissing, ArenaNotReady, LayoutMismatch
from arena.layouts import header as layout
from arena.layouts import slots
from arena.native import ffi, lib
from arena.segment import Segment, data_name

_OPEN_TRIES = 64


def header_offset(field: str) -> int:
    fields = layout.HEADER.fields
    assert fields is not None
    return int(fields[field][1])


class OwnedArray(np.ndarray[Any, Any]):
    """An array that keeps another object alive, and so does every view of it."""

    owner: Any

    def __array_finalize__(self, source: Any) -> None:
        self.owner = getattr(source, "owner", None)


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory as an array that nobody can make writeable: setting the flag raises ValueError.

    Of another array's memory the flag alone could be set again.
    """
    return np.frombuffer(array.view(np.uint8).data.toreadonly(), array.dtype)


def owned(ctype: str, owner: Any) -> Any:
    """New zeroed struct, as a pointer of type `ctype` that keeps `owner` alive.

    Whoever passes the pointer to C thus keeps the memory it leads to mapped during the call.
    """
    block = np.zeros(ffi.sizeof(ctype.removesuffix("*").strip()), np.uint8).view(OwnedArray)
    block.owner = owner
    return ffi.from_buffer(ctype, block)


class MappedArena:
    """One generation, mapped read-only.

    `pointer` is a psa_arena that keeps the mapping alive; the mapping goes when nobody refers to this
    object, its pointer, or an array from `array` any more.
    """

    def __init__(self, segment: Segment, generation: int) -> None:
        self.segment = segment
        self.generation = generation
        self.base = ffi.from_buffer("uint8_t *", segment.map)
        self.pointer = owned("psa_arena *", self.base)
        if segment.nbytes < layout.HEADER_NBYTES:
            raise _cut_short(segment, layout.HEADER_NBYTES)
        head = ffi.cast("psa_header *", self.base)
        check_identity(head, segment.name, layout.DATA_MAGIC)
        if head.nbytes > segment.nbytes:  # a look beyond its end would be a SIGBUS
            raise _cut_short(segment, head.nbytes)
        if lib.psa_arena_open(self.pointer, self.base, segment.nbytes):
            raise LayoutMismatch(
                f"{segment.name}: capacities and offsets in the header do not fit {segment.nbytes} bytes",
                name=segment.name,
            )
        self.header = self.pointer.header
        if self.header.generation != generation:
            raise LayoutMismatch(
                f"{segment.name} says generation {self.header.generation}, expected {generation}",
                name=segment.name,
            )
        head = self.header
        # Commits and references of two generations of one origin mean the same.
        self.origin = int(head.origin)
        self.statics = self.array(head.statics_offset, slots.STATIC, head.max_pools)
        self.versions = self.array(head.slots_offset, slots.SLOT, head.max_pools)
        self.tokens = self.array(head.tokens_offset, slots.TOKEN, head.max_tokens)
        self.address = int(ffi.cast("uintptr_t", self.pointer))
        # One word each, read without leaving Python; released by close.
        self.superseded = self._word("superseded", "I")
        self.topology = self._word("topology", "Q")
        self.committed = self._word("committed", "Q")

    @classmethod
    def open(cls, name: str, control: Any, *, owner_uid: int | None = None) -> Self:
        """Map the generation the control segment names now, of that user's (None: this process's)."""
        for _ in range(_OPEN_TRIES):
            generation = control_generation(control)
            if generation == 0:
                raise ArenaNotReady(f"{name} has no data yet: its writer is starting", name=name)
            try:
                data = Segment.attach(data_name(name, generation), owner_uid=owner_uid)
                return cls(data, generation)
            except ArenaMissing:
                if control_generation(control) == generation:
                    raise
        raise ArenaNotReady(f"{name} is being re-created over and over", name=name)

    def _word(self, field: str, code: Literal["I", "Q"]) -> memoryview:
        offset = header_offset(field)
        size = 4 if code == "I" else 8
        return memoryview(self.segment.map)[offset : offset + size].cast(code)

    def array(self, offset: int, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """(count,) read-only view of shared memory; it changes under the reader's eyes."""
        return np.frombuffer(self.segment.map, dtype=dtype, count=count, offset=offset)

    def close(self) -> None:
        """Release the word views, so that their use raises ValueError; the rest goes by itself."""
        self.superseded.release()
        self.topology.release()
        self.committed.release()


def _cut_short(segment: Segment, expected: int) -> ArenaDamaged:
    return ArenaDamaged(
        f"{segment.name} has {segment.nbytes} of {expected} bytes: another program cut it short; "
        "restart the writer and attach again",
        name=segment.name,
        found=segment.nbytes,
        expected=expected,
    )
