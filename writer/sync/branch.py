"""Which branch the arena and the stream are on, asked of a node.

The feed carries no hashes. A witness is a block whose hash is known to be the arena's: the node's
block of that number equals what the feed sent (logs.same_block), and it follows the witness before.
Whatever happened in a gap, the newest witness that is still canonical is a state the node's logs
continue from.

Equal blocks need not be the same block. On chains with a fixed base fee and several blocks a second
two branches have equal times and fees, and where no pool has an event nothing tells them apart.
Agreement counts what does: a fee that moved with what the parent block used, events of pools, and
failing these many blocks in a row. Until there is enough of it nothing that was read from the node
goes live. Even what counts as proof can be alike on two branches: full blocks, the same transactions.
So the hash of what was read is looked at for long after, for it may go.

Everything here waits for the node and runs in a worker thread; nothing touches the arena.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace

from arena.errors import ChainMoved, GapNotClosed, LogsRefused, NodeBehind
from arena.specs import PoolSpec
from arena.writer.node.client import Header, NodeClient
from arena.writer.stream.blocks import block_reader, claimed_blocks, fetch_blocks, speaks_of
from arena.writer.stream.compare import NodeBlock, differing_pools, same_block, touched_pools
from arena.writer.stream.history import Records
from arena.writer.sync.agreement import (
    PROOF,
    UNSURE_BLOCKS,
    WITNESS_BLOCKS,
    Agreement,
    Confirmation,
    GapBlocks,
    GapFacts,
    Witness,
    newest_run,
)
from arena.writer.sync.trail import (
    TRAIL_BLOCKS,
    Differing,
    Trail,
    number_of,
    other_events,
    same_identity,
)

log = logging.getLogger(__name__)

MAX_WITNESSES = 1024  # as many blocks as the undo ring holds


class Branch:
    """A node's view of the stream's chain.

    `pools` are those whose events count, by key; exchanged, never changed: other threads look at them.
    `late`: up to which block the stream may leave out the events of which pools (Standing.late).
    """

    def __init__(self, node: NodeClient):
        self.node = node
        self.reader = block_reader(node)
        self.pools: Mapping[bytes, PoolSpec] = {}
        self.witnesses: list[Witness] = []
        self.agreement = Agreement()  # up to the newest witness
        self.has_disagreed = False
        self.differing: Differing | None = None  # a block of the node that was not the stream's
        self.stopped: Differing | None = None  # the one that the last `witness` came to
        self.passed: dict[int, frozenset[bytes]] = {}  # block number -> pools not compared in it
        self.skipped: frozenset[bytes] = frozenset()  # pools not compared in any block
        self.doubted: frozenset[bytes] = frozenset()  # pools that are in dispute, or were
        # The newest block that the arena has from this node alone, sure when it was proven to be the
        # stream's. What the node says of blocks up to it proves nothing: they are its own.
        self.filled: Witness | None = None
        self._trail = Trail(node)

    def copy(self, witnesses: Sequence[Witness]) -> "Branch":
        """The same view with these witnesses, for another thread to go on with."""
        other = copy(self)
        other.witnesses, other._trail = list(witnesses), Trail(self.node)
        return other

    def pools_of(self, kept: Records, late: Mapping[bytes, int]) -> Mapping[bytes, PoolSpec]:
        """The pools to be compared in that block: those all of whose events the stream must bring, and of
        the others those it did, for a block has all of a pool or none."""
        number = number_of(kept)
        brought = touched_pools(kept, self.pools) if late else set()
        out = {key for key, last in late.items() if last >= number and key not in brought}
        out |= self.passed.get(number, frozenset()) | self.skipped
        return {key: spec for key, spec in self.pools.items() if key not in out}

    def forget(self) -> None:
        """The arena was filled anew: no hash of it is known."""
        self.witnesses = []
        self.agreement = Agreement()
        self.filled = None

    def fill(self, blocks: Sequence[NodeBlock], mark: int, *, is_proven: bool) -> None:
        """The arena has these blocks from the node alone."""
        newest = blocks[-1].header
        self.add(blocks, mark, Agreement(newest))
        self.filled = Witness(newest.number, newest.hash, mark, is_proven)

    @property
    def sure(self) -> list[Witness]:
        """The witnesses that can be gone by."""
        return [each for each in self.witnesses if each.is_sure]

    def add(
        self,
        blocks: Iterable[NodeBlock],
        mark: int,
        agreement: Agreement,
        *,
        shows_last: bool = True,
    ) -> None:
        """Blocks now known to be the arena's; the `agreement` up to the last makes them sure, with
        those they follow; the last itself only where that `shows_last`."""
        for block in blocks:
            header = block.header
            while self.witnesses and self.witnesses[-1].number >= header.number:
                self.witnesses.pop()
            self.witnesses.append(Witness(header.number, header.hash, mark, is_sure=False))
        self.agreement = agreement
        if agreement.is_firm:
            first = len(self.witnesses) - 1
            while (
                first > 0 and self.witnesses[first - 1].number + 1 == self.witnesses[first].number
            ):
                first -= 1
            self.witnesses[first:] = [
                replace(each, is_sure=True) for each in self.witnesses[first:]
            ]
            self.witnesses[-1] = replace(self.witnesses[-1], is_sure=shows_last)
        del self.witnesses[:-MAX_WITNESSES]

    def orphaned(self, places: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        return self._trail.orphaned(places)

    def gone(self, places: Collection[tuple[int, bytes]]) -> set[tuple[int, bytes]]:
        """The same. Those which the newest witness follows by parent hashes are there while it is, so
        mostly it is asked for alone."""
        run = newest_run(tuple(self.witnesses))
        found = self.orphaned(sorted({*places, *run[:1]} - set(run[1:])))
        if run and run[0] in found:
            found = self.orphaned(sorted(places))
        return set(found)

    def is_filled(self, number: int) -> bool:
        return self.filled is not None and number <= self.filled.number

    def _then(
        self, agreement: Agreement, kept: Records, header: Header, *, has_events: bool
    ) -> Agreement:
        """With one more equal block; one that was the node's own, or passed over, begins anew."""
        if self.is_filled(header.number) or header.number in self.passed:
            return Agreement(header)
        return agreement.then(kept, header, has_events=has_events)

    def _note_differing(
        self, block: NodeBlock, mark: int, kept: Records, pools: Mapping[bytes, PoolSpec]
    ) -> Differing:
        number, found = block.header.number, Differing.of(block, mark, kept, pools)
        # Another than the node's of before says nothing of the stream.
        is_lowest = self.differing is None or number < self.differing.number
        if is_lowest and not self.is_filled(number):
            self.differing = found
        return found

    def _doubt(self, agreement: Agreement, *, can_pass: bool = True) -> Agreement:
        """The same, with what speaks against it: till the node has it no more, or proof came behind."""
        known, tip = self.differing, agreement.tip
        is_passed = False
        if can_pass and known is not None and tip is not None and known.number < tip.number:
            passed = self.passed.get(known.number, frozenset())
            is_passed = agreement.outweighs and known.is_within(passed | self.doubted)
        if known is not None and (is_passed or known.is_over(self.node, self.reader, self.pools)):
            self.differing = known = None
        return replace(agreement, is_doubted=known is not None)

    def look_again(self, block_number: int) -> None:
        """Compare what comes behind that block once more: pools are compared that were not."""
        self.witnesses = [each for each in self.witnesses if each.number <= block_number]
        self.agreement = Agreement()

    def drop_orphans(self) -> None:
        """Forget the witnesses that the node no longer has: either it is ahead in a reorg, and the
        stream will revert them, or they never were the stream's."""
        asked = self.witnesses[-WITNESS_BLOCKS:]
        gone = self.orphaned([(each.number, each.hash) for each in asked])
        if gone:
            lowest = min(number for number, _ in gone)
            self.witnesses = [each for each in self.witnesses if each.number < lowest]
            self.agreement = Agreement()

    def witness(self, kept: Sequence[Records], mark: int, late: Mapping[bytes, int]) -> int:
        """Ask for the hashes of blocks the arena holds, ascending; how many are known now.

        Stops at the first that is another block than the node's. Scraper errors of the node.
        """
        self.stopped = None
        newest = self.witnesses[-1] if self.witnesses else None
        wanted = [each for each in kept if newest is None or number_of(each) > newest.number]
        if not wanted:
            return 0
        follows = newest is not None and number_of(wanted[0]) == newest.number + 1
        parent = newest.hash if newest is not None and follows else None
        head = self.node.head_number()
        wanted = [each for each in wanted if number_of(each) <= head]
        if not wanted:
            return 0
        try:
            found = claimed_blocks(
                self.node, number_of(wanted[0]), number_of(wanted[-1]), self.pools, parent=parent
            )
        except ChainMoved:
            self.drop_orphans()
            return 0
        except NodeBehind:
            return 0
        agreement = self.agreement
        if agreement.tip is None or agreement.tip.hash != found[0].header.parent_hash:
            before = self.node.headers([max(0, number_of(wanted[0]) - 1)])[0]
            agreement = Agreement(before)
        equal, shows_last = 0, True
        for block, each in zip(found, wanted, strict=True):
            pools = self.pools_of(each, late)
            if not same_block(each, block, pools):
                self.stopped = self._note_differing(block, mark, each, pools)
                self._disagree(block, each)
                break
            has_events = bool(touched_pools(block.records, pools))
            agreement = self._then(agreement, each, block.header, has_events=has_events)
            # A fee tells what the parent was. Two empty blocks are alike, and a node that leaves logs
            # out shows empty ones: whose filter speaks of pools waits for its child.
            shows_last = has_events or not speaks_of(block.header, pools)
            equal += 1
        if equal:
            self.add(found[:equal], mark, self._doubt(agreement), shows_last=shows_last)
        return equal

    def _disagree(self, block: NodeBlock, kept: Records) -> None:
        # Either side may be ahead, which settles itself; said once, for it may also be for good.
        level = logging.DEBUG if self.has_disagreed else logging.INFO
        self.has_disagreed = True
        counts = block.header.number, len(block.records) - 2, len(kept) - 2
        why = "stream and node are on different branches, or one leaves out events"
        text = "event=node_disagrees block=%d node_events=%d stream_events=%d reason=%r"
        log.log(level, text, *counts, why)

    def fetch_gap(self, facts: GapFacts) -> GapBlocks:
        """What is missing between the arena and the stream.

        GapNotClosed when no witness is canonical any more, or none is below the stream; ChainMoved when
        node and stream are on different branches just now and NodeBehind when the node lags: both pass.
        LogsRefused when the gap is too long.
        """
        candidates = list(reversed(facts.witnesses))
        filled = self.filled
        if filled is not None and self.orphaned([(filled.number, filled.hash)]):
            candidates = [each for each in candidates if each.number < filled.number]
        headers = self.node.headers([each.number for each in candidates])
        ancestor = next(
            (
                witness
                for witness, header in zip(candidates, headers, strict=True)
                if header is not None and header.hash == witness.hash
            ),
            None,
        )
        if not candidates:
            raise GapNotClosed(
                f"the stream begins at block {facts.first}, the arena ends at {facts.head}, and no hash "
                f"of a block up to {min(facts.head, facts.first - 1)} is known",
                head=facts.head,
            )
        if not any(headers):
            number = candidates[0].number
            raise NodeBehind(f"the node does not have block {number} yet", block=number)
        if ancestor is None:
            raise GapNotClosed(
                f"no block up to {facts.head} whose hash is known is canonical any more "
                f"({len(candidates)} known)",
                head=facts.head,
            )
        top = number_of(facts.kept[-1])
        blocks = self._fetch(ancestor.number + 1, top, parent=ancestor.hash, believes_silence=False)
        missing = blocks[: facts.first - ancestor.number - 1]
        compared = blocks[len(missing) :]
        before = missing[-1].header if missing else headers[candidates.index(ancestor)]
        # Nothing missing is to be believed.
        agreement = Agreement(before, told=0 if missing else PROOF)
        for block, kept in zip(compared, facts.kept, strict=True):
            pools = self.pools_of(kept, facts.late)
            if not same_block(kept, block, pools):
                self._note_differing(block, facts.mark, kept, pools)
                raise ChainMoved(
                    f"block {block.header.number} of the stream is another one than the node's",
                    block=block.header.number,
                )
            has_events = bool(touched_pools(block.records, pools))
            agreement = agreement.then(kept, block.header, has_events=has_events)
        agreement = self._doubt(agreement, can_pass=False)
        return GapBlocks(ancestor, tuple(missing), tuple(compared), agreement)

    def confirm(
        self,
        kept: Sequence[Records],
        scraped: Mapping[tuple[int, bytes], Sequence[bytes]],
        late: Mapping[bytes, int],
        mark: int = 0,
    ) -> Confirmation:
        """Whether scraped pools, keys by (block, hash), are of the stream's branch.

        `kept` are the stream's blocks at `mark`, ascending, at least one. ChainMoved, NodeBehind and what the
        node raises: ask again.
        """
        first = number_of(kept[0])
        begins = {number_of(each): each for each in kept}
        wanted = sorted(scraped)
        numbers = sorted({number for number, _hash in wanted} | {first})
        headers: dict[int, Header] = {}
        for number, header in zip(numbers, self.node.headers(numbers), strict=True):
            if header is None:
                raise NodeBehind(f"the node does not have block {number} yet", block=number)
            headers[number] = header
        another = f"block {first} of the stream is another one than the node's"
        if not same_identity(begins[first], headers[first]):
            raise ChainMoved(another, block=first)
        wrong = set()
        for number, block_hash in wanted:
            good = headers[number].hash == block_hash
            if good and number == first - 1:
                good = headers[first].parent_hash == block_hash
            elif good and number in begins:
                good = same_identity(begins[number], headers[number])
            if not good:
                wrong.add((number, block_hash))
        highest = max((number for number, _hash in wanted), default=0)
        reached_at = highest if highest > number_of(kept[-1]) else None
        keys = [key for place in wrong for key in scraped[place]]
        good_places = [each for each in wanted if each not in wrong]
        agreement = Agreement()
        if good_places and reached_at is None:
            agreement = self._doubt(self._agree(kept, good_places[-1][0], late, mark))
        if reached_at is None:
            shared = [each for each in wanted if each not in wrong and each[0] in begins]
            try:
                for number, block_hash in shared:
                    known, compared = begins[number], self.pools_of(begins[number], late)
                    pools = {
                        key: compared[key] for key in scraped[number, block_hash] if key in compared
                    }
                    keys += other_events(headers[number], known, pools, self.reader)
            except NodeBehind as error:
                return Confirmation(tuple(keys), unsettled=str(error))
        earlier: Sequence[NodeBlock] = ()
        places = list(good_places)
        below = [each for each in good_places if each[0] < first - 1]
        if below:
            blocks = self._fetch(below[0][0] + 1, first, parent=below[0][1])
            if not same_block(begins[first], blocks[-1], self.pools_of(begins[first], late)):
                raise ChainMoved(another, block=first)
            earlier = blocks[:-1]
            places.append((first, blocks[-1].header.hash))
        if agreement.tip is not None:
            places.append((agreement.tip.number, agreement.tip.hash))
        if not self._trail.is_one_chain(places):  # the answers were of two branches
            raise ChainMoved("the node's chain changed while it was read")
        return Confirmation(tuple(keys), tuple(earlier), reached_at, agreement)

    def _agree(
        self, kept: Sequence[Records], highest: int, late: Mapping[bytes, int], mark: int
    ) -> Agreement:
        """Whether the node's chain is the stream's up to block `highest`, by the blocks `kept` around
        it. Where fees tell, few blocks are enough, and events need only not speak against it up to
        `highest`: two branches may have equal fees. ChainMoved."""
        near = [each for each in kept if abs(number_of(each) - highest) <= UNSURE_BLOCKS]
        if not near:
            near = list(kept[:UNSURE_BLOCKS])
        first = number_of(near[0])
        found = self.node.headers([max(0, first - 1), *(number_of(each) for each in near)])
        agreement = Agreement(found[0])
        for each, header in zip(near, found[1:], strict=True):
            if header is None:
                break
            if not same_identity(each, header) or (
                agreement.tip is not None and header.parent_hash != agreement.tip.hash
            ):
                if header.number > highest:
                    break
                raise ChainMoved(
                    f"block {header.number} of the stream is another one than the node's",
                    block=header.number,
                )
            agreement = self._then(agreement, each, header, has_events=False)
        if not agreement.is_proven:
            return self._agree_in_events(kept, late, mark)
        up_to = [each for each in kept if number_of(each) <= highest]
        try:
            by_events = self._agree_in_events(up_to, late, mark) if up_to else agreement
        except LogsRefused:
            return agreement
        return by_events if by_events.differs else agreement

    def _agree_in_events(
        self, kept: Sequence[Records], late: Mapping[bytes, int], mark: int
    ) -> Agreement:
        """The same by all blocks from the newest sure witness on, or the first of the stream."""
        sure = [each for each in self.sure if each.number <= number_of(kept[-1])]
        start = max(number_of(kept[0]), number_of(kept[-1]) - TRAIL_BLOCKS + 1)
        agreement, parent = Agreement(), None
        if sure and sure[-1].number + 1 >= start:
            if self.orphaned([(sure[-1].number, sure[-1].hash)]):
                raise ChainMoved(f"the node has another block {sure[-1].number} than the arena")
            start, parent = sure[-1].number + 1, sure[-1].hash
            agreement = Agreement(told=PROOF, is_anchored=True)
        top = min(number_of(kept[-1]), self.node.head_number())
        trail = self._trail.read(start, top, self.pools)
        if parent is not None and trail and trail[0].header.parent_hash != parent:
            raise ChainMoved("the node's chain changed while it was read")
        for block, each in zip(
            trail,
            [each for each in kept if start <= number_of(each) <= top],
            strict=True,
        ):
            pools = self.pools_of(each, late)
            if not same_identity(each, block.header) or differing_pools(each, block.records, pools):
                self._note_differing(block, mark, each, pools)
                return Agreement(block.header, differs=True)
            has_events = bool(touched_pools(block.records, pools))
            agreement = self._then(agreement, each, block.header, has_events=has_events)
        return agreement

    def _fetch(
        self, first: int, last: int, *, parent: bytes, believes_silence: bool = True
    ) -> list[NodeBlock]:
        return fetch_blocks(
            self.node,
            first,
            last,
            self.pools,
            parent=parent,
            reader=self.reader,
            believes_silence=believes_silence,
        )
