"""The question for the whole list: what of it is open, when it is asked next, and what came since."""

import logging
import threading
from collections.abc import Callable

from arena.writer.lists.messages import Kind, PoolMessage
from arena.writer.lists.natslink import NatsLink

log = logging.getLogger(__name__)


RESEED = "whitelist.reseed"
FIRST_ASK_S, LONGEST_ASK_S = 1.0, 30.0  # between two questions while none is answered
REPLY_S = 10.0
MAX_SINCE_ASKED = 1024


class Question:
    """Asks in both dialects, in each for as long as it was not answered; `counts` has `asked`.

    Two things are asked for: descriptions of the pools, and the list as a whole.
    """

    def __init__(self, chain: str, shown: str, counts: dict[str, int]) -> None:
        self.subject = f"whitelist.snapshot.request.{chain}"
        self._shown = shown
        self._counts = counts
        self._wants_reseed = self._wants_whole = True
        self._ask_now = threading.Event()
        self._ask_at, self._delay_s = 0.0, FIRST_ASK_S
        # Messages since a request was sent: its reply is older than some of them, unknown which.
        self._since_asked: list[PoolMessage] | None = None

    @property
    def is_open(self) -> bool:
        return self._wants_reseed or self._wants_whole

    def ask_now(self) -> None:
        """Ask for all of it with the next look. Safe from any thread."""
        self._ask_now.set()

    def begin_anew(self) -> None:
        """There is a new connection: nothing that was asked before will be answered."""
        self._wants_reseed = self._wants_whole = True
        self._since_asked = None
        self._ask_now.set()

    async def ask_where_due(self, link: NatsLink, clock: Callable[[], float]) -> None:
        """Ask what is open, more seldom each time."""
        if self._ask_now.is_set():
            self._ask_now.clear()
            self._wants_reseed = self._wants_whole = True
            self._ask_at, self._delay_s = 0.0, FIRST_ASK_S
        if self.is_open and clock() >= self._ask_at:
            await self._ask(link)
            self._ask_at = clock() + self._delay_s
            self._delay_s = min(2 * self._delay_s, LONGEST_ASK_S)

    def look_at(self, now: float) -> float:
        """When to look again: also with nothing to ask, for an end that does not show in the inbox."""
        latest = now + LONGEST_ASK_S
        return min(self._ask_at, latest) if self.is_open else latest

    def note_message(self, link: NatsLink, message: PoolMessage) -> None:
        """Keep what came on the other subscription while a reply may be on its way."""
        if not link.is_requesting or len(self._since_asked or ()) >= MAX_SINCE_ASKED:
            self._since_asked = None  # no reply is to come, or it cannot be placed any more
        if self._since_asked is not None:
            self._since_asked.append(message)

    def take_since_asked(self) -> list[PoolMessage] | None:
        """What came since the request that was replied to; None when that is not known."""
        since, self._since_asked = self._since_asked, None
        return since

    def note_answer(self, message: PoolMessage, *, is_waiting: bool) -> None:
        """`message` was applied; `is_waiting`: pools are named that no message has described."""
        is_whole = message.kind is Kind.FULL
        if is_whole:
            self._wants_whole = False
        if (is_whole or message.kind is Kind.REFRESH) and not (is_waiting and not message.targets):
            self._wants_reseed = False

    async def _ask(self, link: NatsLink) -> None:
        self._counts["asked"] += 1
        log.debug("event=pools_asked address=%s", self._shown)
        if self._wants_whole and not link.is_requesting:
            self._since_asked = []
            link.request(self.subject, timeout_s=REPLY_S)
        if self._wants_reseed:
            await link.publish(RESEED)
