"""The hash of a block of the arena, waited for."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from arena.writer.sync.agreement import Witness
from arena.writer.sync.candidate import Moment
from arena.writer.sync.intake import Intake
from arena.writer.sync.port import FeedThreadCall

POLL_S = 0.25
HASH_WAIT_S = 30.0  # a node behind the stream is believed to catch up within
FINAL_HASH_WAIT_S = 3.0


class Hashes(Protocol):
    """What the coordinator knows of the arena's blocks."""

    def hash_of(self, block_number: int) -> Witness | None:
        """The block's hash once it is known to be the arena's."""

    def known(self) -> Sequence[Witness]:
        """All that are known, ascending."""

    def hurry(self) -> None:
        """Look for hashes now."""


async def hash_of_block(
    hashes: Hashes, intake: Intake, call: FeedThreadCall, number: int, moment: Moment, wait_s: float
) -> bytes | None:
    """The hash of a block copied at `moment`; None when it is not learned in time or may not be the
    copy's."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        found = hashes.hash_of(number)
        if found is not None:
            return found.hash if await call(intake.standing.valid_at, moment, [found]) else None
        if asyncio.get_running_loop().time() >= deadline:
            return None
        hashes.hurry()
        await asyncio.sleep(POLL_S / 5)
