"""A recorded event stream served again through a real Unix socket.

A recording is the bytes of one connection, frames with their length prefixes, nothing else. It is
checked whole before the first byte is served, and cut behind each EndBlock, so that it can be paced
by blocks. All clients share one time line, as with a producer: one that connects later starts with
the block served next.
"""

import asyncio
import errno
import logging
import os
import shutil
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from arena.errors import Connection, Deserialization
from arena.native import ffi, lib, raise_status

log = logging.getLogger(__name__)

MAX_FRAME_NBYTES = 16 << 20  # WIRE 1
MAX_RECORDING_NBYTES = 4 << 30
MAX_BLOCK_EVENTS = 1 << 16
_LENGTH_NBYTES = 4
# What closes a reorg is served with the block before it, not after the wait for the next.
_CLOSES_REORG = {
    lib.PSA_EVENT_REORG_COMPLETE,
    lib.PSA_EVENT_SLOT0_FINAL,
    lib.PSA_EVENT_V2_FINAL,
}
_CHUNK_NBYTES = 1 << 18
MAX_SOCKET_PATH_NBYTES = 107  # sockaddr_un.sun_path less its final zero


@dataclass(frozen=True, slots=True)
class Recording:
    """A checked recording. `cuts` are the byte offsets behind each block; the last is the end."""

    data: bytes
    cuts: tuple[int, ...]
    block_count: int
    frame_count: int
    first_block: int
    last_block: int


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read and check a recording.

    Raises FileNotFoundError and other OSErrors of reading, and Deserialization, InvalidMessage or
    UnsupportedGeneration with the frame and byte offset of the first defect.
    """
    size = os.stat(path).st_size
    if size > MAX_RECORDING_NBYTES:
        raise Deserialization(
            f"{os.fspath(path)} has {size} bytes, a recording at most {MAX_RECORDING_NBYTES}",
            size=size,
        )
    return check_recording(Path(path).read_bytes(), os.fspath(path))


def check_recording(data: bytes, name: str = "recording") -> Recording:
    """Decode every frame of `data` and find where its blocks end; see read_recording."""
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, lib.PSA_DIALECT_UNKNOWN)
    events = ffi.new("psa_event[]", MAX_BLOCK_EVENTS)
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    source = ffi.from_buffer(data)
    offset = frame = blocks = first = last = 0
    cuts: list[int] = []
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + _LENGTH_NBYTES], "little")
        end = offset + _LENGTH_NBYTES + length
        if (
            offset + _LENGTH_NBYTES > len(data)
            or not 1 <= length <= MAX_FRAME_NBYTES
            or end > len(data)
        ):
            raise Deserialization(
                f"{name}: frame {frame} at byte {offset} has length {length}, "
                f"{len(data) - offset} bytes remain; the file is no recording or was cut",
                frame=frame,
                offset=offset,
            )
        status = lib.psa_feed_decode(
            feed, source + offset, end - offset, events, MAX_BLOCK_EVENTS, consumed, ready
        )
        if status != lib.PSA_OK:
            found = ffi.string(feed.fault_text).decode("utf-8", "replace")
            raise_status(
                status,
                f"{name}: frame {frame} at byte {offset}: {found}",
                frame=frame,
                offset=offset,
            )
        ended = False
        for index in range(ready[0]):
            kind = events[index].kind
            if kind == lib.PSA_EVENT_END_BLOCK:
                ended, last = True, events[index].block_number
                first = first if blocks else last
                blocks += 1
            elif kind in _CLOSES_REORG and cuts:
                cuts[-1] = end
        if ended:
            cuts.append(end)
        offset, frame = end, frame + 1
    if not blocks:
        raise Deserialization(
            f"{name} holds no complete block in {frame} frames", frame=frame, offset=0
        )
    if cuts[-1] != len(data):
        cuts.append(len(data))
    return Recording(data, tuple(cuts), blocks, frame, first, last)


class ReplayServer:
    """Serves one recording on one socket path; owns the socket and removes it at the end."""

    def __init__(self, recording: Recording, path: str | os.PathLike[str]):
        self.recording = recording
        self.path = os.fspath(path)
        self._released = 0  # cuts served so far
        self._finished = False
        self._moved = asyncio.Condition()
        self._joined = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()

    async def run(
        self, *, blocks_per_s: float | None, wait_for_client: bool, linger_s: float
    ) -> None:
        """Serve the recording once and return.

        blocks_per_s None serves flat out. `linger_s` is how long connections stay open afterwards,
        from the moment every client has got its last byte. Connection is raised when the path
        cannot be used.
        """
        listener = listen(self.path)
        try:
            server = await asyncio.start_unix_server(self._serve, sock=listener)
            log.info("event=listening socket=%s blocks=%d", self.path, self.recording.block_count)
            async with server:
                if wait_for_client:
                    await self._joined.wait()
                await self._release(blocks_per_s)
                async with self._moved:
                    await self._moved.wait_for(lambda: not self._sending)
                await asyncio.sleep(linger_s)
                for task in set(self._clients):
                    task.cancel()
                await asyncio.gather(*self._clients, return_exceptions=True)
        finally:
            listener.close()
            _unlink(self.path)
        log.info("event=ended blocks=%d", self.recording.block_count)

    async def _release(self, blocks_per_s: float | None) -> None:
        count = len(self.recording.cuts)
        if blocks_per_s is None:
            await self._move(count)
        else:
            loop = asyncio.get_running_loop()
            started = loop.time()
            for index in range(count):
                await asyncio.sleep(max(0.0, started + index / blocks_per_s - loop.time()))
                await self._move(index + 1)
        self._finished = True
        await self._move(count)

    async def _move(self, released: int) -> None:
        async with self._moved:
            self._released = released
            self._moved.notify_all()

    async def _next_target(self, served: int) -> int:
        async with self._moved:
            await self._moved.wait_for(lambda: self._released > served or self._finished)
            return self._released

    async def _sent(self, task: asyncio.Task[None]) -> None:
        async with self._moved:
            self._sending.discard(task)
            self._moved.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self._sending.add(task)
        cuts = self.recording.cuts
        served = self._released
        offset = cuts[served - 1] if served else 0
        self._joined.set()
        log.info("event=client_connected from_byte=%d", offset)
        try:
            while True:
                target = await self._next_target(served)
                end = cuts[target - 1] if target else 0
                while offset < end:
                    chunk = self.recording.data[offset : min(end, offset + _CHUNK_NBYTES)]
                    writer.write(chunk)
                    await writer.drain()
                    offset += len(chunk)
                served = target
                if self._finished and served == len(cuts):
                    break
            await self._sent(task)
            await reader.read()  # until the client leaves, or run() ends the lingering
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            await self._sent(task)
            self._clients.discard(task)
            writer.close()
            log.info("event=client_left at_byte=%d", offset)


def listen(path: str, *, mode: int = 0o600, group: str | None = None) -> socket.socket:
    """A listening Unix socket at `path`; an abandoned socket file there is replaced.

    It takes its place when it listens: whoever sees the path can connect. Connection: the path is
    too long, occupied by something else or by a living server, or cannot be given that group.
    """
    # Bound under a name of its own first, beside the path so that it can be renamed.
    birth = os.path.join(os.path.dirname(path), f".{os.getpid()}.sock")
    longest = max(len(os.fsencode(path)), len(os.fsencode(birth)))
    if longest > MAX_SOCKET_PATH_NBYTES:
        raise Connection(
            f"{path} needs {longest} bytes, socket paths have at most {MAX_SOCKET_PATH_NBYTES}",
            path=path,
        )
    _check_free(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(birth)
        if group is not None:
            shutil.chown(birth, group=int(group) if group.isdigit() else group)
        os.chmod(birth, mode)
        listener.listen(64)
        os.rename(birth, path)
    except LookupError as error:
        listener.close()
        _unlink(birth)
        raise Connection(
            f"cannot listen on {path}: there is no group {group}", path=path
        ) from error
    except OSError as error:
        listener.close()
        _unlink(birth)
        raise Connection(f"cannot listen on {path}: {error.strerror}", path=path) from error
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _check_free(path: str) -> None:
    """Connection when `path` is anything but free or an abandoned socket file."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Connection(f"cannot listen on {path}: {error.strerror}", path=path) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise Connection(f"{path} exists and is no socket", path=path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        refused = probe.connect_ex(path)
    if refused != errno.ECONNREFUSED:
        raise Connection(f"another server listens on {path}", path=path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
