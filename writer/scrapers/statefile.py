"""Pool state from a JSON Lines file: for tests, demos, dumps and bootstrapping.

The format is docs/reference/state-file.md. A line that is not valid JSON, lacks a field or has one
of the wrong type refuses the whole file (StateFileError names path, line, finding and remedy); a
pool whose numbers contradict each other is reported as PoolInvalid and left out.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from arena.errors import PoolInvalid, StateFileError
from arena.specs import PoolSpec
from arena.writer.host.versions import signature_of
from arena.writer.protocols.held import check_identity, check_pool, quickest_first
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.state_lines import MAX_LINE_NBYTES, StateLine

if TYPE_CHECKING:
    from arena.writer.protocols.storage import PoolTarget


MAX_CONTENTS = 256  # whose time is remembered; 50 minutes of a file a block
CLOCK_SET_NS = 500_000_000  # more than the wall clock is slewed by between two looks
MAX_LYING = 8  # files of losses that are not read yet; a descriptor each


@dataclass(frozen=True, slots=True)
class StateFileContent:
    """What one reading of a file found. `age_ns`: how long before that the file was last written, by
    the wall clock; negative when it says after. `digest` is of what it says of the chain: the order of
    lines, white space and keys without meaning count for nothing."""

    head_block: int
    specs: dict[bytes, PoolSpec]
    pools: dict[bytes, ScrapedPool]
    invalid: dict[bytes, PoolInvalid]
    age_ns: int
    digest: bytes


class StateFile:
    """A scraper over one state file; re-reads it when it changed.

    A file speaks for the chain as of its modification time, which the file's clock may set a little
    early, never late. The wall clock may be set meanwhile: the time is taken once, when a content is
    first read, by the earliest of the clock's settings seen since another one lay there. One dated in the
    future, or found after the clock was set, counts from when that other was seen last.
    The same content is as old as it was at first, whatever file it lies in and whatever time that
    bears. What lay there when the stream lost something, and whatever has reached no higher block,
    never counts as made after the loss.

    The file need not exist yet: list_pools waits for it, up to `wait_s`, and so it does for a file
    that is still being written. Write to another name and rename, and no reader sees half of it.
    """

    def __init__(self, path: str | os.PathLike[str], *, wait_s: float = 60.0, poll_s: float = 0.05):
        self.path = Path(path)
        self._wait_s = wait_s
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._signature: tuple[int, int, int] | None = None
        self._content: StateFileContent | None = None
        self._made_ns: dict[bytes, int] = {}  # CLOCK_MONOTONIC, by digest
        self._seen: tuple[int, int, int] | None = None
        self._seen_ns = 0  # when it was last looked at
        self._changed_ns = 0  # and when it was last seen to be another one than now
        # What the wall clock was ahead of the other, at that look and at most since the one before the
        # file was seen: it may have been set back meanwhile.
        self._ahead_ns = self._most_ahead_ns = time.time_ns() - time.monotonic_ns()
        self._is_clock_set = False  # since the look before the one that saw the file
        self._outdated_head = -1  # the highest block of a file that lay there at a loss
        # What lay there at losses, until looked at: its head block, or the file, not read yet then and
        # held open, so that a rename takes nothing from it.
        self._lying: deque[tuple[tuple[int, int, int], int | BinaryIO]] = deque()
        self._closed = threading.Event()

    def get_current_block_number(self) -> int:
        """The header's head_block, else the highest block of a pool. StateFileError."""
        return self._load().head_block

    def list_pools(self) -> Sequence[PoolSpec]:
        """Every pool of the file, V2 first, then in file order. Waits for the file to exist."""
        content = self._wait_for_content()
        return quickest_first(content.specs.values())

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        """Values as the file has them now. A key it no longer names is reported as invalid."""
        content = self._load()
        is_outdated = self._lying or content.head_block <= self._outdated_head
        as_of_ns = 0 if is_outdated else self._made_ns.get(content.digest, 0)
        found: list[ScrapedPool] = []
        invalid: list[PoolInvalid] = []
        for key in keys:
            if key in content.pools:
                found.append(content.pools[key])
            elif key in content.invalid:
                invalid.append(content.invalid[key])
            else:
                message = f"pool 0x{key.hex()} is no longer in {self.path}"
                invalid.append(PoolInvalid(message, key=key, found="no line"))
        outdated = frozenset(
            each.spec.key for each in found if each.values.block_number <= self._outdated_head
        )
        return Scrape(tuple(found), tuple(invalid), as_of_ns, outdated)

    def note_loss(self) -> None:
        """The file as it lies there now is older than a loss of the stream."""
        loaded, content = self._signature, self._content  # assigned in the other order
        with contextlib.suppress(StateFileError, OSError):
            signature = self._look()
            if signature is None or (self._lying and self._lying[-1][0] == signature):
                return
            if content is not None and signature == loaded:
                self._lying.append((signature, content.head_block))
            else:
                stream = open(self.path, "rb", opener=_open_at_once)  # noqa: SIM115
                self._lying.append((signature, stream))
            if len(self._lying) > MAX_LYING:
                _close(self._lying.popleft()[1])

    def _settle_losses(self, content: StateFileContent, signature: tuple[int, int, int]) -> None:
        """Learn what lay there at losses; that content is what lies there now. A file that was written
        over meanwhile counts as it is now, one that is being written over once it is whole."""
        for _ in range(len(self._lying)):
            lying = self._lying.popleft()
            if isinstance(lying[1], int):
                head_block = lying[1]
            else:
                stream = lying[1]
                found = os.fstat(stream.fileno())
                try:
                    if signature_of(found) == signature:
                        head_block = content.head_block
                    else:
                        stream.seek(0)
                        head_block = _read(stream, os.fspath(self.path)).head_block
                except (OSError, StateFileError):
                    if found.st_ino == signature[0]:
                        self._lying.append(lying)
                        continue
                    head_block = -1  # half a file, and another one lies there now
                stream.close()
            self._outdated_head = max(self._outdated_head, head_block)

    def _look(self) -> tuple[int, int, int] | None:
        """Which file is there; keeps until when there was another. StateFileError."""
        now_ns = time.monotonic_ns()
        ahead_ns = time.time_ns() - now_ns
        found = _signature(self.path)
        if found != self._seen:
            self._changed_ns, self._most_ahead_ns = self._seen_ns, self._ahead_ns
            self._is_clock_set = False
        self._is_clock_set |= abs(ahead_ns - self._ahead_ns) > CLOCK_SET_NS
        self._most_ahead_ns = max(self._most_ahead_ns, ahead_ns)
        self._seen, self._seen_ns, self._ahead_ns = found, now_ns, ahead_ns
        return found

    def hold(self, targets: "Sequence[PoolTarget]") -> None:
        """ValueError: the file names its pools itself."""
        raise ValueError(f"the pools of {self.path} are those the file names; no list changes them")

    def close(self) -> None:
        """End any waiting."""
        self._closed.set()
        with self._lock:
            while self._lying:
                _close(self._lying.popleft()[1])

    def _wait_for_content(self) -> StateFileContent:
        deadline = time.monotonic() + self._wait_s
        failed: tuple[int, int, int] | None = None
        while True:
            signature = self._look()
            if signature is not None:
                try:
                    return self._load()
                except StateFileError:
                    # A file that still changes is still being written; one that stands is wrong.
                    if failed == signature or time.monotonic() >= deadline:
                        raise
                    failed = signature
            if self._closed.is_set():
                raise StateFileError(f"reading of {self.path} was cancelled", path=str(self.path))
            if time.monotonic() >= deadline:
                raise StateFileError(
                    f"{self.path} does not exist after {self._wait_s:g} s; write the state file "
                    "there, or allow more time with --scrape-timeout",
                    path=str(self.path),
                    line=None,
                )
            self._closed.wait(self._poll_s if failed is None else max(self._poll_s, 0.2))

    def _load(self) -> StateFileContent:
        with self._lock:
            signature = self._look()
            if self._content is None or signature != self._signature:
                for _attempt in range(3):
                    opened_ns = time.monotonic_ns()
                    content = read_state_file(self.path)
                    after = self._look()
                    if after == signature:
                        break
                    signature = after
                else:
                    raise StateFileError(
                        f"{self.path} changes while it is read; write it under another name "
                        "and rename it",
                        path=str(self.path),
                        line=None,
                    )
                made_ns = self._changed_ns
                if content.age_ns >= 0:
                    made_ns = opened_ns - content.age_ns - (self._most_ahead_ns - self._ahead_ns)
                    if self._is_clock_set:
                        # It may have been set further ahead, and back, meanwhile.
                        made_ns = min(made_ns, self._changed_ns)
                self._made_ns.setdefault(content.digest, max(0, made_ns))
                while len(self._made_ns) > MAX_CONTENTS:
                    del self._made_ns[next(iter(self._made_ns))]
                self._content, self._signature = content, signature
            assert self._signature is not None
            self._settle_losses(self._content, self._signature)
            return self._content


def read_state_file(path: str | os.PathLike[str]) -> StateFileContent:
    """Parse a whole state file. StateFileError: unreadable, or a line that is not as documented."""
    try:
        with open(path, "rb") as stream:
            return _read(stream, os.fspath(path))
    except OSError as error:
        raise StateFileError(
            f"{os.fspath(path)} cannot be read: {error.strerror}", path=os.fspath(path), line=None
        ) from error


def _read(stream: BinaryIO, path: str) -> StateFileContent:
    specs: dict[bytes, PoolSpec] = {}
    pools: dict[bytes, ScrapedPool] = {}
    invalid: dict[bytes, PoolInvalid] = {}
    lines: dict[bytes, int] = {}
    digests: list[bytes] = []
    header: int | None = None
    highest = 0
    age_ns = time.time_ns() - os.fstat(stream.fileno()).st_mtime_ns
    number = 0
    while raw := stream.readline(MAX_LINE_NBYTES + 1):
        number += 1
        line = StateLine(path, number)
        if not line.parse(raw):
            continue
        if "pool" not in line.record:
            header = line.header()
            continue
        if "error" in line.record:
            if (failed := line.failed()) is not None:
                invalid[failed.key] = failed
            continue
        spec, values = line.pool()
        if spec.key in lines:
            line.refuse(
                f"pool 0x{spec.key.hex()} again, first on line {lines[spec.key]}",
                "keep one line for each pool",
            )
        lines[spec.key] = number
        specs[spec.key] = spec
        digests.append(hashlib.sha256(repr((spec.key, values)).encode()).digest())
        highest = max(highest, values.block_number)
        try:
            line.check_status(spec)
            check_pool(spec, values)
            check_identity(spec)
        except PoolInvalid as error:
            invalid[spec.key] = error
        else:
            pools[spec.key] = ScrapedPool(spec, values)
    if not lines:
        raise StateFileError(
            f"{path} names no pool; write one JSON object with a `pool` key a line",
            path=path,
            line=None,
        )
    head_block = highest if header is None else header
    digest = hashlib.sha256(b"".join([head_block.to_bytes(8, "big"), *sorted(digests)])).digest()
    return StateFileContent(head_block, specs, pools, invalid, age_ns, digest)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateFileError(
            f"{path} cannot be read: {error.strerror}", path=str(path), line=None
        ) from error
    return signature_of(found)


def _close(lying: int | BinaryIO) -> None:
    if not isinstance(lying, int):
        lying.close()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in its place must not stop the event loop
