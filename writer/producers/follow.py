"""A node's chain as a producer tells it: whole blocks, and reorgs as envelopes.

Heads come from outside, as hints or by asking; what happened since the last one is worked out from
parent hashes alone, so a head that was skipped, told twice or told late leads to the same blocks.
A block's logs are read with the proof that none is missing (block_logs.py).
Nothing is sent before all of it is known: a unit is a block, or a reorg with what replaces it.

Order, positions and signs are the producer's: a reorg's old blocks newest first and each from its
last event on, without V2 reserves; then the new blocks; then what reverted pools are at the new tip.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from arena.errors import ChainMoved, LogInvalid, NodeBehind, ReorgTooDeep, Scraper
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.writer.node.client import Header, Log, NodeClient, Receipts
from arena.writer.protocols.contract import EventFields
from arena.writer.protocols.held import EVENT_TOPICS, price_slots, protocol_of, quickest_first
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers.rpc import NEWEST_SETTLES_S
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.blocks import FETCHED_BLOCKS, fetch_headers
from arena.writer.stream.event_logs import block_records
from arena.writer.stream.evidence import WholeBlock
from arena.writer.stream.history import Records

log = logging.getLogger(__name__)


HISTORY_BLOCKS = 512  # kept to be reverted; twice the depth that an arena undoes at least
MAX_BACKFILL_BLOCKS = 4096
MAX_FRAME_NBYTES = 192  # of what this module sends, prefix included


class FollowedNode(NodeClient, Protocol):
    """What is asked of the node besides headers and logs."""

    def head(self) -> Header:
        """The newest block's header."""

    def words(self, block_hash: bytes, places: Sequence[tuple[bytes, bytes]]) -> Sequence[int]:
        """Storage words by (account, slot) at the end of that block."""


class Follower:
    """Turns heads of `node` into units for the pools of `targets`.

    `targets` may be exchanged between two calls of `advance`; from then on blocks carry the events
    of the new pools, reverted blocks too. The first head is the first block. `doubted` is called with
    the pools of which a block may lack events, and its number, before its unit, which has none of
    theirs: their values are to be of that block or a later one.
    """

    def __init__(
        self,
        node: FollowedNode,
        targets: Sequence[PoolTarget],
        *,
        history_blocks: int = HISTORY_BLOCKS,
        doubted: Callable[[frozenset[bytes], int], None] = lambda keys, block: None,
    ):
        self._node = node
        self._doubted = doubted
        self._reader = BlockLogs(node, EVENT_TOPICS)
        self._history_blocks = history_blocks
        self._kept: list[WholeBlock] = []
        self._first: Header | None = None  # doubtful, to be looked at again: a doubt takes time
        self.targets = targets

    @property
    def targets(self) -> Sequence[PoolTarget]:
        return tuple(self._targets.values())

    @targets.setter
    def targets(self, targets: Sequence[PoolTarget]) -> None:
        self._targets = {target.spec.key: target for target in targets}
        self._specs = {target.spec.key: target.spec for target in targets}

    @property
    def tip(self) -> Header | None:
        """The block the last unit ended at."""
        return self._kept[-1].header if self._kept else None

    def forget(self) -> None:
        """Begin again: the next head is a first block."""
        self._kept.clear()
        self._first = None

    def tell(
        self,
        block_hash: bytes,
        logs: Sequence[Log] | None,
        receipts: Receipts | Scraper | None = None,
    ) -> None:
        """What the node just gave as all logs by that hash, and as receipts, so that it is not asked
        again."""
        self._reader.tell(block_hash, logs, receipts)

    @property
    def asks_receipts(self) -> bool:
        """They are worth asking for together with a header."""
        return self._reader.has_receipts

    def is_shorter(self, head: Header) -> bool:
        """Whether `head` is a block that was already sent, below the tip: the chain was cut back, or
        the node that answers is behind."""
        return self._has(head) and head.number != self._kept[-1].header.number

    def advance(self, head: Header) -> Iterator[tuple[Header, Records]]:
        """What leads from the tip to `head`: (its last block, records) of each unit, in order.

        The tip has moved when a unit is yielded. ChainMoved, NodeBehind and LogInvalid: ask for the
        head again, it may have moved; ReorgTooDeep when the common block is not kept any more or too
        many blocks are missing: only `forget` helps. Whatever the node raises.
        """
        if not self._kept:
            new = [self._doubtful_first() or head]
        elif head.hash == self._kept[-1].header.hash:
            return
        elif self.is_shorter(head):
            new = []
        else:
            new = self._branch_to(head)
        ancestor = new[0].number - 1 if new else head.number
        old = [each for each in self._kept if each.header.number > ancestor]
        if old:
            yield self._reorganise(old, new, head)
            return
        for block in self._read(new):
            records = self._records(block)  # what cannot be told is not kept as told
            self._keep(block)
            yield block.header, records

    def _doubtful_first(self) -> Header | None:
        """The first block that was tried, while it is canonical."""
        first = self._first
        if first is None:
            return None
        now = self._node.headers([first.number])[0]
        return first if now is not None and now.hash == first.hash else None

    # -- where the branches meet

    def _at(self, number: int) -> WholeBlock | None:
        index = number - self._kept[0].header.number if self._kept else -1
        return self._kept[index] if 0 <= index < len(self._kept) else None

    def _has(self, header: Header) -> bool:
        kept = self._at(header.number)
        return kept is not None and kept.header.hash == header.hash

    def _branch_to(self, head: Header) -> list[Header]:
        """The headers above the common block, up to `head`."""
        lowest, tip = self._kept[0].header.number, self._kept[-1].header.number
        headers = [head]
        step = 1
        while True:
            first = headers[0]
            kept = self._at(first.number - 1)
            if kept is not None and kept.header.hash == first.parent_hash:
                # More than needed may have been read at once.
                return [each for each in headers if not self._has(each)]
            if first.number <= lowest + 1:
                raise ReorgTooDeep(
                    f"block {lowest}, the oldest of {len(self._kept)} kept, is not canonical any "
                    "more: the reorg is deeper than what is kept",
                    block=lowest,
                )
            if first.number - tip > MAX_BACKFILL_BLOCKS:
                raise ReorgTooDeep(
                    f"blocks {tip + 1} to {first.number} were missed, at most "
                    f"{MAX_BACKFILL_BLOCKS} are filled in",
                    block=tip,
                )
            if first.number - 1 > tip:
                low = tip + 1
            else:
                low = max(lowest + 1, first.number - step)
                step *= 2
            more = fetch_headers(self._node, low, first.number - 1)
            if more[-1].hash != first.parent_hash:
                raise ChainMoved(
                    f"block {first.number - 1} changed while headers were read",
                    block=first.number - 1,
                )
            headers = more + headers

    # -- logs

    def _read(self, headers: Sequence[Header]) -> Iterator[WholeBlock]:
        done = 0
        while done < len(headers):
            self._first = None
            try:
                blocks = self._reader.read(headers[done : done + FETCHED_BLOCKS], self._specs)
            except NodeBehind:
                if not self._kept:
                    self._first = headers[done]
                raise
            for block in blocks:
                doubtful = block.doubtful & self._specs.keys()
                if doubtful:
                    self._doubted(doubtful, block.header.number)
                yield block
                done += 1

    def _keep(self, block: WholeBlock) -> None:
        self._kept.append(block)
        del self._kept[: -self._history_blocks]

    def _records(self, block: WholeBlock) -> Records:
        specs = self._specs
        if block.doubtful:
            specs = {key: spec for key, spec in specs.items() if key not in block.doubtful}
        return block_records(block.header, block.logs, specs, block.first_logs)

    # -- reorgs

    def _reorganise(
        self, old: Sequence[WholeBlock], new: Sequence[Header], head: Header
    ) -> tuple[Header, Records]:
        blocks = list(self._read(new))
        lacking = {k for k, spec in self._specs.items() if any(b.may_lack(spec) for b in old)}
        if lacking:  # what they changed is not turned back
            self._doubted(frozenset(lacking), head.number)
        try:
            sent = [self._records(block) for block in old]
        except LogInvalid as error:  # of a pool that was listed since
            raise ReorgTooDeep(
                f"a reverted block cannot be told: {error}", block=old[0].header.number - 1
            ) from error
        epilogues = self._epilogues(sent, head)
        start, complete = _mark(lib.PSA_EVENT_REORG_START), _mark(lib.PSA_EVENT_REORG_COMPLETE)
        ranges = ([each.header for each in old], new)
        for index, headers in enumerate(ranges):
            if headers:
                start["present"] |= 3 << (2 * index)
                start["words"][0, 3 * index : 3 * index + 3] = (
                    headers[0].number,
                    headers[-1].number,
                    len(headers),
                )
        complete["block_number"] = head.number
        records = np.concatenate(
            [
                start,
                *(_reverted(each) for each in reversed(sent)),
                *(self._records(block) for block in blocks),
                *epilogues,
                complete,
            ]
        )
        del self._kept[-len(old) :]
        for block in blocks:
            self._keep(block)
        log.info(
            "event=reorg depth=%d ancestor=%d new=%d tip=%d",
            len(old),
            old[0].header.number - 1,
            len(new),
            head.number,
        )
        return head, records

    def _epilogues(self, sent: Sequence[Records], head: Header) -> list[Records]:
        """V2 reserves and V3/V4 prices at `head` of what was reverted, in order of first touch."""
        touched: dict[bytes, bool] = {}  # whether its price was, in order of first touch
        for records in sent:
            updates = records[records["flags"] & lib.PSA_EVENT_IN_BLOCK != 0]
            for kind, key, nbytes in zip(
                updates["kind"].tolist(),
                updates["key"],
                updates["key_nbytes"].tolist(),
                strict=True,
            ):
                identity = key.tobytes()[:nbytes]
                is_price = kind == protocol_of(self._specs[identity]).price_event
                touched[identity] = touched.get(identity, False) or is_price
        specs = quickest_first(self._specs[key] for key, is_priced in touched.items() if is_priced)
        targets = [self._targets[spec.key] for spec in specs]
        if not targets:
            return []
        places = [(each.address, slot) for each in targets for slot in price_slots(each)]
        found = self._node.words(head.hash, places)
        time.sleep(NEWEST_SETTLES_S)
        if self._node.head().hash != head.hash:
            found = self._node.words(head.hash, places)
        words = iter(found)
        values_of = {each.spec.key: [next(words) for _ in price_slots(each)] for each in targets}
        # A pool whose first events were reverted has nothing; so has any by a node that lacks its state.
        empty = frozenset(key for key, values in values_of.items() if not any(values))
        if empty:
            self._doubted(empty, head.number)
        epilogues = []
        for target in targets:
            values = values_of[target.spec.key]
            fields = protocol_of(target.spec).final(target, values)
            if fields is not None and target.spec.key not in empty:
                epilogues.append(_epilogue(target, fields, head.number))
        return epilogues


def _mark(kind: int) -> Records:
    records = np.zeros(1, EVENT)
    records["kind"] = kind
    return records


def _reverted(block: Records) -> Records:
    """The same block as it is taken back: its last event first, no reserves, payloads as they were."""
    kept = block[block["kind"] != lib.PSA_EVENT_V2_SYNC]
    reverted = np.concatenate([kept[:1], kept[-2:0:-1], kept[-1:]])
    reverted["flags"] |= lib.PSA_EVENT_IS_REVERT
    reverted["words"][-1, 0] = len(reverted) - 2
    return reverted


def _epilogue(target: PoolTarget, fields: EventFields, tip: int) -> Records:
    spec = target.spec
    records = _mark(fields["kind"])
    record = records[0]
    record["block_number"] = tip
    record["protocol"] = spec.protocol
    record["key"] = np.frombuffer(spec.key.ljust(32, b"\0"), np.uint8)
    record["key_nbytes"] = len(spec.key)
    for name, value in fields.items():
        record[name] = value
    return records


def without_protocol_fees(records: Records) -> Records:
    """The same units for a reader of generation 15, which has no such update."""
    is_fee = records["kind"] == lib.PSA_EVENT_PROTOCOL_FEE
    if not is_fee.any():
        return records
    kept: Records = records[~is_fee]
    begins = np.flatnonzero(kept["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
    ends = np.flatnonzero(kept["kind"] == lib.PSA_EVENT_END_BLOCK)
    kept["words"][ends, 0] = ends - begins - 1
    return kept


def encode(records: Records, first_seq: int, dialect: int = lib.PSA_DIALECT_BRIDGE) -> bytes:
    """Frames for these records, numbered from `first_seq` on (modulo 2**64)."""
    numbered = records.copy()
    numbered["stream_seq"] = np.uint64(first_seq) + np.arange(len(records), dtype=np.uint64)
    out = bytearray(len(records) * MAX_FRAME_NBYTES)
    nbytes, failed = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    status = lib.psa_encode(
        ffi.cast("psa_event *", ffi.from_buffer(numbered)),
        len(numbered),
        dialect,
        ffi.NULL,
        0,
        ffi.from_buffer("uint8_t[]", out),
        len(out),
        nbytes,
        failed,
    )
    if status != lib.PSA_OK:
        raise AssertionError(f"record {failed[0]} cannot be sent: status {status}")
    return bytes(out[: nbytes[0]])
