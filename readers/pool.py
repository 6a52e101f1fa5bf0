"""The handle on one pool in shared memory."""

import operator
from typing import Any, NoReturn

from arena.errors import ArenaClosed, ArenaError, PoolRemoved
from arena.layouts import slots
from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.readers.attachment import Attachment
from arena.readers.frozen_pool import FrozenPool
from arena.readers.lookup import find_pool, is_there, read_error
from arena.readers.shared_quotes import SharedQuotes
from arena.readers.state import Token, key_bytes, unknown
from arena.readers.token_quotes import pool_label


class Pool(SharedQuotes):
    """A handle on one pool: its slot is resolved once, everything else is read when asked.

    From an Arena it shows the newest block, from a Snapshot that snapshot's. Handles pickle, survive
    fork, and follow a grown or re-created arena. Once its pool is removed a handle raises PoolRemoved,
    also when the pool comes back and when the arena grows: that is another one, to be looked up again.
    In a re-created arena it looks its key up itself.
    """

    __slots__ = ()

    def __init__(
        self,
        arena: Attachment,
        key: str,
        mapped: MappedArena,
        place: tuple[int, int],
        commit: int,
        closed: Any,
    ) -> None:
        """`closed` is a uint32_t pointer."""
        self._name_call(key, arena)
        self._bind(mapped, *place, commit, closed)

    def _bind(
        self,
        mapped: MappedArena,
        slot: int,
        generation: int,
        commit: int,
        closed: Any = None,
    ) -> None:
        # All at once: other threads may be reading through the handle meanwhile.
        closed = self._closed if closed is None else closed
        word = int(ffi.cast("uintptr_t", closed))
        self._bind_call((mapped, slot, generation), closed, mapped.address, word, commit)

    def _refresh(self) -> None:
        if self._commit:
            if self._closed[0]:
                raise ArenaClosed(f"the snapshot of pool {self.key} is closed", key=self.key)
            return
        mapped = self._arena._current()
        before, slot, generation = self._where
        if mapped is not before:
            place: tuple[int, int] | None = (slot, generation)
            if mapped.origin != before.origin:
                place = find_pool(mapped, key_bytes(self.key))
                if place is not None and not is_there(mapped, place, self.key):
                    place = None
            if place is None:
                raise unknown(self.key, self._arena.name)
            self._bind(mapped, *place, 0)

    def _unreadable(self, status: int) -> NoReturn:
        """Say what kept the pool from being read."""
        if status == lib.PSA_UNKNOWN_POOL:
            raise unknown(self.key, self._arena.name)
        mapped, slot, generation = self._where
        raise read_error(mapped, status, slot | generation << 32, self._commit, self.key)

    def _copy(self) -> FrozenPool:
        return self.freeze()

    def freeze(self) -> FrozenPool:
        """Private copy, ticks included: answers state and quotes for ever, and pickles."""
        return FrozenPool(self._copy_bytes())

    @property
    def status(self) -> str:
        """live, syncing, stale or removed."""
        try:
            return self._head().status
        except PoolRemoved:
            return slots.STATUS_NAMES[slots.STATUS_REMOVED]

    @property
    def block_number(self) -> int:
        """Block of the pool's last applied event, or of its scrape; 0 while it has not been read."""
        return self._head().block_number

    @property
    def protocol(self) -> str:
        """uniswap_v2, uniswap_v3, uniswap_v4 or solidly."""
        return self._head().protocol

    @property
    def token0(self) -> Token:
        """Token 0."""
        return self._head().token0

    @property
    def token1(self) -> Token:
        """Token 1."""
        return self._head().token1

    @property
    def slot(self) -> int:
        """Slot index in the present generation."""
        self._refresh()
        return self._where[1]

    def __repr__(self) -> str:
        where = f", commit {self._commit}" if self._commit else ""
        try:
            label = pool_label(self._head())
        except (
            ArenaError
        ) as error:  # shown, not raised: whoever prints a handle may be looking for it
            label = f"{self.key}, {type(error).__name__}"
        return f"Pool({label}, arena {self._arena.name}{where})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._commit:
            raise TypeError(
                "a pool of a snapshot does not pickle: pickle the snapshot, or freeze()"
            )
        return (operator.getitem, (self._arena, self.key))
