"""Pool state from any node's JSON-RPC interface, all of it at one block hash.

Four ways lead to the same storage words. The faster of the first two is taken, else the third for
V4 pools, else the last; what the node offers is found out once, by reading known words through it.

    storage_values  eth_getStorageValues: many slots of many accounts in one request
    code_override   eth_call with code put in place of the pools' own, which returns raw slots
    extsload        eth_call of the V4 PoolManager's own extsload(bytes32[]); batches for the rest
    storage_at      batches of eth_getStorageAt, which every node has
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from arena.errors import (
    AccountMissing,
    BlockUnavailable,
    PoolInvalid,
    RpcAnswerInvalid,
    RpcError,
    RpcRefused,
)
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.node.head import (
    Block,
    block_by_hash,
    block_by_number,
    check_chain,
    check_synced,
    head_block,
    is_canonical,
    quantity,
)
from arena.writer.node.jsonrpc import Call, JsonRpc
from arena.writer.node.meanings import Meaning, meaning
from arena.writer.protocols.held import quickest_first
from arena.writer.protocols.reading import pool_stages, read_targets
from arena.writer.protocols.storage import PoolTarget, SlotList
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.rpc_ways import (
    DECODERS,
    ENCODERS,
    Chunk,
    Piece,
    Way,
    as_hex,
    at_block,
    by_account,
    chunks_of,
    groups_of,
    has_extsload,
    slot_count_of,
    storage_at_calls,
)

log = logging.getLogger(__name__)


# Slots in one request. reth takes at most 1,024 by eth_getStorageValues. A word read through a call
# costs about 2,100 gas for a cold slot and up to 1,280 for its 32 bytes of calldata, against the
# 50 million that geth and reth allow a call. Halved whenever the node refuses.
SLOTS_AT_ONCE = {
    Way.storage_values: 1024,
    Way.code_override: 8192,
    Way.extsload: 8192,
    Way.storage_at: 1000,
}
FEWEST_SLOTS_AT_ONCE = 8
# What no smaller request makes better; everything else may be a bound in words of its own.
_NOT_OF_SIZE = frozenset({Meaning.other_way, Meaning.give_up})
CANONICAL_TRIES = 3
# While it makes a block, a node may answer for its newest, also by hash, with the state of the one it
# makes (anvil 1.7.1: 6 of 100 reads under load). So the newest is believed when there is no newer one
# a moment later, and read again when there is.
NEWEST_SETTLES_S = 0.05


class RpcScraper:
    """Reads the pools of a list from a node.

    Each `read_pools` is at the newest block of its moment, or at `block` (a number) when that is
    given; a block that leaves the chain meanwhile is read again at another. `chain_id` is checked
    with the first use, None accepts any; `way` None takes the fastest the node offers. The client
    is closed with the scraper. Calls may come from several threads.
    """

    def __init__(
        self,
        rpc: JsonRpc,
        targets: Sequence[PoolTarget],
        *,
        chain_id: int | None = None,
        way: Way | None = None,
        block: int | None = None,
    ) -> None:
        self.rpc = rpc
        self._targets = {target.spec.key: target for target in targets}
        self._chain_id = chain_id
        self._block = block
        self._way = way
        self._checked = False
        self._lock = threading.Lock()
        self._slots_at_once = dict(SLOTS_AT_ONCE)
        self.slots_read = 0
        """Storage words read so far."""

    # What the coordinator asks

    def get_current_block_number(self) -> int:
        """The node's newest block, or the block given. RpcError."""
        self._check()
        if self._block is not None:
            return self._block
        return quantity(self.rpc, "eth_blockNumber", self.rpc.call("eth_blockNumber"))

    def list_pools(self) -> Sequence[PoolSpec]:
        """The pools of the list, V2 first, then in its order."""
        return quickest_first(target.spec for target in self._targets.values())

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        """Exchange the list."""
        self._targets = {target.spec.key: target for target in targets}

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        """Values of these pools, all at one block that was canonical before and after. RpcError."""
        for _ in range(CANONICAL_TRIES):
            block = self.block()
            was_newest = self._block is None or head_block(self.rpc).hash == block.hash
            try:
                scrape = self.read_at(block, keys)
                if was_newest:
                    time.sleep(NEWEST_SETTLES_S)
                    if head_block(self.rpc).hash != block.hash:
                        scrape = self.read_at(block, keys)
            except BlockUnavailable:
                # Gone because the chain changed, or out of the node's reach for good?
                if self._block is not None or is_canonical(self.rpc, block):
                    raise
                continue
            if is_canonical(self.rpc, block):
                return scrape
        raise BlockUnavailable(
            f"block {block.number} left the chain while it was read, {CANONICAL_TRIES} times in a "
            "row; try again when the chain is calmer",
            block_number=block.number,
        )

    def read_pools_at(self, number: int, block_hash: bytes, keys: Sequence[bytes]) -> Scrape:
        """Values of these pools at the end of that block. BlockUnavailable, RpcError."""
        return self.read_at(Block(number, block_hash, 0), keys)

    def close(self) -> None:
        """Close the connections."""
        self.rpc.close()

    # At one block

    def block(self) -> Block:
        """The block that is read next: the node's newest, or the one of the number given."""
        self._check()
        if self._block is None:
            return head_block(self.rpc)
        found = block_by_number(self.rpc, self._block)
        if found is None:
            head = head_block(self.rpc)
            raise BlockUnavailable(
                f"{self.rpc.shown} has no block {self._block}; its newest is {head.number}",
                block_number=self._block,
                head_block=head.number,
            )
        return found

    def way(self, block: Block) -> Way:
        """How words are read: the way given, else the fastest that works, found once. RpcError."""
        with self._lock:
            if self._way is None:
                self._way = self._probe(block)
            return self._way

    def read_at(self, block: Block, keys: Sequence[bytes]) -> Scrape:
        """Values of these pools at exactly this block. BlockUnavailable, RpcError."""
        self._check()
        way = self.way(block)
        pools: list[ScrapedPool] = []
        invalid: list[PoolInvalid] = []
        targets = self._targets
        known = [targets[key] for key in keys if key in targets]
        for key in keys:
            if key not in targets:
                message = f"pool 0x{key.hex()} is not in the list of pools"
                invalid.append(PoolInvalid(message, key=key, found="no entry"))
        for group in groups_of(known):
            outcomes, slot_count = read_targets(
                group, block.number, lambda requests: self._read(way, block, requests)
            )
            self.slots_read += slot_count
            failed: list[tuple[PoolTarget, PoolInvalid]] = []
            for target, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, PoolValues):
                    pools.append(ScrapedPool(target.spec, outcome, block.hash))
                else:
                    failed.append((target, outcome))
            invalid += self._explained(block, failed)
        return Scrape(tuple(pools), tuple(invalid))

    # Inside

    def _check(self) -> None:
        with self._lock:
            if not self._checked:
                check_chain(self.rpc, self._chain_id)
                if self._block is None:
                    check_synced(self.rpc)
                self._checked = True

    def _probe(self, block: Block) -> Way:
        """The fastest way that reads a few words of each kind of pool as eth_getStorageAt does."""
        samples: dict[str, PoolTarget] = {}
        for target in self._targets.values():
            samples.setdefault(target.layout.name, target)
        wanted: list[tuple[PoolTarget, SlotList]] = []
        for target in samples.values():
            try:
                wanted.append((target, next(pool_stages(target, block.number))))
            except PoolInvalid:
                continue
        known = [(target, SlotList(slots.keys[:3])) for target, slots in wanted]
        truth = self._read(Way.storage_at, block, known)
        rates: dict[Way, float] = {}
        for way in (Way.storage_values, Way.code_override):
            if self._tells(way, block, known, truth):
                begin = time.perf_counter()
                self._read(way, block, wanted)
                slot_count = sum(len(slots) for _, slots in wanted)
                rates[way] = slot_count / (time.perf_counter() - begin)
        if rates:
            chosen = max(rates, key=rates.__getitem__)
        elif any(has_extsload(target) for target in samples.values()) and self._tells(
            Way.extsload, block, known, truth
        ):
            chosen = Way.extsload
        else:
            chosen = Way.storage_at
        log.info(
            "event=rpc_way node=%s way=%s%s",
            self.rpc.shown,
            chosen,
            "".join(f" {way}_slots_per_s={rate:.0f}" for way, rate in rates.items()),
        )
        return chosen

    def _tells(
        self,
        way: Way,
        block: Block,
        known: Sequence[tuple[PoolTarget, SlotList]],
        truth: Sequence[Sequence[int]],
    ) -> bool:
        """Whether this way reads what is known already."""
        try:
            found = self._read(way, block, known)
        except (RpcRefused, RpcAnswerInvalid) as error:
            reason = str(error)
        except BlockUnavailable as error:
            # Unless the block has gone indeed, the node spoke of the way.
            self._read(Way.storage_at, block, known)
            reason = str(error)
        else:
            if found == truth:
                return True
            reason = "other words than eth_getStorageAt"
        log.debug('event=rpc_way_missing node=%s way=%s reason="%s"', self.rpc.shown, way, reason)
        return False

    def _explained(
        self, block: Block, failed: Sequence[tuple[PoolTarget, PoolInvalid]]
    ) -> list[PoolInvalid]:
        """The same errors; AccountMissing for pools whose account has no code at that block."""
        accounts = list(dict.fromkeys(target.address for target, _ in failed))
        calls: list[Call] = [
            ("eth_getCode", (as_hex(account), at_block(block))) for account in accounts
        ]
        answers = self.rpc.call_many(calls)
        empty = {account for account, code in zip(accounts, answers, strict=True) if code == "0x"}
        return [
            AccountMissing(
                f"pool 0x{target.spec.key.hex()} is not installed: there is no contract at "
                f"0x{target.address.hex()} at block {block.number}; "
                "check its address in the list of pools",
                key=target.spec.key,
                found="no code",
            )
            if target.address in empty
            else error
            for target, error in failed
        ]

    def _read(
        self, way: Way, block: Block, requests: Sequence[tuple[PoolTarget, SlotList]]
    ) -> list[list[int]]:
        """Values of every request's slots, at this block, by this way."""
        pieces = [
            Piece(index, target.address, wanted.keys)
            for index, (target, wanted) in enumerate(requests)
        ]
        if way is not Way.extsload:
            found = self._read_pieces(way, block, pieces)
        else:
            managed = [has_extsload(target) for target, _ in requests]
            found = self._read_pieces(way, block, [p for p in pieces if managed[p.index]])
            rest = [piece for piece in pieces if not managed[piece.index]]
            found |= self._read_pieces(Way.storage_at, block, rest)
        return [found[index] for index in range(len(requests))]

    def _read_pieces(self, way: Way, block: Block, pieces: Sequence[Piece]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {piece.index: [] for piece in pieces}
        waiting = by_account(pieces) if way is Way.extsload else [list(pieces)]
        chunks = [c for part in waiting for c in chunks_of(part, self._slots_at_once[way])]
        answers: list[list[int] | None] = self._ask(way, block, chunks)
        # Chunks keep the order of the pieces, so values can be put together as they stand.
        for chunk, values in zip(chunks, answers, strict=True):
            if values is None:
                values = self._ask_less(way, block, chunk)
            at = 0
            for piece in chunk:
                found[piece.index] += values[at : at + len(piece.keys)]
                at += len(piece.keys)
        return found

    def _ask_less(self, way: Way, block: Block, chunk: Chunk) -> list[int]:
        """The values of a chunk that was refused, in smaller parts."""
        size = min(slot_count_of(chunk), self._slots_at_once[way])
        while True:
            parts = list(chunks_of(chunk, size))
            answers = self._ask(way, block, parts[:1])
            if answers[0] is not None:
                break
            size = max(1, min(size, slot_count_of(parts[0])) // 2)
        self._slots_at_once[way] = min(self._slots_at_once[way], size)
        log.info("event=rpc_fewer_slots node=%s way=%s slots=%d", self.rpc.shown, way, size)
        answers += self._ask(way, block, parts[1:])
        values: list[int] = []
        for part, answer in zip(parts, answers, strict=True):
            values += self._ask_less(way, block, part) if answer is None else answer
        return values

    def _ask(self, way: Way, block: Block, chunks: Sequence[Chunk]) -> list[list[int] | None]:
        """Values of each chunk; None for one the node refused but may answer in smaller parts."""
        if not chunks:
            return []
        if way is Way.storage_at:
            batches = [storage_at_calls(chunk, block) for chunk in chunks]
            answers = self.rpc.batch_many(batches)
        else:
            encode = ENCODERS[way]
            answers = self.rpc.call_many([encode(chunk, block) for chunk in chunks])
        return [
            self._decoded(way, block, chunk, answer)
            for chunk, answer in zip(chunks, answers, strict=True)
        ]

    def _decoded(self, way: Way, block: Block, chunk: Chunk, answer: Any) -> list[int] | None:
        refusal = answer if isinstance(answer, RpcRefused) else None
        if isinstance(answer, list):
            refusal = next((item for item in answer if isinstance(item, RpcRefused)), None)
        if refusal is None:
            return DECODERS[way](self.rpc, chunk, answer)
        if error := self._lost(block, refusal):
            raise error from refusal
        if slot_count_of(chunk) <= FEWEST_SLOTS_AT_ONCE or meaning(refusal) in _NOT_OF_SIZE:
            raise refusal
        return None

    def _lost(self, block: Block, refusal: RpcRefused) -> RpcError | None:
        """BlockUnavailable when the refusal is about the block and not about the request."""
        if meaning(refusal) is not Meaning.no_block:
            return None
        if block_by_hash(self.rpc, block.hash) is None:
            why = "it is no longer part of the chain"
        else:
            why = "its state is gone; read a newer block, or ask an archive node"
        return BlockUnavailable(
            f"{self.rpc.shown} cannot read block {block.number} ({as_hex(block.hash)}): {why} "
            f"({refusal.reason})",
            block_number=block.number,
            block_hash=block.hash,
            reason=refusal.reason,
        )
