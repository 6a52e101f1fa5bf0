"""Blocks into the arena: the only caller of writer sections, and the account of what they did."""

import logging
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from arena.arena import Fault, WriterArena
from arena.layouts.header import COUNTER_APPLIED, COUNTER_NAMES, COUNTER_UNSUPPORTED
from arena.native import lib
from arena.writer.feed import Records

log = logging.getLogger(__name__)

FAULT_LOG_INTERVAL_S = 60.0
# Pools and classes whose last log line is remembered; beyond it the oldest is forgotten.
MAX_REMEMBERED_FAULTS = 10_000
# At most one commit a millisecond while more bytes are waiting, or large snapshots starve (CORE 4).
CATCH_UP_COMMIT_NS = 1_000_000

Counters = npt.NDArray[np.uint64]


def named_counters(counters: Counters) -> dict[str, int]:
    """The header's counters, (192,) u64, under the names of layouts.header.COUNTER_NAMES."""
    return {name: int(counters[index]) for index, name in COUNTER_NAMES.items()}


def _protocol_name(protocol: int) -> str:
    name = COUNTER_NAMES.get(COUNTER_UNSUPPORTED + protocol, str(protocol))
    return name.removeprefix("unsupported_")


def _event_name(kind: int) -> str:
    index = COUNTER_APPLIED + kind - lib.PSA_EVENT_V2_SYNC
    if not lib.PSA_EVENT_V2_SYNC <= kind <= lib.PSA_EVENT_V2_FINAL:
        return str(kind)
    return COUNTER_NAMES[index].removeprefix("applied_uniswap_v2_")


class FaultLog:
    """Writes each (pool, error class) at most once a minute, with how many were held back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: dict[tuple[bytes, str], tuple[float, int]] = {}

    def write(self, fault: Fault) -> None:
        name = fault.error.__name__
        key = (fault.key, name)
        now = self._clock()
        last, held_back = self._seen.get(key, (None, 0))
        if last is not None and now - last < FAULT_LOG_INTERVAL_S:
            self._seen[key] = (last, held_back + 1)
            return
        self._seen.pop(key, None)
        self._seen[key] = (now, 0)
        while len(self._seen) > MAX_REMEMBERED_FAULTS:
            del self._seen[next(iter(self._seen))]
        # An unlisted pool is normal when the producer follows more pools than this arena.
        level = logging.WARNING if fault.made_stale else logging.INFO
        if fault.status in (lib.PSA_POOL_NOT_FOUND, lib.PSA_UNSUPPORTED_PROTOCOL):
            level = logging.DEBUG
        log.log(
            level,
            "event=not_applied error=%s pool=0x%s protocol=%s type=%s block=%d tx=%d log=%d "
            "made_stale=%s held_back=%d",
            name,
            fault.key.hex(),
            _protocol_name(fault.protocol),
            _event_name(fault.kind),
            fault.block_number,
            fault.tx_index,
            fault.log_index,
            "yes" if fault.made_stale else "no",
            held_back,
        )


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
        self._account()

    def replay(self, records: Records, slot: int) -> bool:
        """Apply kept `records` to one pool in the open commit; head and undo ring stay as they are.

        True when an event could not be applied and the pool is stale again.
        """
        self.arena.apply(records, only_slot=slot)
        return any(fault.made_stale and fault.slot == slot for fault in self._account())

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

    def statistics(self) -> dict[str, int]:
        """Counters by name; see named_counters."""
        return named_counters(self.arena.counters)

    def _account(self) -> list[Fault]:
        faults, dropped = self.arena.take_faults()
        for fault in faults:
            self._fault_log.write(fault)
        if dropped:
            log.info("event=faults_not_listed count=%d", dropped)
        self._stale_count = int(self.arena.counters[lib.PSA_COUNTER_POOLS_STALE])
        return faults
