"""What can be seen of an arena, collected: one immutable View a look. Knows nothing of terminals or pages."""

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

import numpy as np
import numpy.typing as npt

from arena.control import Phase
from arena.errors import (
    ArenaError,
    ArenaMissing,
    ArenaNotReady,
    PoolRemoved,
    SnapshotContended,
    UnknownPool,
    WriterDead,
)
from arena.layouts import slots
from arena.readers.frozen import FrozenSnapshot
from arena.readers.group import Group
from arena.readers.reader import Arena, attach
from arena.readers.state import PoolState
from arena.readers.views.attached import Mappers, mappers
from arena.readers.views.listing import Pools, list_pools, read_pools

RATE_S = 30.0  # rates are of the time up to so long ago
RETRY_S = 1.0  # between two looks for a successor of a writer that is gone
SCAN_S = 5.0  # between two looks for other readers, at least
SHARE = 0.02  # of the time at most goes into listing pools, and as much into looking for readers
KEPT_CHANGES = 16_384
SHOWN_CHANGES = 100

_CHANGE = slots.record(
    slots.LINE.itemsize + 24,
    [
        ("reference", "<u8", 0),
        ("seen", "<f8", 8),  # Unix seconds
        ("price", "<f8", 16),
        ("line", slots.LINE, 24),
    ],
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a pool was after a change that was seen: when (Unix seconds), up to which event, its price."""

    seen: float
    block_number: int
    tx_index: int
    log_index: int
    status: str
    price: float


@dataclass(frozen=True, slots=True, eq=False)
class OpenPool:
    """One pool in full: its state, None when there is no such pool now; its last changes, newest first."""

    key: str
    state: PoolState | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An arena at one look. Times are seconds; `seen` is Unix time.

    `trouble` says in words what keeps the values from being up to date, empty when nothing does. `lag` is
    how long after its own time the newest block was first seen here, None for one that was there
    before; `age` the time since then. Both need a block with a time. `events_per_s` and `commits_per_s`
    are means of the last `rate_s` seconds, None at the first look. `mappers`: other processes that map
    the arena, without its writer; None when nobody can tell.
    """

    name: str
    seen: float
    trouble: str
    chain_id: int
    generation: int
    phase: Phase
    phase_age: float | None
    writer_pid: int | None
    writer_alive: bool
    heartbeat_age: float
    block_number: int
    timestamp: int
    base_fee: int
    commit: int
    age: float | None
    lag: float | None
    events_per_s: float | None
    commits_per_s: float | None
    rate_s: float
    counters: Mapping[str, int]
    mappers: Mappers | None
    pools: Pools
    opened: OpenPool | None


class Monitor:
    """Looks at the arena of one name, again and again, whatever becomes of its writer.

    Attaches as `attach` does, and raises what that raises; a dead writer's arena will do. From then on
    `look` follows grown arenas and arenas made anew, and says in `View.trouble` what it cannot follow.
    Not safe for threads: one call at a time. `kept_changes` of all pools together are remembered.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout: float = 1.0,
        owner: int | str | None = None,
        kept_changes: int = KEPT_CHANGES,
    ) -> None:
        self._owner = owner
        self._arena = attach(name, timeout=timeout, require_writer=False, owner=owner)
        self.name = self._arena.name
        self._group: Group | None = None
        self._pools: Pools | None = None
        self._list_again = 0.0  # monotonic, as all of these
        self._retry = 0.0
        self._refusal = ""  # why the last successor could not be read
        self._scan_again = 0.0
        self._mappers: Mappers | None = None
        self._samples: deque[tuple[float, int, int]] = deque()
        self._head: tuple[int, int] | None = None  # origin and number of the block seen last
        self._lag: float | None = None
        self._changes = np.zeros(kept_changes, _CHANGE)
        self._change_count = 0
        self._last: View | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the arena. Views stay valid."""
        self._arena.close()

    def look(self, opened: str | None = None) -> View:
        """The arena now; with `opened`, a pool's key, that pool in full.

        Where the arena cannot be read the values are those of the look before, and `trouble` says why.
        The first look raises ArenaError in that case.
        """
        try:
            self._take_successor()
            view = self._read(opened)
        except (ArenaError, OSError) as error:
            if not isinstance(error, SnapshotContended):
                self._group = None  # listed anew
            last = self._last
            if last is None:
                raise
            trouble = f"not readable now: {type(error).__name__}: {error}"
            view = replace(last, seen=time.time(), trouble=trouble)
        self._last = view
        return view

    def _take_successor(self) -> None:
        """Attach anew once the writer is gone and another arena has the name; note why it was refused."""
        now = time.monotonic()
        if self._arena.writer_pid is not None:
            self._retry, self._refusal = now, ""
            return
        if now < self._retry:
            return
        self._retry = now + RETRY_S
        self._refusal = ""
        try:
            fresh = attach(self.name, timeout=0, owner=self._owner)
        except (ArenaMissing, ArenaNotReady, WriterDead):
            return
        except ArenaError as error:
            self._refusal = f"another cannot be read: {type(error).__name__}: {error}"
            return
        self._arena.close()
        self._arena = fresh
        self._group = None

    def _read(self, opened: str | None) -> View:
        arena = self._arena
        phase = arena.phase_record
        pid = arena.writer_pid
        heartbeat_age = arena.heartbeat_age
        is_alive = pid is not None and heartbeat_age <= arena.heartbeat_limit
        group, pools = self._read_pools()
        counters = arena.counters
        now, monotonic = time.time(), time.monotonic()
        phase_age = monotonic - phase.since_ns / 1e9
        self._note_head(pools.listing.origin, group, now)
        self._note_rates(monotonic, counters)
        first, last = self._samples[0], self._samples[-1]
        span = last[0] - first[0]
        return View(
            name=self.name,
            seen=now,
            trouble=_trouble(arena, phase, pid, is_alive, heartbeat_age, self._refusal),
            chain_id=arena.chain_id,
            generation=arena.generation,
            phase=phase,
            phase_age=phase_age if phase_age >= 0 else None,
            writer_pid=pid,
            writer_alive=is_alive,
            heartbeat_age=heartbeat_age,
            block_number=group.block_number,
            timestamp=group.timestamp,
            base_fee=group.base_fee,
            commit=group.commit,
            age=max(0.0, now - group.timestamp) if group.timestamp else None,
            lag=self._lag,
            events_per_s=(last[1] - first[1]) / span if span else None,
            commits_per_s=(last[2] - first[2]) / span if span else None,
            rate_s=span,
            counters=MappingProxyType(counters),
            mappers=self._look_for_readers(pid),
            pools=pools,
            opened=None if opened is None else self._open(opened),
        )

    # Pools

    def _read_pools(self) -> tuple[Group, Pools]:
        arena, before, group = self._arena, self._pools, self._group
        now = time.monotonic()
        listing = before.listing if before is not None else None
        is_other = listing is None or arena._current().origin != listing.origin
        if (
            group is None
            or listing is None
            or is_other
            or (now >= self._list_again and arena.topology != listing.topology)
        ):
            listing, group = list_pools(arena)
            self._group = group
            if is_other:
                self._change_count = (
                    0  # of pools of another arena, which may have the same references
                )
            self._list_again = time.monotonic() + (time.monotonic() - now) / SHARE
        pools = read_pools(group, listing, before)
        if before is not None and before.listing is listing:
            self._note_changes(pools, group.touched)
        self._pools = pools
        return group, pools

    def _note_changes(self, pools: Pools, changed: npt.NDArray[np.uint32]) -> None:
        kept = len(self._changes)
        chosen = changed[-kept:]
        if not len(chosen):
            return
        places = np.arange(self._change_count, self._change_count + len(chosen)) % kept
        self._changes["reference"][places] = pools.listing.references[chosen]
        self._changes["seen"][places] = time.time()
        self._changes["price"][places] = pools.price[chosen]
        self._changes["line"][places] = pools.lines[chosen]
        self._change_count += len(chosen)

    def changes(self, key: str, most: int = SHOWN_CHANGES) -> tuple[Change, ...]:
        """Up to `most` changes of a pool that looks have seen, the newest first; none of an unknown pool."""
        pools = self._pools
        if pools is None or (place := pools.listing.place(key)) is None:
            return ()
        reference = pools.listing.references[place]
        count, size = self._change_count, len(self._changes)
        kept = np.arange(max(0, count - size), count) % size
        found = kept[self._changes["reference"][kept] == reference][::-1][:most]
        return tuple(
            Change(
                seen=float(each["seen"]),
                block_number=int(each["line"]["block_number"]),
                tx_index=int(each["line"]["tx_index"]),
                log_index=int(each["line"]["log_index"]),
                status=slots.STATUS_NAMES[int(each["line"]["fee_status"]) >> 24],
                price=float(each["price"]),
            )
            for each in self._changes[found]
        )

    def snapshot(self, key: str) -> FrozenSnapshot:
        """A copy of one pool, with the block and the commit it is of. What Arena.snapshot raises."""
        return self._arena.snapshot([key])

    def _open(self, key: str) -> OpenPool:
        state = None
        with suppress(UnknownPool, PoolRemoved):
            state = self._arena[key].state()
        return OpenPool(key, state, self.changes(key))

    # Over time

    def _note_head(self, origin: int, group: Group, now: float) -> None:
        head = (origin, group.block_number)
        if self._head is not None and head != self._head:
            is_dated = group.timestamp and self._head[0] == origin
            self._lag = max(0.0, now - group.timestamp) if is_dated else None
        self._head = head

    def _note_rates(self, now: float, counters: Mapping[str, int]) -> None:
        events, commits = counters["events_applied"], counters["commits"]
        samples = self._samples
        if samples and (events < samples[-1][1] or commits < samples[-1][2]):
            samples.clear()  # another writer counts from 0
        samples.append((now, events, commits))
        while now - samples[0][0] > RATE_S:
            samples.popleft()

    def _look_for_readers(self, writer_pid: int | None) -> Mappers | None:
        now = time.monotonic()
        if now >= self._scan_again:
            began = time.process_time()
            found = mappers(self._arena._current().segment.name)
            if found is not None:
                others = tuple(pid for pid in found.pids if pid != writer_pid)
                found = Mappers(others, found.hidden)
            self._mappers = found
            self._scan_again = now + max(SCAN_S, (time.process_time() - began) / SHARE)
        return self._mappers


def _trouble(
    arena: Arena,
    phase: Phase,
    pid: int | None,
    is_alive: bool,
    heartbeat_age: float,
    refusal: str,
) -> str:
    if pid is None:
        how = "has ended" if phase.name == "stopped" else "is gone: killed, or crashed"
        rest = refusal or "waiting for another"
        return f"the writer {how}. These are its last values; {rest}"
    if not is_alive:
        who = f"the writer, process {pid}," if pid else "the writer"
        age = "none was seen" if heartbeat_age == float("inf") else f"{heartbeat_age:.0f} s"
        return f"{who} gives no sign of life: {age}. Its values may be old"
    return ""
