"""Before a start: waiting for a node that has not got its chain yet."""

import asyncio
import logging
from collections.abc import Callable

from arena.errors import Scraper
from arena.writer.node.head import SyncState
from arena.writer.sync.intake import Intake
from arena.writer.sync.port import FeedThreadCall

log = logging.getLogger(__name__)

POLL_S = 1.0
SAY_EVERY_S = 60.0


async def wait_until_synced(
    intake: Intake,
    call: FeedThreadCall,
    synced: Callable[[], SyncState],
    *,
    lowest: int = 0,
    patience_s: float = 0.0,
    poll_s: float = POLL_S,
) -> None:
    """Return when the node has its chain; until then the arena's phase and the log say why it waits.

    The newest block of a node that goes on from a snapshot, or lags, may be below `lowest`, the lowest
    one that ties what a former writer left to the chain: that is waited out for `patience_s`, and a
    stream that began meanwhile begins again, behind what was left.

    A node that does not answer is no reason to wait here: the start itself says what it lacks. What
    the stream brought meanwhile is of no use when it was more than the buffer holds.
    """
    loop = asyncio.get_running_loop()
    waits_since: float | None = None
    said_at = float("-inf")
    while True:
        try:
            found = await asyncio.to_thread(synced)
        except Scraper:
            if waits_since is None:
                return
        else:
            now, reason = loop.time(), found.reason
            is_patient = now < (now if waits_since is None else waits_since) + patience_s
            newest, told = found.head.number, (await call(intake.kept_range))[1]
            if waits_since is not None and told is not None:
                newest = min(newest, told)  # a stream that began meanwhile comes after it
            if reason is None and newest < lowest and is_patient:
                reason = (
                    f"the node is behind: its newest block is {newest}, what was left is of block "
                    f"{lowest} and later"
                )
            if reason is None:
                break
            waits_since = now if waits_since is None else waits_since
            if now >= said_at + SAY_EVERY_S:
                said_at = now
                log.warning(
                    "event=node_syncing waited_s=%d reason=%r", int(now - waits_since), reason
                )
            await call(intake.arena.set_phase, "connecting", reason)
        await asyncio.sleep(poll_s)
    if waits_since is not None:
        log.info("event=node_synced block=%d", found.head.number)
        await call(intake.arena.set_phase, "connecting", "the node has its chain now")
        first = (await call(intake.kept_range))[0]
        is_below = first is not None and first <= lowest <= newest
        if is_below or intake.standing.overflow is not None:
            await call(intake.drop_buffer)
    elif found.is_old:
        log.info(  # of a chain of one's own this is all right
            "event=old_head block=%d age_h=%d reason='the newest block is that old: the chain stands "
            "still, or the node is cut off from it'",
            found.head.number,
            int(found.age_s // 3600),
        )
