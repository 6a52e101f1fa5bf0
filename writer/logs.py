"""Blocks of a node's logs as the event records the feed would have sent.

A node answers by number, and what it answers for a number may change between two questions. So a
range is read as a chain of headers, each naming its parent, and logs that name the hash of their
block; whatever does not link is ChainMoved, never a guess.

`log_index` of these records counts from the first log of the transaction that the node shows. The
feed counts from the first log of the receipt, which a filtered answer does not show. Both ascend within
a transaction, and a block is applied whole from one source, so positions compare as they must: by
block, then by transaction, then by log.
"""

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Any, Protocol

import numpy as np

from arena.arena import PoolSpec
from arena.errors import ChainMoved, LogInvalid, LogsRefused, NodeBehind, RpcRefused, Scraper
from arena.layouts.events import EVENT
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.native import lib
from arena.writer.completeness import (
    BlockLogs,
    addresses_of,
    demands_address,
    named_pools,
    ordered,
)
from arena.writer.feed import Records
from arena.writer.rpcerrors import Meaning, meaning

# keccak256 of the event signatures (v2-core, v3-core, PancakeSwap v3-core, v4-core).
V2_SYNC = bytes.fromhex("1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1")
V3_SWAP = bytes.fromhex("c42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67")
PANCAKE_SWAP = bytes.fromhex("19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83")
V3_MINT = bytes.fromhex("7a53080ba414158be7ec69b987b5fb7d07dee101fe85488f0853ae16239d0bde")
V3_BURN = bytes.fromhex("0c396cd989a39f4459b5fa1aed6a9a8dcdbc45908acfd67e028cd568da98982c")
V4_SWAP = bytes.fromhex("40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f")
V4_MODIFY = bytes.fromhex("f208f4912782fd25c7f114ca3723a2d5dd6f3bcc3ac8db5af63baa85f711d5ec")
V4_PROTOCOL_FEE = bytes.fromhex("e9c42593e71f84403b84352cd168d693e2c9fcd1fdbcc3feb21d92b43e6696f9")
TOPICS = (V2_SYNC, V3_SWAP, PANCAKE_SWAP, V3_MINT, V3_BURN, V4_SWAP, V4_MODIFY, V4_PROTOCOL_FEE)

MAX_RANGE_BLOCKS = 1024  # of one eth_getLogs; halved each time a node refuses
MAX_ASKED_BLOCKS = 64  # headers asked for in one batch
FETCHED_BLOCKS = 8  # whose logs are asked for at once, all contracts' logs of them
MAX_ASKED_ADDRESSES = 256  # of one eth_getLogs, until a node refuses so many
ADDRESSES_KEPT_S = 600.0  # how long it is asked for fewer then: it may have been one large answer
MAX_FETCH_BLOCKS = 4096  # of one fetch; a longer gap is cheaper to read anew


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of a block's header. `base_fee` in wei, 0 before London; `logs_bloom` has 256
    bytes, or none, and the last two are None, where the source does not say."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    base_fee: int
    logs_bloom: bytes = b""
    transaction_count: int | None = None
    gas_used: int | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """One log as eth_getLogs gives it; `log_index` counts in the block."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    tx_index: int
    log_index: int


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of how many transactions of a block a node has receipts, the gas used up to the last one, None
    where it does not say, and their logs."""

    count: int
    gas_used: int | None
    logs: Sequence[Log]


class NodeClient(Protocol):
    """What is asked of a node. Calls block; they raise a Scraper error when it does not answer."""

    def chain_id(self) -> int:
        """eth_chainId."""

    def head_number(self) -> int:
        """eth_blockNumber."""

    def headers(self, numbers: Sequence[int]) -> Sequence[Header | None]:
        """The canonical headers of these numbers, None where the node has no such block."""

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Log]:
        """Logs of blocks `first` to `last` whose first topic is one of `topics`, of these contracts;
        of any topic or contract where none is named.

        LogsRefused when the node finds the range or the answer too large.
        """

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Sequence[Log]]:
        """The same for single blocks by hash; an error where the node does not know the hash."""


@dataclass(frozen=True, slots=True)
class NodeBlock:
    """One block as the node has it; `records`, (n,) of EVENT, from BeginBlock to EndBlock."""

    header: Header
    records: Records


def fetch_blocks(
    node: NodeClient,
    first: int,
    last: int,
    pools: Mapping[bytes, PoolSpec],
    *,
    parent: bytes | None = None,
    reader: BlockLogs | None = None,
    believes_silence: bool = True,
) -> list[NodeBlock]:
    """Blocks `first` to `last` with all events of `pools` (by key), all of one branch.

    `parent` is the hash the first one must follow. ChainMoved when it does not, or when the node's
    chain changed while it was read; NodeBehind when it does not have all blocks or all their logs, as
    the `reader` finds; LogInvalid; LogsRefused when a block's header contradicts its logs for good, or
    when nothing but the node's silence says that it has none, unless that is believed; whatever the node
    raises.

    Where the node has no receipts, only blocks are read whose filter may speak of a pool or in which the
    node's index by number has an event.
    """
    headers = _headers_of_fetch(node, first, last, parent)
    reader = reader or block_reader(node)
    nothing: dict[bytes, PoolSpec] = {}
    found: list[NodeBlock] = []
    claimed: Container[int] | None = None
    behind: NodeBehind | None = None
    at = 0

    def may_have(header: Header) -> bool:
        return claimed is None or header.number in claimed or speaks_of(header, pools)

    while at < len(headers):
        if claimed is None and not reader.has_receipts:
            claimed = _claimed_numbers(node, headers[at].number, last, pools)
        asked = list(takewhile(may_have, headers[at : at + FETCHED_BLOCKS]))
        if not asked:
            found.append(NodeBlock(headers[at], block_records(headers[at], (), nothing)))
            at += 1
            continue
        try:
            blocks = reader.read(asked, pools)
        except (
            NodeBehind
        ) as error:  # what lies behind is read all the same: its doubts last as long
            if error.fields.get("is_silent") and not believes_silence:
                raise _silence(asked[0]) from error
            behind = behind or error
            at += len(asked)
            continue
        at += len(blocks)
        for block in blocks:
            if block.is_silent and not believes_silence:
                raise _silence(block.header)
            doubtful = block.doubtful & pools.keys()
            if doubtful:
                raise LogsRefused(
                    f"the logs of block {block.header.number} are not what its header speaks of; "
                    f"the pools are to be read anew ({len(doubtful)} in question)",
                    first=block.header.number,
                    last=block.header.number,
                )
            records = block_records(block.header, block.logs, pools, block.first_logs)
            found.append(NodeBlock(block.header, records))
    if behind is not None:
        raise behind
    _check_unmoved(node, headers)
    return found


def claimed_blocks(
    node: NodeClient,
    first: int,
    last: int,
    pools: Mapping[bytes, PoolSpec],
    *,
    parent: bytes | None = None,
) -> list[NodeBlock]:
    """The same blocks with the events that the node's index has: to be compared with what the stream
    brought, where one that is left out is a difference. As fetch_blocks, and LogsRefused when not
    even one block's logs are to be had."""
    headers = _headers_of_fetch(node, first, last, parent)
    logs = _fetch_logs(node, first, last, pools) if headers else []
    _check_unmoved(node, headers)
    by_block: dict[int, list[Log]] = {header.number: [] for header in headers}
    for log in logs:
        if log.block_number not in by_block:
            raise LogInvalid(
                f"a log of block {log.block_number} in an answer for {first} to {last}",
                block=log.block_number,
            )
        if log.block_hash != headers[log.block_number - first].hash:
            raise ChainMoved(
                f"block {log.block_number} changed while its logs were read",
                block=log.block_number,
            )
        by_block[log.block_number].append(log)
    found: list[NodeBlock] = []
    for header in headers:
        listed = ordered(header, by_block[header.number], TOPICS)
        # Of logs with one number the stream's order is the right one; if it is this one, so is this.
        numbered = [replace(log, log_index=at) for at, log in enumerate(listed)]
        found.append(NodeBlock(header, block_records(header, numbered, pools)))
    return found


def _silence(header: Header) -> LogsRefused:
    return LogsRefused(
        f"nothing but the node's silence says that block {header.number} has no logs; the pools are "
        "to be read anew",
        first=header.number,
        last=header.number,
    )


def _claimed_numbers(
    node: NodeClient, first: int, last: int, pools: Mapping[bytes, PoolSpec]
) -> Container[int]:
    """The blocks in which the node's index by number has an event; all, where it cannot be asked."""
    try:
        logs = _fetch_logs(node, first, last, pools)
        return {each.block_number for each in logs if decode_log(each, pools) is not None}
    except (RpcRefused, LogsRefused, LogInvalid, ChainMoved):
        return range(first, last + 1)


def speaks_of(header: Header, pools: Mapping[bytes, PoolSpec]) -> bool:
    """Its filter may speak of an event of `pools`."""
    return next(named_pools(header, pools, EVENT_TOPICS), None) is not None


def block_reader(node: NodeClient) -> BlockLogs:
    return BlockLogs(node, EVENT_TOPICS)


def _headers_of_fetch(
    node: NodeClient, first: int, last: int, parent: bytes | None
) -> list[Header]:
    if last < first:
        return []
    if last - first >= MAX_FETCH_BLOCKS:
        raise LogsRefused(
            f"blocks {first} to {last} are {last - first + 1}, at most {MAX_FETCH_BLOCKS} are "
            "fetched as logs; the pools are to be read anew",
            first=first,
            last=last,
        )
    return fetch_headers(node, first, last, parent=parent)


def _check_unmoved(node: NodeClient, headers: Sequence[Header]) -> None:
    if headers:
        last = headers[-1]
        again = node.headers([last.number])[0]
        if again is None or again.hash != last.hash:
            raise ChainMoved(
                f"block {last.number} changed while its logs were read", block=last.number
            )


def fetch_headers(
    node: NodeClient, first: int, last: int, *, parent: bytes | None = None
) -> list[Header]:
    """Headers `first` to `last`, each naming the one before as its parent. As fetch_blocks."""
    headers: list[Header] = []
    for number, header in zip(
        range(first, last + 1), node.headers(list(range(first, last + 1))), strict=True
    ):
        if header is None:
            raise NodeBehind(f"the node does not have block {number} yet", block=number)
        if header.number != number:
            raise LogInvalid(f"asked for block {number}, got {header.number}", block=number)
        if parent is not None and header.parent_hash != parent:
            raise ChainMoved(
                f"block {number} follows 0x{header.parent_hash.hex()}, not 0x{parent.hex()}",
                block=number,
            )
        headers.append(header)
        parent = header.hash
    return headers


def _fetch_logs(
    node: NodeClient, first: int, last: int, pools: Mapping[bytes, PoolSpec]
) -> list[Log]:
    """All logs of the range in order; a refused range is halved, and stays so."""
    found: list[Log] = []
    named: list[list[bytes]] = []  # contracts, once the node does not answer for all
    size = min(MAX_RANGE_BLOCKS, last - first + 1)
    at = first
    while at <= last:
        end = min(at + size - 1, last)
        try:
            found += node.logs(at, end, TOPICS, *named)
        except RpcRefused as error:
            if named or not demands_address(error):
                raise
            named = [addresses_of(pools.values())]
            continue
        except LogsRefused:
            if end == at:
                if named:
                    raise
                named = [addresses_of(pools.values())]
                size = MAX_RANGE_BLOCKS
                continue
            size = max(1, (end - at + 1) // 2)
            continue
        at = end + 1
    return found


# -- decoding


def block_records(
    header: Header,
    logs: Iterable[Log],
    pools: Mapping[bytes, PoolSpec],
    first_logs: Mapping[int, int] | None = None,
) -> Records:
    """BeginBlock, the events of `pools` in log order, EndBlock. LogInvalid.

    `first_logs` are the block-wide indices of each transaction's first log; without it the first of
    `logs` counts as that. Logs may share an index, but not events of one pool.
    """
    ordered = sorted(logs, key=lambda log: (log.log_index, log.tx_index))
    for before, after in pairwise(ordered):
        if before.tx_index > after.tx_index:
            raise LogInvalid(
                f"logs {before.log_index} and {after.log_index} of block {header.number} are out "
                "of order",
                block=header.number,
            )
    first_log = dict(first_logs or {})
    found: list[dict[str, Any]] = []
    places: set[tuple[bytes, int, int]] = set()
    for log in ordered:
        first_log.setdefault(log.tx_index, log.log_index)
        fields = decode_log(log, pools)
        if fields is not None:
            place = fields["key"].tobytes(), log.tx_index, log.log_index
            if place in places:
                raise LogInvalid(
                    f"two events of one pool have the number {log.log_index} in block "
                    f"{header.number}",
                    block=header.number,
                )
            places.add(place)
            position = log.log_index - first_log[log.tx_index]
            found.append(fields | {"tx_index": log.tx_index, "log_index": position})
    records = np.zeros(len(found) + 2, EVENT)
    records["block_number"] = header.number
    records["timestamp"] = header.timestamp
    records["kind"][0] = lib.PSA_EVENT_BEGIN_BLOCK
    records["flags"][0] = lib.PSA_EVENT_HAS_BASE_FEE | lib.PSA_EVENT_HAS_FEES
    records["words"][0, 0] = header.base_fee
    records["kind"][-1] = lib.PSA_EVENT_END_BLOCK
    records["words"][-1, 0] = len(found)
    for index, fields in enumerate(found, 1):
        records["flags"][index] = lib.PSA_EVENT_IN_BLOCK
        for name, value in fields.items():
            records[name][index] = value
    return records


def decode_log(log: Log, pools: Mapping[bytes, PoolSpec]) -> dict[str, Any] | None:
    """Fields of the event record, or None for a log that is no event of one of `pools`.

    A log counts when its emitter is a pool of the protocol the topic belongs to, or the manager of a
    V4 pool. LogInvalid when such a log is not encoded as the contract's ABI says.
    """
    decode = _DECODERS.get(log.topics[0]) if log.topics else None
    if decode is None:
        return None
    protocol, topic_count, word_count, read = decode
    if protocol == UNISWAP_V4:
        key = log.topics[1] if len(log.topics) > 1 else b""
    else:
        key = log.address
    spec = pools.get(key)
    if spec is None or spec.protocol != protocol:
        return None
    if protocol == UNISWAP_V4 and spec.factory != log.address:
        return None
    if len(log.topics) != topic_count or len(log.data) != 32 * word_count:
        raise LogInvalid(
            f"log {log.log_index} of block {log.block_number} has {len(log.topics)} topics and "
            f"{len(log.data)} bytes, its event has {topic_count} and {32 * word_count}",
            block=log.block_number,
            log_index=log.log_index,
        )
    words = [log.data[start : start + 32] for start in range(0, len(log.data), 32)]
    common = {
        "protocol": protocol,
        "key": np.frombuffer(key.ljust(32, b"\0"), np.uint8),
        "key_nbytes": len(key),
    }
    return common | read(_Word(log), log.topics, words)


class _Word:
    """Reads 32-byte ABI words of one log; LogInvalid when one exceeds its type."""

    def __init__(self, log: Log):
        self._log = log

    def unsigned(self, word: bytes, bits: int) -> int:
        value = int.from_bytes(word, "big")
        if value >> bits:
            self._refuse(value, f"uint{bits}")
        return value

    def signed(self, word: bytes, bits: int) -> int:
        value = int.from_bytes(word, "big", signed=True)
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            self._refuse(value, f"int{bits}")
        return value

    def _refuse(self, value: int, kind: str) -> None:
        raise LogInvalid(
            f"log {self._log.log_index} of block {self._log.block_number}: {value} is no {kind}",
            block=self._log.block_number,
            log_index=self._log.log_index,
        )


def _limbs(value: int, count: int) -> list[int]:
    return [(value >> (64 * index)) & (2**64 - 1) for index in range(count)]


def _sync(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    reserves = [read.unsigned(word, 112) for word in words]
    return {
        "kind": lib.PSA_EVENT_V2_SYNC,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 22,
        "words": [*_limbs(reserves[0], 4), *_limbs(reserves[1], 4)],
    }


def _swap(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    """V3: two amounts, then price, liquidity, tick; PancakeSwap: two protocol fees besides."""
    for amount in words[:2]:
        read.signed(amount, 256)
    for more in words[5:]:
        read.unsigned(more, 128)
    return {
        "kind": lib.PSA_EVENT_CL_SWAP,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 2,
        "words": [*_limbs(read.unsigned(words[2], 160), 4), 0, 0, 0, 0],
        "amount": _limbs(read.unsigned(words[3], 128), 2),
        "tick": read.signed(words[4], 24),
    }


def _v4_swap(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    """As V3, then the swap's whole fee: kept where the amounts tell its direction."""
    amounts = [read.signed(amount, 128) for amount in words[:2]]
    fee = read.unsigned(words[5], 24)
    fields = _swap(read, topics, words[:5]) | {"variant": 4}
    paid = [amount < 0 for amount in amounts]  # from the swapper's side
    if any(paid) and not all(paid):
        fields["variant"] = 25
        fields["present"] = lib.PSA_HAS_SWAP_FEE
        fields["words"][4:6] = fee, int(paid[0])
    return fields


def _protocol_fee(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    return {
        "kind": lib.PSA_EVENT_PROTOCOL_FEE,
        "update_type": lib.PSA_UPDATE_SWAP,
        "variant": 26,
        "words": [read.unsigned(words[0], 24), 0, 0, 0, 0, 0, 0, 0],
    }


def _liquidity(
    read: _Word, lower: bytes, upper: bytes, delta: int, variant: int, is_mint: bool
) -> dict[str, Any]:
    return {
        "kind": lib.PSA_EVENT_CL_LIQUIDITY,
        "update_type": lib.PSA_UPDATE_MINT if is_mint else lib.PSA_UPDATE_BURN,
        "variant": variant,
        "tick_lower": read.signed(lower, 24),
        "tick_upper": read.signed(upper, 24),
        "amount": _limbs(delta, 2),
    }


def _mint(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    # The pool casts the amount to int128, so 2**127 and more cannot occur (v3-core, mint).
    return _liquidity(read, topics[2], topics[3], read.unsigned(words[1], 127), 3, True)


def _burn(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    return _liquidity(read, topics[2], topics[3], -read.unsigned(words[0], 127), 3, False)


def _modify(read: _Word, topics: Sequence[bytes], words: Sequence[bytes]) -> dict[str, Any]:
    delta = read.signed(words[2], 128)
    return _liquidity(read, words[0], words[1], delta, 5, delta > 0)


# topic -> protocol, topics, words of data, reader
_DECODERS: dict[bytes, tuple[int, int, int, Callable[..., dict[str, Any]]]] = {
    V2_SYNC: (UNISWAP_V2, 1, 2, _sync),
    V3_SWAP: (UNISWAP_V3, 3, 5, _swap),
    PANCAKE_SWAP: (UNISWAP_V3, 3, 7, _swap),
    V3_MINT: (UNISWAP_V3, 4, 4, _mint),
    V3_BURN: (UNISWAP_V3, 4, 3, _burn),
    V4_SWAP: (UNISWAP_V4, 3, 6, _v4_swap),
    V4_MODIFY: (UNISWAP_V4, 3, 4, _modify),
    V4_PROTOCOL_FEE: (UNISWAP_V4, 2, 1, _protocol_fee),
}

EVENT_TOPICS = {
    protocol: tuple(topic for topic, row in _DECODERS.items() if row[0] == protocol)
    for protocol in (UNISWAP_V2, UNISWAP_V3, UNISWAP_V4)
}


# -- is a block of the feed the node's block?


def same_block(kept: Records, found: NodeBlock, pools: Mapping[bytes, PoolSpec]) -> bool:
    """Whether a block the feed sent is this block of the node.

    The feed carries no hashes. Compared are time, base fee (it follows from all blocks before, so
    branches differ in it) and every event of `pools`. Streams that send V2 changes in place of Sync
    are compared without V2, those that do not bring V4's protocol fees without them. A feed without
    timestamps cannot be compared: False.
    """
    begin = kept[0]
    if begin["timestamp"] == 0 or begin["timestamp"] != found.header.timestamp:
        return False
    has_base_fee = bool(begin["flags"] & lib.PSA_EVENT_HAS_BASE_FEE)
    if has_base_fee and int(begin["words"][0]) != found.header.base_fee:
        return False
    return _effects(kept, kept, pools) == _effects(kept, found.records, pools)


def differing_pools(kept: Records, found: Records, pools: Mapping[bytes, PoolSpec]) -> list[bytes]:
    """The pools whose own events in a block of the feed are others than in `found`.

    As same_block compares them, but for their positions.
    """
    sides: list[dict[bytes, list[tuple[Any, ...]]]] = [{}, {}]
    for side, records in zip(sides, (kept, found), strict=True):
        for key, _tx_index, *effect in _effects(kept, records, pools):
            side.setdefault(key, []).append(tuple(effect))
    return [key for key in pools if sides[0].get(key) != sides[1].get(key)]


def is_reverted_block(kept: Records, reverted: Records, pools: Container[bytes]) -> bool:
    """Whether a block the feed turns back is the one it sent before, as far as both carry their time,
    base fee and events of `pools`; reserves are not sent in reverted blocks."""
    begin, turned = kept[0], reverted[0]
    if begin["timestamp"] and turned["timestamp"] and begin["timestamp"] != turned["timestamp"]:
        return False
    have_fees = begin["flags"] & turned["flags"] & lib.PSA_EVENT_HAS_BASE_FEE
    if have_fees and begin["words"][0] != turned["words"][0]:
        return False
    sides = [
        sorted(each for each in _effects(kept, records, pools) if each[2] != lib.PSA_EVENT_V2_SYNC)
        for records in (kept, reverted)
    ]
    return sides[0] == sides[1]


def touched_pools(records: Records, pools: Mapping[bytes, PoolSpec]) -> set[bytes]:
    """Those of `pools` that a block has events of."""
    return {key for key, *_ in _effects(records, records, pools)}


def _effects(kept: Records, records: Records, pools: Container[bytes]) -> list[tuple[Any, ...]]:
    """What the events of `pools` in `records` do; without V2 where `kept` has changes for it, and
    without protocol fees where it does not bring them."""
    kinds = [lib.PSA_EVENT_CL_SWAP, lib.PSA_EVENT_CL_LIQUIDITY]
    if kept["flags"][0] & lib.PSA_EVENT_HAS_FEES:
        kinds.append(lib.PSA_EVENT_PROTOCOL_FEE)
    if not (kept["kind"] == lib.PSA_EVENT_V2_DELTA).any():
        kinds.append(lib.PSA_EVENT_V2_SYNC)
    effects = []
    for record in records[np.isin(records["kind"], kinds)]:
        key = record["key"].tobytes()[: record["key_nbytes"]]
        if key in pools:
            effects.append(
                (
                    key,
                    int(record["tx_index"]),
                    int(record["kind"]),
                    int(record["tick"]),
                    int(record["tick_lower"]),
                    int(record["tick_upper"]),
                    _compared_words(record),
                    record["amount"].tobytes(),
                )
            )
    return effects


def _compared_words(record: Any) -> bytes:
    """A swap's price alone: what a stream may carry besides, its fee or amounts, is no effect."""
    is_swap = record["kind"] == lib.PSA_EVENT_CL_SWAP
    words: bytes = record["words"][: 4 if is_swap else 8].tobytes()
    return words


# -- a node behind a JSON-RPC transport


class Caller(Protocol):
    """What is used of arena.writer.jsonrpc.JsonRpc."""

    def call(self, method: str, *parameters: Any) -> Any:
        """The result. RpcRefused when the node answers with an error; other RpcErrors."""

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> Sequence[Any]:
        """Results in order, RpcRefused in place of what was refused. RpcError."""


class RpcNode:
    """NodeClient over a JSON-RPC transport. Answers are checked strictly: LogInvalid."""

    def __init__(self, transport: Caller):
        self._transport = transport
        self._most_addresses = MAX_ASKED_ADDRESSES
        self._most_until = 0.0

    def chain_id(self) -> int:
        return _quantity(self._transport.call("eth_chainId"), "eth_chainId")

    def head_number(self) -> int:
        return _quantity(self._transport.call("eth_blockNumber"), "eth_blockNumber")

    def head(self) -> Header:
        """The newest block's header."""
        return read_header(self._transport.call("eth_getBlockByNumber", "latest", False))

    def words(self, block_hash: bytes, places: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Storage words by (account, slot) at the end of that block."""
        at = {"blockHash": "0x" + block_hash.hex()}
        calls = [
            ("eth_getStorageAt", ("0x" + account.hex(), "0x" + slot.hex(), at))
            for account, slot in places
        ]
        answers = self._batch(calls)
        return [_word(answer) for answer in answers]

    def headers(self, numbers: Sequence[int]) -> Sequence[Header | None]:
        found: list[Header | None] = []
        for start in range(0, len(numbers), MAX_ASKED_BLOCKS):
            asked = numbers[start : start + MAX_ASKED_BLOCKS]
            calls = [("eth_getBlockByNumber", (hex(number), False)) for number in asked]
            answers = self._transport.batch(calls) if calls else ()
            found += [_header_or_none(each) for each in answers]
        return found

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Log]:
        place = {"fromBlock": hex(first), "toBlock": hex(last)}
        try:
            return self._logs_of([place], topics, addresses)[0]
        except RpcRefused as error:
            may_be_range = meaning(error) is Meaning.smaller or (
                _may_be_size(error) and first < last
            )
            if demands_address(error) or not may_be_range:
                raise
            raise LogsRefused(
                f"the node refuses the logs of blocks {first} to {last}: {error}",
                first=first,
                last=last,
            ) from error

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Sequence[Log]]:
        places = [{"blockHash": "0x" + each.hex()} for each in hashes]
        return self._logs_of(places, topics, addresses)

    def _logs_of(
        self, places: Sequence[dict[str, str]], topics: Sequence[bytes], addresses: Sequence[bytes]
    ) -> list[list[Log]]:
        """The logs of each place, with as many addresses at once as the node takes; the first of them
        alone, so that a refusal costs little."""
        now = time.monotonic()
        if now >= self._most_until:
            self._most_addresses = MAX_ASKED_ADDRESSES
        most = before = min(self._most_addresses, max(1, len(addresses)))
        is_bound = True  # it is not the range of blocks
        while True:
            wanted = _wanted(topics, addresses, most)
            calls = [("eth_getLogs", (place | each,)) for each in wanted for place in places]
            alone = len(places)
            try:
                answers = self._batch(calls[:alone]) + self._batch(calls[alone:])
                break
            except RpcRefused as error:
                place = places[0]
                is_one_block = place.get("fromBlock") == place.get("toBlock")
                is_told = is_one_block or _speaks_of_addresses(error)
                if most < 2 or not (_may_be_size(error) and (is_told or self._takes_one(calls[0]))):
                    raise
                is_bound &= is_told
                most //= 2
        if is_bound and most < before:
            self._most_addresses, self._most_until = most, now + ADDRESSES_KEPT_S
        found: list[list[Log]] = [[] for _ in places]
        for at, answer in enumerate(answers):
            found[at % len(places)] += _read_logs(answer)
        return found

    def _takes_one(self, call: tuple[str, Sequence[Any]]) -> bool:
        """Whether the same is answered for the first address alone."""
        method, (wanted,) = call
        try:
            self._batch([(method, (wanted | {"address": wanted["address"][:1]},))])
        except RpcRefused:
            return False
        return True

    def receipts(self, hashes: Sequence[bytes]) -> Sequence[Receipts | Scraper | None]:
        """Those of blocks by hash, in one request; None where the node does not know the block, and an
        error in place of what it refuses or gives in another form."""
        calls = [_receipts_call(each) for each in hashes]
        answers = self._transport.batch(calls) if calls else []
        return [_receipts_or_error(*each) for each in zip(hashes, answers, strict=True)]

    def block(
        self, block_hash: bytes, *, with_receipts: bool = False
    ) -> tuple[Header | None, Sequence[Log] | None, Receipts | Scraper | None]:
        """A block's header by hash, None where the node does not know it, and in the same request all
        its logs, None where they are refused or not as they should be, and its receipts if wished."""
        text = "0x" + block_hash.hex()
        calls: list[tuple[str, Sequence[Any]]] = [
            ("eth_getBlockByHash", (text, False)),
            ("eth_getLogs", ({"blockHash": text},)),
        ]
        if with_receipts:
            calls.append(_receipts_call(block_hash))
        answer, logs, *more = self._transport.batch(calls)
        header = _header_or_none(answer)
        if header is None:
            return None, None, None
        if header.hash != block_hash:
            raise LogInvalid(
                f"asked for block {text}, got 0x{header.hash.hex()}", block=header.number
            )
        receipts = _receipts_or_error(block_hash, more[0]) if more else None
        try:
            found = None if isinstance(logs, RpcRefused) else _read_logs(logs)
        except (LogInvalid, ChainMoved):
            found = None
        return header, found, receipts

    def _batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        answers = list(self._transport.batch(calls)) if calls else []
        for answer in answers:
            if isinstance(answer, RpcRefused):
                raise answer
        return answers


def _header_or_none(answer: Any) -> Header | None:
    """Some nodes say by an error that they do not have a block."""
    if isinstance(answer, RpcRefused):
        if meaning(answer) is not Meaning.no_block:
            raise answer
        return None
    return None if answer is None else read_header(answer)


def _may_be_size(error: RpcRefused) -> bool:
    """Words that nobody knows may say that it is too much, too."""
    return meaning(error) in (Meaning.smaller, Meaning.unclear, Meaning.wrong)


def _speaks_of_addresses(error: RpcRefused) -> bool:
    return "address" in str(error.fields.get("reason", error)).lower()


def _wanted(topics: Sequence[bytes], addresses: Sequence[bytes], most: int) -> list[dict[str, Any]]:
    """What is asked besides the blocks, of `most` addresses in one request."""
    wanted = {"topics": [["0x" + topic.hex() for topic in topics]]} if topics else {}
    if not addresses:
        return [wanted]
    pieces = [addresses[start : start + most] for start in range(0, len(addresses), most)]
    return [wanted | {"address": ["0x" + each.hex() for each in piece]} for piece in pieces]


def _read_logs(answer: Any) -> list[Log]:
    if not isinstance(answer, list):
        raise LogInvalid(f"eth_getLogs answered with a JSON {type(answer).__name__}")
    return [read_log(item) for item in answer]


def _receipts_call(block_hash: bytes) -> tuple[str, Sequence[Any]]:
    return "eth_getBlockReceipts", ("0x" + block_hash.hex(),)


def _receipts_or_error(block_hash: bytes, answer: Any) -> Receipts | Scraper | None:
    if answer is None or isinstance(answer, RpcRefused):
        return answer
    try:
        return read_receipts(block_hash, answer)
    except (LogInvalid, ChainMoved) as error:
        return error


def read_receipts(block_hash: bytes, answer: Any) -> Receipts:
    """eth_getBlockReceipts' answer for that block; a transaction's receipt told twice counts once.
    LogInvalid, ChainMoved."""
    if not isinstance(answer, list):
        raise LogInvalid(f"eth_getBlockReceipts answered with a JSON {type(answer).__name__}")
    logs: list[Log] = []
    transactions: set[int] = set()
    gas_used: int | None = None
    for at, receipt in enumerate(answer):
        if not isinstance(receipt, dict):
            raise LogInvalid(f"a receipt is a JSON {type(receipt).__name__}")
        told = receipt.get("blockHash")
        if told is not None and _bytes(told, "blockHash", 32) != block_hash:
            raise LogInvalid(f"asked for receipts of 0x{block_hash.hex()}, got one of {told}")
        index, gas = receipt.get("transactionIndex"), receipt.get("cumulativeGasUsed")
        transactions.add(at if index is None else _quantity(index, "transactionIndex"))
        if gas is not None:
            gas_used = max(gas_used or 0, _quantity(gas, "cumulativeGasUsed"))
        logs += _read_logs(receipt.get("logs"))
    return Receipts(len(transactions), gas_used, logs)


def read_header(answer: Any) -> Header:
    """A header of eth_getBlockByNumber's answer. LogInvalid."""
    if not isinstance(answer, dict):
        raise LogInvalid(f"a block is a JSON {type(answer).__name__}")
    base_fee, bloom = answer.get("baseFeePerGas"), answer.get("logsBloom")
    transactions, gas_used = answer.get("transactions"), answer.get("gasUsed")
    return Header(
        number=_quantity(answer.get("number"), "number"),
        hash=_bytes(answer.get("hash"), "hash", 32),
        parent_hash=_bytes(answer.get("parentHash"), "parentHash", 32),
        timestamp=_quantity(answer.get("timestamp"), "timestamp"),
        base_fee=0 if base_fee is None else _quantity(base_fee, "baseFeePerGas"),
        logs_bloom=b"" if bloom is None else _bytes(bloom, "logsBloom", 256),
        transaction_count=len(transactions) if isinstance(transactions, list) else None,
        gas_used=None if gas_used is None else _quantity(gas_used, "gasUsed"),
    )


def read_hash(head: Any) -> bytes:
    """The hash of a header of the newHeads subscription, of which nothing else is believed: some tell
    an empty filter, and no base fee. LogInvalid."""
    if not isinstance(head, dict):
        raise LogInvalid(f"a head is a JSON {type(head).__name__}")
    return _bytes(head.get("hash"), "hash", 32)


def read_log(answer: Any) -> Log:
    """One log of eth_getLogs' answer. LogInvalid; ChainMoved for one that was removed."""
    if not isinstance(answer, dict):
        raise LogInvalid(f"a log is a JSON {type(answer).__name__}")
    topics = answer.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise LogInvalid("a log has no list of at most four topics")
    if answer.get("removed"):
        raise ChainMoved("the node names a removed log")
    return Log(
        address=_bytes(answer.get("address"), "address", 20),
        topics=tuple(_bytes(topic, "topic", 32) for topic in topics),
        data=_bytes(answer.get("data"), "data", None),
        block_number=_quantity(answer.get("blockNumber"), "blockNumber"),
        block_hash=_bytes(answer.get("blockHash"), "blockHash", 32),
        tx_index=_quantity(answer.get("transactionIndex"), "transactionIndex"),
        log_index=_quantity(answer.get("logIndex"), "logIndex"),
    )


def _quantity(value: Any, name: str) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) < 3:
        raise LogInvalid(f"{name} is {value!r}, no 0x quantity")
    try:
        number = int(value, 16)
    except ValueError:
        raise LogInvalid(f"{name} is {value!r}, no 0x quantity") from None
    if number >> 64:
        raise LogInvalid(f"{name} is {value!r}, more than 64 bits")
    return number


def _word(value: Any) -> int:
    if isinstance(value, str) and value.startswith("0x") and 2 < len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise LogInvalid(f"a word of storage is {value!r}, no 0x integer of 32 bytes")


def _bytes(value: Any, name: str, size: int | None) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise LogInvalid(f"{name} is {value!r}, no 0x bytes")
    try:
        found = bytes.fromhex(value[2:])
    except ValueError:
        raise LogInvalid(f"{name} is {value[:80]!r}, no 0x bytes") from None
    if size is not None and len(found) != size:
        raise LogInvalid(f"{name} has {len(found)} bytes, not {size}")
    return found
