"""The process: a feed thread that owns socket and arena, and a main thread that does the waiting.

Work for the feed thread goes through a queue and runs between two blocks. When the feed thread
fails, the process ends with its reason; it never stays behind without it.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from arena.errors import ArenaError, NodeBehind
from arena.layouts.events import EVENT
from arena.writer.host.shortage import on_loop_error
from arena.writer.host.sidetasks import SideTasks
from arena.writer.lists.source import PoolChange, PoolSource
from arena.writer.node.client import NodeClient
from arena.writer.node.head import SyncState
from arena.writer.producers.stalls import Host
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import PoolScraper
from arena.writer.scrapers.described import Described
from arena.writer.service.feed_thread import STOP_TIMEOUT_S, FeedThread, fail, give
from arena.writer.service.metrics import ArenaCollector, Extra, MetricsServer, Starts
from arena.writer.service.notify import Notifier, keep_notified
from arena.writer.service.settings import Settings
from arena.writer.service.status import read_vitals
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.socket import Feed
from arena.writer.sync.applying import Processor
from arena.writer.sync.audit import Audit, PinnedScraper
from arena.writer.sync.checkpoints import Checkpoints
from arena.writer.sync.coordinator import Coordinator
from arena.writer.sync.descriptions import Descriptions
from arena.writer.sync.intake import Intake
from arena.writer.sync.restart import open_arena
from arena.writer.sync.starts import PRESETS, Metrics
from arena.writer.sync.syncwait import wait_until_synced
from arena.writing import WriterArena

log = logging.getLogger(__name__)


# How long the feed thread waits for the interpreter while another thread computes, at most; the kernel
# adds its timer slack of 50 us. With pools read through JSON-RPC beside it a block was seen after 2.4 ms
# in the middle with Python's 5 ms, 0.43 ms with 0.1 ms and 0.31 ms with this, and no fewer pools were
# read (bench_live_scrape.py); with nothing else to do it is 0.14 ms.
SWITCH_INTERVAL_S = 0.00001
DOUBT_TIMEOUT_S = 5.0


class Service:
    """Owns everything of one writer process; `run` returns when it is told to stop.

    `producer`, where given, is run as long as the writer: what serves the socket it reads.
    `targets` is the list the scraper begins with, `pools` where its changes come from; `on_list`
    is called with the whole list after each. `auditor` reads pools at a given block.
    `on_hangup` are called in the event loop when SIGHUP comes, each whatever became of the others.
    `extra` are further counts for the metrics, as arena_PREFIX_KEY; called in a thread of theirs.
    `described` tells pools that are not what they are listed as; without it the list is believed.
    `synced` says whether the node has its chain; a start waits until it has. `close_sources` ends what
    is being asked of the scraper and the node when the writer ends; by itself the scraper's `close`.
    """

    def __init__(
        self,
        settings: Settings,
        scraper: PoolScraper,
        *,
        node: NodeClient | None = None,
        producer: Callable[[Host], Coroutine[Any, Any, None]] | None = None,
        targets: Sequence[PoolTarget] = (),
        pools: PoolSource | None = None,
        on_list: Callable[[Sequence[PoolTarget]], None] = lambda targets: None,
        auditor: PinnedScraper | None = None,
        observe: Callable[[Metrics], None] = lambda metrics: None,
        on_hangup: Sequence[Callable[[], None]] = (),
        extra: Mapping[str, Extra] | None = None,
        synced: Callable[[], SyncState] | None = None,
        described: Described | None = None,
        close_sources: Callable[[], None] | None = None,
    ):
        self.settings = settings
        self._close_sources = scraper.close if close_sources is None else close_sources
        self._described = described
        self._synced = synced
        self._on_hangup = on_hangup
        self._extra = extra or {}
        self._starts = Starts()
        self._scraper = scraper
        self._node = node
        self._producer = producer
        self._targets = targets
        self._pools = pools
        self._on_list = on_list
        self._auditor = auditor
        self._was_live = False
        self._observe = observe

    async def run(self) -> None:
        """Create the arena, start, stay live; return after SIGTERM or SIGINT.

        PortRefused; SettingsError for a NOTIFY_SOCKET that is none; ArenaBusy and other refusals of
        creating the segment; what cold_start raises; whatever ended the feed thread. The segment is
        unlinked at a clean end unless `keep_segment`; it stays, marked as closed, with its last block,
        when a writer that had been live fails.
        """
        with ExitStack() as stack:
            notifier = stack.enter_context(closing(Notifier.of(os.environ)))
            if notifier.watchdog_s is not None:
                faulthandler.enable()  # its SIGABRT then shows where each thread hangs
            server = None
            if self.settings.metrics_port is not None:
                server = MetricsServer(self.settings.metrics_port)
                stack.enter_context(closing(server))
            await self._run_arena(notifier, server)

    async def _run_arena(self, notifier: Notifier, server: MetricsServer | None) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.set_exception_handler(on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, notifier)
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        opening = asyncio.create_task(
            asyncio.to_thread(
                open_arena,
                settings.name,
                settings.capacities,
                settings.access,
                chain_id=settings.chain_id,
                node=None if settings.starts_cold else self._node,
                folder=settings.state_folder,
            )
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():  # told to end while a node is asked about what was left
            self._close_sources()
            with suppress(ArenaError):
                left, is_warm = await opening
                left.close(unlink=not (is_warm or settings.keep_segment))
            return
        arena, is_warm = opening.result()
        self._was_live = is_warm
        is_clean = False
        try:
            await self._run_with(arena, stop, notifier, server, is_warm)
            is_clean = True
        finally:
            notifier.send("STOPPING=1", "STATUS=stopping")
            if server is not None:
                server.close()  # nobody reads the arena any more when it goes
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            sys.setswitchinterval(switch_interval_s)
            keeps = settings.keep_segment or (self._was_live and not is_clean)
            arena.close(unlink=not keeps)
            log.info("event=stopped name=%s kept=%s", settings.name, "yes" if keeps else "no")

    async def _run_with(
        self,
        arena: WriterArena,
        stop: asyncio.Event,
        notifier: Notifier,
        server: MetricsServer | None,
        is_warm: bool,
    ) -> None:
        settings = self.settings
        died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parts = self._parts(arena, died)
        if server is not None:
            server.serve(self._collector(parts))
        self._announce(arena)
        works = [self._stay_live(parts, is_warm), stop.wait(), *self._works(parts)]
        if notifier.is_on:
            notify_on = partial(keep_notified, notifier, partial(read_vitals, settings.name))
            works.append(parts.side_tasks.keep("notifier", notify_on))
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(work) for work in works]
        await asyncio.sleep(0)  # a producer of our own listens by then
        parts.thread.start()
        try:
            await asyncio.wait({*tasks, died}, return_when=asyncio.FIRST_COMPLETED)
            for task in (died, *tasks):
                if task.done():
                    task.result()
            if parts.checkpoints is not None and settings.checkpoint_every:
                await _write_last(parts.checkpoints)
        finally:
            await self._end(parts, tasks)

    def _parts(self, arena: WriterArena, died: "asyncio.Future[None]") -> "_Parts":
        """Everything that works on `arena`, nothing of it started; `died` is set when the feed thread
        has ended."""
        settings = self.settings
        preset = PRESETS[settings.preset]
        loop = asyncio.get_running_loop()

        def on_end(failure: BaseException | None) -> None:
            if failure is None:
                loop.call_soon_threadsafe(give, died, None)
            else:
                loop.call_soon_threadsafe(fail, died, failure)

        def notify(what: str) -> None:
            loop.call_soon_threadsafe(lambda: coordinator.notice(what))

        feed = Feed(settings.socket, dialect=settings.dialect, peer_uid=settings.feed_uid)
        side_tasks = SideTasks()
        intake = Intake(
            Processor(arena),
            EventBuffer(settings.buffer_events or preset.buffer_events),
            notify=notify,
            closes_gaps=self._node is not None,
        )
        thread = FeedThread(feed, intake, on_end, is_realtime=settings.feed_realtime)
        coordinator = Coordinator(
            intake,
            self._scraper,
            thread.call,
            targets=self._targets,
            preset=preset,
            scrape_timeout_s=settings.scrape_timeout_s,
            node=self._node,
            gap_timeout_s=settings.gap_timeout_s,
            described=self._described,
            brings_all=self._producer is not None or settings.dialect == "bridge",
            side_tasks=side_tasks,
            observe=self._observe_start,
        )
        checkpoints: Checkpoints | None = None
        if self._node is not None and settings.state_folder is not None:
            checkpoints = Checkpoints(
                intake,
                thread.call,
                coordinator,
                settings.state_folder,
                settings.chain_id,
                settings.checkpoint_every,
            )
        return _Parts(feed, intake, thread, coordinator, checkpoints, side_tasks)

    def _announce(self, arena: WriterArena) -> None:
        """Show readers and the log that the writer waits for its stream."""
        settings = self.settings
        buffer_events = settings.buffer_events or PRESETS[settings.preset].buffer_events
        arena.set_phase("connecting", f"waiting for {settings.socket}")
        if self._described is None:
            log.info(
                "event=descriptions_unchecked reason='no node is given: the list names the fees'"
            )
        log.info(
            "event=started name=%s socket=%s pid=%d buffer_events=%d buffer_bytes=%d",
            settings.name,
            settings.socket,
            os.getpid(),
            buffer_events,
            buffer_events * EVENT.itemsize,
        )

    async def _end(self, parts: "_Parts", tasks: Sequence["asyncio.Future[Any]"]) -> None:
        """Stop everything; a feed thread that hangs ends the process."""
        self._close_sources()  # threads that wait for an answer would be waited for
        # Before its producer: a stream that ends because we do is no fault.
        ended = parts.thread.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        parts.feed.close()
        if not ended:
            # The arena is not ours to close while the thread may still write to it.
            log.error("event=feed_thread_hangs timeout_s=%d", int(STOP_TIMEOUT_S))
            os._exit(1)

    def _works(self, parts: "_Parts") -> list[Coroutine[Any, Any, Any]]:
        """What goes on beside staying live, until cancelled; all but a producer of our own, without
        which nothing comes, may fail without ending it."""
        settings = self.settings
        intake, thread, coordinator = parts.intake, parts.thread, parts.coordinator
        checkpoints, side_tasks = parts.checkpoints, parts.side_tasks
        works: list[Coroutine[Any, Any, Any]] = []
        if self._producer is not None:
            works.append(self._producer(_Host(asyncio.get_running_loop(), thread, coordinator)))
        if self._pools is not None:
            follow = partial(self._pools.run, partial(self._change_list, coordinator))
            works.append(side_tasks.keep("pool_list", follow))
        if checkpoints is not None and settings.checkpoint_every:
            works.append(side_tasks.keep("checkpoints", checkpoints.run))
        if self._described is not None:
            ask = Descriptions(intake, thread.call, self._described)
            works.append(side_tasks.keep("descriptions", ask.run))
        if self._auditor is not None and settings.audit_every and self._node is not None:
            audit = Audit(
                intake,
                thread.call,
                coordinator,
                self._auditor,
                settings.audit_every,
                settings.audit_pools,
                self._described,
            )
            coordinator.on_added(audit.recheck)
            works.append(side_tasks.keep("audit", audit.run))
        return works

    def _collector(self, parts: "_Parts") -> ArenaCollector:
        extra = {"side_task": parts.side_tasks.counts} | dict(self._extra)
        if self._pools is not None:
            extra["pool_list"] = partial(_totals, self._pools.counts)
        if parts.checkpoints is not None:
            extra["checkpoint"] = parts.checkpoints.counts
        return ArenaCollector(
            self.settings.name,
            starts=self._starts,
            latency=parts.thread.latency,
            reorg_depths=parts.intake.reorg_depths,
            extra=extra,
        )

    async def _stay_live(self, parts: "_Parts", is_warm: bool) -> None:
        intake, thread, coordinator = parts.intake, parts.thread, parts.coordinator
        if self._synced is not None:
            await wait_until_synced(
                intake,
                thread.call,
                self._synced,
                lowest=await thread.call(intake.gap.lowest_known) if is_warm else 0,
                patience_s=self.settings.gap_timeout_s,
            )
        await (coordinator.warm_start() if is_warm else coordinator.cold_start())
        self._was_live = True
        await coordinator.run_live()

    def _change_list(self, coordinator: Coordinator, change: PoolChange) -> None:
        """Take a change of the list: the producer hears of it first, then its events are expected."""
        held = {target.spec.key: target for target in self._targets}
        for key in change.removed:
            held.pop(key, None)
        held |= {target.spec.key: target for target in change.added}
        self._targets = tuple(held.values())
        self._on_list(self._targets)
        coordinator.change_pools(change.added, change.removed)

    def _observe_start(self, metrics: Metrics) -> None:
        self._starts.observe(metrics)
        self._observe(metrics)

    def _reload(self, notifier: Notifier) -> None:
        """Call every hook; one that refuses leaves what was in force, and the writer goes on."""
        notifier.reloading()
        log.info("event=reload reason=SIGHUP")
        for hook in self._on_hangup:
            try:
                hook()
            except (ArenaError, OSError, ValueError) as error:
                log.error(
                    "event=reload_failed error=%s reason=%r", type(error).__name__, str(error)
                )
        notifier.reloaded()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What works on one arena, and is told to stop together."""

    feed: Feed
    intake: Intake
    thread: FeedThread
    coordinator: Coordinator
    checkpoints: Checkpoints | None
    side_tasks: SideTasks


class _Host:
    """What a producer that is part of this process tells."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, thread: FeedThread, coordinator: Coordinator
    ):
        self._loop = loop
        self._thread = thread
        self._coordinator = coordinator

    def stalled(self, reason: str) -> None:
        """Show it as the phase's reason."""
        self._thread.submit(partial(self._coordinator.intake.stalled, reason))

    def doubted(self, keys: frozenset[bytes], block_number: int) -> None:
        """Wait until the pools are stale. NodeBehind when that takes too long."""
        doubt = self._coordinator.doubt(keys, block_number)
        done = asyncio.run_coroutine_threadsafe(doubt, self._loop)
        try:
            done.result(DOUBT_TIMEOUT_S)
        except (TimeoutError, CancelledError):
            raise NodeBehind(
                f"block {block_number} waits: {len(keys)} pools could not be made stale in "
                f"{DOUBT_TIMEOUT_S:g} s",
                block=block_number,
            ) from None


async def _write_last(checkpoints: Checkpoints) -> None:
    """A checkpoint at the end; one that cannot be written does not make the end a failure."""
    try:
        await checkpoints.write()
    except Exception as error:
        checkpoints.failed += 1
        log.error(
            "event=checkpoint_failed error=%s reason=%r",
            type(error).__name__,
            str(error),
            exc_info=error,
        )


def _totals(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"{name}_total": count for name, count in counts.items()}
