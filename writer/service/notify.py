"""What a service manager is told over $NOTIFY_SOCKET, as sd_notify(3) describes it."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from arena.errors import SettingsError, SnapshotContended
from arena.writer.host.sockets import MAX_PATH_NBYTES
from arena.writer.service.status import Vitals

log = logging.getLogger(__name__)


LOOK_S = 0.5


class Notifier:
    """Sends states to the service manager; without one it does nothing.

    Use from one thread. A state that cannot be sent is logged, and the writer goes on.
    """

    def __init__(self, address: str | None, watchdog_us: int | None = None) -> None:
        self.watchdog_s = None if watchdog_us is None else watchdog_us / 1e6
        self._address = address
        self._socket: socket.socket | None = None
        self._is_failing = False
        self.is_ready = False
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Notifier":
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. SettingsError for what they cannot be."""
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None:
            path = address.removeprefix("@")
            if address[0] not in "/@" or not path or len(os.fsencode(address)) > MAX_PATH_NBYTES:
                raise SettingsError(
                    f"NOTIFY_SOCKET: {address!r} was found; a path, or @ and an abstract name, of "
                    f"at most {MAX_PATH_NBYTES} bytes is allowed",
                    key="NOTIFY_SOCKET",
                    found=address,
                )
        return cls(address, None if address is None else _watchdog_us(environment))

    @property
    def is_on(self) -> bool:
        """There is a service manager to tell."""
        return self._socket is not None

    def send(self, *states: str) -> None:
        """Send `NAME=value` states in one datagram."""
        if self._socket is None or self._address is None:
            return
        target = self._address
        if target.startswith("@"):
            target = "\0" + target[1:]
        try:
            self._socket.sendto("\n".join(states).encode(), target)
        except OSError as error:
            if not self._is_failing:
                log.warning("event=not_notified socket=%s reason=%r", self._address, str(error))
            self._is_failing = True
            return
        self._is_failing = False

    def reloading(self) -> None:
        """A reload begins; says nothing before ready() or the manager would take the start for done."""
        if self.is_ready:
            self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Its end."""
        if self.is_ready:
            self.send("READY=1")

    def close(self) -> None:
        """Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog_us(environment: Mapping[str, str]) -> int | None:
    text = environment.get("WATCHDOG_USEC")
    if not text or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise SettingsError(
            f"WATCHDOG_USEC: {text!r} was found; microseconds, a number above 0, are allowed",
            key="WATCHDOG_USEC",
            found=text,
        )
    return int(text)


async def keep_notified(notifier: Notifier, look: Callable[[], Vitals]) -> None:
    """Tell phase and head as they change, READY when first live, and that the feed thread beats;
    until cancelled.

    The watchdog is fed at half its interval, and only when the feed thread beat within that half:
    one that hangs lets it run out although this task goes on.
    """
    if not notifier.is_on:
        return
    half_s = None if notifier.watchdog_s is None else notifier.watchdog_s / 2
    pause_s = LOOK_S if half_s is None else min(LOOK_S, half_s)
    fed = float("-inf")
    told = ""
    is_silent = False
    while True:
        try:
            vitals = look()
        except SnapshotContended:  # written at every try: alive, and looked at again
            await asyncio.sleep(pause_s)
            continue
        status = f"STATUS=phase={vitals.phase} head={vitals.head_block}"
        states = [] if status == told else [status]
        if vitals.phase == "live" and not notifier.is_ready:
            notifier.is_ready = True
            states.append("READY=1")
        now = time.monotonic()
        # Half a pause early rather than late: the next look comes a whole pause from now.
        if half_s is not None and now - fed >= half_s - pause_s / 2:
            if vitals.heartbeat_age_ns <= half_s * 1e9:
                states.append("WATCHDOG=1")
                fed, is_silent = now, False
            elif not is_silent:
                is_silent = True
                log.warning(
                    "event=feed_thread_silent heartbeat_age_ms=%d watchdog_ms=%d",
                    vitals.heartbeat_age_ns // 1_000_000,
                    int(half_s * 2000),
                )
        if states:
            notifier.send(*states)
        told = status
        await asyncio.sleep(pause_s)
