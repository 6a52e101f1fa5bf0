"""One writer process of the simulation, put together as writer/service.py does."""

import asyncio
import errno
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from arena.errors import ArenaRegistry, BufferOverflow, CoverageError, Scraper
from arena.native import lib
from arena.writer.node.rpc_node import RpcNode
from arena.writer.service import feed_thread
from arena.writer.service.feed_thread import FeedThread
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.socket import Batch, Feed
from arena.writer.sync import audit, checkpoints, hashes, progress
from arena.writer.sync.applying import Processor
from arena.writer.sync.audit import Audit
from arena.writer.sync.checkpoints import Checkpoints
from arena.writer.sync.coordinator import Coordinator
from arena.writer.sync.gap_side import NEVER_NS
from arena.writer.sync.intake import Intake
from arena.writer.sync.starts import Preset
from arena.writing import WriterArena
from simulation.clock import SimLoop
from simulation.sources import SimScraper, SimStateFile, target_of
from simulation.world import World

T = TypeVar("T")

PRESET = Preset(buffer_events=10_000, v2_batch=2, cl_batch=3, concurrency=2)
SCRAPE_TIMEOUT_S = 30.0
RESTART_PAUSE_S = 0.1

# The simulation's feed thread is called when there is something. What the writer asks again and again
# it asks more rarely: that is most of what a history costs.
feed_thread.IDLE_WAIT_S = 0.0
progress.SCRAPE_POLL_S = 0.3
for each in (audit, checkpoints, hashes):
    each.POLL_S = 0.75
WITNESS_PAUSE_S = 0.5


class SimProcessor(Processor):
    """Decides by the seed, and not by the machine's clock, which blocks are committed together."""

    def __init__(self, arena: WriterArena, rng: random.Random) -> None:
        super().__init__(arena)
        self._rng = rng

    @property
    def catch_up_ns(self) -> int:
        return NEVER_NS if self._rng.random() < 0.5 else 0


class SimFeedThread(FeedThread):
    """The feed thread's rounds as work of the loop, a little after there is something to do.

    `after` is called behind each round.
    """

    def __init__(
        self,
        feed: Feed,
        intake: Intake,
        on_end: Callable[[BaseException | None], None],
        *,
        loop: SimLoop,
        rng: random.Random,
        after: Callable[[], None],
    ) -> None:
        super().__init__(feed, intake, on_end)
        self._loop = loop
        self._rng = rng
        self._after = after
        self._next: asyncio.TimerHandle | None = None
        self._is_running = False
        self.pumped = 0
        """Blocks that took the short cut."""
        self.has_news = True
        """Something may be on the socket."""

    @property
    def is_idle(self) -> bool:
        """Nothing is left to do until bytes or work come."""
        return self._waits and not self._work and self._next is None

    def start(self) -> None:
        self._is_running = True
        self.poke()

    def submit(self, work: Callable[[], None]) -> None:
        self._work.append(work)
        self.poke()

    async def call(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """As the thread's own, without the way from one thread to another."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = work(*arguments, **named)
            except BaseException as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self.submit(run)
        return await answer

    def stop(self) -> bool:
        self._is_running = False
        if self._next is not None:
            self._next.cancel()
        return True

    def _pumped(self) -> Batch:
        """Who asked how to commit, and then had nothing to apply, has not asked."""
        before = self._rng.getstate()
        batch = super()._pumped()
        self.pumped += len(self._pump.ends)
        if not self._pump.ends:
            self._rng.setstate(before)
        return batch

    def poke(self, delay_s: float | None = None) -> None:
        """There is something to do, or will be after `delay_s`."""
        if not self._is_running:
            return
        if delay_s is None:
            delay_s = 0.002 * self._rng.random() ** 3
        at = self._loop.time() + delay_s
        if self._next is not None:
            if self._next.when() <= at:
                return
            self._next.cancel()
        self._next = self._loop.call_at(at, self._round)

    def _round(self) -> None:
        self._next = None
        try:
            if self.has_news or not self._waits or not self._feed.is_connected:
                if not self._feed._has_more:  # else the socket is not asked this time
                    self.has_news = False
                self.turn()
                # What filled the buffer was not all.
                self.has_news |= self._feed._end == len(self._feed._buffer)
            else:  # the same, but for asking the socket
                while self._work:
                    self._work.popleft()()
                self._intake.idle()
        except Exception as error:
            self._is_running = False
            self._on_end(error)
            return
        self._after()
        if not self._feed.is_connected:
            self.poke(max(0.001, self._feed._next_attempt - self._loop.time()) + 1e-6)
        elif self.has_news or not self._waits or self._work:
            self.poke()


class SimWriter:
    """What one writer process is made of; `number` counts them from 0."""

    def __init__(
        self,
        world: World,
        loop: SimLoop,
        arena: WriterArena,
        *,
        number: int,
        socket: Path,
        folder: Path,
        file: Path,
        node: RpcNode | None,
        after: Callable[[], None],
    ) -> None:
        self.plan, self.world, self.loop = world.plan, world, loop
        self.arena = arena
        rng = random.Random(f"writer {self.plan.seed} {number}")
        self.feed = Feed(
            socket, clock=world.clock.monotonic, sleep=lambda _seconds: True, uniform=rng.random
        )
        targets = [target_of(world, key) for key in world.order_of(world.listed)]
        by_node = SimScraper(world, loop.workers, targets, number)
        is_file = self.plan.scraper == "statefile"
        self.scraper = SimStateFile(file, by_node) if is_file else by_node
        self.ended: list[BaseException | None] = []
        self.intake = Intake(
            SimProcessor(arena, rng),
            EventBuffer(PRESET.buffer_events),
            notify=lambda what: loop.call_soon_threadsafe(self._notice, what),
            closes_gaps=node is not None,
        )
        self.thread = SimFeedThread(
            self.feed, self.intake, self.ended.append, loop=loop, rng=rng, after=after
        )
        self.coordinator = Coordinator(
            self.intake,
            self.scraper,
            self.thread.call,
            targets=targets,
            preset=PRESET,
            scrape_timeout_s=SCRAPE_TIMEOUT_S,
            node=node,
            witness_pause_s=WITNESS_PAUSE_S,
        )
        self.works: list[Callable[[], Coroutine[Any, Any, None]]] = []
        life = self.plan.life
        if node is not None and life.checkpoint_every:
            self.checkpoints = Checkpoints(
                self.intake, self.thread.call, self.coordinator, folder, 1, life.checkpoint_every
            )
            self.works.append(self.checkpoints.run)
        if node is not None and life.audit_every:
            audit = Audit(
                self.intake, self.thread.call, self.coordinator, by_node, life.audit_every, 2
            )
            self.coordinator.on_added(audit.recheck)
            self.works.append(audit.run)

    def _notice(self, what: str) -> None:
        self.coordinator.notice(what)

    def start(self, *, is_warm: bool) -> None:
        self.thread.start()
        self.work = asyncio.ensure_future(self._stay_live(is_warm))
        self.tasks = [self.work, *(asyncio.ensure_future(work()) for work in self.works)]

    async def _stay_live(self, is_warm: bool) -> None:
        while True:
            try:
                await (self.coordinator.warm_start() if is_warm else self.coordinator.cold_start())
                break
            except (Scraper, CoverageError, ArenaRegistry) as error:
                self.world.note(f"start: {type(error).__name__}")
            except BufferOverflow:
                await self.thread.call(self.intake.drop_buffer)
            await asyncio.sleep(RESTART_PAUSE_S)
        await self.coordinator.run_live()

    @property
    def has_given_up(self) -> bool:
        """It ended itself for want of a descriptor, with an error that says so."""
        return any(isinstance(e, OSError) and e.errno == errno.EMFILE for e in self.ended)

    @property
    def failure(self) -> str | None:
        """What ended a part of it that should not end."""
        if self.ended and not self.has_given_up:
            return f"the feed thread ended: {self.ended[0]!r}"
        for task in self.tasks:
            if task.done() and not task.cancelled():
                return f"{task.get_coro().__qualname__} ended: {task.exception()!r}"
        return None

    async def stop(self) -> None:
        """End in order, but for the arena."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.thread.stop()
        self.loop.workers.kill()
        self.feed.close()

    async def die(self, rng: random.Random) -> None:
        """End as kill -9 ends it: nothing is committed, taken back, closed or unlinked."""
        self.thread.stop()
        await self.stop()
        if rng.random() < 0.5:
            self._begin_a_block(rng)
        self.arena._hold.control.unlock()  # as the kernel does

    def _begin_a_block(self, rng: random.Random) -> None:
        """Lines and undo entries of a commit that never comes."""
        head = self.arena.head_block
        kept = [each for each in self.intake.buffer.blocks() if each["block_number"][0] == head]
        if not kept:
            return
        records = kept[0].copy()
        if rng.random() < 0.5:
            records["flags"] |= lib.PSA_EVENT_IS_REVERT
        else:
            records["block_number"] += 1
        self.arena.apply(records[: rng.randrange(1, len(records) + 1)], min_commit_ns=NEVER_NS)
