"""One thread that waits for commits in place of any number of coroutines.

The kernel's wait has no file descriptor that a loop could watch, so a thread of its own sleeps in it.
None of a loop's worker threads, which its name look-ups need, is ever taken.
"""

import asyncio
import contextlib
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from arena.mapping import MappedArena
from arena.native import ffi, lib

_SLICE_NS = 100_000_000  # in the kernel before looking whether the arena was closed or re-created
_LINGER_S = 1.0  # the thread outlives its last waiter: a strategy comes back when its work is done


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[None]
    mapped: MappedArena
    seen: int  # the commit it has looked at already

    @property
    def is_due(self) -> bool:
        """Whether there is something new to look at: a commit, perhaps a successor, or the end."""
        try:
            return self.mapped.committed[0] != self.seen or self.mapped.superseded[0] != 0
        except ValueError:  # closed
            return True


class CommitWaiters:
    """Coroutines, of any loops, that wait for the next commit of one arena. Safe from any thread."""

    def __init__(self, name: str) -> None:
        self._name = f"arena-waiter-{name}"
        self._renew()
        _all.add(self)

    def _renew(self) -> None:
        """Begin without thread and waiters: after a fork both are the parent's."""
        self._condition = threading.Condition()
        self._waiting: dict[_Waiter, None] = {}
        self._has_thread = False

    async def changed(self, mapped: MappedArena, seen: int, timeout: float | None) -> None:
        """Return when there may be another commit than `seen`, when the arena may have been closed or
        re-created, or after `timeout` seconds; the caller looks which."""
        waiter = _Waiter(asyncio.get_running_loop().create_future(), mapped, seen)
        try:
            with self._condition:
                self._waiting[waiter] = None
                if not self._has_thread:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()
                    self._has_thread = True
                self._condition.notify()
            # A commit from before this waiter was entered may have woken the thread already.
            if mapped.committed[0] == seen:
                await asyncio.wait((waiter.future,), timeout=timeout)
        except ValueError:
            return  # closed just now
        finally:
            with self._condition:
                self._waiting.pop(waiter, None)

    def _run(self) -> None:
        now = ffi.new("uint64_t *")
        while True:
            with self._condition:
                if not self._condition.wait_for(lambda: self._waiting, _LINGER_S):
                    self._has_thread = False
                    return
                newest = next(reversed(self._waiting))
                mapped, seen = newest.mapped, newest.seen
            lib.psa_wait_commit(mapped.pointer, seen, _SLICE_NS, now)
            del newest, mapped  # nothing is kept mapped while nobody waits
            with self._condition:
                due = [waiter for waiter in self._waiting if waiter.is_due]
                for waiter in due:
                    del self._waiting[waiter]
            self._let_go(due)

    def _let_go(self, due: Iterable[_Waiter]) -> None:
        by_loop = defaultdict(list)
        for waiter in due:
            by_loop[waiter.future.get_loop()].append(waiter.future)
        for loop, futures in by_loop.items():
            with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
                loop.call_soon_threadsafe(_finish, futures)


def _finish(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


_all: weakref.WeakSet[CommitWaiters] = weakref.WeakSet()


def _renew_all() -> None:
    for waiters in list(_all):
        waiters._renew()


os.register_at_fork(after_in_child=_renew_all)
