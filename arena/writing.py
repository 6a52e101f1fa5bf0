"""The arena as its writer holds it: pools, blocks, commits, liveness."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from arena.capacities import Capacities
from arena.generations import Hold, create, take_over
from arena.images import ArenaImage, take_image
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOLS, UNLISTED_FEES
from arena.native import ffi, lib
from arena.reads import NO_POOL, is_visible, read_pool, slots_where
from arena.segment import PRIVATE, UNDO_NBYTES, Access
from arena.specs import PoolSpec, pad_key, read_spec
from arena.values import Fault, PoolValues, pack_line, pack_ticks, read_fault, unpack
from arena.writable import WritableGeneration


class WriterArena:
    """The arena as its one writer holds it: control segment, present generation, and the open commit.

    Only one thread may change pools and commit; heartbeat and set_phase may come from another. Use after
    close raises ArenaClosed.
    """

    def __init__(self, hold: Hold) -> None:
        self.name = hold.name
        self._hold = hold
        self._specs: dict[int, PoolSpec] = {}
        self._line = ffi.new("psa_line *")
        self._slot = ffi.new("uint32_t *")

    # Life

    @classmethod
    def create(
        cls,
        name: str,
        *,
        max_pools: int = 16384,
        max_tokens: int | None = None,
        tick_bytes: int = 64 << 20,
        undo_blocks: int = 1024,
        undo_bytes: int = UNDO_NBYTES,
        undo_records: int | None = None,
        access: Access = PRIVATE,
        chain_id: int = 0,
        image: ArenaImage | None = None,
    ) -> Self:
        """Build a new generation and make it the current one.

        `max_tokens` is twice `max_pools` unless given, `undo_records` what fits `undo_bytes`. With an
        `image` it begins with that content, and capacities are at least the image's; LayoutMismatch
        when the image is no arena's, ArenaDamaged when it contradicts itself. ArenaBusy while another
        writer lives, ArenaFull when shared memory has no room for the fixed tables, OwnerMismatch when
        the name belongs to another user. What this user has under the name and no living writer holds is
        replaced when it is no control segment of this layout: of another one, or damaged.
        """
        if undo_records is None:
            undo_records = undo_bytes // slots.UNDO_RECORD.itemsize
        capacities = Capacities(
            max_pools=max_pools,
            max_tokens=2 * max_pools if max_tokens is None else max_tokens,
            tick_bytes=tick_bytes,
            undo_blocks=undo_blocks,
            undo_records=undo_records,
        )
        hold = create(name, capacities, access, chain_id=chain_id, image=image)
        return cls(hold)

    @classmethod
    def take_over(cls, name: str, access: Access | None = None) -> Self:
        """Continue on the segment a dead or closed writer left, at its last commit.

        `access` is that from now on; None leaves it. Pools that were live then still are, at that
        block, also those it showed as syncing while a gap was open; those it was just reading are stale.
        ArenaMissing, ArenaPermission, ArenaBusy, LayoutMismatch; ArenaDamaged when it was cut short or
        its content contradicts itself; ArenaNotReady when its creation was never finished.
        """
        return cls(take_over(name, access))

    def grow(
        self,
        *,
        max_pools: int | None = None,
        max_tokens: int | None = None,
        tick_bytes: int | None = None,
        undo_bytes: int | None = None,
    ) -> None:
        """Go on in a new generation with larger tables, which attached readers follow.

        What is given is a capacity, None keeps it; ValueError for one below the present. Slots, commits
        and what can be undone stay; `counters` and `native` are other objects then. Between two commits:
        RuntimeError inside a reorg envelope. ArenaFull when shared memory has no room, for both
        generations at the same time; the present one then stays.
        """
        present = self._live()
        self.commit()
        if present.writer.in_reorg:
            raise RuntimeError(f"{self.name} cannot grow inside a reorg envelope")
        capacities = Capacities.of(present.header).grown(
            self.name,
            max_pools=max_pools,
            max_tokens=max_tokens,
            tick_bytes=tick_bytes,
            undo_bytes=undo_bytes,
        )
        self._hold.grow(capacities)

    def image(self) -> ArenaImage | None:
        """A copy of everything at the last commit, and of what undoes its newest 64 blocks; None inside
        a reorg envelope."""
        generation = self._live()
        self.commit()
        return None if generation.writer.in_reorg else take_image(generation)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(unlink=False)

    def close(self, *, unlink: bool) -> None:
        """Stop writing: state closed, phase stopped, lock given back. Committed pools stay readable.

        With `unlink` the names go too; readers that are attached keep their frozen mapping. Changes
        since the last commit are dropped. A second close does nothing; in a forked child close only
        lets go.
        """
        self._hold.close(unlink_names=unlink)

    def _live(self) -> WritableGeneration:
        return self._hold.generation

    # Pools

    def add_pool(self, spec: PoolSpec) -> int:
        """Slot of a pool, new or known. A new one is invisible until its first install or announcement
        is committed.

        ValueError for a key of a wrong length, or one whose removal is not committed yet; ArenaFull when
        pools or tokens are at capacity.
        """
        slot = self._live().add_pool(spec)
        self._specs.pop(slot, None)
        return slot

    def find(self, key: bytes) -> int | None:
        """Slot of a key of 20 or 32 bytes; None when it has none, or was removed."""
        found = lib.psa_pool_find(self.native, pad_key(key), self._slot) == lib.PSA_OK
        return int(self._slot[0]) if found else None

    def pools(self) -> dict[bytes, int]:
        """Slots of the pools that are committed and not removed, by key of 20 or 32 bytes."""
        there = slots_where(is_visible(self._live().lines()["status"]))
        return {self.spec(slot).key: slot for slot in there.tolist()}

    def slot_of(self, key: bytes) -> int | None:
        """Slot of a pool that is committed and not removed; None for any other key."""
        slot = self.find(key)
        return None if slot is None or self.status(slot) in NO_POOL else slot

    def status(self, slot: int) -> int:
        """Committed status of a slot."""
        present = self._live()
        committed = present.header.committed
        status = lib.psa_pool_read(present.arena, slot, 0, committed, self._line)
        return slots.STATUS_ABSENT if status else int(self._line.fee_status) >> 24

    def announce(self, slot: int) -> None:
        """Show a new pool as syncing, without values, in the open commit.

        ValueError when it is shown already, PoolRemoved when it was taken away.
        """
        present = self._live()
        status = lib.psa_pool_announce(present.writer, slot)
        if status == lib.PSA_BAD_ARGUMENT:
            raise ValueError(f"slot {slot} shows a pool already, or was never given out")
        present.check(status, f"slot {slot}", slot=slot)

    def remove_pool(self, slot: int) -> None:
        """Take a pool away in the open commit; its slot may be used again once that is committed.

        Ask add_pool for a slot if it comes back. ValueError when the slot shows no pool.
        """
        if lib.psa_pool_remove(self.native, slot):
            raise ValueError(f"slot {slot} shows no pool that could be removed")
        self._specs.pop(slot, None)

    def spec(self, slot: int) -> PoolSpec:
        """What add_pool was given, as the segment holds it. IndexError for a slot never used."""
        present = self._live()
        found = self._specs.get(slot)
        if found is None:
            found = self._specs[slot] = read_spec(present.arena, slot)
        return found

    def install(
        self, slot: int, values: PoolValues, status: int = slots.STATUS_SYNCING, *, unsure: int = 0
    ) -> None:
        """Replace a pool's whole state in the open commit.

        InvalidEventData when the values contradict each other or do not fit; ArenaFull when the tick
        heap is at capacity; PoolRemoved when the pool was taken away. Nothing is changed then.
        """
        present = self._live()
        spec = self.spec(slot)
        line = pack_line(spec.protocol, values, status, unsure)
        ticks, gross, net = pack_ticks(values.ticks)
        found = lib.psa_pool_install(
            present.writer,
            slot,
            line,
            ffi.from_buffer("int32_t *", ticks),
            ffi.from_buffer("uint64_t *", gross),
            ffi.from_buffer("uint64_t *", net),
            len(values.ticks),
        )
        present.check(found, f"state of pool {spec.key.hex()}", key=spec.key, slot=slot)

    def set_status(self, slot: int, status: int, unsure: int = 0) -> None:
        """Change one pool's status to SYNCING, LIVE or STALE in the open commit.

        ValueError for another status, or when the slot shows no pool that has been read.
        """
        if lib.psa_pool_set_status(self.native, slot, status, unsure):
            raise ValueError(
                f"slot {slot} cannot get status {status}: it shows no pool with values"
            )

    def set_status_all(self, from_status: int, to_status: int, unsure: int = 0) -> None:
        """Change the status of all pools that have status `from_status`, in the open commit."""
        self._live().set_status_all(from_status, to_status, unsure)

    def set_protocol_fee(self, slot: int, protocol_fee: int, block_number: int) -> None:
        """A V4 pool's protocol fee as a block up to the head set it, in the open commit; without
        effect when its fees are of that block or a later one. A fee no contract takes makes it stale.

        ValueError for a pool without values, or of another protocol.
        """
        status = lib.psa_pool_set_protocol_fee(self.native, slot, protocol_fee, block_number)
        if status == lib.PSA_INVALID_EVENT_DATA:
            self.set_status(slot, lib.PSA_STATUS_STALE, lib.PSA_UNSURE_ALL)
        elif status:
            raise ValueError(f"slot {slot} shows no V4 pool with values")

    def values(self, slot: int) -> PoolValues:
        """A pool's committed values; `block_number` is that of the head. ValueError for a slot without a
        pool."""
        present = self._live()
        status, words = read_pool(present.arena, slot, 0, present.header.committed)
        if status or words.line["status"][0] in NO_POOL:
            raise ValueError(f"slot {slot} of {self.name} holds no pool")
        return unpack(self.spec(slot).protocol, self.head_block, words)

    def stale_slots(self) -> npt.NDArray[np.uint32]:
        """(n,) slots whose committed status is STALE, ascending."""
        return self.slots_with(slots.STATUS_STALE)

    def slots_with(self, status: int) -> npt.NDArray[np.uint32]:
        """(n,) slots with that committed status, ascending."""
        return slots_where(self._live().lines()["status"] == status)

    def unread_slots(self) -> npt.NDArray[np.uint32]:
        """(n,) slots of pools that are announced and have no values yet, ascending."""
        return slots_where(self._live().lines()["unsure"] & slots.UNSURE_UNREAD != 0)

    def slots_scraped_above(self, block_number: int) -> npt.NDArray[np.uint32]:
        """(n,) slots of pools whose values were read above that block, ascending."""
        return slots_where(self._live().lines()["scrape_block"] > block_number)

    def slots_with_fees_from(self, block_number: int) -> npt.NDArray[np.uint32]:
        """(n,) slots of V4 pools whose fees were read, or told, at that block or above, ascending."""
        present = self._live()
        chosen = present.lines()["fee_block"] >= block_number
        for slot in np.flatnonzero(chosen).tolist():
            chosen[slot] = PROTOCOLS[present.arena.statics[slot].protocol].has_stored_fees
        return slots_where(chosen)

    def slots_with_unlisted_fees(self) -> npt.NDArray[np.uint32]:
        """(n,) slots of pools whose fee may change without an event, ascending."""
        arena = self._live().arena
        nbytes = arena.header.slots_used * slots.STATIC.itemsize
        rows = np.frombuffer(ffi.buffer(arena.statics, nbytes), slots.STATIC)
        return slots_where(np.isin(rows["protocol"], UNLISTED_FEES))

    # Blocks

    def apply(
        self,
        records: npt.NDArray[np.void],
        *,
        min_commit_ns: int = 0,
        only_slot: int | None = None,
    ) -> None:
        """Apply complete units of event records (dtype layouts.events.EVENT) in arrival order.

        Commits at block ends when `min_commit_ns` passed since the last commit (0: each block).
        `only_slot` restricts to one pool and leaves head, undo ring and commits alone. Events that
        cannot be applied are counted and listed by take_faults.
        """
        self._live().apply(
            records, min_commit_ns, slots.NO_SLOT if only_slot is None else only_slot
        )

    def follows(self, records: npt.NDArray[np.void], tip: int) -> bool:
        """Whether `records` are nothing but whole blocks from tip + 1 on, none of them reverted."""
        pointer = ffi.from_buffer("psa_event *", records)
        return bool(lib.psa_blocks_follow(pointer, len(records), tip))

    def commit(self) -> None:
        """Publish the open commit and wake waiting readers; nothing when it is empty."""
        self._live().commit()

    def abort(self) -> None:
        """Drop everything since the last commit."""
        present = self._live()
        present.check(lib.psa_abort(present.writer), "abort")

    def undo_clear(self) -> None:
        """Forget all undo entries: after a gap no block below can be undone."""
        present = self._live()
        present.check(lib.psa_undo_clear(present.writer), "undo ring")

    def undoable(self) -> list[tuple[int, bytes | None]]:
        """Blocks that can be undone, the head first: number, and hash where it was noted."""
        return self._live().undoable()

    def note_hash(self, block_number: int, block_hash: bytes) -> bool:
        """Keep the hash of a block that can be undone; False when there is none of that number."""
        if len(block_hash) != 32:
            raise ValueError(f"a block hash has 32 bytes, not {len(block_hash)}")
        return bool(lib.psa_undo_set_hash(self.native, block_number, block_hash) == lib.PSA_OK)

    def set_head(
        self,
        block_number: int,
        *,
        block_hash: bytes = bytes(32),
        timestamp: int = 0,
        base_fee: int = 0,
        stream_seq: int = 0,
    ) -> None:
        """Set the head the open commit will publish."""
        writer = self.native
        record = writer.record
        record.block_number = record.fees_block = block_number
        if len(block_hash) != 32:
            raise ValueError(f"a block hash has 32 bytes, not {len(block_hash)}")
        ffi.memmove(record.block_hash, block_hash, 32)
        record.timestamp = timestamp
        record.base_fee = base_fee
        record.stream_seq = stream_seq
        writer.pending = 1

    def take_faults(self) -> tuple[list[Fault], int]:
        """Faults since the last call, and how many more there were than the list holds."""
        writer = self.native
        listed = min(writer.fault_count, lib.PSA_FAULTS)
        found = [read_fault(writer.faults[index]) for index in range(listed)]
        dropped = writer.fault_count - listed
        writer.fault_count = 0
        return found, dropped

    @property
    def fees_block(self) -> int:
        """The block up to which protocol fees of V4 are in the open commit."""
        return int(self.native.record.fees_block)

    @fees_block.setter
    def fees_block(self, block_number: int) -> None:
        writer = self.native
        writer.record.fees_block = block_number
        writer.pending = 1

    @property
    def head_block(self) -> int:
        """Head of the last commit; 0 = none yet."""
        return self._live().head_block

    @property
    def generation(self) -> int:
        """Number of the data segment, from 1."""
        return self._live().number

    @property
    def chain_id(self) -> int:
        """Chain the pools belong to; 0 = unknown."""
        return self._hold.office.chain_id

    @property
    def max_pools(self) -> int:
        """Capacity in pools, as of the present generation."""
        return int(self._live().header.max_pools)

    @property
    def max_tokens(self) -> int:
        """Capacity in tokens, as of the present generation."""
        return int(self._live().header.max_tokens)

    @property
    def tick_bytes(self) -> int:
        """Size of the tick heap, as of the present generation."""
        return int(self._live().header.heap_nbytes)

    @property
    def undo_bytes(self) -> int:
        """Size of the undo ring, as of the present generation."""
        return Capacities.of(self._live().header).undo_bytes

    @property
    def is_tight(self) -> bool:
        """More than three quarters of the tick heap were handed out at some time."""
        head = self._live().header
        return bool(4 * head.heap_top > 3 * head.heap_nbytes)

    @property
    def native(self) -> Any:
        """The psa_writer; it dies with close, and another one goes on after grow."""
        return self._live().writer

    @property
    def counters(self) -> npt.NDArray[np.uint64]:
        """(384,) writable view of the counters of this generation, indices as
        layouts.header.COUNTER_NAMES."""
        return self._live().counters

    # Liveness

    def heartbeat(self) -> None:
        """Tell readers that this writer is alive and not hung."""
        self._hold.office.heartbeat()

    @property
    def phase_name(self) -> str:
        """The phase that readers see."""
        return self._hold.office.phase.name

    @property
    def phase_reason(self) -> str:
        """Why it is in that phase."""
        return self._hold.office.phase.reason

    def set_phase(self, phase: str | int, reason: str = "", gap: tuple[int, int] = (0, 0)) -> None:
        """Tell readers what the writer is doing. `reason` is cut at 216 bytes; ValueError for no phase."""
        self._hold.office.set_phase(phase, reason, gap)
