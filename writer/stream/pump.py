"""The short cut from the socket to published blocks: one call into C while nothing else comes.

What every block means to the rest of the writer, and how it learns of blocks that came this way, stands in
docs/decisions/0018-pump.md.
"""

import sys

import numpy as np

from arena.layouts.events import EVENT
from arena.native import ffi, lib, raise_status
from arena.writer.stream.history import Records
from arena.writer.stream.socket import Batch, Feed
from arena.writing import WriterArena

KEPT_EVENTS = 65_536  # of an array, besides those one receive may give; its pages come as it fills
MAX_BLOCKS = 16_384  # of one call
MAX_LATENCIES = 1_024


class Pump:
    """The short cut of one feed thread.

    After `run`: `records` are copies of the blocks it applied, and nobody changes them any more, `ends` the
    index behind each; `latencies` are the times in ns from bytes to the commit that showed them, `unseen`
    says when the oldest came that readers do not see yet (CLOCK_MONOTONIC, 0: none) and how many commits
    there were then; `has_read_all`: nothing more was there to be read.
    """

    def __init__(self) -> None:
        self._ends = np.empty(MAX_BLOCKS, np.uint32)
        self._latencies = np.empty(MAX_LATENCIES, np.uint64)
        self._native = ffi.new("psa_pump *")
        self._native.ends = ffi.from_buffer("uint32_t *", self._ends)
        self._native.end_capacity = MAX_BLOCKS
        self._native.latencies = ffi.from_buffer("uint64_t *", self._latencies)
        self._native.latency_capacity = MAX_LATENCIES
        self._arrays: list[Records] = []
        self._kept = self.records = np.empty(0, EVENT)  # where the next blocks go

    def run(
        self,
        feed: Feed,
        arena: WriterArena,
        *,
        tip: int,
        min_commit_ns: int,
        tells_tight: bool,
        unseen: tuple[int, int],
        seconds: float,
    ) -> Batch:
        """Receive for `seconds`, at least once, and apply what comes while that is whole blocks behind
        `tip`; what else there is, not applied. `feed` is one that may be pumped."""
        native = self._native
        feed.lend(native)
        if len(self._kept) < native.capacity:
            self._kept = self.records = np.empty(0, EVENT)
            self._kept = self._free_array(native.capacity + KEPT_EVENTS)
        native.kept = ffi.from_buffer("psa_event *", self._kept)
        native.kept_capacity = len(self._kept)
        native.writer = arena.native
        native.tip, native.min_commit_ns, native.tells_tight = tip, min_commit_ns, tells_tight
        native.unseen_ns, native.seen_commits = unseen
        outcome = lib.psa_pump_run(native, int(seconds * 1e9))
        if outcome == lib.PSA_PUMP_REFUSED:
            raise_status(native.status, f"blocks above {tip}")
        count = native.kept_count
        self.records, self._kept = self._kept[:count], self._kept[count:]
        self.ends: list[int] = self._ends[: native.end_count].tolist()
        self.latencies: list[int] = self._latencies[: native.latency_count].tolist()
        self.unseen = int(native.unseen_ns), int(native.seen_commits)
        self.has_read_all = bool(native.has_read_all)
        return feed.take_back(native, outcome)

    def _free_array(self, size: int) -> Records:
        """An array of at least `size` records that no history refers to any more, or a new one: clearing its
        pages was an eighth of what a flood cost the writer."""
        free = [i for i in range(len(self._arrays)) if _references(self._arrays, i) == _ALONE]
        found = [self._arrays.pop(i) for i in reversed(free)]
        fit = [each for each in found if len(each) >= size]
        self._arrays.append(fit[0] if fit else np.empty(size, EVENT))
        return self._arrays[-1]


def _references(arrays: list[Records], index: int) -> int:
    """References to an array, those of its views included: each holds the array that owns the memory."""
    return sys.getrefcount(arrays[index])


_ALONE = _references([np.empty(0, EVENT)], 0)
