"""A recorded event stream served again through a real Unix socket.

A recording is a file of arena-record, or the bytes of one connection, frames with their length
prefixes, nothing else. It is checked whole before the first byte is served, and cut behind each
EndBlock, so that it can be paced by blocks. All clients share one time line, as with a producer: one
that connects later starts with the block served next.
"""

import asyncio
import errno
import logging
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from arena.errors import Connection, Deserialization
from arena.segment import Access
from arena.writer.host.sockets import check_path
from arena.writer.producers.recording import Recording, check_stream, is_recording, load_recording

log = logging.getLogger(__name__)


MAX_RECORDING_NBYTES = 4 << 30
_CHUNK_NBYTES = 1 << 18
REJOIN_TIMEOUT_S = 30.0


def read_recording(path: str | os.PathLike[str], *, from_block: int | None = None) -> Recording:
    """Read and check what arena-record wrote, or the bare bytes of one connection.

    `from_block` as in load_recording; bare bytes have no states. Raises FileNotFoundError and other
    OSErrors of reading, and Deserialization, InvalidMessage or UnsupportedGeneration with the frame
    and byte offset of the first defect.
    """
    size = os.stat(path).st_size
    if size > MAX_RECORDING_NBYTES:
        raise Deserialization(
            f"{os.fspath(path)} has {size} bytes, a recording at most {MAX_RECORDING_NBYTES}",
            size=size,
        )
    if is_recording(Path(path)):
        return load_recording(Path(path), from_block=from_block)
    if from_block is not None:
        raise ValueError(
            "--from-block needs a file of arena-record; this one is the bytes of a connection"
        )
    found, _ = check_stream(Path(path).read_bytes(), os.fspath(path))
    return found


def pace_of(
    recording: Recording,
    *,
    speed: float | None = None,
    rate: float | None = None,
    first: int | None = None,
) -> Callable[[int], float]:
    """When each cut is due, in seconds: at `rate` blocks a second, or `speed` times as it came.

    Blocks below `first` are due at once. ValueError for a speed without recorded times.
    """
    times = recording.arrivals_ns
    paced = 0
    if first is not None:
        paced = next((i for i, number in enumerate(recording.blocks) if number >= first), 0)
    if rate is None and times:
        factor = (speed or 1.0) * 1e9
        return lambda index: max(0.0, (times[index] - times[paced]) / factor)
    if speed is not None:
        raise ValueError("--speed needs a file of arena-record: bare frames have no times")
    blocks_per_s = rate or 1.0
    return lambda index: max(0.0, (index - paced) / blocks_per_s)


def write_states(recording: Recording, path: Path) -> None:
    """Write the state file the recording starts from; it appears whole. ValueError without one."""
    if recording.states is None:
        raise ValueError(
            "the recording holds no state at or below its first block: record with --arena, or "
            "replay from a later block"
        )
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(recording.states)
    part.rename(path)


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
        self._sending: dict[asyncio.Task[None], int] = {}  # cuts each client has got

    async def run(
        self,
        *,
        pace: Callable[[int], float] | None,
        wait_for_client: bool,
        linger_s: float,
    ) -> None:
        """Serve the recording once and return.

        `pace` gives when a cut is due, in seconds after the first; None serves flat out. Where the
        recording changed to a new connection clients are disconnected, and waited for. `linger_s` is
        how long connections stay open afterwards, from the moment every client has got its last
        byte. Connection is raised when the path cannot be used.
        """
        listener = listen(self.path, Access())
        try:
            server = await asyncio.start_unix_server(self._serve, sock=listener)
            log.info("event=listening socket=%s blocks=%d", self.path, self.recording.block_count)
            async with server:
                if wait_for_client:
                    await self._joined.wait()
                await self._release(pace)
                await self._all_sent()
                await asyncio.sleep(linger_s)
                await self._disconnect()
        finally:
            listener.close()
            _unlink(self.path)
        log.info("event=ended blocks=%d", self.recording.block_count)

    async def _release(self, pace: Callable[[int], float] | None) -> None:
        count = len(self.recording.cuts)
        ends = sorted({*self.recording.breaks, count})
        loop = asyncio.get_running_loop()
        started, released = loop.time(), 0
        for end in ends:
            if pace is not None:
                for index in range(released, end):
                    await asyncio.sleep(max(0.0, started + pace(index) - loop.time()))
                    await self._move(index + 1)
            released = end
            await self._move(end)
            if end != count:
                await self._break()
        self._finished = True
        await self._move(count)

    async def _break(self) -> None:
        """Disconnect everybody once they have got all so far, and wait for one to come back."""
        await self._all_sent()
        had_clients = bool(self._clients)
        self._joined.clear()
        await self._disconnect()
        if had_clients:
            log.info("event=new_connection cut=%d", self._released)
            try:
                async with asyncio.timeout(REJOIN_TIMEOUT_S):
                    await self._joined.wait()
            except TimeoutError:
                log.warning("event=nobody_came_back timeout_s=%d", int(REJOIN_TIMEOUT_S))

    async def _all_sent(self) -> None:
        async with self._moved:
            await self._moved.wait_for(
                lambda: all(served == self._released for served in self._sending.values())
            )

    async def _disconnect(self) -> None:
        tasks = set(self._clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _move(self, released: int) -> None:
        async with self._moved:
            self._released = released
            self._moved.notify_all()

    async def _next_target(self, served: int) -> int:
        async with self._moved:
            await self._moved.wait_for(lambda: self._released > served or self._finished)
            return self._released

    async def _note_sent(self, task: asyncio.Task[None], served: int | None) -> None:
        async with self._moved:
            if served is None:
                self._sending.pop(task, None)
            else:
                self._sending[task] = served
            self._moved.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        cuts = self.recording.cuts
        served = self._released
        self._sending[task] = served
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
                await self._note_sent(task, served)
                if self._finished and served == len(cuts):
                    break
            await reader.read()  # until the client leaves, or run() ends the lingering
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            await self._note_sent(task, None)
            self._clients.discard(task)
            writer.close()
            log.info("event=client_left at_byte=%d", offset)


def listen(path: str, access: Access) -> socket.socket:
    """A listening Unix socket at `path`; an abandoned socket file there is replaced.

    It takes its place when it listens: whoever sees the path can connect. Connection: the path is
    too long, occupied by something else or by a living server, or cannot be given that group.
    """
    # Bound under a name of its own first, beside the path so that it can be renamed.
    birth = os.path.join(os.path.dirname(path), f".{os.getpid()}.sock")
    try:
        check_path(path, len(os.fsencode(birth)))
    except ValueError as error:
        raise Connection(str(error), path=path) from None
    _check_free(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(birth)
        if access.group is not None:
            group = str(access.group)
            shutil.chown(birth, group=int(group) if group.isdigit() else group)
        os.chmod(birth, access.mode)
        listener.listen(64)
        os.rename(birth, path)
    except LookupError as error:
        listener.close()
        _unlink(birth)
        raise Connection(
            f"cannot listen on {path}: there is no group {access.group}", path=path
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
