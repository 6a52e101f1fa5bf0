"""For how long a bridge has sent no block although there may be one, and who is told."""

import time
from collections.abc import Callable
from typing import Protocol

# Who cannot get past a block, or to the node, says so within ten seconds: to clients as a producer
# tells its end, by closing.
STALLED_S = 8.0
LASTS_S = 1.0  # what one answer says that may be another node's


class Host(Protocol):
    """The program that a bridge is part of. Called in the bridge's thread."""

    def stalled(self, reason: str) -> None:
        """No block comes until the next does."""

    def doubted(self, keys: frozenset[bytes], block_number: int) -> None:
        """Make these pools stale, to be read at that block or later. Returns when it is done; NodeBehind
        when it could not be."""


class Stalls:
    """The bridge's thread says what it does; `look` is called by another that is not held up by the
    node. `tell(event, why)`, from either, may be called at any time."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._failing_since: float | None = None
        self._busy_since: float | None = None
        self._far_since: float | None = None
        self._told_since: float | None = None  # the begin of what was told last
        self._seen = 0  # the newest block
        self._failed = 0.0, "", ""  # when a step failed last, and what is told of it
        self.total = 0

    @property
    def seconds(self) -> int:
        since = self._failing_since
        return 0 if since is None else int(time.monotonic() - since)

    def begins(self) -> float:
        """A step that asks the node begins; its time."""
        self._busy_since = time.monotonic()
        return self._busy_since

    def ends(self) -> None:
        """It has ended, however."""
        self._busy_since = None

    def sent(self) -> None:
        """A block was sent, and the step goes on."""
        self._busy_since = time.monotonic()

    def passed(self) -> None:
        """Nothing hinders any more."""
        self._failing_since = None

    def saw(self, number: int) -> None:
        """The node named its newest block."""
        self._seen = max(self._seen, number)

    def answered(self, tip: int) -> None:
        """The node's chain could be followed, to that block. Where a later one was seen, the answer may
        be of another node than the one that has it: nothing hinders after none has failed for long."""
        self._far_since = None
        if tip >= self._seen or time.monotonic() - self._failed[0] >= STALLED_S:
            self._failing_since = None
            self._seen = tip

    def is_far_for_good(self, began_at: float) -> bool:
        """Whether the node's chain was too far from what is kept for a while, now told again."""
        if self._far_since is None:
            self._far_since = began_at
        if time.monotonic() - self._far_since < LASTS_S:
            return False
        self._far_since = None
        return True

    def failed(self, event: str, why: str, began_at: float) -> None:
        """A step that began at `began_at` has failed."""
        self._failed = time.monotonic(), event, why
        if self._failing_since is None:
            self._failing_since = began_at
        self._say(self._failing_since, event, why)

    def look(self, why: str) -> None:
        """A step may be taking as long; then `why`, else what the last one failed of."""
        busy, failing = self._busy_since, self._failing_since
        if busy is None:
            return
        if failing is not None:
            self._say(failing, *self._failed[1:])
        else:
            self._say(busy, "stalled", why)

    def _say(self, since: float, event: str, why: str) -> None:
        if since != self._told_since and time.monotonic() - since >= STALLED_S:
            self._told_since = since
            self.total += 1
            self._tell(event, why)
