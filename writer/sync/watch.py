"""What the node is asked while the arena is live: hashes, protocol fees, whether the stream stands still."""

import asyncio
import logging
import time
from contextlib import suppress

from arena.errors import LogsRefused, Scraper
from arena.layouts.slots import UNISWAP_V4
from arena.writer.node.client import NodeClient
from arena.writer.stream.fees import fee_changes
from arena.writer.sync.agreement import WITNESS_BLOCKS
from arena.writer.sync.apart import Apart
from arena.writer.sync.branch import Branch
from arena.writer.sync.confirming import Confirming
from arena.writer.sync.parts import Part, Shared
from arena.writer.sync.places import Places

log = logging.getLogger(__name__)

WITNESS_PAUSE_S = 0.25
WITNESS_FAILED_PAUSE_S = 2.0
# A stream that brings nothing while the node has newer blocks is told within ten seconds.
SILENT_POLL_S = 1.0
SILENT_S = 6.0


class Watch(Part):
    """Runs beside staying live; what the node refuses is asked again."""

    def __init__(
        self, shared: Shared, confirming: Confirming, places: Places, *, witness_pause_s: float
    ) -> None:
        super().__init__(shared)
        self._confirming = confirming
        self._places = places
        self._witness_pause_s = witness_pause_s
        self._apart = Apart(shared)
        self._look_for_hashes = asyncio.Event()
        self._has_said_fees = False

    async def keep_witnesses(self, branch: Branch) -> None:
        """Learn the hashes of the blocks the arena holds, as they come, until cancelled."""
        while True:
            pause = self._witness_pause_s
            try:
                await self._places.look(branch)
                await self.witness(branch)
                await self._follow_fees(branch)
            except Scraper as error:
                log.debug("event=no_hash error=%s reason=%r", type(error).__name__, str(error))
                pause = min(WITNESS_FAILED_PAUSE_S, 8 * pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look_for_hashes.wait(), pause)
            self._look_for_hashes.clear()

    async def keep_silence(self, node: NodeClient) -> None:
        """Say that the stream stands still while the node goes on, until cancelled."""
        seen = 0
        behind_since: float | None = None
        was_ahead = 0.0
        while True:
            await asyncio.sleep(SILENT_POLL_S)
            head = await self._call(self.intake.live_head)
            if not head or head != seen or self.intake.is_stalled:
                seen, behind_since = head, None
                continue
            try:
                newest = await asyncio.to_thread(node.head_number)
            except Scraper:
                continue
            now = time.monotonic()
            if newest <= head:  # one answer may be of a node that lags
                if now - was_ahead >= SILENT_S:
                    behind_since = None
                continue
            was_ahead = now
            if behind_since is None:
                behind_since = now
            elif now - behind_since >= SILENT_S:
                reason = f"the stream stands at block {head}, the node is at {newest}"
                await self._call(self.intake.stalled, reason)

    async def witness(self, branch: Branch) -> None:
        if not self.intake.stage.is_live:
            return
        known = tuple(branch.witnesses)
        valid = await self._call(self.intake.standing.valid, known)
        after = valid[-1].number if valid else 0
        is_apart = self._apart.is_said
        found = await self._call(self.intake.gap.unwitnessed, after, newest=is_apart)
        if found is None or not found[1]:
            await self._apart.look(branch, None, has_moved=False)
            return
        mark, kept, late = found
        await self._confirming.still_differing(branch)
        looked = branch.copy(valid)
        branch.doubted = self._apart.doubted
        looked.skipped = await self._stale_of(branch)  # the arena says nothing of them
        equal = await asyncio.to_thread(looked.witness, kept, mark, late)
        if looked.skipped - await self._stale_of(branch):
            return  # live meanwhile
        branch.has_disagreed |= looked.has_disagreed
        branch.differing = looked.differing
        if self.intake.stage.is_live and tuple(branch.witnesses) == known:
            were_sure = {each.number for each in valid if each.is_sure}
            branch.witnesses, branch.agreement = looked.witnesses, looked.agreement
            if looked.stopped is not None:
                self._places.contest(looked.stopped.number)
            new = tuple(each for each in looked.sure if each.number not in were_sure)
            await self._call(self.intake.gap.note_hashes, new)
            if branch.witnesses:
                log.debug("event=hashes_known newest=%d", branch.witnesses[-1].number)
            is_passed = await self._apart.look(branch, looked.stopped, has_moved=equal > 0)
            if is_passed or equal == WITNESS_BLOCKS:
                self._look_for_hashes.set()

    async def _stale_of(self, branch: Branch) -> frozenset[bytes]:
        """The pools in doubt that are not live."""
        if not branch.doubted:
            return branch.doubted
        return branch.doubted.intersection(await self._call(self.intake.members.stale))

    async def _follow_fees(self, branch: Branch) -> None:
        """Learn protocol fees of V4 from the node where the stream does not bring them, up to the
        newest block whose hash is known."""
        after = await self._call(self.intake.fees.known)
        newest = branch.sure[-1] if branch.sure else None
        if after is None or newest is None or newest.number <= after:
            return
        pools = {k: spec for k, spec in branch.pools.items() if spec.protocol == UNISWAP_V4}
        tip = newest.number, newest.hash
        try:
            changes = await asyncio.to_thread(
                fee_changes, branch.node, after, tip, pools, branch.reader
            )
        except LogsRefused as error:
            await self._call(self.intake.fees.lost, after, newest, str(error))
            return
        before = self._places.of_fees()
        if before and await asyncio.to_thread(branch.orphaned, before):
            return  # the next look finds it
        await self._call(self.intake.fees.note, after, newest, changes)
        self._places.note_fees(newest, are_watched=bool(pools))

    async def say_fees_stand_still(self) -> None:
        """Once, where nothing tells of a changed protocol fee."""
        if self._branch is not None or self._has_said_fees:
            return
        pools = await self._call(self.intake.members.pools)
        v4 = sum(spec.protocol == UNISWAP_V4 for spec in pools.values())
        if v4 and await self._call(self.intake.fees.known) is not None:
            self._has_said_fees = True
            log.info(
                "event=protocol_fees_as_read pools=%d reason=%r",
                v4,
                "the stream does not bring changes of V4 protocol fees and no node is at hand",
            )
