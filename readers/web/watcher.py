"""The one reader behind all pages: it looks again and again, and wakes whoever waits for the next look."""

import asyncio
import time

from arena.errors import ArenaError, NotLive, WriterDead
from arena.readers.views.monitor import Monitor, View

KEPT_CHANGES = (
    65_536  # of all pools together, some 150 bytes each: what price charts are drawn from
)
FRESH_S = 1.0  # an answer is of a look no older


class Watcher:
    """Keeps `view`, the newest look. Of one event loop, and not safe for threads.

    Raises what the first look of a monitor raises.
    """

    def __init__(self, monitor: Monitor, interval: float) -> None:
        self.monitor = monitor
        self.interval = interval
        self.is_closed = False
        self._next = asyncio.Event()
        self._look()

    async def watch(self) -> None:
        """Look until closed."""
        while not self.is_closed:
            self._look()
            await asyncio.sleep(self.interval)

    def fresh(self) -> View:
        """The newest look, no older than FRESH_S however seldom there is one."""
        if time.monotonic() - self._looked > FRESH_S:
            self._look()
        return self.view

    async def look_after(self, view: View) -> View | None:
        """The newest look, as soon as it is another than `view`; None when there will be none."""
        while self.view is view and not self.is_closed:
            await self._next.wait()
        return None if self.is_closed else self.view

    def close(self) -> None:
        """End the watch, and everybody's waiting."""
        self.is_closed = True
        self._wake()

    def _look(self) -> None:
        self.view: View = self.monitor.look()
        self._looked = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


def why_not_live(view: View) -> ArenaError | None:
    """What says that the values of a look are not the newest there are."""
    if view.trouble:
        return WriterDead(view.trouble)
    if view.phase.name != "live":
        reason = f": {view.phase.reason}" if view.phase.reason else ""
        return NotLive(f"the arena is {view.phase.name}{reason}")
    return None
