"""The feed thread's half of joining the stream: blocks kept, applied, and the switch to live.

It never waits. What needs waiting is the coordinator's, which asks for pieces of work that run here
between two blocks.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np

from arena.arena import ArenaImage, PoolSpec, PoolValues
from arena.errors import ArenaError, ArenaFull, BufferOverflow, InvalidEventData
from arena.native import lib
from arena.writer.host.counts import ReorgDepths
from arena.writer.stream.compare import NodeBlock, is_reverted_block
from arena.writer.stream.fees import Change
from arena.writer.stream.history import EventBuffer, Records
from arena.writer.sync.agreement import GapBlocks, GapFacts, Witness
from arena.writer.sync.applying import CATCH_UP_COMMIT_NS, Processor
from arena.writer.sync.branch import COMPARED_BLOCKS, WITNESS_BLOCKS
from arena.writer.sync.candidate import Candidate, Moment, Verdict, all_bring_fees
from arena.writer.sync.turning import NOT_YET, Break, Turning, as_revert, bare_revert, turns

log = logging.getLogger(__name__)


HISTORY_BLOCKS = 1024  # as many as the undo ring
MAX_REVERT_TIMES = 4096
NEVER_NS = 1 << 62  # as min_commit_ns: one commit for all


class StreamBroken(ArenaError):
    """The blocks the work relied on are gone: begin again with the next whole block."""


class Intake:
    """The feed thread's half. Every method but the constructor runs in the feed thread.

    `notify` is called from that thread with one of the strings `first_block`, `broken`, `overflow`,
    `stale`, `tight`, `lost`; it must not block.

    `losses` counts the times the stream may have lost something, reverts included, since its first
    block or the end of its first connection. Only a node can say what it was, so values without a
    block hash join the stream when they were made after the newest loss, and no others.

    With `closes_gaps` a gap leaves the pools' values and the undo ring alone and shows the pools as
    syncing, until close_gap or give_up_gap; without, they are stale at once.
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
        self.processor = processor
        self.arena = processor.arena
        self.buffer = buffer
        self.epoch = 0
        self.is_live = False
        self.idle_count = 0
        self.overflow: BufferOverflow | None = None
        self.closes_gaps = closes_gaps
        self.reorg_depths = ReorgDepths()
        self.losses = 0
        self._lost_ns = 0  # CLOCK_MONOTONIC of the newest
        self._is_first = True  # connection, which has brought nothing yet
        self._is_silent = False  # a connection that has brought nothing yet
        # Blocks the arena holds, up to its head, while a gap is open; None otherwise.
        self._applied: list[Records] | None = None
        self._told_tight = 0  # the generation whose heap was said to be nearly full
        self._return_to = 0  # the lowest block the undo ring leads back to, while a gap is open
        # Pools the arena got while live -> the highest block it holds that the stream may have brought
        # without their events; with a gap open, of the blocks before it.
        self._late: dict[bytes, int] = {}
        # Protocol fees of V4 the node told of kept blocks whose stream does not bring them, in order.
        self._fees_told: list[Change] = []
        self._removals = 0
        self._turning: Turning | None = None  # while reverts come
        # Blocks kept, and _late, when the reorg began that is half received.
        self._before_reorg: tuple[list[Records], dict[bytes, int]] | None = None
        self._reverted: dict[int, None] = {}  # block numbers, the oldest first
        self._notify = notify
        self._history_blocks = history_blocks
        self._revert_times: deque[tuple[int, int]] = deque(maxlen=MAX_REVERT_TIMES)
        self._in_reorg = False
        self._announced = False
        self._is_connected = False
        self._gap_pending = False
        self._installed = False
        self.is_stalled = False

    # -- what the stream brings

    def stalled(self, reason: str) -> None:
        """The connection stands and brings no block: shown until the next one comes. Values stay exact
        at the head."""
        self.is_stalled = True
        phase = "connecting" if self.is_live else self.arena.phase_name
        log.warning("event=stalled phase=%s reason=%r", phase, reason)
        self.arena.set_phase(phase, reason)

    def _moves(self) -> None:
        """A block came after a stall."""
        self.is_stalled = False
        self.arena.set_phase("live" if self.is_live else self.arena.phase_name)

    def connected(self) -> None:
        """A connection is up; what came before its first whole block may be lost."""
        self._is_connected = self._is_silent = True
        self._note_loss()
        if self.is_live:
            self._gap_pending = True
        else:
            self._begin_again()
            self._set_phase_waiting("reconnected")

    def disconnected(self, reason: str) -> None:
        """The connection ended. Values stay exact at the head; half a reorg is taken back."""
        self._settle()
        self._is_connected = self.is_stalled = False
        self._is_first = False
        self._note_loss()
        if self.is_live:
            self.epoch += 1  # what is being read may be of a branch whose reverts nobody will tell
        else:
            self._begin_again()
        self.arena.set_phase("connecting", reason)

    def lost(self, reason: str, first: int = 0, last: int = 0) -> None:
        """Events are gone and a resync is due; block 0 is unknown.

        Live pools go stale, or are syncing while the gap can still be closed.
        """
        self._settle()
        if not self._gap_pending:  # it was noted when the connection came back
            self._note_loss()
        self._gap_pending = False
        was_live, self.is_live = self.is_live, False
        if was_live:
            self.arena.counters[lib.PSA_COUNTER_GAPS] += 1
            if self.closes_gaps:
                self._applied = list(self.buffer.blocks())
                self._return_to = self.arena.head_block - len(self._applied)
                self.arena.set_status_all(lib.PSA_STATUS_LIVE, lib.PSA_STATUS_SYNCING)
            else:
                self._all_stale(lib.PSA_STATUS_LIVE)
            self.arena.commit()
        log.warning("event=gap first=%d last=%d reason=%r", first, last, reason)
        self._begin_again()
        in_gap = was_live or self._applied is not None
        self.arena.set_phase("gap" if in_gap else "buffering", reason, gap=(first, last))

    def open_gap(self, epoch: int, reason: str) -> bool:
        """Go on as if what a gap was closed with were missing still; False when the stream moved."""
        is_whole = self.is_live and not (self._is_amid_reorg or self._gap_pending)
        if epoch != self.epoch or not is_whole:
            return False
        self.lost(reason)
        return True

    def _note_loss(self) -> None:
        """What the stream brought before does not lead to what it will bring."""
        if self._is_first:
            return
        self.losses += 1
        self._lost_ns = time.monotonic_ns()
        self._notify("lost")

    @property
    def _is_amid_reorg(self) -> bool:
        """Reverts are to follow: of an envelope, or up to the tip from before them. The arena turns the
        first and what is above it back at once, and knows the others by that until it begins anew."""
        return self._in_reorg or (self._turning is not None and self._turning.is_short)

    def _settle(self) -> None:
        """End at a block: publish whole ones, take half a reorg back."""
        self.arena.commit()
        self.arena.abort()
        if self._turning is not None and self._turning.is_short and not self._in_reorg:
            # Oldest first, and the rest will not come. It would have taken off what the undo ring did
            # not reach; until then those pools lack no price alone.
            self.arena.set_status_all(
                lib.PSA_STATUS_STALE, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
            )
            self.arena.commit()
        self._in_reorg = False
        self._turning = None
        if self._before_reorg is not None:
            if self.is_live:
                blocks, self._late = self._before_reorg
                self.buffer.restore(blocks)
            self._before_reorg = None

    def _all_stale(self, status: int) -> None:
        """Also what was stale for its price alone: the next price would settle no lost event."""
        for each in (status, lib.PSA_STATUS_STALE):
            self.arena.set_status_all(each, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        self.arena.undo_clear()
        self.processor.forget_stale()

    def _set_phase_waiting(self, reason: str) -> None:
        if self._applied is None:
            self.arena.set_phase("buffering")
        else:
            self.arena.set_phase("gap", f"{reason}; a gap is being closed")

    def take(self, records: Records) -> None:
        """Whole blocks, reorg marks and epilogues in arrival order; kept, and applied when live.

        `records` may be a view; what is needed longer is copied.
        """
        if self._is_silent:  # a producer may have taken the connection up only now
            self._is_silent = False
            self._note_loss()
        self._is_first = False
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
            self._turning = None
            if self.is_stalled:
                self._moves()
            return
        if self.is_stalled:
            self._moves()
        if self._gap_pending:
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
            if self.is_live and self._before_reorg is None:
                # What is returned to when the rest of the reorg never comes. One that begins inside
                # another follows lost messages: back to before both, as the arena does.
                self.arena.commit()
                self._before_reorg = list(self.buffer.blocks()), dict(self._late)
            self._take(records[start:end])

    def _take(self, records: Records) -> None:
        """Units with at most one ReorgStart, in front; cut where a block does not follow, and where
        blocks that came with it are turned back: those are to be in the undo ring by then."""
        for piece in turns(records):
            self._take_piece(piece)

    def _take_piece(self, records: Records) -> None:
        found, self._turning = self._first_break(records)
        if found is None:
            self._take_whole(records)
            return
        self._take_whole(records[: found.at])
        self.lost(found.reason, found.first, found.last)
        self._take_piece(records[found.at :])

    def _first_break(self, records: Records) -> "tuple[Break | None, Turning | None]":
        """Where a block comes that does not follow, or is not to be turned back; and the reverts at hand
        there, or behind them all."""
        kinds = records["kind"]
        marks = np.flatnonzero(
            (kinds == lib.PSA_EVENT_BEGIN_BLOCK) | (kinds == lib.PSA_EVENT_REORG_COMPLETE)
        )
        numbers = records["block_number"][marks].tolist()
        reverts = (records["flags"][marks] & lib.PSA_EVENT_IS_REVERT).tolist()
        ends = (kinds[marks] == lib.PSA_EVENT_REORG_COMPLETE).tolist()
        tip, turning = self.buffer.tip, self._turning
        for index, number, is_revert, is_end in zip(
            marks.tolist(), numbers, reverts, ends, strict=True
        ):
            if is_revert and not is_end:
                after = Turning.of(tip, number) if turning is None else turning.then(number)
                if isinstance(after, str):
                    top = tip if turning is None else turning.top
                    missing = (top + 1, number) if top is not None and number > top else (0, 0)
                    return Break(index, after, *missing), turning
                if self.is_live and self._is_another(records[index:]):
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

    def _is_another(self, reverted: Records) -> bool:
        """The block turned back here by its events, not by the undo ring alone, is another than the one
        of its number that came: the reorg was told already, or what led to the block was lost."""
        number = int(reverted["block_number"][0])
        kept = self.buffer.block(number)
        held = {each for each, _ in self.arena.undoable()}
        if kept is None or (number in held and not len(self.arena.slots_scraped_above(number - 1))):
            return False
        pools = {key for key in self.arena.pools() if self._late.get(key, -1) < number}
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
            self.overflow = error
            self._notify("overflow")
            return
        if self.is_live:
            self._apply(records)
        elif self.buffer.first_block is None:
            self._announced = False  # reverted again: the next one is a first block, too
        elif not self._announced:
            self._announced = True
            self._notify("first_block")

    def _apply(self, records: Records) -> None:
        self.processor.apply(records, min_commit_ns=CATCH_UP_COMMIT_NS)
        if self.arena.is_tight and self._told_tight != self.arena.generation:
            self._told_tight = self.arena.generation
            self._notify("tight")
        if self.processor.has_stale and not self._in_reorg:
            self.arena.commit()  # who goes on to look for stale pools finds committed ones
            self._notify("stale")

    def idle(self) -> None:
        """No more bytes wait: publish what grouped commits left open."""
        self.idle_count += 1
        self.arena.commit()

    def _note_reverts(self, records: Records) -> None:
        """Keep when reverts came, and whether a reorg is half received."""
        kinds = records["kind"]
        marks = kinds[
            (kinds == lib.PSA_EVENT_REORG_START) | (kinds == lib.PSA_EVENT_REORG_COMPLETE)
        ]
        if len(marks):
            self._in_reorg = bool(marks[-1] == lib.PSA_EVENT_REORG_START)
        if not self._in_reorg:
            self._before_reorg = None
        begins = records[kinds == lib.PSA_EVENT_BEGIN_BLOCK]
        is_revert = begins["flags"] & lib.PSA_EVENT_IS_REVERT != 0
        reverts = begins["block_number"][is_revert]
        if len(reverts):
            blocks = zip(begins["block_number"].tolist(), is_revert.tolist(), strict=True)
            starts = bool(kinds[0] == lib.PSA_EVENT_REORG_START)
            self.reorg_depths.note(blocks, tip=self.buffer.tip, starts=starts)
            self._revert_times.append((time.monotonic_ns(), self.buffer.mark()))
            if self.is_live:
                self._not_late_above(int(reverts.min()) - 1)
                if self.closes_gaps and not all_bring_fees(begins[is_revert]):
                    self._fees_unsure_from(int(reverts.min()))
        for number in reverts.tolist():
            self._reverted.pop(number, None)
            self._reverted[number] = None
        while len(self._reverted) > MAX_REVERT_TIMES:
            del self._reverted[next(iter(self._reverted))]

    def _fees_unsure_from(self, block_number: int) -> None:
        """That block is reverted, and the stream would not say that it changed a fee: what was read or
        told of V4 fees from it on may be of the old branch."""
        self._fees_told = [each for each in self._fees_told if each[0] < block_number]
        self.arena.commit()
        unsure = self.arena.slots_with_fees_from(block_number).tolist()
        for slot in unsure:
            self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        if unsure:
            self.processor.note_stale()

    def _not_late_above(self, block_number: int) -> None:
        """All blocks above came, or come, with the events of every pool that has values."""
        for key, late in self._late.items():
            if block_number < late != NOT_YET:
                self._late[key] = block_number

    def _begin_again(self) -> None:
        self.epoch += 1
        self._before_reorg = None
        self._announced = False
        self._in_reorg = False
        self._turning = None
        self.buffer.clear()
        self.buffer.keep_blocks = None
        self._forget_installed()
        self._notify("broken")

    def _forget_installed(self) -> None:
        """What the last attempt installed is not replayed: nobody may take it for current, nor the
        next writer for what was live before a gap."""
        if self._installed:
            self.arena.set_status_all(
                lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL
            )
            self.arena.commit()
            self._installed = False

    # -- what the coordinator asks for, between two blocks

    def joining_block(self) -> tuple[int, int | None]:
        """The epoch, and the first whole block of this connection once it has one."""
        return self.epoch, self.buffer.first_block

    def enter(self, epoch: int, phase: str, reason: str = "") -> None:
        """Show `phase` to readers. StreamBroken when `epoch` is over."""
        self._check(epoch)
        self.arena.set_phase(phase, reason)

    def known_now(self, epoch: int) -> tuple[int, int]:
        """A mark that every revert arriving from now on lies after, and how many losses there were
        before. StreamBroken."""
        self._check(epoch)
        return self.buffer.mark(), self.losses

    def known_at(self, epoch: int, monotonic_ns: int) -> tuple[int, int]:
        """The same for that time: the mark lies before every revert that came then or after."""
        self._check(epoch)
        losses = self.losses if not self.losses or monotonic_ns > self._lost_ns else 0
        times = self._revert_times
        if len(times) == MAX_REVERT_TIMES and monotonic_ns <= times[0][0]:
            return 0, losses
        later = (mark for came, mark in times if came >= monotonic_ns)
        return next(later, self.buffer.mark()), losses

    def is_outdated(self, candidate: Candidate) -> bool:
        """Whether the stream has lost something since the values were made, and no hash can tell
        whether they are of its branch all the same. Any thread may ask."""
        has_proof = self.closes_gaps and candidate.pool.block_hash is not None
        return not has_proof and candidate.losses < self.losses

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

    def go_live(
        self, epoch: int, candidates: Sequence[Candidate], earlier: Sequence[NodeBlock] = ()
    ) -> Verdict:
        """Replay the kept blocks and open the arena, or say what is missing. StreamBroken.

        The pools of `candidates` were installed before; `earlier` are blocks of the node that lead up
        to the stream's first. Readers see nothing in between: pools are syncing until the last
        commit of this call.
        """
        self._check(epoch)
        verdict = self._judge(candidates)
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
        self.processor.apply(records, min_commit_ns=CATCH_UP_COMMIT_NS)
        self.arena.set_status_all(lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_LIVE)
        self.arena.commit()
        self.buffer.keep_blocks = self._history_blocks
        joined = {candidate.pool.spec.key for candidate in candidates}
        self._late = {key: late for key, late in self.late.items() if key not in joined}
        self._fees_told = []  # the node is asked again, from the first block kept on
        self.is_live = True
        self._installed = False
        self.arena.set_phase("live")
        if self.processor.has_stale:
            self._notify("stale")
        return verdict

    def join_failed(self, reason: str) -> None:
        """Show why an attempt to go live ended; another one may follow."""
        self._forget_installed()
        self.arena.set_phase("gap", reason)

    def _leave_out_others(self, candidates: Sequence[Candidate]) -> None:
        """Pools installed on the way that are no candidates any more must not go live."""
        keys = {candidate.pool.spec.key for candidate in candidates}
        unread = set(self.arena.unread_slots().tolist())
        for slot in self.arena.slots_with(lib.PSA_STATUS_SYNCING).tolist():
            if slot not in unread and self.arena.spec(slot).key not in keys:
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)

    # -- gaps

    @property
    def late(self) -> dict[bytes, int]:
        """Pools whose events the kept blocks may leave out, and up to which block."""
        if self.is_live:
            return dict(self._late)
        # What was kept since a gap came after the stream had begun to bring them.
        return {key: late for key, late in self._late.items() if late == NOT_YET}

    def kept(self, epoch: int) -> tuple[tuple[Records, ...], dict[bytes, int]]:
        """The kept blocks, ascending, and `late`. StreamBroken."""
        self._check(epoch)
        return tuple(self.buffer.blocks()), self.late

    def unwitnessed(self, after: int) -> tuple[int, list[Records], dict[bytes, int]] | None:
        """A mark, the newest blocks the arena holds above `after`, and `late`; None unless live and
        whole."""
        if not self.is_live or self._is_amid_reorg or self._gap_pending:
            return None
        blocks = list(self.buffer.blocks(after=after))[-WITNESS_BLOCKS:]
        return self.buffer.mark(), blocks, self.late

    def valid(self, witnesses: Sequence[Witness]) -> list[Witness]:
        """The witnesses at or above whose block no revert came since."""
        return [
            each
            for each in witnesses
            if (lowest := self.buffer.reverts_since(each.mark)) is None or lowest > each.number
        ]

    def valid_at(self, moment: Moment, witnesses: Sequence[Witness]) -> list[Witness]:
        """The witnesses that hold for a copy taken then, too: no revert came in between, no gap, which
        may have been closed by turning back blocks without any, and no pool went, with whose events a
        block might have been another."""
        if (moment.epoch, moment.removals) != (self.epoch, self._removals):
            return []
        return self.valid([replace(each, mark=min(moment.mark, each.mark)) for each in witnesses])

    def gap_facts(self, epoch: int, witnesses: Sequence[Witness]) -> GapFacts | None:
        """What it takes to ask a node for the missing blocks; None while no block has come, or no
        gap is open. StreamBroken."""
        self._check(epoch)
        kept = tuple(self.buffer.blocks())[:COMPARED_BLOCKS]
        if self._applied is None or not kept:
            return None
        head, first = self.arena.head_block, int(kept[0]["block_number"][0])
        usable = tuple(
            each
            for each in self.valid(witnesses)
            if self._return_to <= each.number <= head and each.number < first
        )
        return GapFacts(self.buffer.mark(), head, usable, kept, self.late)

    @property
    def has_gap(self) -> bool:
        """A gap is open and may still be closed."""
        return self._applied is not None

    def close_gap(
        self, epoch: int, facts: GapFacts, blocks: GapBlocks, doubted: Collection[bytes] = ()
    ) -> bool:
        """Return to the common ancestor, apply what was missing and what came since, and go live,
        in one commit; False when the stream has moved since `facts`. StreamBroken.

        Reverted blocks are turned back by the undo ring, with the events they brought. Pools `doubted`
        are stale then.
        """
        self._check(epoch)
        applied = self._applied
        lowest = self.buffer.reverts_since(facts.mark)
        moved = lowest is not None and lowest < facts.first
        if (
            applied is None
            or self._is_amid_reorg
            or moved
            or self.buffer.first_block != facts.first
        ):
            return False
        ancestor = blocks.ancestor.number
        kept = [each for each in applied if each["block_number"][0] <= ancestor]
        orphans = {int(each["block_number"][0]): each for each in applied[len(kept) :]}
        orphaned = [
            as_revert(orphans[number]) if number in orphans else bare_revert(number)
            for number in range(self.arena.head_block, ancestor, -1)
        ]
        # A block turned back without its events says nothing of pools whose values were read above it.
        # The ancestor's hash, and a block from before the stream brought a pool's events, say nothing of
        # that pool.
        unknown = {
            slot
            for key, late in self._late.items()
            if ancestor <= late != NOT_YET and (slot := self.arena.slot_of(key)) is not None
        }
        unknown |= {slot for key in doubted if (slot := self.arena.slot_of(key)) is not None}
        if len(orphans) < len(orphaned):
            unknown |= set(self.arena.slots_scraped_above(ancestor).tolist())
        held = {number for number, _ in self.arena.undoable()}
        if not held.issuperset(range(ancestor + 1, self.arena.head_block + 1)):
            # The undo ring does not reach back to it: what those blocks changed stays changed.
            unknown |= set(self.arena.pools().values())
        if orphaned and not all(all_bring_fees(each[:1]) for each in orphaned):
            unknown |= set(self.arena.slots_with_fees_from(ancestor + 1).tolist())
        unknown -= set(self.arena.unread_slots().tolist())  # those have no values to be unsure of
        self._fees_told = [each for each in self._fees_told if each[0] <= ancestor]
        missing = [block.records for block in blocks.missing]
        records = np.concatenate([*orphaned, *missing, *self.buffer.blocks()])
        try:
            self.processor.apply(records, min_commit_ns=NEVER_NS)
            self.arena.set_status_all(lib.PSA_STATUS_SYNCING, lib.PSA_STATUS_LIVE)
            for slot in unknown:
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
            self.arena.commit()
            if unknown:
                self.processor.note_stale()
        except BaseException:
            self.arena.abort()
            raise
        self.buffer.prepend([*kept, *missing])
        self.buffer.keep_blocks = self._history_blocks
        self._applied = None
        self._not_late_above(ancestor)
        self.is_live = True
        self.arena.set_phase("live")
        if self.processor.has_stale:
            self._notify("stale")
        return True

    def give_up_gap(self, reason: str) -> None:
        """The gap stays open: every pool is to be read anew."""
        if self._applied is None:
            return
        self._applied = None
        self._all_stale(lib.PSA_STATUS_SYNCING)
        self._all_stale(lib.PSA_STATUS_LIVE)  # of a writer taken over
        self.arena.commit()
        self.arena.set_phase("gap", reason)

    def adopt(self) -> list[Witness]:
        """Go on from what the arena holds of a former writer, as if a gap had opened behind its head;
        the blocks whose hashes it kept, ascending. Pools stay what they are at that block."""
        found = self.arena.undoable()
        self._applied = []
        self._return_to = found[-1][0] - 1 if found else self.arena.head_block
        self._late = dict.fromkeys(self.unread(), NOT_YET)
        mark = self.buffer.mark()
        return [Witness(number, known, mark) for number, known in reversed(found) if known]

    def lowest_known(self) -> int:
        """The lowest block the undo ring leads to whose hash the arena holds; 0 without any."""
        return min((number for number, known in self.arena.undoable() if known), default=0)

    def note_hashes(self, witnesses: Sequence[Witness]) -> None:
        """Keep the hashes of blocks the arena holds where another writer finds them."""
        for each in self.valid(witnesses):
            self.arena.note_hash(each.number, each.hash)

    # -- protocol fees of V4 that the stream does not bring

    def fees_known(self) -> int | None:
        """The block up to which they are in the arena; None when that is the head, unless live and
        whole."""
        if not self.is_live or self._is_amid_reorg or self._gap_pending:
            return None
        known = self.arena.fees_block
        return known if known < self.arena.head_block else None

    def note_fees(self, after: int, witness: Witness, changes: Sequence[Change]) -> None:
        """Take over what the node told of the blocks above `after` up to `witness`, unless the stream
        has moved since."""
        if self.fees_known() != after or not self.valid([witness]):
            return
        self.arena.commit()
        for number, key, fee in changes:
            if (slot := self.arena.slot_of(key)) is not None:
                with suppress(ValueError):  # has no values yet: it is read after that block
                    self.arena.set_protocol_fee(slot, fee, number)
            log.info("event=protocol_fee block=%d pool=0x%s fee=%d", number, key.hex(), fee)
        first = self.buffer.first_block or 0
        told = [each for each in self._fees_told if each[0] >= first]
        self._fees_told = [*told, *changes]
        self._fees_are_known(witness.number)

    def fees_lost(self, after: int, witness: Witness, reason: str) -> None:
        """The node cannot tell them: every V4 pool is to be read again."""
        if self.fees_known() != after or not self.valid([witness]):
            return
        self.arena.commit()
        slots = self.arena.slots_with_fees_from(0).tolist()
        log.warning("event=fees_not_told pools=%d reason=%r", len(slots), reason)
        for slot in slots:
            with suppress(ValueError):
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        self._fees_are_known(witness.number)

    def _fees_are_known(self, block_number: int) -> None:
        self.arena.fees_block = block_number
        self.arena.commit()
        if len(self.arena.stale_slots()):
            self.processor.note_stale()
            self._notify("stale")

    # -- pools that come and go

    def pools(self) -> dict[bytes, PoolSpec]:
        """The pools there are, by key."""
        return {key: self.arena.spec(slot) for key, slot in self.arena.pools().items()}

    def stale(self) -> list[bytes]:
        """Keys of pools that are to be read again."""
        return [self.arena.spec(slot).key for slot in self.arena.stale_slots().tolist()]

    def unread(self) -> list[bytes]:
        """Keys of pools that are only announced."""
        return [self.arena.spec(slot).key for slot in self.arena.unread_slots().tolist()]

    def remove(self, keys: Sequence[bytes]) -> int | None:
        """Take pools away, and how many there were; None inside a reorg: ask again. Its end then shows
        them as stale."""
        slots = [slot for key in keys if (slot := self.arena.slot_of(key)) is not None]
        if self._in_reorg:
            # The rest of the reorg may leave out their events; what has no values shows nothing.
            unread = set(self.arena.unread_slots().tolist())
            for slot in slots:
                if slot in unread:
                    continue
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
            return None
        self.arena.commit()
        for slot in slots:
            self.arena.remove_pool(slot)
        for key in keys:
            self._late.pop(key, None)
        self._removals += len(slots)
        self.arena.commit()
        return len(slots)

    def announce(self, specs: Sequence[PoolSpec], since: int) -> tuple[int, list[bytes]] | None:
        """Show new pools as syncing; the head block, and the keys of those that have no values yet.
        ArenaFull names the table to grow; those before it are announced then.

        None, and then to be asked again: inside a reorg, while blocks may be missing, and until all has
        been read that was sent before `idle_count` was `since`, for the head would be older than the
        list.
        """
        is_behind = self.idle_count == since or self._gap_pending or not self._is_connected
        if is_behind or self._is_amid_reorg or not self.is_live:
            return None
        self.arena.commit()
        try:
            for spec in specs:
                if self.arena.slot_of(spec.key) is None:
                    self.arena.announce(self.arena.add_pool(spec))
                    self._late[spec.key] = NOT_YET
        finally:
            self.arena.commit()
        unread = set(self.unread())
        return self.arena.head_block, [spec.key for spec in specs if spec.key in unread]

    def grow(self, table: str) -> bool | None:
        """Double the capacity of a table ArenaFull named; False where that does not help, None inside a
        reorg: ask again. ArenaFull when shared memory has no room."""
        if self._is_amid_reorg:
            return None
        arena = self.arena
        if table == "pools":
            arena.grow(max_pools=2 * arena.max_pools, max_tokens=2 * arena.max_tokens)
        elif table == "tokens":
            arena.grow(max_tokens=2 * arena.max_tokens)
        elif table == "tick heap":
            arena.grow(tick_bytes=2 * arena.tick_bytes)
        else:
            return False
        return True

    def size_of(self, table: str) -> tuple[int, int]:
        """The capacity of a table `grow` knows, of the tick heap in bytes, and the generation."""
        arena = self.arena
        sizes = {"pools": arena.max_pools, "tokens": arena.max_tokens}
        return sizes.get(table, arena.tick_bytes), arena.generation

    # -- beside it

    def head_block(self) -> int:
        return self.arena.head_block

    def kept_range(self) -> tuple[int | None, int | None]:
        """The first and the last block kept."""
        return self.buffer.first_block, self.buffer.last_block

    def idle_turns(self) -> int:
        """How often all that had come was read."""
        return self.idle_count

    def live_head(self) -> int:
        """The head block; 0 unless live."""
        return self.arena.head_block if self.is_live else 0

    def image(self) -> tuple[Moment, int, ArenaImage] | None:
        """Moment, head block and a copy of the arena; None unless live and between reorgs, and while
        the head block may lack a pool's events, as in `sample`."""
        head = self.arena.head_block
        is_late = any(head <= late != NOT_YET for late in self._late.values())
        if is_late or not self.is_live or self._is_amid_reorg or self._gap_pending:
            return None
        image = self.arena.image()
        return None if image is None else (self._moment(), head, image)

    def _moment(self) -> Moment:
        return Moment(self.epoch, self.buffer.mark(), self._removals)

    def sample(
        self, count: int, keys: Sequence[bytes]
    ) -> tuple[Moment, int, dict[bytes, PoolValues]] | None:
        """Moment, head block and values of `count` random live pools and of those of `keys` that are
        live; None unless live. Pools whose events the head block may lack are left out: they are not
        compared when its hash is learned, so it may be another block's.
        """
        if not self.is_live or self._is_amid_reorg or self._gap_pending:
            return None
        self.arena.commit()
        live = self.arena.slots_with(lib.PSA_STATUS_LIVE)
        chosen = set(random.sample(live.tolist(), min(count, len(live))))
        chosen |= {slot for key in keys if (slot := self.arena.slot_of(key)) is not None}
        head = self.arena.head_block
        values = {}
        for slot in sorted(chosen):
            key = self.arena.spec(slot).key
            is_live = self.arena.status(slot) == lib.PSA_STATUS_LIVE
            if is_live and self._late.get(key, -1) < head:
                values[key] = self.arena.values(slot)
        return self._moment(), head, values

    def audited(self, compared: int, wrong: Sequence[bytes]) -> None:
        """Account for pools compared with a node; those that differ go stale and are read again."""
        counters = self.arena.counters
        counters[lib.PSA_COUNTER_AUDITED] += compared
        counters[lib.PSA_COUNTER_AUDIT_DIFFERENCES] += len(wrong)
        self.suspect(wrong)

    def suspect(self, keys: Sequence[bytes]) -> bool:
        """Pools whose values may be of another branch go stale and are read again. False inside a reorg,
        which may be taken back, and this with it: ask again."""
        for key in keys:
            if (slot := self.arena.slot_of(key)) is not None:
                self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        if keys:
            self.arena.commit()
            self.processor.note_stale()
            self._notify("stale")
        return not self._in_reorg

    def doubt(self, keys: Collection[bytes], block_number: int = -1) -> None:
        """Make pools stale; a block to come, or one kept, up to that one may lack their events."""
        self.arena.commit()
        statuses = {lib.PSA_STATUS_LIVE}
        if self._applied is not None:
            statuses.add(lib.PSA_STATUS_SYNCING)  # would be live when the gap is closed
        unread = set(self.arena.unread_slots().tolist())
        for key in keys:
            slot = self.arena.slot_of(key)
            if slot is None:
                continue
            if block_number > self._late.get(key, -1):
                self._late[key] = block_number
            if slot in unread or self.arena.status(slot) not in statuses:
                continue
            self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        self.arena.commit()
        if self.is_live:
            self.processor.note_stale()
            self._notify("stale")

    # -- single pools

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
            for number, told_key, fee in self._fees_told:
                if told_key == key:
                    self.arena.set_protocol_fee(slot, fee, number)
            self.arena.set_status(slot, lib.PSA_STATUS_LIVE)
        except ArenaError:
            self.arena.abort()
            raise
        self.arena.commit()
        if self._late.get(key) == NOT_YET:
            # Up to the head, hashes may have been learned without comparing its events.
            self._late[key] = self.arena.head_block
        return verdict

    def is_stale(self, key: bytes) -> bool:
        """Whether the pool still needs to be scraped; an absolute value may have settled it."""
        slot = self.arena.slot_of(key)
        return slot is None or self.arena.status(slot) != lib.PSA_STATUS_LIVE

    def take_stale(self) -> list[bytes]:
        """Keys of the pools that are to be read again; none while a reorg is half received."""
        if self._is_amid_reorg:
            return []
        return [self.arena.spec(slot).key for slot in self.processor.take_stale()]

    def drop_buffer(self) -> None:
        """Begin again with the next whole block, after the buffer overflowed."""
        self.overflow = None
        self._note_loss()  # of blocks, and of reverts, that no mark will tell of
        self._begin_again()

    def _check(self, epoch: int) -> None:
        if self.overflow is not None:
            raise self.overflow
        if epoch != self.epoch or self._gap_pending or not self._is_connected:
            raise StreamBroken("the stream was interrupted while pools were read")

    def _judge(self, candidates: Sequence[Candidate]) -> Verdict:
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
                or (candidate.trails and candidate.block_number in self._reverted)
            ):
                again.append(candidate.pool.spec.key)
        head = self.buffer.last_block
        needed = max((candidate.block_number for candidate in candidates), default=0)
        reached = head is not None and head >= needed
        return Verdict(tuple(again), None if reached else needed, self._is_amid_reorg)
