"""Simulated time: an event loop that never waits, threads that take turns, clocks that are set.

Exactly one thread runs at any moment: the loop's, or one of the workers that stand for the threads
of an executor. A worker gives the turn back when it pauses (`Workers.pause`, or time.sleep), and gets it
again when the loop's clock has come to the end of the pause. So everything runs in one order, which
the seed decides.
"""

import _thread
import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop
from typing import Any, ClassVar

FIRST_S = 1_000.0
FIRST_WALL_NS = 1_700_000_000 * 10**9


class Clock:
    """Seconds since some beginning, and a wall clock beside it that can step."""

    def __init__(self) -> None:
        self.now = FIRST_S
        self.wall_step_ns = 0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def time_ns(self) -> int:
        return FIRST_WALL_NS + self.wall_step_ns + int((self.now - FIRST_S) * 1e9)

    def time(self) -> float:
        return self.time_ns() / 1e9


class NothingToDoError(Exception):
    """Nobody would ever wake up again."""


class Killed(BaseException):
    """Raised in a worker whose process has died."""


class SimLoop(asyncio.BaseEventLoop):
    """Moves the clock to the next timer instead of waiting for it; has no descriptors to wait for."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        super().__init__()
        self.clock = clock
        self.workers = Workers(self, rng)

    def time(self) -> float:
        return self.clock.now

    def _run_once(self) -> None:
        """As the base class does, without descriptors, and quicker."""
        ready, scheduled, clock = self._ready, self._scheduled, self.clock
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heappop(scheduled)
            if not scheduled:
                raise NothingToDoError
            clock.now = max(clock.now, scheduled[0]._when)
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= clock.now):
            handle = heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        return self.workers.submit(work, arguments)


class _Thread:
    """A thread that waits for its turn; kept from history to history."""

    idle: ClassVar[list["_Thread"]] = []

    def __init__(self) -> None:
        self.turn = _thread.allocate_lock()
        self.turn.acquire()
        self.job: Callable[[], None] = lambda: None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.turn.acquire()
            self.job()


def _run_now(
    future: asyncio.Future[Any], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """The loop's thread does this, or waits for the one that does: no two set anything at once."""
    try:
        result, failure = work(*arguments), None
    except BaseException as error:
        result, failure = None, error
    if future.done() or isinstance(failure, Killed):
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)


class Workers:
    """The threads of an executor, one turn at a time. `longest_start_s` bounds how long a job waits;
    about half of the jobs take no time of their own."""

    def __init__(self, loop: SimLoop, rng: random.Random, longest_start_s: float = 0.002) -> None:
        self.loop = loop
        self.rng = rng
        self.longest_start_s = longest_start_s
        self.current: _Thread | None = None
        self._paused: dict[_Thread, asyncio.TimerHandle] = {}
        self._is_killing = False
        self._back = _thread.allocate_lock()
        self._back.acquire()

    def submit(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        future = self.loop.create_future()
        delay = self.rng.random() * self.longest_start_s
        self.loop.call_later(delay, self._start, future, work, arguments)
        return future

    def _start(
        self,
        future: asyncio.Future[Any],
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        if future.cancelled():
            return
        if self.rng.random() < 0.5:
            _run_now(future, work, arguments)
            return
        thread = _Thread.idle.pop() if _Thread.idle else _Thread()

        def run() -> None:
            _run_now(future, work, arguments)
            _Thread.idle.append(thread)
            self._back.release()

        thread.job = run
        self._turn(thread)

    def _turn(self, thread: _Thread) -> None:
        self._paused.pop(thread, None)
        self.current = thread
        thread.turn.release()
        self._back.acquire()
        self.current = None

    def pause(self, seconds: float) -> None:
        """In a worker: let the others go on for that long. Killed."""
        thread = self.current
        if thread is None:
            return
        if self._is_killing:
            raise Killed
        self._paused[thread] = self.loop.call_later(seconds, self._turn, thread)
        self._back.release()
        thread.turn.acquire()
        if self._is_killing:
            raise Killed

    def kill(self) -> None:
        """End every worker where it pauses."""
        self._is_killing = True
        while self._paused:
            thread, timer = next(iter(self._paused.items()))
            timer.cancel()
            self._turn(thread)
        self._is_killing = False


@contextmanager
def simulated(clock: Clock, workers: Workers) -> Iterator[None]:
    """The module time tells and spends simulated time."""
    names = ("monotonic", "monotonic_ns", "time", "time_ns", "sleep")
    real = {name: getattr(time, name) for name in names}
    for name in names:
        setattr(time, name, getattr(clock, name, workers.pause))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(time, name, function)
