"""The event stream: a Unix socket client that yields complete units.

`Feed` belongs to one thread; only `wake` may be called from others. It decides nothing about the
arena: the caller connects, receives, and reacts to faults. It never writes to the socket.
"""

import contextlib
import logging
import os
import random
import select
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from arena import errors
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.writer.host.shortage import remedy_of
from arena.writer.host.sockets import Peer, check_path, check_peer, peer_of
from arena.writer.stream.feed_faults import fault_of, loss_of, open_block
from arena.writer.stream.history import Records

log = logging.getLogger(__name__)


RECEIVE_NBYTES = 256 * 1024
FRAME_NBYTES = 16 * 1024 * 1024 + 4  # the longest frame with its prefix
FIRST_EVENTS = 16_384
MAX_BLOCK_EVENTS = 262_144  # records of one open block, 48 MiB
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 10.0

DIALECTS = {
    "auto": lib.PSA_DIALECT_UNKNOWN,
    "seed-tagged": lib.PSA_DIALECT_SEED_TAGGED,
    "seed-indexed": lib.PSA_DIALECT_SEED_INDEXED,
    "exex": lib.PSA_DIALECT_EXEX,
    "bridge": lib.PSA_DIALECT_BRIDGE,
}


class Batch(NamedTuple):
    """What one receive brought.

    `records`, (n,) of EVENT, are complete units in arrival order: whole blocks, reorg marks,
    epilogues. They are a view that is valid until the next call on the feed. `faults` came after
    all of them; there is at most one, and what follows it arrives with the next receive. An
    InvalidMessage leaves the connection open, every other class means the feed has disconnected.
    """

    records: Records
    faults: list[errors.FeedError]


class Feed:
    """Client of one producer socket.

    `dialect` is a key of DIALECTS; `auto` finds the family at the first BeginBlock of each
    connection. A block of more than `max_block_events` records (BeginBlock and EndBlock included)
    is refused with BufferOverflow. `peer_uid` is the user whose process must answer, None anybody.
    `clock`, `sleep` and `uniform` stand for time.monotonic, an
    interruptible sleep (seconds -> whether it was interrupted) and random.random.

    Counters over all connections: `connections`, `frames`, `bytes`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dialect: str = "auto",
        max_block_events: int = MAX_BLOCK_EVENTS,
        peer_uid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], bool] | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect={dialect!r}, one of {', '.join(DIALECTS)}")
        if max_block_events < 2:
            raise ValueError(f"max_block_events={max_block_events}, at least 2")
        check_path(path)
        self.path = os.fspath(path)
        self.peer: Peer | None = None  # of the present or last connection
        self._peer_uid = peer_uid
        self.connections = 0
        self.received_ns = 0  # CLOCK_MONOTONIC of the last bytes
        self._dialect = DIALECTS[dialect]
        self._max_block_events = max_block_events
        self._clock = clock
        self._sleep = sleep if sleep is not None else self._wait_wake
        self._uniform = uniform
        self._past_frames = 0
        self._past_bytes = 0
        self._failures = 0
        self._next_attempt = clock()
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.POLLIN)
        self._closed = False
        self._feed = ffi.new("psa_feed *")
        lib.psa_feed_open(self._feed, self._dialect)
        self._consumed = ffi.new("uint64_t *")
        self._ready = ffi.new("uint32_t *")
        self._set_buffer(bytearray(RECEIVE_NBYTES))
        self._start = 0  # of the bytes not yet consumed
        self._end = 0
        self._has_more = False  # bytes may hold whole frames
        self._set_events(np.empty(min(FIRST_EVENTS, max_block_events), EVENT))
        self._yielded = 0  # records in front of the open block's

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    @property
    def frames(self) -> int:
        """Frames seen, ignored and dropped ones included."""
        return self._past_frames + int(self._feed.frames)

    @property
    def bytes(self) -> int:
        """Bytes of consumed frames, prefixes included."""
        return self._past_bytes + int(self._feed.bytes)

    @property
    def open_block(self) -> int | None:
        """Number of the block being received."""
        return open_block(self._feed)

    def connect(self, timeout: float | None = None) -> bool:
        """Connect to the producer, repeating refused attempts; whether it is connected now.

        False after `timeout` seconds (None: no limit) or when woken. The pause after k attempts is
        0.1 s * 2**(k - 1), at most 10 s, of which a random part between none and half is left out;
        it holds across calls. Once a connection has delivered a complete unit the first attempt
        after its loss is immediate. PeerRefused when another user's process answers.
        """
        self._check_open()
        if self._socket is not None:
            return True
        deadline = None if timeout is None else self._clock() + timeout
        while True:
            now = self._clock()
            pause = self._next_attempt - now
            if pause > 0:
                left = pause if deadline is None else min(pause, deadline - now)
                if left < pause:
                    if left > 0:
                        self._sleep(left)
                    return False
                if self._sleep(pause):
                    return False
            if self._attempt():
                return True

    def _attempt(self) -> bool:
        client: socket.socket | None = None
        try:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client.connect(self.path)
        except OSError as error:
            if client is not None:
                client.close()
            self._schedule()
            # Once, and again each time the pause is at its longest; in between is noise.
            loud = (
                self._failures == 1 or 2 ** (self._failures - 1) * BACKOFF_FIRST_S > BACKOFF_LAST_S
            )
            log.log(
                logging.WARNING if loud else logging.DEBUG,
                "event=connect_refused socket=%s attempts=%d error=%r",
                self.path,
                self._failures,
                "; ".join(filter(None, (str(error), remedy_of(error)))),
            )
            return False
        self.peer = peer = peer_of(client)
        try:
            check_peer(self.path, peer, self._peer_uid)
        except errors.PeerRefused:
            client.close()
            self._schedule()
            raise
        self._past_frames += int(self._feed.frames)
        self._past_bytes += int(self._feed.bytes)
        lib.psa_feed_open(self._feed, self._dialect)
        self._start = self._end = self._yielded = 0
        self._has_more = False
        self._socket = client
        self._poll.register(client, select.POLLIN)
        self.connections += 1
        self._schedule()
        log.info(
            "event=connected socket=%s connections=%d peer_pid=%d peer_uid=%d",
            self.path,
            self.connections,
            peer.pid,
            peer.uid,
        )
        return True

    def _schedule(self) -> None:
        """Set when the next attempt may start, as if this one led nowhere."""
        delay = min(BACKOFF_FIRST_S * 2 ** min(self._failures, 32), BACKOFF_LAST_S)
        self._failures += 1
        self._next_attempt = self._clock() + delay * (0.5 + 0.5 * self._uniform())

    def receive(self, timeout: float | None = None) -> Batch:
        """The next complete units, waiting up to `timeout` seconds (None: no limit) for bytes.

        Returns an empty batch on timeout, when woken, and when what came completes no unit. Raises
        Connection when there is no connection to receive from.
        """
        self._check_open()
        if self._socket is None:
            raise errors.Connection("the feed is not connected", path=self.path)
        if not self._has_more:
            fault = self._read(timeout)
            if fault is not None:
                return Batch(self._events[:0], [fault])
            if not self._has_more:
                return Batch(self._events[:0], [])
        return self._decode()

    @property
    def is_pumpable(self) -> bool:
        """Connected, and all that was received is decoded."""
        return self._socket is not None and not self._has_more

    def lend(self, pump: Any) -> None:
        """Let a psa_pump read on where this feed stands; `take_back` ends that."""
        assert self._socket is not None
        self._make_room()
        self._forget_yielded()
        pump.feed = self._feed
        pump.bytes, pump.nbytes = self._bytes, len(self._buffer)
        pump.start, pump.end = self._start, self._end
        pump.events, pump.capacity = self._event_pointer, len(self._events)
        pump.fd, pump.wake_fd = self._socket.fileno(), self._wake
        pump.past_frames, pump.past_bytes = self._past_frames, self._past_bytes
        pump.received_ns = self.received_ns

    def take_back(self, pump: Any, outcome: int) -> Batch:
        """Go on where the psa_pump stands: with what it left, of which nothing was applied."""
        self._start, self._end = pump.start, pump.end
        self.received_ns = pump.received_ns
        if pump.end_count:
            self._has_delivered()
        if outcome == lib.PSA_PUMP_LOST:
            error = pump.error
            text = str(OSError(error, os.strerror(error))) if error else None
            return Batch(self._events[:0], [self._lose(text)])
        if outcome != lib.PSA_PUMP_UNITS:
            self._has_more = pump.status == lib.PSA_EVENTS_FULL
            return Batch(self._events[:0], [])
        if pump.status == lib.PSA_BLOCK_TOO_LARGE:
            return self._decode()
        return self._yield(pump.status, pump.ready)

    def _read(self, timeout: float | None) -> errors.FeedError | None:
        """One recv behind the bytes that are left; a fault when the connection ended."""
        self._make_room()
        assert self._socket is not None
        try:
            count = self._receive_into(self._socket, timeout)
        except OSError as error:
            return self._lose(str(error))
        if count is None:
            return None
        if count == 0:
            return self._lose(None)
        self.received_ns = time.monotonic_ns()
        self._end += count
        self._has_more = True
        return None

    def _make_room(self) -> None:
        """Bytes that are left to the front, in a buffer as large as they need."""
        if self._start:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        if self._end == len(self._buffer):
            grown = bytearray(min(2 * len(self._buffer), FRAME_NBYTES))
            grown[: self._end] = self._buffer
            self._set_buffer(grown)
        elif len(self._buffer) > RECEIVE_NBYTES and self._end < RECEIVE_NBYTES:
            shrunk = bytearray(RECEIVE_NBYTES)
            shrunk[: self._end] = self._buffer[: self._end]
            self._set_buffer(shrunk)

    def _receive_into(self, client: socket.socket, timeout: float | None) -> int | None:
        """Bytes received, 0 at the end of the stream, None when none came in time."""
        window = self._view[self._end :]
        try:
            return client.recv_into(window)
        except BlockingIOError:
            pass
        ready = dict(self._poll.poll(None if timeout is None else max(0, timeout) * 1000))
        if self._wake in ready:
            self._drain_wake()
        if client.fileno() not in ready:
            return None
        try:
            return client.recv_into(window)
        except BlockingIOError:
            return None

    def _decode(self) -> Batch:
        """Decode what the buffer holds up to the first fault or the end of the record array."""
        self._forget_yielded()
        while True:
            status = lib.psa_feed_decode(
                self._feed,
                self._bytes + self._start,
                self._end - self._start,
                self._event_pointer,
                len(self._events),
                self._consumed,
                self._ready,
            )
            self._start += self._consumed[0]
            if status != lib.PSA_BLOCK_TOO_LARGE or not self._grow_events():
                break
        return self._yield(status, int(self._ready[0]))

    def _forget_yielded(self) -> None:
        """Records of the open block to the front, over those handed out before."""
        if self._yielded:
            open_count = int(self._feed.open_count)
            self._events[:open_count] = self._events[self._yielded : self._yielded + open_count]
            self._yielded = 0

    def _yield(self, status: int, count: int) -> Batch:
        """What psa_feed_decode left: its status, and `count` records of complete units."""
        self._yielded = count
        if count:
            self._has_delivered()
        self._has_more = status in (lib.PSA_EVENTS_FULL, lib.PSA_INVALID_MESSAGE)
        records = self._events[:count]
        if status in (lib.PSA_OK, lib.PSA_EVENTS_FULL):
            return Batch(records, [])
        fault = fault_of(self._feed, status, len(self._events))
        if not isinstance(fault, errors.InvalidMessage):
            self.disconnect()
        return Batch(records, [fault])

    def _has_delivered(self) -> None:
        """The connection brought a complete unit: the next attempt after its loss is immediate."""
        self._failures = 0
        self._next_attempt = self._clock()

    def _grow_events(self) -> bool:
        if len(self._events) == self._max_block_events:
            return False
        grown = np.empty(min(2 * len(self._events), self._max_block_events), EVENT)
        grown[: len(self._events)] = self._events
        self._set_events(grown)
        return True

    def _lose(self, reason: str | None) -> errors.Connection:
        """The fault of a connection that ended; what was open is dropped."""
        fault = loss_of(self._feed, self._end - self._start, self.path, reason)
        self.disconnect()
        return fault

    def wake(self) -> None:
        """Interrupt a waiting connect or receive. Safe from any thread; one wake may be lost in
        another that was not yet noticed."""
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def _wait_wake(self, seconds: float) -> bool:
        waiter = select.poll()
        waiter.register(self._wake, select.POLLIN)
        if not waiter.poll(seconds * 1000):
            return False
        self._drain_wake()
        return True

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def disconnect(self) -> None:
        """Close the connection, if there is one; the open block is dropped. Views stay valid until
        the next connect."""
        if self._socket is None:
            return
        self._poll.unregister(self._socket)
        self._socket.close()
        self._socket = None
        self._has_more = False

    def close(self) -> None:
        """Disconnect and give up the wake-up descriptor. The feed is of no further use."""
        if self._closed:
            return
        self.disconnect()
        self._closed = True
        os.close(self._wake)

    def _check_open(self) -> None:
        if self._closed:
            raise errors.ArenaClosed("the feed was closed", path=self.path)

    def _set_buffer(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._bytes: Any = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)

    def _set_events(self, events: Records) -> None:
        self._events = events
        self._event_pointer: Any = ffi.from_buffer("psa_event[]", events, require_writable=True)
