"""Blocks into the arena: the only caller of writer sections, and the account of what they did."""

import logging
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from arena.arena import Fault, WriterArena
from arena.native import lib

log = logging.getLogger(__name__)

FAULT_LOG_INTERVAL_S = 60.0
# Pools and classes whose last log line is remembered; beyond it the oldest is forgotten.
MAX_REMEMBERED_FAULTS = 10_000
# At most one commit a millisecond while more bytes are waiting, or large snapshots starve (CORE 4).
CATCH_UP_COMMIT_NS = 1_000_000

PROTOCOL_NAMES = {
    lib.PSA_UNISWAP_V2: "uniswap_v2",
    lib.PSA_UNISWAP_V3: "uniswap_v3",
    lib.PSA_UNISWAP_V4: "uniswap_v4",
    lib.PSA_EKUBO: "ekubo",
    lib.PSA_CURVE_STABLE: "curve_stable",
    lib.PSA_CURVE_TWOCRYPTO: "curve_twocrypto",
    lib.PSA_CURVE_TRICRYPTO: "curve_tricrypto",
    lib.PSA_BALANCER_V2_WEIGHTED: "balancer_v2_weighted",
    lib.PSA_FLUID: "fluid",
}
EVENT_NAMES = {
    lib.PSA_EVENT_V2_SYNC: "sync",
    lib.PSA_EVENT_V2_DELTA: "delta",
    lib.PSA_EVENT_CL_SWAP: "swap",
    lib.PSA_EVENT_CL_LIQUIDITY: "liquidity",
    lib.PSA_EVENT_SLOT0_FINAL: "slot0_final",
    lib.PSA_EVENT_V2_FINAL: "reserves_final",
}
FAULT_NAMES = {
    lib.PSA_POOL_NOT_FOUND: "PoolNotFound",
    lib.PSA_INVALID_EVENT_DATA: "InvalidEventData",
    lib.PSA_ARITHMETIC_OVERFLOW: "ArithmeticOverflow",
    lib.PSA_UNSUPPORTED_PROTOCOL: "UnsupportedProtocol",
    lib.PSA_UNSUPPORTED_EVENT_TYPE: "UnsupportedEventType",
    lib.PSA_REORG_TOO_DEEP: "ReorgTooDeep",
    lib.PSA_REORG_MISMATCH: "ReorgMismatch",
}
_TOTALS = {
    "blocks": lib.PSA_COUNTER_BLOCKS,
    "blocks_reverted": lib.PSA_COUNTER_BLOCKS_REVERTED,
    "commits": lib.PSA_COUNTER_COMMITS,
    "events_applied": lib.PSA_COUNTER_EVENTS_APPLIED,
    "events_skipped": lib.PSA_COUNTER_EVENTS_SKIPPED,
    "events_unsupported": lib.PSA_COUNTER_EVENTS_UNSUPPORTED,
    "reorgs": lib.PSA_COUNTER_REORGS,
    "epilogues": lib.PSA_COUNTER_EPILOGUES,
    "pools_stale": lib.PSA_COUNTER_POOLS_STALE,
    "frames": lib.PSA_COUNTER_FRAMES,
    "bytes": lib.PSA_COUNTER_BYTES,
    "connections": lib.PSA_COUNTER_CONNECTIONS,
    "gaps": lib.PSA_COUNTER_GAPS,
}
_UNKNOWN_PROTOCOL_OFFSET = 15

Counters = npt.NDArray[np.uint64]


def named_counters(counters: Counters) -> dict[str, int]:
    """The header's counters by name: totals always, and per protocol, event and class those above 0.

    `applied.uniswap_v3.swap`, `fault.PoolNotFound`, `unsupported.ekubo`; counters is (192,) u64.
    """
    named = {name: int(counters[index]) for name, index in _TOTALS.items()}
    for protocol in (lib.PSA_UNISWAP_V2, lib.PSA_UNISWAP_V3, lib.PSA_UNISWAP_V4):
        for kind, event in EVENT_NAMES.items():
            index = lib.PSA_COUNTER_APPLIED + protocol * 8 + kind - lib.PSA_EVENT_V2_SYNC
            if counters[index]:
                named[f"applied.{PROTOCOL_NAMES[protocol]}.{event}"] = int(counters[index])
    for status, name in FAULT_NAMES.items():
        index = lib.PSA_COUNTER_FAULTS + status - lib.PSA_POOL_NOT_FOUND
        if counters[index]:
            named[f"fault.{name}"] = int(counters[index])
    for offset in range(_UNKNOWN_PROTOCOL_OFFSET + 1):
        index = lib.PSA_COUNTER_UNSUPPORTED + offset
        if counters[index]:
            named[f"unsupported.{PROTOCOL_NAMES.get(offset, 'unknown')}"] = int(counters[index])
    return named


class FaultLog:
    """Writes each (pool, error class) at most once a minute, with how many were held back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: dict[tuple[bytes, str], tuple[float, int]] = {}

    def write(self, fault: Fault) -> None:
        name = fault.exception.__name__
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
            PROTOCOL_NAMES.get(fault.protocol, fault.protocol),
            EVENT_NAMES.get(fault.kind, fault.kind),
            fault.block_number,
            fault.tx_index,
            fault.log_index,
            "yes" if fault.made_stale else "no",
            held_back,
        )


class Processor:
    """Applies complete units to one arena; used by the feed thread alone.

    Pools that go stale on the way are collected for take_stale, so that they can be scraped again one
    by one; an event that cannot be applied never stops the others.
    """

    def __init__(self, arena: WriterArena):
        self.arena = arena
        self._fault_log = FaultLog()
        self._stale: set[int] = set()
        self._stale_count = 0

    def apply(self, records: npt.NDArray[np.void], *, min_commit_ns: int = 0) -> None:
        """Apply `records`, whole blocks in arrival order, and publish them.

        min_commit_ns 0 commits every block; otherwise blocks are grouped into commits at least that
        far apart. What is left open at the end of the batch is published by flush.
        """
        self.arena.apply(records, min_commit_ns=min_commit_ns)
        self._account()

    def flush(self) -> None:
        """Publish what grouped commits left open."""
        self.arena.commit()

    def replay(self, records: npt.NDArray[np.void], slot: int) -> None:
        """Apply kept `records` to one pool in the open commit; head and undo ring stay as they are."""
        self.arena.apply(records, only_slot=slot)
        self._account()

    def take_stale(self) -> list[int]:
        """Slots of pools that went stale since the last call and still are, ascending."""
        if not self._stale:
            return []
        still = {int(slot) for slot in self.arena.stale_slots()}
        found = sorted(self._stale & still)
        self._stale.clear()
        return found

    def forget_stale(self) -> None:
        """A new scrape of everything settles whatever went stale so far."""
        self._stale.clear()

    def statistics(self) -> dict[str, int]:
        """Counters by name; see named_counters."""
        return named_counters(self.arena.counters)

    def _account(self) -> None:
        faults, dropped = self.arena.take_faults()
        for fault in faults:
            self._fault_log.write(fault)
        if dropped:
            log.info("event=faults_not_listed count=%d", dropped)
        stale_count = int(self.arena.counters[lib.PSA_COUNTER_POOLS_STALE])
        if stale_count != self._stale_count:
            self._stale_count = stale_count
            self._stale.update(int(slot) for slot in self.arena.stale_slots())
            self._stale.update(
                fault.slot for fault in faults if fault.made_stale and fault.slot is not None
            )
