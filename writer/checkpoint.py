"""Checkpoints: an arena at one block, on disk, so that a writer can go on from there.

A file is a JSON header of one line, then the image's pieces, zstd-compressed. The header says what the
content belongs to and carries the digest of everything else in the file; a file that says anything else
than its content is refused, never half-used. Files appear whole or not at all.
"""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import zstandard

from arena.arena import ArenaImage
from arena.errors import CheckpointRefused
from arena.layouts.header import LAYOUT_DIGEST, LAYOUT_VERSION

log = logging.getLogger(__name__)

MAGIC = "pool-state-arena checkpoint"
FORMAT = 1
MAX_HEADER_NBYTES = 1 << 20
MAX_IMAGE_NBYTES = 1 << 38
LEVEL = 1  # of zstd: faster than most disks
KEEP = 3
HASHES = 256  # of the blocks below the head, kept in the header

_NAME = re.compile(r"(\d{20})\.checkpoint")
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

    The name sorts by time, not by block, so a chain that was cut back does not hide the newest.
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
        path = folder / f"{time.time_ns():020d}.checkpoint"
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
        for old in checkpoint_files(folder)[keep:]:
            with suppress(OSError):
                old.unlink()
    return path


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a folder, the newest first; none when there is no folder."""
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names, reverse=True)]


def read_header(path: Path) -> tuple[Checkpoint, int, dict[str, object]]:
    """A file's header, where its payload starts, and the header's other fields. CheckpointRefused."""
    try:
        with open(path, "rb") as stream:
            line = stream.readline(MAX_HEADER_NBYTES)
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror}") from error
    if not line.endswith(b"\n") or len(line) < 66:
        raise _refused(path, "its header is cut off or none")
    if hashlib.sha256(line[65:-1]).hexdigest().encode() + b" " != line[:65]:
        raise _refused(path, "its header does not have the checksum it gives")
    try:
        found = orjson.loads(line[65:-1])
        checkpoint = Checkpoint(
            path,
            int(found["chain_id"]),
            int(found["block_number"]),
            tuple((int(number), bytes.fromhex(known)) for number, known in found["hashes"]),
            float(found["written_unix"]),
        )
        if found["magic"] != MAGIC or found["format"] != FORMAT:
            raise _refused(path, f"it is {found['magic']!r}, format {found['format']}")
        if found["layout_digest"] != LAYOUT_DIGEST.hex():
            version = int(found["layout_version"])
            raise _refused(
                path,
                f"it has layout {version >> 16}.{version & 0xFFFF}, this build has "
                f"{LAYOUT_VERSION >> 16}.{LAYOUT_VERSION & 0xFFFF}",
            )
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"its header is no checkpoint's: {error!r}") from error
    return checkpoint, len(line), found


def read_image(path: Path) -> ArenaImage:
    """The whole content of a file, checked. CheckpointRefused."""
    _, start, found = read_header(path)
    try:
        payload = path.read_bytes()[start:]
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror}") from error
    if len(payload) != found["payload_nbytes"]:
        raise _refused(path, f"{len(payload)} bytes of {found['payload_nbytes']} are there")
    if hashlib.sha256(payload).hexdigest() != found["payload_sha256"]:
        raise _refused(path, "its content does not have the checksum its header gives")
    sizes: list[tuple[int, int]] = found["pieces"]  # type: ignore[assignment]
    nbytes: int = found["nbytes"]  # type: ignore[assignment]
    total = sum(size for _, size in sizes)
    if not 0 < nbytes <= MAX_IMAGE_NBYTES or any(start + size > nbytes for start, size in sizes):
        raise _refused(path, f"an arena of {nbytes} bytes does not hold its pieces")
    try:
        content = zstandard.ZstdDecompressor().decompress(payload, max_output_size=total)
    except zstandard.ZstdError as error:
        raise _refused(path, f"its content is not what zstd wrote: {error}") from error
    if len(content) != total:
        raise _refused(path, f"its content has {len(content)} bytes, not {total}")
    pieces = []
    at = 0
    for start, size in sizes:
        pieces.append((start, content[at : at + size]))
        at += size
    return ArenaImage(nbytes, tuple(pieces))


def usable_checkpoints(
    folder: Path, *, chain_id: int, is_canonical: Callable[[Checkpoint], bool]
) -> Iterator[tuple[Checkpoint, ArenaImage]]:
    """Checkpoints of that chain (0: any) on its canonical branch, the newest first; the others are
    logged with what is wrong with them."""
    for path in checkpoint_files(folder):
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
