"""Blocks of a node read to be compared with the stream's, and kept while they are canonical."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from arena.errors import LogsRefused, NodeBehind, Scraper
from arena.native import lib
from arena.specs import PoolSpec
from arena.writer.node.client import Header, NodeClient
from arena.writer.stream.block_logs import BlockLogs
from arena.writer.stream.blocks import claimed_blocks, fetch_blocks
from arena.writer.stream.compare import NodeBlock, differing_pools, same_block, touched_pools
from arena.writer.stream.event_logs import block_records
from arena.writer.stream.history import Records
from arena.writer.sync.agreement import Witness

TRAIL_BLOCKS = 256  # of the stream compared before pools join


class Trail:
    """Of one node; a run of blocks that follow one another, for one set of pools."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._blocks: list[NodeBlock] = []
        self._pools: Mapping[bytes, PoolSpec] = {}

    def read(self, first: int, last: int, pools: Mapping[bytes, PoolSpec]) -> list[NodeBlock]:
        """These blocks; what was read before is not read again. What claimed_blocks raises."""
        trail = self._blocks
        if (
            self._pools is not pools
            or not trail
            or not trail[0].header.number <= first <= trail[-1].header.number + 1
            or self.orphaned([(trail[-1].header.number, trail[-1].header.hash)])
        ):
            trail = []
        trail = trail[-2 * TRAIL_BLOCKS :]
        begin = trail[-1].header.number + 1 if trail else first
        parent = trail[-1].header.hash if trail else None
        trail = [*trail, *claimed_blocks(self._node, begin, last, pools, parent=parent)]
        self._blocks, self._pools = trail, pools
        return [each for each in trail if first <= each.header.number <= last]

    def orphaned(self, places: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Those of blocks (number, hash) which the node no longer has."""
        headers = self._node.headers([number for number, _ in places])
        return [
            place
            for place, header in zip(places, headers, strict=True)
            if header is not None and header.hash != place[1]
        ]

    def is_one_chain(self, places: Collection[tuple[int, bytes]]) -> bool:
        """Whether the node has these blocks (number, hash), each a descendant of those below it."""
        if not places:
            return True
        numbers = [number for number, _ in places]
        headers = self._node.headers(range(min(numbers), max(numbers) + 1))
        chain: dict[int, bytes] = {}
        for header in headers:
            if (
                header is None
                or chain.get(header.number - 1, header.parent_hash) != header.parent_hash
            ):
                return False
            chain[header.number] = header.hash
        return all(chain.get(number) == known for number, known in places)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Differing(Witness):
    """A block of the node that was not the stream's, which was `kept`, in events of `pools`. Where time and
    fee agree (`is_near`) in those of the `disputed`, or of none, but for the order of the `touched`."""

    kept: Records
    pools: Mapping[bytes, PoolSpec]
    is_near: bool
    disputed: frozenset[bytes]
    touched: frozenset[bytes]

    @classmethod
    def of(
        cls, block: NodeBlock, mark: int, kept: Records, pools: Mapping[bytes, PoolSpec]
    ) -> Self:
        header, records = block.header, block.records
        touched = touched_pools(kept, pools) | touched_pools(records, pools)
        return cls(
            header.number,
            header.hash,
            mark,
            kept=kept,
            pools=pools,
            is_near=same_identity(kept, header),
            disputed=frozenset(differing_pools(kept, records, pools)),
            touched=frozenset(touched),
        )

    def is_within(self, pools: Collection[bytes]) -> bool:
        """No other pools are in dispute."""
        return self.is_near and self.disputed.issubset(pools)

    def is_over(
        self, node: NodeClient, reader: BlockLogs, listed: Mapping[bytes, PoolSpec]
    ) -> bool:
        """The node has another block of that number, or other logs of this one: the stream's. Pools that
        are listed no more do not count."""
        with suppress(Scraper):
            return not self.lasts(node, reader, listed)
        return False

    def lasts(self, node: NodeClient, reader: BlockLogs, listed: Mapping[bytes, PoolSpec]) -> bool:
        """The node has that block, and all its logs are another block's than the stream's. Scraper, as
        where they are not all there yet."""
        header = node.headers([self.number])[0]
        if header is None:
            raise NodeBehind(f"the node does not have block {self.number}", block=self.number)
        if header.hash != self.hash:
            return False
        pools = {key: spec for key, spec in self.pools.items() if key in listed}
        at, parent = self.number, header.parent_hash
        try:
            found = fetch_blocks(node, at, at, pools, parent=parent, reader=reader)
        except LogsRefused:  # it contradicts itself
            return True
        return not same_block(self.kept, found[0], pools)


def other_events(
    header: Header, kept: Records, pools: Mapping[bytes, PoolSpec], reader: BlockLogs
) -> list[bytes]:
    """Those whose events in a block differ between node and stream: two blocks with one parent have the
    same base fee, and may have the same time."""
    whole = reader.read([header], pools)[0]
    differing = list(whole.doubtful & pools.keys())
    pools = {key: spec for key, spec in pools.items() if key not in whole.doubtful}
    found = block_records(header, whole.logs, pools, whole.first_logs)
    return differing + differing_pools(kept, found, pools)


def number_of(records: Records) -> int:
    return int(records["block_number"][0])


def same_identity(kept: Records, header: Header) -> bool:
    """Time and base fee agree, as far as the stream carries them."""
    begin = kept[0]
    if begin["timestamp"] and int(begin["timestamp"]) != header.timestamp:
        return False
    has_base_fee = bool(begin["flags"] & lib.PSA_EVENT_HAS_BASE_FEE)
    return not has_base_fee or int(begin["words"][0]) == header.base_fee
