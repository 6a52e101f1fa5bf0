"""Receipts of a node's blocks, as long as it gives them."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arena.errors import LogInvalid, NodeBehind, RpcError, RpcRefused, Scraper
from arena.writer.node.meanings import Meaning, meaning
from arena.writer.stream.evidence import LogSource, has_no_logs, ordered

if TYPE_CHECKING:
    from arena.writer.node.client import Header, Log, Receipts

from arena.writer.stream.known_events import KnownEvents

log = logging.getLogger(__name__)

MAX_SHORT = 4096  # blocks whose receipts were not all there, remembered: those of a fetch
STAYED_SHORT = 3  # blocks after which that counts as the node's way
RECEIPT_FAILURES = 3  # in a row, after which a node counts as one without receipts for a while
RECEIPTS_PAUSE_S = 60.0  # that while
REFUSED_PAUSE_S = 600.0  # after which it is asked again for what it does not have
_COUNTED = float("-inf")  # since when a block's are short that was waited for long enough


class ReceiptSource:
    """`pass_s`: how long an index may lag behind. Calls block."""

    def __init__(
        self, node: LogSource, events: KnownEvents, *, pass_s: float, clock: Callable[[], float]
    ) -> None:
        self._events = events
        self._pass_s = pass_s
        self._clock = clock
        self._ask: Callable[[Sequence[bytes]], Sequence[Receipts | Scraper | None]] | None = (
            getattr(node, "receipts", None)
        )
        self.told: dict[bytes, Receipts | Scraper | None] = {}
        """What the node gave before it was asked here."""
        self._failures = 0
        self._from = 0.0  # not asked before
        self._has_said_refused = False
        self._short_since: dict[bytes, float] = {}  # blocks whose receipts were not all there
        self._have_shown = False  # receipts, once
        self._stayed_short = 0

    @property
    def are_asked(self) -> bool:
        """The node is asked for them: it has not refused yet."""
        return self._ask is not None and self._clock() >= self._from

    def of_blocks(self, headers: "Sequence[Header]") -> "dict[bytes, Receipts | Scraper | None]":
        """Their receipts by hash, in one batch; nothing where the node has none."""
        told, self.told = self.told, {}
        if not headers or not self.are_asked:
            return {}
        assert self._ask is not None
        hashes = [each.hash for each in headers if each.hash not in told]
        found: Sequence[Receipts | Scraper | None] = []
        try:
            if hashes:
                found = self._ask(hashes)
        except RpcError as error:
            found = [error] * len(hashes)
        answers = told | dict(zip(hashes, found, strict=True))
        failures = [each for each in answers.values() if isinstance(each, RpcError)]
        if any(
            isinstance(each, RpcRefused) and meaning(each) is Meaning.other_way for each in failures
        ):
            self._from = self._clock() + REFUSED_PAUSE_S
            if not self._has_said_refused:
                self._has_said_refused = True
                log.info(
                    "event=no_receipts pause_s=%d reason=%r", REFUSED_PAUSE_S, str(failures[0])
                )
            return {}
        if len(failures) < len(answers):
            self._failures = 0
            return answers
        self._failures += 1
        if self._failures < RECEIPT_FAILURES:
            raise failures[0]
        self._failures = 0
        self._from = self._clock() + RECEIPTS_PAUSE_S
        log.warning("event=receipts_fail pause_s=%d reason=%r", RECEIPTS_PAUSE_S, str(failures[0]))
        return {}

    def logs_of(
        self, header: "Header", answer: "Receipts | Scraper | None"
    ) -> "tuple[Log, ...] | None":
        """The logs of all receipts; None where they are not those of all transactions.

        NodeBehind where this node's usually are, as long as its index may lag behind.
        """
        logs = self._checked(header, answer)
        if logs is not None:
            self._have_shown = True
            self._short_since.pop(header.hash, None)
        elif (
            self._have_shown
            and self.are_asked
            and self._stayed_short < STAYED_SHORT
            and not has_no_logs(header)  # none are to come
        ):
            now = self._clock()
            while len(self._short_since) >= MAX_SHORT:
                del self._short_since[next(iter(self._short_since))]
            since = self._short_since.setdefault(header.hash, now)
            if now - since < self._pass_s:
                raise NodeBehind(
                    f"the node does not give all receipts of block {header.number} yet",
                    block=header.number,
                )
            if since != _COUNTED:
                self._short_since[header.hash] = _COUNTED
                self._stayed_short += 1
        return logs

    def _checked(
        self, header: "Header", answer: "Receipts | Scraper | None"
    ) -> "tuple[Log, ...] | None":
        if answer is None or isinstance(answer, Scraper):
            return None
        count = header.transaction_count
        is_of_all = header.gas_used and answer.gas_used == header.gas_used
        if answer.count < max(1, count or 0) or (count is None and not is_of_all):
            return None
        # What is paid back counts in a block's gas on some chains, so a full count is enough.
        differs = answer.gas_used and header.gas_used and answer.gas_used != header.gas_used
        if differs and answer.count != count:
            return None
        try:
            logs = ordered(header, answer.logs, self._events.topics)
        except LogInvalid:
            return None
        events = [each for each in logs if self._events.is_known(each)]
        return logs if len(set(events)) == len(events) else None
