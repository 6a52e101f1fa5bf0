"""Blocks of the node at which pools were read, looked at for long after: their hash may go."""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from arena.layouts.slots import UNISWAP_V4
from arena.writer.sync.agreement import Agreement, Witness
from arena.writer.sync.branch import Branch
from arena.writer.sync.candidate import Candidate
from arena.writer.sync.confirming import Confirming
from arena.writer.sync.parts import Part, Shared

log = logging.getLogger(__name__)

# A hash that stood for so many blocks, as deep as the undo ring reaches, is not looked at again.
PLACE_BLOCKS = 1024
PLACE_PAUSE_S = 1.0  # between two looks while no block comes
FEES = b""  # beside keys of pools


class Places(Part):
    """Those pools rest on, until the undo ring reaches no deeper."""

    def __init__(self, shared: Shared, confirming: Confirming) -> None:
        super().__init__(shared)
        self._confirming = confirming
        # Blocks of the node, sure when proven to be the stream's -> the pools read there; FEES at the
        # one up to which the node told protocol fees.
        self._places: dict[Witness, set[bytes]] = {}
        self._looked = 0, 0.0  # at them last: the head by then, and when
        # Number and hash of those above which node and stream have differed, and not agreed since.
        self._contested: set[tuple[int, bytes]] = set()

    def note(self, candidates: Sequence[Candidate], agreement: Agreement | None) -> None:
        """Keep which block of the node values were read at."""
        is_proven = agreement is not None and agreement.is_proven
        self.forget({each.key for each in candidates})
        for each in candidates:
            if (block_hash := each.pool.block_hash) is not None:
                place = Witness(each.block_number, block_hash, each.mark, is_proven)
                self._places.setdefault(place, set()).add(each.key)
        self._looked = 0, 0.0

    def above(self, block_number: int) -> set[bytes]:
        """Keys of pools read at blocks above it."""
        held = [keys for each, keys in self._places.items() if each.number > block_number]
        return set().union(*held) - {FEES}

    def of_fees(self) -> list[tuple[int, bytes]]:
        """Blocks, number and hash, up to which the node told protocol fees."""
        return [(each.number, each.hash) for each, keys in self._places.items() if FEES in keys]

    def note_fees(self, newest: Witness, *, are_watched: bool) -> None:
        """The node told protocol fees up to that block; watched where pools have them."""
        self.forget((FEES,))
        if are_watched:
            self._places.setdefault(newest, set()).add(FEES)

    def contest(self, block_number: int) -> None:
        """That block was another one for node and stream: so may be what was read below it."""
        places = ((each.number, each.hash) for each in self._places)
        self._contested |= {place for place in places if place[0] < block_number}

    def begin_again(self) -> None:
        """Every pool was read anew."""
        self._places.clear()

    def forget(self, keys: Collection[bytes]) -> None:
        left = ((place, held.difference(keys)) for place, held in self._places.items())
        self._places = {place: held for place, held in left if held}

    async def look(self, branch: Branch) -> None:
        """What was read at a block that the node has no longer, and the stream did not revert, is read
        again, and so is what was read at one that the stream reverted and the node still has. While
        they differ for long, a place that is not proven is doubted: they may have been apart by then."""
        filled = branch.filled
        places = {*self._places, *(() if filled is None else (filled,))}
        if not self.intake.stage.is_live or not places:
            self._confirming._differs_since = None
            return
        epoch, _first = await self._call(self.intake.joining_block)
        head, now = await self._call(self.intake.live_head), time.monotonic()
        unsure = {each for each in places if not each.is_sure}
        if not unsure and head == self._looked[0] and now < self._looked[1] + PLACE_PAUSE_S:
            return
        differing = await self._confirming.differing_for_long(branch)
        tip = branch.agreement.tip if branch.agreement.is_proven else None
        asked = {(each.number, each.hash) for each in (*places, *(() if tip is None else (tip,)))}
        orphaned = await asyncio.to_thread(branch.gone, asked)
        # After the node was asked: most of what it turns back the stream has turned back by then.
        valid = set(await self._call(self.intake.standing.valid, tuple(places)))
        if epoch != self.intake.standing.epoch:
            return  # looked at again
        self._looked = head, now
        gone = {each for each in places if (each.number, each.hash) in orphaned}
        reverted = places - valid
        proven = tip.number if tip is not None and not orphaned else 0
        unsure = {each for each in unsure if each.number > proven}
        still = {(each.number, each.hash) for each in places if each.number > proven}
        self._contested &= still
        suspect = (gone ^ reverted) | (unsure & gone if differing is None else unsure)
        # Both have turned back a block of that number; who knows whether it was one block.
        suspect |= {each for each in gone if (each.number, each.hash) in self._contested}
        if suspect & gone:
            why = "the node no longer has that block"
        elif differing is not None:
            why = f"node and stream differ in block {differing}, so it may be of another branch"
        else:
            why = "the stream has reverted it, the node has not"
        if filled is not None and filled == branch.filled:
            if filled in reverted:  # the arena holds less of it
                left = await self._call(self.intake.standing.valid, tuple(branch.witnesses))
                branch.filled = left[-1] if left else None
            elif filled in suspect:
                await self._fill_again(branch, filled, epoch, why)
                return
            elif filled.number + PLACE_BLOCKS < head:
                branch.filled = None
            elif filled not in unsure:
                branch.filled = replace(filled, is_sure=True)
        wrong: set[bytes] = set()
        for place in places & self._places.keys():
            keys = self._places.pop(place)
            if place in suspect:  # what a revert means to fees the intake knows
                wrong |= keys - {FEES} if place in reverted else keys
            elif place in valid and place.number + PLACE_BLOCKS >= head:
                place = replace(place, is_sure=place not in unsure)
                self._places.setdefault(place, set()).update(keys)
        if FEES in wrong:
            wrong |= {k for k, spec in branch.pools.items() if spec.protocol == UNISWAP_V4}
        wrong -= {FEES, *self._roster.settling()}
        if wrong:
            lowest = min(each.number for each in suspect)
            log.warning(
                "event=read_on_other_branch pools=%d block=%d reason=%r",
                len(wrong),
                lowest,
                f"{why}; what was read at it is read again",
            )
            branch.witnesses = [each for each in branch.witnesses if each.number < lowest]
            branch.agreement = Agreement()
            while not await self._call(self.intake.members.suspect, tuple(wrong)):
                await asyncio.sleep(self._progress.poll_s / 10)

    async def _fill_again(self, branch: Branch, filled: Witness, epoch: int, why: str) -> None:
        """Every pool rests on blocks of the node that may be of another branch, and so do those kept:
        a gap is opened, to be closed from below them."""
        reason = f"blocks up to {filled.number} were the node's: {why}; they are fetched again"
        if await self._call(self.intake.open_gap, epoch, reason):
            branch.witnesses = [each for each in branch.witnesses if each.number < filled.number]
            branch.agreement = Agreement()
