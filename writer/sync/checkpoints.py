"""Checkpoints of a live writer, written on the side.

They take from the feed thread no more than a copy, and wait for the hash of the block that copy is of:
the coordinator learns it. Neither holds up the stream or the joining of pools.
"""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from arena.writer.sync.checkpoint_file import KEEP, write_checkpoint
from arena.writer.sync.hashes import FINAL_HASH_WAIT_S, HASH_WAIT_S, POLL_S, Hashes, hash_of_block
from arena.writer.sync.intake import Intake
from arena.writer.sync.port import FeedThreadCall

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Checkpoints:
    """Writes the arena into `folder` every `every_blocks`, and at the end.

    `written` counts the files, `failed` what could not be written.
    """

    intake: Intake
    call: FeedThreadCall
    hashes: Hashes
    folder: Path
    chain_id: int
    every_blocks: int
    keep: int = KEEP
    written: int = 0
    failed: int = 0
    last_block: int = 0

    def counts(self) -> dict[str, int]:
        """For metrics; any thread may ask."""
        return {
            "written_total": self.written,
            "failed_total": self.failed,
            "block": self.last_block if self.written else 0,
        }

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            head = await self.call(self.intake.live_head)
            if self.last_block == 0:
                self.last_block = head
            elif head >= self.last_block + self.every_blocks or 0 < head < self.last_block:
                await self.write(HASH_WAIT_S)

    async def write(self, wait_s: float = FINAL_HASH_WAIT_S) -> None:
        """One now, unless the arena is not live; a file that cannot be written is logged."""
        copied = await self.call(self.intake.members.image)
        if copied is None:
            return
        moment, head, image = copied
        self.last_block = head
        await hash_of_block(self.hashes, self.intake, self.call, head, moment, wait_s)
        known = [each for each in self.hashes.known() if each.number <= head]
        valid = await self.call(self.intake.standing.valid_at, moment, known)
        hashes = [(each.number, each.hash) for each in reversed(valid)]
        if not hashes:
            log.info("event=checkpoint_skipped block=%d reason='no hash is known'", head)
            return
        try:
            path = await asyncio.to_thread(
                partial(
                    write_checkpoint,
                    self.folder,
                    image,
                    chain_id=self.chain_id,
                    hashes=hashes,
                    keep=self.keep,
                )
            )
        except OSError as error:
            self.failed += 1
            log.error(
                "event=checkpoint_failed block=%d folder=%s reason=%r",
                head,
                self.folder,
                str(error),
            )
            return
        self.written += 1
        log.info(
            "event=checkpoint block=%d hash=%s bytes=%d file=%s",
            head,
            f"0x{hashes[0][1].hex()}" if hashes[0][0] == head else "unknown",
            path.stat().st_size,
            path.name,
        )
