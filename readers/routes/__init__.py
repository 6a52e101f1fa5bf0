"""What a trade is worth across pools: prices, best paths and cycles, exact at one block.

Each process keeps an index of its own over an attached arena. Doubles search it; every amount that is handed
out was asked of the pools' own quotes at the commit that the answer names.
"""

from arena.readers.routes.answers import Cycles, Price, Route, RouterUpdate, Split, Swap
from arena.readers.routes.optimum import MarketOptimum
from arena.readers.routes.router import Router

__all__ = [
    "Cycles",
    "MarketOptimum",
    "Price",
    "Route",
    "Router",
    "RouterUpdate",
    "Split",
    "Swap",
]
