"""Pools that are stale or new, read while the others are live."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from arena.errors import ArenaError, ArenaFull, CoverageError, InvalidEventData, NotLive, Scraper
from arena.writer.sync.agreement import Agreement
from arena.writer.sync.candidate import Candidate
from arena.writer.sync.courses import Course, Duties
from arena.writer.sync.parts import Shared
from arena.writer.sync.source import OUTDATED
from arena.writer.sync.starts import INCREMENTAL

log = logging.getLogger(__name__)


class Single(Course):
    """Pools that wait are read a batch at a time."""

    def __init__(self, shared: Shared, parts: Duties) -> None:
        super().__init__(shared, parts)
        self.on_added: Callable[[Sequence[bytes], int], None] = lambda keys, head_block: None

    async def read_again(self, keys: Sequence[bytes]) -> dict[bytes, bool | ArenaError]:
        """Read pools again together; whether each is live now, or what keeps it out. NotLive,
        StreamBroken, BufferOverflow, Scraper."""
        if not self.intake.stage.is_live:
            raise NotLive(f"{len(keys)} pools can only be read again while the arena is live")
        outcome: dict[bytes, bool | ArenaError] = {}
        for key in keys:
            outcome[key] = not await self._call(self.intake.members.is_stale, key)
        wanted = [key for key in keys if not outcome[key]]
        if not wanted:
            return outcome
        epoch, _first = await self._call(self.intake.joining_block)
        candidates, invalid = await self._progress.unbroken(self._source.read(wanted, epoch))
        for error in invalid:
            outcome[error.key] = error
        for each in candidates:
            if self.intake.standing.is_outdated(each):
                outcome[each.key] = CoverageError(OUTDATED)
        candidates = [
            each
            for each in candidates
            if each.block_number >= self._roster.floor_of(each.key) and not outcome[each.key]
        ]
        agreement: Agreement | None = None
        while self._branch is not None and candidates:
            found, _, agreement = await self._confirming.confirm(self._branch, epoch, candidates)
            candidates = [each for each in candidates if each.key not in found.again]
            if found.is_unsettled:
                await self._progress.unbroken(asyncio.sleep(self._progress.poll_s))
                continue
            if found.is_unsure:
                candidates = []  # what is read later may be shown to be of the stream's branch
            if found.wait_for_block is None:
                break
            await self._progress.wait_moved(self._progress.poll_s)
        for candidate in candidates:
            outcome[candidate.key] = done = await self._replace(epoch, candidate)
            if done is True:
                self._places.note([candidate], agreement)
                if self._branch is not None and candidate.key in self._branch.doubted:
                    self._branch.look_again(candidate.block_number)
        return outcome

    async def _replace(self, epoch: int, candidate: Candidate) -> bool | ArenaError:
        """Exchange one pool's values as soon as the stream has come to them."""
        key = candidate.key
        while True:
            # Removed, or removed and added again: what is read here belongs to nothing then.
            is_too_old = candidate.block_number < self._roster.floor_of(key)
            if is_too_old or not self._roster.is_waiting(key):
                return False
            try:
                verdict = await self._call(self.intake.members.replace, epoch, candidate)
            except ArenaFull as error:
                if await self._membership.grow(error):
                    continue
                return error
            except InvalidEventData as error:
                return error
            if verdict.again:
                return False
            if verdict.is_clear:
                break
            await self._progress.wait_moved(self._progress.poll_s)
        is_new = self._roster.settled(key)
        if is_new and self._branch is not None:
            self._branch.pools = {**self._branch.pools, key: candidate.pool.spec}
        log.info(
            "event=%s pool=0x%s block=%d",
            "pool_added" if is_new else "pool_live_again",
            key.hex(),
            candidate.block_number,
        )
        if is_new:
            self.on_added([key], await self._call(self.intake.head_block))
        return True

    async def read_due(self) -> None:
        """Read the pools whose time has come."""
        now = time.monotonic()
        if not self._roster.has_waiting:
            return
        head = await self._call(self.intake.head_block)
        due = self._roster.due(head, now, self._progress.poll_s / 4)
        for start in range(0, len(due), INCREMENTAL.v2_batch):
            batch = due[start : start + INCREMENTAL.v2_batch]
            waits = {key: wait for key in batch if (wait := self._roster.wait_of(key)) is not None}
            outcome: dict[bytes, bool | ArenaError] = {}
            failure: ArenaError | None = None
            try:
                outcome = await self.read_again(list(waits))
            except (Scraper, NotLive) as error:
                failure = error
            for key, wait in waits.items():
                # One that was removed and added again meanwhile waits for values of its own.
                if self._roster.wait_of(key) is wait:
                    self.take_outcome(key, outcome.get(key, failure or False))

    def take_outcome(self, key: bytes, outcome: bool | ArenaError) -> None:
        """Forget a pool that is live, look again later at one that is not."""
        if not self._roster.is_waiting(key):
            return  # removed meanwhile
        if outcome is True:
            self._roster.read(key)
            return
        self._roster.read_in_vain(key, time.monotonic())
        why = "values do not join the stream yet"
        if isinstance(outcome, ArenaError):
            if self._membership.reports.has(key, outcome):
                return
            why = f"{type(outcome).__name__}: {outcome}"
        is_settling = self._roster.is_settling(key)
        if not is_settling or outcome is not False:
            stays = "is not read yet" if is_settling else "stays stale"
            self._membership.reports.report(key, Scraper(f"pool 0x{key.hex()} {stays}: {why}"))
