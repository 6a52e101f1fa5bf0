"""Gaps in the feed thread: what the arena held before one, and its end."""

from collections.abc import Collection, Sequence

import numpy as np

from arena.native import lib
from arena.writer.stream.history import Records
from arena.writer.sync.agreement import (
    COMPARED_BLOCKS,
    WITNESS_BLOCKS,
    GapBlocks,
    GapFacts,
    Witness,
)
from arena.writer.sync.candidate import all_bring_fees
from arena.writer.sync.fees import Fees
from arena.writer.sync.members import Members
from arena.writer.sync.stage import Values
from arena.writer.sync.standing import FeedPart, Standing
from arena.writer.sync.turning import NOT_YET, as_revert, bare_revert

NEVER_NS = 1 << 62  # as min_commit_ns: one commit for all


class GapSide(FeedPart):
    """`applied` are the blocks the arena holds, up to its head, while a gap is open; None otherwise."""

    def __init__(self, standing: Standing, fees: Fees, members: Members) -> None:
        super().__init__(standing)
        self._fees = fees
        self._members = members
        self.applied: list[Records] | None = None
        self._return_to = 0  # the lowest block the undo ring leads back to, while a gap is open

    def open(self) -> None:
        """Keep what the arena holds, and show its pools as syncing. The caller commits."""
        self.applied = list(self.buffer.blocks())
        self._return_to = self.arena.head_block - len(self.applied)
        self.arena.set_status_all(lib.PSA_STATUS_LIVE, lib.PSA_STATUS_SYNCING)

    def kept(self, epoch: int) -> tuple[tuple[Records, ...], dict[bytes, int]]:
        """The kept blocks, ascending, and `late`. StreamBroken."""
        self.standing.check(epoch)
        return tuple(self.buffer.blocks()), self.standing.late_now

    def unwitnessed(
        self, after: int, *, newest: bool
    ) -> tuple[int, list[Records], dict[bytes, int]] | None:
        """A mark, the oldest blocks the arena holds above `after`, or the `newest`, and `late`; None
        unless live and whole."""
        if not self.stage.is_whole:
            return None
        blocks = list(self.buffer.blocks(after=after))
        blocks = blocks[-WITNESS_BLOCKS:] if newest else blocks[:WITNESS_BLOCKS]
        return self.buffer.mark(), blocks, self.standing.late_now

    def facts(self, epoch: int, witnesses: Sequence[Witness]) -> GapFacts | None:
        """What it takes to ask a node for the missing blocks; None while no block has come, or no
        gap is open. StreamBroken."""
        self.standing.check(epoch)
        kept = tuple(self.buffer.blocks())[:COMPARED_BLOCKS]
        if self.applied is None or not kept:
            return None
        head, first = self.arena.head_block, int(kept[0]["block_number"][0])
        usable = tuple(
            each
            for each in self.standing.valid(witnesses)
            if self._return_to <= each.number <= head and each.number < first
        )
        return GapFacts(self.buffer.mark(), head, usable, kept, self.standing.late_now)

    @property
    def has_gap(self) -> bool:
        """A gap is open and may still be closed."""
        return self.stage.values is Values.GAP

    def close(
        self, epoch: int, facts: GapFacts, blocks: GapBlocks, doubted: Collection[bytes] = ()
    ) -> bool:
        """Return to the common ancestor, apply what was missing and what came since, and go live,
        in one commit; False when the stream has moved since `facts`. StreamBroken.

        Reverted blocks are turned back by the undo ring, with the events they brought. Pools `doubted`
        are stale then.
        """
        self.standing.check(epoch)
        applied = self.applied
        lowest = self.buffer.reverts_since(facts.mark)
        moved = lowest is not None and lowest < facts.first
        if (
            applied is None
            or self.stage.is_amid_reorg
            or moved
            or self.buffer.first_block != facts.first
        ):
            return False
        ancestor = blocks.ancestor.number
        kept = [each for each in applied if each["block_number"][0] <= ancestor]
        orphans = {int(each["block_number"][0]): each for each in applied[len(kept) :]}
        orphaned = [
            as_revert(orphans[number]) if number in orphans else bare_revert(number)
            for number in range(self.arena.head_block, ancestor, -1)
        ]
        # A block turned back without its events says nothing of pools whose values were read above it.
        # The ancestor's hash, and a block from before the stream brought a pool's events, say nothing of
        # that pool.
        unknown = {
            slot
            for key, late in self.standing.late.items()
            if ancestor <= late != NOT_YET and (slot := self.arena.slot_of(key)) is not None
        }
        unknown |= {slot for key in doubted if (slot := self.arena.slot_of(key)) is not None}
        if len(orphans) < len(orphaned):
            unknown |= set(self.arena.slots_scraped_above(ancestor).tolist())
        held = {number for number, _ in self.arena.undoable()}
        if not held.issuperset(range(ancestor + 1, self.arena.head_block + 1)):
            # The undo ring does not reach back to it: what those blocks changed stays changed.
            unknown |= set(self.arena.pools().values())
        if orphaned and not all(all_bring_fees(each[:1]) for each in orphaned):
            unknown |= set(self.arena.slots_with_fees_from(ancestor + 1).tolist())
        # A fee that changes without an event may have changed in what was missing.
        unknown |= set(self.arena.slots_with_unlisted_fees().tolist())
        unknown -= set(self.arena.unread_slots().tolist())  # those have no values to be unsure of
        self._fees.told = [each for each in self._fees.told if each[0] <= ancestor]
        missing = [block.records for block in blocks.missing]
        records = np.concatenate([*orphaned, *missing, *self.buffer.blocks()])
        try:
            self.processor.apply(records, min_commit_ns=NEVER_NS)
            self.arena.set_status_all(lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_LIVE)
            for slot in unknown:
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
            self.arena.commit()
            if unknown:
                self.processor.note_stale()
        except BaseException:
            self.arena.abort()
            raise
        self.buffer.prepend([*kept, *missing])
        self.buffer.keep_blocks = self.standing.history_blocks
        self.applied = None
        self.standing.not_late_above(ancestor)
        self.standing.goes_live("gap closed")
        return True

    def give_up(self, reason: str) -> None:
        """The gap stays open: every pool is to be read anew."""
        if self.applied is None:
            return
        self.applied = None
        self.standing.all_stale(lib.PSA_STATUS_SYNCING)
        self.standing.all_stale(lib.PSA_STATUS_LIVE)  # of a writer taken over
        self.arena.commit()
        self.stage.goes("gap given up")
        self.arena.set_phase(self.stage.phase(), reason)

    def adopt(self) -> list[Witness]:
        """Go on from what the arena holds of a former writer, as if a gap had opened behind its head;
        the blocks whose hashes it kept, ascending. Pools stay what they are at that block."""
        found = self.arena.undoable()
        self.stage.goes("adopted")
        self.applied = []
        self._return_to = found[-1][0] - 1 if found else self.arena.head_block
        self.standing.late = dict.fromkeys(self._members.unread(), NOT_YET)
        mark = self.buffer.mark()
        return [Witness(number, known, mark) for number, known in reversed(found) if known]

    def lowest_known(self) -> int:
        """The lowest block the undo ring leads to whose hash the arena holds; 0 without any."""
        return min((number for number, known in self.arena.undoable() if known), default=0)

    def note_hashes(self, witnesses: Sequence[Witness]) -> None:
        """Keep the hashes of blocks the arena holds where another writer finds them."""
        for each in self.standing.valid(witnesses):
            self.arena.note_hash(each.number, each.hash)
