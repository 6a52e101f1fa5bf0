"""One arena by name, mapped read-only: its generation, its end, its arrays and its writer's health.

An Attachment follows when the writer re-creates the arena. Nothing here can disturb the writer.
"""

import math
import threading
import time
from typing import Any, Self

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
from arena.errors import ArenaClosed, ArenaMissing, ArenaNotReady, ArenaReplaced, WriterDead
from arena.layouts import header as layout
from arena.lock import ControlSegment
from arena.mapping import MappedArena
from arena.native import ffi
from arena.owner import user_id
from arena.readers.arguments import flag, seconds
from arena.readers.state import Key
from arena.segment import segment_name

_FOLLOW_PAUSE = 0.1  # seconds between two looks for a successor under the name


class Attachment:
    """A read-only mapping of the arena of one name, and what an Arena knows without looking at pools.

    Each operation begins with `_current`, which moves on to a re-created arena or refuses.
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
        self.follow = flag("follow", follow)
        self.require_writer = flag("require_writer", require_writer)
        seconds("heartbeat_limit", heartbeat_limit)
        self.heartbeat_limit = heartbeat_limit
        self.owner = owner
        self._owner_uid = user_id(owner)
        self._lock = threading.RLock()
        # Handles by key, made by Arena; they belong to the generation that is mapped.
        self._pools: dict[Key, Any] = {}
        self._pools_topology = -1
        # Handles of snapshots' pools by key; each is looked at again before it is used.
        self._kept: dict[Key, Any] = {}
        self._kept_for = (0, -1)
        self._look_again = 0.0
        self._closed = ffi.new("uint32_t *")  # not 0: handles must not quote any more
        self._closed_word = int(ffi.cast("uintptr_t", self._closed))
        self._mapped: MappedArena | None = None
        self._control: ControlSegment | None = None
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
            self._kept = {}
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
            self._kept = {}
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

    def _kept_handles(self, mapped: MappedArena, topology: int) -> dict[Key, Any]:
        """Where the snapshots of one set of pools keep handles by key."""
        kept_for = (mapped.generation, topology)
        if self._kept_for != kept_for:
            self._kept, self._kept_for = {}, kept_for
        return self._kept

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
