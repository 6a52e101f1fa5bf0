"""Whether blocks follow one another, and reverts lead back from what came."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from arena.layouts.events import EVENT
from arena.native import lib
from arena.writer.stream.history import Records

NOT_YET = 1 << 64  # above every block: the stream may leave out a pool's events in all of them


class Break(NamedTuple):
    """The index of the record that shows a loss, and what was lost; block 0 is unknown."""

    at: int
    reason: str
    first: int = 0
    last: int = 0


class Turning(NamedTuple):
    """Reverts at hand: the tip from before them (NOT_YET: nobody knows), the lowest and the highest
    block reverted."""

    top: int
    lowest: int
    highest: int

    @classmethod
    def of(cls, tip: int | None, number: int) -> "Turning | str":
        """The first revert, or what is wrong with it."""
        if tip is not None and number > tip:
            return f"block {number} was reverted and never came, the newest was {tip}"
        return cls(NOT_YET if tip is None else tip, number, number)

    @property
    def is_short(self) -> bool:
        """They do not reach up to the tip from before them."""
        return self.highest < self.top != NOT_YET

    def then(self, number: int) -> "Turning | str":
        """The next revert, newest or oldest first, or of another reorg; or what is wrong with it."""
        if number == self.lowest - 1:
            return self._replace(lowest=number)
        if number == self.highest + 1 <= self.top:
            return self._replace(highest=number)
        if number > self.top:
            return Turning.of(self.top, number)
        if self.lowest <= number <= self.highest:
            return f"block {number} was reverted twice"
        if number > self.highest or self.is_short:
            return f"block {number} was reverted, blocks {self.lowest} to {self.highest} before it"
        return Turning(self.lowest - 1, number, number)


def turns(records: Records) -> Iterator[Records]:
    """The records, cut before each reverted block that follows one that is not."""
    begins = np.flatnonzero(records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
    reverts = records["flags"][begins] & lib.PSA_EVENT_IS_REVERT != 0
    turns = begins[1:][reverts[1:] & ~reverts[:-1]].tolist()
    for start, end in pairwise([0, *turns, len(records)]):
        yield records[start:end]


def bare_revert(number: int) -> Records:
    """A reverted block of which nothing is known but its number."""
    reverted = np.zeros(2, EVENT)
    reverted["kind"] = (lib.PSA_EVENT_BEGIN_BLOCK, lib.PSA_EVENT_END_BLOCK)
    reverted["block_number"] = number
    reverted["flags"] = lib.PSA_EVENT_IS_REVERT
    return reverted


def as_revert(block: Records) -> Records:
    """The same block as a feed would send it reverted, payloads as they were."""
    reverted = block.copy()
    reverted["flags"] |= lib.PSA_EVENT_IS_REVERT
    reverted["stream_seq"] = 0
    return reverted


def first_break(
    records: Records,
    tip: int | None,
    turning: Turning | None,
    is_another: Callable[[Records], bool] | None,
) -> tuple[Break | None, Turning | None]:
    """Where a block comes that does not follow `tip`, the newest of before, or is not to be turned back;
    and the reverts at hand there, or behind them all. `turning` are those at hand before; `is_another`
    tells a reverted block, from its records on, that is not the one of its number that came."""
    kinds = records["kind"]
    marks = np.flatnonzero(
        (kinds == lib.PSA_EVENT_BEGIN_BLOCK) | (kinds == lib.PSA_EVENT_REORG_COMPLETE)
    )
    numbers = records["block_number"][marks].tolist()
    reverts = (records["flags"][marks] & lib.PSA_EVENT_IS_REVERT).tolist()
    ends = (kinds[marks] == lib.PSA_EVENT_REORG_COMPLETE).tolist()
    for index, number, is_revert, is_end in zip(
        marks.tolist(), numbers, reverts, ends, strict=True
    ):
        if is_revert and not is_end:
            after = Turning.of(tip, number) if turning is None else turning.then(number)
            if isinstance(after, str):
                top = tip if turning is None else turning.top
                missing = (top + 1, number) if top is not None and number > top else (0, 0)
                return Break(index, after, *missing), turning
            if is_another is not None and is_another(records[index:]):
                reason = f"block {number} was reverted as another than the one that came"
                return Break(index, reason), turning
            tip, turning = after.lowest - 1, after
            continue
        if turning is not None and turning.is_short:
            reason = f"blocks {turning.highest} to {turning.top} are not all reverted"
            return Break(index, reason), turning
        turning = None
        if is_end:
            continue
        if tip is not None and number < tip + 1:
            reason = f"block {number} came again without having been reverted"
            return Break(index, reason), turning
        if tip is not None and number > tip + 1:
            reason = f"block {number} came after block {tip}"
            return Break(index, reason, tip + 1, number - 1), turning
        tip = number
    return None, turning
