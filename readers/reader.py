"""Attach to an arena by name: look pools up, wait for blocks, know the writer's health.

An Arena maps the data segment read-only and follows when the writer re-creates it. Nothing here can
disturb the writer, and nothing waits for it except wait_block and its kin.
"""

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from arena.control import (
    Phase,
    check_control,
    control_generation,
    control_pointer,
    control_state,
    heartbeat_age_ns,
    read_phase,
)
from arena.errors import (
    ArenaClosed,
    ArenaMissing,
    ArenaNotReady,
    ArenaReplaced,
    SnapshotContended,
    SnapshotTooOld,
    WriterDead,
)
from arena.layouts import header as layout
from arena.layouts import slots
from arena.lock import ControlSegment
from arena.mapping import MappedArena, owned
from arena.native import ffi, lib
from arena.owner import user_id
from arena.readers.pool import Pool
from arena.readers.quote import QuoteBatch, amounts_array, batch, direction, resolve_options
from arena.readers.snapshot import (
    FrozenSnapshot,
    Snapshot,
    check_references,
    freeze,
    row_keys,
    visible,
)
from arena.readers.state import (
    READ_TRIES,
    FrozenPool,
    Key,
    find_pool,
    find_pools,
    is_visible,
    key_bytes,
    key_text,
    pin,
    place_of,
    read_error,
    read_frozen,
    read_lines,
    read_rows,
    reference_key,
    slot_generations,
    slot_numbers,
    unknown,
)
from arena.segment import segment_name

if TYPE_CHECKING:
    from arena.readers.waiting import CommitWaiters

Result = TypeVar("Result")

_FOLLOW_PAUSE = 0.1  # seconds between two looks for a successor under the name
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
    user's id or name; to this process's user unless given, also when that is root.
    """
    deadline = time.monotonic() + timeout
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
            left = deadline - time.monotonic()
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


class Arena:
    """A read-only attachment, see attach.

    `arena[key]` takes a 0x-hex string in any case or 20 or 32 bytes; UnknownPool when there is no such
    pool, ValueError when it is no key. Threads may share an Arena. After close everything raises
    ArenaClosed; arrays and frozen snapshots taken before stay valid.
    """

    def __init__(
        self,
        name: str,
        *,
        follow: bool,
        require_writer: bool,
        heartbeat_limit: float,
        owner: int | str | None = None,
    ) -> None:
        self.name = segment_name(name).removeprefix("/")
        self.follow = follow
        self.require_writer = require_writer
        self.heartbeat_limit = heartbeat_limit
        self.owner = owner
        self._owner_uid = user_id(owner)
        self._lock = threading.RLock()
        self._pools: dict[Key, Pool] = {}
        self._pools_topology = -1
        self._look_again = 0.0
        self._closed = ffi.new("uint32_t *")  # not 0: handles must not quote any more
        self._mapped: MappedArena | None = None
        self._control: ControlSegment | None = None
        self._waiters: CommitWaiters | None = None
        control = ControlSegment.attach(name, layout.CONTROL_NBYTES, owner_uid=self._owner_uid)
        try:
            shared = self._check_control(control)
            self._mapped = self._open(control, shared)
        except BaseException:
            shared = None
            control.close()
            raise
        self._control = control
        self._shared = shared

    def _open(self, control: ControlSegment, shared: Any) -> MappedArena:
        return MappedArena.open(control.name, shared, owner_uid=self._owner_uid)

    def _check_control(self, control: ControlSegment) -> Any:
        shared = control_pointer(control)
        check_control(shared, control.name)
        state = control_state(shared)
        holder = control.holder()
        if state == layout.STATE_CREATING or (state == layout.STATE_CLOSED and holder is not None):
            raise ArenaNotReady(f"{control.name} is still being created", name=self.name)
        if self.require_writer and holder is None:
            how = "closed it" if state == layout.STATE_CLOSED else "died"
            raise WriterDead(
                f"no writer holds {control.name}: process {shared.writer_pid} {how}; restart it, or "
                "attach with require_writer=False to read its last state",
                name=self.name,
                pid=shared.writer_pid,
            )
        return shared

    # Life

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._mapped is None

    def close(self) -> None:
        """Let go of the arena. A second close does nothing."""
        with self._lock:
            self._closed[0] = 1
            mapped, self._mapped = self._mapped, None
            control, self._control = self._control, None
            self._shared = None
            self._pools = {}
            if mapped is not None:
                mapped.close()
            if control is not None:
                control.close()

    def _closed_error(self) -> ArenaClosed:
        return ArenaClosed(f"the handle on arena {self.name} is closed", name=self.name)

    def _current(self) -> MappedArena:
        """The generation to read now; follows a re-created arena."""
        mapped = self._mapped
        if mapped is None:
            raise self._closed_error()
        try:
            superseded = mapped.superseded[0]
        except ValueError:  # closed by another thread just now
            raise self._closed_error() from None
        return self._follow(mapped) if superseded else mapped

    def _follow(self, mapped: MappedArena) -> MappedArena:
        with self._lock:
            if self._mapped is not mapped:
                return self._current()
            now = time.monotonic()
            if now < self._look_again:
                return mapped
            self._look_again = now + _FOLLOW_PAUSE
            successor = self._successor(mapped)
            if successor is None:
                return mapped
            control, shared, found = successor
            if not self.follow:
                self._look_again = 0.0
                if control is not self._control:
                    del shared
                    control.close()
                raise ArenaReplaced(
                    f"arena {self.name} was re-created as generation {found.generation}, this handle "
                    f"stays at {mapped.generation}; attach again",
                    name=self.name,
                    generation=mapped.generation,
                    found=found.generation,
                )
            if control is not self._control:
                self._shared = shared
                old, self._control = self._control, control
                if old is not None:
                    old.close()
            self._mapped = found
            self._pools = {}
            self._look_again = 0.0
            return found

    def _successor(self, mapped: MappedArena) -> tuple[ControlSegment, Any, MappedArena] | None:
        """The generation after a superseded one, if it can be read already."""
        control, shared = self._control, self._shared
        if control is None:
            raise self._closed_error()
        if control_generation(shared) == mapped.generation:
            if control.is_linked():
                return None
            try:
                control = ControlSegment.attach(
                    self.name, layout.CONTROL_NBYTES, owner_uid=self._owner_uid
                )
            except (ArenaMissing, ArenaNotReady):
                return None
            shared = control_pointer(control)
        try:
            check_control(shared, control.name)
            if control_state(shared) != layout.STATE_CREATING:
                return control, shared, self._open(control, shared)
        except (ArenaMissing, ArenaNotReady):
            pass
        if control is not self._control:
            shared = None
            control.close()
        return None

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
        if place is None or not self._exists(mapped, place, key_text(data)):
            raise unknown(data, self.name)
        pool = self._make_pool(key_text(data), mapped, place, 0, self._closed)
        if isinstance(key, str | bytes):
            pools[key] = pool
        return pool

    def _make_pool(
        self, key: str, mapped: MappedArena, place: tuple[int, int], commit: int, closed: Any
    ) -> Pool:
        return Pool(self, key, mapped, place, commit, closed)

    def _exists(self, mapped: MappedArena, place: tuple[int, int], key: str) -> bool:
        line = ffi.new("psa_line *")
        slot, generation = place
        status = lib.psa_pool_read(mapped.pointer, slot, generation, 0, line)
        if status in (lib.PSA_UNKNOWN_POOL, lib.PSA_POOL_REMOVED):
            return False
        if status:
            raise read_error(mapped, status, slot, 0, key)
        return int(line.fee_status) >> 24 != slots.STATUS_ABSENT

    def __contains__(self, key: Key) -> bool:
        mapped = self._current()
        data = key_bytes(key)
        place = find_pool(mapped, data)
        return place is not None and self._exists(mapped, place, key_text(data))

    def _visible(self) -> npt.NDArray[np.void]:
        mapped = self._current()
        for _ in range(READ_TRIES):
            try:
                return visible(mapped, pin(mapped).stamp)[2]
            except SnapshotTooOld:
                continue
        raise SnapshotContended(
            f"the pools of {self.name} could not be listed in {READ_TRIES} tries", name=self.name
        )

    def __len__(self) -> int:
        return len(self._visible())

    def __iter__(self) -> Iterator[str]:
        """Keys of all pools as 0x-hex, at the newest block."""
        return iter(row_keys(self._visible()))

    @property
    def topology(self) -> int:
        """Grows with each pool added or removed: a list made before may lack or hold pools since."""
        return int(pin(self._current()).topology)

    def slots(self, keys: "Sequence[Key | Pool]") -> npt.NDArray[np.uint64]:
        """(n,) references of n pools, for batches, Snapshot.lines and snapshot. Else UnknownPool.

        A reference is the pool's slot, and in the high half that slot's generation: once the pool is
        removed, or the arena re-created, it leads to no other one. A grown arena keeps them.
        """
        return self._find(self._current(), keys)[0]

    def _find(
        self, mapped: MappedArena, keys: "Sequence[Key | Pool]", view: Snapshot | None = None
    ) -> tuple[npt.NDArray[np.uint64], list[str]]:
        """(n,) references, and the keys as text, of pools that are there now, or in `view`."""
        names = [key.key if isinstance(key, Pool) else key for key in keys]
        commit, missing = (0, self._missing) if view is None else (view.commit, view._missing)
        found = find_pools(mapped, names, commit, missing)
        return found, [key_text(key_bytes(name)) for name in names]

    def _missing(self, key: Key) -> Exception:
        return unknown(key, self.name)

    def _references(
        self,
        mapped: MappedArena,
        pools: "Sequence[Key | Pool] | npt.NDArray[Any]",
        view: Snapshot | None = None,
    ) -> tuple[npt.NDArray[np.uint64], Sequence[str]]:
        """(n,) references, checked, and names for errors."""
        if not isinstance(pools, np.ndarray):
            return self._find(mapped, pools, view)
        found = check_references(pools, mapped.header.slots_used)
        return found, _Keys(mapped, found)

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
        after `timeout` seconds (None: no limit), with the phase and its reason.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            is_held = not self.require_writer or self.writer_pid is not None
            phase = self.phase  # after the holder: the next writer puts it right at once
            if phase == "live" and is_held:
                return self.head_block
            if deadline is not None and time.monotonic() >= deadline:
                reason = self.phase_reason or "no reason"
                if phase == "live":
                    reason = "its writer died, and no other has come yet"
                raise ArenaNotReady(
                    f"{self.name} is {phase} after {timeout} s: {reason}",
                    name=self.name,
                    phase=phase,
                )
            time.sleep(_LIVE_PAUSE)

    def wait_block(self, after: int, timeout: float | None = None) -> "HeadBlock | None":
        """Sleep until the head block is above `after`; the head then, or None at the timeout.

        The number returned can also say which pools were `touched`; given back as the next `after`, none
        is missed.

        Returns at once when it is already. A reorg may lower the head while this waits; it goes on until
        some head is above `after`, so the block returned can be of another branch than the one before.
        Who wants to hear of every change, reorgs included, uses wait_commit. `timeout` in seconds, None
        waits for ever. Sleeps in the kernel; signals are handled while it does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            mapped = self._current()
            record = pin(mapped)
            if record.block_number > after:
                return HeadBlock._make(self, mapped, record, after)
            if not self._sleep(record.stamp, deadline):
                return None

    def _touched(self, since: tuple[int, int], after: int | None) -> list[str]:
        """Keys of the pools changed since a commit (origin, number), see HeadBlock.touched; with `after`
        only those whose last event or reading came after that block."""
        mapped = self._current()
        origin, number = since
        for _ in range(READ_TRIES):
            commit = int(pin(mapped).stamp)
            references = np.empty(max(1, mapped.header.slots_used), np.uint64)
            count = lib.psa_changed(
                mapped.pointer,
                number if origin == mapped.origin and number <= commit else 0,
                commit,
                ffi.from_buffer("uint64_t *", references),
                len(references),
            )
            references = references[: min(count, len(references))]
            try:
                lines = read_lines(mapped, references, commit)
                there = is_visible(lines["status"]) & (lines["unsure"] & slots.UNSURE_UNREAD == 0)
                if after is not None:
                    there &= np.maximum(lines["block_number"], lines["base_block"]) > after
                numbers = slot_numbers(references)[there]
                return row_keys(read_rows(mapped, lines[there], numbers, commit))
            except SnapshotTooOld:
                continue
        raise SnapshotContended(
            f"the pools of {self.name} changed during each of {READ_TRIES} tries to list them",
            name=self.name,
        )

    def wait_commit(self, after: int, timeout: float | None = None) -> int | None:
        """Sleep until the newest commit is another one than `after`; its number, or None.

        Each block, reorg and installed pool is a commit. After a re-creation numbers start again; a grown
        arena goes on counting.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            committed = self.committed
            if committed != after:
                return committed
            if not self._sleep(committed, deadline):
                return None

    def _sleep(self, seen: int, deadline: float | None) -> bool:
        """Wait for a commit other than `seen`, a slice at most; False when the deadline has passed."""
        left = _WAIT_SLICE if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        mapped = self._current()
        now = ffi.new("uint64_t *")
        lib.psa_wait_commit(mapped.pointer, seen, int(min(left, _WAIT_SLICE) * 1e9), now)
        return True

    async def await_block(self, after: int, timeout: float | None = None) -> "HeadBlock | None":
        """wait_block for asyncio, of any number of coroutines and loops.

        All of them share one thread of this arena's; none of the loop's worker threads is taken.
        """
        import asyncio  # costs as much as the rest of the package, and few readers use it

        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            mapped = self._current()
            record = pin(mapped)
            left = None if deadline is None else deadline - time.monotonic()
            if record.block_number > after or (left is not None and left <= 0):
                await asyncio.sleep(0)  # a loop of waits that never wait lets others run, too
                is_above = record.block_number > after
                return HeadBlock._make(self, mapped, record, after) if is_above else None
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
        self, keys: "Sequence[Key | Pool] | npt.NDArray[Any]", *, tries: int = READ_TRIES
    ) -> FrozenSnapshot: ...
    def snapshot(
        self,
        keys: "Sequence[Key | Pool] | npt.NDArray[Any] | None" = None,
        *,
        tries: int = READ_TRIES,
    ) -> Snapshot | FrozenSnapshot:
        """All pools at the present block, read in place; or, with `keys`, a private copy of those.

        See Snapshot and FrozenSnapshot. `keys` are keys, handles, or references from slots. The copy
        includes ticks and raises SnapshotContended when the writer overtook all `tries`.
        """
        mapped = self._current()
        if keys is not None:
            references, names = self._references(mapped, keys)
            asked = None if isinstance(keys, np.ndarray) else names
            return freeze(self.name, mapped, references, asked, tries)
        return Snapshot(self, mapped, bytes(ffi.buffer(pin(mapped))))

    def at_one_block(
        self, function: Callable[[Snapshot], Result], *, budget: int = READ_TRIES
    ) -> Result:
        """`function(view)` on a snapshot, repeated on a fresh one when that became too old.

        SnapshotContended after `budget` tries. `function` may run several times: it should only read.
        """
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
        pools: "Sequence[Key | Pool] | npt.NDArray[Any]",
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
        return self._batch(
            self._current(),
            None,
            pools,
            amounts,
            zero_for_one,
            exact_out=exact_out,
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )

    def _batch(
        self,
        mapped: MappedArena,
        view: Snapshot | None,
        pools: "Sequence[Key | Pool] | npt.NDArray[Any]",
        amounts: int | Sequence[int] | npt.NDArray[Any],
        zero_for_one: bool | Sequence[bool] | npt.NDArray[np.bool_],
        *,
        exact_out: bool,
        allow_stale: bool,
        allow_dynamic_fee: bool,
    ) -> QuoteBatch:
        commit = 0 if view is None else view.commit
        references, names = self._references(mapped, pools, view)
        numbers, generations = slot_numbers(references), slot_generations(references)
        count = len(numbers)
        if isinstance(amounts, int | np.integer):
            words = np.repeat(amounts_array([int(amounts)]), count, axis=0)
        else:
            words = amounts_array(amounts)
        if len(words) != count:
            raise ValueError(f"{count} pools and {len(words)} amounts")
        base, _, _ = resolve_options(
            direction(False, exact_out),
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )
        directions = np.asarray(zero_for_one, np.bool_)
        if directions.ndim and len(directions) != count:
            raise ValueError(f"{count} pools and {len(directions)} directions")
        flags = np.empty(count, np.uint32)
        flags[:] = np.where(directions, base | lib.PSA_ZERO_FOR_ONE, base)
        call = owned("psa_quote_call *", mapped.pointer)
        call.arena = mapped.pointer
        call.commit = commit

        def copy(index: int) -> FrozenPool:
            return read_frozen(mapped, int(numbers[index]), int(generations[index]), commit)

        return batch(call, numbers, generations, words, flags, names, copy)

    # Arrays in shared memory

    @property
    def versions(self) -> npt.NDArray[np.void]:
        """(max_pools,) read-only slots (dtype layouts.slots.SLOT) as they lie in shared memory.

        They change under the reader's eyes: for numbers that belong together use Snapshot.table or
        Snapshot.lines. The array keeps its generation's mapping alive.
        """
        return self._current().versions

    @property
    def statics(self) -> npt.NDArray[np.void]:
        """(max_pools,) read-only static rows (dtype layouts.slots.STATIC) in shared memory."""
        return self._current().statics

    @property
    def tokens(self) -> npt.NDArray[np.void]:
        """(max_tokens,) read-only token rows (dtype layouts.slots.TOKEN) in shared memory."""
        return self._current().tokens

    @property
    def counters(self) -> dict[str, int]:
        """The writer's counters by name (layouts.header.COUNTER_NAMES)."""
        header = self._current().header
        return {name: header.counters[index] for index, name in layout.COUNTER_NAMES.items()}

    # Health

    def _health(self) -> tuple[ControlSegment, Any]:
        self._current()
        control, shared = self._control, self._shared
        if control is None or shared is None:
            raise self._closed_error()
        return control, shared

    @property
    def phase_record(self) -> Phase:
        """What the writer is doing, since when, why, and which blocks are missing."""
        return read_phase(self._health()[1])

    @property
    def phase(self) -> str:
        """starting, connecting, buffering, scraping, replaying, live, gap or stopped.

        The last one a dead writer was in: look at writer_alive too.
        """
        return self.phase_record.name

    @property
    def phase_reason(self) -> str:
        """Why the writer is in this phase; may be empty."""
        return self.phase_record.reason

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the writer's last sign of life.

        In a time namespace of its own the writer's clock may be ahead of this process's: then it is 0
        when a sign of life comes within a quarter of a second, which this waits for, else infinite.
        """
        age_ns = heartbeat_age_ns(self._health()[1])
        return math.inf if age_ns is None else age_ns / 1e9

    @property
    def writer_pid(self) -> int | None:
        """Process that holds the writer lock; None when nobody does, 0 when its pid is not visible."""
        return self._health()[0].holder()

    @property
    def writer_alive(self) -> bool:
        """Whether a writer holds the lock and gave a sign of life within heartbeat_limit seconds."""
        return self.writer_pid is not None and self.heartbeat_age <= self.heartbeat_limit

    @property
    def generation(self) -> int:
        """Number of the data segment; grows when the arena is grown or re-created."""
        return self._current().generation

    @property
    def chain_id(self) -> int:
        """Chain the pools belong to; 0 = unknown."""
        return int(self._health()[1].chain_id)

    def __repr__(self) -> str:
        return f"Arena({self.name!r}{', closed' if self.closed else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self.name, self.follow, self.require_writer, self.heartbeat_limit, self.owner)
        return (_reattach, options)


class HeadBlock(int):
    """A block number, as wait_block returns it, that can say which pools were touched.

    Made by an arena at commit `commit`, after a wait from some block. Pickles and copies as the number.
    """

    commit: int
    _arena: Arena
    _origin: int  # of the numbers of commits
    _since: tuple[int, int]
    _after: int | None

    @classmethod
    def _make(cls, arena: Arena, mapped: MappedArena, record: Any, after: int) -> Self:
        found = cls(record.block_number)
        found.commit, found._arena, found._origin = int(record.stamp), arena, mapped.origin
        # Nothing of `after` itself is kept: it would hold the one before it, and so on.
        found._since, found._after = (0, 0), int(after)
        if isinstance(after, HeadBlock):
            found._since, found._after = (after._origin, after.commit), None
            if after._arena.name != arena.name:
                found._since = (0, 0)
        return found

    @property
    def touched(self) -> list[str]:
        """Keys of the pools that changed since the `after` of the wait: events, reorgs, newly read
        values. Pools touched again by now are among them; none is left out that is still there.

        Where `after` was what an earlier wait returned, everything since then counts, reorgs too; a
        plain number names blocks, so only pools whose last event or reading came after it. ArenaClosed,
        SnapshotContended.
        """
        return self._arena._touched(self._since, self._after)

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))


class _Keys(Sequence[str]):
    """Keys of many references, made when asked for."""

    def __init__(self, mapped: MappedArena, references: npt.NDArray[np.uint64]) -> None:
        self._mapped = mapped
        self._references = references

    def __len__(self) -> int:
        return len(self._references)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Keys(self._mapped, self._references[index])
        reference = int(self._references[index])
        return reference_key(self._mapped, reference) or f"of slot {place_of(reference)[0]}"
