"""How far a node's branch and the stream's are known to be one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arena.native import lib
from arena.writer.node.client import Header
from arena.writer.stream.compare import NodeBlock
from arena.writer.stream.history import Records

# Blocks in a row that agree in time and fee alone, before node and stream are taken to be on one branch
# as long as nothing speaks against it: no chain without fees that tell has had reorgs as deep.
UNSURE_BLOCKS = 16
WITNESS_BLOCKS = 64  # looked at in one go
COMPARED_BLOCKS = 24  # of the stream behind a gap; more than UNSURE_BLOCKS
PROOF = 2  # blocks whose events agree; a fee that tells counts as much as both


@dataclass(frozen=True, slots=True)
class Witness:
    """The arena after block `number` is the state of block `hash`, unless a revert at or below it
    came after `mark`. Not `is_sure`: or unless the node is on another branch that looks the same."""

    number: int
    hash: bytes
    mark: int
    is_sure: bool = True


@dataclass(frozen=True, slots=True)
class Agreement:
    """What speaks for node and stream being on one branch: `blocks` in a row that are equal, up to
    `tip`, and how much of it `told`, also `by_fee`; `is_anchored`: they follow a sure one. `differs`: the
    last one looked at is not equal. `is_doubted`: one that was not equal is still the node's and the
    stream's, so blocks without events prove nothing."""

    tip: Header | None = None
    blocks: int = 0
    told: int = 0
    by_fee: bool = False
    is_anchored: bool = False
    differs: bool = False
    is_doubted: bool = False

    @property
    def is_proven(self) -> bool:
        return not self.differs and self.told >= PROOF

    @property
    def outweighs(self) -> bool:
        """Also that a block below was another one in events: these do not agree so long on two branches."""
        return self.is_proven and self.blocks >= (PROOF if self.by_fee else UNSURE_BLOCKS)

    @property
    def is_enough(self) -> bool:
        """To go by until something speaks against it."""
        speaks_against = self.differs or self.is_doubted
        return self.is_proven or (not speaks_against and self.blocks >= UNSURE_BLOCKS)

    @property
    def is_firm(self) -> bool:
        """The same for what is read now: a fee is not enough right behind a block that is another one for the
        node, as two branches may have equal fees."""
        return self.is_enough and (not self.is_doubted or self.is_anchored or self.blocks >= PROOF)

    def then(self, kept: Records, header: Header, *, has_events: bool) -> "Agreement":
        """With one more equal block, the next one or one after blocks that were not looked at."""
        tip = self.tip
        by_fee = tip is not None and tip.hash == header.parent_hash and tells(kept, tip, header)
        told = PROOF if by_fee else self.told + has_events
        return Agreement(header, self.blocks + 1, told, self.by_fee or by_fee, self.is_anchored)


@dataclass(frozen=True, slots=True)
class GapFacts:
    """A gap as the feed thread sees it.

    `witnesses` are those still valid at or below the arena's head and below the stream's first
    block, ascending. `kept` are the first blocks of the stream behind the gap, `late` the pools whose
    events they may leave out (Standing.late).
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
    """How to close it: return to `ancestor`, then apply `missing`, up to the stream's first block.

    `agreement` is that of the blocks `compared`."""

    ancestor: Witness
    missing: tuple[NodeBlock, ...]
    compared: tuple[NodeBlock, ...]
    agreement: Agreement

    @property
    def place(self) -> tuple[int, bytes]:
        """The newest block that was taken from the node alone."""
        if not self.missing:
            return self.ancestor.number, self.ancestor.hash
        return self.missing[-1].header.number, self.missing[-1].header.hash


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a node says of scraped pools: those in `wrong` are not of the stream's branch.

    `reached_at` is the highest scraped block when the stream has yet to come to it: only then can it
    be compared. `earlier` are the blocks between the lowest good one and the stream's first. The
    `agreement` is that of the blocks that show it. `unsettled`: why a block's logs are not believed yet,
    so that the same is to be asked again.
    """

    wrong: tuple[bytes, ...]
    earlier: tuple[NodeBlock, ...] = ()
    reached_at: int | None = None
    agreement: Agreement = Agreement()
    unsettled: str = ""


def tells(kept: Records, parent: Header, header: Header) -> bool:
    """Whether the fee that stream and node agree in says what the parent block was: it moved, and
    not as it does after an empty block, as a chain does that idles."""
    if not kept[0]["flags"] & lib.PSA_EVENT_HAS_BASE_FEE:
        return False
    return header.base_fee not in (parent.base_fee, parent.base_fee - parent.base_fee // 8)


def newest_run(witnesses: Sequence[Witness]) -> list[tuple[int, bytes]]:
    """Number and hash of the newest and those it follows without a hole, descending."""
    run: list[tuple[int, bytes]] = []
    for each in reversed(witnesses):
        if run and each.number + 1 != run[-1][0]:
            break
        run.append((each.number, each.hash))
    return run
