"""The feed thread's half of joining the stream: blocks kept, applied, and the switch to live.

It never waits. What needs waiting is the coordinator's, which asks for pieces of work that run here
between two blocks.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from arena.arena import PoolSpec
from arena.errors import ArenaError, ArenaFull, BufferOverflow, InvalidEventData
from arena.native import lib
from arena.writer.feed import EventBuffer, Records
from arena.writer.processor import CATCH_UP_COMMIT_NS, Processor
from arena.writer.scrapers import ScrapedPool

log = logging.getLogger(__name__)

HISTORY_BLOCKS = 1024  # as many as the undo ring
MAX_REVERT_TIMES = 4096


class StreamBroken(ArenaError):
    """The blocks the work relied on are gone: begin again with the next whole block."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scraped pool waiting to join: `mark` is older than the reading of its values."""

    pool: ScrapedPool
    mark: int

    @property
    def block_number(self) -> int:
        return self.pool.values.block_number


@dataclass(frozen=True, slots=True)
class Verdict:
    """What keeps candidates from joining: pools to scrape again, the block still to come."""

    again: tuple[bytes, ...] = ()
    wait_for_block: int | None = None
    in_reorg: bool = False

    @property
    def is_clear(self) -> bool:
        return not self.again and self.wait_for_block is None and not self.in_reorg


class Intake:
    """The feed thread's half. Every method but the constructor runs in the feed thread.

    `notify` is called from that thread with one of the strings `first_block`, `broken`, `overflow`,
    `stale`; it must not block.
    """

    def __init__(
        self,
        processor: Processor,
        buffer: EventBuffer,
        *,
        notify: Callable[[str], None],
        history_blocks: int = HISTORY_BLOCKS,
    ):
        self.processor = processor
        self.arena = processor.arena
        self.buffer = buffer
        self.epoch = 0
        self.is_live = False
        self.overflow: BufferOverflow | None = None
        self._notify = notify
        self._history_blocks = history_blocks
        self._revert_times: deque[tuple[int, int]] = deque(maxlen=MAX_REVERT_TIMES)
        self._in_reorg = False
        self._announced = False
        self._gap_pending = False
        self._installed = False

    # -- what the stream brings

    def connected(self) -> None:
        """A connection is up; what came before its first whole block may be lost."""
        if self.is_live:
            self._gap_pending = True
        else:
            self._begin_again()
            self.arena.set_phase("buffering")

    def disconnected(self, reason: str) -> None:
        """The connection ended. Values stay exact at the head; half a reorg is taken back."""
        self.arena.commit()
        self.arena.abort()
        self._in_reorg = False
        if not self.is_live:
            self._begin_again()
        self.arena.set_phase("connecting", reason)

    def lost(self, reason: str, first: int = 0, last: int = 0) -> None:
        """Events are gone: every live pool goes stale and a resync is due. Block 0 is unknown."""
        self.arena.commit()
        self.arena.abort()
        self._gap_pending = False
        was_live, self.is_live = self.is_live, False
        if was_live:
            self.arena.counters[lib.PSA_COUNTER_GAPS] += 1
            self.arena.set_status_all(lib.PSA_STATUS_LIVE, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
            self.arena.undo_clear()
            self.arena.commit()
        log.warning("event=gap first=%d last=%d reason=%r", first, last, reason)
        self.processor.forget_stale()
        self._begin_again()
        self.arena.set_phase("gap" if was_live else "buffering", reason, gap=(first, last))

    def take(self, records: Records) -> None:
        """Whole blocks, reorg marks and epilogues in arrival order; kept, and applied when live.

        `records` may be a view; what is needed longer is copied.
        """
        tip = self.buffer.tip
        if (
            self.is_live
            and tip is not None
            and not (self._gap_pending or self._in_reorg)
            and self.arena.follows(records, tip)
        ):
            # The common case: readers first, then the history.
            self._apply(records)
            self.buffer.append(records)
            return
        if self._gap_pending:
            head, first = self.arena.head_block, int(records["block_number"][0])
            missing = (head + 1, first - 1) if first > head + 1 else (0, 0)
            self.lost(f"reconnected at block {first}, the head was {head}", *missing)
        self._note_reverts(records)
        try:
            gaps = self.buffer.append(records)
        except BufferOverflow as error:
            self.lost(str(error))
            self.overflow = error
            self._notify("overflow")
            return
        if gaps:
            gap = gaps[-1]
            if gap.first <= gap.last:
                self.lost(
                    f"block {gap.found} came after block {gap.expected - 1}", gap.first, gap.last
                )
            else:
                self.lost(f"block {gap.found} came again without having been reverted")
            self.take(records[_last_begin(records, gap.found) :])
            return
        if self.is_live:
            self._apply(records)
        elif not self._announced and self.buffer.first_block is not None:
            self._announced = True
            self._notify("first_block")

    def _apply(self, records: Records) -> None:
        self.processor.apply(records, min_commit_ns=CATCH_UP_COMMIT_NS)
        if self.processor.has_stale and not self._in_reorg:
            self.arena.commit()  # who goes on to look for stale pools finds committed ones
            self._notify("stale")

    def idle(self) -> None:
        """No more bytes wait: publish what grouped commits left open."""
        self.arena.commit()

    def _note_reverts(self, records: Records) -> None:
        """Keep when reverts came, and whether a reorg is half received."""
        kinds = records["kind"]
        marks = kinds[
            (kinds == lib.PSA_EVENT_REORG_START) | (kinds == lib.PSA_EVENT_REORG_COMPLETE)
        ]
        if len(marks):
            self._in_reorg = bool(marks[-1] == lib.PSA_EVENT_REORG_START)
        reverts = records["flags"][kinds == lib.PSA_EVENT_BEGIN_BLOCK] & lib.PSA_EVENT_IS_REVERT
        if reverts.any():
            self._revert_times.append((time.time_ns(), self.buffer.mark()))

    def _begin_again(self) -> None:
        self.epoch += 1
        self._announced = False
        self._in_reorg = False
        self.buffer.clear()
        self.buffer.keep_blocks = None
        if self._installed:
            # What the last attempt installed is not replayed: nobody may take it for current.
            self.arena.set_status_all(
                lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
            )
            self.arena.commit()
            self._installed = False
        self._notify("broken")

    # -- what the coordinator asks for, between two blocks

    def joining_block(self) -> tuple[int, int | None]:
        """The epoch, and the first whole block of this connection once it has one."""
        return self.epoch, self.buffer.first_block

    def enter(self, epoch: int, phase: str, reason: str = "") -> None:
        """Show `phase` to readers. StreamBroken when `epoch` is over."""
        self._check(epoch)
        self.arena.set_phase(phase, reason)

    def mark(self, epoch: int) -> int:
        """A mark that every revert arriving from now on lies after. StreamBroken."""
        self._check(epoch)
        return self.buffer.mark()

    def mark_at(self, epoch: int, realtime_ns: int) -> int:
        """A mark before every revert that came at or after `realtime_ns`. StreamBroken."""
        self._check(epoch)
        times = self._revert_times
        if len(times) == MAX_REVERT_TIMES and realtime_ns <= times[0][0]:
            return 0
        return next((mark for came, mark in times if came >= realtime_ns), self.buffer.mark())

    def progress(self) -> tuple[int, int | None]:
        """Events kept and the newest kept block."""
        return self.buffer.event_count, self.buffer.tip

    def install(self, epoch: int, candidates: Sequence[Candidate]) -> dict[bytes, ArenaError]:
        """Give pools their slots and values, status syncing, in one commit; the failures by key."""
        self._check(epoch)
        failed: dict[bytes, ArenaError] = {}
        for candidate in candidates:
            spec = candidate.pool.spec
            try:
                slot = self.arena.add_pool(spec)
                self.arena.install(slot, candidate.pool.values, status=lib.PSA_STATUS_SYNCING)
            except (ArenaFull, InvalidEventData) as error:
                failed[spec.key] = error
        self._installed = True
        self.arena.commit()
        return failed

    def go_live(self, epoch: int, candidates: Sequence[Candidate]) -> Verdict:
        """Replay the kept blocks and open the arena, or say what is missing. StreamBroken.

        The pools of `candidates` were installed before. Readers see nothing in between: pools are
        syncing until the last commit of this call.
        """
        self._check(epoch)
        verdict = self._judge(candidates)
        if not verdict.is_clear:
            return verdict
        records = self.buffer.records()
        self.arena.undo_clear()
        self.arena.set_head(max(0, int(records["block_number"][0]) - 1))
        self.processor.forget_stale()
        self.processor.apply(records, min_commit_ns=CATCH_UP_COMMIT_NS)
        self.arena.set_status_all(lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_LIVE)
        self.arena.commit()
        self.buffer.keep_blocks = self._history_blocks
        self.is_live = True
        self._installed = False
        self.arena.set_phase("live")
        if self.processor.has_stale:
            self._notify("stale")
        return verdict

    def replace(self, epoch: int, candidate: Candidate) -> Verdict:
        """Exchange one stale pool's values while the others stay live, or say what is missing.

        StreamBroken; ArenaFull and InvalidEventData leave the pool as it was.
        """
        self._check(epoch)
        key, values = candidate.pool.spec.key, candidate.pool.values
        verdict = self._judge([candidate])
        floor = self.buffer.first_block
        if floor is None or values.block_number + 1 < floor:
            return Verdict(again=(key,))
        if not verdict.is_clear:
            return verdict
        self.arena.commit()
        slot = self.arena.add_pool(candidate.pool.spec)
        try:
            self.arena.install(slot, values, status=lib.PSA_STATUS_SYNCING)
            if self.processor.replay(self.buffer.records(after=values.block_number), slot):
                self.arena.abort()
                return Verdict(again=(key,))
            self.arena.set_status(slot, lib.PSA_STATUS_LIVE)
        except ArenaError:
            self.arena.abort()
            raise
        self.arena.commit()
        return verdict

    def is_stale(self, key: bytes) -> bool:
        """Whether the pool still needs to be scraped; an absolute value may have settled it."""
        return self.arena.find(key) in set(self.arena.stale_slots().tolist())

    def stale_specs(self) -> list[PoolSpec]:
        """The pools to scrape again, one by one; none while a reorg is half received."""
        if self._in_reorg:
            return []
        return [self.arena.spec(slot) for slot in self.processor.take_stale()]

    def drop_buffer(self) -> None:
        """Begin again with the next whole block, after the buffer overflowed."""
        self.overflow = None
        self._begin_again()

    def _check(self, epoch: int) -> None:
        if self.overflow is not None:
            raise self.overflow
        if epoch != self.epoch:
            raise StreamBroken("the stream was interrupted while pools were read")

    def _judge(self, candidates: Sequence[Candidate]) -> Verdict:
        lowest = {
            mark: self.buffer.reverts_since(mark)
            for mark in {candidate.mark for candidate in candidates}
        }
        again = []
        for candidate in candidates:
            reverted = lowest[candidate.mark]
            if reverted is not None and reverted <= candidate.block_number:
                again.append(candidate.pool.spec.key)
        head = self.buffer.last_block
        needed = max((candidate.block_number for candidate in candidates), default=0)
        reached = head is not None and head >= needed
        return Verdict(tuple(again), None if reached else needed, self._in_reorg)


def _last_begin(records: Records, number: int) -> int:
    """Index of the last BeginBlock of block `number` that is not a revert."""
    found = np.flatnonzero(
        (records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
        & (records["flags"] & lib.PSA_EVENT_IS_REVERT == 0)
        & (records["block_number"] == number)
    )
    return int(found[-1])
