"""The canonical blocks of what was received, kept for replay."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arena import errors
from arena.layouts.events import EVENT
from arena.native import lib

Records = npt.NDArray[np.void]  # dtype EVENT
HISTORY_EVENTS = 400_000  # kept while live, 77 MB: 80 blocks at ten times mainnet


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    event_count: int
    records: Records


MAX_REVERT_MARKS = 4096


class EventBuffer:
    """Copies of the canonical blocks received, oldest first.

    A complete reverted block takes its block out again instead of being kept, whether reverts come
    newest first or oldest first. Reorg marks and epilogues are not kept.

    `capacity` limits the events held (BeginBlock and EndBlock are not events), `max_blocks` the
    blocks, which matters when they are empty. Without `keep_blocks` a block that does not fit
    raises BufferOverflow and is not kept. With `keep_blocks` the buffer is a history of that many
    blocks, and of HISTORY_EVENTS events at the most: the oldest go first, and a block that alone
    exceeds it empties it.
    """

    def __init__(
        self, capacity: int, *, keep_blocks: int | None = None, max_blocks: int = 100_000
    ) -> None:
        if capacity < 0 or max_blocks < 1 or (keep_blocks is not None and keep_blocks < 1):
            raise ValueError(
                f"capacity={capacity} keep_blocks={keep_blocks} max_blocks={max_blocks}"
            )
        self.capacity = capacity
        self.keep_blocks = keep_blocks
        self.max_blocks = max_blocks
        self.event_count = 0
        self._blocks: deque[_Kept] = deque()
        self._tip: int | None = None
        self._revert_count = 0
        # (count of the revert, block number): only reverts below all later ones, so numbers ascend
        self._reverts: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def first_block(self) -> int | None:
        return self._blocks[0].number if self._blocks else None

    @property
    def last_block(self) -> int | None:
        """The newest block kept."""
        return self._blocks[-1].number if self._blocks else None

    @property
    def tip(self) -> int | None:
        """The newest canonical block known, also when it is not kept; the next must follow it."""
        return self._tip

    def append(self, records: Records) -> None:
        """Take over complete units, as `Feed.receive` returns them.

        A block that does not follow the one before is kept all the same. Raises BufferOverflow
        (fields capacity, attempted, block) when a block does not fit: blocks before it are kept, it
        and everything after it are not.
        """
        kinds = records["kind"]
        begins = np.flatnonzero(kinds == lib.PSA_EVENT_BEGIN_BLOCK)
        ends = np.flatnonzero(kinds == lib.PSA_EVENT_END_BLOCK)
        if len(begins) != len(ends) or not (begins < ends).all() or (ends[:-1] > begins[1:]).any():
            raise ValueError("records are not complete units")
        numbers = records["block_number"][begins].tolist()
        reverts = (records["flags"][begins] & lib.PSA_EVENT_IS_REVERT).tolist()
        # One copy for the batch; blocks are views of it, so it lives until its last block goes.
        kept = records.copy() if not all(reverts) else records
        for begin, end, number, is_revert in zip(
            begins.tolist(), ends.tolist(), numbers, reverts, strict=True
        ):
            if is_revert:
                self._revert(number)
                continue
            self._keep(number, kept[begin : end + 1])

    def take_over(self, records: Records, ends: Iterable[int]) -> None:
        """Blocks that follow `tip` one by one, `ends` the index behind each; a view of `records` is kept,
        so nobody may change them any more. Raises as `append`."""
        begin = 0
        for end in ends:
            self._keep(int(records["block_number"][begin]), records[begin:end])
            begin = end

    def _keep(self, number: int, records: Records) -> None:
        event_count = len(records) - 2
        self._make_room(number, event_count)
        if self._tip is not None and number <= self._tip:
            self._revert(number)
        self._tip = number
        if event_count <= self._limit:
            self._blocks.append(_Kept(number, event_count, records))
            self.event_count += event_count

    @property
    def _limit(self) -> int:
        return self.capacity if self.keep_blocks is None else min(self.capacity, HISTORY_EVENTS)

    def _make_room(self, number: int, event_count: int) -> None:
        if self.keep_blocks is not None:
            while self._blocks and (
                len(self._blocks) >= self.keep_blocks
                or self.event_count + event_count > self._limit
            ):
                self.event_count -= self._blocks.popleft().event_count
            return
        for held, more, limit, unit in (
            (self.event_count, event_count, self.capacity, "events"),
            (len(self._blocks), 1, self.max_blocks, "blocks"),
        ):
            if held + more > limit:
                raise errors.BufferOverflow(
                    f"block {number} brings the buffer to {held + more} {unit}, its capacity is "
                    f"{limit}; raise it or scrape faster",
                    capacity=limit,
                    attempted=held + more,
                    block=number,
                    is_revert=False,
                    resync=True,
                )

    def _revert(self, number: int) -> None:
        """Drop `number` and all above it, and note the revert."""
        while self._blocks and self._blocks[-1].number >= number:
            self.event_count -= self._blocks.pop().event_count
        if self._tip is None or number <= self._tip:
            self._tip = number - 1
        while self._reverts and self._reverts[-1][1] >= number:
            self._reverts.pop()
        self._reverts.append((self._revert_count, number))
        self._revert_count += 1
        if len(self._reverts) > MAX_REVERT_MARKS:
            # Merge the two oldest: a mark between them now learns of the lower one, which is safe.
            (_, lower), (count, _) = self._reverts[:2]
            self._reverts[:2] = [(count, lower)]

    def mark(self) -> int:
        """A point in time for `reverts_since`."""
        return self._revert_count

    def reverts_since(self, mark: int) -> int | None:
        """Lowest block number reverted since `mark` was taken; None when none was."""
        if not 0 <= mark <= self._revert_count:
            raise ValueError(f"mark={mark}, from 0 to {self._revert_count}")
        index = bisect_left(self._reverts, (mark, -1))
        return self._reverts[index][1] if index < len(self._reverts) else None

    def blocks(self, *, after: int | None = None) -> Iterator[Records]:
        """Records of each kept block above `after` (None: all), each BeginBlock to EndBlock."""
        for block in self._blocks:
            if after is None or block.number > after:
                yield block.records

    def block(self, number: int) -> Records | None:
        """The kept block of that number."""
        first = self.first_block
        if first is None or not first <= number < first + len(self._blocks):
            return None
        kept = self._blocks[number - first]
        return kept.records if kept.number == number else None

    def records(self, *, after: int | None = None) -> Records:
        """The kept blocks above `after` as one new array, (n,) of EVENT."""
        found = list(self.blocks(after=after))
        return np.concatenate(found) if found else np.empty(0, EVENT)

    def prepend(self, blocks: Sequence[Records]) -> None:
        """Put blocks from another source in front, ascending, the last one followed by first_block.

        Capacity is not asked; the next block that arrives makes room as `keep_blocks` says.
        """
        for records in reversed(blocks):
            number = int(records["block_number"][0])
            if self._blocks and number + 1 != self._blocks[0].number:
                raise ValueError(f"block {number} does not precede {self._blocks[0].number}")
            self._blocks.appendleft(_Kept(number, len(records) - 2, records))
            self.event_count += len(records) - 2
            if self._tip is None:
                self._tip = number

    def restore(self, blocks: Sequence[Records]) -> None:
        """Hold exactly these blocks, ascending, again; reverts since then stay noted."""
        self.clear()
        self.prepend(blocks)

    def clear(self) -> None:
        """Forget all blocks and what the next one must follow; revert marks stay valid."""
        self._blocks.clear()
        self.event_count = 0
        self._tip = None
