"""Pools that come and go while the arena is live, and room for them."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from arena.errors import ArenaFull, OwnerMismatch
from arena.specs import PoolSpec
from arena.writer.lists.reports import PoolReports
from arena.writer.sync.parts import Part, Shared
from arena.writer.sync.places import Places
from arena.writer.sync.roster import SETTLE_BLOCKS
from arena.writer.sync.source import Source

log = logging.getLogger(__name__)


class Membership(Part):
    """Carries out what the roster says is to go and to come."""

    def __init__(self, shared: Shared, source: Source, places: Places) -> None:
        super().__init__(shared)
        self._source = source
        self._places = places
        self.changed = asyncio.Event()
        self.reports = PoolReports()

    async def grow(self, error: ArenaFull, *, gives_way: bool = False) -> bool:
        """Make room for what found none; False where there is none to be made. It `gives_way` to
        removals, then to be tried again: they cannot wait for the end of a reorg, as growing must."""
        table = error.fields.get("table", "")
        try:
            while (grown := await self._call(self.intake.members.grow, table)) is None:
                await asyncio.sleep(self._progress.poll_s / 10)
                if gives_way and self._roster.has_to_go:
                    return True
        except (ArenaFull, OwnerMismatch, OSError, ValueError) as refused:
            log.error("event=cannot_grow table=%r reason=%r", table, str(refused))
            return False
        if grown:
            size, generation = await self._call(self.intake.members.size_of, table)
            log.info("event=arena_grown table=%r size=%d generation=%d", table, size, generation)
        return grown

    def hold(self) -> None:
        """Tell the source of values which pools it may read."""
        self._source.scraper.hold(self._roster.held())

    async def keep_list(self) -> None:
        """Carry out changes of the list, until cancelled: removals at once, additions while live."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            while self._roster.has_leaving or self._roster.has_coming:
                await self.take_away()
                if not self.intake.stage.is_live:
                    await asyncio.sleep(self._progress.poll_s)
                elif self._roster.has_leaving:
                    self._roster.leave_again()
                    await self.take_away()
                elif await self._announce(specs := self._roster.coming()):
                    self._roster.came(specs.keys())
                    if self._roster.has_list:
                        self.hold()

    async def take_away(self) -> None:
        """Remove the pools that are to leave, also those told meanwhile."""
        while keys := self._roster.to_go():
            count = await self._remove(keys)
            if count is None:
                await asyncio.sleep(self._progress.poll_s / 10)
                continue
            self._roster.went(keys)

    async def _remove(self, keys: Sequence[bytes]) -> int | None:
        """How many there were; None inside a reorg."""
        self._roster.forget(keys)
        self._places.forget(keys)
        count = await self._call(self.intake.members.remove, keys)
        if self._branch is not None and count is not None:
            # Not before: a block that differs in their events alone is another while they are there.
            gone = set(keys)
            self._branch.pools = {k: v for k, v in self._branch.pools.items() if k not in gone}
        if count:
            log.info("event=pools_removed pools=%d", count)
        return count

    async def _announce(self, specs: Mapping[bytes, PoolSpec]) -> bool:
        """Show pools as syncing and have them read once the stream brings their events; False when it
        is to be tried again."""
        since = await self._call(self.intake.idle_turns)
        while self.intake.stage.is_live and not self._roster.has_to_go:
            try:
                found = await self._call(self.intake.members.announce, tuple(specs.values()), since)
            except ArenaFull as error:
                if not await self.grow(error, gives_way=True):
                    for key in specs:
                        self.reports.report(key, error)
                    return True
                continue
            if found is None:
                await asyncio.sleep(self._progress.poll_s / 10)
                continue
            head, waiting = found
            new = {key: specs[key] for key in waiting}
            if self._branch is not None:
                # Blocks fetched for a gap bring their events, also those the stream left out.
                self._branch.pools = {**self._branch.pools, **new}
            self._roster.announced(new, head, time.monotonic())
            for key in new:
                self.reports.forget(key)
            log.info(
                "event=pools_announced pools=%d settle_block=%d", len(new), head + SETTLE_BLOCKS
            )
            self._progress.moved.set()
            return True
        return False
