"""Protocol fees of V4 that a stream does not bring, asked of the node behind it.

A producer of the exex dialect never tells `ProtocolFeeUpdated`. Headers say which blocks may have one,
all of them where a header has no bloom filter. The logs of those alone are read.
"""

from collections.abc import Iterator, Mapping, Sequence

from arena.errors import ChainMoved, LogsRefused
from arena.layouts.slots import UNISWAP_V4
from arena.native import lib
from arena.specs import PoolSpec
from arena.writer.node.client import Header, NodeClient
from arena.writer.protocols.uniswap_v4 import V4_PROTOCOL_FEE
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.blocks import MAX_FETCH_BLOCKS, fetch_blocks, fetch_headers
from arena.writer.stream.evidence import named_pools

_TOPICS = {UNISWAP_V4: (V4_PROTOCOL_FEE,)}

Change = tuple[int, bytes, int]  # block, key of the pool, its fee from then on


def fee_changes(
    node: NodeClient,
    after: int,
    tip: tuple[int, bytes],
    pools: Mapping[bytes, PoolSpec],
    reader: BlockLogs,
) -> list[Change]:
    """The changes of the V4 `pools` in the blocks above `after` up to the block `tip` (number, hash), at
    most one a pool and block, by `reader`, which knows the node's ways from call to call.

    ChainMoved when the node has another block of that number; LogsRefused when there are too many
    blocks, or not all logs to be had; NodeBehind, LogInvalid, what the node raises.
    """
    number, block_hash = tip
    if not pools or number <= after:
        return []
    if number - after > MAX_FETCH_BLOCKS:
        raise LogsRefused(
            f"protocol fees are to be asked of {number - after} blocks, at most {MAX_FETCH_BLOCKS}",
            first=after + 1,
            last=number,
        )
    headers = fetch_headers(node, after + 1, number)
    if headers[-1].hash != block_hash:
        raise ChainMoved(f"block {number} is another one by now", block=number)
    changes: dict[tuple[int, bytes], int] = {}  # the last of a block counts
    asked = [each for each in headers if any(named_pools(each, pools, _TOPICS))]
    for run in _runs(asked):
        first = run[0]
        last, parent = run[-1].number, first.parent_hash
        found = fetch_blocks(node, first.number, last, pools, parent=parent, reader=reader)
        for header, block in zip(run, found, strict=True):
            if block.header.hash != header.hash:
                raise ChainMoved(
                    f"block {header.number} is another one by now", block=header.number
                )
            for record in block.records:
                if record["kind"] == lib.PSA_EVENT_PROTOCOL_FEE:
                    key = record["key"].tobytes()[: record["key_nbytes"]]
                    changes[header.number, key] = int(record["words"][0])
    return [(number, key, fee) for (number, key), fee in changes.items()]


def _runs(headers: Sequence[Header]) -> Iterator[list[Header]]:
    """Headers cut where numbers do not follow."""
    run: list[Header] = []
    for header in headers:
        if run and header.number != run[-1].number + 1:
            yield run
            run = []
        run.append(header)
    if run:
        yield run
