"""Blocks of a node, read as a chain.

A node answers by number, and what it answers for a number may change between two questions. So a
range is read as a chain of headers, each naming its parent, and logs that name the hash of their
block; whatever does not link is ChainMoved, never a guess.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from arena.errors import ChainMoved, LogInvalid, LogsRefused, NodeBehind, RpcRefused
from arena.specs import PoolSpec
from arena.writer.node.client import Header, Log, NodeClient
from arena.writer.node.meanings import demands_address
from arena.writer.protocols.held import EVENT_TOPICS, TOPICS
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.compare import NodeBlock
from arena.writer.stream.event_logs import block_records, decode_log
from arena.writer.stream.evidence import addresses_of, named_pools, ordered

MAX_RANGE_BLOCKS = 1024  # of one eth_getLogs; halved each time a node refuses
FETCHED_BLOCKS = 8  # whose logs are asked for at once, all contracts' logs of them
MAX_FETCH_BLOCKS = 4096  # of one fetch; a longer gap is cheaper to read anew


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
