"""What becomes of pools in whose events node and stream differ while live.

Mostly one of both is ahead, and the stream turns its block back. Where a block of one time and one fee goes
on being another one in events, either has left some out, and nobody can say which. So its pools are stale,
and are read anew; the others are compared from there on as before.
"""

import asyncio
import logging
import time

from arena.errors import Scraper
from arena.writer.sync.agreement import Agreement
from arena.writer.sync.branch import MAX_WITNESSES, Branch
from arena.writer.sync.parts import Part, Shared
from arena.writer.sync.trail import Differing

log = logging.getLogger(__name__)

DISPUTED_S = 2.0  # for which one side may be ahead
AGAIN_S = 60.0  # a pool that differs once more within is stale sooner, and read later each time
KNOWN_S = 0.5  # in place of DISPUTED_S then: an index of logs is late by less
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
UNSETTLED_S = 10.0  # for which the node may refuse to say whether the block is still another one
SAID_S = 8.0  # for which blocks may differ in time or fee before readers are told
APART = "the stream's blocks are others than the node's: while it lasts no pool is compared with the node"


class Apart(Part):
    """Looks at the block at which the comparison stops."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._since = 0.0
        self.is_said = False  # its time or fee is another one, and readers were told
        self._doubts: dict[bytes, tuple[float, float]] = {}  # when, and the pause after it

    @property
    def doubted(self) -> frozenset[bytes]:
        """Pools that were in dispute."""
        return frozenset(self._doubts)

    async def look(self, branch: Branch, stopped: Differing | None, *, has_moved: bool) -> bool:
        """`stopped` is that block, None where all are equal; blocks before it were found equal where the
        search `has_moved`. True when it is passed over, so that blocks behind can be compared now."""
        now = time.monotonic()
        if stopped is None or has_moved:
            self._since = now
        await self._say(stopped, now)
        if stopped is None or not stopped.is_near:
            return False
        again = {key for key in stopped.disputed if self._is_again(key, now)}
        is_known = bool(again) and again == stopped.disputed
        if now < self._since + (KNOWN_S if is_known else DISPUTED_S):
            return False
        try:
            ask = asyncio.to_thread(stopped.lasts, branch.node, branch.reader, branch.pools)
            if not await ask:
                return False
        except Scraper:  # its logs may not all be there
            if now < self._since + UNSETTLED_S:
                return False
        disputed = stopped.disputed & branch.pools.keys()
        if disputed:
            await self._doubt(disputed, again, stopped.number)
        self._pass_over(branch, stopped)
        return True

    async def _doubt(self, keys: frozenset[bytes], again: set[bytes], number: int) -> None:
        now = time.monotonic()
        for key in keys:
            pause_s = FIRST_PAUSE_S
            if key in again:
                pause_s = min(2 * self._doubts[key][1], LONGEST_PAUSE_S)
                self._roster.read_after(key, now + pause_s, pause_s)
            self._doubts[key] = now, pause_s
        log.warning(
            "event=events_disputed block=%d pools=%d first=0x%s reason=%r",
            number,
            len(keys),
            min(keys).hex(),
            "stream and node have other events of them in one block, and either may lack some; they "
            "are read again",
        )
        self._roster.raise_floors(keys, number)
        while not await self._call(self.intake.members.doubt, keys, number):
            await asyncio.sleep(self._progress.poll_s / 10)

    def _pass_over(self, branch: Branch, block: Differing) -> None:
        """It counts as equal from now on; what shows that, has to be shown by others."""
        before = branch.passed.get(block.number, frozenset())
        branch.passed[block.number] = before | (block.disputed or block.touched)
        while len(branch.passed) > MAX_WITNESSES:
            del branch.passed[min(branch.passed)]
        branch.agreement = Agreement()

    def _is_again(self, key: bytes, now: float) -> bool:
        at, pause_s = self._doubts.get(key, (-AGAIN_S, 0.0))
        return now < at + AGAIN_S + pause_s

    async def _say(self, stopped: Differing | None, now: float) -> None:
        """Blocks that differ in time or fee say nothing of any pool: while it lasts nothing is compared."""
        is_long = stopped is not None and not stopped.is_near and now >= self._since + SAID_S
        if is_long or self.is_said:  # a stall may have taken it back
            self.is_said = is_long
            await self._call(self.intake.is_apart, APART if is_long else "")
