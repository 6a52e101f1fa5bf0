"""Generated changes of the list, against what a plain list of the same events says: where each pool
stands, which may be read, and that none is lost between coming and going."""

from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arena.specs import PoolSpec, TokenSpec
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.storage import PoolTarget
from arena.writer.sync.roster import FIRST_PAUSE_S, LONGEST_PAUSE_S, SETTLE_BLOCKS, Roster

TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))
KEYS = [bytes([number]) * 20 for number in range(1, 6)]
SOME = st.sets(st.sampled_from(KEYS), max_size=3)


def target(key: bytes) -> PoolTarget:
    return pool_target(PoolSpec(key, 0, *TOKENS, 3000, 0, b"\0" * 20))


class Lists(RuleBasedStateMachine):
    """`arena` is what an arena that does as it is told would hold; `listed` the list."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = set(KEYS[:2])
        self.arena = set(KEYS[:2])
        self.waits: dict[bytes, float] = {}
        self.settles: dict[bytes, int] = {}
        self.floors: dict[bytes, int] = {}
        self.now = 100.0
        self.head = 10
        self.roster = Roster([target(key) for key in KEYS[:2]])

    def _forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            for column in (self.waits, self.settles, self.floors):
                column.pop(key, None)

    @rule(added=SOME, removed=SOME)
    def change(self, added: set[bytes], removed: set[bytes]) -> None:
        self.roster.change([target(key) for key in sorted(added)], sorted(removed))
        self.listed = (self.listed - removed) | added

    @rule()
    def take_away(self) -> None:
        keys = self.roster.to_go()
        assert set(keys) <= set(KEYS)
        self.roster.forget(keys)
        self._forget(keys)
        self.arena -= set(keys)
        self.roster.went(keys)
        assert not self.roster.has_to_go

    @rule(during=SOME, back=SOME, taken=st.booleans())
    def announce(self, during: set[bytes], back: set[bytes], taken: bool) -> None:
        """As the writer does: what was told to go first, then what comes; `during` leave, and `back` come
        again, while the arena is waited for, and who closes a gap meanwhile takes them away."""
        self.roster.leave_again()
        self.take_away()
        coming = self.roster.coming()
        self.change(back, during)
        if taken:
            self.take_away()
        new = [key for key in coming if key not in self.arena]
        self.arena |= set(new)
        self.roster.announced(new, self.head, self.now)
        for key in new:
            self.settles[key] = self.floors[key] = self.head + SETTLE_BLOCKS
            self.waits[key] = self.now
        self.roster.came(coming.keys())

    @rule()
    def carry_out_all(self) -> None:
        """With nothing told meanwhile the arena is the list."""
        self.announce(set(), set(), False)
        left = (self.roster.has_leaving, self.roster.has_coming, self.roster.has_to_go)
        assert left == (False, False, False)
        assert self.arena == self.listed

    @rule(key=st.sampled_from(KEYS), is_live=st.booleans())
    def read(self, key: bytes, is_live: bool) -> None:
        assert self.roster.is_waiting(key) == (key in self.waits)
        if key not in self.waits:
            return
        wait = self.roster.wait_of(key)
        assert wait is not None
        assert FIRST_PAUSE_S <= wait.pause_s <= LONGEST_PAUSE_S
        if is_live:
            self.roster.read(key)
            del self.waits[key]
            self.settles.pop(key, None)
        else:
            self.roster.read_in_vain(key, self.now)
            self.waits[key] = self.now + wait.pause_s

    @rule(keys=SOME, later=st.booleans())
    def note(self, keys: set[bytes], later: bool) -> None:
        (self.roster.retry_later if later else self.roster.note_stale)(sorted(keys), self.now)
        for key in keys:
            self.waits.setdefault(key, self.now + FIRST_PAUSE_S * later)

    @rule(keys=SOME, block=st.integers(0, 40))
    def doubt(self, keys: set[bytes], block: int) -> None:
        self.roster.raise_floors(keys, block)
        for key in keys:
            self.floors[key] = max(block, self.floors.get(key, 0))

    @rule(passed=st.sampled_from([0.1, 1.0, 100.0]), blocks=st.integers(0, 3))
    def go_on(self, passed: float, blocks: int) -> None:
        self.now += passed
        self.head += blocks
        settling = {key for key in self.waits if self.settles.get(key, 0) > self.head}
        due = {key for key, at in self.waits.items() if at <= self.now} - settling
        assert set(self.roster.due(self.head, self.now, 0.5)) == due
        for key in settling:
            self.waits[key] = self.now + 0.5

    @rule(first=st.integers(0, 40))
    def gap(self, first: int) -> None:
        self.roster.settle_above(first)
        for key, block in self.settles.items():
            self.settles[key] = self.floors[key] = max(block, first - 1 + SETTLE_BLOCKS)

    @invariant()
    def only_listed_pools_that_are_announced_may_be_read(self) -> None:
        held = {each.spec.key for each in self.roster.held()}
        assert held == {key for key in self.listed if not self.roster.is_coming(key)}

    @invariant()
    def columns_are_as_told(self) -> None:
        assert set(self.roster.settling()) == self.settles.keys()
        assert dict(self.roster.floors()) == self.floors
        assert self.roster.next_due_s() == min(self.waits.values(), default=None)


TestLists = Lists.TestCase
