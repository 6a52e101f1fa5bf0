"""Counts the feed thread takes beside the header's: how long bytes take to be seen, how deep reorgs go.

One thread writes, others read without a lock: what they see is at most one observation behind itself
(a bucket counted, the sum not yet), which no rate or quantile can tell.
"""

from collections.abc import Iterable

import numpy as np

# Half powers of two: bucket k holds values v with 2**((k-1)/2) <= v < 2**(k/2). 2**70 ns is 37 million
# years; what the table cannot hold goes into the last bucket.
BUCKETS = 72
# Shown from 2**12 ns, 4 us, to 2**35 ns, 34 s: what is below or above joins the outermost.
FIRST_SHOWN = 2 * 12
LAST_SHOWN = 2 * 35
REORG_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)


class Latency:
    """A histogram of nanoseconds in a fixed array; `add` is two operations on integers."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.uint64)
        self.total_ns = 0

    def add(self, ns: int) -> None:
        """Count one latency, at least 0."""
        # The bit length of the square counts half powers of two without a logarithm.
        self.counts[min((ns * ns).bit_length(), BUCKETS - 1)] += 1
        self.total_ns += ns

    def buckets(self) -> list[tuple[float, int]]:
        """(upper bound in seconds, how many up to it), ascending, the last bound infinity."""
        sums = np.cumsum(self.counts).tolist()
        shown = [
            (2 ** (index / 2) / 1e9, sums[index]) for index in range(FIRST_SHOWN, LAST_SHOWN + 1)
        ]
        return [*shown, (float("inf"), sums[-1])]


class ReorgDepths:
    """How many reorgs took back how many blocks.

    A reorg is a run of reverted blocks with no other block in between, in an envelope or not. It is
    over when another block comes; until then the run at hand counts with what it has so far.
    """

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._depth = 0
        self._floor = 0  # the lowest block of the run

    def note(self, blocks: Iterable[tuple[int, bool]], *, tip: int | None, starts: bool) -> None:
        """Blocks as (number, is reverted) in arrival order.

        `tip` is the newest block before them; `starts`: a reorg's envelope opens in front of them.
        """
        if starts or tip != self._floor - 1:
            self._end()
        for number, is_revert in blocks:
            if not is_revert:
                self._end()
                continue
            self._floor = min(self._floor, number) if self._depth else number
            self._depth += 1

    def _end(self) -> None:
        if not self._depth:
            return
        self._ended[self._depth] = self._ended.get(self._depth, 0) + 1
        self._depth = 0

    def counts(self) -> dict[int, int]:
        """Reorgs by depth, the one under way included."""
        found, depth = dict(self._ended), self._depth
        if depth:
            found[depth] = found.get(depth, 0) + 1
        return found
