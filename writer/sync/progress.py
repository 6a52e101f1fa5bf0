"""What the main thread waits for while it starts or reads again, and what it shows of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from arena.writer.sync.port import Port
from arena.writer.sync.standing import StreamBroken
from arena.writer.sync.starts import Metrics

T = TypeVar("T")


SCRAPE_POLL_S = 0.1


class Progress:
    """`observe` is called with the metrics whenever they moved."""

    def __init__(self, port: Port, observe: Callable[[Metrics], None]) -> None:
        self.intake = port.intake
        self._call = port.call
        self._observe = observe
        self.metrics = Metrics()
        self.moved = asyncio.Event()
        self.broken = asyncio.Event()
        self.poll_s = SCRAPE_POLL_S

    async def first_block(self) -> tuple[int, int]:
        self.enter("buffering")
        while True:
            self.moved.clear()
            epoch, first = await self._call(self.intake.joining_block)
            if self.intake.standing.overflow is not None:
                raise self.intake.standing.overflow
            if first is not None:
                self.broken.clear()
                return epoch, first
            await self.wait_moved(None)

    def enter(self, phase: str) -> None:
        self.metrics.enter(phase)
        self._observe(self.metrics)

    async def show(self) -> None:
        events, head = await self._call(self.intake.progress)
        self.metrics.buffered_events, self.metrics.head_block = events, head
        self._observe(self.metrics)

    async def wait_moved(self, timeout_s: float | None) -> None:
        try:
            await asyncio.wait_for(self.moved.wait(), timeout_s)
        except TimeoutError:
            return

    async def unbroken(self, work: Awaitable[T]) -> T:
        """Await `work`, or give up when the stream breaks: StreamBroken or BufferOverflow."""
        task = asyncio.ensure_future(work)
        broken = asyncio.ensure_future(self.broken.wait())
        try:
            await asyncio.wait({task, broken}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self.intake.standing.overflow is not None:
                raise self.intake.standing.overflow
            raise StreamBroken("the stream was interrupted while pools were read")
        finally:
            broken.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
