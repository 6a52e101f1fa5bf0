"""The chain, what the stream, the node and the database show of it, and which states may be live."""

import random
from collections.abc import Callable, Iterable

from builders.history import MORE_POOLS, POOLS, ListChange, Producer, SimBlock, Universe

from simulation.clock import Clock
from simulation.plan import Plan

HEAL_S = 60.0  # until what was read on another branch is read again, once the node has left it
NEVER = 10**9  # as many blocks until the producer follows a change: not yet told

Chain = tuple[SimBlock, ...]


class World:
    """The chain of the stream, and views of it. With a split the node has a branch of its own."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self.plan = plan
        self.clock = clock
        self.rng = random.Random(f"chain {plan.seed}")
        self.turns = random.Random(f"turns {plan.seed}")
        eventful = plan.life.is_eventful
        hostile = plan.hostile
        self.universe = Universe(
            self.rng,
            pools=MORE_POOLS if eventful else POOLS,
            has_fixed_fee=hostile.has_fixed_fee,
            fee_step=hostile.fee_step,
            blocks_a_second=hostile.blocks_a_second,
        )
        self.listed = set(self.universe.protocols)
        if eventful:
            keys = sorted(self.listed)
            self.listed = set(self.turns.sample(keys, self.turns.randrange(1, len(keys) + 1)))
        self.producer = Producer(
            self.universe,
            order=plan.order,  # type: ignore[arg-type]
            envelope=plan.envelope,
            tracked=set(self.listed) if eventful else None,
        )
        self.views: list[Chain] = [self.universe.chain]
        """What the stream's chain was after each step."""
        self.oldest_view = 0
        """The arena may still be at this view: what came since may not have reached the writer."""
        self.is_taken_over = False
        """A writer has begun with what another left, at any earlier block, and was not live since."""
        self.branch: Chain | None = None
        """The node's own chain in a split."""
        self.foreign: dict[str, list[SimBlock]] = {}
        """Blocks of a branch of the node's own at which pools were read, by their keys."""
        self.split_ended = -HEAL_S
        self.heard_view = 0
        self.told_view = 0  # what is on the way to the writer leads to it
        """The newest view whose reorgs the writer has heard of."""
        self.database: Chain = self.universe.chain
        self.busy_left = hostile.busy
        self.notes: list[str] = []
        self.is_calm = False
        self.is_noticeable = False
        """The writer has a block on this connection, so that one that comes again tells of a loss."""
        self._has_hashes = plan.scraper in ("rpc", "hashed_database")
        self.is_unsure = False
        """The stream has lost something and may not have noticed."""

    def note(self, text: str) -> None:
        self.notes.append(f"{self.clock.now - 1000:9.3f} {text}")

    # what happens on the chain

    def advance(self) -> bytes:
        """One thing happens; the frames of it."""
        universe, hostile = self.universe, self.plan.hostile
        if self.branch is not None and not self.is_calm:
            self.branch = (*self.branch, universe.mine_on(self.branch[-1]))
            if self.rng.random() < 0.3:
                return self._end_split()
        deep = hostile.max_depth > 8
        if self.is_calm or self.rng.random() < 0.65 or len(universe.chain) < 3:
            most = 1 if self.is_calm else 40 if deep and self.rng.random() < 0.3 else 3
            new = [self._mine() for _ in range(self.rng.randrange(1, most + 1))]
            data = self.producer.mined(new)
            self.note(f"mined {new[0].number}..{new[-1].number}")
        else:
            deepest = hostile.max_depth if deep and self.rng.random() < 0.5 else 8
            depth = self.rng.randrange(1, min(deepest, len(universe.chain) - 1) + 1)
            old = universe.cut(depth)
            count = 0 if self.rng.random() < 0.1 else depth + self.rng.randrange(2)
            new = [self._mine() for _ in range(count)]
            data = self._reorganised(old, new)
        self._viewed()
        if not self.is_calm and self.branch is None and self.rng.random() < hostile.splits:
            self._begin_split()
        return data

    def _mine(self) -> SimBlock:
        hostile = self.plan.hostile
        is_busy = self.busy_left and not self.is_calm and self.rng.random() < 0.2
        self.busy_left -= bool(is_busy)
        return self.universe.mine(busy=hostile.busy_txs if is_busy else 0)

    def _reorganised(self, old: list[SimBlock], new: list[SimBlock]) -> bytes:
        """The frames of a reorg, which may be torn."""
        universe, torn = self.universe, self.plan.hostile.torn_reorgs
        self.note(f"reorg {old[0].number}..{old[-1].number} by {len(new)}")
        if torn and not self.is_calm and self.rng.random() < torn:
            is_seen = new and (self.is_noticeable or self._has_hashes)
            if self.rng.random() < 0.5 or not is_seen:
                self.note("  told twice")
                told = self.producer.reorganised(old, new, universe.tip)
                return told + self.producer.reorganised(old, new, universe.tip)
            self.note("  without what it reverts")
            return self.producer.mined(new)
        return self.producer.reorganised(old, new, universe.tip)

    def _viewed(self) -> None:
        self.views.append(self.universe.chain)

    def _begin_split(self) -> None:
        """The node follows another branch from some block on."""
        chain = self.universe.chain
        depth = self.rng.randrange(min(4, len(chain) - 1) + 1)
        own = chain[: len(chain) - depth]
        for _ in range(depth + self.rng.randrange(2)):
            own = (*own, self.universe.mine_on(own[-1]))
        self.branch = own
        self.note(f"  node leaves at {chain[-1 - depth].number}")

    def _end_split(self) -> bytes:
        """One of the two comes to the other's branch."""
        universe, own = self.universe, self.branch
        assert own is not None
        self.branch = None
        self.split_ended = self.clock.now
        if self.rng.random() < 0.5:
            self.note("  node comes back")
            return b""
        stream = universe.chain
        common = next(
            (i for i, (a, b) in enumerate(zip(stream, own, strict=False)) if a is not b),
            min(len(stream), len(own)),
        )
        old, new = list(stream[common:]), list(own[common:])
        universe.chain = own
        if old:
            data = self._reorganised(old, new)
        else:
            data = self.producer.mined(new)
            self.note("  stream follows the node")
        self._viewed()
        return data

    def calm(self) -> None:
        """Faults cease, and there is one chain."""
        self.is_calm = True
        if self.branch is not None:
            self.branch = None
            self.split_ended = self.clock.now
        self.note("calm")

    # the list

    def order_of(self, keys: Iterable[str]) -> list[str]:
        """As the universe lists them."""
        return [key for key in self.universe.protocols if key in keys]

    def change_list(self, blocks: int) -> ListChange:
        """The list changes; the producer follows after that many more blocks."""
        rng = self.turns
        keys = sorted(self.universe.protocols)
        there = sorted(self.listed)
        removed: set[str] = set()
        if len(there) > 1 and rng.random() < 0.6:
            removed = set(rng.sample(there, rng.randrange(1, min(3, len(there) - 1) + 1)))
        others = [key for key in keys if key not in self.listed]
        added: set[str] = set()
        if others and (not removed or rng.random() < 0.4):
            added = set(rng.sample(others, rng.randrange(1, min(3, len(others)) + 1)))
        if removed and rng.random() < 0.2:
            added.add(rng.choice(sorted(removed)))  # read anew
        change = ListChange(frozenset(removed), frozenset(added), blocks)
        self.listed = (self.listed - removed) | added
        self.producer.changes.append(change)
        names = [[key[:6] for key in sorted(each)] for each in (removed, added)]
        self.note(f"  list -{names[0]} +{names[1]} in {blocks}")
        return change

    # views

    def delivered(self) -> None:
        """A database moves to what its node has now, some blocks behind, or not yet."""
        if self.is_calm or self.rng.random() < 0.7:
            self.follow()

    def follow(self) -> None:
        """The database is at a block of its node's chain of now."""
        lag = 0 if self.is_calm else self.rng.randrange(7)
        if not self.is_told:
            return
        chain = self.universe.chain
        self.database = chain[: max(1, len(chain) - lag)]

    @property
    def is_told(self) -> bool:
        """The writer has heard of all reorgs. Until then sources without hashes stay where they are: a
        reorg that is still to come, or was lost and not noticed, would look as if the stream had
        passed its blocks."""
        newest = self.views[-1]
        known = (self.views[self.heard_view], self.views[self.told_view])
        return all(newest[: len(each)] == each for each in known)

    @property
    def view(self) -> int:
        """The newest, by its number."""
        return len(self.views) - 1

    def settled(self, *, is_live: bool) -> None:
        """The writer has all there is: from now on it may be at no older view. One that has begun with
        what another left shows that until it is live."""
        self.is_unsure = False
        self.heard_view = self.view
        if is_live or not self.is_taken_over:
            self.oldest_view = self.view
            self.is_taken_over = False

    def killed(self) -> None:
        """The next writer begins with a segment or a checkpoint from before."""
        self.is_unsure = self.is_taken_over = True
        self.oldest_view = 0

    def node_view(self, rng: random.Random) -> Chain:
        if self.branch is not None:
            return self.branch
        shows_old = self.plan.node == "flaky" and self.plan.stream == "exex"
        if shows_old and not self.is_calm and rng.random() < 0.2:
            return self.views[-rng.randrange(1, min(4, len(self.views)) + 1)]
        return self.views[-1]

    def note_read(self, block: SimBlock, keys: Iterable[str]) -> None:
        """A source answers with these pools at that block."""
        if self.branch is not None and not self._is_on_stream(block):
            for key in keys:
                self.foreign.setdefault(key, []).append(block)

    def _is_on_stream(self, block: SimBlock) -> bool:
        chain = self.universe.chain
        index = block.number - chain[0].number
        return index < len(chain) and chain[index] is block

    @property
    def is_healed(self) -> bool:
        """Node and stream have been together for long."""
        return self.branch is None and self.clock.now > self.split_ended + HEAL_S

    def is_undecidable(self, key: str, first: int | None, known: Callable[[int], set[str]]) -> bool:
        """Whether the pool was read on a branch of the node's own that nothing tells from the stream's:
        blocks of equal times and fees, from the stream's `first` on, and of the pools the stream is
        `known` to bring in a block the same events. Not for long after the two are together again."""
        if self.is_healed:
            return False
        if self.plan.hostile.fee_step:
            return True  # a fee that moves counts as proof, and here it is none
        return any(self._is_twin(block, first, known) for block in self.foreign.get(key, ()))

    def _is_twin(
        self, block: SimBlock, first: int | None, known: Callable[[int], set[str]]
    ) -> bool:
        chain = self.universe.chain
        while not self._is_on_stream(block) and first is not None and block.number >= first:
            index = block.number - chain[0].number
            if index < len(chain):
                other = chain[index]
                identities = {(each.block.timestamp, each.base_fee) for each in (block, other)}
                pools = known(block.number)
                sides = [
                    [(e.pool, e.kind, e.args) for e in each.block.events if e.pool in pools]
                    for each in (block, other)
                ]
                if len(identities) > 1 or sides[0] != sides[1]:
                    return False
            block = self.universe.by_hash[block.block.parent_hash]
        return True

    def allowed(self, number: int) -> list[SimBlock]:
        """The blocks of that number the arena may be at: those of the stream since the last moment it
        is known to have had everything."""
        found: list[SimBlock] = []
        for chain in self.views[self.oldest_view :]:
            index = number - chain[0].number
            if 0 <= index < len(chain) and chain[index] not in found:
                found.append(chain[index])
        return found
