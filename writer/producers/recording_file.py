"""A recording on disk: written in chunks that a stop cannot spoil."""

import fcntl
import os
import time
import zlib
from pathlib import Path

import numpy as np
import zstandard

from arena.writer.producers.recording import (
    CHUNK_MAGIC,
    CHUNK_NBYTES,
    FILE_MAGIC,
    FRAMES,
    HEADER,
    HEADER_CHECKSUM_AT,
    STATES,
    Step,
    read_chunks,
)

FLUSH_S = 1.0  # what a crash may cost
LONGEST_PAUSE_S = 10.0


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
