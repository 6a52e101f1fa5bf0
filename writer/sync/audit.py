"""Pools of a live writer compared with a node, a few at a time.

It takes from the feed thread no more than a copy, and never holds up the stream or the joining of pools.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from arena.errors import Scraper
from arena.layouts.slots import DYNAMIC_FEE_PIPS
from arena.values import PoolValues
from arena.writer.scrapers import Scrape
from arena.writer.scrapers.described import Described
from arena.writer.scrapers.differences import Difference, differences
from arena.writer.sync.hashes import HASH_WAIT_S, POLL_S, Hashes, hash_of_block
from arena.writer.sync.intake import Intake
from arena.writer.sync.port import FeedThreadCall

log = logging.getLogger(__name__)


FAILED_PAUSE_S = 5.0
RECHECK_BLOCKS = 3  # after a pool was added its values are compared once more
AT_ONCE = 100  # pools that are due, compared together
SWEEP_PAUSE_S = 60.0  # after a difference all are due, and not again before


class PinnedScraper(Protocol):
    """Reads pools at a block given by its hash."""

    def read_pools_at(self, number: int, block_hash: bytes, keys: Sequence[bytes]) -> Scrape:
        """Values at exactly that block. Scraper."""


@dataclass(slots=True)
class Audit:
    """Compares `pools` random live pools with the node every `every_blocks`, each sample at the block
    it was taken at; a pool that differs in two readings of the node is made stale. What spoiled one
    may have spoiled others: all pools are compared then."""

    intake: Intake
    call: FeedThreadCall
    hashes: Hashes
    scraper: PinnedScraper
    every_blocks: int
    pools: int
    described: Described | None = None
    due: dict[bytes, int] = field(default_factory=dict)
    """Pools to look at once from that block on."""
    _swept_at: float | None = None

    def recheck(self, keys: Sequence[bytes], head_block: int) -> None:
        """Compare these once in a few blocks."""
        for key in keys:
            self.due[key] = head_block + RECHECK_BLOCKS

    async def run(self) -> None:
        """Until cancelled; what the node refuses is tried again with the next sample."""
        last = 0
        while True:
            await asyncio.sleep(POLL_S)
            head = await self.call(self.intake.live_head)
            chosen = [key for key, block in self.due.items() if block <= head][:AT_ONCE]
            is_time = head >= last + self.every_blocks or head < last
            if not head or not (is_time or chosen):
                continue
            if is_time:
                last = head
            due = {key: self.due[key] for key in chosen}
            try:
                compared = await self._compare(self.pools if is_time else 0, chosen)
            except Scraper as error:
                log.info("event=audit_failed error=%s reason=%r", type(error).__name__, str(error))
                await asyncio.sleep(FAILED_PAUSE_S)
                continue
            for key, block in due.items():
                # One that is stale by now was not compared: it is read anew instead.
                if compared is not None and self.due.get(key) == block:
                    del self.due[key]

    async def _compare(self, count: int, keys: Sequence[bytes]) -> int | None:
        """How many were compared; None when nothing can be said of the block they were taken at."""
        sample = await self.call(self.intake.members.sample, count, keys)
        if sample is None:
            return None
        if not sample[2]:
            return 0
        moment, head, ours = sample
        known = await hash_of_block(self.hashes, self.intake, self.call, head, moment, HASH_WAIT_S)
        if known is None:
            log.debug("event=audit_skipped block=%d reason='its hash is not known'", head)
            return None
        found = await self._differences(head, known, ours)
        if found:
            # A node may have answered with a state it was still building: it is asked again.
            await asyncio.sleep(POLL_S)
            again = await self._differences(head, known, {key: ours[key] for key in found})
            found = {key: again[key] for key in again if again[key]}
        if fees := [key for key, rows in found.items() if all(r.field == "fee_pips" for r in rows)]:
            # No event told of it; the pool says so, and is read again.
            for each in (each for key in fees for each in found.pop(key)):
                log.info(
                    "event=fee_changed block=%d pool=0x%s from=%s to=%s",
                    head,
                    each.key.hex(),
                    each.ours,
                    each.theirs,
                )
            await self.call(self.intake.members.suspect, fees)
        for each in (each for rows in found.values() for each in rows):
            log.error(
                "event=audit_difference block=%d pool=0x%s field=%s arena=%s node=%s",
                head,
                each.key.hex(),
                each.field,
                each.ours,
                each.theirs,
            )
        await self.call(self.intake.members.audited, len(ours), list(found))
        if found:
            await self._look_at_all(head)
        return len(ours)

    async def _look_at_all(self, head: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._swept_at is not None and now < self._swept_at + SWEEP_PAUSE_S:
            return
        self._swept_at = now
        pools = await self.call(self.intake.members.pools)
        self.due = dict.fromkeys(pools, head) | self.due
        log.warning(
            "event=audit_of_all pools=%d reason='a pool differed from the node'", len(pools)
        )

    async def _differences(
        self, number: int, block_hash: bytes, ours: Mapping[bytes, PoolValues]
    ) -> dict[bytes, list[Difference]]:
        scrape = await asyncio.to_thread(self.scraper.read_pools_at, number, block_hash, list(ours))
        if self.described is not None:
            scrape = await asyncio.to_thread(self.described.checked, scrape)
        found = {}
        for pool in scrape.pools:
            key, spec = pool.spec.key, pool.spec
            rows = differences(key, spec.protocol, ours[key], pool.values)
            if spec.fee_pips == DYNAMIC_FEE_PIPS:  # changes without an event, and says so
                rows = [each for each in rows if each.field != "lp_fee"]
            found[key] = rows
        for invalid in scrape.invalid:
            if invalid.fields.get("found") != "no entry":  # taken from the list just now
                found[invalid.key] = [Difference(invalid.key, "pool", "live", str(invalid))]
        return {key: rows for key, rows in found.items() if rows}
