"""What other programs import: attach to an arena, read pools, quote swaps.

Needs numpy, posix_ipc and cffi only. Reads without locks from a read-only mapping; nothing a reader does
can disturb the writer.
"""

from arena.control import Phase
from arena.readers.pool import Pool
from arena.readers.quote import Ladder, Quote, QuoteBatch
from arena.readers.reader import Arena, HeadBlock, attach
from arena.readers.snapshot import FrozenSnapshot, SharedSnapshot, Snapshot
from arena.readers.state import FrozenPool, PoolState, Token

__all__ = [
    "Arena",
    "FrozenPool",
    "FrozenSnapshot",
    "HeadBlock",
    "Ladder",
    "Phase",
    "Pool",
    "PoolState",
    "Quote",
    "QuoteBatch",
    "SharedSnapshot",
    "Snapshot",
    "Token",
    "attach",
]
