"""The list of pools in force, and where each of them stands on its way in or out.

A pool of the list is held by the source of values, but for one that is *coming*: it is announced first,
once the arena is live. An announced pool *settles*: it is read only after blocks that surely bring its
events, and values of blocks below its *floor* are never taken. A pool without current values *waits* for
its next reading. One that leaves the list is *to go* until the arena has let go of it, and *leaving* as
long as a join that began before may bring it back.

The only owner of all this. Nothing here waits or knows the arena; times are given.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from arena.specs import PoolSpec
from arena.writer.protocols.storage import PoolTarget

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 60.0
# Nothing on the socket says from which block on it brings a new pool's events. The one in progress when
# the list changes is not filtered by the new list, and the one after it may have begun.
SETTLE_BLOCKS = 2


class Wait(NamedTuple):
    """When a pool is read next, and how long to wait should that be in vain."""

    at_s: float
    pause_s: float


class Roster:
    """Keys are pool addresses or ids. Columns rather than a record a pool: each loop of the writer goes
    through one of them, and all but the first are nearly empty while it is live."""

    def __init__(self, targets: Sequence[PoolTarget]) -> None:
        self._targets = {target.spec.key: target for target in targets}
        self._coming: dict[bytes, PoolSpec] = {}
        self._to_go: set[bytes] = set()
        self._leaving: set[bytes] = set()
        self._waits: dict[bytes, Wait] = {}
        self._settle: dict[bytes, int] = {}  # the block after which it is read
        self._floors: dict[bytes, int] = {}

    # -- the list

    def change(self, added: Iterable[PoolTarget], removed: Collection[bytes]) -> None:
        """`removed` leave, then `added` come; one in both is another pool from now on."""
        for key in removed:
            self._targets.pop(key, None)
            self._coming.pop(key, None)
        self._to_go.update(removed)
        self._leaving.update(removed)
        for target in added:
            self._targets[target.spec.key] = target
            self._coming[target.spec.key] = target.spec

    @property
    def has_list(self) -> bool:
        return bool(self._targets)

    def held(self) -> list[PoolTarget]:
        """What may be read: a join must not read pools whose events the stream may still leave out."""
        return [each for key, each in self._targets.items() if key not in self._coming]

    # -- pools that go

    def let_go(self, keys: Iterable[bytes]) -> None:
        """Pools the arena has and nobody lists."""
        self._to_go.update(keys)

    def to_go(self) -> list[bytes]:
        return list(self._to_go)

    @property
    def has_to_go(self) -> bool:
        return bool(self._to_go)

    def went(self, keys: Collection[bytes]) -> None:
        """The arena has let go of them."""
        self._to_go.difference_update(keys)

    def forget(self, keys: Iterable[bytes]) -> None:
        """They wait for nothing any more."""
        for key in keys:
            self._waits.pop(key, None)
            self._settle.pop(key, None)
            self._floors.pop(key, None)

    @property
    def has_leaving(self) -> bool:
        return bool(self._leaving)

    def is_leaving(self, key: bytes) -> bool:
        return key in self._leaving

    def leave_again(self) -> None:
        """The arena is live: what a join brought back goes once more, and no other will bring it."""
        self._to_go |= self._leaving
        self._leaving.clear()

    # -- pools that come

    @property
    def has_coming(self) -> bool:
        return bool(self._coming)

    def is_coming(self, key: bytes) -> bool:
        return key in self._coming

    def coming(self) -> dict[bytes, PoolSpec]:
        return dict(self._coming)

    def add_later(self, specs: Mapping[bytes, PoolSpec]) -> None:
        """They come, but for those told to leave meanwhile; what was told of them later stands."""
        new = {key: spec for key, spec in specs.items() if key not in self._leaving}
        self._coming = new | self._coming

    def came(self, keys: Collection[bytes]) -> None:
        """They are announced, or never will be. One that left and came again meanwhile is still to go,
        and then to come."""
        for key in set(keys) - self._to_go - self._leaving:
            self._coming.pop(key, None)

    def announced(self, keys: Iterable[bytes], head_block: int, now_s: float) -> None:
        """Readers see them, and they have no values yet."""
        for key in keys:
            self._settle[key] = self._floors[key] = head_block + SETTLE_BLOCKS
            self._waits[key] = Wait(now_s, FIRST_PAUSE_S)

    def settle_above(self, first_block: int) -> None:
        """Blocks below were missing when a pool was announced, or may have been: they settle nothing."""
        for key, block in self._settle.items():
            self._settle[key] = self._floors[key] = max(block, first_block - 1 + SETTLE_BLOCKS)

    def is_settling(self, key: bytes) -> bool:
        return key in self._settle

    def settling(self) -> Collection[bytes]:
        return self._settle.keys()

    def settled(self, key: bytes) -> bool:
        """It has values now; whether they are its first."""
        return self._settle.pop(key, None) is not None

    # -- which values may be taken

    def floors(self) -> Mapping[bytes, int]:
        """The lowest block their values may be of: kept blocks from before lack their events, also when
        they are read again later."""
        return self._floors

    def floor_of(self, key: bytes) -> int:
        return self._floors.get(key, 0)

    def raise_floors(self, keys: Iterable[bytes], block_number: int) -> None:
        for key in keys:
            self._floors[key] = max(block_number, self._floors.get(key, 0))

    # -- pools that wait to be read

    def note_stale(self, keys: Iterable[bytes], now_s: float) -> None:
        """They are to be read now, unless they wait already."""
        for key in keys:
            self._waits.setdefault(key, Wait(now_s, FIRST_PAUSE_S))

    def retry_later(self, keys: Iterable[bytes], now_s: float) -> None:
        """They were left out, and are read again while the others are live."""
        for key in keys:
            self._waits.setdefault(key, Wait(now_s + FIRST_PAUSE_S, 2 * FIRST_PAUSE_S))

    def is_waiting(self, key: bytes) -> bool:
        return key in self._waits

    def wait_of(self, key: bytes) -> Wait | None:
        return self._waits.get(key)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waits)

    def due(self, head_block: int, now_s: float, pause_s: float) -> list[bytes]:
        """Those to be read now. What settles is looked at again after `pause_s`."""
        found = []
        for key, wait in self._waits.items():
            if self._settle.get(key, 0) > head_block:
                self._waits[key] = wait._replace(at_s=now_s + pause_s)
            elif wait.at_s <= now_s:
                found.append(key)
        return found

    def next_due_s(self) -> float | None:
        """When the first of them is to be read; None where none waits."""
        return min((wait.at_s for wait in self._waits.values()), default=None)

    def read(self, key: bytes) -> None:
        """It is live."""
        del self._waits[key]
        self._settle.pop(key, None)

    def read_after(self, key: bytes, at_s: float, pause_s: float) -> None:
        """It is to be read then, not before."""
        self._waits[key] = Wait(at_s, pause_s)

    def read_in_vain(self, key: bytes, now_s: float) -> None:
        """It waits, longer each time."""
        pause_s = self._waits[key].pause_s
        self._waits[key] = Wait(now_s + pause_s, min(2 * pause_s, LONGEST_PAUSE_S))

    def forget_waits(self) -> None:
        """Every pool is read anew."""
        self._waits.clear()
