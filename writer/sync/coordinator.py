"""From a fresh connection to live without losing an event, and back after a gap.

The coordinator runs in the main thread: it waits, scrapes and decides; its other half, `Intake`,
runs in the feed thread. A pool scraped at block S joins a stream whose first whole block is b when
S >= b - 1, every block above S is applied to it, and no revert at or below S came after the scrape
began.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from arena.errors import (
    AlreadyLive,
    ArenaFull,
    ArenaRegistry,
    BufferOverflow,
    CoverageError,
    NotLive,
    Scraper,
)
from arena.writer.host.sidetasks import SideTasks, all_or_error
from arena.writer.node.client import NodeClient
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import PoolScraper
from arena.writer.scrapers.described import Described
from arena.writer.sync.agreement import Witness
from arena.writer.sync.branch import Branch
from arena.writer.sync.confirming import Confirming
from arena.writer.sync.courses import Duties
from arena.writer.sync.gap import GapClosing
from arena.writer.sync.intake import Intake
from arena.writer.sync.joining import Joining
from arena.writer.sync.membership import Membership
from arena.writer.sync.parts import Shared
from arena.writer.sync.places import Places
from arena.writer.sync.port import FeedThreadCall, Port
from arena.writer.sync.progress import Progress
from arena.writer.sync.roster import Roster
from arena.writer.sync.single import Single
from arena.writer.sync.source import Source
from arena.writer.sync.standing import StreamBroken
from arena.writer.sync.starts import COLD_START, Metrics, Preset
from arena.writer.sync.watch import WITNESS_PAUSE_S, Watch

log = logging.getLogger(__name__)

RESYNC_PAUSE_S = 1.0
# How long what node and stream agree in may be no more than time and fee: a chain may stand still.
UNSURE_S = 10.0


class Coordinator:
    """The main thread's half: start, resync after gaps, re-reading of single stale pools.

    `observe` is called with the metrics whenever they moved. cold_start and resync return when the
    arena is live; both start over by themselves when the stream breaks meanwhile.

    With a `node` gaps are closed from its logs, scraped blocks are checked against the stream by
    their hashes, and a scrape older than the stream is brought up to it; the intake must have been
    told with `closes_gaps`. `targets` is the list the scraper began with, where change_pools is used.
    `gap_timeout_s` is how long that is tried before pools are read anew, `unsure_s` how long nothing
    but time and fee need show that node and stream are on one branch. `described` tells pools that
    are not what they are listed as; `brings_all` as in Source.
    """

    def __init__(
        self,
        intake: Intake,
        scraper: PoolScraper,
        call: FeedThreadCall,
        *,
        targets: Sequence[PoolTarget] = (),
        preset: Preset = COLD_START,
        scrape_timeout_s: float = 60.0,
        node: NodeClient | None = None,
        gap_timeout_s: float = 30.0,
        witness_pause_s: float = WITNESS_PAUSE_S,
        described: Described | None = None,
        brings_all: bool = False,
        unsure_s: float = UNSURE_S,
        side_tasks: SideTasks | None = None,
        observe: Callable[[Metrics], None] = lambda metrics: None,
    ):
        self.intake = intake
        self._call = call
        self._side_tasks = SideTasks() if side_tasks is None else side_tasks
        self._branch = None if node is None else Branch(node)
        self._roster = Roster(targets)
        port = Port(intake, call)
        self._progress = Progress(port, observe)
        shared = Shared(port, self._progress, self._roster, self._branch)
        self._source = Source(shared, scraper=scraper, described=described, brings_all=brings_all)
        confirming = Confirming(shared, gap_timeout_s=gap_timeout_s, unsure_s=unsure_s)
        places = Places(shared, confirming)
        self._membership = Membership(shared, self._source, places)
        self._watch = Watch(shared, confirming, places, witness_pause_s=witness_pause_s)
        parts = Duties(self._source, confirming, places, self._membership)
        self._joining = Joining(
            shared, parts, self._watch, preset, scrape_timeout_s=scrape_timeout_s
        )
        self._gap = GapClosing(shared, parts)
        self._single = Single(shared, parts)
        self._is_tight = False  # the tick heap is nearly full: it grows before it is

    @property
    def metrics(self) -> Metrics:
        return self._progress.metrics

    def change_pools(self, added: Sequence[PoolTarget], removed: Sequence[bytes]) -> None:
        """Take `removed` keys away, then add `added`; a key in both is read anew. Called in the event
        loop, at any time; the last call has the last word, others stay live meanwhile."""
        self._roster.change(added, removed)
        self._membership.hold()
        self._membership.changed.set()

    async def doubt(self, keys: Collection[bytes], block_number: int) -> None:
        """Blocks up to this one may lack events of these pools: they are stale until they are read at
        it or later."""
        self._roster.raise_floors(keys, block_number)
        while not await self._call(self.intake.members.doubt, keys, block_number):
            await asyncio.sleep(self._progress.poll_s / 10)

    def on_added(self, tell: Callable[[Sequence[bytes], int], None]) -> None:
        """`tell` is called with the keys of pools that are live for the first time, and the head block."""
        self._single.on_added = tell

    def hash_of(self, block_number: int) -> Witness | None:
        """The hash of one of the arena's blocks; None while it is not known."""
        known = () if self._branch is None else self._branch.sure
        return next((each for each in reversed(known) if each.number == block_number), None)

    def known(self) -> Sequence[Witness]:
        """The arena's blocks whose hashes are known, ascending; a revert may have come since."""
        return () if self._branch is None else tuple(self._branch.sure)

    def hurry(self) -> None:
        """Look for hashes now."""
        self._watch._look_for_hashes.set()

    def notice(self, what: str) -> None:
        """Take a notice of the intake; called in the event loop."""
        if what in ("broken", "overflow"):
            self._progress.broken.set()
        if (
            what == "lost"
            and (note_loss := getattr(self._source.scraper, "note_loss", None)) is not None
        ):
            note_loss()
        self._is_tight |= what == "tight"
        self._progress.moved.set()

    async def cold_start(self) -> Metrics:
        """Fill a fresh arena and go live.

        AlreadyLive; Scraper, StateFileError; CoverageError when the source stays behind the stream;
        BufferOverflow; ArenaRegistry when no pool at all could be installed.
        """
        if self.intake.stage.is_live:
            raise AlreadyLive("the arena is live; a cold start would replace good values")
        self._progress.metrics = Metrics()
        while True:
            try:
                return await self._joining.join()
            except StreamBroken as error:
                log.warning("event=start_interrupted reason=%r", str(error))

    async def warm_start(self) -> Metrics:
        """Go on from what the arena holds of a former writer: close the gap behind its head, and read
        only what is stale or not there. Everything is read anew when that cannot be done.

        AlreadyLive; Scraper when the list of pools cannot be had.
        """
        if self.intake.stage.is_live:
            raise AlreadyLive("the arena is live; there is nothing to take over")
        self._progress.metrics = Metrics()
        self._progress.enter("connecting")
        specs = {
            spec.key: spec for spec in await asyncio.to_thread(self._source.scraper.list_pools)
        }
        witnesses = await self._call(self.intake.gap.adopt)
        held = await self._call(self.intake.members.pools)
        other = [
            key
            for key, spec in held.items()
            if key not in specs or not spec.is_same(specs[key]) or not self._source.brings(spec)
        ]
        if self._source.described is not None:
            same = [held[key] for key in held.keys() - set(other)]
            other += await asyncio.to_thread(self._source.described.wrong_of, same)
        self._roster.let_go(other)
        await self._membership.take_away()
        if self._branch is not None:
            self._branch.pools = {key: held[key] for key in held if key not in other}
            self._branch.witnesses = witnesses
            if witnesses:  # what the former writer read it read up to there
                self._branch.filled = witnesses[-1]
        self._joining.has_been_live = True
        log.info(
            "event=taken_over pools=%d removed=%d head=%d hashes=%d",
            len(held) - len(other),
            len(other),
            await self._call(self.intake.head_block),
            len(witnesses),
        )
        await self.resync()
        self._progress.metrics.pools_total = len(specs)
        unread = set(await self._call(self.intake.members.unread))
        held = await self._call(self.intake.members.pools)
        new = {key: spec for key, spec in specs.items() if key not in held or key in unread}
        # What was told meanwhile comes later.
        self._roster.add_later(new)
        self._membership.changed.set()
        stale = await self._call(self.intake.members.stale)
        known = [key for key in stale if not self._roster.is_coming(key)]
        self._roster.retry_later(known, time.monotonic())
        return self._progress.metrics

    async def resync(self) -> Metrics:
        """Read everything again after a gap and go live; repeats until it succeeds.

        What stands in the way is logged and shown as the arena's phase reason. AlreadyLive.
        """
        if self.intake.stage.is_live:
            raise AlreadyLive("the arena is live; nothing to resynchronise")
        if await self._gap.close():
            return self._progress.metrics
        self._roster.forget_waits()
        self._progress.metrics = Metrics(gaps_closed=self._gap.gaps_closed)
        while True:
            try:
                return await self._joining.join()
            except StreamBroken as error:
                log.warning("event=resync_interrupted reason=%r", str(error))
            except (Scraper, CoverageError, ArenaRegistry, BufferOverflow) as error:
                log.error(
                    "event=resync_failed error=%s reason=%r", type(error).__name__, str(error)
                )
                reason = f"{type(error).__name__}: {error}"
                if isinstance(error, BufferOverflow):
                    await self._call(self.intake.drop_buffer)
                await self._call(self.intake.join_failed, reason)
                await asyncio.sleep(RESYNC_PAUSE_S)

    async def run_live(self) -> None:
        """Stay live until cancelled: resync after gaps, re-read stale pools. NotLive."""
        if not self._joining.has_been_live:
            raise NotLive("there is nothing to keep live: run a cold start first")
        works = [self._keep_live(), self._membership.keep_list()]
        if self._branch is not None:
            watch = partial(self._watch.keep_silence, self._branch.node)
            works.append(self._side_tasks.keep("watch", watch))
            work = partial(self._watch.keep_witnesses, self._branch)
            works.append(self._side_tasks.keep("hashes", work))
        await all_or_error(works)

    async def _keep_live(self) -> None:
        while True:
            self._progress.moved.clear()
            if not self.intake.stage.is_live:
                await self.resync()
            if self._is_tight:
                self._is_tight = False
                await self._membership.grow(
                    ArenaFull("the tick heap is nearly full", table="tick heap")
                )
            stale = await self._call(self.intake.members.take_stale)
            now = time.monotonic()
            self._roster.note_stale((k for k in stale if not self._roster.is_leaving(k)), now)
            try:
                await self._single.read_due()
            except (StreamBroken, BufferOverflow):
                await self._progress.wait_moved(self._progress.poll_s)
                continue
            self._membership.reports.count()
            due_s = self._roster.next_due_s()
            pause = None if due_s is None else max(0.0, due_s - time.monotonic())
            await self._progress.wait_moved(pause)
