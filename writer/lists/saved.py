"""The last list in force, on disk."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from arena.errors import PoolListError
from arena.writer.lists.pool_list import parse_pool_list
from arena.writer.lists.source import Origin
from arena.writer.protocols.entry import pool_record
from arena.writer.protocols.storage import PoolTarget

SAVED_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Saved:
    """What a saved list holds."""

    targets: tuple[PoolTarget, ...]
    origin: Origin


class SavedList:
    """The list in force on disk, for a start while its source is away.

    The file is a pool list in the canonical shape, with its origin, and a checksum over all of it:
    other programs may read it as a list, `load` takes it whole or not at all.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()

    def save(self, targets: Sequence[PoolTarget], origin: Origin, *, chain: str) -> None:
        """Replace the file, so that at any moment it is the old list or the new one. OSError."""
        content: dict[str, Any] = {
            "format": SAVED_FORMAT,
            "chain": chain,
            "origin": asdict(origin),
            "pools": [pool_record(target) for target in targets],
        }
        content["sha256"] = _checksum(content)
        folder = self.path.parent
        # One name, so that a crash leaves one file at most, which the next save overwrites.
        temporary = folder / f".{self.path.name}.new"
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                opened = os.open(
                    temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
                )
                with open(opened, "wb") as stream:
                    stream.write(orjson.dumps(content))
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            # The rename lasts once the folder is on disk.
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)

    def load(self, *, chain: str) -> Saved:
        """The list that was saved last. PoolListError: none, for another chain, empty or damaged."""
        name = os.fspath(self.path)
        try:
            raw = self.path.read_bytes()
        except OSError as error:
            raise PoolListError(f"{name} cannot be read: {error.strerror}", path=name) from error
        try:
            content = orjson.loads(raw)
            checksum = content.pop("sha256")
            if content["format"] != SAVED_FORMAT:
                raise ValueError(f"its format is {content['format']!r:.20}, not {SAVED_FORMAT}")
            if checksum != _checksum(content):
                raise ValueError("its checksum does not match")
            origin = Origin(**content["origin"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            found = f"the saved list is damaged ({type(error).__name__}: {error})"
            remedy = "delete it, and start while its source answers"
            raise PoolListError(
                f"{name}: {found}; {remedy}", path=name, found=found, remedy=remedy
            ) from error
        listed = parse_pool_list(content, name=name, chain=chain)
        if listed.refused:
            # Written by a build that holds pools this one does not know.
            raise PoolListError(
                f"{name}: {len(listed.refused)} of its pools are refused, the first: "
                f"{listed.refused[0]}",
                path=name,
            )
        return Saved(listed.targets, origin)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
