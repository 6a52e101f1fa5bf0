"""Attach to an arena by name: look pools up, wait for blocks, ask many pools at once.

Nothing here can disturb the writer, and nothing waits for it except wait_block and its kin.
"""

import operator
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from arena.errors import (
    ArenaError,
    ArenaMissing,
    ArenaNotReady,
    SnapshotContended,
    SnapshotTooOld,
    WriterDead,
)
from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.native._handle import WAIT_FAILED, WAIT_LATE, wait_head
from arena.readers.arguments import deadline, ordered, remaining, whole
from arena.readers.attachment import Attachment
from arena.readers.batch import QuoteBatch
from arena.readers.frozen import FrozenSnapshot, freeze
from arena.readers.group import Fields, Group
from arena.readers.head_block import HeadBlock
from arena.readers.lookup import find_pool, is_there, pin, row_keys, visible
from arena.readers.names import Listing, Names
from arena.readers.pool import Pool
from arena.readers.selection import find_named, find_selected, quote_selected
from arena.readers.shown import html_table
from arena.readers.snapshot import Snapshot
from arena.readers.state import Key, key_bytes, key_text, unknown
from arena.reads import READ_TRIES

if TYPE_CHECKING:
    from arena.readers.waiting import CommitWaiters

Result = TypeVar("Result")

_LONGEST_SPIN_NS = 10**9  # a sleep, and the look before it, end after a slice
_WAIT_SLICE = 0.1  # seconds in the kernel before looking for a successor
_ATTACH_PAUSES = (0.002, 0.05)  # first and longest pause between two tries, seconds
_LIVE_PAUSE = 0.02  # seconds between two looks at the phase


def attach(
    name: str,
    *,
    timeout: float = 5.0,
    follow: bool = True,
    require_writer: bool = True,
    heartbeat_limit: float = 10.0,
    owner: int | str | None = None,
) -> "Arena":
    """Attach to the arena of that name, waiting up to `timeout` seconds for it.

    Raises the last obstacle at the deadline: ArenaMissing, ArenaNotReady, WriterDead (unless
    `require_writer` is False: then a dead writer's last state is good enough); and at once
    ArenaPermission, OwnerMismatch, LayoutMismatch, or ValueError for an impossible name or user. With
    `follow` handles move on when the arena is re-created, else they raise ArenaReplaced. A writer
    silent for `heartbeat_limit` seconds counts as not alive. The segments must belong to `owner`, a
    user's id or name; to this process's user unless given, also when that is root. TypeError and
    ValueError for times that are none, and for flags that are not True or False.
    """
    end = time.monotonic() + remaining("timeout", timeout)
    pause, longest = _ATTACH_PAUSES
    while True:
        try:
            return Arena(
                name,
                follow=follow,
                require_writer=require_writer,
                heartbeat_limit=heartbeat_limit,
                owner=owner,
            )
        except (ArenaMissing, ArenaNotReady, WriterDead):
            left = end - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, longest)


# Attachments made by unpickling, so that many handles share one.
_attached: weakref.WeakValueDictionary[tuple[Any, ...], "Arena"] = weakref.WeakValueDictionary()
_attached_lock = threading.Lock()


def _reattach(
    name: str,
    follow: bool,
    require_writer: bool,
    heartbeat_limit: float,
    owner: int | str | None,
) -> "Arena":
    key = (name, follow, require_writer, heartbeat_limit, owner)
    with _attached_lock:
        found = _attached.get(key)
        if found is None or found.closed:
            found = _attached[key] = attach(
                name,
                follow=follow,
                require_writer=require_writer,
                heartbeat_limit=heartbeat_limit,
                owner=owner,
            )
        return found


class Arena(Attachment, Names[Pool]):
    """A read-only attachment, see attach.

    `arena[key]` takes a 0x-hex string in any case or 20 or 32 bytes; UnknownPool when there is no such
    pool, ValueError when it is no key. Threads may share an Arena. After close everything raises
    ArenaClosed; arrays and frozen snapshots taken before stay valid.
    """

    _pools: dict[Key, Pool]
    _waiters: "CommitWaiters | None" = None  # made by the first coroutine that waits

    # Pools

    def __getitem__(self, key: Key) -> Pool:
        mapped = self._current()
        if mapped.topology[0] != self._pools_topology:
            # Loaded again, in order: what is looked up from here on is at least as new as the number.
            topology = lib.psa_load_acquire_u64(ffi.addressof(mapped.header, "topology"))
            self._pools = {}
            self._pools_topology = topology
        pools = self._pools
        try:
            return pools[key]
        except (KeyError, TypeError):
            data = key_bytes(key)
        place = find_pool(mapped, data)
        if place is None or not is_there(mapped, place, key_text(data)):
            raise unknown(data, self.name)
        pool = Pool(self, key_text(data), mapped, place, 0, self._closed)
        if isinstance(key, str | bytes):
            pools[key] = pool
        return pool

    def __contains__(self, key: Key) -> bool:
        mapped = self._current()
        data = key_bytes(key)
        place = find_pool(mapped, data)
        return place is not None and is_there(mapped, place, key_text(data))

    def _visible(self) -> tuple[MappedArena, npt.NDArray[np.void], npt.NDArray[np.void]]:
        """Where all pools are at the newest block, their lines and static rows."""
        mapped = self._current()
        for _ in range(READ_TRIES):
            try:
                return mapped, *visible(mapped, pin(mapped).stamp)[1:]
            except SnapshotTooOld:
                continue
        raise SnapshotContended(
            f"the pools of {self.name} could not be listed in {READ_TRIES} tries", name=self.name
        )

    def _listing(self) -> Listing:
        mapped, lines, rows = self._visible()
        return Listing.of_table(lines, rows, mapped.tokens)

    def __len__(self) -> int:
        return len(self._visible()[2])

    def __iter__(self) -> Iterator[str]:
        """Keys of all pools as 0x-hex, at the newest block."""
        return iter(row_keys(self._visible()[2]))

    @property
    def topology(self) -> int:
        """Grows with each pool added or removed: a list made before may lack or hold pools since."""
        return int(pin(self._current()).topology)

    def slots(self, keys: Sequence[Key | Pool]) -> npt.NDArray[np.uint64]:
        """(n,) references of n pools, for batches, Snapshot.lines and snapshot. Else UnknownPool.

        A reference is the pool's slot, and in the high half that slot's generation: once the pool is
        removed, or the arena re-created, it leads to no other one. A grown arena keeps them.
        """
        return find_named(self._current(), ordered("keys", keys), 0, self._missing)[0]

    def _missing(self, key: Key) -> Exception:
        return unknown(key, self.name)

    # Blocks

    @property
    def head_block(self) -> int:
        """Last block applied whole; 0 = none yet. A reorg can lower it."""
        return int(pin(self._current()).block_number)

    @property
    def committed(self) -> int:
        """Number of the newest commit; it only grows, until the arena is re-created."""
        return int(self._current().committed[0])

    def wait_live(self, timeout: float | None = None) -> int:
        """Wait until the writer's phase is live; the head block then.

        For the start of a program: attaching succeeds as soon as the arena exists. A dead writer's last
        phase does not count, unless attached with require_writer=False. Looks every 20 ms. ArenaNotReady
        after `timeout` seconds (None: no limit; else as wait_block), with the phase and its reason.
        """
        end = deadline(timeout)
        while True:
            is_held = not self.require_writer or self.writer_pid is not None
            phase = self.phase  # after the holder: the next writer puts it right at once
            if phase == "live" and is_held:
                return self.head_block
            if end is not None and time.monotonic() >= end:
                reason = self.phase_reason or "no reason"
                if phase == "live":
                    reason = "its writer died, and no other has come yet"
                raise ArenaNotReady(
                    f"{self.name} is {phase} after {timeout} s: {reason}",
                    name=self.name,
                    phase=phase,
                )
            time.sleep(_LIVE_PAUSE)

    def wait_block(
        self, after: int, timeout: float | None = None, *, spin_us: int = 0
    ) -> HeadBlock | None:
        """Sleep until the head block is above `after`; the head then, or None at the timeout.

        The number returned can also say which pools were `touched`; given back as the next `after`, none
        is missed.

        Returns at once when it is already. A reorg may lower the head while this waits; it goes on until
        some head is above `after`, so the block returned can be of another branch than the one before.
        Who wants to hear of every change, reorgs included, uses wait_commit. `timeout` in seconds, None
        waits for ever. Sleeps in the kernel; signals are handled while it does. With `spin_us` it looks
        for so many microseconds before each sleep, which takes up a core and is of use only where one is
        spare. ValueError for a `timeout` or `spin_us` below 0, TypeError for what is no number.
        """
        spin_ns = min(1000 * whole("spin_us", spin_us, 0), _LONGEST_SPIN_NS)
        end = deadline(timeout)
        while True:
            mapped = self._current()
            left = None if end is None else end - time.monotonic()
            found = wait_head(mapped.address, self._closed_word, after, left, spin_ns)
            if isinstance(found, tuple):
                return HeadBlock._make(self, mapped.origin, *found, after)
            if found == WAIT_LATE:
                return None
            if found == WAIT_FAILED:
                pin(mapped)  # says why, or finds that it has passed

    def wait_commit(self, after: int, timeout: float | None = None) -> int | None:
        """Sleep until the newest commit is another one than `after`; its number, or None.

        Each block, reorg and installed pool is a commit. After a re-creation numbers start again; a grown
        arena goes on counting. `timeout` as wait_block.
        """
        operator.index(after)
        end = deadline(timeout)
        while True:
            committed = self.committed
            if committed != after:
                return committed
            if not self._sleep(committed, end):
                return None

    def _sleep(self, seen: int, end: float | None) -> bool:
        """Wait for a commit other than `seen`, a slice at most; False when `end` has passed."""
        left = _WAIT_SLICE if end is None else end - time.monotonic()
        if left <= 0:
            return False
        mapped = self._current()
        now = ffi.new("uint64_t *")
        lib.psa_wait_commit(mapped.pointer, seen, int(min(left, _WAIT_SLICE) * 1e9), now)
        return True

    async def await_block(self, after: int, timeout: float | None = None) -> HeadBlock | None:
        """wait_block for asyncio, of any number of coroutines and loops.

        All of them share one thread of this arena's; none of the loop's worker threads is taken.
        """
        import asyncio  # costs as much as the rest of the package, and few readers use it

        operator.index(after)
        end = deadline(timeout)
        while True:
            mapped = self._current()
            record = pin(mapped)
            left = None if end is None else end - time.monotonic()
            if record.block_number > after or (left is not None and left <= 0):
                await asyncio.sleep(0)  # a loop of waits that never wait lets others run, too
                is_above = record.block_number > after
                if not is_above:
                    return None
                return HeadBlock._make(
                    self, mapped.origin, int(record.block_number), int(record.stamp), after
                )
            await self._commit_waiters().changed(mapped, int(record.stamp), left)

    def _commit_waiters(self) -> "CommitWaiters":
        if self._waiters is not None:
            return self._waiters
        from arena.readers.waiting import CommitWaiters  # needs asyncio

        with self._lock:
            if self._waiters is None:
                self._waiters = CommitWaiters(self.name)
            return self._waiters

    @overload
    def snapshot(self, keys: None = None, *, tries: int = READ_TRIES) -> Snapshot: ...
    @overload
    def snapshot(
        self, keys: Sequence[Key | Pool] | npt.NDArray[Any], *, tries: int = READ_TRIES
    ) -> FrozenSnapshot: ...
    def snapshot(
        self,
        keys: Sequence[Key | Pool] | npt.NDArray[Any] | None = None,
        *,
        tries: int = READ_TRIES,
    ) -> Snapshot | FrozenSnapshot:
        """All pools at the present block, read in place; or, with `keys`, a private copy of those.

        See Snapshot and FrozenSnapshot. `keys` are keys, handles, or references from slots. The copy
        includes ticks and raises SnapshotContended when the writer overtook all `tries`. ValueError for
        `tries` below 1.
        """
        whole("tries", tries, 1)
        mapped = self._current()
        if keys is not None:
            references, names = find_selected(mapped, keys, 0, self._missing)
            asked = None if isinstance(keys, np.ndarray) else names
            return freeze(self.name, mapped, references, asked, tries)
        return Snapshot(self, mapped, bytes(ffi.buffer(pin(mapped))))

    def group(self, keys: Sequence[Key | Pool], *, fields: Fields | None = None) -> Group:
        """Pools to be read together again and again; see Group. Keys or handles; one may come twice.

        With `fields` "reserves" or "price" only those are kept, of pairs or of V3 and V4 pools: ValueError
        for another pool. UnknownPool.
        """
        return Group(self, keys, fields)

    def at_one_block(
        self, function: Callable[[Snapshot], Result], *, budget: int = READ_TRIES
    ) -> Result:
        """`function(view)` on a snapshot, repeated on a fresh one when that became too old.

        SnapshotContended after `budget` tries, ValueError for less than one. `function` may run several
        times: it should only read.
        """
        whole("budget", budget, 1)
        for _ in range(budget):
            with self.snapshot() as view:
                try:
                    return function(view)
                except SnapshotTooOld as error:
                    last = error
        raise SnapshotContended(
            f"{self.name} moved on during each of {budget} tries; copy with snapshot(keys) instead",
            name=self.name,
            budget=budget,
        ) from last

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
        """Quotes on many pools in one call, each on its newest version.

        `pools` are keys, handles, or references from slots; `amounts` one for all or one each, as ints
        or words (n, 4); `zero_for_one` one for all or one each. Snapshot.quote_batch answers at one block.
        """
        return quote_selected(
            self._current(),
            0,
            self._missing,
            pools,
            amounts,
            zero_for_one,
            exact_out=exact_out,
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )

    def __repr__(self) -> str:
        try:
            phase = self.phase if self.writer_pid is not None else f"{self.phase}, no writer"
            pools = self._current().header.pool_count
            return f"Arena({self.name!r}, {phase}, block {self.head_block}, {pools} pools)"
        except ArenaError as error:  # shown, not raised: whoever prints it may be looking for it
            return f"Arena({self.name!r}, {'closed' if self.closed else type(error).__name__})"

    def _repr_html_(self) -> str:
        try:
            reason = self.phase_reason
            rows: list[tuple[str, object]] = [
                ("phase", f"{self.phase}: {reason}" if reason else self.phase),
                ("writer", self.writer_pid if self.writer_pid is not None else "none"),
                ("block", self.head_block),
                ("pools", self._current().header.pool_count),
                ("commit", self.committed),
                ("chain", self.chain_id or "unknown"),
            ]
        except ArenaError:
            return html_table(repr(self), [])
        return html_table(f"Arena {self.name}", rows)

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self.name, self.follow, self.require_writer, self.heartbeat_limit, self.owner)
        return (_reattach, options)
