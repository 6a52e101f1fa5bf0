"""Blocks into the arena; what they did is counted."""

import logging

from arena.native import lib
from arena.values import Fault
from arena.writer.stream.history import Records
from arena.writer.sync.faultlog import FaultLog
from arena.writing import WriterArena

log = logging.getLogger(__name__)


# At most one commit a millisecond while more bytes are waiting: a view lasts until a pool in it was written
# twice more, so faster commits would starve readers of large snapshots.
CATCH_UP_COMMIT_NS = 1_000_000


class Processor:
    """Applies complete units to one arena; used by the feed thread alone.

    Pools that go stale on the way are named by take_stale, so that they can be scraped again one by
    one; an event that cannot be applied never stops the others.
    """

    def __init__(self, arena: WriterArena):
        self.arena = arena
        self._fault_log = FaultLog()
        self._stale_count = self._seen_stale_count = int(
            arena.counters[lib.PSA_COUNTER_POOLS_STALE]
        )

    def apply(self, records: Records, *, min_commit_ns: int = 0) -> None:
        """Apply `records`, complete units in arrival order, and publish them block by block.

        min_commit_ns 0 commits every block; otherwise blocks are grouped into commits at least that
        far apart, and what is left open at the end waits for the next commit of the arena.
        """
        self.arena.apply(records, min_commit_ns=min_commit_ns)
        self.account()

    def replay(self, records: Records, slot: int) -> bool:
        """Apply kept `records` to one pool in the open commit; head and undo ring stay as they are.

        True when an event could not be applied and the pool is stale again.
        """
        self.arena.apply(records, only_slot=slot)
        return any(fault.made_stale and fault.slot == slot for fault in self.account())

    @property
    def has_stale(self) -> bool:
        """Pools went stale since take_stale or forget_stale was last called."""
        return self._stale_count != self._seen_stale_count

    def take_stale(self) -> list[int]:
        """Slots of all stale pools, ascending, if any pool went stale since the last call."""
        if not self.has_stale:
            return []
        self._seen_stale_count = self._stale_count
        return sorted(int(slot) for slot in self.arena.stale_slots())

    def note_stale(self) -> None:
        """Somebody else made pools stale: take_stale names them, too."""
        self._seen_stale_count = -1

    def forget_stale(self) -> None:
        """A new scrape of everything settles whatever went stale so far."""
        self._stale_count = int(self.arena.counters[lib.PSA_COUNTER_POOLS_STALE])
        self._seen_stale_count = self._stale_count

    @property
    def catch_up_ns(self) -> int:
        """min_commit_ns of blocks as they come."""
        return CATCH_UP_COMMIT_NS

    def account(self) -> list[Fault]:
        """Look at what was applied to the arena since the last look: what it refused is logged."""
        faults, dropped = self.arena.take_faults()
        for fault in faults:
            self._fault_log.write(fault)
        if dropped:
            log.info("event=faults_not_listed count=%d", dropped)
        self._stale_count = int(self.arena.counters[lib.PSA_COUNTER_POOLS_STALE])
        return faults
