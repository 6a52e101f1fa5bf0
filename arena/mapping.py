"""The arena as any process may look at it: control segment, one mapped generation, static rows.

Nothing here writes. Readers build on it; the writing side is arena.py.
"""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaDamaged, ArenaMissing, ArenaNotReady, LayoutMismatch
from arena.layouts import header as layout
from arena.layouts import slots
from arena.native import EXCEPTIONS, ffi, lib, raise_status
from arena.segment import ControlSegment, Segment, data_name

REASON_NBYTES = 216  # of psa_phase.reason
BEAT_WATCH_S = 0.25  # five beats of an idle writer
_BEAT_PAUSE_S = 0.005
_OPEN_TRIES = 64


def lib_name(status: int) -> str:
    """Words for a status code: the first line of its exception's docstring."""
    cls = EXCEPTIONS.get(status)
    return f"status {status}" if cls is None else (cls.__doc__ or cls.__name__).split("\n")[0]


# The control segment


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


# The data segment


def header_offset(field: str) -> int:
    fields = layout.HEADER.fields
    assert fields is not None
    return int(fields[field][1])


class OwnedArray(np.ndarray[Any, Any]):
    """An array that keeps another object alive, and so does every view of it."""

    owner: Any

    def __array_finalize__(self, source: Any) -> None:
        self.owner = getattr(source, "owner", None)


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
        self.token_cache: dict[int, Any] = {}  # rows of the token table never change
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


# Static rows


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A token: 20-byte address (zero = native coin), decimals (None = unknown), symbol.

    A symbol longer than 32 bytes of UTF-8 is cut between two characters.
    """

    address: bytes
    decimals: int | None
    symbol: str


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What never changes about a pool.

    `key` is the 20-byte address (V2, V3) or the 32-byte pool id (V4); `protocol` one of
    layouts.slots.UNISWAP_*; `fee_pips` 1e-6, for V4 as in the pool key (0x800000 = dynamic);
    `factory` is the PoolManager for V4.
    """

    key: bytes
    protocol: int
    token0: TokenSpec
    token1: TokenSpec
    fee_pips: int
    tick_spacing: int = 0
    factory: bytes = bytes(20)
    hooks: bytes = bytes(20)

    def is_same(self, other: "PoolSpec") -> bool:
        """Whether both describe one pool; decimals and symbols of its tokens count for nothing."""
        mine, theirs = (
            replace(
                spec,
                token0=TokenSpec(spec.token0.address, None, ""),
                token1=TokenSpec(spec.token1.address, None, ""),
            )
            for spec in (self, other)
        )
        return mine == theirs


def read_token(arena: Any, index: int) -> TokenSpec:
    """Row of the token table."""
    token = arena.tokens[index]
    known = token.flags & slots.TOKEN_DECIMALS_KNOWN
    symbol = bytes(ffi.buffer(token.symbol))[: token.symbol_nbytes]
    return TokenSpec(
        address=bytes(ffi.buffer(token.address)),
        decimals=token.decimals if known else None,
        symbol=symbol.decode("utf-8", "replace"),
    )


def read_spec(arena: Any, slot: int) -> PoolSpec:
    """Static row of a slot, tokens resolved. IndexError for a slot never used."""
    if not 0 <= slot < arena.header.slots_used:
        raise IndexError(f"slot {slot} is not in use; {arena.header.slots_used} are")
    row = arena.statics[slot]
    if max(row.token0, row.token1) >= arena.max_tokens:
        raise LayoutMismatch(f"slot {slot} names tokens {row.token0} and {row.token1}")
    return PoolSpec(
        key=bytes(ffi.buffer(row.key))[: row.key_nbytes],
        protocol=row.protocol,
        token0=read_token(arena, row.token0),
        token1=read_token(arena, row.token1),
        fee_pips=row.fee_pips,
        tick_spacing=row.tick_spacing,
        factory=bytes(ffi.buffer(row.factory)),
        hooks=bytes(ffi.buffer(row.hooks)),
    )
