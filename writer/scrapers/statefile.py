"""Pool state from a JSON Lines file: for tests, demos, dumps and bootstrapping.

The format is docs/reference/state-file.md. A line that is not valid JSON, lacks a field or has one
of the wrong type refuses the whole file (StateFileError names path, line, finding and remedy); a
pool whose numbers contradict each other is reported as PoolInvalid and left out.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from arena.arena import PoolSpec, PoolValues, TokenSpec
from arena.errors import PoolInvalid, StateFileError
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.checks import check_pool
from arena.writer.scrapers.slots import check_identity

if TYPE_CHECKING:
    from arena.writer.scrapers.slots import PoolTarget

MAX_LINE_NBYTES = 64 << 20  # one pool with 300,000 ticks is about 25 MB
MAX_SYMBOL_NBYTES = 32  # token table, layouts
MAX_INTEGER_DIGITS = 80  # 2**256 has 78
DEFAULT_V2_FEE_PIPS = 3000
MAX_CONTENTS = 256  # whose time is remembered; 50 minutes of a file a block
CLOCK_SET_NS = 500_000_000  # more than the wall clock is slewed by between two looks
MAX_LYING = 8  # files of losses that are not read yet; a descriptor each
# WHITELIST 6.4: short, long and joined spellings, case and separators ignored.
_PROTOCOLS = {
    "v2": UNISWAP_V2,
    "uniswapv2": UNISWAP_V2,
    "v3": UNISWAP_V3,
    "uniswapv3": UNISWAP_V3,
    "v4": UNISWAP_V4,
    "uniswapv4": UNISWAP_V4,
}


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
        return sorted(content.specs.values(), key=lambda spec: spec.protocol != UNISWAP_V2)

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
                    if _signature_of(found) == signature:
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
        line = _Line(path, number)
        record = line.parse(raw)
        if record is None:
            continue
        if "pool" not in record:
            header = line.header(record)
            continue
        if "error" in record:
            if (failed := line.failed(record)) is not None:
                invalid[failed.key] = failed
            continue
        spec, values = line.pool(record)
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
            line.check_status(record, spec)
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


class _Line:
    """One line of a file: knows where it is, so that every refusal can say so."""

    def __init__(self, path: str, number: int):
        self.path = path
        self.number = number

    def refuse(self, found: str, remedy: str) -> NoReturn:
        raise StateFileError(
            f"{self.path}, line {self.number}: {found}; {remedy}",
            path=self.path,
            line=self.number,
            found=found,
            remedy=remedy,
        )

    def parse(self, raw: bytes) -> dict[str, Any] | None:
        """The line's object; None for an empty line."""
        if len(raw) > MAX_LINE_NBYTES:
            self.refuse(f"more than {MAX_LINE_NBYTES} bytes", "put one pool on each line")
        if not raw.strip():
            return None
        try:
            record = json.loads(
                raw,
                parse_float=self._no_float,
                parse_constant=self._no_float,
                object_pairs_hook=self._object,
            )
        except (ValueError, RecursionError) as error:
            self.refuse(f"not valid JSON ({error})", "write one JSON object on each line")
        if not isinstance(record, dict):
            self.refuse(f"a JSON {type(record).__name__}", "write one JSON object on each line")
        return record

    def _no_float(self, text: str) -> NoReturn:
        self.refuse(
            f"the number {text}", "write integers, beyond 2**53 as decimal strings; no fractions"
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            names = [name for name, _value in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.refuse(f"the key `{twice}` twice", "keep one of them")
        return record

    def header(self, record: dict[str, Any]) -> int:
        if "head_block" not in record:
            self.refuse(
                "neither `pool` nor `head_block`",
                "a line is a pool or the header with `head_block`",
            )
        return self._integer(record, "head_block", 0, (1 << 64) - 1)

    def failed(self, record: dict[str, Any]) -> PoolInvalid | None:
        """What a scrape says of a pool it could not read; None when it had no key for it."""
        if record.get("pool") is None:
            return None
        key = self._hex(record, "pool", (20, 32))
        found = f"{record['error']}: {record.get('reason', '')}"
        return PoolInvalid(
            f"pool 0x{key.hex()} is not installed: {self.path}, line {self.number} says {found}",
            key=key,
            found=found,
        )

    def pool(self, record: dict[str, Any]) -> tuple[PoolSpec, PoolValues]:
        """The pool of a line. Types and field widths are checked here, meaning by check_pool."""
        protocol = self._protocol(record)
        key = self._hex(record, "pool", (20, 32))
        block_number = self._integer(record, "block", 0, (1 << 64) - 1)
        token0, token1 = self._token(record, "token0"), self._token(record, "token1")
        factory = self._hex(record, "factory", (20,)) if record.get("factory") else bytes(20)
        if protocol == UNISWAP_V2:
            fee_pips = DEFAULT_V2_FEE_PIPS
            if "fee_pips" in record:
                fee_pips = self._integer(record, "fee_pips", 0, (1 << 32) - 1)
            return (
                PoolSpec(key, protocol, token0, token1, fee_pips, 0, factory, bytes(20)),
                PoolValues(
                    block_number=block_number,
                    fee_pips=fee_pips,
                    reserve0=self._integer(record, "reserve0", 0, (1 << 256) - 1),
                    reserve1=self._integer(record, "reserve1", 0, (1 << 256) - 1),
                ),
            )
        fee_pips = self._integer(record, "fee_pips", 0, (1 << 32) - 1)
        spacing = self._integer(record, "tick_spacing", -(1 << 31), (1 << 31) - 1)
        hooks, lp_fee, protocol_fee, fee_block = bytes(20), 0, 0, 0
        if protocol == UNISWAP_V4:
            hooks = self._hex(record, "hooks", (20,))
            lp_fee = self._integer(record, "lp_fee", 0, (1 << 32) - 1)
            protocol_fee = self._integer(record, "protocol_fee", 0, (1 << 32) - 1)
            fee_block = block_number
            if "fee_block" in record:
                fee_block = self._integer(record, "fee_block", 0, (1 << 64) - 1)
        return (
            PoolSpec(key, protocol, token0, token1, fee_pips, spacing, factory, hooks),
            PoolValues(
                block_number=block_number,
                fee_pips=lp_fee if protocol == UNISWAP_V4 else fee_pips,
                sqrt_price_x96=self._integer(record, "sqrt_price_x96", 0, (1 << 256) - 1),
                tick=self._integer(record, "tick", -(1 << 31), (1 << 31) - 1),
                liquidity=self._integer(record, "liquidity", 0, (1 << 256) - 1),
                ticks=self._ticks(record),
                protocol_fee=protocol_fee,
                lp_fee=lp_fee,
                fee_block=fee_block,
            ),
        )

    def check_status(self, record: dict[str, Any], spec: PoolSpec) -> None:
        """PoolInvalid for a dumped pool whose numbers were not settled when it was dumped."""
        status = record.get("status", "live")
        if status != "live":
            raise PoolInvalid(
                f"pool 0x{spec.key.hex()} is not installed: {self.path}, line {self.number} says "
                f"its status is {status!r}, not 'live'",
                key=spec.key,
                found=status,
            )

    def _field(self, record: dict[str, Any], name: str) -> Any:
        if name not in record:
            self.refuse(f"no `{name}`", f"add `{name}`, see the state file reference")
        return record[name]

    def _integer(self, record: dict[str, Any], name: str, low: int, high: int) -> int:
        return self._as_integer(self._field(record, name), f"`{name}`", low, high)

    def _as_integer(self, value: Any, name: str, low: int, high: int) -> int:
        if isinstance(value, str):
            digits = value[1:] if value.startswith("-") else value
            if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_INTEGER_DIGITS):
                self.refuse(f"{name} is {value[:100]!r}", "write an integer or a decimal string")
            value = int(value)
        elif isinstance(value, bool) or not isinstance(value, int):
            self.refuse(
                f"{name} is a JSON {type(value).__name__}", "write an integer or a decimal string"
            )
        if not low <= value <= high:
            self.refuse(f"{name} is {value}", f"it lies in [{low}, {high}]")
        return int(value)

    def _hex(self, record: dict[str, Any], name: str, sizes: tuple[int, ...]) -> bytes:
        return self._as_hex(self._field(record, name), f"`{name}`", sizes)

    def _as_hex(self, value: Any, name: str, sizes: tuple[int, ...]) -> bytes:
        wanted = " or ".join(str(size) for size in sizes)
        if not isinstance(value, str):
            self.refuse(
                f"{name} is a JSON {type(value).__name__}", f"write {wanted} bytes as 0x hex"
            )
        digits = value[2:] if value[:2] in ("0x", "0X") else value
        if len(digits) not in [2 * size for size in sizes] or not _is_hex(digits):
            self.refuse(f"{name} is {value[:100]!r}", f"write {wanted} bytes as 0x hex")
        return bytes.fromhex(digits)

    def _protocol(self, record: dict[str, Any]) -> int:
        name = self._field(record, "protocol")
        known = _PROTOCOLS.get(name.lower().replace("_", "")) if isinstance(name, str) else None
        if known is None:
            self.refuse(
                f"`protocol` is {name!r}", "it is one of uniswap_v2, uniswap_v3, uniswap_v4"
            )
        return known

    def _token(self, record: dict[str, Any], name: str) -> TokenSpec:
        token = self._field(record, name)
        decimals: Any = record.get(f"{name}_decimals")
        symbol: Any = ""
        if isinstance(token, dict):
            address = self._as_hex(token.get("address"), f"`{name}.address`", (20,))
            decimals = token.get("decimals", decimals)
            symbol = token.get("symbol") or ""
        else:
            address = self._as_hex(token, f"`{name}`", (20,))
        if decimals is not None:
            decimals = self._as_integer(decimals, f"`{name}` decimals", 0, 255)
        if not isinstance(symbol, str):
            self.refuse(f"`{name}.symbol` is a JSON {type(symbol).__name__}", "write a string")
        return TokenSpec(address, decimals, _cut_symbol(symbol))

    def _ticks(self, record: dict[str, Any]) -> tuple[tuple[int, int, int], ...]:
        listed = self._field(record, "ticks")
        if not isinstance(listed, list):
            self.refuse(
                f"`ticks` is a JSON {type(listed).__name__}",
                "write a list of [tick, liquidity_gross, liquidity_net]",
            )
        ticks = []
        for index, item in enumerate(listed):
            if not isinstance(item, list) or len(item) != 3:
                self.refuse(
                    f"`ticks[{index}]` is not a list of three",
                    "write [tick, liquidity_gross, liquidity_net]",
                )
            name = f"`ticks[{index}]`"
            ticks.append(
                (
                    self._as_integer(item[0], name, -(1 << 31), (1 << 31) - 1),
                    self._as_integer(item[1], name, 0, (1 << 256) - 1),
                    self._as_integer(item[2], name, -(1 << 255), (1 << 255) - 1),
                )
            )
        return tuple(ticks)


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)


def _cut_symbol(symbol: str) -> str:
    encoded = symbol.encode("utf-8", "replace")
    return encoded[:MAX_SYMBOL_NBYTES].decode("utf-8", "ignore").rstrip("\0")


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateFileError(
            f"{path} cannot be read: {error.strerror}", path=str(path), line=None
        ) from error
    return _signature_of(found)


def _signature_of(found: os.stat_result) -> tuple[int, int, int]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _close(lying: int | BinaryIO) -> None:
    if not isinstance(lying, int):
        lying.close()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in its place must not stop the event loop
