"""What a live writer does on the side: compare pools with a node, ask what contracts did not say yet,
and write checkpoints.

They take from the feed thread no more than a copy, and wait for the hash of the block that copy is of:
the coordinator learns it. None ever holds up the stream or the joining of pools.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from arena.arena import PoolValues
from arena.errors import Scraper
from arena.layouts.slots import DYNAMIC_FEE_PIPS
from arena.writer.branch import Witness
from arena.writer.checkpoint import KEEP, write_checkpoint
from arena.writer.intake import Intake, Moment
from arena.writer.scrapers import Scrape
from arena.writer.scrapers.described import Described
from arena.writer.verify import Difference, differences

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 0.25
HASH_WAIT_S = 30.0  # a node behind the stream is believed to catch up within
FINAL_HASH_WAIT_S = 3.0
FAILED_PAUSE_S = 5.0
# Between two rounds of questions about pools that came in before a node said what they are.
DESCRIBE_FIRST_PAUSE_S, DESCRIBE_LONGEST_PAUSE_S = 1.0, 60.0
RECHECK_BLOCKS = 3  # after a pool was added its values are compared once more
AT_ONCE = 100  # pools that are due, compared together
SWEEP_PAUSE_S = 60.0  # after a difference all are due, and not again before


class PinnedScraper(Protocol):
    """Reads pools at a block given by its hash."""

    def read_pools_at(self, number: int, block_hash: bytes, keys: Sequence[bytes]) -> Scrape:
        """Values at exactly that block. Scraper."""


class Hashes(Protocol):
    """What the coordinator knows of the arena's blocks."""

    def hash_of(self, block_number: int) -> Witness | None:
        """The block's hash once it is known to be the arena's."""

    def known(self) -> Sequence[Witness]:
        """All that are known, ascending."""

    def hurry(self) -> None:
        """Look for hashes now."""


class FeedThreadCall(Protocol):
    """Runs `work` in the feed thread between two blocks."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


async def hash_of_block(
    hashes: Hashes, intake: Intake, call: FeedThreadCall, number: int, moment: Moment, wait_s: float
) -> bytes | None:
    """The hash of a block copied at `moment`; None when it is not learned in time or may not be the
    copy's."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        found = hashes.hash_of(number)
        if found is not None:
            return found.hash if await call(partial(intake.valid_at, moment, [found])) else None
        if asyncio.get_running_loop().time() >= deadline:
            return None
        hashes.hurry()
        await asyncio.sleep(POLL_S / 5)


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
        sample = await self.call(partial(self.intake.sample, count, keys))
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
        for each in (each for rows in found.values() for each in rows):
            log.error(
                "event=audit_difference block=%d pool=0x%s field=%s arena=%s node=%s",
                head,
                each.key.hex(),
                each.field,
                each.ours,
                each.theirs,
            )
        await self.call(partial(self.intake.audited, len(ours), list(found)))
        if found:
            await self._look_at_all(head)
        return len(ours)

    async def _look_at_all(self, head: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._swept_at is not None and now < self._swept_at + SWEEP_PAUSE_S:
            return
        self._swept_at = now
        pools = await self.call(self.intake.pools)
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


@dataclass(slots=True)
class Descriptions:
    """Asks again of pools that came in before their contracts said what they are, until they did; one
    that is something else than the list says is made stale, and its next reading takes it out."""

    intake: Intake
    call: FeedThreadCall
    described: Described
    first_pause_s: float = DESCRIBE_FIRST_PAUSE_S
    longest_pause_s: float = DESCRIBE_LONGEST_PAUSE_S
    found: set[bytes] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = self.first_pause_s
        while True:
            await asyncio.sleep(pause_s)
            held = await self.call(self.intake.pools)
            doubtful = self.described.doubtful(held.values())
            if not doubtful:
                pause_s = self.first_pause_s
                continue
            pause_s = min(2 * pause_s, self.longest_pause_s)
            wrong = await asyncio.to_thread(self.described.wrong_of, doubtful)
            await self.call(partial(self.intake.doubt, list(wrong)))
            for key in wrong.keys() - self.found:
                log.error("event=description_differs reason=%r", str(wrong[key]))
            self.found |= wrong.keys()
            # A reading that was under way may still let a wrong one in.
            self.described.settled([spec for spec in doubtful if spec.key not in wrong])


@dataclass(slots=True)
class Checkpoints:
    """Writes the arena into `folder` every `every_blocks`, and at the end.

    `written` counts the files, `failed` what could not be written.
    """

    intake: Intake
    call: FeedThreadCall
    hashes: Hashes
    folder: Path
    chain_id: int
    every_blocks: int
    keep: int = KEEP
    written: int = 0
    failed: int = 0
    last_block: int = 0

    def counts(self) -> dict[str, int]:
        """For metrics; any thread may ask."""
        return {
            "written_total": self.written,
            "failed_total": self.failed,
            "block": self.last_block if self.written else 0,
        }

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            head = await self.call(self.intake.live_head)
            if self.last_block == 0:
                self.last_block = head
            elif head >= self.last_block + self.every_blocks or 0 < head < self.last_block:
                await self.write(HASH_WAIT_S)

    async def write(self, wait_s: float = FINAL_HASH_WAIT_S) -> None:
        """One now, unless the arena is not live; a file that cannot be written is logged."""
        copied = await self.call(self.intake.image)
        if copied is None:
            return
        moment, head, image = copied
        self.last_block = head
        await hash_of_block(self.hashes, self.intake, self.call, head, moment, wait_s)
        known = [each for each in self.hashes.known() if each.number <= head]
        valid = await self.call(partial(self.intake.valid_at, moment, known))
        hashes = [(each.number, each.hash) for each in reversed(valid)]
        if not hashes:
            log.info("event=checkpoint_skipped block=%d reason='no hash is known'", head)
            return
        try:
            path = await asyncio.to_thread(
                partial(
                    write_checkpoint,
                    self.folder,
                    image,
                    chain_id=self.chain_id,
                    hashes=hashes,
                    keep=self.keep,
                )
            )
        except OSError as error:
            self.failed += 1
            log.error(
                "event=checkpoint_failed block=%d folder=%s reason=%r",
                head,
                self.folder,
                str(error),
            )
            return
        self.written += 1
        log.info(
            "event=checkpoint block=%d hash=%s bytes=%d file=%s",
            head,
            f"0x{hashes[0][1].hex()}" if hashes[0][0] == head else "unknown",
            path.stat().st_size,
            path.name,
        )
