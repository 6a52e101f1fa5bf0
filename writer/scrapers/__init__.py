"""Where pool values come from: one contract, one module per source.

A scraper lists pools and reads their values; it knows nothing of the arena, the stream or threads.
Every value carries the block it belongs to, so pools read at different blocks can be joined with
the event stream one by one. A failed read raises; a pool whose values contradict each other is
reported in `Scrape.invalid` and never among `Scrape.pools`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from arena.errors import PoolInvalid
from arena.specs import PoolSpec
from arena.values import PoolValues

if TYPE_CHECKING:
    from arena.writer.protocols.storage import PoolTarget


@dataclass(frozen=True, slots=True)
class ScrapedPool:
    """One pool as its source shows it: what never changes, and its values at one block.

    `block_hash` is the hash of that block where the source knows it. With a node at hand it tells
    whether the values are of the stream's branch.
    """

    spec: PoolSpec
    values: PoolValues
    block_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Scrape:
    """The answer of one read.

    `as_of_ns` (CLOCK_MONOTONIC) is when the values were made, where that is before the call: a revert
    that arrived later and reaches a pool's block makes them unfit, and without a block hash so does
    any loss of the stream. None when the values were read during the call. Those of the pools `outdated`
    (keys) are from before a loss the source was told of.
    """

    pools: tuple[ScrapedPool, ...]
    invalid: tuple[PoolInvalid, ...] = ()
    as_of_ns: int | None = None
    outdated: frozenset[bytes] = frozenset()


class PoolScraper(Protocol):
    """What the coordinator asks of a source. Calls block; several may run at once in threads.

    A source may have an attribute `trails`, True when it lags behind the node it belongs to, as a
    database does: it is waited for before anything is read, and what it shows may still be of a
    branch whose reverts the stream has already brought. After a loss of the stream, what it shows
    without hashes counts once its newest block has been seen to move.

    A source may have a method `note_loss()`: the stream has lost something, so what the source holds
    now is no longer to be taken for new. Called in the event loop; must not block.
    """

    def get_current_block_number(self) -> int:
        """The newest block the source can answer for. Raises Scraper when it cannot tell."""

    def list_pools(self) -> Sequence[PoolSpec]:
        """Every pool to hold, Uniswap V2 first; may wait for the source to appear. Scraper."""

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        """Values of the pools with these keys (20 or 32 bytes); a key the source no longer has is
        reported as invalid. Raises Scraper when the source cannot be read."""

    def hold(self, targets: "Sequence[PoolTarget]") -> None:
        """From now on these are the pools. Safe while reads run in other threads."""

    def close(self) -> None:
        """Release what the source holds open. Safe to call twice."""
