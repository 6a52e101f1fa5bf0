"""The process: a feed thread that owns socket and arena, and a main thread that waits for everything else.

Work for the feed thread goes through a queue and runs between two blocks. When the feed thread fails,
the process ends with its reason; it never stays behind without it.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from arena.arena import WriterArena
from arena.errors import ArenaError
from arena.native import lib
from arena.writer.coordinator import PRESETS, Coordinator, Intake, Metrics
from arena.writer.feed import EventBuffer, Feed
from arena.writer.processor import Processor
from arena.writer.scrapers import PoolScraper

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_WAIT_S = 0.05  # an idle feed thread still beats 20 times a second
STOP_TIMEOUT_S = 10.0


class FeedThreadDied(ArenaError):
    """The feed thread ended by itself; the cause is chained."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run of the writer: where the stream comes from, and the arena's size and rights."""

    name: str
    socket: Path
    dialect: int = lib.PSA_DIALECT_UNKNOWN
    max_pools: int = 16384
    tick_bytes: int = 64 << 20
    mode: int = 0o600
    group: str | None = None
    chain_id: int = 0
    preset: str = "cold_start"
    buffer_events: int | None = None
    scrape_timeout_s: float = 60.0
    keep_segment: bool = False


class FeedThread:
    """Runs the feed, the intake and the work handed over by the main thread, until stopped."""

    def __init__(self, feed: Feed, intake: Intake, on_end: Callable[[BaseException | None], None]):
        self._feed = feed
        self._intake = intake
        self._on_end = on_end
        self._work: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="arena-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Queue `work`, which must not raise; it runs between two blocks."""
        self._work.append(work)
        self._feed.wake()

    def stop(self) -> bool:
        """Ask the thread to end after the unit at hand and wait; False when it hangs."""
        self._stopping.set()
        self._feed.wake()
        self._thread.join(STOP_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            while not self._stopping.is_set():
                while self._work:
                    self._work.popleft()()
                self._intake.arena.heartbeat()
                self._step()
        except BaseException as error:
            failure = error
        self._on_end(failure)


class Service:
    """Owns everything of one writer process; `run` returns when it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        scraper: PoolScraper,
        *,
        observe: Callable[[Metrics], None] = lambda metrics: None,
    ):
        self.settings = settings
        self._scraper = scraper
        self._observe = observe

    async def run(self) -> None:
        """Create the arena, start, stay live; return after SIGTERM or SIGINT.

        ArenaBusy and other refusals of creating the segment; what cold_start raises; whatever ended
        the feed thread. The segment is unlinked unless `keep_segment`, in which case it stays, marked
        as closed, with its last block.
        """
        settings = self.settings
        preset = PRESETS[settings.preset]
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        arena = WriterArena.create(
            settings.name,
            max_pools=settings.max_pools,
            tick_bytes=settings.tick_bytes,
            mode=settings.mode,
            group=settings.group,
            chain_id=settings.chain_id,
        )
        clean = False
        try:
            await self._run_with(arena, preset, loop, stop)
            clean = True
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            self._scraper.close()
            keep = settings.keep_segment and clean
            arena.set_phase("stopped")
            arena.close(unlink=not keep)
            log.info("event=stopped name=%s kept=%s", settings.name, "yes" if keep else "no")
