"""All pools at one block, read where they are.

A pinned view reads shared memory as of its commit, so it costs nothing to take and ends when a pool it
reads has been overwritten twice (SnapshotTooOld).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaClosed, SnapshotTooOld, UnknownPool
from arena.layouts import slots
from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.native._handle import View
from arena.readers.attachment import Attachment
from arena.readers.batch import QuoteBatch
from arena.readers.frozen import Head, read_record
from arena.readers.lookup import (
    check_references,
    find_pool,
    is_there,
    read_lines,
    row_keys,
    visible,
)
from arena.readers.names import Listing, Names
from arena.readers.pool import Pool
from arena.readers.selection import quote_selected
from arena.readers.state import Key, key_bytes, key_text, unknown
from arena.readers.table import Tables, make_table


class Snapshot(View, Head, Tables, Names[Pool]):
    """All pools at one block, read where they are.

    Costs nothing to take and holds nothing up. Reading a pool that has been overwritten twice since
    raises SnapshotTooOld; Arena.at_one_block repeats for you, Arena.snapshot(keys) copies. After close
    its pools raise ArenaClosed. It stays with its generation when the arena is re-created.
    """

    __slots__ = ("_arena", "_closed", "_kept", "_mapped", "_record")

    def __init__(self, arena: Attachment, mapped: MappedArena, record: bytes) -> None:
        self._record = read_record(record)
        self._arena = arena
        self._mapped = mapped
        self._closed = ffi.new("uint32_t *")
        self._kept = arena._kept_handles(mapped, self.topology)
        word = int(ffi.cast("uintptr_t", self._closed))
        self._bind_view(mapped, self._closed, self._kept, mapped.address, word, self.commit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the view. A second close does nothing."""
        self._closed[0] = 1

    def _open(self) -> MappedArena:
        if self._closed[0]:
            raise ArenaClosed(f"this snapshot of {self._arena.name} is closed")
        return self._mapped

    if TYPE_CHECKING:

        def __getitem__(self, key: Key) -> Pool: ...

    def _find(self, key: Key) -> Pool:
        """view[key] of a key that leads to no kept handle of a pool that is there."""
        mapped = self._open()
        data = key_bytes(key)
        place = find_pool(mapped, data) if self.commit else None
        if place is None:
            raise self._missing(data)
        text = key_text(data)
        if not is_there(mapped, place, text, self.commit):
            raise unknown(data, self._arena.name)
        found = Pool(self._arena, text, mapped, place, self.commit, self._closed)
        if isinstance(key, str | bytes):
            self._kept[key] = found
        return found

    def _missing(self, key: Key) -> Exception:
        """What to raise for a key that is not in the index: it may have left since this snapshot."""
        reused = ffi.addressof(self._mapped.header, "reused")
        if not self.commit or lib.psa_load_acquire_u64(reused) == int(self._record["reused"]):
            return unknown(key, self._arena.name)
        text = key if isinstance(key, str) else key_text(bytes(key))
        return SnapshotTooOld(
            f"pool {text} is not in {self._arena.name} now, and slots were given to other pools since "
            f"commit {self.commit}, so it may have been; take a new snapshot",
            key=text,
            commit=self.commit,
        )

    def __contains__(self, key: Key) -> bool:
        mapped = self._open()
        data = key_bytes(key)
        place = find_pool(mapped, data) if self.commit else None
        if place is not None:
            return is_there(mapped, place, key_text(data), self.commit)
        error = self._missing(data)
        if isinstance(error, SnapshotTooOld):
            raise error
        return False

    @property
    def topology(self) -> int:
        """Grows with each pool added or removed."""
        return int(self._record["topology"])

    def __len__(self) -> int:
        return len(visible(self._open(), self.commit)[0])

    def __iter__(self) -> Iterator[str]:
        return iter(row_keys(visible(self._open(), self.commit)[2]))

    def _listing(self) -> Listing:
        mapped = self._open()
        _, lines, rows = visible(mapped, self.commit)
        return Listing.of_table(lines, rows, mapped.tokens)

    def table(self) -> npt.NDArray[np.void]:
        """(n,) structured copy (dtype TABLE) of all pools that have been read, consistent at one block."""
        mapped = self._open()
        numbers, lines, rows = visible(mapped, self.commit)
        return make_table(lines, rows, numbers, mapped.tokens["address"])

    def lines(
        self, references: npt.NDArray[Any], out: npt.NDArray[np.void] | None = None
    ) -> npt.NDArray[np.void]:
        """(n,) version lines (dtype layouts.slots.LINE) of n pools, one call into C.

        `references` comes from Arena.slots. For pools that are not there at this block status is ABSENT or
        REMOVED, and every value zero; so it is for those not read yet, whose `unsure` has UNSURE_UNREAD.
        `out` (n,) is filled instead of a new array, which saves a third of the time; ValueError when it
        does not fit.
        """
        if out is not None and (
            out.dtype != slots.LINE or out.shape != references.shape or not out.flags.carray
        ):
            raise ValueError(
                f"out must be ({len(references)},) of layouts.slots.LINE, contiguous and writeable"
            )
        mapped = self._open()
        return read_lines(
            mapped, check_references(references, mapped.header.max_pools), self.commit, out
        )

    def quote_batch(
        self,
        pools: Sequence[Key | Pool] | npt.NDArray[Any],
        amounts: int | Sequence[int] | npt.NDArray[Any],
        *,
        zero_for_one: bool | Sequence[bool] | npt.NDArray[np.bool_],
        exact_out: bool = False,
        allow_stale: bool = False,
        allow_dynamic_fee: bool = False,
    ) -> QuoteBatch:
        """Many pools in one call, all at this block; arguments as Arena.quote_batch."""
        mapped = self._open()
        if not self.commit and len(pools):
            raise UnknownPool(f"arena {self._arena.name} has no pools yet", name=self._arena.name)
        return quote_selected(
            mapped,
            self.commit,
            self._missing,
            pools,
            amounts,
            zero_for_one,
            exact_out=exact_out,
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )._at(self.commit, self.block_number)

    def __repr__(self) -> str:
        return f"Snapshot({self._arena.name}, block {self.block_number}, commit {self.commit})"

    def __reduce__(self) -> tuple[Any, ...]:
        mapped = self._open()
        place = (mapped.origin, mapped.generation)
        return (_reopen, (self._arena, place, self._record.tobytes()))


def _reopen(arena: Attachment, place: tuple[int, int], record: bytes) -> Snapshot:
    """A pinned view in another process; SnapshotTooOld when the arena was re-created since."""
    mapped = arena._current()
    if (mapped.origin, mapped.generation) != place:
        raise SnapshotTooOld(
            f"{arena.name} was re-created since: it is at generation {mapped.generation}, the snapshot is "
            f"of generation {place[1]}",
            name=arena.name,
        )
    return Snapshot(arena, mapped, record)
