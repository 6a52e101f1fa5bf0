"""What keeps pools out, told so that it can be read: a few by name, the rest as a count.

A list may name thousands of addresses without a contract; a line for each would bury what else the
log says. At debug level each is named.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from arena.errors import ArenaError

log = logging.getLogger(__name__)


NAMED = 5  # of one error class, until the rest of them has been counted
COUNT_INTERVAL_S = 60.0


class PoolReports:
    """Each pool and error class once: the first NAMED of a class by name, the others by `count`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: dict[bytes, set[str]] = {}
        self._named: Counter[str] = Counter()
        self._held_back: Counter[str] = Counter()
        self._counted = clock()

    def has(self, key: bytes, error: ArenaError) -> bool:
        """Whether that pool was reported with that class."""
        return type(error).__name__ in self._seen.get(key, ())

    def report(self, key: bytes, error: ArenaError) -> None:
        """A pool is not live because of `error`."""
        name = type(error).__name__
        if self.has(key, error):
            return
        self._seen.setdefault(key, set()).add(name)
        self._named[name] += 1
        level = logging.WARNING
        if self._named[name] > NAMED:
            self._held_back[name] += 1
            level = logging.DEBUG
        log.log(
            level, "event=pool_not_live pool=0x%s error=%s reason=%r", key.hex(), name, str(error)
        )

    def forget(self, key: bytes) -> None:
        """The pool was listed anew: what hinders it is news again."""
        self._seen.pop(key, None)

    def count(self, *, at_once: bool = False) -> None:
        """Say how many were not named since the last time; at most once a minute unless `at_once`."""
        now = self._clock()
        if not at_once and now < self._counted + COUNT_INTERVAL_S:
            return
        self._counted = now
        for name, held_back in sorted(self._held_back.items()):
            log.warning(
                "event=pools_not_live error=%s count=%d named=%d reason='at level debug each is "
                "named'",
                name,
                held_back + NAMED,
                NAMED,
            )
        self._held_back.clear()
        self._named.clear()


def report_refused(logger: logging.Logger, refused: Sequence[Exception]) -> None:
    """Entries of a list that name no pool: the first NAMED, and how many there are."""
    for each in refused[:NAMED]:
        logger.warning("event=pool_refused reason=%r", str(each))
    if len(refused) > NAMED:
        logger.warning("event=pools_refused count=%d named=%d", len(refused), NAMED)
