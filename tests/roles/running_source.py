"""A source of pools run as the writer runs it, in an event loop on a thread of its own."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from arena.writer.lists.source import PoolChange, PoolSource
from arena.writer.protocols.storage import PoolTarget

SECONDS = 30.0
"""Deadline of one condition."""


class RunningSource:
    """Runs `source` and keeps the list its steps make of `first`; ends it when the context does.

    A step that removes what is not there, or adds what is, fails the test at the end.
    """

    def __init__(self, source: PoolSource, first: Sequence[PoolTarget]) -> None:
        self.source = source
        self.pools = {target.spec.key: target for target in first}
        self.steps: list[PoolChange] = []
        self.failure: BaseException | None = None
        self.loop = asyncio.new_event_loop()
        self.task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.task = self.loop.create_task(self.source.run(self._take))
        try:
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            left = asyncio.all_tasks(self.loop)
            if left and self.failure is None:
                self.failure = AssertionError(f"tasks left behind: {left}")
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def _take(self, step: PoolChange) -> None:
        assert step.added or step.removed
        for key in step.removed:
            del self.pools[key]
        for target in step.added:
            assert target.spec.key not in self.pools
            self.pools[target.spec.key] = target
        self.steps.append(step)

    def wait(self, condition: Callable[[], object], what: str = "") -> None:
        """Until the condition holds."""
        limit = time.monotonic() + SECONDS
        while not condition():
            assert self.failure is None, repr(self.failure)
            assert time.monotonic() < limit, (what, self.source.status(), self.source.counts)
            time.sleep(0.02)

    def wait_pools(self, *keys: bytes) -> None:
        """Until exactly these are in force."""
        self.wait(lambda: set(self.pools) == set(keys), f"pools {[key.hex() for key in keys]}")

    def stop(self) -> None:
        """Cancel it, as the end of the writer does."""
        limit = time.monotonic() + SECONDS
        while self.task is None and self._thread.is_alive():
            assert time.monotonic() < limit
            time.sleep(0.01)
        if self._thread.is_alive():
            assert self.task is not None
            self.loop.call_soon_threadsafe(self.task.cancel)
        self.wait_end()

    def start(self) -> None:
        self._thread.start()

    def wait_end(self) -> None:
        """Until it ended by itself."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.stop()
        if error is None and self.failure is not None:
            raise self.failure
