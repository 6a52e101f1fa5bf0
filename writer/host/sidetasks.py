"""Work beside staying live: whatever it fails with, the writer goes on.

A failure is counted and logged, and the work begins again, later each time.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger(__name__)


FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class SideTasks:
    """Keeps work going until cancelled; `failed` counts by name how often it had to begin again."""

    def __init__(
        self, *, first_pause_s: float = FIRST_PAUSE_S, longest_pause_s: float = LONGEST_PAUSE_S
    ):
        self.failed: Counter[str] = Counter()
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s

    def counts(self) -> dict[str, int]:
        """For metrics; any thread may ask."""
        return {f"{name}_failed_total": count for name, count in list(self.failed.items())}

    async def keep(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run `work`, again after each failure. One that ran for long begins again soon."""
        self.failed.setdefault(name, 0)
        loop = asyncio.get_running_loop()
        pause_s = self._first_pause_s
        while True:
            began = loop.time()
            try:
                await work()
                return
            except Exception as error:
                self.failed[name] += 1
                if loop.time() >= began + self._longest_pause_s:
                    pause_s = self._first_pause_s
                log.error(
                    "event=side_task_failed task=%s error=%s failed=%d again_s=%g reason=%r",
                    name,
                    type(error).__name__,
                    self.failed[name],
                    pause_s,
                    str(error),
                    exc_info=error,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._longest_pause_s)


async def all_or_error(works: Sequence[Awaitable[None]]) -> None:
    """Wait for all; the first failure cancels the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
