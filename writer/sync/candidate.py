"""Pools that were read and wait to join."""

from dataclasses import dataclass

from arena.native import lib
from arena.writer.scrapers import ScrapedPool
from arena.writer.stream.history import Records


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scraped pool waiting to join: `mark` is older than the reading of its values.

    `trails`: the source may lag behind the stream, so values of a block number that was reverted
    may be of the old branch although the revert came before the reading. `losses`: how many losses
    of the stream had been noticed before the values were made (Standing.losses).
    """

    pool: ScrapedPool
    mark: int
    trails: bool = False
    losses: int = 0

    @property
    def key(self) -> bytes:
        return self.pool.spec.key

    @property
    def block_number(self) -> int:
        return self.pool.values.block_number


@dataclass(frozen=True, slots=True)
class Moment:
    """When a copy of the arena was taken; `removals`: how many pools had been removed by then."""

    epoch: int
    mark: int
    removals: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What keeps candidates from joining: pools to scrape again, the block still to come.

    `moved`: the stream begins at another block than the blocks fetched from the node lead to.
    `is_unsure`: nothing shows yet that the node is on the stream's branch. `is_unsettled`: what the node
    says of a block is not believed yet.
    """

    again: tuple[bytes, ...] = ()
    wait_for_block: int | None = None
    in_reorg: bool = False
    moved: bool = False
    is_unsure: bool = False
    is_unsettled: bool = False

    @property
    def is_clear(self) -> bool:
        waits = self.wait_for_block is not None or self.in_reorg or self.moved
        return not (self.again or waits or self.is_unsure or self.is_unsettled)


def all_bring_fees(begins: Records) -> bool:
    """Whether these BeginBlocks are of a stream that tells protocol fees of V4."""
    return bool((begins["flags"] & lib.PSA_EVENT_HAS_FEES != 0).all())
