"""One connection to a NATS server for its whole life: opened, listened to, asked over, closed.

It never connects again by itself, so that one place decides when to try and when to ask.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit, urlunsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from arena.errors import PoolListError
from arena.writer.lists.natslogin import NatsLogin
from arena.writer.node.transports import shown_address

log = logging.getLogger(__name__)


CONNECT_S = 10.0
CLOSE_S = 2.0
PING_S = 20  # a server that vanished without a word is noticed after three of these
MAX_INBOX = 1024  # messages; the client library keeps 128 MB more


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """A server's address: `url` for the client only, `shown` for everybody.

    `login` is what the address held of user and password, or a token, decoded as RFC 3986 says; the
    URL is without it. `secrets` are all their spellings.
    """

    url: str
    shown: str
    login: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"NatsAddress({self.shown!r})"

    @classmethod
    def read(cls, url: str) -> Self:
        """ValueError, which holds nothing of a password, unless it is nats, tls, ws or wss."""
        scheme, separator, rest = url.partition("://")
        whole = f"{scheme.lower()}://{rest}" if separator else f"nats://{url}"
        remedy = "write nats://HOST:PORT, or tls, ws or wss in place of nats"
        # A password with one of / ? # ends the host's part before its own end.
        if "@" in "".join(re.split("[/?#]", whole.partition("://")[2], maxsplit=1)[1:]):
            raise ValueError(
                "the password in the address holds one of / ? #: write %2F %3F %23 in their place, "
                f"and %40 for @; {remedy}"
            )
        try:
            parts = urlsplit(whole)
            shown = shown_address(whole)
        except ValueError:
            raise ValueError(f"the address of the NATS server is not valid; {remedy}") from None
        if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname:
            raise ValueError(f"{shown} is not the address of a NATS server; {remedy}")
        given, _, host = parts.netloc.rpartition("@")
        user, separator, password = given.partition(":")
        try:
            user, secret = (unquote(each, errors="strict") for each in (user, password))
        except ValueError:
            raise ValueError(
                f"what is percent-encoded before @ in the address is no UTF-8; {remedy}"
            ) from None
        login: dict[str, str] = {}
        if separator:
            login = {"user": user, "password": secret}
        elif given:
            login = {"token": user}
        secrets = (given, password, secret) if separator else (given, user)
        return cls(urlunsplit(parts._replace(netloc=host)), shown, login, secrets)

    @property
    def is_secure(self) -> bool:
        """The address asks for TLS."""
        return self.url.startswith(("tls://", "wss://"))

    def reason(self, error: BaseException) -> str:
        """What an error says, without user, password and token."""
        text = str(error)
        for secret in self.secrets:
            if secret:
                text = text.replace(secret, "...")
        return f"{type(error).__name__}: {text}" if text else type(error).__name__


class NatsLink:
    """An open connection with one subscription; `open_link` makes it, `close` ends it.

    `inbox` holds messages in the order they came, and None where there is something else to see:
    `is_open` became false, `reply` was set, or `wake` was called. `dropped` counts messages that
    nobody took in time.
    """

    def __init__(self, address: NatsAddress, client: Client) -> None:
        self.inbox: asyncio.Queue[Msg | None] = asyncio.Queue(MAX_INBOX)
        self.reply: Msg | None = None
        self.dropped = 0
        self._address = address
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []
        self._request: asyncio.Task[None] | None = None
        self._has_ended = False

    @property
    def is_open(self) -> bool:
        """More may come in."""
        return not self._has_ended and not self._client.is_closed

    def wake(self) -> None:
        """Let the reader of `inbox` look at the rest; a full inbox wakes it by itself."""
        with contextlib.suppress(asyncio.QueueFull):
            self.inbox.put_nowait(None)

    async def publish(self, subject: str) -> None:
        """Send an empty message; where that fails the connection is ending, as the inbox says."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.publish(subject, b"")

    @property
    def is_requesting(self) -> bool:
        """A request was sent that was not given up, and `reply` was not taken yet."""
        is_waiting = self._request is not None and not self._request.done()
        return is_waiting or self.reply is not None

    def request(self, subject: str, *, timeout_s: float) -> None:
        """Send an empty request; what answers it in time becomes `reply`."""
        assert not self.is_requesting
        self._request = asyncio.create_task(self._await_reply(subject, timeout_s))

    async def close(self) -> None:
        """End for good; an end that fails or does not come in time is one too."""
        tasks = self._tasks if self._request is None else [*self._tasks, self._request]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _close(self._client)

    def _listen(self, subscription: Subscription) -> None:
        self._tasks.append(asyncio.create_task(self._pump(subscription)))

    async def _pump(self, subscription: Subscription) -> None:
        try:
            async for message in subscription.messages:
                await self.inbox.put(message)
        finally:
            self._has_ended = True
            self.wake()

    async def _await_reply(self, subject: str, timeout_s: float) -> None:
        try:
            reply = await self._client.request(subject, b"", timeout=timeout_s)
        except (nats.errors.Error, OSError) as error:
            log.debug("event=request_unanswered reason=%r", self._address.reason(error))
            return
        self.reply = reply
        self.wake()

    def _fault(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.dropped += 1
            self.wake()
        shown = self._address.shown
        log.warning("event=nats_fault address=%s reason=%r", shown, self._address.reason(error))


class _TlsClient(Client):
    """A client that logs in to nobody in the clear: the library takes a server's word that there is
    no TLS, which anybody on the way could give."""

    def _connect_command(self) -> bytes:
        current = self._current_server
        is_encrypted = self._server_info.get("tls_required") or (
            current is not None and current.uri.scheme == "wss"
        )
        if not is_encrypted:
            raise nats.errors.Error("the server offers no TLS; nothing was sent to it")
        return super()._connect_command()


async def open_link(address: NatsAddress, subject: str, login: NatsLogin | None = None) -> NatsLink:
    """A connection on which everything on `subject` comes in from now on. PoolListError."""
    login = login or NatsLogin()
    is_secure = address.is_secure or login.wants_tls
    client = _TlsClient() if is_secure else Client()
    link = NatsLink(address, client)
    failures: list[Exception] = []
    on_error: Callable[[Exception], object] = failures.append

    async def report(error: Exception) -> None:
        on_error(error)

    try:
        options: dict[str, Any] = address.login | login.options(is_secure=is_secure)
        async with asyncio.timeout(CONNECT_S):
            await client.connect(
                address.url,
                name="arena-writer",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=PING_S,
                error_cb=report,
                **options,
            )
            on_error = link._fault
            subscription = await client.subscribe(subject)
            # The server knows of the subscription before anybody is asked to send something.
            await client.flush()
    except asyncio.CancelledError:
        await _close(client)
        raise
    except Exception as error:  # a greeting no server sends breaks the client in any way
        await _close(client)
        found = address.reason(failures[-1] if failures else error)
        raise PoolListError(
            f"{address.shown} cannot be reached: {found}", path=address.shown, found=found
        ) from None
    link._listen(subscription)
    return link


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    except Exception as error:  # a client whose connecting broke may break in closing too
        log.debug("event=nats_close_failed error=%s", type(error).__name__)
