"""Asks on the side what contracts did not say of themselves yet."""

import asyncio
import logging
from dataclasses import dataclass, field

from arena.writer.scrapers.described import Described
from arena.writer.sync.intake import Intake
from arena.writer.sync.port import FeedThreadCall

log = logging.getLogger(__name__)


# Between two rounds of questions about pools that came in before a node said what they are.
DESCRIBE_FIRST_PAUSE_S, DESCRIBE_LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(slots=True)
class Descriptions:
    """Asks again of pools that came in before their contracts said what they are, until they did; one
    that is something else than the list says is made stale, and its next reading takes it out."""

    intake: Intake
    call: FeedThreadCall
    described: Described
    first_pause_s: float = DESCRIBE_FIRST_PAUSE_S
    longest_pause_s: float = DESCRIBE_LONGEST_PAUSE_S
    found: set[bytes] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = self.first_pause_s
        while True:
            await asyncio.sleep(pause_s)
            held = await self.call(self.intake.members.pools)
            doubtful = self.described.doubtful(held.values())
            if not doubtful:
                pause_s = self.first_pause_s
                continue
            pause_s = min(2 * pause_s, self.longest_pause_s)
            wrong = await asyncio.to_thread(self.described.wrong_of, doubtful)
            await self.call(self.intake.members.doubt, list(wrong))
            for key in wrong.keys() - self.found:
                log.error("event=description_differs reason=%r", str(wrong[key]))
            self.found |= wrong.keys()
            # A reading that was under way may still let a wrong one in.
            self.described.settled([spec for spec in doubtful if spec.key not in wrong])
