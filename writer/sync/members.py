"""Pools of the arena: those that come and go, single ones read again, and copies of them."""

import random
from collections.abc import Collection, Sequence

import numpy as np

from arena.errors import ArenaError
from arena.images import ArenaImage
from arena.native import lib
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.sync.candidate import Candidate, Moment, Verdict
from arena.writer.sync.fees import Fees
from arena.writer.sync.stage import Values
from arena.writer.sync.standing import FeedPart, Standing
from arena.writer.sync.turning import NOT_YET

MOST_UNLISTED = 100  # of one sample: pools whose fee may change without an event


class Members(FeedPart):
    """In the feed thread."""

    def __init__(self, standing: Standing, fees: Fees) -> None:
        super().__init__(standing)
        self._fees = fees

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
        if self.stage.in_envelope:
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
            self.standing.late.pop(key, None)
        self.standing.removals += len(slots)
        self.arena.commit()
        return len(slots)

    def announce(self, specs: Sequence[PoolSpec], since: int) -> tuple[int, list[bytes]] | None:
        """Show new pools as syncing; the head block, and the keys of those that have no values yet.
        ArenaFull names the table to grow; those before it are announced then.

        None, and then to be asked again: inside a reorg, while blocks may be missing, and until all has
        been read that was sent before `idle_count` was `since`, for the head would be older than the
        list.
        """
        is_behind = self.standing.idle_count == since or not self.stage.follows
        if is_behind or self.stage.is_amid_reorg or not self.stage.is_live:
            return None
        self.arena.commit()
        try:
            for spec in specs:
                if self.arena.slot_of(spec.key) is None:
                    self.arena.announce(self.arena.add_pool(spec))
                    self.standing.late[spec.key] = NOT_YET
        finally:
            self.arena.commit()
        unread = set(self.unread())
        return self.arena.head_block, [spec.key for spec in specs if spec.key in unread]

    def grow(self, table: str) -> bool | None:
        """Double the capacity of a table ArenaFull named; False where that does not help, None inside a
        reorg: ask again. ArenaFull when shared memory has no room."""
        if self.stage.is_amid_reorg:
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

    def image(self) -> tuple[Moment, int, ArenaImage] | None:
        """Moment, head block and a copy of the arena; None unless live and between reorgs, and while
        the head block may lack a pool's events, as in `sample`."""
        head = self.arena.head_block
        is_late = any(head <= late != NOT_YET for late in self.standing.late.values())
        if is_late or not self.stage.is_whole:
            return None
        image = self.arena.image()
        return None if image is None else (self.standing.moment(), head, image)

    def sample(
        self, count: int, keys: Sequence[bytes]
    ) -> tuple[Moment, int, dict[bytes, PoolValues]] | None:
        """Moment, head block and values of `count` random live pools, of those of `keys` that are live
        and, with a count, of random ones whose fee may change without an event; None unless live.

        Pools whose events the head block may lack are left out: they are not compared when its hash is
        learned, so it may be another block's.
        """
        if not self.stage.is_whole:
            return None
        self.arena.commit()
        live = self.arena.slots_with(lib.PSA_STATUS_LIVE)
        chosen = set(random.sample(live.tolist(), min(count, len(live))))
        if count and len(others := np.intersect1d(live, self.arena.slots_with_unlisted_fees())):
            chosen |= set(random.sample(others.tolist(), min(MOST_UNLISTED, len(others))))
        chosen |= {slot for key in keys if (slot := self.arena.slot_of(key)) is not None}
        head = self.arena.head_block
        values = {}
        for slot in sorted(chosen):
            key = self.arena.spec(slot).key
            is_live = self.arena.status(slot) == lib.PSA_STATUS_LIVE
            if is_live and self.standing.late.get(key, -1) < head:
                values[key] = self.arena.values(slot)
        return self.standing.moment(), head, values

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
            self.standing.notify("stale")
        return not self.stage.in_envelope

    def doubt(self, keys: Collection[bytes], block_number: int = -1) -> bool:
        """Make pools stale; a block to come, or one kept, up to that one may lack their events. False
        inside a reorg, which may be taken back, and this with it: ask again."""
        self.arena.commit()
        statuses = {lib.PSA_STATUS_LIVE}
        if self.stage.values is Values.GAP:
            statuses.add(lib.PSA_STATUS_SYNCING)  # would be live when the gap is closed
        unread = set(self.arena.unread_slots().tolist())
        for key in keys:
            slot = self.arena.slot_of(key)
            if slot is None:
                continue
            if block_number > self.standing.late.get(key, -1):
                self.standing.late[key] = block_number
            if slot in unread or self.arena.status(slot) not in statuses:
                continue
            self.arena.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        self.arena.commit()
        if self.stage.is_live:
            self.processor.note_stale()
            self.standing.notify("stale")
        return not self.stage.in_envelope

    def replace(self, epoch: int, candidate: Candidate) -> Verdict:
        """Exchange one stale pool's values while the others stay live, or say what is missing.

        StreamBroken; ArenaFull and InvalidEventData leave the pool as it was.
        """
        self.standing.check(epoch)
        key, values = candidate.pool.spec.key, candidate.pool.values
        verdict = self.standing.judge([candidate])
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
            for number, told_key, fee in self._fees.told:
                if told_key == key:
                    self.arena.set_protocol_fee(slot, fee, number)
            self.arena.set_status(slot, lib.PSA_STATUS_LIVE)
        except ArenaError:
            self.arena.abort()
            raise
        self.arena.commit()
        if self.standing.late.get(key) == NOT_YET:
            # Up to the head, hashes may have been learned without comparing its events.
            self.standing.late[key] = self.arena.head_block
        return verdict

    def is_stale(self, key: bytes) -> bool:
        """Whether the pool still needs to be scraped; an absolute value may have settled it."""
        slot = self.arena.slot_of(key)
        return slot is None or self.arena.status(slot) != lib.PSA_STATUS_LIVE

    def take_stale(self) -> list[bytes]:
        """Keys of the pools that are to be read again; none while a reorg is half received."""
        if self.stage.is_amid_reorg:
            return []
        return [self.arena.spec(slot).key for slot in self.processor.take_stale()]
