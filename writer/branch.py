"""Which branch the arena and the stream are on, asked of a node.

The feed carries no hashes. A witness is a block whose hash is known to be the arena's: the node's
block of that number equals what the feed sent (logs.same_block), and it follows the witness before.
Whatever happened in a gap, the newest witness that is still canonical is a state the node's logs
continue from.

Everything here waits for the node and runs in a worker thread; nothing touches the arena.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from arena.arena import PoolSpec
from arena.errors import ChainMoved, GapNotClosed, NodeBehind
from arena.native import lib
from arena.writer.feed import Records
from arena.writer.logs import (
    TOPICS,
    Header,
    NodeBlock,
    NodeClient,
    block_records,
    differing_pools,
    fetch_blocks,
    same_block,
)

log = logging.getLogger(__name__)

MAX_WITNESSES = 1024  # as many blocks as the undo ring holds
WITNESS_BLOCKS = 64  # looked at in one go
COMPARED_BLOCKS = 8  # of the stream behind a gap


@dataclass(frozen=True, slots=True)
class Witness:
    """The arena after block `number` is the state of block `hash`, unless a revert at or below it
    came after `mark`."""

    number: int
    hash: bytes
    mark: int


@dataclass(frozen=True, slots=True)
class GapFacts:
    """A gap as the feed thread sees it.

    `witnesses` are those still valid at or below the arena's head and below the stream's first
    block, ascending. `kept` are the first blocks of the stream behind the gap, `late` the pools whose
    events they may leave out (Intake.late).
    """

    mark: int
    head: int
    witnesses: tuple[Witness, ...]
    kept: tuple[Records, ...]
    late: Mapping[bytes, int]

    @property
    def first(self) -> int:
        return int(self.kept[0]["block_number"][0])


@dataclass(frozen=True, slots=True)
class GapBlocks:
    """How to close it: return to `ancestor`, then apply `missing`, up to the stream's first block."""

    ancestor: Witness
    missing: tuple[NodeBlock, ...]
    compared: tuple[NodeBlock, ...]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a node says of scraped pools: those in `wrong` are not of the stream's branch.

    `reached_at` is the highest scraped block when the stream has yet to come to it: only then can it
    be compared. `earlier` are the blocks between the lowest good one and the stream's first.
    """

    wrong: tuple[bytes, ...]
    earlier: tuple[NodeBlock, ...] = ()
    reached_at: int | None = None


class Branch:
    """A node's view of the stream's chain.

    `pools` are those whose events count, by key; exchanged, never changed: other threads look at them.
    Where blocks of the stream are compared, `late` says up to which block they may leave out the events
    of which pools (Intake.late).
    """

    def __init__(self, node: NodeClient):
        self.node = node
        self.pools: Mapping[bytes, PoolSpec] = {}
        self.witnesses: list[Witness] = []
        self.has_disagreed = False

    def copy(self, witnesses: Sequence[Witness]) -> "Branch":
        """The same view with these witnesses, for another thread to go on with."""
        other = Branch(self.node)
        other.pools, other.witnesses = self.pools, list(witnesses)
        other.has_disagreed = self.has_disagreed
        return other

    def pools_at(self, block_number: int, late: Mapping[bytes, int]) -> Mapping[bytes, PoolSpec]:
        """The pools all of whose events the stream brings in that block."""
        return {key: spec for key, spec in self.pools.items() if late.get(key, -1) < block_number}

    def forget(self) -> None:
        """The arena was filled anew: no hash of it is known."""
        self.witnesses.clear()

    def keep(self, valid: Callable[[Sequence[Witness]], Sequence[Witness]]) -> None:
        """Drop the witnesses `valid` leaves out."""
        self.witnesses = list(valid(self.witnesses))

    def add(self, blocks: Iterable[NodeBlock], mark: int) -> None:
        """Blocks now known to be the arena's."""
        for block in blocks:
            header = block.header
            while self.witnesses and self.witnesses[-1].number >= header.number:
                self.witnesses.pop()
            self.witnesses.append(Witness(header.number, header.hash, mark))
        del self.witnesses[:-MAX_WITNESSES]

    def witness(self, kept: Sequence[Records], mark: int, late: Mapping[bytes, int]) -> int:
        """Ask for the hashes of blocks the arena holds, ascending; how many are known now.

        Stops at the first that is another block than the node's. Scraper errors of the node.
        """
        newest = self.witnesses[-1] if self.witnesses else None
        wanted = [each for each in kept if newest is None or _number(each) > newest.number]
        if not wanted:
            return 0
        follows = newest is not None and _number(wanted[0]) == newest.number + 1
        parent = newest.hash if newest is not None and follows else None
        head = self.node.head_number()
        wanted = [each for each in wanted if _number(each) <= head]
        if not wanted:
            return 0
        try:
            found = fetch_blocks(
                self.node, _number(wanted[0]), _number(wanted[-1]), self.pools, parent=parent
            )
        except (ChainMoved, NodeBehind):
            return 0  # one of the two is in the middle of a reorg
        equal = 0
        for block, each in zip(found, wanted, strict=True):
            if not same_block(each, block, self.pools_at(block.header.number, late)):
                self._disagree(block, each)
                break
            equal += 1
        self.add(found[:equal], mark)
        return equal

    def _disagree(self, block: NodeBlock, kept: Records) -> None:
        """Either side may be ahead, which settles itself; said once, for it may also be for good."""
        level = logging.DEBUG if self.has_disagreed else logging.INFO
        self.has_disagreed = True
        log.log(
            level,
            "event=node_disagrees block=%d node_events=%d stream_events=%d reason=%r",
            block.header.number,
            len(block.records) - 2,
            len(kept) - 2,
            "the stream and the node are on different branches, or the stream leaves out pools; "
            "while it lasts gaps are closed by reading pools anew",
        )

    def fetch_gap(self, facts: GapFacts) -> GapBlocks:
        """What is missing between the arena and the stream.

        GapNotClosed when no witness is canonical any more; ChainMoved when node and stream are on
        different branches just now and NodeBehind when the node lags: both pass. LogsRefused when the
        gap is too long.
        """
        candidates = list(reversed(facts.witnesses))
        headers = self.node.headers([each.number for each in candidates])
        ancestor = next(
            (
                witness
                for witness, header in zip(candidates, headers, strict=True)
                if header is not None and header.hash == witness.hash
            ),
            None,
        )
        if ancestor is None:
            raise GapNotClosed(
                f"no block up to {facts.head} whose hash is known is canonical any more "
                f"({len(candidates)} known)",
                head=facts.head,
            )
        top = _number(facts.kept[-1])
        blocks = fetch_blocks(self.node, ancestor.number + 1, top, self.pools, parent=ancestor.hash)
        missing = blocks[: facts.first - ancestor.number - 1]
        compared = blocks[len(missing) :]
        for block, kept in zip(compared, facts.kept, strict=True):
            if not same_block(kept, block, self.pools_at(block.header.number, facts.late)):
                raise ChainMoved(
                    f"block {block.header.number} of the stream is another one than the node's",
                    block=block.header.number,
                )
        return GapBlocks(ancestor, tuple(missing), tuple(compared))

    def confirm(
        self,
        kept: Sequence[Records],
        scraped: Mapping[tuple[int, bytes], Sequence[bytes]],
        late: Mapping[bytes, int],
    ) -> Confirmation:
        """Whether scraped pools, keys by (block, hash), are of the stream's branch.

        `kept` are the stream's blocks, ascending, at least one. ChainMoved, NodeBehind and what the
        node raises: ask again.
        """
        first = _number(kept[0])
        begins = {_number(each): each for each in kept}
        wanted = sorted(scraped)
        numbers = sorted({number for number, _hash in wanted} | {first})
        headers: dict[int, Header] = {}
        for number, header in zip(numbers, self.node.headers(numbers), strict=True):
            if header is None:
                raise NodeBehind(f"the node does not have block {number} yet", block=number)
            headers[number] = header
        if not _same_identity(begins[first], headers[first]):
            raise ChainMoved(
                f"block {first} of the stream is another one than the node's", block=first
            )
        wrong = set()
        for number, block_hash in wanted:
            good = headers[number].hash == block_hash
            if good and number == first - 1:
                good = headers[first].parent_hash == block_hash
            elif good and number in begins:
                good = _same_identity(begins[number], headers[number])
            if not good:
                wrong.add((number, block_hash))
        highest = max((number for number, _hash in wanted), default=0)
        reached_at = highest if highest > _number(kept[-1]) else None
        keys = [key for place in wrong for key in scraped[place]]
        if reached_at is None:
            shared = [each for each in wanted if each not in wrong and each[0] in begins]
            keys += self._other_events(
                [(headers[number], begins[number], scraped[number, h]) for number, h in shared],
                late,
            )
        below = [each for each in wanted if each not in wrong and each[0] < first - 1]
        if not below:
            return Confirmation(tuple(keys), (), reached_at)
        blocks = fetch_blocks(self.node, below[0][0] + 1, first, self.pools, parent=below[0][1])
        hashes = {block.header.number: block.header.hash for block in blocks}
        if any(hashes.get(number, known) != known for number, known in below):
            raise ChainMoved("the node's chain changed while it was read")
        if not same_block(begins[first], blocks[-1], self.pools_at(first, late)):
            raise ChainMoved(
                f"block {first} of the stream is another one than the node's", block=first
            )
        return Confirmation(tuple(keys), tuple(blocks[:-1]), reached_at)

    def _other_events(
        self,
        blocks: Sequence[tuple[Header, Records, Sequence[bytes]]],
        late: Mapping[bytes, int],
    ) -> list[bytes]:
        """Of the pools (keys) of each block those whose events differ between node and stream: two
        blocks with one parent have the same base fee, and may have the same time."""
        found = self.node.block_logs([header.hash for header, _, _ in blocks], TOPICS)
        differing = []
        for (header, kept, keys), logs in zip(blocks, found, strict=True):
            compared = self.pools_at(header.number, late)
            pools = {key: compared[key] for key in keys if key in compared}
            differing += differing_pools(kept, block_records(header, logs, pools), pools)
        return differing


def _number(records: Records) -> int:
    return int(records["block_number"][0])


def _same_identity(kept: Records, header: Header) -> bool:
    """Time and base fee agree, as far as the stream carries them."""
    begin = kept[0]
    if begin["timestamp"] and int(begin["timestamp"]) != header.timestamp:
        return False
    has_base_fee = bool(begin["flags"] & lib.PSA_EVENT_HAS_BASE_FEE)
    return not has_base_fee or int(begin["words"][0]) == header.base_fee
