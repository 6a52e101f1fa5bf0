"""The list of pools as NATS publishers send it: asked for, followed, saved.

Nothing here is delivered more than at most once, so the list is asked for again after every lost
connection, and until it is answered. While NATS is away the last list stays in force.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nats.aio.msg import Msg

from arena.errors import PoolListError, PoolMessageInvalid
from arena.writer.lists.asking import RESEED, Question
from arena.writer.lists.messages import (
    REASONS,
    SUFFIXES,
    Kind,
    PoolJoin,
    PoolMessage,
    parse_message,
    read_message,
)
from arena.writer.lists.natslink import NatsAddress, NatsLink, open_link
from arena.writer.lists.natslogin import NatsLogin
from arena.writer.lists.saved import SavedList
from arena.writer.lists.source import Origin, PoolChange
from arena.writer.protocols.storage import PoolTarget

log = logging.getLogger(__name__)


FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0  # between two tries to connect
SAVE_S = 1.0  # the longest a change waits for the burst it is part of to end

_COUNTS = (
    *(f"messages_{kind}" for kind in Kind),
    "messages_other_chain",
    "messages_other_subject",
    "messages_dropped",
    *(f"malformed_{reason}" for reason in REASONS),
    "pools_refused",
    "ids_dropped",
    "asked",
    "replies",
    "connects",
    "reconnects",
    "connects_failed",
    "saves",
    "saves_failed",
)


class NatsPools:
    """The pools that publishers on NATS name for `chain`, in either dialect.

    `canonical_publisher`: a `.full` message without a `type` is the whole list, not an addition.
    `wait_s` is how long `first` waits for a whole list before it takes the one in `saved`. The
    address may carry a user and a password, or a token, percent-encoded where need be; neither is ever
    logged or saved, nor is what the files of `login` hold. ValueError for an address or a chain that
    cannot be one, and for files that exclude each other.
    """

    def __init__(
        self,
        url: str,
        chain: str,
        *,
        canonical_publisher: bool = False,
        wait_s: float = 10.0,
        saved: SavedList | None = None,
        login: NatsLogin | None = None,
    ) -> None:
        self._address = NatsAddress.read(url)
        self._login = login or NatsLogin()
        self._login.check_together(has_secret=bool(self._address.login))
        if not re.fullmatch(r"[^\s.*>]+", chain):
            raise ValueError(f"the chain's name {chain!r} cannot be a word of a NATS subject")
        self.chain = chain
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._canonical_publisher = canonical_publisher
        self._wait_s = wait_s
        self._saved = saved
        self._join = PoolJoin()
        self._origin: Origin | None = None
        self._changed_s: float | None = None
        self._has_whole = False  # a whole list came since the start
        self._is_saved_list = False
        self._unsaved_since: float | None = None
        self._link: NatsLink | None = None
        self._was_lost = False
        self._failure = ""  # why there is no connection
        self._question = Question(chain, self._address.shown, self.counts)
        self._wake: Callable[[], object] = _nothing

    def first(self) -> tuple[PoolTarget, ...]:
        """As PoolSource: what a publisher answers in time, else the saved list.

        PoolListError when there is neither.
        """
        tried = self._load_saved()
        asyncio.run(self._first())
        pools = len(self._join.in_force)
        if not pools:
            raise self._no_list(tried)
        if not self._has_whole:
            self._log_without_whole()
        elif self._join.waiting:
            log.warning(
                "event=pools_not_described pools=%d waiting=%d", pools, len(self._join.waiting)
            )
        return tuple(self._join.in_force.values())

    async def run(self, take: Callable[[PoolChange], None]) -> None:
        """As PoolSource."""
        await self._follow(take, until=lambda: False)

    def reload(self) -> None:
        """As PoolSource: ask again, and try at once to connect where that is in a pause."""
        self._question.ask_now()
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._wake()

    def status(self) -> dict[str, Any]:
        """As PoolSource; `waiting` ids are named but described by no message yet, and while `asking`
        no publisher has answered."""
        return {
            "source": "nats",
            "address": self._address.shown,
            "chain": self.chain,
            "connected": self._link is not None and self._link.is_open,
            "asking": self._question.is_open,
            "pools": len(self._join.in_force),
            "waiting": len(self._join.waiting),
            "origin": None if self._origin is None else asdict(self._origin),
            "is_saved_list": self._is_saved_list,
            "last_change_s": self._changed_s,
        }

    # -- the start

    def _load_saved(self) -> str:
        """Begin with the saved list; why that cannot be, else nothing."""
        if self._saved is None:
            return "no saved list was named"
        try:
            saved = self._saved.load(chain=self.chain)
        except PoolListError as error:
            log.warning("event=saved_list_refused reason=%r", str(error))
            return str(error)
        self._join = PoolJoin(saved.targets)
        self._origin = saved.origin
        self._is_saved_list = True
        return ""

    async def _first(self) -> None:
        def is_complete() -> bool:
            return self._has_whole and bool(self._join.in_force) and not self._join.waiting

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await self._follow(lambda change: None, until=is_complete)

    def _no_list(self, tried: str) -> PoolListError:
        shown, waited = self._address.shown, f"{self._wait_s:g} s"
        if self._join.waiting:
            found = (
                f"{shown} named {len(self._join.waiting)} pools for {self.chain!r} and "
                f"described none of them within {waited}"
            )
            remedy = f"see that the publisher sends whitelist.pools.{self.chain}.full too"
        elif self.counts["connects"]:
            found = (
                f"{shown} sent no list of pools for {self.chain!r} within {waited}, asked "
                f"{self.counts['asked']} times on {RESEED} and {self._question.subject}"
            )
            remedy = "start a publisher that answers, wait longer, or give a file of pools"
        else:
            found = f"{self._failure or f'{shown} does not answer'}, tried for {waited}"
            remedy = "start the server or correct its address, or give a file of pools"
        if tried:
            found += f"; {tried}"
        return PoolListError(
            f"{found}; {remedy}",
            path=shown,
            chain=self.chain,
            found=found,
            remedy=remedy,
        )

    def _log_without_whole(self) -> None:
        """Say what the writer starts with in place of a whole list."""
        why = self._failure or f"no whole list within {self._wait_s:g} s"
        if self._is_saved_list and self._origin is not None:
            log.warning(
                "event=pools_from_saved_list pools=%d age_s=%d kind=%s address=%s subject=%s "
                "reason=%r",
                len(self._join.in_force),
                int(time.time() - self._origin.time_s),
                self._origin.kind,
                self._origin.address,
                self._origin.subject,
                why,
            )
        else:
            log.warning(
                "event=pools_perhaps_not_all pools=%d reason=%r",
                len(self._join.in_force),
                f"{why}, only messages that may be additions; is the publisher a canonical one?",
            )

    # -- one connection after the other

    async def _follow(self, take: Callable[[PoolChange], None], until: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        hurry = asyncio.Event()

        def wake() -> None:
            hurry.set()
            if self._link is not None:
                self._link.wake()

        self._wake = lambda: loop.call_soon_threadsafe(wake)
        delay_s = FIRST_RETRY_S
        try:
            while True:
                link = await self._connect()
                if link is not None:
                    delay_s = FIRST_RETRY_S
                    self._question.begin_anew()
                    self._link = link
                    try:
                        if await self._listen(link, take, until):
                            return
                    finally:
                        self._link = None
                        await link.close()
                    self._was_lost = True
                    log.warning(
                        "event=nats_lost address=%s retry_s=%.1f", self._address.shown, delay_s
                    )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), delay_s)
                hurry.clear()
                delay_s = min(2 * delay_s, LONGEST_RETRY_S)
        finally:
            self._wake = _nothing
            if self._unsaved_since is not None:
                self._save()

    async def _connect(self) -> NatsLink | None:
        """A connection; None when there is none to be had now."""
        try:
            link = await open_link(self._address, f"whitelist.pools.{self.chain}.*", self._login)
        except PoolListError as error:
            reason = str(error)
            self.counts["connects_failed"] += 1
            # One line for each reason: the tries go on for as long as the server is away.
            level = logging.DEBUG if reason == self._failure else logging.WARNING
            log.log(level, "event=nats_unreachable reason=%r", reason)
            self._failure = reason
            return None
        self._failure = ""
        self.counts["connects"] += 1
        self.counts["reconnects"] += self._was_lost
        log.info("event=nats_connected address=%s chain=%s", self._address.shown, self.chain)
        return link

    async def _listen(
        self, link: NatsLink, take: Callable[[PoolChange], None], until: Callable[[], bool]
    ) -> bool:
        """Ask and take what comes; False when the connection ended, True when `until` holds."""
        clock = asyncio.get_running_loop().time
        dropped = 0
        while not until():
            if link.reply is not None:
                # Before a new question, which forgets what came since the one answered here.
                reply, link.reply = link.reply, None
                self._take_reply(reply, take)
                continue
            if link.dropped != dropped:
                self.counts["messages_dropped"] += link.dropped - dropped
                dropped = link.dropped
                self._question.ask_now()
            await self._question.ask_where_due(link, clock)
            if self._is_save_due(link):
                # Nothing is taken meanwhile, and a save that a stop cuts short is done again there.
                await asyncio.to_thread(self._save)
                self._unsaved_since = None
            elif not link.is_open and link.inbox.empty():
                return False
            else:
                try:
                    async with asyncio.timeout_at(self._question.look_at(clock())):
                        message = await link.inbox.get()
                except TimeoutError:
                    continue
                if message is not None:
                    self._take_message(link, message, take)
                await asyncio.sleep(0)  # a full inbox must not keep the loop from its other work
        return True

    # -- what comes

    def _take_message(
        self, link: NatsLink, received: Msg, take: Callable[[PoolChange], None]
    ) -> None:
        subject = received.subject
        message = self._parse(received.data, subject, subject.rsplit(".", 1)[-1])
        if message is None:
            return
        self._question.note_message(link, message)
        self._took(message, self._join.apply(message), subject, take)

    def _take_reply(self, reply: Msg, take: Callable[[PoolChange], None]) -> None:
        """Take over what a publisher replied as of when it was asked.

        Replies and messages come on two subscriptions without an order between them.
        """
        self.counts["replies"] += 1
        since, subject = self._question.take_since_asked(), self._question.subject
        message = self._parse(reply.data, subject, "minimal", must_be_whole=True)
        if message is None or since is None:
            return
        step = self._join.apply_older(message, since)
        self._took(message, step, subject, take)

    def _parse(
        self, payload: bytes, subject: str, suffix: str, *, must_be_whole: bool = False
    ) -> PoolMessage | None:
        """The message, where it is one for this list; else it is counted and named in the log."""
        if suffix not in SUFFIXES:
            self.counts["messages_other_subject"] += 1
            log.debug("event=pool_message_ignored subject=%r", subject)
            return None
        try:
            content = read_message(payload, subject=subject)
            if content["chain"] != self.chain:
                self.counts["messages_other_chain"] += 1
                log.debug(
                    "event=pool_message_ignored subject=%r chain=%r", subject, content["chain"]
                )
                return None
            message = parse_message(
                content,
                subject=subject,
                suffix=suffix,
                canonical_publisher=self._canonical_publisher,
                must_be_whole=must_be_whole,
            )
        except PoolMessageInvalid as error:
            self.counts[f"malformed_{error.reason}"] += 1
            self.counts["pools_refused"] += error.refused
            log.warning("event=pool_message_refused reason=%r", str(error))
            return None
        self.counts[f"messages_{message.kind}"] += 1
        if message.refused:
            self.counts["pools_refused"] += len(message.refused)
            log.warning(
                "event=pools_refused subject=%r count=%d first=%r",
                subject,
                len(message.refused),
                str(message.refused[0]),
            )
        return message

    def _took(
        self,
        message: PoolMessage,
        step: PoolChange,
        subject: str,
        take: Callable[[PoolChange], None],
    ) -> None:
        """Note what a message that was applied means for the question, the saved list and `take`."""
        is_whole = message.kind is Kind.FULL
        if is_whole:
            self._has_whole = True
            self._is_saved_list = False
        self._question.note_answer(message, is_waiting=bool(self._join.waiting))
        self.counts["ids_dropped"] = self._join.overflowed
        if not (step or is_whole):
            return
        now = time.time()
        self._origin = Origin("nats", self._address.shown, subject, now)
        if self._unsaved_since is None:
            self._unsaved_since = time.monotonic()
        if step:
            self._changed_s = now
            log.info(
                "event=pools_changed pools=%d added=%d removed=%d waiting=%d subject=%r",
                len(self._join.in_force),
                len(step.added),
                len(step.removed),
                len(self._join.waiting),
                subject,
            )
            take(step)

    # -- the saved list

    def _is_save_due(self, link: NatsLink) -> bool:
        since = self._unsaved_since
        return since is not None and (link.inbox.empty() or time.monotonic() - since > SAVE_S)

    def _save(self) -> None:
        if self._saved is None:
            return
        assert self._origin is not None
        try:
            self._saved.save(tuple(self._join.in_force.values()), self._origin, chain=self.chain)
        except OSError as error:
            self.counts["saves_failed"] += 1
            log.error("event=pools_not_saved path=%s reason=%r", self._saved.path, str(error))
        else:
            self.counts["saves"] += 1


def _nothing() -> None:
    pass
