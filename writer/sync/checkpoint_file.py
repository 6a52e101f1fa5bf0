"""Checkpoints: an arena at one block, on disk, so that a writer can go on from there.

A file is a JSON header of one line, then the image's pieces, zstd-compressed. The header says what the
content belongs to and carries the digest of everything else in the file; a file that says anything else
than its content is refused, never half-used. Files appear whole or not at all.
"""

import hashlib
import logging
import math
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from arena.errors import CheckpointRefused
from arena.images import ArenaImage
from arena.layouts.header import HEADER_NBYTES, LAYOUT_DIGEST, LAYOUT_VERSION

log = logging.getLogger(__name__)


MAGIC = "pool-state-arena checkpoint"
FORMAT = 1
MAX_HEADER_NBYTES = 1 << 20
MAX_IMAGE_NBYTES = 1 << 38
MAX_PIECES = 4096  # an image has a handful, and two for each lap of the undo ring
MAX_NUMBER = 1 << 63  # of blocks: below it each number plus 1 still fits 64 bits
LEVEL = 1  # of zstd: faster than most disks
KEEP = 3
HASHES = 256  # of the blocks below the head, kept in the header

# A count of the files written into the folder. Names of former versions are nanoseconds since 1970: the
# count goes on from the highest.
_NAME = re.compile(r"([0-9]{20,})\.checkpoint")
_WRITING = threading.Lock()  # each removes what others left half-written


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file's header.

    `hashes` are those known of the head and of blocks below it, by number, the head first; without the
    head's own the state is still tied to the chain by the one below.
    """

    path: Path
    chain_id: int
    block_number: int
    hashes: tuple[tuple[int, bytes], ...]
    written_unix: float

    @property
    def block_hash(self) -> bytes | None:
        """Of the head; None when it was not known in time."""
        return dict(self.hashes).get(self.block_number)


def write_checkpoint(
    folder: Path,
    image: ArenaImage,
    *,
    chain_id: int,
    hashes: Sequence[tuple[int, bytes]],
    keep: int = KEEP,
) -> Path:
    """Write `image` into `folder`, made if need be; then remove all but the newest `keep`. OSError.

    Names count up from the highest in the folder, whatever the clock says and whichever block it is: a
    clock set back or a chain that was cut back does not hide the newest.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    payload = zstandard.ZstdCompressor(level=LEVEL).compress(
        b"".join(piece for _, piece in image.pieces)
    )
    header = {
        "magic": MAGIC,
        "format": FORMAT,
        "layout_version": LAYOUT_VERSION,
        "layout_digest": LAYOUT_DIGEST.hex(),
        "chain_id": chain_id,
        "block_number": int(image.record["block_number"]),
        "hashes": [[number, known.hex()] for number, known in hashes[:HASHES]],
        "written_unix": time.time(),
        "nbytes": image.nbytes,
        "pieces": [[start, len(piece)] for start, piece in image.pieces],
        "payload_nbytes": len(payload),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
    }
    line = orjson.dumps(header)
    with _WRITING:
        for left in folder.glob("*.partial"):  # of a writer that was killed
            with suppress(OSError):
                left.unlink()
        path = folder / f"{_next_number(folder):020d}.checkpoint"
        partial = path.with_suffix(".partial")
        try:
            with open(partial, "xb") as stream:
                stream.write(
                    hashlib.sha256(line).hexdigest().encode() + b" " + line + b"\n" + payload
                )
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(partial, path)
            _sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        others = [each for each in checkpoint_files(folder) if each != path]
        for old in others[max(keep - 1, 0) :]:
            with suppress(OSError):
                old.unlink()
    return path


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a folder, the newest first; none when there is no folder. OSError."""
    try:
        found = [name for name in map(_NAME.fullmatch, os.listdir(folder)) if name]
    except FileNotFoundError:
        return []
    found.sort(key=lambda name: int(name[1]), reverse=True)
    return [folder / name[0] for name in found]


def _next_number(folder: Path) -> int:
    files = checkpoint_files(folder)
    return int(files[0].stem) + 1 if files else 1


def read_header(path: Path) -> tuple[Checkpoint, int, dict[str, Any]]:
    """A file's header, where its payload starts, and the header's fields, each of its type and within
    its limits. CheckpointRefused."""
    try:
        with _open(path) as stream:
            line = stream.readline(MAX_HEADER_NBYTES)
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror}") from error
    return parse_header(path, line)


def parse_header(path: Path, line: bytes) -> tuple[Checkpoint, int, dict[str, Any]]:
    """read_header of a first line that was read already."""
    if not line.endswith(b"\n") or len(line) < 66:
        raise _refused(path, "its header is cut off or none")
    if hashlib.sha256(line[65:-1]).hexdigest().encode() + b" " != line[:65]:
        raise _refused(path, "its header does not have the checksum it gives")
    try:
        found = orjson.loads(line[65:-1])
        if found["magic"] != MAGIC or found["format"] != FORMAT:
            raise _refused(path, f"it is {found['magic']!r}, format {found['format']}")
        version = _number(found["layout_version"], 1 << 32)
        if found["layout_digest"] != LAYOUT_DIGEST.hex():
            raise _refused(
                path,
                f"it has layout {version >> 16}.{version & 0xFFFF}, this build has "
                f"{LAYOUT_VERSION >> 16}.{LAYOUT_VERSION & 0xFFFF}",
            )
        checkpoint = _checkpoint(path, found)
        _number(found["payload_nbytes"], MAX_IMAGE_NBYTES)
        _number(found["nbytes"], MAX_IMAGE_NBYTES + 1)
        found["pieces"] = _pieces(found["pieces"])
        if not isinstance(found["payload_sha256"], str):
            raise TypeError("payload_sha256 is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"its header is no checkpoint's: {error!r}") from error
    return checkpoint, len(line), found


def _number(value: object, limit: int) -> int:
    """A whole number from 0 to below `limit`, and nothing that could be read as one."""
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no whole number")
    if not 0 <= value < limit:
        raise ValueError(f"{value} is not in 0..{limit - 1}")
    return value


def _checkpoint(path: Path, found: Any) -> Checkpoint:
    written = found["written_unix"]
    if type(written) not in (int, float) or not math.isfinite(written):
        raise ValueError(f"written at {written!r:.40}")
    if not isinstance(found["hashes"], list):
        raise TypeError("hashes are no list")
    hashes = tuple(
        (_number(number, MAX_NUMBER), bytes.fromhex(known)) for number, known in found["hashes"]
    )
    if any(len(known) != 32 for _, known in hashes):
        raise ValueError("a block hash has 32 bytes")
    return Checkpoint(
        path,
        _number(found["chain_id"], 1 << 64),
        _number(found["block_number"], MAX_NUMBER),
        hashes,
        float(written),
    )


def _pieces(found: Any) -> list[tuple[int, int]]:
    """(offset, size) of the pieces: ascending, apart, and the header page first."""
    if not isinstance(found, list) or not 0 < len(found) <= MAX_PIECES:
        raise ValueError("no list of pieces")
    pieces = [
        (_number(start, MAX_IMAGE_NBYTES), _number(size, MAX_IMAGE_NBYTES)) for start, size in found
    ]
    end = 0
    for start, size in pieces:
        if start < end:
            raise ValueError(f"the piece at {start} begins below {end}")
        end = start + size
    if pieces[0][0] != 0 or pieces[0][1] < HEADER_NBYTES:
        raise ValueError("the first piece is not the header page")
    return pieces


def _open(path: Path) -> BinaryIO:
    """A regular file, opened for reading; OSError for anything else (a pipe would block for ever)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_image(path: Path) -> ArenaImage:
    """The whole content of a file, checked. CheckpointRefused."""
    try:
        return _read_image(path)
    except MemoryError as error:
        raise _refused(path, "there is no memory for its content") from error


def _read_image(path: Path) -> ArenaImage:
    checkpoint, start, found = read_header(path)
    expected: int = found["payload_nbytes"]
    try:
        with _open(path) as stream:
            there = os.fstat(stream.fileno()).st_size - start
            if there != expected:
                raise _refused(path, f"{there} bytes of {expected} are there")
            stream.seek(start)
            payload = stream.read(expected)
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror}") from error
    if hashlib.sha256(payload).hexdigest() != found["payload_sha256"]:
        raise _refused(path, "its content does not have the checksum its header gives")
    sizes: list[tuple[int, int]] = found["pieces"]
    nbytes: int = found["nbytes"]
    total = sum(size for _, size in sizes)
    if any(offset + size > nbytes for offset, size in sizes):
        raise _refused(path, f"an arena of {nbytes} bytes does not hold its pieces")
    try:
        inside = zstandard.frame_content_size(payload)
        if inside not in (-1, total):  # before memory is taken for it
            raise _refused(path, f"its content has {inside} bytes, not {total}")
        content = zstandard.ZstdDecompressor().decompress(payload, max_output_size=total)
    except zstandard.ZstdError as error:
        raise _refused(path, f"its content is not what zstd wrote: {error}") from error
    if len(content) != total:
        raise _refused(path, f"its content has {len(content)} bytes, not {total}")
    pieces = []
    at = 0
    for offset, size in sizes:
        pieces.append((offset, content[at : at + size]))
        at += size
    image = ArenaImage(nbytes, tuple(pieces))
    if int(image.record["block_number"]) != checkpoint.block_number:
        raise _refused(
            path,
            f"its content is of block {image.record['block_number']}, its header says "
            f"{checkpoint.block_number}",
        )
    return image


def usable_checkpoints(
    folder: Path, *, chain_id: int, is_canonical: Callable[[Checkpoint], bool]
) -> Iterator[tuple[Checkpoint, ArenaImage]]:
    """Checkpoints of that chain (0: any) on its canonical branch, the newest first; the others are
    logged with what is wrong with them."""
    try:
        files = checkpoint_files(folder)
    except OSError as error:
        log.warning("event=checkpoints_unreadable folder=%s reason=%r", folder, error.strerror)
        return
    for path in files:
        try:
            checkpoint, _, _ = read_header(path)
            if chain_id and checkpoint.chain_id and checkpoint.chain_id != chain_id:
                raise _refused(path, f"it is of chain {checkpoint.chain_id}, not of {chain_id}")
            if not is_canonical(checkpoint):
                raise _refused(
                    path, f"its block {checkpoint.block_number} is not the chain's any more"
                )
            image = read_image(path)
        except CheckpointRefused as error:
            log.warning("event=checkpoint_refused reason=%r", str(error))
            continue
        yield checkpoint, image


def _refused(path: Path, found: str) -> CheckpointRefused:
    return CheckpointRefused(f"{path}: {found}; the next source is used", path=str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
