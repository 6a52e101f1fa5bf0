"""Recorded event streams: raw frames with their arrival times, and the states they start from.

A file is a magic number and chunks, each compressed and checksummed by itself and written at once, so
that a crash costs at most the chunk at hand. A chunk of frames begins and ends between two blocks and
outside of a reorg: its header says which blocks it holds, which makes the headers the index. A chunk of
states is a state file (docs/reference/state-file.md) of the arena at one block.

    file      8 bytes magic, chunks
    chunk     header of 64 bytes, little-endian: magic u32, kind u32, connection u32, count u32,
              first block u64, last block u64, raw nbytes u64, nbytes u64, CRC-32 of the content u32,
              8 zeros, CRC-32 of the header up to here u32; content of nbytes
    content   zstd; of frames arrival times u64[count] (CLOCK_REALTIME ns), then the frames
"""

import asyncio
import fcntl
import logging
import math
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import orjson
import zstandard

from arena.errors import Deserialization
from arena.native import ffi, lib, raise_status
from arena.writer.shortage import remedy_of
from arena.writer.sockets import check_peer, peer_of

log = logging.getLogger(__name__)

FILE_MAGIC = b"PSAREC\x01\n"
CHUNK_MAGIC = 0x43415350
HEADER = struct.Struct("<IIIIQQQQI8xI")
HEADER_CHECKSUM_AT = 60
FRAMES, STATES = 1, 2
CHUNK_NBYTES = 1 << 20
FLUSH_S = 1.0  # what a crash may cost
MAX_CHUNK_NBYTES = 1 << 30
MAX_FRAME_NBYTES = 16 << 20  # WIRE 1
MAX_BLOCK_EVENTS = 1 << 16
LENGTH_NBYTES = 4
LONGEST_PAUSE_S = 10.0
STATES_RETRY_S = 1.0
AFTER_REVERT_S = 0.5  # longer than a writer is behind the stream
# What closes a reorg is served with the block before it, not after the wait for the next.
CLOSES_REORG = {
    lib.PSA_EVENT_REORG_COMPLETE,
    lib.PSA_EVENT_SLOT0_FINAL,
    lib.PSA_EVENT_V2_FINAL,
}


class Step(NamedTuple):
    """What one frame did: the native status, numbers of blocks that ended, and whether it belongs to
    the end of a reorg."""

    status: int
    ended: tuple[int, ...]
    closes: bool


class Cutter:
    """Follows one connection frame by frame to know where its blocks end."""

    def __init__(self) -> None:
        self._feed = ffi.new("psa_feed *")
        lib.psa_feed_open(self._feed, lib.PSA_DIALECT_UNKNOWN)
        self._events = ffi.new("psa_event[]", MAX_BLOCK_EVENTS)
        self._consumed, self._ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        self._held = 0  # records of the last frame, a faulty one, that the next call hands over

    def step(self, frame: bytes | bytearray | memoryview) -> Step:
        """Take one whole frame, its length prefix included."""
        status = lib.psa_feed_decode(
            self._feed,
            ffi.from_buffer("uint8_t[]", frame),
            len(frame),
            self._events,
            MAX_BLOCK_EVENTS,
            self._consumed,
            self._ready,
        )
        ready, left = int(self._ready[0]), int(self._feed.open_count)
        is_open = int(self._feed.state) == lib.PSA_FEED_IN_BLOCK
        brought = range(self._held, ready if is_open else ready + left)
        kinds = [
            (int(self._events[index].kind), int(self._events[index].block_number))
            for index in brought
        ]
        self._held = 0 if is_open else left
        if ready and left:
            ffi.memmove(self._events, self._events + ready, left * ffi.sizeof("psa_event"))
        ended = tuple(block for kind, block in kinds if kind == lib.PSA_EVENT_END_BLOCK)
        return Step(status, ended, any(kind in CLOSES_REORG for kind, _ in kinds))

    @property
    def fault(self) -> str:
        """What was wrong with the frame whose status was not PSA_OK."""
        text: str = ffi.string(self._feed.fault_text).decode("utf-8", "replace")
        return text

    @property
    def has_begun(self) -> bool:
        """A BeginBlock has come; what came before belongs to a block that was joined too late."""
        return int(self._feed.state) != lib.PSA_FEED_START

    @property
    def is_between(self) -> bool:
        """No block and no reorg is open."""
        return int(self._feed.state) == lib.PSA_FEED_IDLE and not self._feed.reorg_open


# Writing


class RecordingFile:
    """A recording that grows; appends to one that is there, after cutting off an incomplete chunk.

    Deserialization when the file is no recording, ValueError when another process writes it; OSError of
    writing, after which the file ends with the chunk before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = 0
        end = 0
        if path.exists() and path.stat().st_size:
            for header, _ in read_chunks(path):
                self._connection = max(self._connection, header.connection)
                end = header.end
            end = max(end, len(FILE_MAGIC))
        # Unbuffered: what is written is with the kernel, or an error.
        self._file = path.open("r+b" if end else "wb", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{path} is being written by another arena-record") from None
        if end:
            self._file.truncate(end)
            self._file.seek(end)
        else:
            self._file.write(FILE_MAGIC)
        self._frames = bytearray()
        self._arrivals: list[int] = []
        self._blocks: list[int] = []
        self._whole = (0, 0, 0)  # bytes, frames, blocks up to the last point between two blocks
        self._began = time.monotonic()

    def connect(self) -> None:
        """A new connection begins; what the last one left unfinished is dropped."""
        self.flush()
        self._frames.clear()
        self._arrivals.clear()
        self._blocks.clear()
        self._connection += 1

    def add(self, frame: bytes, arrival_ns: int, step: Step, *, is_between: bool) -> None:
        """Keep one frame; written when enough has come together."""
        if not self._arrivals:
            self._began = time.monotonic()
        self._frames += frame
        self._arrivals.append(arrival_ns)
        self._blocks += step.ended
        if is_between and self._blocks:
            self._whole = (len(self._frames), len(self._arrivals), len(self._blocks))
            if len(self._frames) >= CHUNK_NBYTES or time.monotonic() - self._began >= FLUSH_S:
                self.flush()

    def flush(self) -> None:
        """Write every whole block and make it durable."""
        nbytes, frames, blocks = self._whole
        if not blocks:
            return
        arrivals = np.array(self._arrivals[:frames], "<u8").tobytes()
        content = arrivals + bytes(self._frames[:nbytes])
        numbers = self._blocks[:blocks]
        self._write(FRAMES, frames, min(numbers), max(numbers), content)
        del self._frames[:nbytes], self._arrivals[:frames], self._blocks[:blocks]
        self._whole = (0, 0, 0)
        self._began = time.monotonic()

    def add_states(self, block_number: int, content: bytes) -> None:
        """Keep a state file of that block."""
        self.flush()
        self._write(STATES, 1, block_number, block_number, content)

    def _write(self, kind: int, count: int, first: int, last: int, content: bytes) -> None:
        packed = zstandard.ZstdCompressor(level=3).compress(content)
        place = (CHUNK_MAGIC, kind, self._connection, count, first, last, len(content), len(packed))
        header = HEADER.pack(*place, zlib.crc32(packed), 0)[:HEADER_CHECKSUM_AT]
        header += zlib.crc32(header).to_bytes(4, "little")
        end = self._file.tell()
        try:
            left = memoryview(header + packed)
            while left:
                left = left[self._file.write(left) :]
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._file.seek(end)
            self._file.truncate()
            self._whole = (0, 0, 0)  # not tried again at the end
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Write what is whole. Safe to call twice."""
        if not self._file.closed:
            self.flush()
            self._file.close()


class Recorder:
    """Records what the producer at `socket` sends, across reconnects, until cancelled.

    With `arena_name` the state of that arena, of user `owner`, is kept too, once it has come to the
    first recorded block, and again every `states_every` blocks: a replay starts from there. `peer_uid`
    is the user whose process must answer on the socket, None anybody.
    """

    def __init__(
        self,
        socket: Path,
        file: RecordingFile,
        *,
        arena_name: str | None = None,
        owner: int | str | None = None,
        peer_uid: int | None = None,
        states_every: int | None = None,
    ) -> None:
        self._socket = socket
        self._file = file
        self._arena_name = arena_name
        self._owner = owner
        self._peer_uid = peer_uid
        self._states_every = states_every
        self._states_due: int | None = None  # a block number
        self.last_block: int | None = None
        self._reverted_at = -math.inf  # of the monotonic clock

    async def run(self) -> None:
        """Record until cancelled, with everything whole on disk then. OSError of writing, PeerRefused."""
        tasks = [asyncio.ensure_future(self._record())]
        if self._arena_name is not None:
            tasks.append(asyncio.ensure_future(self._keep_states(self._arena_name)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._file.close()
            log.info("event=recorded file=%s last_block=%s", self._file.path, self.last_block)

    async def _record(self) -> None:
        pause = 0.1
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
            except OSError as error:
                log.log(
                    logging.WARNING if pause == 0.1 else logging.DEBUG,
                    "event=connect_refused socket=%s error=%r",
                    self._socket,
                    "; ".join(filter(None, (str(error), remedy_of(error)))),
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            try:
                self._look_at_peer(writer)
                if await self._record_connection(reader):
                    pause = 0.1
            finally:
                writer.close()
            await asyncio.sleep(pause)

    def _look_at_peer(self, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        check_peer(os.fspath(self._socket), peer, self._peer_uid)
        log.info(
            "event=connected socket=%s peer_pid=%d peer_uid=%d", self._socket, peer.pid, peer.uid
        )

    async def _record_connection(self, reader: asyncio.StreamReader) -> bool:
        """Until it ends; whether it brought a block."""
        self._file.connect()
        cutter, pending, brought = Cutter(), bytearray(), False
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    chunk = await reader.read(1 << 18)
            except TimeoutError:
                self._file.flush()
                continue
            except OSError as error:
                log.warning("event=connection_lost reason=%r", str(error))
                return brought
            if not chunk:
                log.warning("event=connection_lost reason='end of stream'")
                return brought
            now = time.time_ns()
            pending += chunk
            for frame in _whole_frames(pending):
                step = cutter.step(frame)
                if step.status not in (lib.PSA_OK, lib.PSA_INVALID_MESSAGE):
                    log.warning("event=connection_dropped reason=%r", cutter.fault)
                    return brought
                if cutter.has_begun:
                    self._file.add(frame, now, step, is_between=cutter.is_between)
                for number in step.ended:
                    self._note(number)
                    brought = True

    def _note(self, number: int) -> None:
        if self.last_block is not None and number <= self.last_block:
            self._reverted_at = time.monotonic()
        self.last_block = number
        if self._arena_name is not None and self._states_due is None:
            self._states_due = number

    async def _keep_states(self, arena_name: str) -> None:
        """Dump the arena once it has come to the block due, while nothing is reverted: so what is
        dumped is a block of the branch recorded then."""
        said = False
        while True:
            await asyncio.sleep(STATES_RETRY_S)
            due, last = self._states_due, self.last_block
            if due is None or last is None or last < due:
                continue
            began = time.monotonic()
            if began - self._reverted_at < AFTER_REVERT_S:
                continue
            dump = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", "from arena.readers.cli import dump; dump()"),
                arena_name,
                *(() if self._owner is None else ("--owner", str(self._owner))),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            content, problem = await dump.communicate()
            block = _dumped_block(content) if dump.returncode == 0 else None
            if block is None or block < due:
                if not said:
                    reason = problem.decode().strip() or f"it is at block {block}, {due} is needed"
                    log.warning("event=no_states arena=%s reason=%r", arena_name, reason)
                    said = True
                continue
            limit = time.monotonic() + FLUSH_S
            while (last := self.last_block or 0) < block and time.monotonic() < limit:
                await asyncio.sleep(0.01)
            if self._reverted_at >= began or last < block:
                log.debug("event=states_dropped block=%d last_block=%d", block, last)
                continue
            self._file.add_states(block, content)
            log.info("event=states_kept block=%d", block)
            said = False
            self._states_due = sys.maxsize
            if self._states_every is not None:
                self._states_due = block + self._states_every


def _dumped_block(content: bytes) -> int | None:
    """The block of a dump of which every pool is live; None otherwise."""
    head, *lines = (orjson.loads(line) for line in content.splitlines())
    if not lines or any(line["status"] != "live" for line in lines):
        return None
    return int(head["head_block"])


def _whole_frames(pending: bytearray) -> Iterator[bytes]:
    """Take the whole frames off the front; a length that cannot be is handed out as it is."""
    start = 0
    while len(pending) - start >= LENGTH_NBYTES:
        length = int.from_bytes(pending[start : start + LENGTH_NBYTES], "little")
        if not 1 <= length <= MAX_FRAME_NBYTES:
            yield bytes(pending[start : start + LENGTH_NBYTES])
            break
        end = start + LENGTH_NBYTES + length
        if end > len(pending):
            break
        yield bytes(pending[start:end])
        start = end
    del pending[:start]


# Reading


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Of one chunk; `end` is the file offset behind it."""

    kind: int
    connection: int
    count: int
    first_block: int
    last_block: int
    raw_nbytes: int
    end: int


def is_recording(path: Path) -> bool:
    """Whether a file begins as one of this module. OSError."""
    with path.open("rb") as file:
        return file.read(len(FILE_MAGIC)) == FILE_MAGIC


def read_chunks(path: Path) -> Iterator[tuple[ChunkHeader, bytes]]:
    """Headers and compressed contents, in order. A last chunk that was cut off is left out; damage
    anywhere else is a Deserialization error with its offset."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(FILE_MAGIC)) != FILE_MAGIC:
            raise Deserialization(f"{path} is no recording: it does not begin as one", offset=0)
        while (offset := file.tell()) < size:
            raw = file.read(HEADER.size)
            if _is_header(raw):
                _magic, *fields, nbytes, checksum, _ = HEADER.unpack(raw)
                kind, connection, count, first, last, raw_nbytes = fields
                end = offset + HEADER.size + nbytes
                packed = file.read(nbytes) if end <= size else b""
                if len(packed) == nbytes and zlib.crc32(packed) == checksum:
                    yield (
                        ChunkHeader(kind, connection, count, first, last, raw_nbytes, end),
                        packed,
                    )
                    continue
            if _has_header(file, offset + 1):
                raise Deserialization(
                    f"{path}: the chunk at byte {offset} is damaged and others follow: the blocks it "
                    "held are lost",
                    offset=offset,
                )
            log.warning("event=recording_cut file=%s byte=%d", path, offset)
            return


def _is_header(raw: bytes) -> bool:
    if len(raw) != HEADER.size or int.from_bytes(raw[:4], "little") != CHUNK_MAGIC:
        return False
    return zlib.crc32(raw[:HEADER_CHECKSUM_AT]) == int.from_bytes(
        raw[HEADER_CHECKSUM_AT:], "little"
    )


def _has_header(file: BinaryIO, offset: int) -> bool:
    """Whether a chunk begins anywhere from there on."""
    file.seek(offset)
    rest = file.read()
    magic = CHUNK_MAGIC.to_bytes(4, "little")
    at = -1
    while (at := rest.find(magic, at + 1)) >= 0:
        if _is_header(rest[at : at + HEADER.size]):
            return True
    return False


def unpack(header: ChunkHeader, packed: bytes) -> bytes:
    """A chunk's content. Deserialization."""
    if header.raw_nbytes > MAX_CHUNK_NBYTES:
        raise Deserialization(f"a chunk of {header.raw_nbytes} bytes, at most {MAX_CHUNK_NBYTES}")
    try:
        content: bytes = zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=header.raw_nbytes
        )
    except zstandard.ZstdError as error:
        raise Deserialization(f"a chunk cannot be decompressed: {error}") from error
    return content


@dataclass(frozen=True, slots=True)
class Recording:
    """A checked stream. `cuts` are the byte offsets behind each block; the last is the end.

    `arrivals_ns` is when each cut's last byte came, empty where that is not known; `breaks` are the
    numbers of cuts after which a new connection began; `blocks` the number of each cut's last block.
    `states` is a state file of `states_block`, from which what follows is whole.
    """

    data: bytes
    cuts: tuple[int, ...]
    block_count: int
    frame_count: int
    first_block: int
    last_block: int
    blocks: tuple[int, ...] = ()
    arrivals_ns: tuple[int, ...] = ()
    breaks: frozenset[int] = frozenset()
    states: bytes | None = None
    states_block: int | None = None


def check_stream(
    data: bytes, name: str = "recording", *, strict: bool = True
) -> tuple[Recording, tuple[int, ...]]:
    """Decode every frame of one connection and find where its blocks end: the stream, and how many
    frames lie before each cut.

    Deserialization, UnsupportedGeneration and, if `strict`, InvalidMessage name the frame and byte
    offset of the first defect.
    """
    cutter = Cutter()
    view = memoryview(data)
    offset = frame = blocks = first = last = 0
    cuts: list[int] = []
    frames: list[int] = []
    numbers: list[int] = []
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + LENGTH_NBYTES], "little")
        end = offset + LENGTH_NBYTES + length
        if (
            offset + LENGTH_NBYTES > len(data)
            or not 1 <= length <= MAX_FRAME_NBYTES
            or end > len(data)
        ):
            raise Deserialization(
                f"{name}: frame {frame} at byte {offset} has length {length}, "
                f"{len(data) - offset} bytes remain; the file is no recording or was cut",
                frame=frame,
                offset=offset,
            )
        step = cutter.step(view[offset:end])
        if step.status != lib.PSA_OK and (strict or step.status != lib.PSA_INVALID_MESSAGE):
            raise_status(
                step.status,
                f"{name}: frame {frame} at byte {offset}: {cutter.fault}",
                frame=frame,
                offset=offset,
            )
        offset, frame = end, frame + 1
        if step.closes and cuts:
            cuts[-1], frames[-1] = end, frame
        for number in step.ended:
            last = number
            first = first if blocks else number
            blocks += 1
        if step.ended:
            cuts.append(end)
            frames.append(frame)
            numbers.append(last)
    if not blocks:
        raise Deserialization(
            f"{name} holds no complete block in {frame} frames", frame=frame, offset=0
        )
    if cuts[-1] != len(data):
        cuts.append(len(data))
        frames.append(frame)
        numbers.append(last)
    found = Recording(data, tuple(cuts), blocks, frame, first, last, tuple(numbers))
    return found, tuple(frames)


def load_recording(path: Path, *, from_block: int | None = None) -> Recording:
    """The whole recording, or what is needed to have the state from block `from_block` on.

    Then it begins behind the newest kept state at or below that block; where there is none, with the
    block itself. States of a block that is reverted later on are left out. Deserialization when the
    file is damaged or has no such block.
    """
    kept: list[tuple[ChunkHeader, bytes]] = []
    wanted: list[tuple[ChunkHeader, bytes]] = []
    for header, packed in read_chunks(path):
        if header.kind == STATES:
            kept.append((header, packed))
            continue
        kept = [each for each in kept if each[0].first_block < header.first_block]
        wanted.append((header, packed))
    highest = max((header.last_block for header, _ in wanted), default=0)
    if from_block is not None and from_block > highest:
        raise Deserialization(f"{path} holds no block from {from_block} on, its last is {highest}")
    states: tuple[int, bytes] | None = None
    begin = from_block
    if from_block is not None:
        kept = [each for each in kept if each[0].first_block <= from_block][-1:]
    if kept:
        states = kept[0][0].first_block, unpack(*kept[0])
        if from_block is not None:
            begin = states[0] + 1
    if begin is not None:
        while len(wanted) > 1 and wanted[0][0].last_block < begin <= wanted[-1][0].last_block:
            del wanted[0]
    return _joined(path, wanted, states, begin)


def _first_cut(
    blocks: list[tuple[int, ...]], states: tuple[int, bytes] | None, begin: int | None
) -> tuple[int, int]:
    """Where to begin: the number of the connection, and of the cut in it.

    Without states at the first time `begin` came, a later one is in a reorg; with them behind the last
    time their block came, which is not reverted any more. The last cut is served in any case.
    """
    places = [(index, cut) for index, each in enumerate(blocks) for cut in range(len(each))]
    if begin is None or not places:
        return 0, 0
    if states is None:
        return next((place for place in places if blocks[place[0]][place[1]] >= begin), places[-1])
    below = [number for number, place in enumerate(places) if blocks[place[0]][place[1]] < begin]
    return places[min(below[-1] + 1 if below else 0, len(places) - 1)]


def _joined(
    path: Path,
    chunks: list[tuple[ChunkHeader, bytes]],
    states: tuple[int, bytes] | None,
    begin: int | None,
) -> Recording:
    by_connection: dict[int, tuple[bytearray, list[int]]] = {}
    for header, packed in chunks:
        content = unpack(header, packed)
        split = 8 * header.count
        data, arrivals = by_connection.setdefault(header.connection, (bytearray(), []))
        data += content[split:]
        arrivals += np.frombuffer(content[:split], "<u8").tolist()
    joined = bytearray()
    cuts: list[int] = []
    numbers: list[int] = []
    times: list[int] = []
    breaks: set[int] = set()
    frame_count = 0
    streams = [
        (*check_stream(bytes(data), str(path), strict=False), arrivals)
        for data, arrivals in by_connection.values()
    ]
    first, skipped = _first_cut([found.blocks for found, _, _ in streams], states, begin)
    for found, frames, arrivals in streams[first:]:
        start = found.cuts[skipped - 1] if skipped else 0
        cuts += [len(joined) + cut - start for cut in found.cuts[skipped:]]
        numbers += found.blocks[skipped:]
        times += [arrivals[count - 1] for count in frames[skipped:]]
        frame_count += found.frame_count - (frames[skipped - 1] if skipped else 0)
        joined += found.data[start:]
        breaks.add(len(cuts))
        skipped = 0
    if not cuts:
        raise Deserialization(f"{path} is empty")
    breaks.discard(len(cuts))
    return Recording(
        bytes(joined),
        tuple(cuts),
        len(cuts),
        frame_count,
        numbers[0],
        numbers[-1],
        tuple(numbers),
        tuple(times),
        frozenset(breaks),
        None if states is None else states[1],
        None if states is None else states[0],
    )
