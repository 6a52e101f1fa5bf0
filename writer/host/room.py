"""What an arena takes of the machine."""

from dataclasses import dataclass

from arena.segment import UNDO_NBYTES


@dataclass(frozen=True, slots=True)
class Capacities:
    """What an arena can hold: pools, bytes of ticks, and bytes of what a reorg undoes."""

    max_pools: int = 16384
    tick_bytes: int = 64 << 20
    undo_bytes: int = UNDO_NBYTES
