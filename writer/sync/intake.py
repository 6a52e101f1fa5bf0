"""The feed thread's half of joining the stream: blocks kept, applied, and the switch to live.

It never waits. What needs waiting is the coordinator's, which asks for pieces of work that run here
between two blocks.
"""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from arena.errors import ArenaError, ArenaFull, BufferOverflow, InvalidEventData
from arena.native import lib
from arena.writer.host.counts import ReorgDepths
from arena.writer.stream.compare import NodeBlock, is_reverted_block
from arena.writer.stream.history import EventBuffer, Records
from arena.writer.sync.applying import Processor
from arena.writer.sync.candidate import Candidate, Verdict, all_bring_fees
from arena.writer.sync.fees import Fees
from arena.writer.sync.gap_side import GapSide
from arena.writer.sync.members import Members
from arena.writer.sync.stage import Values
from arena.writer.sync.standing import MAX_REVERT_TIMES, Standing
from arena.writer.sync.turning import first_break, turns

log = logging.getLogger(__name__)

HISTORY_BLOCKS = 1024  # as many as the undo ring


class Intake:
    """The feed thread's half. Every method but the constructor runs in the feed thread.

    With `closes_gaps` a gap leaves the pools' values and the undo ring alone and shows the pools as
    syncing, until gap.close or gap.give_up; without, they are stale at once.
    """

    def __init__(
        self,
        processor: Processor,
        buffer: EventBuffer,
        *,
        notify: Callable[[str], None],
        history_blocks: int = HISTORY_BLOCKS,
        closes_gaps: bool = False,
    ):
        standing = Standing(
            processor,
            buffer,
            notify=notify,
            history_blocks=history_blocks,
            closes_gaps=closes_gaps,
        )
        self.standing = standing
        self.stage = standing.stage
        self.arena = standing.arena
        self.buffer = standing.buffer
        self.processor = standing.processor
        self.fees = Fees(standing)
        self.members = Members(standing, self.fees)
        self.gap = GapSide(standing, self.fees, self.members)
        self.reorg_depths = ReorgDepths()
        self.is_stalled = False
        self._told_tight = 0  # the generation whose heap was said to be nearly full
        # Blocks kept, and those late, when the reorg began that is half received.
        self._before_reorg: tuple[list[Records], dict[bytes, int]] | None = None
        self._announced = False

    def stalled(self, reason: str) -> None:
        """The connection stands and brings no block: shown until the next one comes. Values stay exact
        at the head."""
        self.is_stalled = True
        phase = "connecting" if self.stage.is_live else self.arena.phase_name
        log.warning("event=stalled phase=%s reason=%r", phase, reason)
        self.arena.set_phase(phase, reason)

    def is_apart(self, reason: str) -> None:
        """Live, and what may be wrong is not looked for: shown until it is said with no reason."""
        shown = self.arena.phase_name, self.arena.phase_reason
        if self.stage.phase() == "live" and not self.is_stalled and shown != ("live", reason):
            if reason:
                log.warning("event=apart reason=%r", reason)
            self.arena.set_phase("live", reason)

    def _moves(self) -> None:
        """A block came after a stall."""
        self.is_stalled = False
        self.arena.set_phase("live" if self.stage.is_live else self.arena.phase_name)

    def connected(self) -> None:
        """A connection is up; what came before its first whole block may be lost."""
        self.standing.is_silent = True
        self.standing.note_loss()
        self._forget_installed()
        self.stage.goes("connected")
        if not self.stage.is_live:
            self._begin_again()
            is_gap = self.stage.values is Values.GAP
            reason = "reconnected; a gap is being closed" if is_gap else ""
            self.arena.set_phase(self.stage.phase(), reason)

    def disconnected(self, reason: str) -> None:
        """The connection ended. Values stay exact at the head; half a reorg is taken back."""
        self._settle()
        self.is_stalled = False
        self.standing.is_first = False
        self.standing.note_loss()
        self._forget_installed()
        self.stage.goes("disconnected")
        if self.stage.is_live:
            # What is being read may be of a branch whose reverts nobody will tell.
            self.standing.epoch += 1
        else:
            self._begin_again()
        self.arena.set_phase(self.stage.phase(), reason)

    def lost(self, reason: str, first: int = 0, last: int = 0) -> None:
        """Events are gone and a resync is due; block 0 is unknown.

        Live pools go stale, or are syncing while the gap can still be closed.
        """
        self._settle()
        if (
            self.stage.values is not Values.DOUBTFUL
        ):  # then it was noted when the connection came back
            self.standing.note_loss()
        self._forget_installed()
        closes = self.standing.closes_gaps
        if self.stage.is_live:
            self.arena.counters[lib.PSA_COUNTER_GAPS] += 1
            if closes:
                self.gap.open()
            else:
                self.standing.all_stale(lib.PSA_STATUS_LIVE)
            self.arena.commit()
        self.stage.goes("lost, to be closed" if closes else "lost")
        log.warning("event=gap first=%d last=%d reason=%r", first, last, reason)
        self._begin_again()
        self.arena.set_phase(self.stage.phase(), reason, gap=(first, last))

    def open_gap(self, epoch: int, reason: str) -> bool:
        """Go on as if what a gap was closed with were missing still; False when the stream moved."""
        if epoch != self.standing.epoch or not self.stage.is_whole:
            return False
        self.lost(reason)
        return True

    def _settle(self) -> None:
        """End at a block: publish whole ones, take half a reorg back."""
        self.arena.commit()
        self.arena.abort()
        if (
            self.stage.turning is not None
            and self.stage.turning.is_short
            and not self.stage.in_envelope
        ):
            # Oldest first, and the rest will not come. It would have taken off what the undo ring did
            # not reach; until then those pools lack no price alone.
            self.arena.set_status_all(
                lib.PSA_STATUS_STALE, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
            )
            self.arena.commit()
        self.stage.reorg_is_over()
        if self._before_reorg is not None:
            if self.stage.is_live:
                blocks, self.standing.late = self._before_reorg
                self.buffer.restore(blocks)
            self._before_reorg = None

    def take(self, records: Records) -> None:
        """Whole blocks, reorg marks and epilogues in arrival order; kept, and applied when live.

        `records` may be a view; what is needed longer is copied.
        """
        if self.standing.is_silent:  # a producer may have taken the connection up only now
            self.standing.is_silent = False
            self.standing.note_loss()
        self.standing.is_first = False
        tip = self.buffer.tip
        if (
            self.stage.values is Values.LIVE
            and tip is not None
            and not self.stage.in_envelope
            and self.arena.follows(records, tip)
        ):
            # The common case: readers first, then the history.
            self._apply(records)
            self.buffer.append(records)
            self.stage.turning = None
            if self.is_stalled:
                self._moves()
            return
        if self.is_stalled:
            self._moves()
        if self.stage.values is Values.DOUBTFUL:
            begins = records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK
            if not begins.any():
                return  # the end of a reorg whose blocks are lost
            head = self.arena.head_block
            first = int(records["block_number"][np.argmax(begins)])
            missing = (head + 1, first - 1) if first > head + 1 else (0, 0)
            self.lost(f"reconnected at block {first}, the head was {head}", *missing)
        starts = np.flatnonzero(records["kind"] == lib.PSA_EVENT_REORG_START).tolist()
        self._take(records[: starts[0]] if starts else records)
        for start, end in pairwise([*starts, len(records)]):
            if self.stage.is_live and self._before_reorg is None:
                # What is returned to when the rest of the reorg never comes. One that begins inside
                # another follows lost messages: back to before both, as the arena does.
                self.arena.commit()
                self._before_reorg = list(self.buffer.blocks()), dict(self.standing.late)
            self._take(records[start:end])

    def _take(self, records: Records) -> None:
        """Units with at most one ReorgStart, in front; cut where a block does not follow, and where
        blocks that came with it are turned back: those are to be in the undo ring by then."""
        for piece in turns(records):
            self._take_piece(piece)

    def _take_piece(self, records: Records) -> None:
        is_another = self._is_another if self.stage.is_live else None
        found, self.stage.turning = first_break(
            records, self.buffer.tip, self.stage.turning, is_another
        )
        if found is None:
            self._take_whole(records)
            return
        self._take_whole(records[: found.at])
        self.lost(found.reason, found.first, found.last)
        self._take_piece(records[found.at :])

    def _is_another(self, reverted: Records) -> bool:
        """The block turned back here by its events, not by the undo ring alone, is another than the one
        of its number that came: the reorg was told already, or what led to the block was lost."""
        number = int(reverted["block_number"][0])
        kept = self.buffer.block(number)
        held = {each for each, _ in self.arena.undoable()}
        if kept is None or (number in held and not len(self.arena.slots_scraped_above(number - 1))):
            return False
        pools = {key for key in self.arena.pools() if self.standing.late.get(key, -1) < number}
        end = int(np.argmax(reverted["kind"] == lib.PSA_EVENT_END_BLOCK))
        return not is_reverted_block(kept, reverted[: end + 1], pools)

    def _take_whole(self, records: Records) -> None:
        if not len(records):
            return
        self._note_reverts(records)
        try:
            self.buffer.append(records)
        except BufferOverflow as error:
            self.lost(str(error))
            self.standing.overflow = error
            self.standing.notify("overflow")
            return
        if self.stage.is_live:
            self._apply(records)
        elif self.buffer.first_block is None:
            self._announced = False  # reverted again: the next one is a first block, too
        elif not self._announced:
            self._announced = True
            self.standing.notify("first_block")

    @property
    def is_plain(self) -> bool:
        """`take` would apply and keep blocks that follow the newest, and do nothing else (`pumped`)."""
        standing, buffer = self.standing, self.buffer
        is_told = not (self.is_stalled or standing.is_silent or self.processor.has_stale)
        is_history = buffer.tip is not None and buffer.keep_blocks is not None
        is_between = self._before_reorg is None and not standing.is_first
        return self.stage.is_plain and is_told and is_history and is_between

    @property
    def tells_tight(self) -> bool:
        """A tick heap that is nearly full is to be told of."""
        return self._told_tight != self.arena.generation

    def pumped(self, records: Records, ends: Sequence[int]) -> None:
        """Keep blocks that were applied as they came, `ends` behind each, and tell what they did."""
        self.processor.account()
        self._tell()
        self.buffer.take_over(records, ends)

    def _apply(self, records: Records) -> None:
        self.processor.apply(records, min_commit_ns=self.processor.catch_up_ns)
        self._tell()

    def _tell(self) -> None:
        if self.arena.is_tight and self.tells_tight:
            self._told_tight = self.arena.generation
            self.standing.notify("tight")
        if self.processor.has_stale and not self.stage.in_envelope:
            self.arena.commit()  # who goes on to look for stale pools finds committed ones
            self.standing.notify("stale")

    def idle(self) -> None:
        """No more bytes wait: publish what grouped commits left open."""
        self.standing.idle_count += 1
        self.arena.commit()

    def _note_reverts(self, records: Records) -> None:
        """Keep when reverts came, and whether a reorg is half received."""
        kinds = records["kind"]
        marks = kinds[
            (kinds == lib.PSA_EVENT_REORG_START) | (kinds == lib.PSA_EVENT_REORG_COMPLETE)
        ]
        if len(marks):
            self.stage.in_envelope = bool(marks[-1] == lib.PSA_EVENT_REORG_START)
        if not self.stage.in_envelope:
            self._before_reorg = None
        begins = records[kinds == lib.PSA_EVENT_BEGIN_BLOCK]
        is_revert = begins["flags"] & lib.PSA_EVENT_IS_REVERT != 0
        reverts = begins["block_number"][is_revert]
        if len(reverts):
            blocks = zip(begins["block_number"].tolist(), is_revert.tolist(), strict=True)
            starts = bool(kinds[0] == lib.PSA_EVENT_REORG_START)
            self.reorg_depths.note(blocks, tip=self.buffer.tip, starts=starts)
            self.standing.revert_times.append((time.monotonic_ns(), self.buffer.mark()))
            if self.stage.is_live:
                self.standing.not_late_above(int(reverts.min()) - 1)
                if self.standing.closes_gaps and not all_bring_fees(begins[is_revert]):
                    self.fees.unsure_from(int(reverts.min()))
        for number in reverts.tolist():
            self.standing.reverted.pop(number, None)
            self.standing.reverted[number] = None
        while len(self.standing.reverted) > MAX_REVERT_TIMES:
            del self.standing.reverted[next(iter(self.standing.reverted))]

    def _begin_again(self) -> None:
        self.standing.epoch += 1
        self._before_reorg = None
        self._announced = False
        self.stage.reorg_is_over()
        self.buffer.clear()
        self.buffer.keep_blocks = None
        self._forget_installed()
        self.standing.notify("broken")

    def _forget_installed(self) -> None:
        """What the last attempt installed is not replayed: nobody may take it for current, nor the
        next writer for what was live before a gap."""
        if self.stage.values is Values.JOINING:
            self.arena.set_status_all(
                lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
            )
            self.arena.commit()
            self.stage.goes("began again")

    def joining_block(self) -> tuple[int, int | None]:
        """The epoch, and the first whole block of this connection once it has one."""
        return self.standing.epoch, self.buffer.first_block

    def enter(self, epoch: int, phase: str, reason: str = "") -> None:
        """Show `phase` to readers. StreamBroken when `epoch` is over."""
        self.standing.check(epoch)
        self.arena.set_phase(phase, reason)

    def progress(self) -> tuple[int, int | None]:
        """Events kept and the newest kept block."""
        return self.buffer.event_count, self.buffer.tip

    def install(self, epoch: int, candidates: Sequence[Candidate]) -> dict[bytes, ArenaError]:
        """Give pools their slots and values, status syncing, in one commit; the failures by key."""
        self.standing.check(epoch)
        failed: dict[bytes, ArenaError] = {}
        for candidate in candidates:
            spec = candidate.pool.spec
            try:
                slot = self.arena.add_pool(spec)
                self.arena.install(slot, candidate.pool.values, status=lib.PSA_STATUS_SYNCING)
            except (ArenaFull, InvalidEventData) as error:
                failed[spec.key] = error
        self.stage.goes("installed")
        self.arena.commit()
        return failed

    def go_live(
        self, epoch: int, candidates: Sequence[Candidate], earlier: Sequence[NodeBlock] = ()
    ) -> Verdict:
        """Replay the kept blocks and open the arena, or say what is missing. StreamBroken.

        The pools of `candidates` were installed before; `earlier` are blocks of the node that lead up
        to the stream's first. Readers see nothing in between: pools are syncing until the last
        commit of this call.
        """
        self.standing.check(epoch)
        verdict = self.standing.judge(candidates)
        if not verdict.is_clear:
            return verdict
        if earlier:
            if earlier[-1].header.number + 1 != self.buffer.first_block:
                return Verdict(moved=True)
            self.buffer.prepend([block.records for block in earlier])
        self._leave_out_others(candidates)
        records = self.buffer.records()
        self.arena.undo_clear()
        self.arena.set_head(max(0, int(records["block_number"][0]) - 1))
        self.processor.forget_stale()
        self.processor.apply(records, min_commit_ns=self.processor.catch_up_ns)
        self.arena.set_status_all(lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_LIVE)
        self.arena.commit()
        self.buffer.keep_blocks = self.standing.history_blocks
        joined = {candidate.pool.spec.key for candidate in candidates}
        self.standing.late = {
            key: late for key, late in self.standing.late_now.items() if key not in joined
        }
        self.fees.told = []  # the node is asked again, from the first block kept on
        self.gap.applied = None
        self.standing.goes_live("joined")
        return verdict

    def join_failed(self, reason: str) -> None:
        """Show why an attempt to go live ended; another one may follow."""
        self._forget_installed()
        self.stage.goes("join failed")
        self.arena.set_phase(self.stage.phase(), reason)

    def _leave_out_others(self, candidates: Sequence[Candidate]) -> None:
        """Pools installed on the way that are no candidates any more must not go live."""
        keys = {candidate.pool.spec.key for candidate in candidates}
        unread = set(self.arena.unread_slots().tolist())
        for slot in self.arena.slots_with(lib.PSA_STATUS_SYNCING).tolist():
            if slot not in unread and self.arena.spec(slot).key not in keys:
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)

    def head_block(self) -> int:
        return self.arena.head_block

    def kept_range(self) -> tuple[int | None, int | None]:
        """The first and the last block kept."""
        return self.buffer.first_block, self.buffer.last_block

    def idle_turns(self) -> int:
        """How often all that had come was read."""
        return self.standing.idle_count

    def live_head(self) -> int:
        """The head block; 0 unless live."""
        return self.arena.head_block if self.stage.is_live else 0

    def drop_buffer(self) -> None:
        """Begin again with the next whole block, after the buffer overflowed."""
        self.standing.overflow = None
        self.standing.note_loss()  # of blocks, and of reverts, that no mark will tell of
        self._begin_again()
