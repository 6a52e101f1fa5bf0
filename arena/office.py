"""What a writer says of itself in the control segment: who it is, what it does, that it is alive."""

import os
import threading
import time
from functools import cache
from typing import Any

from arena.control import REASON_NBYTES, Phase, read_phase
from arena.errors import ArenaClosed
from arena.layouts import header as layout
from arena.layouts.words import cut_utf8
from arena.native import ffi, lib


def process_start_time(pid: int) -> int:
    """Clock ticks since boot at which a process started; 0 when there is no such process.

    Source: field 22 of /proc/PID/stat; field 2 may hold spaces and parentheses.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


def _boot_id() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


@cache
def _version() -> str:
    import importlib.metadata  # readers have no use for it

    try:
        return importlib.metadata.version("pool-state-arena")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write_phase(shared: Any, number: int, reason: str = "", gap: tuple[int, int] = (0, 0)) -> None:
    """Show a phase, since now. Only for who holds the writer lock, one thread at a time."""
    record = ffi.new("psa_phase *")
    record.phase = number
    record.since_ns = time.monotonic_ns()
    record.gap_first, record.gap_last = gap
    text = cut_utf8(reason, REASON_NBYTES)
    ffi.memmove(record.reason, text, len(text))
    lib.psa_phase_write(shared, record)


def write_state(shared: Any, state: int) -> None:
    """Show a state, PSA_STATE_*, and everything stored before it."""
    lib.psa_store_release_u32(ffi.addressof(shared, "state"), state)


class Office:
    """A writer's place in the control segment, from any thread. Use after close raises ArenaClosed."""

    def __init__(self, name: str, shared: Any) -> None:
        self._name = name
        self._shared = shared
        self._lock = threading.Lock()

    @property
    def shared(self) -> Any:
        """The psa_control."""
        if self._shared is None:
            raise ArenaClosed(f"the writer of {self._name} is closed", name=self._name)
        return self._shared

    def take(self) -> None:
        """Name this process as the writer, alive and starting."""
        shared = self.shared
        pid = os.getpid()
        shared.writer_pid = pid
        shared.writer_start_time = process_start_time(pid)
        ffi.memmove(shared.boot_id, _boot_id(), 16)
        ffi.memmove(shared.writer_version, _version().encode()[:31].ljust(32, b"\0"), 32)
        self.heartbeat()
        self.set_phase("starting")

    def heartbeat(self) -> None:
        """Tell readers that this writer is alive and not hung."""
        with self._lock:
            shared = self.shared
            shared.heartbeat_count = (shared.heartbeat_count + 1) & 0xFFFFFFFFFFFFFFFF
            now = time.monotonic_ns()
            lib.psa_store_release_u64(ffi.addressof(shared, "heartbeat_ns"), now)

    @property
    def phase(self) -> Phase:
        """The phase that readers see."""
        return read_phase(self.shared)

    def set_phase(self, phase: str | int, reason: str = "", gap: tuple[int, int] = (0, 0)) -> None:
        """Tell readers what the writer is doing. `reason` is cut at 216 bytes; ValueError for no phase."""
        number = layout.PHASE_NUMBERS.get(phase) if isinstance(phase, str) else phase
        if number is None or not 0 <= number < len(layout.PHASE_NAMES):
            raise ValueError(f"{phase!r} is no phase; phases are {', '.join(layout.PHASE_NAMES)}")
        with self._lock:
            write_phase(self.shared, number, reason, gap)

    @property
    def chain_id(self) -> int:
        """Chain the pools belong to; 0 = unknown."""
        return int(self.shared.chain_id)

    def leave(self) -> None:
        """Show that nobody writes any more: phase stopped, state closed."""
        self.set_phase("stopped")
        write_state(self.shared, layout.STATE_CLOSED)

    def close(self) -> None:
        """Let go of the control segment."""
        with self._lock:
            self._shared = None
