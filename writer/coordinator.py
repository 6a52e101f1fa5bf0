"""From a fresh connection to live without losing an event, and back after a gap.

Two halves. `Intake` runs in the feed thread: it takes complete blocks, keeps them, applies them when
live, and does the coordinator's work between two blocks. `Coordinator` runs in the main thread: it waits, scrapes
and decides. A pool scraped at block S joins a stream whose first whole block is b when S >= b - 1, every
block above S is applied to it, and no revert at or below S arrived after the scrape began.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from arena.writer.feed import EventBuffer, Records
from arena.writer.processor import CATCH_UP_COMMIT_NS, Processor
from arena.writer.scrapers import PoolScraper, ScrapedPool

from arena.arena import PoolSpec
from arena.errors import (
    AlreadyLive,
    ArenaError,
    ArenaFull,
    ArenaRegistry,
    BufferOverflow,
    CoverageError,
    InvalidEventData,
    NotLive,
    PoolInvalid,
    Scraper,
)
from arena.native import lib

log = logging.getLogger(__name__)

T = TypeVar("T")

# Pools handed to the feed thread at once, and their ticks: how long the socket waits for one piece.
INSTALL_POOLS = 64
INSTALL_TICKS = 8192
SCRAPE_POLL_S = 0.1
RESYNC_PAUSE_S = 1.0
HISTORY_BLOCKS = 1024  # as many as the undo ring
MAX_REVERT_TIMES = 4096
RESCRAPE_FIRST_PAUSE_S = 0.2
RESCRAPE_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is buffered and how pools are read: events, pools a batch (V2, V3/V4), batches at once."""

    buffer_events: int
    v2_batch: int
    cl_batch: int
    concurrency: int


COLD_START = Preset(buffer_events=100_000, v2_batch=500, cl_batch=50, concurrency=4)
INCREMENTAL = Preset(buffer_events=10_000, v2_batch=100, cl_batch=10, concurrency=4)
PRESETS = {"cold_start": COLD_START, "incremental": INCREMENTAL}


@dataclass(slots=True)
class Metrics:
    """One start or resync as it proceeds; read by the progress display."""

    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None
    pools_total: int = 0
    pools_done: int = 0
    pools_invalid: int = 0
    first_block: int | None = None
    head_block: int | None = None
    reference_block: int | None = None
    buffered_events: int = 0
    events_replayed: int = 0
    phase_s: dict[str, float] = field(default_factory=dict)
    _phase_started: float = field(default_factory=time.monotonic)
    _scrape_started: float | None = None

    def enter(self, phase: str) -> None:
        """Close the running phase's time and open `phase`."""
        now = time.monotonic()
        self.phase_s[self.phase] = self.phase_s.get(self.phase, 0.0) + now - self._phase_started
        self.phase, self._phase_started = phase, now
        if phase == "scraping" and self._scrape_started is None:
            self._scrape_started = now
        if phase == "live":
            self.finished = now

    @property
    def duration_s(self) -> float:
        return (self.finished or time.monotonic()) - self.started

    @property
    def pools_per_s(self) -> float:
        """Pools scraped a second since scraping began; 0 before."""
        if self._scrape_started is None:
            return 0.0
        elapsed = (self.finished or time.monotonic()) - self._scrape_started
        return self.pools_done / elapsed if elapsed > 0 else 0.0

    @property
    def blocks_behind(self) -> int:
        """Blocks the oldest scrape lies behind the stream; 0 while either is unknown."""
        if self.head_block is None or self.reference_block is None:
            return 0
        return max(0, self.head_block - self.reference_block)


class StreamBroken(ArenaError):
    """The blocks the work relied on are gone: begin again with the next whole block."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scraped pool waiting to join: `mark` is older than the reading of its values."""

    pool: ScrapedPool
    mark: int

    @property
    def block_number(self) -> int:
        return self.pool.values.block_number


@dataclass(frozen=True, slots=True)
class Verdict:
    """What keeps candidates from joining: pools to scrape again, and the block the stream must reach."""

    again: tuple[bytes, ...] = ()
    wait_for_block: int | None = None
    in_reorg: bool = False

    @property
    def is_clear(self) -> bool:
        return not self.again and self.wait_for_block is None and not self.in_reorg


class Intake:
    """The feed thread's half. Every method but the constructor runs in the feed thread.

    `notify` is called from that thread with one of the strings `first_block`, `broken`, `overflow`,
    `stale`; it must not block.
    """

    def __init__(
        self,
        processor: Processor,
        buffer: EventBuffer,
        *,
        notify: Callable[[str], None],
        history_blocks: int = HISTORY_BLOCKS,
    ):
        self.processor = processor
        self.arena = processor.arena
        self.buffer = buffer
        self.epoch = 0
        self.is_live = False
        self.overflow: BufferOverflow | None = None
        self._notify = notify
        self._history_blocks = history_blocks
        self._revert_times: deque[tuple[int, int]] = deque(maxlen=MAX_REVERT_TIMES)
        self._in_reorg = False
        self._announced = False
        self._gap_pending = False
        self._installed = False

    # -- what the stream brings

    def connected(self) -> None:
        """A connection is up; what came before its first whole block may be lost."""
        if self.is_live:
            self._gap_pending = True
        else:
            self._begin_again()
            self.arena.set_phase("buffering")

    def disconnected(self, reason: str) -> None:
        """The connection ended. Values stay exact at the head; a reorg half received is taken back."""
        self.arena.commit()
        self.arena.abort()
        self._in_reorg = False
        if not self.is_live:
            self._begin_again()
        self.arena.set_phase("connecting", reason)

    def lost(self, reason: str, first: int = 0, last: int = 0) -> None:
        """Events are gone: every live pool goes stale and a resync is due. Block 0 is unknown."""
        self.arena.commit()
        self.arena.abort()
        self._gap_pending = False
        was_live, self.is_live = self.is_live, False
        if was_live:
            self.arena.counters[lib.PSA_COUNTER_GAPS] += 1
            self.arena.set_status_all(lib.PSA_STATUS_LIVE, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
            self.arena.undo_clear()
            self.arena.commit()
        log.warning("event=gap first=%d last=%d reason=%r", first, last, reason)
        self.processor.forget_stale()
        self._begin_again()
        self.arena.set_phase("gap" if was_live else "buffering", reason, gap=(first, last))

    def take(self, records: Records) -> None:
        """Whole blocks, reorg marks and epilogues in arrival order; kept, and applied when live.

        `records` may be a view; what is needed longer is copied.
        """
        if self._gap_pending:
            head, first = self.arena.head_block, int(records["block_number"][0])
            missing = (head + 1, first - 1) if first > head + 1 else (0, 0)
            self.lost(f"reconnected at block {first}, the head was {head}", *missing)
        self._note_reverts(records)
        try:
            gaps = self.buffer.append(records)
        except BufferOverflow as error:
            self.lost(str(error))
            self.overflow = error
            self._notify("overflow")
            return
        if gaps:
            gap = gaps[-1]
            if gap.first <= gap.last:
                self.lost(
                    f"block {gap.found} came after block {gap.expected - 1}", gap.first, gap.last
                )
            else:
                self.lost(f"block {gap.found} came again without having been reverted")
            self.take(records[_last_begin(records, gap.found) :])
            return
        if self.is_live:
            self.processor.apply(records, min_commit_ns=CATCH_UP_COMMIT_NS)
            if self.processor.has_stale:
                self._notify("stale")
        elif not self._announced and self.buffer.first_block is not None:
            self._announced = True
            self._notify("first_block")

    def idle(self) -> None:
        """No more bytes wait: publish what grouped commits left open."""
        self.arena.commit()

    def _note_reverts(self, records: Records) -> None:
        """Keep when reverts came, and whether a reorg is half received."""
        kinds = records["kind"]
        marks = kinds[
            (kinds == lib.PSA_EVENT_REORG_START) | (kinds == lib.PSA_EVENT_REORG_COMPLETE)
        ]
        if len(marks):
            self._in_reorg = bool(marks[-1] == lib.PSA_EVENT_REORG_START)
        reverts = records["flags"][kinds == lib.PSA_EVENT_BEGIN_BLOCK] & lib.PSA_EVENT_IS_REVERT
        if reverts.any():
            self._revert_times.append((time.time_ns(), self.buffer.mark()))

    def _begin_again(self) -> None:
        self.epoch += 1
        self._announced = False
        self._in_reorg = False
        self.buffer.clear()
        self.buffer.keep_blocks = None
        if self._installed:
            # What the last attempt installed is not replayed: nobody may take it for current.
            self.arena.set_status_all(
                lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
            )
            self.arena.commit()
            self._installed = False
        self._notify("broken")

    # -- what the coordinator asks for, between two blocks

    def joining_block(self) -> tuple[int, int | None]:
        """The epoch, and the first whole block of this connection once it has one."""
        return self.epoch, self.buffer.first_block

    def enter(self, epoch: int, phase: str, reason: str = "") -> None:
        """Show `phase` to readers. StreamBroken when `epoch` is over."""
        self._check(epoch)
        self.arena.set_phase(phase, reason)

    def mark(self, epoch: int) -> int:
        """A mark that every revert arriving from now on lies after. StreamBroken."""
        self._check(epoch)
        return self.buffer.mark()

    def mark_at(self, epoch: int, realtime_ns: int) -> int:
        """A mark that every revert that arrived at or after `realtime_ns` lies after. StreamBroken."""
        self._check(epoch)
        times = self._revert_times
        if len(times) == MAX_REVERT_TIMES and realtime_ns <= times[0][0]:
            return 0
        return next((mark for came, mark in times if came >= realtime_ns), self.buffer.mark())

    def progress(self) -> tuple[int, int | None]:
        """Events kept and the newest kept block."""
        return self.buffer.event_count, self.buffer.tip

    def install(self, epoch: int, candidates: Sequence[Candidate]) -> dict[bytes, ArenaError]:
        """Give pools their slots and values, status syncing, in one commit; the failures by key."""
        self._check(epoch)
        failed: dict[bytes, ArenaError] = {}
        for candidate in candidates:
            spec = candidate.pool.spec
            try:
                slot = self.arena.add_pool(spec)
                self.arena.install(slot, candidate.pool.values, status=lib.PSA_STATUS_SYNCING)
            except (ArenaFull, InvalidEventData) as error:
                failed[spec.key] = error
        self._installed = True
        self.arena.commit()
        return failed

    def go_live(self, epoch: int, candidates: Sequence[Candidate]) -> Verdict:
        """Replay the kept blocks and open the arena, or say what is missing. StreamBroken.

        The pools of `candidates` were installed before. Readers see nothing in between: pools are
        syncing until the last commit of this call.
        """
        self._check(epoch)
        verdict = self._judge(candidates)
        if not verdict.is_clear:
            return verdict
        records = self.buffer.records()
        self.arena.undo_clear()
        self.arena.set_head(max(0, int(records["block_number"][0]) - 1))
        self.processor.forget_stale()
        self.processor.apply(records, min_commit_ns=CATCH_UP_COMMIT_NS)
        self.arena.set_status_all(lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_LIVE)
        self.arena.commit()
        self.buffer.keep_blocks = self._history_blocks
        self.is_live = True
        self._installed = False
        self.arena.set_phase("live")
        if self.processor.has_stale:
            self._notify("stale")
        return verdict

    def replace(self, epoch: int, candidate: Candidate) -> Verdict:
        """Exchange one stale pool's values while the others stay live, or say what is missing.

        StreamBroken; ArenaFull and InvalidEventData leave the pool as it was.
        """
        self._check(epoch)
        key, values = candidate.pool.spec.key, candidate.pool.values
        verdict = self._judge([candidate])
        floor = self.buffer.first_block
        if floor is None or values.block_number + 1 < floor:
            return Verdict(again=(key,))
        if not verdict.is_clear:
            return verdict
        self.arena.commit()
        slot = self.arena.add_pool(candidate.pool.spec)
        try:
            self.arena.install(slot, values, status=lib.PSA_STATUS_SYNCING)
            if self.processor.replay(self.buffer.records(after=values.block_number), slot):
                self.arena.abort()
                return Verdict(again=(key,))
            self.arena.set_status(slot, lib.PSA_STATUS_LIVE)
        except ArenaError:
            self.arena.abort()
            raise
        self.arena.commit()
        return verdict

    def is_stale(self, key: bytes) -> bool:
        """Whether the pool still needs to be scraped; an absolute value may have settled it."""
        return self.arena.find(key) in set(self.arena.stale_slots().tolist())

    def stale_specs(self) -> list[PoolSpec]:
        """The pools to scrape again, one by one."""
        return [self.arena.spec(slot) for slot in self.processor.take_stale()]

    def drop_buffer(self) -> None:
        """Begin again with the next whole block, after the buffer overflowed."""
        self.overflow = None
        self._begin_again()

    def _check(self, epoch: int) -> None:
        if self.overflow is not None:
            raise self.overflow
        if epoch != self.epoch:
            raise StreamBroken("the stream was interrupted while pools were read")

    def _judge(self, candidates: Sequence[Candidate]) -> Verdict:
        lowest = {
            mark: self.buffer.reverts_since(mark)
            for mark in {candidate.mark for candidate in candidates}
        }
        again = []
        for candidate in candidates:
            reverted = lowest[candidate.mark]
            if reverted is not None and reverted <= candidate.block_number:
                again.append(candidate.pool.spec.key)
        head = self.buffer.last_block
        needed = max((candidate.block_number for candidate in candidates), default=0)
        reached = head is not None and head >= needed
        return Verdict(tuple(again), None if reached else needed, self._in_reorg)


class FeedThreadCall(Protocol):
    """Runs `work` in the feed thread between two blocks and gives its result or exception."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Coordinator:
    """The main thread's half: start, resync after gaps, re-reading of single stale pools.

    `observe` is called with the metrics whenever they moved. cold_start and resync return when the arena is
    live; both start over by themselves when the stream breaks meanwhile.
    """

    def __init__(
        self,
        intake: Intake,
        scraper: PoolScraper,
        call: FeedThreadCall,
        *,
        preset: Preset = COLD_START,
        scrape_timeout_s: float = 60.0,
        observe: Callable[[Metrics], None] = lambda metrics: None,
    ):
        self.intake = intake
        self.metrics = Metrics()
        self._scraper = scraper
        self._call = call
        self._preset = preset
        self._scrape_timeout_s = scrape_timeout_s
        self._observe = observe
        self._moved = asyncio.Event()
        self._broken = asyncio.Event()
        self._stale: dict[bytes, tuple[float, float]] = {}  # key -> next attempt, pause
        self._reported: set[tuple[bytes, str]] = set()

    def notice(self, what: str) -> None:
        """Take a notice of the intake; called in the event loop."""
        if what in ("broken", "overflow"):
            self._broken.set()
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

    async def resync(self) -> Metrics:
        """Read everything again after a gap and go live; repeats until it succeeds.

        What stands in the way is logged and shown as the arena's phase reason. AlreadyLive.
        """
        if self.is_live:
            raise AlreadyLive("the arena is live; nothing to resynchronise")
        self._stale.clear()
        self.metrics = Metrics()
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
                await self._call(lambda reason=reason: self.intake.arena.set_phase("gap", reason))
                await asyncio.sleep(RESYNC_PAUSE_S)

    async def run_live(self) -> None:
        """Stay live until cancelled: resync after each gap, re-read pools that went stale. NotLive."""
        if not self.is_live:
            raise NotLive("there is nothing to keep live: run a cold start first")
        while True:
            self._moved.clear()
            if not self.is_live:
                await self.resync()
            for spec in await self._call(self.intake.stale_specs):
                self._stale.setdefault(spec.key, (time.monotonic(), RESCRAPE_FIRST_PAUSE_S))
            try:
                await self._rescrape_due()
            except StreamBroken:
                continue
            pause = None
            if self._stale:
                pause = max(0.0, min(due for due, _ in self._stale.values()) - time.monotonic())
            await self._wait_moved(pause)

    async def rescrape(self, key: bytes) -> bool:
        """Read one stale pool again and exchange its values; whether it is live. NotLive, StreamBroken."""
        if not self.is_live:
            raise NotLive(f"pool 0x{key.hex()} can only be read again while the arena is live")
        if not await self._call(lambda: self.intake.is_stale(key)):
            return True
        epoch, _first = await self._call(self.intake.joining_block)
        candidates, _ = await self._read([key], epoch)
        for candidate in candidates:
            while True:
                verdict = await self._call(
                    lambda chosen=candidate: self.intake.replace(epoch, chosen)
                )
                if verdict.is_clear:
                    log.info(
                        "event=pool_live_again pool=0x%s block=%d",
                        key.hex(),
                        candidate.block_number,
                    )
                    return True
                if verdict.again:
                    return False
                await self._wait_moved(SCRAPE_POLL_S)
        return False

    # -- joining the stream

    async def _join(self) -> Metrics:
        self._broken.clear()
        epoch, first = await self._first_block()
        self._enter("scraping")
        await self._call(lambda: self.intake.enter(epoch, "scraping"))
        specs = await self._unbroken(asyncio.to_thread(self._scraper.list_pools))
        self.metrics.pools_total = len(specs)
        self.metrics.pools_done = self.metrics.pools_invalid = 0
        self.metrics.first_block = first
        log.info("event=scraping pools=%d first_block=%d", len(specs), first)
        joined: dict[bytes, Candidate] = {}
        wanted = list(specs)
        deadline = time.monotonic() + self._scrape_timeout_s
        while True:
            if wanted:
                await self._scrape(wanted, epoch, first, deadline, joined)
                if specs and not joined:
                    raise ArenaRegistry(
                        f"none of the {len(specs)} scraped pools could be installed; see the log for each"
                    )
            self._enter("replaying")
            await self._call(lambda: self.intake.enter(epoch, "replaying"))
            candidates = list(joined.values())
            verdict = await self._call(lambda chosen=candidates: self.intake.go_live(epoch, chosen))
            if verdict.is_clear:
                break
            await self._show_progress()
            wanted = [spec for spec in specs if spec.key in verdict.again]
            if wanted:
                if time.monotonic() >= deadline:
                    self._refuse_reverted(joined, verdict, deadline)
                self.metrics.pools_done -= len(wanted)
                log.info("event=scrape_again pools=%d reason=reverted", len(wanted))
                self._enter("scraping")
                await self._call(lambda: self.intake.enter(epoch, "scraping"))
            await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))
        await self._show_progress()
        self._enter("live")
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
        """Read and install `specs`; those whose source is behind the stream again until the deadline."""
        wanted = list(specs)
        while wanted:
            late: list[Candidate] = []
            gate = asyncio.Semaphore(self._preset.concurrency)

            async def read_batch(batch: list[bytes], late: list[Candidate] = late) -> None:
                async with gate:
                    candidates, invalid = await self._read(batch, epoch)
                    for error in invalid:
                        self.metrics.pools_invalid += 1
                        joined.pop(error.key, None)
                        self._report(error.key, error)
                    accepted = [each for each in candidates if each.block_number >= first - 1]
                    late += [each for each in candidates if each.block_number < first - 1]
                    await self._install(accepted, epoch, joined)
                    await self._show_progress()

            await self._unbroken(
                _all_or_error([read_batch(batch) for batch in self._batches(wanted)])
            )
            if not late:
                return
            behind = min(late, key=lambda candidate: candidate.block_number)
            if time.monotonic() >= deadline:
                self._refuse_coverage(behind, first, len(late))
            self._report(
                behind.pool.spec.key,
                CoverageError(
                    f"waiting for values of block {first - 1}, {behind.block_number} found"
                ),
            )
            keys = {candidate.pool.spec.key for candidate in late}
            wanted = [spec for spec in wanted if spec.key in keys]
            await self._unbroken(asyncio.sleep(SCRAPE_POLL_S))

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
        mark = await self._call(lambda: self.intake.mark(epoch))
        scrape = await asyncio.to_thread(self._scraper.read_pools, keys)
        if scrape.as_of_ns is not None:
            as_of_ns = scrape.as_of_ns
            mark = min(mark, await self._call(lambda: self.intake.mark_at(epoch, as_of_ns)))
        return [Candidate(pool, mark) for pool in scrape.pools], scrape.invalid

    async def _install(
        self, candidates: list[Candidate], epoch: int, joined: dict[bytes, Candidate]
    ) -> None:
        for piece in _pieces(candidates):
            failed = await self._call(lambda chosen=piece: self.intake.install(epoch, chosen))
            for candidate in piece:
                key = candidate.pool.spec.key
                if key in failed:
                    self.metrics.pools_invalid += 1
                    joined.pop(key, None)
                    self._report(key, failed[key])
                else:
                    joined[key] = candidate
                    self.metrics.pools_done += 1
        blocks = [candidate.block_number for candidate in joined.values()]
        self.metrics.reference_block = min(blocks, default=None)

    def _refuse_coverage(self, behind: Candidate, first: int, count: int) -> None:
        key = behind.pool.spec.key
        raise CoverageError(
            f"pool 0x{key.hex()} was read at block {behind.block_number}, but the first whole block of the "
            f"stream is {first}: values of block {first - 1} or later are needed ({count} pools behind "
            f"after {self._scrape_timeout_s:g} s). Provide newer state, or wait longer with "
            "--scrape-timeout",
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
            f"pool 0x{key.hex()} was read at block {candidate.block_number}, which the stream has reverted "
            f"since ({len(verdict.again)} pools, no newer values after {self._scrape_timeout_s:g} s). "
            "Provide state read after the reorg, or wait longer with --scrape-timeout",
            pool=key,
            scraped_block=candidate.block_number,
            first_block=self.metrics.first_block,
        )

    # -- single pools

    async def _rescrape_due(self) -> None:
        now = time.monotonic()
        for key, (due, pause) in sorted(self._stale.items(), key=lambda item: item[1]):
            if due > now:
                break
            done, why = False, "values do not join the stream yet"
            try:
                done = await self.rescrape(key)
            except (Scraper, ArenaFull, InvalidEventData, NotLive) as error:
                why = f"{type(error).__name__}: {error}"
            if done:
                del self._stale[key]
                continue
            longer = min(2 * pause, RESCRAPE_LONGEST_PAUSE_S)
            self._stale[key] = (time.monotonic() + pause, longer)
            self._report(key, Scraper(f"pool 0x{key.hex()} stays stale: {why}"))

    # -- waiting and showing

    def _enter(self, phase: str) -> None:
        self.metrics.enter(phase)
        self._observe(self.metrics)

    async def _show_progress(self) -> None:
        events, head = await self._call(self.intake.progress)
        self.metrics.buffered_events, self.metrics.head_block = events, head
        self._observe(self.metrics)

    def _report(self, key: bytes, error: ArenaError) -> None:
        """Log what keeps a pool out, once for each pool and class."""
        name = type(error).__name__
        if (key, name) in self._reported:
            return
        self._reported.add((key, name))
        log.warning("event=pool_not_live pool=0x%s error=%s reason=%r", key.hex(), name, str(error))

    async def _wait_moved(self, timeout_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._moved.wait(), timeout_s)
        except TimeoutError:
            return

    async def _unbroken(self, work: Awaitable[T]) -> T:
        """Await `work`, but give up as soon as the stream breaks: StreamBroken or BufferOverflow."""
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


def _last_begin(records: Records, number: int) -> int:
    """Index of the last BeginBlock of block `number` that is not a revert."""
    found = np.flatnonzero(
        (records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
        & (records["flags"] & lib.PSA_EVENT_IS_REVERT == 0)
        & (records["block_number"] == number)
    )
    return int(found[-1])
