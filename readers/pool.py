"""The handle on one pool in shared memory."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaClosed, PoolRemoved
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOL_NAMES
from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.readers.attachment import Attachment
from arena.readers.frozen_pool import FrozenPool, read_frozen
from arena.readers.lookup import find_pool, is_there, read_error, read_row, read_tokens
from arena.readers.shared_quotes import SharedQuotes
from arena.readers.state import PoolState, Token, key_bytes, unknown


class Pool(SharedQuotes):
    """A handle on one pool: its slot is resolved once, everything else is read when asked.

    From an Arena it shows the newest block, from a Snapshot that snapshot's. Handles pickle, survive
    fork, and follow a grown or re-created arena. Once its pool is removed a handle raises PoolRemoved,
    also when the pool comes back and when the arena grows: that is another one, to be looked up again.
    In a re-created arena it looks its key up itself.
    """

    __slots__ = ("_arena", "_closed")

    def __init__(
        self,
        arena: Attachment,
        key: str,
        mapped: MappedArena,
        place: tuple[int, int],
        commit: int,
        closed: Any,
    ) -> None:
        self.key = key
        self._arena = arena
        self._closed = closed  # a uint32_t pointer
        self._bind(mapped, *place, commit)

    def _bind(self, mapped: MappedArena, slot: int, generation: int, commit: int) -> None:
        # All at once: other threads may be reading through the handle meanwhile.
        self._bind_call(
            (mapped, slot, generation),
            self._closed,
            int(ffi.cast("uintptr_t", mapped.pointer)),
            int(ffi.cast("uintptr_t", self._closed)),
            commit,
        )

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

    def _row(self) -> npt.NDArray[np.void]:
        if self._commit:
            self._refresh()
        else:
            self._line()  # a removed pool's row may stay for long, and go at any time
        mapped, slot, generation = self._where
        return read_row(mapped, slot, generation, self._commit, self.key)

    def _copy(self) -> FrozenPool:
        mapped, slot, generation = self._where
        return read_frozen(mapped, slot, generation, self._commit, self.key)

    def _line(self) -> Any:
        self._refresh()
        line = ffi.new("psa_line *")
        mapped, slot, generation = self._where
        status = lib.psa_pool_read(mapped.pointer, slot, generation, self._commit, line)
        if status == lib.PSA_OK and line.fee_status >> 24 == slots.STATUS_ABSENT:
            raise unknown(self.key, self._arena.name)
        if status:
            raise read_error(mapped, status, slot, self._commit, self.key)
        return line

    def state(self) -> PoolState:
        """Everything about the pool, ticks included, from one version."""
        return self.freeze().state()

    def freeze(self) -> FrozenPool:
        """Private copy, ticks included: answers state and quotes for ever, and pickles."""
        self._refresh()
        return self._copy()

    @property
    def status(self) -> str:
        """live, syncing, stale or removed."""
        try:
            return slots.STATUS_NAMES[self._line().fee_status >> 24]
        except PoolRemoved:
            return slots.STATUS_NAMES[slots.STATUS_REMOVED]

    @property
    def block_number(self) -> int:
        """Block of the pool's last applied event, or of its scrape; 0 while it has not been read."""
        line = self._line()
        return int(line.block_number or line.base_block)

    @property
    def protocol(self) -> str:
        """uniswap_v2, uniswap_v3, uniswap_v4 or solidly."""
        return PROTOCOL_NAMES[int(self._row()["protocol"][0])]

    @property
    def token0(self) -> Token:
        """Token 0."""
        return read_tokens(self._where[0], self._row())[0]

    @property
    def token1(self) -> Token:
        """Token 1."""
        return read_tokens(self._where[0], self._row())[1]

    @property
    def slot(self) -> int:
        """Slot index in the present generation."""
        self._refresh()
        return self._where[1]

    def __repr__(self) -> str:
        where = f", commit {self._commit}" if self._commit else ""
        return f"Pool({self.key}, arena {self._arena.name}{where})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._commit:
            raise TypeError(
                "a pool of a snapshot does not pickle: pickle the snapshot, or freeze()"
            )
        return (operator.getitem, (self._arena, self.key))
