"""Private copies of many pools at one block, ticks included: valid for ever, and handed to processes."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaDamaged, PoolRemoved, SnapshotContended, SnapshotTooOld, UnknownPool
from arena.layouts import header as layout
from arena.layouts import slots
from arena.mapping import MappedArena, OwnedArray, read_only
from arena.native import ffi, lib
from arena.readers.frozen_pool import FrozenPool
from arena.readers.lookup import (
    pin,
    place_of,
    read_error,
    read_rows,
    reference_key,
    row_keys,
    slot_numbers,
)
from arena.readers.names import Listing, Names
from arena.readers.state import Key, key_bytes, key_text, unknown
from arena.readers.table import Tables, frame_module, make_table
from arena.reads import is_visible


def read_record(record: bytes) -> np.void:
    """A commit record of dtype COMMIT_RECORD."""
    found: np.void = np.frombuffer(record, layout.COMMIT_RECORD)[0]
    return found


class Head:
    """The commit a snapshot belongs to."""

    __slots__ = ()
    _record: np.void  # COMMIT_RECORD, a slot of whatever inherits this

    @property
    def block_number(self) -> int:
        """Head block: every pool is as of its end. 0 = no block yet."""
        return int(self._record["block_number"])

    @property
    def block_hash(self) -> str | None:
        """0x-hex, None when the feed does not tell."""
        found: bytes = self._record["block_hash"].tobytes()
        return key_text(found) if any(found) else None

    @property
    def timestamp(self) -> int:
        """Of the head block, Unix seconds; 0 = unknown."""
        return int(self._record["timestamp"])

    @property
    def base_fee(self) -> int:
        """Of the head block, wei; 0 = unknown."""
        return int(self._record["base_fee"])

    @property
    def commit(self) -> int:
        """Number of the commit."""
        return int(self._record["stamp"])


class FrozenSnapshot(Head, Tables, Names[FrozenPool]):
    """A private copy of some pools at one block, ticks included: valid for ever, and it pickles."""

    __slots__ = ("_arrays", "_keys", "_name", "_pools", "_record")

    def __init__(self, name: str, record: bytes, arrays: tuple[npt.NDArray[Any], ...]) -> None:
        self._record = read_record(record)
        self._name = name
        # lines (n,), rows (n,), slots (n,), starts (n + 1,), ticks (m,), net (m, 2), gross (m, 2),
        # token indices (k,) ascending, token rows (k,)
        self._arrays = arrays
        self._keys: dict[str, int] | None = None  # key -> index, made on first use
        self._pools: dict[Key, FrozenPool] = {}

    @property
    def _index(self) -> dict[str, int]:
        if self._keys is None:
            self._keys = {key: index for index, key in enumerate(row_keys(self._arrays[1]))}
        return self._keys

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass  # owns no resource; closes for symmetry with Snapshot

    def __getitem__(self, key: Key) -> FrozenPool:
        found = self._pools.get(key) if isinstance(key, str | bytes) else None
        if found is None:
            text = key_text(key_bytes(key))
            index = self._index.get(text)
            if index is None:
                raise unknown(text, self._name)
            found = self._pools.get(text)
            if found is None:
                found = self._pools[text] = self._make(index)
            if isinstance(key, str | bytes):
                self._pools[key] = found
        return found

    def _make(self, index: int) -> FrozenPool:
        lines, rows, numbers, starts, ticks, net, gross, indices, tokens = self._arrays
        first, last = int(starts[index]), int(starts[index + 1])
        row = rows[index]
        named = tokens[np.searchsorted(indices, [row["token0"], row["token1"]])]
        line = lines[index].copy()
        line["slab"] = numbers[index]  # as in every copy of one pool, psa_copy_head
        parts = (line, row, named, net[first:last], gross[first:last], ticks[first:last])
        return FrozenPool(b"".join([part.tobytes() for part in parts]))

    def __contains__(self, key: Key) -> bool:
        return key_text(key_bytes(key)) in self._index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def _listing(self) -> Listing:
        places = np.fromiter(self._index.values(), np.intp)  # a key may have been asked for twice
        lines, rows = (array[places] for array in self._arrays[:2])
        return Listing(lines, rows, *self._arrays[7:])

    def table(self) -> npt.NDArray[np.void]:
        """(n,) structured copy (dtype TABLE) of the copied pools."""
        lines, rows, numbers = self._arrays[:3]
        indices, tokens = self._arrays[7:]
        addresses = np.zeros((int(indices.max(initial=0)) + 1, 20), np.uint8)
        addresses[indices] = tokens["address"]
        return make_table(lines, rows, numbers, addresses)

    def to_shared(self) -> "SharedSnapshot":
        """Put the copy into a shared_ndarray segment, to hand it to worker processes without copying.

        ImportError without the extra pool-state-arena[workers].
        """
        return SharedSnapshot.put(self)

    def __repr__(self) -> str:
        return f"FrozenSnapshot({self._name}, block {self.block_number}, {len(self)} pools)"

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = tuple(array.copy() for array in self._arrays)
        return (FrozenSnapshot, (self._name, self._record.tobytes(), arrays))


def freeze(
    name: str,
    mapped: MappedArena,
    references: npt.NDArray[np.uint64],
    keys: Sequence[str] | None,
    tries: int,
) -> FrozenSnapshot:
    """Copy n pools at one block; `keys` when they were asked for by key. UnknownPool, PoolRemoved, or
    SnapshotContended when every try was overtaken."""
    count = len(references)
    numbers = slot_numbers(references)
    lines = np.zeros(count, slots.LINE)
    starts = np.zeros(count + 1, np.uint64)
    failed = ffi.new("uint32_t *")
    capacity = 256
    for _ in range(tries):
        record = pin(mapped)
        ticks = np.empty(capacity, np.int32)
        net = np.empty((capacity, 2), "<u8")
        gross = np.empty((capacity, 2), "<u8")
        status = 0
        if count and record.stamp:
            status = lib.psa_snapshot_ticks(
                mapped.pointer,
                ffi.from_buffer("uint64_t *", references),
                count,
                record.stamp,
                ffi.from_buffer("psa_line *", lines),
                ffi.from_buffer("uint64_t *", starts),
                ffi.from_buffer("int32_t *", ticks),
                ffi.from_buffer("uint64_t *", net),
                ffi.from_buffer("uint64_t *", gross),
                capacity,
                failed,
            )
        if status == lib.PSA_BUFFER_TOO_SMALL:
            capacity = int(starts[count]) * 9 // 8 + 256  # the writer may add some meanwhile
            continue
        if status == lib.PSA_SNAPSHOT_TOO_OLD:
            continue
        if status:
            raise read_error(mapped, status, int(references[failed[0]]), record.stamp)
        there = is_visible(lines["status"])
        if not there.all():
            index = int(there.argmin())
            if keys is not None:
                raise unknown(keys[index], name)
            raise _not_there(name, mapped, int(references[index]))
        total = int(starts[count])
        try:
            rows = read_rows(mapped, lines, numbers, record.stamp)
        except SnapshotTooOld:
            continue
        indices = np.unique(np.concatenate((rows["token0"], rows["token1"])))
        if count and indices[-1] >= len(mapped.tokens):
            raise ArenaDamaged(f"a pool of {name} names token {indices[-1]}", name=name)
        arrays = (
            lines,
            rows,
            numbers,
            starts,
            ticks[:total].copy(),
            net[:total].copy(),
            gross[:total].copy(),
            indices,
            mapped.tokens[indices],
        )
        return FrozenSnapshot(name, bytes(ffi.buffer(record)), arrays)
    raise SnapshotContended(
        f"{count} pools of {name} could not be copied at one block in {tries} tries; ask for fewer",
        name=name,
        tries=tries,
    )


def _not_there(name: str, mapped: MappedArena, reference: int) -> UnknownPool | PoolRemoved:
    slot, generation = place_of(reference)
    if not generation:
        return UnknownPool(f"slot {slot} of {name} has no pool", name=name)
    key = reference_key(mapped, reference)
    shown = f"pool {key}" if key else f"the pool of slot {slot}"
    return PoolRemoved(f"{shown} was removed from {name}; look it up again", key=key)


# Of FrozenSnapshot._arrays.
_DTYPES: tuple[Any, ...] = (
    *(slots.LINE, slots.STATIC, "<u4", "<u8", "<i4", "<u8", "<u8"),
    *("<u4", slots.TOKEN),
)


class SharedSnapshot:
    """A frozen snapshot in a segment of shared_ndarray; pickles as that segment's random name.

    `snapshot` reads from the segment and keeps it mapped. The object that to_shared returned removes the
    name when it is closed or collected: workers must have unpickled theirs by then.
    """

    _creator = 0  # process that removes the name; also of one that was not made to the end

    def __init__(self, block: Any, lengths: tuple[int, ...], rest: tuple[str, bytes]) -> None:
        self._block = block  # shared_ndarray.SharedNDArray of bytes; unmaps when it goes
        self._lengths = lengths
        self._rest = rest
        # An array of the block alone would not keep it mapped.
        shared = read_only(block.array).view(OwnedArray)
        shared.owner = block
        arrays = []
        start = 0
        for length, dtype in zip(lengths, _DTYPES, strict=True):
            arrays.append(shared[start : start + length].view(dtype))
            start += _aligned(length)
        arrays[5] = arrays[5].reshape(-1, 2)
        arrays[6] = arrays[6].reshape(-1, 2)
        name, record = rest
        self.snapshot = FrozenSnapshot(name, record, tuple(arrays))

    @classmethod
    def put(cls, frozen: FrozenSnapshot) -> Self:
        """Copy a frozen snapshot into a new segment."""
        module = frame_module("shared_ndarray", "workers")
        lengths = tuple(array.nbytes for array in frozen._arrays)
        padded = [
            array.tobytes() + bytes(_aligned(array.nbytes) - array.nbytes)
            for array in frozen._arrays
        ]
        data = np.frombuffer(b"".join(padded) or bytes(64), np.uint8)
        block = module.SharedNDArray.copy(data)
        found = cls(block, lengths, (frozen._name, frozen._record.tobytes()))
        found._creator = os.getpid()
        return found

    def close(self) -> None:
        """Remove the segment's name, in the process that made it; what is mapped stays mapped."""
        if self._creator == os.getpid():
            self._creator = 0
            self._block.unlink()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (SharedSnapshot, (self._block, self._lengths, self._rest))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
