"""What the parts of the feed thread's half share: arena, kept blocks, and what the stream has lost."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from arena.errors import ArenaError, BufferOverflow
from arena.native import lib
from arena.writer.stream.history import EventBuffer
from arena.writer.sync.agreement import Witness
from arena.writer.sync.applying import Processor
from arena.writer.sync.candidate import Candidate, Moment, Verdict
from arena.writer.sync.stage import Stage
from arena.writer.sync.turning import NOT_YET

MAX_REVERT_TIMES = 4096


class StreamBroken(ArenaError):
    """The blocks the work relied on are gone: begin again with the next whole block."""


class Standing:
    """`notify` is called from the feed thread with one of the strings `first_block`, `broken`, `overflow`,
    `stale`, `tight`, `lost`; it must not block.

    `losses` counts the times the stream may have lost something, reverts included, since its first
    block or the end of its first connection. Only a node can say what it was, so values without a
    block hash join the stream when they were made after the newest loss, and no others.
    """

    def __init__(
        self,
        processor: Processor,
        buffer: EventBuffer,
        *,
        notify: Callable[[str], None],
        history_blocks: int,
        closes_gaps: bool,
    ) -> None:
        self.processor = processor
        self.arena = processor.arena
        self.buffer = buffer
        self.notify = notify
        self.history_blocks = history_blocks
        self.closes_gaps = closes_gaps
        self.stage = Stage()
        self.epoch = 0
        self.idle_count = 0
        self.overflow: BufferOverflow | None = None
        self.losses = 0
        self.lost_ns = 0  # CLOCK_MONOTONIC of the newest
        self.is_first = True  # connection, which has brought nothing yet
        self.is_silent = False  # a connection that has brought nothing yet
        # Pools the arena got while live -> the highest block it holds that the stream may have brought
        # without their events; with a gap open, of the blocks before it.
        self.late: dict[bytes, int] = {}
        self.removals = 0
        self.reverted: dict[int, None] = {}  # block numbers, the oldest first
        self.revert_times: deque[tuple[int, int]] = deque(maxlen=MAX_REVERT_TIMES)

    def note_loss(self) -> None:
        """What the stream brought before does not lead to what it will bring."""
        if self.is_first:
            return
        self.losses += 1
        self.lost_ns = time.monotonic_ns()
        self.notify("lost")

    def all_stale(self, status: int) -> None:
        """Also what was stale for its price alone: the next price would settle no lost event."""
        for each in (status, lib.PSA_STATUS_STALE):
            self.arena.set_status_all(each, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        self.arena.undo_clear()
        self.processor.forget_stale()

    def goes_live(self, what: str) -> None:
        """To the stage that `what` leads to; pools that went stale on the way are told of now."""
        self.stage.goes(what)
        self.arena.set_phase(self.stage.phase())
        if self.processor.has_stale:
            self.notify("stale")

    def not_late_above(self, block_number: int) -> None:
        """All blocks above came, or come, with the events of every pool that has values."""
        for key, late in self.late.items():
            if block_number < late != NOT_YET:
                self.late[key] = block_number

    def known_now(self, epoch: int) -> tuple[int, int]:
        """A mark that every revert arriving from now on lies after, and how many losses there were
        before. StreamBroken."""
        self.check(epoch)
        return self.buffer.mark(), self.losses

    def known_at(self, epoch: int, monotonic_ns: int) -> tuple[int, int]:
        """The same for that time: the mark lies before every revert that came then or after."""
        self.check(epoch)
        losses = self.losses if not self.losses or monotonic_ns > self.lost_ns else 0
        times = self.revert_times
        if len(times) == MAX_REVERT_TIMES and monotonic_ns <= times[0][0]:
            return 0, losses
        later = (mark for came, mark in times if came >= monotonic_ns)
        return next(later, self.buffer.mark()), losses

    def is_outdated(self, candidate: Candidate) -> bool:
        """Whether the stream has lost something since the values were made, and no hash can tell
        whether they are of its branch all the same. Any thread may ask."""
        has_proof = self.closes_gaps and candidate.pool.block_hash is not None
        return not has_proof and candidate.losses < self.losses

    @property
    def late_now(self) -> dict[bytes, int]:
        """Pools whose events the kept blocks may leave out, and up to which block."""
        if self.stage.is_live:
            return dict(self.late)
        # What was kept since a gap came after the stream had begun to bring them.
        return {key: late for key, late in self.late.items() if late == NOT_YET}

    def valid(self, witnesses: Sequence[Witness]) -> list[Witness]:
        """The witnesses at or above whose block no revert came since."""
        return [
            each
            for each in witnesses
            if (lowest := self.buffer.reverts_since(each.mark)) is None or lowest > each.number
        ]

    def valid_now(self, witnesses: Sequence[Witness]) -> tuple[int, list[Witness]]:
        """A mark of now, and those that are valid."""
        return self.buffer.mark(), self.valid(witnesses)

    def valid_at(self, moment: Moment, witnesses: Sequence[Witness]) -> list[Witness]:
        """The witnesses that hold for a copy taken then, too: no revert came in between, no gap, which
        may have been closed by turning back blocks without any, and no pool went, with whose events a
        block might have been another."""
        if (moment.epoch, moment.removals) != (self.epoch, self.removals):
            return []
        return self.valid([replace(each, mark=min(moment.mark, each.mark)) for each in witnesses])

    def moment(self) -> Moment:
        return Moment(self.epoch, self.buffer.mark(), self.removals)

    def check(self, epoch: int) -> None:
        if self.overflow is not None:
            raise self.overflow
        if epoch != self.epoch or not self.stage.follows:
            raise StreamBroken("the stream was interrupted while pools were read")

    def judge(self, candidates: Sequence[Candidate]) -> Verdict:
        lowest = {
            mark: self.buffer.reverts_since(mark)
            for mark in {candidate.mark for candidate in candidates}
        }
        again = []
        for candidate in candidates:
            reverted = lowest[candidate.mark]
            if (
                self.is_outdated(candidate)
                or (reverted is not None and reverted <= candidate.block_number)
                or (candidate.trails and candidate.block_number in self.reverted)
            ):
                again.append(candidate.pool.spec.key)
        head = self.buffer.last_block
        needed = max((candidate.block_number for candidate in candidates), default=0)
        reached = head is not None and head >= needed
        return Verdict(tuple(again), None if reached else needed, self.stage.is_amid_reorg)


class FeedPart:
    """One duty of the feed thread's half."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.stage = standing.stage
        self.arena = standing.arena
        self.buffer = standing.buffer
        self.processor = standing.processor
