"""The list of pools from a file, looked at again and again."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arena.errors import PoolListError
from arena.writer.host.versions import file_signature
from arena.writer.lists.pool_list import PoolList, read_pool_list
from arena.writer.lists.reports import report_refused
from arena.writer.lists.source import Origin, PoolChange, difference
from arena.writer.protocols.storage import PoolTarget

log = logging.getLogger(__name__)


POLL_S = 0.25
# A file that looks different each time is read after so many looks: it may never come to rest.
MAX_UNSETTLED = 8


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
