"""Closes a gap with the node's logs."""

import asyncio
import logging
import time

from arena.errors import (
    ArenaFull,
    BufferOverflow,
    ChainMoved,
    GapNotClosed,
    LogInvalid,
    LogsRefused,
    NodeBehind,
    Scraper,
)
from arena.writer.sync.agreement import Witness
from arena.writer.sync.courses import Course, Duties
from arena.writer.sync.parts import Shared
from arena.writer.sync.standing import StreamBroken

log = logging.getLogger(__name__)


class GapClosing(Course):
    """The main thread's half: asks for what is missing, as often as it takes."""

    def __init__(self, shared: Shared, parts: Duties) -> None:
        super().__init__(shared, parts)
        self.gaps_closed = 0

    async def close(self) -> bool:
        """Close an open gap from the node's logs; whether the arena is live.

        What stands in the way is tried again until `gap_timeout_s` after the stream came back; then
        the gap is given up, which makes every pool stale.
        """
        branch = self._branch
        if branch is None or not self.intake.gap.has_gap:
            return False
        started: float | None = None
        reason = "no block has come"
        while True:
            self._progress.broken.clear()
            try:
                epoch, _first = await self._progress.first_block()
                await self._membership.take_away()
                started = time.monotonic() if started is None else started
                witnesses = tuple(branch.sure)
                facts = await self._call(self.intake.gap.facts, epoch, witnesses)
                if facts is not None:
                    await self._confirming.still_differing(branch)
                    blocks = await self._progress.unbroken(
                        asyncio.to_thread(branch.fetch_gap, facts)
                    )
                    agreement = blocks.agreement
                    if self._confirming.is_unsure(epoch, agreement, agreement.is_enough):
                        await self._progress.unbroken(asyncio.sleep(5 * self._progress.poll_s))
                        continue
                    await (
                        self._membership.take_away()
                    )  # the stream leaves out what a gap must not bring back
                    # What is turned back need not be what led to values read above.
                    ancestor = blocks.ancestor.number
                    above = self._places.above(ancestor)
                    if await self._call(self.intake.gap.close, epoch, facts, blocks, above):
                        branch.witnesses = [
                            each for each in facts.witnesses if each.number <= ancestor
                        ]
                        found = (*blocks.missing, *blocks.compared)
                        branch.add(found, facts.mark, blocks.agreement)
                        if blocks.missing or branch.is_filled(ancestor + 1):
                            is_proven = blocks.agreement.is_proven
                            branch.filled = Witness(*blocks.place, facts.mark, is_proven)
                        await self._call(self.intake.gap.note_hashes, tuple(branch.sure))
                        self._roster.settle_above(facts.first)
                        self._is_closed(facts.head, ancestor, len(blocks.missing))
                        return True
                reason = "the stream moved while the missing blocks were fetched"
            except StreamBroken as error:
                reason = str(error)
            except BufferOverflow as error:
                reason = str(error)
                await self._call(self.intake.drop_buffer)
            except (GapNotClosed, LogInvalid, LogsRefused) as error:
                reason, started = (
                    f"{type(error).__name__}: {error}",
                    -self._confirming.gap_timeout_s,
                )
            except (ChainMoved, NodeBehind, Scraper, ArenaFull) as error:
                reason = f"{type(error).__name__}: {error}"
            if started is not None and time.monotonic() >= started + self._confirming.gap_timeout_s:
                break
            await asyncio.sleep(min(self._progress.poll_s, self._confirming.gap_timeout_s / 10))
        log.warning("event=gap_not_closed reason=%r", reason)
        await self._call(self.intake.gap.give_up, reason)
        branch.forget()
        return False

    def _is_closed(self, head: int, ancestor: int, missing: int) -> None:
        self.gaps_closed += 1
        self._progress.metrics.gaps_closed = self.gaps_closed
        self._progress.enter("live")
        log.info(
            "event=gap_closed head=%d ancestor=%d undone=%d fetched=%d",
            head,
            ancestor,
            head - ancestor,
            missing,
        )
