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

import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import zstandard

from arena.errors import Deserialization
from arena.native import ffi, lib, raise_status

log = logging.getLogger(__name__)


FILE_MAGIC = b"PSAREC\x01\n"
CHUNK_MAGIC = 0x43415350
HEADER = struct.Struct("<IIIIQQQQI8xI")
HEADER_CHECKSUM_AT = 60
FRAMES, STATES = 1, 2
CHUNK_NBYTES = 1 << 20
MAX_CHUNK_NBYTES = 1 << 30
MAX_FRAME_NBYTES = 16 << 20  # without its prefix
MAX_BLOCK_EVENTS = 1 << 16
LENGTH_NBYTES = 4
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


def whole_frames(pending: bytearray) -> Iterator[bytes]:
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
