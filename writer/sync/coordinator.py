"""From a fresh connection to live without losing an event, and back after a gap.

The coordinator runs in the main thread: it waits, scrapes and decides; its other half, `Intake`,
runs in the feed thread. A pool scraped at block S joins a stream whose first whole block is b when
S >= b - 1, every block above S is applied to it, and no revert at or below S came after the scrape
began.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from arena.arena import PoolSpec
from arena.errors import (
    AlreadyLive,
    ArenaError,
    ArenaFull,
    ArenaRegistry,
    BlockUnavailable,
    BufferOverflow,
    ChainMoved,
    CoverageError,
    GapNotClosed,
    InvalidEventData,
    LogInvalid,
    LogsRefused,
    NodeBehind,
    NotAtRest,
    NotLive,
    OtherFork,
    OwnerMismatch,
    PartialPersistence,
    PoolInvalid,
    RpcRefused,
    RpcUnavailable,
    Scraper,
)
from arena.layouts.slots import UNISWAP_V4
from arena.native import lib
from arena.writer.host.sidetasks import SideTasks
from arena.writer.lists.reports import PoolReports
from arena.writer.node.client import NodeClient
from arena.writer.node.meanings import LASTING, meaning
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import PoolScraper, ScrapedPool
from arena.writer.scrapers.described import Described
from arena.writer.stream.compare import NodeBlock
from arena.writer.stream.fees import fee_changes
from arena.writer.sync.agreement import Agreement, Witness
from arena.writer.sync.branch import Branch
from arena.writer.sync.candidate import Candidate, Verdict
from arena.writer.sync.intake import Intake, StreamBroken
from arena.writer.sync.starts import COLD_START, INCREMENTAL, Metrics, Preset
from arena.writer.sync.turning import NOT_YET

log = logging.getLogger(__name__)
T = TypeVar("T")


# Pools handed to the feed thread at once, and their ticks: how long the socket waits for one piece.
INSTALL_POOLS = 64
INSTALL_TICKS = 8192
SCRAPE_POLL_S = 0.1
RESYNC_PAUSE_S = 1.0
RESCRAPE_FIRST_PAUSE_S = 0.2
RESCRAPE_LONGEST_PAUSE_S = 60.0
WITNESS_PAUSE_S = 0.25
WITNESS_FAILED_PAUSE_S = 2.0
# How long what node and stream agree in may be no more than time and fee: a chain may stand still.
UNSURE_S = 10.0
# A block's logs are believed after two seconds at the most, or never: then pools are read at another.
UNSETTLED_S = 5.0
# A hash that stood for so many blocks, as deep as the undo ring reaches, is not looked at again.
PLACE_BLOCKS = 1024
PLACE_PAUSE_S = 1.0  # between two looks while no block comes
FEES = b""  # beside keys of pools
# A stream that brings nothing while the node has newer blocks is told within ten seconds.
SILENT_POLL_S = 1.0
SILENT_S = 6.0
# Nothing on the socket says from which block on it brings a new pool's events. The one in progress when
# the list changes is not filtered by the new list, and the one after it may have begun (WHITELIST 5).
SETTLE_BLOCKS = 2
# A scrape this far behind the stream is joined with the node's logs; one further behind is read anew.
MAX_BACKFILL_BLOCKS = 512

OUTDATED = (
    "its values carry no block hash and are from before the stream lost blocks, so they may be of "
    "another branch. Write the state file anew at a later block, let the database go on, or give --rpc"
)

# What a source says that will pass while one waits.
PASSING = (
    NotAtRest,
    PartialPersistence,
    OtherFork,
    BlockUnavailable,
    RpcUnavailable,
    RpcRefused,  # unless its meaning is a lasting one
)


class FeedThreadCall(Protocol):
    """Runs `work` in the feed thread between two blocks and gives its result or exception."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Coordinator:
    """The main thread's half: start, resync after gaps, re-reading of single stale pools.

    `observe` is called with the metrics whenever they moved. cold_start and resync return when the
    arena is live; both start over by themselves when the stream breaks meanwhile.

    With a `node` gaps are closed from its logs, scraped blocks are checked against the stream by
    their hashes, and a scrape older than the stream is brought up to it; the intake must have been
    told with `closes_gaps`. `targets` is the list the scraper began with, where change_pools is used.
    `gap_timeout_s` is how long that is tried before pools are read anew, `unsure_s` how long nothing
    but time and fee need show that node and stream are on one branch. `described` tells pools that
    are not what they are listed as.
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
        unsure_s: float = UNSURE_S,
        side_tasks: SideTasks | None = None,
        observe: Callable[[Metrics], None] = lambda metrics: None,
    ):
        self.intake = intake
        self.metrics = Metrics()
        self._scraper = scraper
        self._call = call
        self._preset = preset
        self._scrape_timeout_s = scrape_timeout_s
        self._branch = None if node is None else Branch(node)
        self._gap_timeout_s = gap_timeout_s
        self._witness_pause_s = witness_pause_s
        self._described = described
        # For a source that trails: the newest loss, its newest block first seen after it, and the
        # newest loss after which that block was seen to move.
        self._source_seen: tuple[int, int] | None = None
        self._source_moved = 0
        self._carried: dict[bytes, ScrapedPool] = {}
        self._gaps_closed = 0
        self._unconfirmed_since: float | None = None
        self._unsure_s = unsure_s
        self._side_tasks = SideTasks() if side_tasks is None else side_tasks
        self._unsure_since: tuple[int, float] | None = None  # epoch, time
        self._unsure_reason = ""
        # Blocks of the node, sure when proven to be the stream's -> the pools read there; FEES at the
        # one up to which the node told protocol fees.
        self._places: dict[Witness, set[bytes]] = {}
        self._looked = 0, 0.0  # at them last: the head by then, and when
        self._differs_since: float | None = None
        self._unsettled_since: float | None = None
        self._has_been_live = False
        self._has_said_fees = False
        self._observe = observe
        self._moved = asyncio.Event()
        self._broken = asyncio.Event()
        self._stale: dict[bytes, tuple[float, float]] = {}  # key -> next attempt, pause
        self._settle: dict[bytes, int] = {}  # pools without values -> the block they are read after
        # Added pools -> the lowest block their values may be of: blocks kept from before lack their
        # events, also when they are read again later.
        self._floors: dict[bytes, int] = {}
        self._targets = {target.spec.key: target for target in targets}
        self._coming: dict[bytes, PoolSpec] = {}  # to be announced once the arena is live
        self._removals: set[bytes] = set()  # still to be taken away
        self._leaving: set[bytes] = set()  # taken away, but a join that began before may bring back
        self._changed = asyncio.Event()
        self._look_for_hashes = asyncio.Event()
        self._is_tight = False  # the tick heap is nearly full: it grows before it is
        self.on_added: Callable[[Sequence[bytes], int], None] = lambda keys, head_block: None
        self._reports = PoolReports()
        self._not_ready: set[str] = set()  # what the source said and was logged

    def change_pools(self, added: Sequence[PoolTarget], removed: Sequence[bytes]) -> None:
        """Take `removed` keys away, then add `added`; a key in both is read anew. Called in the event
        loop, at any time; the last call has the last word, others stay live meanwhile."""
        for key in removed:
            self._targets.pop(key, None)
            self._coming.pop(key, None)
        self._removals.update(removed)
        self._leaving.update(removed)
        for target in added:
            self._targets[target.spec.key] = target
            self._coming[target.spec.key] = target.spec
        self._hold()
        self._changed.set()

    async def doubt(self, keys: Collection[bytes], block_number: int) -> None:
        """Blocks up to this one may lack events of these pools: they are stale until they are read at
        it or later."""
        for key in keys:
            self._floors[key] = max(block_number, self._floors.get(key, 0))
        await self._call(partial(self.intake.doubt, keys, block_number))

    def hash_of(self, block_number: int) -> Witness | None:
        """The hash of one of the arena's blocks; None while it is not known."""
        known = () if self._branch is None else self._branch.sure
        return next((each for each in reversed(known) if each.number == block_number), None)

    def known(self) -> Sequence[Witness]:
        """The arena's blocks whose hashes are known, ascending; a revert may have come since."""
        return () if self._branch is None else tuple(self._branch.sure)

    def hurry(self) -> None:
        """Look for hashes now."""
        self._look_for_hashes.set()

    def notice(self, what: str) -> None:
        """Take a notice of the intake; called in the event loop."""
        if what in ("broken", "overflow"):
            self._broken.set()
        if what == "lost" and (note_loss := getattr(self._scraper, "note_loss", None)) is not None:
            note_loss()
        self._is_tight |= what == "tight"
        self._moved.set()

    @property
    def is_live(self) -> bool:
        return self.intake.is_live

    async def cold_start(self) -> Metrics:
        """Fill a fresh arena and go live.

        AlreadyLive; Scraper, StateFileError; CoverageError when the source stays behind the stream;
        BufferOverflow; ArenaRegistry when no pool at all could be installed.
        """
        if self.is_live:
            raise AlreadyLive("the arena is live; a cold start would replace good values")
        self.metrics = Metrics()
        while True:
            try:
                return await self._join()
            except StreamBroken as error:
                log.warning("event=start_interrupted reason=%r", str(error))

    async def warm_start(self) -> Metrics:
        """Go on from what the arena holds of a former writer: close the gap behind its head, and read
        only what is stale or not there. Everything is read anew when that cannot be done.

        AlreadyLive; Scraper when the list of pools cannot be had.
        """
        if self.is_live:
            raise AlreadyLive("the arena is live; there is nothing to take over")
        self.metrics = Metrics()
        self._enter("connecting")
        specs = {spec.key: spec for spec in await asyncio.to_thread(self._scraper.list_pools)}
        witnesses = await self._call(self.intake.adopt)
        held = await self._call(self.intake.pools)
        other = [key for key in held if key not in specs or not held[key].is_same(specs[key])]
        if self._described is not None:
            same = [held[key] for key in held.keys() - set(other)]
            other += await asyncio.to_thread(self._described.wrong_of, same)
        self._removals.update(other)
        await self._take_away()
        if self._branch is not None:
            self._branch.pools = {key: held[key] for key in held if key not in other}
            self._branch.witnesses = witnesses
            if witnesses:  # what the former writer read it read up to there
                self._branch.filled = witnesses[-1]
        self._has_been_live = True
        log.info(
            "event=taken_over pools=%d removed=%d head=%d hashes=%d",
            len(held) - len(other),
            len(other),
            await self._call(lambda: self.intake.arena.head_block),
            len(witnesses),
        )
        await self.resync()
        self.metrics.pools_total = len(specs)
        unread = set(await self._call(self.intake.unread))
        held = await self._call(self.intake.pools)
        new = {key: spec for key, spec in specs.items() if key not in held or key in unread}
        # What was told meanwhile comes later.
        self._coming = {k: v for k, v in new.items() if k not in self._leaving} | self._coming
        self._changed.set()
        stale = await self._call(self.intake.stale)
        self._retry_later([key for key in stale if key not in self._coming])
        return self.metrics

    async def resync(self) -> Metrics:
        """Read everything again after a gap and go live; repeats until it succeeds.

        What stands in the way is logged and shown as the arena's phase reason. AlreadyLive.
        """
        if self.is_live:
            raise AlreadyLive("the arena is live; nothing to resynchronise")
        if await self._close_gap():
            return self.metrics
        self._stale.clear()
        self.metrics = Metrics(gaps_closed=self._gaps_closed)
        while True:
            try:
                return await self._join()
            except StreamBroken as error:
                log.warning("event=resync_interrupted reason=%r", str(error))
            except (Scraper, CoverageError, ArenaRegistry, BufferOverflow) as error:
                log.error(
                    "event=resync_failed error=%s reason=%r", type(error).__name__, str(error)
                )
                reason = f"{type(error).__name__}: {error}"
                if isinstance(error, BufferOverflow):
                    await self._call(self.intake.drop_buffer)
                await self._call(partial(self.intake.join_failed, reason))
                await asyncio.sleep(RESYNC_PAUSE_S)

    async def run_live(self) -> None:
        """Stay live until cancelled: resync after gaps, re-read stale pools. NotLive."""
        if not self._has_been_live:
            raise NotLive("there is nothing to keep live: run a cold start first")
        works = [self._keep_live(), self._keep_list()]
        if self._branch is not None:
            watch = partial(self._watch_stream, self._branch.node)
            works.append(self._side_tasks.keep("watch", watch))
            work = partial(self._keep_witnesses, self._branch)
            works.append(self._side_tasks.keep("hashes", work))
        await _all_or_error(works)

    async def _keep_live(self) -> None:
        while True:
            self._moved.clear()
            if not self.is_live:
                await self.resync()
            if self._is_tight:
                self._is_tight = False
                await self._grow(ArenaFull("the tick heap is nearly full", table="tick heap"))
            for spec in await self._call(self.intake.stale_specs):
                if spec.key not in self._leaving:
                    self._stale.setdefault(spec.key, (time.monotonic(), RESCRAPE_FIRST_PAUSE_S))
            try:
                await self._rescrape_due()
            except (StreamBroken, BufferOverflow):
                await self._wait_moved(SCRAPE_POLL_S)
                continue
            self._reports.count()
            pause = None
            if self._stale:
                pause = max(0.0, min(due for due, _ in self._stale.values()) - time.monotonic())
            await self._wait_moved(pause)

    async def rescrape(self, key: bytes) -> bool:
        """Read one pool again that is stale or new, and exchange its values; whether it is live now.

        NotLive, StreamBroken, BufferOverflow, Scraper; ArenaFull and InvalidEventData from installing
        it.
        """
        self._stale.setdefault(key, (time.monotonic(), RESCRAPE_FIRST_PAUSE_S))
        found = (await self._rescrape([key]))[key]
        self._take_outcome(key, found)
        if isinstance(found, ArenaError):
            raise found
        return found

    async def _rescrape(self, keys: Sequence[bytes]) -> dict[bytes, bool | ArenaError]:
        """Read pools again together; whether each is live now, or what keeps it out. NotLive,
        StreamBroken, BufferOverflow, Scraper."""
        if not self.is_live:
            raise NotLive(f"{len(keys)} pools can only be read again while the arena is live")
        outcome: dict[bytes, bool | ArenaError] = {}
        for key in keys:
            outcome[key] = not await self._call(partial(self.intake.is_stale, key))
        wanted = [key for key in keys if not outcome[key]]
        if not wanted:
            return outcome
        epoch, _first = await self._call(self.intake.joining_block)
        candidates, invalid = await self._unbroken(self._read(wanted, epoch))
        for error in invalid:
            outcome[error.key] = error
        for each in candidates:
            if self.intake.is_outdated(each):
                outcome[_key(each)] = CoverageError(OUTDATED)
        candidates = [
            each
            for each in candidates
            if each.block_number >= self._floors.get(_key(each), 0) and not outcome[_key(each)]
        ]
        agreement: Agreement | None = None
        while self._branch is not None and candidates:
            found, _, agreement = await self._confirm(self._branch, epoch, candidates)
            candidates = [each for each in candidates if _key(each) not in found.again]
            if found.is_unsettled:
                await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))
                continue
            if found.is_unsure:
                candidates = []  # what is read later may be shown to be of the stream's branch
            if found.wait_for_block is None:
                break
            await self._wait_moved(SCRAPE_POLL_S)
        for candidate in candidates:
            outcome[_key(candidate)] = done = await self._replace(epoch, candidate)
            if done is True:
                self._note_places([candidate], agreement)
        return outcome

    def _note_places(self, candidates: Sequence[Candidate], agreement: Agreement | None) -> None:
        """Keep which block of the node values were read at."""
        is_proven = agreement is not None and agreement.is_proven
        self._forget_places({_key(each) for each in candidates})
        for each in candidates:
            if (block_hash := each.pool.block_hash) is not None:
                place = Witness(each.block_number, block_hash, each.mark, is_proven)
                self._places.setdefault(place, set()).add(_key(each))
        self._looked = 0, 0.0

    def _forget_places(self, keys: Collection[bytes]) -> None:
        left = ((place, held.difference(keys)) for place, held in self._places.items())
        self._places = {place: held for place, held in left if held}

    async def _replace(self, epoch: int, candidate: Candidate) -> bool | ArenaError:
        """Exchange one pool's values as soon as the stream has come to them."""
        key = _key(candidate)
        while True:
            # Removed, or removed and added again: what is read here belongs to nothing then.
            if key not in self._stale or candidate.block_number < self._floors.get(key, 0):
                return False
            try:
                verdict = await self._call(partial(self.intake.replace, epoch, candidate))
            except ArenaFull as error:
                if await self._grow(error):
                    continue
                return error
            except InvalidEventData as error:
                return error
            if verdict.again:
                return False
            if verdict.is_clear:
                break
            await self._wait_moved(SCRAPE_POLL_S)
        is_new = self._settle.pop(key, None) is not None
        if is_new and self._branch is not None:
            self._branch.pools = {**self._branch.pools, key: candidate.pool.spec}
        log.info(
            "event=%s pool=0x%s block=%d",
            "pool_added" if is_new else "pool_live_again",
            key.hex(),
            candidate.block_number,
        )
        if is_new:
            self.on_added([key], await self._call(lambda: self.intake.arena.head_block))
        return True

    async def _grow(self, error: ArenaFull, *, gives_way: bool = False) -> bool:
        """Make room for what found none; False where there is none to be made. It `gives_way` to
        removals, then to be tried again: they cannot wait for the end of a reorg, as growing must."""
        table = error.fields.get("table", "")
        try:
            while (grown := await self._call(partial(self.intake.grow, table))) is None:
                await asyncio.sleep(SCRAPE_POLL_S / 10)
                if gives_way and self._removals:
                    return True
        except (ArenaFull, OwnerMismatch, OSError, ValueError) as refused:
            log.error("event=cannot_grow table=%r reason=%r", table, str(refused))
            return False
        if grown:
            size, generation = await self._call(partial(self.intake.size_of, table))
            log.info("event=arena_grown table=%r size=%d generation=%d", table, size, generation)
        return grown

    # -- pools that come and go

    def _hold(self) -> None:
        """Tell the scraper what the list is, without what is not announced yet: a join must not read
        pools whose events the stream may still leave out."""
        targets = [each for key, each in self._targets.items() if key not in self._coming]
        self._scraper.hold(targets)

    async def _keep_list(self) -> None:
        """Carry out changes of the list, until cancelled: removals at once, additions while live."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._leaving or self._coming:
                await self._take_away()
                if not self.is_live:
                    await asyncio.sleep(SCRAPE_POLL_S)
                elif self._leaving:
                    # A join that began before may have brought them back.
                    self._removals |= self._leaving
                    self._leaving.clear()
                    await self._take_away()
                elif await self._announce(specs := dict(self._coming)):
                    # What left and came again meanwhile is still to go, and then to come.
                    for key in specs.keys() - self._removals - self._leaving:
                        self._coming.pop(key, None)
                    if self._targets:
                        self._hold()

    async def _take_away(self) -> None:
        """Remove the pools that are to leave, also those told meanwhile."""
        while self._removals:
            keys = list(self._removals)
            count = await self._remove(keys)
            if count is None:
                await asyncio.sleep(SCRAPE_POLL_S / 10)
                continue
            self._removals.difference_update(keys)

    async def _remove(self, keys: Sequence[bytes]) -> int | None:
        """How many there were; None inside a reorg."""
        for key in keys:
            self._stale.pop(key, None)
            self._settle.pop(key, None)
            self._floors.pop(key, None)
        self._forget_places(keys)
        count = await self._call(partial(self.intake.remove, keys))
        if self._branch is not None and count is not None:
            # Not before: a block that differs in their events alone is another while they are there.
            gone = set(keys)
            self._branch.pools = {k: v for k, v in self._branch.pools.items() if k not in gone}
        if count:
            log.info("event=pools_removed pools=%d", count)
        return count

    async def _announce(self, specs: Mapping[bytes, PoolSpec]) -> bool:
        """Show pools as syncing and have them read once the stream brings their events; False when it
        is to be tried again."""
        since = await self._call(lambda: self.intake.idle_count)
        while self.is_live and not self._removals:
            try:
                found = await self._call(
                    partial(self.intake.announce, tuple(specs.values()), since)
                )
            except ArenaFull as error:
                if not await self._grow(error, gives_way=True):
                    for key in specs:
                        self._reports.report(key, error)
                    return True
                continue
            if found is None:
                await asyncio.sleep(SCRAPE_POLL_S / 10)
                continue
            head, waiting = found
            new = {key: specs[key] for key in waiting}
            if self._branch is not None:
                # Blocks fetched for a gap bring their events, also those the stream left out.
                self._branch.pools = {**self._branch.pools, **new}
            now = time.monotonic()
            for key in new:
                self._settle[key] = self._floors[key] = head + SETTLE_BLOCKS
                self._stale[key] = (now, RESCRAPE_FIRST_PAUSE_S)
                self._reports.forget(key)
            log.info(
                "event=pools_announced pools=%d settle_block=%d", len(new), head + SETTLE_BLOCKS
            )
            self._moved.set()
            return True
        return False

    # -- joining the stream

    async def _join(self) -> Metrics:
        self._broken.clear()
        self._unsure_reason = ""
        epoch, first = await self._first_block()
        self._enter("scraping")
        await self._call(lambda: self.intake.enter(epoch, "scraping"))
        listed = await self._unbroken(asyncio.to_thread(self._scraper.list_pools))
        # What the stream may not bring yet is added when the others are live.
        specs = [spec for spec in listed if spec.key not in self._settle]
        self.metrics.pools_total = len(specs)
        self.metrics.pools_done = self.metrics.pools_invalid = 0
        self.metrics.first_block = first
        log.info("event=scraping pools=%d first_block=%d", len(specs), first)
        joined: dict[bytes, Candidate] = {}
        deadline = time.monotonic() + self._scrape_timeout_s
        await self._wait_for_source(first, deadline)
        await self._install_carried(epoch, first, joined)
        wanted = [spec for spec in specs if spec.key not in joined]
        if self._branch is not None:
            self._branch.pools = {spec.key: spec for spec in listed}
        while True:
            if wanted:
                await self._scrape(wanted, epoch, first, deadline, joined)
                if specs and not joined:
                    raise ArenaRegistry(
                        f"none of the {len(specs)} scraped pools could be installed; "
                        "the log says why for each"
                    )
            self._enter("replaying")
            why = self._unsure_reason
            await self._call(partial(self.intake.enter, epoch, "replaying", why))
            earlier: Sequence[NodeBlock] = ()
            mark, _ = await self._call(lambda: self.intake.known_now(epoch))
            verdict = Verdict()
            agreement: Agreement | None = None
            candidates = [each for key, each in joined.items() if key not in self._leaving]
            doubted = tuple(
                _key(each) for each in candidates if not self._reaches(each.pool, first)
            )
            if doubted:
                verdict = Verdict(again=doubted)
            elif self._branch is not None:
                verdict, earlier, agreement = await self._confirm(self._branch, epoch, candidates)
            if verdict.is_clear:
                # Some may have been told to go while the node was asked.
                joined = {k: each for k, each in joined.items() if k not in self._leaving}
                go = partial(self.intake.go_live, epoch, list(joined.values()), earlier)
                verdict = await self._call(go)
            if verdict.is_clear:
                self.metrics.blocks_fetched += len(earlier)
                break
            await self._show_progress()
            wanted = [spec for spec in specs if spec.key in verdict.again]
            if wanted:
                if time.monotonic() >= deadline:
                    self._refuse_reverted(joined, verdict, deadline)
                self.metrics.pools_done = len(joined) - len(wanted)
                log.info("event=scrape_again pools=%d reason=reverted", len(wanted))
                self._enter("scraping")
                await self._call(lambda: self.intake.enter(epoch, "scraping"))
            await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))
        self._has_been_live = True
        self._settle_above(first)
        self._carried.clear()
        if self._branch is not None:
            self._branch.forget()
            self._places.clear()
            self._note_places(list(joined.values()), agreement)
            if earlier:
                is_proven = agreement is not None and agreement.is_proven
                self._branch.fill(earlier, mark, is_proven=is_proven)
        others = {*joined, *self._leaving}
        self._retry_later([spec.key for spec in listed if spec.key not in others])
        await self._show_progress()
        self._enter("live")
        await self._say_fees_stand_still()
        self._reports.count(at_once=True)
        log.info(
            "event=live pools=%d invalid=%d duration_ms=%d %s",
            self.metrics.pools_done,
            self.metrics.pools_invalid,
            int(self.metrics.duration_s * 1000),
            " ".join(
                f"{name}_ms={int(took * 1000)}" for name, took in self.metrics.phase_s.items()
            ),
        )
        return self.metrics

    async def _first_block(self) -> tuple[int, int]:
        self._enter("buffering")
        while True:
            self._moved.clear()
            epoch, first = await self._call(self.intake.joining_block)
            if self.intake.overflow is not None:
                raise self.intake.overflow
            if first is not None:
                self._broken.clear()
                return epoch, first
            await self._wait_moved(None)

    async def _scrape(
        self,
        specs: Sequence[PoolSpec],
        epoch: int,
        first: int,
        deadline: float,
        joined: dict[bytes, Candidate],
    ) -> None:
        """Read and install `specs`; again, until the deadline, those read behind the stream."""
        wanted = list(specs)
        while wanted:
            late: list[Candidate] = []
            gate = asyncio.Semaphore(self._preset.concurrency)
            works = [
                self._scrape_batch(batch, gate, epoch, first, joined, late)
                for batch in self._batches(wanted)
            ]
            try:
                await self._unbroken(_all_or_error(works))
            except PASSING as error:
                await self._wait_out(error, deadline)
                wanted = [spec for spec in wanted if spec.key not in joined]
                continue
            if not late:
                return
            behind = min(late, key=lambda candidate: candidate.block_number)
            if time.monotonic() >= deadline:
                self._refuse_coverage(behind, first, len(late))
            text = f"waiting for values of block {first - 1}, {behind.block_number} found"
            if self.intake.is_outdated(behind):
                text = f"waiting for newer values: {OUTDATED}"
            self._reports.report(behind.pool.spec.key, CoverageError(text))
            keys = {candidate.pool.spec.key for candidate in late}
            wanted = [spec for spec in wanted if spec.key in keys]
            await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))

    async def _scrape_batch(
        self,
        batch: list[bytes],
        gate: asyncio.Semaphore,
        epoch: int,
        first: int,
        joined: dict[bytes, Candidate],
        late: list[Candidate],
    ) -> None:
        async with gate:
            candidates, invalid = await self._read(batch, epoch)
            for error in invalid:
                self.metrics.pools_invalid += 1
                joined.pop(error.key, None)
                self._reports.report(error.key, error)
            accepted: list[Candidate] = []
            for each in candidates:
                joins = self._reaches(each.pool, first) and not self.intake.is_outdated(each)
                (accepted if joins else late).append(each)
            await self._install(accepted, epoch, joined)
            await self._show_progress()

    @property
    def _trails(self) -> bool:
        return bool(getattr(self._scraper, "trails", False))

    def _reaches(self, pool: ScrapedPool, first: int) -> bool:
        """Whether values join a stream that begins at block `first`, if need be with the node's
        logs in between."""
        block_number = pool.values.block_number
        if block_number < self._floors.get(pool.spec.key, 0) >= first:
            return False
        if self._branch is not None and pool.block_hash is not None:
            return block_number >= first - 1 - MAX_BACKFILL_BLOCKS
        return block_number >= first - 1

    async def _wait_for_source(self, first: int, deadline: float) -> None:
        """Let a source that trails come up to the stream before anything is read from it.

        CoverageError when the time is over.
        """
        while self._trails:
            try:
                ask = asyncio.to_thread(self._scraper.get_current_block_number)
                found = await self._unbroken(ask)
            except PASSING as error:
                await self._wait_out(error, deadline)
                continue
            self.metrics.source_block = found
            await self._show_progress()
            if found >= first - 1:
                return
            if time.monotonic() >= deadline:
                raise CoverageError(
                    f"the source is at block {found}, the first whole block of the stream is "
                    f"{first}: values of block {first - 1} or later are needed (waited "
                    f"{self._scrape_timeout_s:g} s). Let the node catch up, or wait longer with "
                    "--scrape-timeout",
                    scraped_block=found,
                    first_block=first,
                )
            await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))

    async def _wait_out(self, error: Scraper, deadline: float) -> None:
        """Pause before asking the source again; the error itself when the time is over or nothing is to
        be waited for."""
        lasts = isinstance(error, RpcRefused) and meaning(error) in LASTING
        if lasts or time.monotonic() >= deadline:
            raise error
        if type(error).__name__ not in self._not_ready:
            self._not_ready.add(type(error).__name__)
            log.warning(
                "event=source_not_ready error=%s reason=%r", type(error).__name__, str(error)
            )
        await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))

    async def _install_carried(
        self, epoch: int, first: int, joined: dict[bytes, Candidate]
    ) -> None:
        """Use again what was read before the stream broke, where a node can tell if it is still
        canonical; _confirm asks it."""
        mark, losses = await self._call(lambda: self.intake.known_now(epoch))
        carried = [
            Candidate(pool, mark, self._trails, losses)
            for pool in self._carried.values()
            if pool.block_hash is not None and self._reaches(pool, first)
        ]
        self._carried.clear()
        if self._branch is not None and carried:
            log.info("event=scrape_carried_over pools=%d", len(carried))
            await self._install(carried, epoch, joined)

    async def _confirm(
        self, branch: Branch, epoch: int, candidates: Sequence[Candidate]
    ) -> tuple[Verdict, Sequence[NodeBlock], Agreement | None]:
        """What a node says of the scraped blocks: whose are not on the stream's branch, whether the
        stream has come to them, the blocks that lead from the oldest to it, and what shows that node
        and stream are on one branch. StreamBroken."""
        hashed: dict[tuple[int, bytes], list[bytes]] = {}
        for each in candidates:
            if each.pool.block_hash is not None:
                place = (each.block_number, each.pool.block_hash)
                hashed.setdefault(place, []).append(each.pool.spec.key)
        if not hashed:
            return Verdict(), (), None
        everyone = tuple(key for keys in hashed.values() for key in keys)
        mark = await self._still_differing(branch)
        kept, late = await self._call(lambda: self.intake.kept(epoch))
        if not kept:
            return Verdict(again=everyone), (), None
        # From here on the stream brings events of announced pools, too: where there are no others, they
        # alone can show that node and stream are on one branch.
        late |= {key: floor for key, floor in self._floors.items() if late.get(key) == NOT_YET}
        try:
            ask = asyncio.to_thread(branch.confirm, kept, hashed, late, mark)
            found = await self._unbroken(ask)
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
            is_unsure = self._is_unsure(epoch, agreement)
        if not is_unsure:
            self._unsure_reason = ""
        else:
            await self._show_unsure(epoch, f"{agreement.blocks} blocks agree in time and fee alone")
        verdict = Verdict(found.wrong, found.reached_at, is_unsure=is_unsure)
        return verdict, found.earlier, agreement

    async def _still_differing(self, branch: Branch) -> int:
        """Forget a block that differed and that the stream has reverted since; a mark of now."""

        def look() -> tuple[int, bool]:
            known = () if branch.differing is None else (branch.differing,)
            return self.intake.buffer.mark(), len(self.intake.valid(known)) == len(known)

        mark, differs = await self._call(look)
        if not differs:
            branch.differing = None
        return mark

    def _is_unsure(self, epoch: int, agreement: Agreement) -> bool:
        """Whether to wait for more that shows node and stream to be on one branch."""
        now = time.monotonic()
        if agreement.is_enough:
            self._unsure_since = None
            return False
        if self._unsure_since is None or self._unsure_since[0] != epoch:
            self._unsure_since = epoch, now
        speaks_against = agreement.differs or agreement.is_doubted
        return speaks_against or now < self._unsure_since[1] + self._unsure_s

    async def _show_unsure(self, epoch: int, why: str) -> None:
        if not self.is_live:
            reason = f"nothing shows yet that the node is on the stream's branch: {why}"
            self._unsure_reason = reason
            await self._call(partial(self.intake.enter, epoch, "replaying", reason))

    async def _not_confirmed(self, error: Scraper) -> None:
        """Stream and node differ. Usually one of them is ahead; if it stays so, the kept blocks are of
        a branch whose end the stream never told: begin again with the next block."""
        now = time.monotonic()
        if self._unconfirmed_since is None:
            self._unconfirmed_since = now
            log.info(
                "event=scrape_not_confirmed error=%s reason=%r", type(error).__name__, str(error)
            )
        elif isinstance(error, ChainMoved) and now >= self._unconfirmed_since + self._gap_timeout_s:
            self._unconfirmed_since = None
            if not self.is_live:
                await self._call(self.intake.drop_buffer)

    def _batches(self, specs: Sequence[PoolSpec]) -> list[list[bytes]]:
        v2 = [spec.key for spec in specs if spec.protocol == lib.PSA_UNISWAP_V2]
        others = [spec.key for spec in specs if spec.protocol != lib.PSA_UNISWAP_V2]
        batches = []
        for keys, size in ((v2, self._preset.v2_batch), (others, self._preset.cl_batch)):
            batches += [keys[start : start + size] for start in range(0, len(keys), size)]
        return batches

    async def _read(
        self, keys: list[bytes], epoch: int
    ) -> tuple[list[Candidate], Sequence[PoolInvalid]]:
        mark, losses = await self._call(lambda: self.intake.known_now(epoch))
        if self._trails and self._source_moved < losses:
            found = await asyncio.to_thread(self._scraper.get_current_block_number)
            if self._trails:  # it was not the node in the database's place that answered
                self._note_source(losses, found)
            losses = self._source_moved
        scrape = await asyncio.to_thread(self._scraper.read_pools, keys)
        if self._described is not None:
            scrape = await asyncio.to_thread(self._described.checked, scrape)
        if scrape.as_of_ns is not None:
            as_of_ns = scrape.as_of_ns
            known, before = await self._call(lambda: self.intake.known_at(epoch, as_of_ns))
            mark, losses = min(mark, known), min(losses, before)
        trails = self._trails
        return [
            Candidate(pool, mark, trails, 0 if pool.spec.key in scrape.outdated else losses)
            for pool in scrape.pools
        ], scrape.invalid

    def _note_source(self, losses: int, block_number: int) -> None:
        """A source that trails stood at that block after `losses` were noticed: what it wrote since
        the first look after a loss, it wrote knowing what was lost."""
        if self._source_seen is None or self._source_seen[0] != losses:
            self._source_seen = losses, block_number
        elif self._source_seen[1] != block_number:
            self._source_moved = losses

    async def _install(
        self, candidates: list[Candidate], epoch: int, joined: dict[bytes, Candidate]
    ) -> None:
        for piece in _pieces(candidates):
            failed = await self._call(partial(self.intake.install, epoch, piece))
            while full := [each for each in failed.values() if isinstance(each, ArenaFull)]:
                if not await self._grow(full[0]):
                    break
                again = [each for each in piece if isinstance(failed.get(_key(each)), ArenaFull)]
                failed = {k: v for k, v in failed.items() if not isinstance(v, ArenaFull)}
                failed |= await self._call(partial(self.intake.install, epoch, again))
            for candidate in piece:
                key = candidate.pool.spec.key
                if key in failed:
                    self.metrics.pools_invalid += 1
                    joined.pop(key, None)
                    self._reports.report(key, failed[key])
                else:
                    joined[key] = candidate
                    self._carried[key] = candidate.pool
            self.metrics.pools_done = len(joined)
        blocks = [candidate.block_number for candidate in joined.values()]
        self.metrics.reference_block = min(blocks, default=None)

    def _refuse_coverage(self, behind: Candidate, first: int, count: int) -> None:
        key = behind.pool.spec.key
        if self.intake.is_outdated(behind):
            raise CoverageError(
                f"pool 0x{key.hex()}, read at block {behind.block_number}: {OUTDATED} ({count} pools, "
                f"nothing newer after {self._scrape_timeout_s:g} s)",
                pool=key,
                scraped_block=behind.block_number,
                first_block=first,
            )
        raise CoverageError(
            f"pool 0x{key.hex()} was read at block {behind.block_number}, but the first whole "
            f"block of the stream is {first}: values of block {first - 1} or later are needed "
            f"({count} pools behind after {self._scrape_timeout_s:g} s). Provide newer state, or "
            "wait longer with --scrape-timeout",
            pool=key,
            scraped_block=behind.block_number,
            first_block=first,
        )

    def _refuse_reverted(
        self, joined: dict[bytes, Candidate], verdict: Verdict, deadline: float
    ) -> None:
        candidate = joined[verdict.again[0]]
        key = candidate.pool.spec.key
        raise CoverageError(
            f"pool 0x{key.hex()} was read at block {candidate.block_number}, which the stream has "
            f"reverted since ({len(verdict.again)} pools, no newer values after "
            f"{self._scrape_timeout_s:g} s). "
            "Provide state read after the reorg, or wait longer with --scrape-timeout",
            pool=key,
            scraped_block=candidate.block_number,
            first_block=self.metrics.first_block,
        )

    # -- gaps

    async def _close_gap(self) -> bool:
        """Close an open gap from the node's logs; whether the arena is live.

        What stands in the way is tried again until `gap_timeout_s` after the stream came back; then
        the gap is given up, which makes every pool stale.
        """
        branch = self._branch
        if branch is None or not self.intake.has_gap:
            return False
        started: float | None = None
        reason = "no block has come"
        while True:
            self._broken.clear()
            try:
                epoch, _first = await self._first_block()
                await self._take_away()
                started = time.monotonic() if started is None else started
                witnesses = tuple(branch.sure)
                facts = await self._call(partial(self.intake.gap_facts, epoch, witnesses))
                if facts is not None:
                    await self._still_differing(branch)
                    blocks = await self._unbroken(asyncio.to_thread(branch.fetch_gap, facts))
                    if self._is_unsure(epoch, blocks.agreement):
                        await self._unbroken(asyncio.sleep(5 * SCRAPE_POLL_S))
                        continue
                    await self._take_away()  # the stream leaves out what a gap must not bring back
                    # What is turned back need not be what led to values read above.
                    ancestor = blocks.ancestor.number
                    held = [keys for each, keys in self._places.items() if each.number > ancestor]
                    above = set().union(*held) - {FEES}
                    close = partial(self.intake.close_gap, epoch, facts, blocks, above)
                    if await self._call(close):
                        branch.witnesses = [
                            each for each in facts.witnesses if each.number <= ancestor
                        ]
                        found = (*blocks.missing, *blocks.compared)
                        branch.add(found, facts.mark, blocks.agreement)
                        if blocks.missing or branch.is_filled(ancestor + 1):
                            is_proven = blocks.agreement.is_proven
                            branch.filled = Witness(*blocks.place, facts.mark, is_proven)
                        await self._call(partial(self.intake.note_hashes, tuple(branch.sure)))
                        self._settle_above(facts.first)
                        self._gap_is_closed(facts.head, ancestor, len(blocks.missing))
                        return True
                reason = "the stream moved while the missing blocks were fetched"
            except StreamBroken as error:
                reason = str(error)
            except BufferOverflow as error:
                reason = str(error)
                await self._call(self.intake.drop_buffer)
            except (GapNotClosed, LogInvalid, LogsRefused) as error:
                reason, started = f"{type(error).__name__}: {error}", -self._gap_timeout_s
            except (ChainMoved, NodeBehind, Scraper, ArenaFull) as error:
                reason = f"{type(error).__name__}: {error}"
            if started is not None and time.monotonic() >= started + self._gap_timeout_s:
                break
            await asyncio.sleep(min(SCRAPE_POLL_S, self._gap_timeout_s / 10))
        log.warning("event=gap_not_closed reason=%r", reason)
        await self._call(lambda: self.intake.give_up_gap(reason))
        branch.forget()
        return False

    def _settle_above(self, first: int) -> None:
        """Blocks were missing when a pool was announced, or may have been: they are no settle blocks."""
        for key, block in self._settle.items():
            self._settle[key] = self._floors[key] = max(block, first - 1 + SETTLE_BLOCKS)

    def _gap_is_closed(self, head: int, ancestor: int, missing: int) -> None:
        self._gaps_closed += 1
        self.metrics.gaps_closed = self._gaps_closed
        self.metrics.blocks_fetched += missing
        self._enter("live")
        log.info(
            "event=gap_closed head=%d ancestor=%d undone=%d fetched=%d",
            head,
            ancestor,
            head - ancestor,
            missing,
        )

    async def _keep_witnesses(self, branch: Branch) -> None:
        """Learn the hashes of the blocks the arena holds, as they come, until cancelled."""
        while True:
            pause = self._witness_pause_s
            try:
                await self._look_at_places(branch)
                await self._witness(branch)
                await self._follow_fees(branch)
            except Scraper as error:
                log.debug("event=no_hash error=%s reason=%r", type(error).__name__, str(error))
                pause = min(WITNESS_FAILED_PAUSE_S, 8 * pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look_for_hashes.wait(), pause)
            self._look_for_hashes.clear()

    async def _watch_stream(self, node: NodeClient) -> None:
        """Say that the stream stands still while the node goes on, until cancelled."""
        seen = 0
        behind_since: float | None = None
        while True:
            await asyncio.sleep(SILENT_POLL_S)
            head = await self._call(self.intake.live_head)
            if not head or head != seen or self.intake.is_stalled:
                seen, behind_since = head, None
                continue
            try:
                newest = await asyncio.to_thread(node.head_number)
            except Scraper:
                continue
            now = time.monotonic()
            if newest <= head:
                behind_since = None
            elif behind_since is None:
                behind_since = now
            elif now - behind_since >= SILENT_S:
                reason = f"the stream stands at block {head}, the node is at {newest}"
                await self._call(partial(self.intake.stalled, reason))

    async def _witness(self, branch: Branch) -> None:
        if not self.is_live:
            return
        known = tuple(branch.witnesses)
        valid = await self._call(partial(self.intake.valid, known))
        newest = valid[-1].number if valid else 0
        found = await self._call(partial(self.intake.unwitnessed, newest))
        if found is None or not found[1]:
            return
        mark, kept, late = found
        await self._still_differing(branch)
        looked = branch.copy(valid)
        await asyncio.to_thread(looked.witness, kept, mark, late)
        branch.has_disagreed |= looked.has_disagreed
        branch.differing = looked.differing
        if self.is_live and tuple(branch.witnesses) == known:
            were_sure = {each.number for each in valid if each.is_sure}
            branch.witnesses, branch.agreement = looked.witnesses, looked.agreement
            new = tuple(each for each in looked.sure if each.number not in were_sure)
            await self._call(partial(self.intake.note_hashes, new))
            if branch.witnesses:
                log.debug("event=hashes_known newest=%d", branch.witnesses[-1].number)

    async def _look_at_places(self, branch: Branch) -> None:
        """What was read at a block that the node has no longer, and the stream did not revert, is read
        again, and so is what was read at one that the stream reverted and the node still has. While
        they differ for long, a place that is not proven is doubted: they may have been apart by then."""
        filled = branch.filled
        places = {*self._places, *(() if filled is None else (filled,))}
        if not self.is_live or not places:
            self._differs_since = None
            return
        epoch, _first = await self._call(self.intake.joining_block)
        head, now = await self._call(self.intake.live_head), time.monotonic()
        unsure = {each for each in places if not each.is_sure}
        if not unsure and head == self._looked[0] and now < self._looked[1] + PLACE_PAUSE_S:
            return
        differing = await self._differing_for_long(branch)
        tip = branch.agreement.tip if branch.agreement.is_proven else None
        asked = {(each.number, each.hash) for each in (*places, *(() if tip is None else (tip,)))}
        orphaned = await asyncio.to_thread(branch.gone, asked)
        # After the node was asked: most of what it turns back the stream has turned back by then.
        valid = set(await self._call(partial(self.intake.valid, tuple(places))))
        if epoch != self.intake.epoch:
            return  # looked at again
        self._looked = head, now
        gone = {each for each in places if (each.number, each.hash) in orphaned}
        reverted = places - valid
        proven = tip.number if tip is not None and not orphaned else 0
        unsure = {each for each in unsure if each.number > proven}
        suspect = (gone ^ reverted) | (unsure & gone if differing is None else unsure)
        if suspect & gone:
            why = "the node no longer has that block"
        elif differing is not None:
            why = f"node and stream differ in block {differing}, so it may be of another branch"
        else:
            why = "the stream has reverted it, the node has not"
        if filled is not None and filled == branch.filled:
            if filled in reverted:  # the arena holds less of it
                left = await self._call(partial(self.intake.valid, tuple(branch.witnesses)))
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
        wrong -= {FEES, *self._settle}
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
            while not await self._call(partial(self.intake.suspect, tuple(wrong))):
                await asyncio.sleep(SCRAPE_POLL_S / 10)

    async def _fill_again(self, branch: Branch, filled: Witness, epoch: int, why: str) -> None:
        """Every pool rests on blocks of the node that may be of another branch, and so do those kept:
        a gap is opened, to be closed from below them."""
        reason = f"blocks up to {filled.number} were the node's: {why}; they are fetched again"
        if await self._call(partial(self.intake.open_gap, epoch, reason)):
            branch.witnesses = [each for each in branch.witnesses if each.number < filled.number]
            branch.agreement = Agreement()

    async def _differing_for_long(self, branch: Branch) -> int | None:
        """A block that has been another one for node and stream for as long as `unsure_s`."""
        await self._still_differing(branch)
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

    async def _follow_fees(self, branch: Branch) -> None:
        """Learn protocol fees of V4 from the node where the stream does not bring them, up to the
        newest block whose hash is known."""
        after = await self._call(self.intake.fees_known)
        newest = branch.sure[-1] if branch.sure else None
        if after is None or newest is None or newest.number <= after:
            return
        pools = {k: spec for k, spec in branch.pools.items() if spec.protocol == UNISWAP_V4}
        tip = newest.number, newest.hash
        try:
            changes = await asyncio.to_thread(
                fee_changes, branch.node, after, tip, pools, branch.reader
            )
        except LogsRefused as error:
            await self._call(partial(self.intake.fees_lost, after, newest, str(error)))
            return
        before = [(each.number, each.hash) for each, keys in self._places.items() if FEES in keys]
        if before and await asyncio.to_thread(branch.orphaned, before):
            return  # the next look finds it
        await self._call(partial(self.intake.note_fees, after, newest, changes))
        self._forget_places((FEES,))
        if pools:
            self._places.setdefault(newest, set()).add(FEES)

    async def _say_fees_stand_still(self) -> None:
        """Once, where nothing tells of a changed protocol fee."""
        if self._branch is not None or self._has_said_fees:
            return
        pools = await self._call(self.intake.pools)
        v4 = sum(spec.protocol == UNISWAP_V4 for spec in pools.values())
        if v4 and await self._call(self.intake.fees_known) is not None:
            self._has_said_fees = True
            log.info(
                "event=protocol_fees_as_read pools=%d reason=%r",
                v4,
                "the stream does not bring changes of V4 protocol fees and no node is at hand",
            )

    # -- single pools

    def _retry_later(self, keys: Sequence[bytes]) -> None:
        """Pools that were left out are read again while the others are live."""
        for key in keys:
            self._stale.setdefault(
                key, (time.monotonic() + RESCRAPE_FIRST_PAUSE_S, 2 * RESCRAPE_FIRST_PAUSE_S)
            )

    async def _rescrape_due(self) -> None:
        now = time.monotonic()
        if not self._stale:
            return
        head = await self._call(lambda: self.intake.arena.head_block)
        due = []
        for key, (at, pause) in self._stale.items():
            if self._settle.get(key, 0) > head:
                self._stale[key] = (now + SCRAPE_POLL_S / 4, pause)
            elif at <= now:
                due.append(key)
        for start in range(0, len(due), INCREMENTAL.v2_batch):
            batch = due[start : start + INCREMENTAL.v2_batch]
            waits = {key: self._stale[key] for key in batch if key in self._stale}
            outcome: dict[bytes, bool | ArenaError] = {}
            failure: ArenaError | None = None
            try:
                outcome = await self._rescrape(list(waits))
            except (Scraper, NotLive) as error:
                failure = error
            for key, wait in waits.items():
                # One that was removed and added again meanwhile waits for values of its own.
                if self._stale.get(key) is wait:
                    self._take_outcome(key, outcome.get(key, failure or False))

    def _take_outcome(self, key: bytes, outcome: bool | ArenaError) -> None:
        """Forget a pool that is live, look again later at one that is not."""
        if key not in self._stale:
            return  # removed meanwhile
        if outcome is True:
            del self._stale[key]
            self._settle.pop(key, None)
            return
        pause = self._stale[key][1]
        self._stale[key] = (
            time.monotonic() + pause,
            min(2 * pause, RESCRAPE_LONGEST_PAUSE_S),
        )
        why = "values do not join the stream yet"
        if isinstance(outcome, ArenaError):
            if self._reports.has(key, outcome):
                return
            why = f"{type(outcome).__name__}: {outcome}"
        if key not in self._settle or outcome is not False:
            stays = "is not read yet" if key in self._settle else "stays stale"
            self._reports.report(key, Scraper(f"pool 0x{key.hex()} {stays}: {why}"))

    # -- waiting and showing

    def _enter(self, phase: str) -> None:
        self.metrics.enter(phase)
        self._observe(self.metrics)

    async def _show_progress(self) -> None:
        events, head = await self._call(self.intake.progress)
        self.metrics.buffered_events, self.metrics.head_block = events, head
        self._observe(self.metrics)

    async def _wait_moved(self, timeout_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._moved.wait(), timeout_s)
        except TimeoutError:
            return

    async def _unbroken(self, work: Awaitable[T]) -> T:
        """Await `work`, or give up when the stream breaks: StreamBroken or BufferOverflow."""
        task = asyncio.ensure_future(work)
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait({task, broken}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self.intake.overflow is not None:
                raise self.intake.overflow
            raise StreamBroken("the stream was interrupted while pools were read")
        finally:
            broken.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def _key(candidate: Candidate) -> bytes:
    return candidate.pool.spec.key


async def _all_or_error(works: Sequence[Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _pieces(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Cut into pieces of at most INSTALL_POOLS pools and about INSTALL_TICKS ticks."""
    pieces: list[list[Candidate]] = []
    ticks = INSTALL_TICKS
    for candidate in candidates:
        if ticks >= INSTALL_TICKS or len(pieces[-1]) >= INSTALL_POOLS:
            pieces.append([])
            ticks = 0
        pieces[-1].append(candidate)
        ticks += len(candidate.pool.values.ticks)
    return pieces
