"""What other programs import: attach to an arena, read pools, quote swaps.

Needs numpy, posix_ipc and cffi only. Reads without locks from a read-only mapping; nothing a reader does
can disturb the writer.
"""

from arena.control import Phase
from arena.readers.batch import QuoteBatch
from arena.readers.copy_quotes import Ladder
from arena.readers.frozen import FrozenSnapshot, SharedSnapshot
from arena.readers.frozen_pool import FrozenPool
from arena.readers.group import Group
from arena.readers.head_block import HeadBlock
from arena.readers.pool import Pool
from arena.readers.quote import Quote
from arena.readers.reader import Arena, attach
from arena.readers.routes import (
    Cycles,
    Gas,
    MarketOptimum,
    Price,
    Route,
    Router,
    RouterUpdate,
    Split,
    Swap,
)
from arena.readers.snapshot import Snapshot
from arena.readers.state import PoolState, TickArrays
from arena.readers.token import PoolPrice, Token
from arena.readers.token_quotes import TokenQuote

__all__ = [
    "Arena",
    "Cycles",
    "FrozenPool",
    "FrozenSnapshot",
    "Gas",
    "Group",
    "HeadBlock",
    "Ladder",
    "MarketOptimum",
    "Phase",
    "Pool",
    "PoolPrice",
    "PoolState",
    "Price",
    "Quote",
    "QuoteBatch",
    "Route",
    "Router",
    "RouterUpdate",
    "SharedSnapshot",
    "Snapshot",
    "Split",
    "Swap",
    "TickArrays",
    "Token",
    "TokenQuote",
    "attach",
]
