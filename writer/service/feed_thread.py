"""The thread that owns the stream and the arena; others hand it work between two blocks."""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from arena.errors import FeedError, InvalidMessage
from arena.native import lib
from arena.writer.host.counts import Latency
from arena.writer.stream.pump import Pump
from arena.writer.stream.socket import Batch, Feed
from arena.writer.sync.intake import Intake

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


IDLE_WAIT_S = 0.05  # an idle feed thread still beats 20 times a second
STOP_TIMEOUT_S = 10.0
REALTIME_PRIORITY = 1  # behind everything else that is realtime


class FeedThread:
    """Runs the feed, the intake and the work handed over by the main thread, until stopped.

    With `is_realtime` it asks the kernel to be scheduled before every process that is not; refused, it
    goes on without.
    """

    def __init__(
        self,
        feed: Feed,
        intake: Intake,
        on_end: Callable[[BaseException | None], None],
        *,
        is_realtime: bool = False,
    ):
        self._is_realtime = is_realtime
        self._feed = feed
        self._intake = intake
        self._on_end = on_end
        self._work: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._waits = True
        self._pump = Pump()
        self.latency = Latency()
        self._commits = 0
        self._unseen_ns = 0  # when the oldest bytes came that readers do not see yet; 0 = none
        self._thread = threading.Thread(target=self._run, name="arena-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Queue `work`, which must not raise; it runs between two blocks."""
        self._work.append(work)
        self._feed.wake()

    async def call(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run `work` between two blocks; what it returns or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = work(*arguments, **named)
            except BaseException as error:
                loop.call_soon_threadsafe(fail, answer, error)
            else:
                loop.call_soon_threadsafe(give, answer, result)

        self.submit(run)
        return await answer

    def stop(self) -> bool:
        """Ask the thread to end after the unit at hand and wait; False when it hangs."""
        self._stopping.set()
        self._feed.wake()
        self._thread.join(STOP_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            if self._is_realtime:
                go_realtime()
            while not self._stopping.is_set():
                self.turn()
        except BaseException as error:
            failure = error
        self._on_end(failure)

    def turn(self) -> None:
        """One round of the thread: the work handed over, a sign of life, one receive."""
        while self._work:
            self._work.popleft()()
        self._intake.arena.heartbeat()
        self._step()

    def _step(self) -> None:
        """Receive once, waiting only when nothing was left to do."""
        feed, intake = self._feed, self._intake
        if not feed.is_connected:
            if not feed.connect(timeout=IDLE_WAIT_S):
                return
            intake.connected()
            self._waits = True
        if intake.is_plain and feed.is_pumpable:
            batch = self._pumped()
            has_taken = bool(self._pump.ends) and not self._pump.has_read_all
        else:
            batch = feed.receive(IDLE_WAIT_S if self._waits else 0.0)
            has_taken = False
        if len(batch.records):
            if not self._unseen_ns:
                self._unseen_ns = feed.received_ns
                self._commits = int(intake.arena.counters[lib.PSA_COUNTER_COMMITS])
            intake.take(batch.records)
        for fault in batch.faults:
            self._on_fault(fault)
        self._waits = not (has_taken or len(batch.records) or batch.faults)
        if self._waits:
            intake.idle()
        if self._unseen_ns:
            self._note_latency(feed.received_ns)
        counters = intake.arena.counters  # of the present generation
        counters[lib.PSA_COUNTER_FRAMES] = feed.frames
        counters[lib.PSA_COUNTER_BYTES] = feed.bytes
        counters[lib.PSA_COUNTER_CONNECTIONS] = feed.connections

    def _pumped(self) -> Batch:
        """Let C take what comes, and tell the intake of it; what else came is still to be taken."""
        intake, pump = self._intake, self._pump
        assert intake.buffer.tip is not None
        batch = pump.run(
            self._feed,
            intake.arena,
            tip=intake.buffer.tip,
            min_commit_ns=intake.processor.catch_up_ns,
            tells_tight=intake.tells_tight,
            unseen=(self._unseen_ns, self._commits),
            seconds=IDLE_WAIT_S,
        )
        self._unseen_ns, self._commits = pump.unseen
        for ns in pump.latencies:
            self.latency.add(ns)
        if pump.ends:
            intake.pumped(pump.records, pump.ends)
        return batch

    def _note_latency(self, received_ns: int) -> None:
        """Count the time from the oldest bytes not yet seen to the commit that showed them."""
        if not self._intake.stage.is_live:
            self._unseen_ns = 0
            return
        commits = int(self._intake.arena.counters[lib.PSA_COUNTER_COMMITS])
        if commits == self._commits:
            return
        self.latency.add(time.monotonic_ns() - self._unseen_ns)
        self._commits = commits
        # The last block may wait for the next of grouped commits.
        self._unseen_ns = received_ns if self._intake.arena.native.pending else 0

    def _on_fault(self, fault: FeedError) -> None:
        log.warning("event=feed_fault error=%s reason=%r", type(fault).__name__, str(fault))
        if not isinstance(fault, InvalidMessage):
            self._intake.disconnected(f"{type(fault).__name__}: {fault}")
        elif fault.resync:
            block = fault.block or 0
            self._intake.lost(f"InvalidMessage: {fault}", block, block)


def go_realtime() -> None:
    """Schedule the calling thread, not what it begins, before all that is not realtime."""
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(REALTIME_PRIORITY))
    except OSError as error:
        log.warning(
            "event=not_realtime error=%r reason='it takes CAP_SYS_NICE or RLIMIT_RTPRIO, and under "
            "systemd LimitRTPRIO=1 and RestrictRealtime=no'",
            str(error),
        )


def give(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
