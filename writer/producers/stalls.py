"""For how long a bridge has sent no block although there may be one, and whether that was told."""

import time
from collections.abc import Callable

# Who cannot get past a block, or to the node, says so within ten seconds: to clients as a producer
# tells its end, by closing.
STALLED_S = 8.0
LASTS_S = 1.0  # what one answer says that may be another node's


class Stalls:
    """The bridge's thread says what it does; `look` is called by another that is not held up by the
    node. `tell(event, why)`, from either, may be called at any time."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._failing_since: float | None = None
        self._busy_since: float | None = None
        self._far_since: float | None = None
        self._told_since: float | None = None  # the begin of what was told last
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

    def answered(self) -> None:
        """The node's chain could be followed."""
        self._far_since = None

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
        if self._failing_since is None:
            self._failing_since = began_at
        self._say(self._failing_since, event, why)

    def look(self, why: str) -> None:
        """A step may be taking as long."""
        busy, failing = self._busy_since, self._failing_since
        if busy is not None:
            self._say(busy if failing is None else failing, "stalled", why)

    def _say(self, since: float, event: str, why: str) -> None:
        if since != self._told_since and time.monotonic() - since >= STALLED_S:
            self._told_since = since
            self.total += 1
            self._tell(event, why)
