"""Protocol fees of V4 that the stream does not bring."""

import logging
from collections.abc import Sequence
from contextlib import suppress

from arena.native import lib
from arena.writer.stream.fees import Change
from arena.writer.sync.agreement import Witness
from arena.writer.sync.standing import FeedPart, Standing

log = logging.getLogger(__name__)


class Fees(FeedPart):
    """`told`: what the node told of kept blocks, in order."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing)
        self.told: list[Change] = []

    def unsure_from(self, block_number: int) -> None:
        """That block is reverted, and the stream would not say that it changed a fee: what was read or
        told of V4 fees from it on may be of the old branch."""
        self.told = [each for each in self.told if each[0] < block_number]
        self.arena.commit()
        unsure = self.arena.slots_with_fees_from(block_number).tolist()
        for slot in unsure:
            self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        if unsure:
            self.processor.note_stale()

    def known(self) -> int | None:
        """The block up to which they are in the arena; None when that is the head, unless live and
        whole."""
        if not self.stage.is_whole:
            return None
        known = self.arena.fees_block
        return known if known < self.arena.head_block else None

    def note(self, after: int, witness: Witness, changes: Sequence[Change]) -> None:
        """Take over what the node told of the blocks above `after` up to `witness`, unless the stream
        has moved since."""
        if self.known() != after or not self.standing.valid([witness]):
            return
        self.arena.commit()
        for number, key, fee in changes:
            if (slot := self.arena.slot_of(key)) is not None:
                with suppress(ValueError):  # has no values yet: it is read after that block
                    self.arena.set_protocol_fee(slot, fee, number)
            log.info("event=protocol_fee block=%d pool=0x%s fee=%d", number, key.hex(), fee)
        first = self.buffer.first_block or 0
        told = [each for each in self.told if each[0] >= first]
        self.told = [*told, *changes]
        self._are_known(witness.number)

    def lost(self, after: int, witness: Witness, reason: str) -> None:
        """The node cannot tell them: every V4 pool is to be read again."""
        if self.known() != after or not self.standing.valid([witness]):
            return
        self.arena.commit()
        slots = self.arena.slots_with_fees_from(0).tolist()
        log.warning("event=fees_not_told pools=%d reason=%r", len(slots), reason)
        for slot in slots:
            with suppress(ValueError):
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        self._are_known(witness.number)

    def _are_known(self, block_number: int) -> None:
        self.arena.fees_block = block_number
        self.arena.commit()
        if len(self.arena.stale_slots()):
            self.processor.note_stale()
            self.standing.notify("stale")
