"""Whether the node and the stream are on one branch, and what was read is of it."""

import asyncio
import logging
import time
from collections.abc import Sequence

from arena.errors import ChainMoved, Scraper
from arena.writer.stream.compare import NodeBlock
from arena.writer.sync.agreement import Agreement
from arena.writer.sync.branch import Branch
from arena.writer.sync.candidate import Candidate, Verdict
from arena.writer.sync.parts import Part, Shared
from arena.writer.sync.turning import NOT_YET

log = logging.getLogger(__name__)

# A block's logs are believed after two seconds at the most, or never: then pools are read at another.
UNSETTLED_S = 5.0


class Confirming(Part):
    """Asks the node, where there is one. `gap_timeout_s` is how long blocks that differ are waited for,
    `unsure_s` how long nothing but time and fee need show that node and stream are on one branch."""

    def __init__(self, shared: Shared, *, gap_timeout_s: float, unsure_s: float) -> None:
        super().__init__(shared)
        self.gap_timeout_s = gap_timeout_s
        self._unsure_s = unsure_s
        self._unsure_since: tuple[int, float] | None = None  # epoch, time
        self.unsure_reason = ""
        self._unconfirmed_since: float | None = None
        self._unsettled_since: float | None = None
        self._differs_since: float | None = None

    async def confirm(
        self, branch: Branch, epoch: int, candidates: Sequence[Candidate]
    ) -> tuple[Verdict, Sequence[NodeBlock], Agreement | None]:
        """What a node says of the scraped blocks: whose are not on the stream's branch, whether the
        stream has come to them, the blocks that lead from the oldest to it, and what shows that node
        and stream are on one branch. StreamBroken."""
        hashed: dict[tuple[int, bytes], list[bytes]] = {}
        for each in candidates:
            if each.pool.block_hash is not None:
                place = (each.block_number, each.pool.block_hash)
                hashed.setdefault(place, []).append(each.key)
        if not hashed:
            return Verdict(), (), None
        everyone = tuple(key for keys in hashed.values() for key in keys)
        mark = await self.still_differing(branch)
        kept, late = await self._call(self.intake.gap.kept, epoch)
        if not kept:
            return Verdict(again=everyone), (), None
        # From here on the stream brings events of announced pools, too: where there are no others, they
        # alone can show that node and stream are on one branch.
        late |= {
            key: floor for key, floor in self._roster.floors().items() if late.get(key) == NOT_YET
        }
        try:
            ask = asyncio.to_thread(branch.confirm, kept, hashed, late, mark)
            found = await self._progress.unbroken(ask)
            if found.unsettled:
                now = time.monotonic()
                if self._unsettled_since is None:
                    self._unsettled_since = now
                if now < self._unsettled_since + UNSETTLED_S:
                    await self._show_unsure(epoch, found.unsettled)
                    return Verdict(found.wrong, is_unsettled=True), (), None
                self._unsettled_since = None
                return Verdict(again=everyone), (), None  # another block may be easier to believe
            self._unsettled_since = None
            agreement = found.agreement
            if agreement.differs and agreement.tip is not None and not found.wrong:
                number = agreement.tip.number
                raise ChainMoved(
                    f"events of block {number} of stream and node differ", block=number
                )
        except ChainMoved as error:
            await self._not_confirmed(error)
            await self._show_unsure(epoch, str(error))
            return Verdict(is_unsure=True), (), None
        except Scraper as error:
            await self._not_confirmed(error)
            return Verdict(again=everyone), (), None
        self._unconfirmed_since = None
        is_unsure = False
        if found.reached_at is None and len(found.wrong) < len(everyone):
            is_unsure = self.is_unsure(epoch, agreement, agreement.is_firm)
        if not is_unsure:
            self.unsure_reason = ""
        else:
            await self._show_unsure(epoch, f"{agreement.blocks} blocks agree in time and fee alone")
        verdict = Verdict(found.wrong, found.reached_at, is_unsure=is_unsure)
        return verdict, found.earlier, agreement

    async def still_differing(self, branch: Branch) -> int:
        """Forget a block that differed and that the stream has reverted since; a mark of now."""
        known = () if branch.differing is None else (branch.differing,)
        mark, valid = await self._call(self.intake.standing.valid_now, known)
        if not valid:
            branch.differing = None
        return mark

    def is_unsure(self, epoch: int, agreement: Agreement, is_enough: bool) -> bool:
        """Whether to wait for more that shows node and stream to be on one branch."""
        now = time.monotonic()
        if is_enough:
            self._unsure_since = None
            return False
        if self._unsure_since is None or self._unsure_since[0] != epoch:
            self._unsure_since = epoch, now
        speaks_against = agreement.differs or agreement.is_doubted
        return speaks_against or now < self._unsure_since[1] + self._unsure_s

    async def _show_unsure(self, epoch: int, why: str) -> None:
        if not self.intake.stage.is_live:
            reason = f"nothing shows yet that the node is on the stream's branch: {why}"
            self.unsure_reason = reason
            await self._call(self.intake.enter, epoch, "replaying", reason)

    async def _not_confirmed(self, error: Scraper) -> None:
        """Stream and node differ. Usually one of them is ahead; if it stays so, the kept blocks are of
        a branch whose end the stream never told: begin again with the next block."""
        now = time.monotonic()
        if self._unconfirmed_since is None:
            self._unconfirmed_since = now
            log.info(
                "event=scrape_not_confirmed error=%s reason=%r", type(error).__name__, str(error)
            )
        elif isinstance(error, ChainMoved) and now >= self._unconfirmed_since + self.gap_timeout_s:
            self._unconfirmed_since = None
            if not self.intake.stage.is_live:
                await self._call(self.intake.drop_buffer)

    async def differing_for_long(self, branch: Branch) -> int | None:
        """A block that has been another one for node and stream for as long as `unsure_s`."""
        await self.still_differing(branch)
        known = branch.differing
        if known is not None:
            gone = await asyncio.to_thread(branch.orphaned, [(known.number, known.hash)])
            known = None if gone else known
        now = time.monotonic()
        if known is None:
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now
        elif now >= self._differs_since + self._unsure_s:
            return known.number
        return None
