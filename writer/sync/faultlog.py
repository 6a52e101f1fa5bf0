"""What the arena refused, told in the log at a bounded rate."""

import logging
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from arena.layouts.header import COUNTER_NAMES, EVENT_NAMES
from arena.layouts.protocols import protocol_name
from arena.native import lib
from arena.values import Fault

log = logging.getLogger(__name__)


FAULT_LOG_INTERVAL_S = 60.0
# Pools and classes whose last log line is remembered; beyond it the oldest is forgotten.
MAX_REMEMBERED_FAULTS = 10_000

Counters = npt.NDArray[np.uint64]


def named_counters(counters: Counters) -> dict[str, int]:
    """The header's counters, (384,) u64, under the names of layouts.header.COUNTER_NAMES."""
    return {name: int(counters[index]) for index, name in COUNTER_NAMES.items()}


def _event_name(kind: int) -> str:
    index = kind - lib.PSA_EVENT_V2_SYNC
    return EVENT_NAMES[index] if 0 <= index < len(EVENT_NAMES) else str(kind)


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
            protocol_name(fault.protocol),
            _event_name(fault.kind),
            fault.block_number,
            fault.tx_index,
            fault.log_index,
            "yes" if fault.made_stale else "no",
            held_back,
        )
