"""What an arena or a socket takes of the machine, and whom it lets in."""

from dataclasses import dataclass

from arena.segment import UNDO_NBYTES


@dataclass(frozen=True, slots=True)
class Access:
    """Permission bits, and the group that owns it: a name, a number, or None for the user's own."""

    mode: int = 0o600
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Capacities:
    """What an arena can hold: pools, bytes of ticks, and bytes of what a reorg undoes."""

    max_pools: int = 16384
    tick_bytes: int = 64 << 20
    undo_bytes: int = UNDO_NBYTES
