"""Where the list of pools comes from while the writer runs: the interface, files, the saved list.

A source names the list once before the writer starts and hands over every change of it afterwards.
natspools.py is the source that follows NATS.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from arena.errors import PoolListError
from arena.writer.reports import report_refused
from arena.writer.scrapers.slots import PoolTarget
from arena.writer.whitelist import (
    PoolList,
    file_signature,
    parse_pool_list,
    pool_record,
    read_pool_list,
)

log = logging.getLogger(__name__)

POLL_S = 0.25
# A file that looks different each time is read after so many looks: it may never come to rest.
MAX_UNSETTLED = 8
SAVED_FORMAT = 1


@dataclass(frozen=True, slots=True)
class PoolChange:
    """One step of the list in force: `removed` keys first, then `added`; a key in both is read anew."""

    added: tuple[PoolTarget, ...] = ()
    removed: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def difference(before: dict[bytes, PoolTarget], after: dict[bytes, PoolTarget]) -> PoolChange:
    """The step from one list to another; a pool that is described otherwise is in both parts, but for
    decimals and symbols, of which an arena keeps those it met first."""
    same = {
        key
        for key, old in before.items()
        if (new := after.get(key)) is not None
        and (new is old or (old.layout == new.layout and old.spec.is_same(new.spec)))
    }
    return PoolChange(
        added=tuple(target for key, target in after.items() if key not in same),
        removed=tuple(key for key in before if key not in same),
    )


class PoolSource(Protocol):
    """A list of pools that may change. `first` comes before `run`, once each."""

    counts: dict[str, int]
    """What happened so far, for metrics; every name is there from the beginning."""

    def first(self) -> tuple[PoolTarget, ...]:
        """The list to start with, never empty. Blocks; no event loop may run. PoolListError."""

    async def run(self, take: Callable[[PoolChange], None]) -> None:
        """Hand every change of the list to `take`, in order, in this event loop, until cancelled.

        An exception of `take` ends it.
        """

    def reload(self) -> None:
        """Look again now. Safe from any thread."""

    def status(self) -> dict[str, Any]:
        """Source, pools in force, where they are from, when they last changed: plain values."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a list is from. `address` carries no password; `time_s` is Unix time of the message or
    file version that last named it whole or changed it."""

    kind: str
    address: str
    subject: str
    time_s: float


class FilePools:
    """The pools of a JSON or TOML file, read again whenever it changes.

    A file that cannot be read, or names no usable pool, leaves the list in force; that is logged
    once for each version of the file, and again after `reload`.
    """

    def __init__(self, path: str | os.PathLike[str], *, chain: str | None = None) -> None:
        self.path = Path(path)
        self.counts = dict.fromkeys(("files_read", "files_refused", "pools_refused"), 0)
        self._chain = chain
        self._in_force: dict[bytes, PoolTarget] = {}
        self._tried: tuple[int, int, int] | None = None
        self._is_current = False
        self._origin: Origin | None = None
        self._changed_s: float | None = None
        self._reload = threading.Event()

    def first(self) -> tuple[PoolTarget, ...]:
        """As PoolSource: the file as it is now."""
        self._tried = file_signature(self.path)
        self._put_in_force(self._read())
        return tuple(self._in_force.values())

    async def run(self, take: Callable[[PoolChange], None]) -> None:
        """As PoolSource; a change is taken once the file has looked the same twice."""
        seen, unsettled = self._tried, 0
        while True:
            await asyncio.sleep(POLL_S)
            signature = file_signature(self.path)
            is_asked = self._reload.is_set()
            if not is_asked:
                if signature == self._tried:
                    seen, unsettled = signature, 0
                    continue
                # A file that is being written may be a shorter list, valid and wrong.
                if signature != seen and unsettled < MAX_UNSETTLED:
                    seen, unsettled = signature, unsettled + 1
                    continue
            self._reload.clear()
            try:
                listed = await asyncio.to_thread(self._read)
            except PoolListError as error:
                self._tried, seen, unsettled = signature, signature, 0
                self._is_current = False
                self.counts["files_refused"] += 1
                log.error(
                    "event=pools_kept pools=%d error=PoolListError reason=%r",
                    len(self._in_force),
                    str(error),
                )
                continue
            if file_signature(self.path) != signature and unsettled < MAX_UNSETTLED:
                unsettled += 1  # what was read may be parts of two versions
                continue
            self._tried, seen, unsettled = signature, signature, 0
            change = self._put_in_force(listed)
            if change:
                log.info(
                    "event=pools_changed pools=%d added=%d removed=%d refused=%d",
                    len(self._in_force),
                    len(change.added),
                    len(change.removed),
                    len(listed.refused),
                )
                take(change)

    def reload(self) -> None:
        """As PoolSource."""
        self._reload.set()

    def status(self) -> dict[str, Any]:
        """As PoolSource; `connected`: the list in force is what the file says now."""
        return {
            "source": "file",
            "address": os.fspath(self.path),
            "connected": self._is_current,
            "pools": len(self._in_force),
            "origin": None if self._origin is None else asdict(self._origin),
            "last_change_s": self._changed_s,
        }

    def _read(self) -> PoolList:
        return read_pool_list(self.path, chain=self._chain)

    def _put_in_force(self, listed: PoolList) -> PoolChange:
        report_refused(log, listed.refused)
        self.counts["files_read"] += 1
        self.counts["pools_refused"] += len(listed.refused)
        after = {target.spec.key: target for target in listed.targets}
        change = difference(self._in_force, after)
        self._in_force = after
        self._is_current = True
        self._origin = Origin("file", os.fspath(self.path), "", time.time())
        if change:
            self._changed_s = self._origin.time_s
        return change


# The saved list


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
