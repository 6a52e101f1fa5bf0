"""The same pools again and again: read together at one block, into arrays that are kept."""

import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from arena.errors import SnapshotContended, SnapshotTooOld
from arena.layouts import slots
from arena.layouts.protocols import CONSTANT_PRODUCT
from arena.mapping import MappedArena, read_only
from arena.native import ffi, lib, raise_status
from arena.readers.attachment import Attachment
from arena.readers.batch import QuoteBatch, ask
from arena.readers.frozen import Head, read_record
from arena.readers.lookup import pin, read_rows, rows_at, seek_pools, slot_numbers
from arena.readers.pool import Pool
from arena.readers.selection import amount_words, item_flags
from arena.readers.state import Key, key_bytes, key_text, unknown
from arena.readers.table import TABLE, Tables, make_table
from arena.reads import READ_TRIES, is_visible

Fields = Literal["reserves", "price"]

# psa_reserves and psa_price in arena.h.
RESERVES = slots.record(
    32,
    [
        ("reserve0", ("<u8", 2), 0),  # wei
        ("reserve1", ("<u8", 2), 16),
    ],
)
PRICE = slots.record(
    56,
    [
        ("sqrt_price_x96", ("<u8", 4), 0),  # Q64.96
        ("liquidity", ("<u8", 2), 32),  # in range now
        ("tick", "<i4", 48),
        ("fee_pips", "<u4", 52),  # V4: stored LP fee
    ],
)
_KEPT: dict[Fields | None, tuple[int, np.dtype[np.void]]] = {
    None: (lib.PSA_GROUP_LINES, slots.LINE),
    "reserves": (lib.PSA_GROUP_RESERVES, RESERVES),
    "price": (lib.PSA_GROUP_PRICES, PRICE),
}


class _Place(NamedTuple):
    """Where the members are."""

    mapped: MappedArena
    references: npt.NDArray[np.uint64]  # NO_SLOT where a member is missing
    topology: int | None  # at which members were missed; None when all were found


class Group(Head, Tables):
    """Some pools, read together at one block with one call into C, again and again.

    From Arena.group. `read` brings kept arrays up to the newest block and copies only what was written
    since the read before. They are read-only, in the order of `keys`, and right until the next read:
    copy what is to stay. A member that is removed stays removed, as with handles; in an arena made anew
    members are looked up by key, those it lacks again whenever pools were added. Not safe for threads:
    each needs a group of its own. Pickles as its keys.
    """

    __slots__ = (
        *(
            "_arena",
            "_fields",
            "_found",
            "_group",
            "_keys",
            "_pools",
            "_read",
            "_record",
            "_stamps",
        ),
        *("_statuses", "_touched", "_values"),
    )

    def __init__(
        self, arena: Attachment, keys: Sequence[Key | Pool], fields: Fields | None
    ) -> None:
        if fields not in _KEPT:
            raise ValueError(f'fields are None, "reserves" or "price", not {fields!r}')
        names = [key.key if isinstance(key, Pool) else key_text(key_bytes(key)) for key in keys]
        number, dtype = _KEPT[fields]
        count = len(names)
        self._keys = tuple(names)
        self._fields = fields
        self._arena = arena
        group = self._group = ffi.new("psa_group *")
        self._pools = np.zeros(count, np.uint64)
        self._stamps = np.zeros(count, np.uint64)
        values, statuses = np.zeros(count, dtype), np.zeros(count, np.uint8)
        touched = np.zeros(count, np.uint32)
        group.pools = ffi.from_buffer("uint64_t *", self._pools)
        group.stamps = ffi.from_buffer("uint64_t *", self._stamps)
        group.values = ffi.from_buffer("void *", values)
        group.statuses = ffi.from_buffer("uint8_t *", statuses)
        group.touched = ffi.from_buffer("uint32_t *", touched)
        group.count = count
        group.fields = number
        # C goes on writing what these show, and keep.
        self._values, self._statuses, self._touched = map(read_only, (values, statuses, touched))
        self._record = read_record(ffi.buffer(ffi.addressof(group, "record")))  # a view
        self._read: _Place | None = None  # of the last read
        self._found = self._look_up(arena._current(), may_lack=False)

    def _look_up(self, mapped: MappedArena, *, may_lack: bool) -> _Place:
        """Find the members by their keys. UnknownPool unless some may be lacking."""
        wanted = [key_bytes(key) for key in self.keys]
        for _ in range(READ_TRIES):
            # Before the look-up: what it misses and comes later makes the number another one.
            topology = lib.psa_load_acquire_u64(ffi.addressof(mapped.header, "topology"))
            try:
                references, is_gone = seek_pools(mapped, wanted)
            except SnapshotTooOld:
                continue
            if is_gone.any() and not may_lack:
                raise unknown(self.keys[int(is_gone.argmax())], self._arena.name)
            references[is_gone] = slots.NO_SLOT
            rows = rows_at(mapped, references[~is_gone])
            if rows is None:
                continue  # a slot changed hands meanwhile
            self._check_fields(rows["protocol"], np.flatnonzero(~is_gone))
            self._pools[:] = references
            self._stamps[:] = 0
            self._group.since = 0
            return _Place(mapped, references, topology if is_gone.any() else None)
        raise SnapshotContended(
            f"the pools of a group in {self._arena.name} changed during each of {READ_TRIES} tries "
            "to find them",
            name=self._arena.name,
        )

    def _check_fields(
        self, protocols: npt.NDArray[np.uint8], members: npt.NDArray[np.intp]
    ) -> None:
        if self.fields is None:
            return
        is_other = np.isin(protocols, CONSTANT_PRODUCT) != (self.fields == "reserves")
        if is_other.any():
            key = self.keys[int(members[int(is_other.argmax())])]
            raise ValueError(f"pool {key} has no {self.fields}")

    def _current(self) -> _Place:
        """Where the members are now; follows a grown or re-created arena."""
        mapped = self._arena._current()
        place = self._found
        if mapped is not place.mapped:
            if mapped.origin == place.mapped.origin:
                self._found = place._replace(mapped=mapped)  # the same lines in the same slots
            else:
                self._found = self._look_up(mapped, may_lack=True)
        elif place.topology is not None and mapped.topology[0] != place.topology:
            self._found = self._look_up(mapped, may_lack=True)
        return self._found

    def read(self) -> npt.NDArray[np.void]:
        """(n,) values of the members at the newest block, all of one commit; the kept array.

        Its dtype is layouts.slots.LINE, or with `fields` RESERVES (reserve0, reserve1: (2,) u64 words,
        wei) or PRICE (sqrt_price_x96 (4,) words, liquidity (2,) words, tick, fee_pips). A member that is
        not live is there all the same: look at `statuses`. One that is removed, lacking or not read yet
        has the value zero. SnapshotContended when the writer overtook 64 tries: what is kept is then of
        no one block until a read succeeds. ArenaClosed, ArenaReplaced.
        """
        place = self._current()
        status = lib.psa_group_read(place.mapped.pointer, self._group)
        if status:
            self._refused(status)
        self._read = place
        return self._values

    def _refused(self, status: int) -> None:
        self._read = None
        what = (
            f"{len(self)} pools of {self._arena.name} were overwritten during each of {READ_TRIES}"
        )
        raise_status(status, f"{what} tries to read them together", name=self._arena.name)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the members, 0x-hex, lower case, in the order given."""
        return self._keys

    @property
    def fields(self) -> Fields | None:
        """As given to Arena.group."""
        return self._fields

    @property
    def statuses(self) -> npt.NDArray[np.uint8]:
        """(n,) layouts.slots.STATUS_* at the last read: only LIVE is up to the block, STALE may be wrong.

        REMOVED is ABSENT once the slot serves another pool. Kept, as the values.
        """
        return self._statuses

    @property
    def touched(self) -> npt.NDArray[np.uint32]:
        """(m,) members, ascending, that were written between the last two reads, removal included.

        All of them after the first read, and after the members were looked up again. Kept, as the values.
        """
        return self._touched[: self._group.touched_count]

    def quote_batch(
        self,
        amounts: int | Sequence[int] | npt.NDArray[Any],
        *,
        zero_for_one: bool | Sequence[bool] | npt.NDArray[np.bool_],
        exact_out: bool = False,
        allow_stale: bool = False,
        allow_dynamic_fee: bool = False,
    ) -> QuoteBatch:
        """A quote on each member in one call, all at the newest block, which may be above that of the
        last read: the batch says which. Arguments as Arena.quote_batch. SnapshotContended when the writer
        overtook 64 tries.
        """
        place = self._current()
        words = amount_words(amounts, len(self))
        flags = item_flags(
            zero_for_one,
            len(self),
            exact_out=exact_out,
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )
        for _ in range(READ_TRIES):
            record = pin(place.mapped)
            commit = int(record.stamp)
            status, results = ask(place.mapped.pointer, commit, place.references, words, flags)
            if status == 0:
                found = QuoteBatch(results, self.keys, words, flags)
                return found._at(commit, int(record.block_number))
        raise SnapshotContended(
            f"the writer overtook each of {READ_TRIES} batches on {len(self)} pools of "
            f"{self._arena.name}; ask for fewer",
            name=self._arena.name,
        )

    def table(self) -> npt.NDArray[np.void]:
        """(m,) structured copy (dtype TABLE) of the members with values at the last read; empty before.

        ValueError for a group of some fields. SnapshotTooOld when the slot of a member serves another pool
        since: read again. ArenaClosed.
        """
        if self._arena.closed:
            raise self._arena._closed_error()
        if self.fields is not None:
            raise ValueError(f"a group of {self.fields} has no table: make one of all fields")
        place = self._read
        if place is None:
            return np.zeros(0, TABLE)
        there = is_visible(self._statuses)
        lines, numbers = self._values[there], slot_numbers(place.references[there])
        rows = read_rows(place.mapped, lines, numbers, self.commit)
        return make_table(lines, rows, numbers, place.mapped.tokens["address"])

    def __repr__(self) -> str:
        what = "pools" if self.fields is None else f"pools' {self.fields}"
        return f"Group({self._arena.name}, {len(self)} {what}, block {self.block_number})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (operator.methodcaller("group", self.keys, fields=self.fields), (self._arena,))
