"""What other programs import: attach to an arena, read pools, quote swaps.

Needs numpy, posix_ipc and cffi only. Reads without locks from a read-only mapping; nothing a reader does
can disturb the writer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from arena.control import Phase
from arena.readers.batch import QuoteBatch
from arena.readers.copy_quotes import Ladder
from arena.readers.frozen import FrozenSnapshot, SharedSnapshot
from arena.readers.frozen_pool import FrozenPool
from arena.readers.gas import Gas
from arena.readers.group import Group
from arena.readers.head_block import HeadBlock
from arena.readers.pool import Pool
from arena.readers.quote import Quote
from arena.readers.reader import Arena, attach
from arena.readers.snapshot import Snapshot
from arena.readers.state import PoolState, TickArrays
from arena.readers.token import PoolPrice, Token
from arena.readers.token_quotes import TokenQuote

if TYPE_CHECKING:
    from arena.readers.routes import (
        Cycles,
        MarketOptimum,
        Price,
        Route,
        Router,
        RouterUpdate,
        Split,
        Swap,
    )

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


def __getattr__(name: str) -> Any:
    # What routes across pools loads on first use: a fifth of the time of an import.
    if name in __all__:
        found = globals()[name] = getattr(import_module("arena.readers.routes"), name)
        return found
    raise AttributeError(f"module 'arena.readers' has no attribute {name!r}")
