"""What becomes of pools in whose events node and stream differ while live.

Mostly one of both is ahead, and the stream turns its block back. Where a block of one time and one fee goes
on being another one in events, either has left some out, and nobody can say which. So its pools are stale,
and are read anew; the others are compared from there on as before.
"""

import asyncio
import logging
import time

from arena.writer.sync.agreement import Agreement
from arena.writer.sync.branch import MAX_WITNESSES, Branch
from arena.writer.sync.parts import Part, Shared
from arena.writer.sync.trail import Differing

log = logging.getLogger(__name__)

DISPUTED_S = 2.0  # for which one side may be ahead
AGAIN_S = 60.0  # a pool that differs once more within is stale at once, and read later each time
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
SAID_S = 8.0  # for which blocks may differ in time or fee before readers are told


class Apart(Part):
    """Looks at the block at which the comparison stops."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._place: tuple[int, bytes] | None = None
        self._since = 0.0
        self._is_said = False
        self._doubts: dict[bytes, tuple[float, float]] = {}  # when, and the pause after it

    @property
    def doubted(self) -> frozenset[bytes]:
        """Pools that were in dispute."""
        return frozenset(self._doubts)

    async def look(self, branch: Branch, stopped: Differing | None) -> bool:
        """`stopped` is that block, None where all are equal. True when pools went stale for it, so that
        blocks behind can be compared now."""
        now = time.monotonic()
        place = None if stopped is None else (stopped.number, stopped.hash)
        if place != self._place:
            self._place, self._since = place, now
        if stopped is None or not stopped.disputed:
            await self._say(stopped, now)
            return False
        again = {key for key in stopped.disputed if self._is_again(key, now)}
        if now < self._since + DISPUTED_S and again != stopped.disputed:
            return False
        if await asyncio.to_thread(branch.orphaned, [(stopped.number, stopped.hash)]):
            return False
        for key in stopped.disputed:
            pause_s = FIRST_PAUSE_S
            if key in again:
                pause_s = min(2 * self._doubts[key][1], LONGEST_PAUSE_S)
                self._roster.read_after(key, now + pause_s, pause_s)
            self._doubts[key] = now, pause_s
        log.warning(
            "event=events_disputed block=%d pools=%d first=0x%s reason=%r",
            stopped.number,
            len(stopped.disputed),
            min(stopped.disputed).hex(),
            "stream and node have other events of them in one block, and either may lack some; they "
            "are read again",
        )
        self._roster.raise_floors(stopped.disputed, stopped.number)
        await self._call(self.intake.members.doubt, stopped.disputed, stopped.number)
        self._pass_over(branch, stopped)
        return True

    def _pass_over(self, branch: Branch, block: Differing) -> None:
        """It counts as equal from now on; what shows that, has to be shown by others."""
        before = branch.passed.get(block.number, frozenset())
        branch.passed[block.number] = before | block.disputed
        while len(branch.passed) > MAX_WITNESSES:
            del branch.passed[min(branch.passed)]
        branch.agreement = Agreement()

    def _is_again(self, key: bytes, now: float) -> bool:
        at, pause_s = self._doubts.get(key, (-AGAIN_S, 0.0))
        return now < at + AGAIN_S + pause_s

    async def _say(self, stopped: Differing | None, now: float) -> None:
        """Blocks that differ in time or fee say nothing of any pool: while it lasts nothing is compared."""
        is_long = stopped is not None and now >= self._since + SAID_S
        if is_long != self._is_said:
            self._is_said = is_long
            reason = ""
            if stopped is not None and is_long:
                reason = (
                    f"block {stopped.number} of the stream is another one than the node's: while it lasts "
                    "no pool is compared with the node"
                )
            await self._call(self.intake.is_apart, reason)
