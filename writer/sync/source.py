"""Reads pools from where their values come from, and knows from when those are."""

import asyncio
import logging
import time
from collections.abc import Sequence

from arena.errors import (
    BlockUnavailable,
    NotAtRest,
    OtherFork,
    PartialPersistence,
    PoolInvalid,
    RpcRefused,
    RpcUnavailable,
    Scraper,
)
from arena.layouts.protocols import PROTOCOLS
from arena.specs import PoolSpec
from arena.writer.node.meanings import LASTING, meaning
from arena.writer.scrapers import PoolScraper
from arena.writer.scrapers.described import Described
from arena.writer.sync.candidate import Candidate
from arena.writer.sync.parts import Part, Shared

log = logging.getLogger(__name__)

OUTDATED = (
    "its values carry no block hash and are from before the stream lost blocks, so they may be of "
    "another branch. Write the state file anew at a later block, let the database go on, or give --rpc"
)

# What a source says that will pass while one waits.
PASSING = (
    NotAtRest,
    PartialPersistence,
    OtherFork,
    BlockUnavailable,
    RpcUnavailable,
    RpcRefused,  # unless its meaning is a lasting one
)


class Source(Part):
    """`described` tells pools that are not what they are listed as; `brings_all`: the stream has the
    events of every protocol, as one that a bridge makes of a node's logs has."""

    def __init__(
        self,
        shared: Shared,
        *,
        scraper: PoolScraper,
        described: Described | None,
        brings_all: bool,
    ) -> None:
        super().__init__(shared)
        self.scraper = scraper
        self.described = described
        self._brings_all = brings_all
        # For a source that trails: the newest loss, its newest block first seen after it, and the
        # newest loss after which that block was seen to move.
        self._seen: tuple[int, int] | None = None
        self._moved_after = 0
        self._not_ready: set[str] = set()  # what the source said and was logged

    @property
    def trails(self) -> bool:
        return bool(getattr(self.scraper, "trails", False))

    async def wait_out(self, error: Scraper, epoch: int, deadline: float) -> None:
        """Show why nothing is read, and pause before asking the source again; the error itself when
        the time is over or nothing is to be waited for."""
        lasts = isinstance(error, RpcRefused) and meaning(error) in LASTING
        if lasts or time.monotonic() >= deadline:
            raise error
        if type(error).__name__ not in self._not_ready:
            self._not_ready.add(type(error).__name__)
            log.warning(
                "event=source_not_ready error=%s reason=%r", type(error).__name__, str(error)
            )
        reason = f"waiting for values: {type(error).__name__}: {error}"
        await self._call(self.intake.enter, epoch, "scraping", reason)
        await self._progress.unbroken(asyncio.sleep(self._progress.poll_s))

    async def read(
        self, keys: list[bytes], epoch: int
    ) -> tuple[list[Candidate], Sequence[PoolInvalid]]:
        mark, losses = await self._call(self.intake.standing.known_now, epoch)
        if self.trails and self._moved_after < losses:
            found = await asyncio.to_thread(self.scraper.get_current_block_number)
            if self.trails:  # it was not the node in the database's place that answered
                self._note(losses, found)
            losses = self._moved_after
        scrape = await asyncio.to_thread(self.scraper.read_pools, keys)
        if self.described is not None:
            scrape = await asyncio.to_thread(self.described.checked, scrape)
        if scrape.as_of_ns is not None:
            as_of_ns = scrape.as_of_ns
            known, before = await self._call(self.intake.standing.known_at, epoch, as_of_ns)
            mark, losses = min(mark, known), min(losses, before)
        trails = self.trails
        untold = [pool.spec for pool in scrape.pools if not self.brings(pool.spec)]
        return [
            Candidate(pool, mark, trails, 0 if pool.spec.key in scrape.outdated else losses)
            for pool in scrape.pools
            if self.brings(pool.spec)
        ], (*scrape.invalid, *map(_not_told, untold))

    def brings(self, spec: PoolSpec) -> bool:
        """Whether the stream has the events of that pool."""
        return self._brings_all or PROTOCOLS[spec.protocol].is_in_feeds

    def _note(self, losses: int, block_number: int) -> None:
        """A source that trails stood at that block after `losses` were noticed: what it wrote since
        the first look after a loss, it wrote knowing what was lost."""
        if self._seen is None or self._seen[0] != losses:
            self._seen = losses, block_number
        elif self._seen[1] != block_number:
            self._moved_after = losses


def _not_told(spec: PoolSpec) -> PoolInvalid:
    found = f"no feed has the events of {PROTOCOLS[spec.protocol].name}"
    return PoolInvalid(
        f"pool 0x{spec.key.hex()} is not installed: {found}; they come from a node's logs: run with "
        "--node, or with --dialect bridge beside an arena-bridge",
        key=spec.key,
        found=found,
    )
