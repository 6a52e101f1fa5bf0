"""From a fresh connection to live without losing an event, and back after a gap.

The coordinator runs in the main thread: it waits, scrapes and decides; its other half, `Intake`,
runs in the feed thread. A pool scraped at block S joins a stream whose first whole block is b when
S >= b - 1, every block above S is applied to it, and no revert at or below S came after the scrape
began.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

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
from arena.writer.intake import Candidate, Intake, StreamBroken, Verdict
from arena.writer.scrapers import PoolScraper

log = logging.getLogger(__name__)

T = TypeVar("T")

# Pools handed to the feed thread at once, and their ticks: how long the socket waits for one piece.
INSTALL_POOLS = 64
INSTALL_TICKS = 8192
SCRAPE_POLL_S = 0.1
RESYNC_PAUSE_S = 1.0
RESCRAPE_FIRST_PAUSE_S = 0.2
RESCRAPE_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is buffered, pools a batch (V2, V3/V4), and batches read at once."""

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


class FeedThreadCall(Protocol):
    """Runs `work` in the feed thread between two blocks and gives its result or exception."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Coordinator:
    """The main thread's half: start, resync after gaps, re-reading of single stale pools.

    `observe` is called with the metrics whenever they moved. cold_start and resync return when the
    arena is live; both start over by themselves when the stream breaks meanwhile.
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
                await self._call(partial(self.intake.arena.set_phase, "gap", reason))
                await asyncio.sleep(RESYNC_PAUSE_S)

    async def run_live(self) -> None:
        """Stay live until cancelled: resync after gaps, re-read stale pools. NotLive."""
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
        """Read one stale pool again and exchange its values; whether it is live now.

        NotLive, StreamBroken, Scraper; ArenaFull and InvalidEventData from installing it.
        """
        if not self.is_live:
            raise NotLive(f"pool 0x{key.hex()} can only be read again while the arena is live")
        if not await self._call(lambda: self.intake.is_stale(key)):
            return True
        epoch, _first = await self._call(self.intake.joining_block)
        candidates, _ = await self._read([key], epoch)
        for candidate in candidates:
            while True:
                verdict = await self._call(partial(self.intake.replace, epoch, candidate))
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
                        f"none of the {len(specs)} scraped pools could be installed; "
                        "the log says why for each"
                    )
            self._enter("replaying")
            await self._call(lambda: self.intake.enter(epoch, "replaying"))
            candidates = list(joined.values())
            verdict = await self._call(partial(self.intake.go_live, epoch, candidates))
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
        """Read and install `specs`; again, until the deadline, those read behind the stream."""
        wanted = list(specs)
        while wanted:
            late: list[Candidate] = []
            gate = asyncio.Semaphore(self._preset.concurrency)
            works = [
                self._scrape_batch(batch, gate, epoch, first, joined, late)
                for batch in self._batches(wanted)
            ]
            await self._unbroken(_all_or_error(works))
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
                self._report(error.key, error)
            late += [each for each in candidates if each.block_number < first - 1]
            accepted = [each for each in candidates if each.block_number >= first - 1]
            await self._install(accepted, epoch, joined)
            await self._show_progress()

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
            failed = await self._call(partial(self.intake.install, epoch, piece))
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
