"""Where the stream is: what the arena's values are worth, whether a connection stands, and a reorg that
is half received. One value for each; what happens to the stream is a transition. Pure.

    values     of
    EMPTY      nothing: no pool is shown, or all are stale
    JOINING    pools installed on the way to live; shown as syncing
    GAP        the last block before a gap that can still be closed; shown as syncing
    LIVE       the newest block
    DOUBTFUL   the newest block, but a connection has come back and blocks may be missing before its first
"""

from collections.abc import Mapping
from enum import Enum

from arena.writer.sync.turning import Turning


class Values(Enum):
    EMPTY = "empty"
    JOINING = "joining"
    GAP = "gap"
    LIVE = "live"
    DOUBTFUL = "doubtful"


class Link(Enum):
    AWAY = "away"
    UP = "up"


E, J, G, L, D = Values

# What happens, and what becomes of the values; a pair that is not here cannot be.
AFTER: Mapping[str, Mapping[Values, Values]] = {
    "connected": {E: E, J: E, G: G, L: D, D: D},
    "disconnected": {E: E, J: E, G: G, L: L, D: D},
    "began again": {E: E, J: E, G: G, L: L, D: D},
    "lost": {E: E, J: E, G: G, L: E, D: E},
    "lost, to be closed": {E: E, J: E, G: G, L: G, D: G},
    "installed": {E: J, J: J, G: J},
    "joined": {E: L, J: L, G: L},
    "join failed": {E: E, J: E, G: G, L: L, D: D},
    "gap closed": {G: L},
    "gap given up": {G: E},
    "adopted": {E: G},
}


class StageError(RuntimeError):
    """Something was to happen that cannot at this stage: a defect of the writer."""


class Stage:
    """Begins empty and away."""

    def __init__(self) -> None:
        self.values = Values.EMPTY
        self.link = Link.AWAY
        self.in_envelope = False
        """A ReorgStart came whose ReorgComplete did not."""
        self.turning: Turning | None = None
        """While reverts come."""
        self._has_failed = False

    def goes(self, what: str) -> None:
        """`what` happened, one of AFTER. StageError."""
        after = AFTER[what].get(self.values)
        if after is None:
            raise StageError(f"{what} cannot be while values are {self.values.value}")
        is_lost = what.startswith("lost") and self.is_live
        self.values = after
        if what == "connected":
            self.link, self._has_failed = Link.UP, False
        elif what == "disconnected":
            self.link, self._has_failed = Link.AWAY, False
        elif what in ("join failed", "gap given up") or is_lost:
            self._has_failed = True
        elif what in ("installed", "joined", "gap closed"):
            self._has_failed = False

    @property
    def is_live(self) -> bool:
        return self.values in (Values.LIVE, Values.DOUBTFUL)

    @property
    def is_amid_reorg(self) -> bool:
        """Reverts are to follow: of an envelope, or up to the tip from before them. The arena turns the
        first and what is above it back at once, and knows the others by that until it begins anew."""
        return self.in_envelope or (self.turning is not None and self.turning.is_short)

    @property
    def is_whole(self) -> bool:
        """Live, between reorgs, and no block may be missing."""
        return self.values is Values.LIVE and not self.is_amid_reorg

    @property
    def is_plain(self) -> bool:
        """Live, between reorgs, no block may be missing, and blocks came since the last revert."""
        return self.values is Values.LIVE and not self.in_envelope and self.turning is None

    @property
    def follows(self) -> bool:
        """What is read now joins the blocks that are kept."""
        return self.link is Link.UP and self.values is not Values.DOUBTFUL

    def reorg_is_over(self) -> None:
        self.in_envelope, self.turning = False, None

    def phase(self) -> str:
        """What readers are told; what is done on the way to live (scraping, replaying) is said by who
        does it."""
        if self._has_failed:
            return "gap"
        if self.link is Link.AWAY or self.values is Values.DOUBTFUL:
            return "connecting"
        return {Values.LIVE: "live", Values.GAP: "gap"}.get(self.values, "buffering")
