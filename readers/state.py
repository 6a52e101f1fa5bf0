"""One pool as it was: its key, its state, and a private copy that answers quotes for ever."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import (
    PoolRemoved,
    PoolStale,
    SnapshotContended,
    SnapshotTooOld,
    UnknownPool,
)
from arena.layouts import slots
from arena.layouts.words import ints_from_limbs
from arena.mapping import MappedArena
from arena.native import ffi, lib, raise_status
from arena.readers.quote import CopyQuotes
from arena.specs import TokenSpec, read_token

READ_TRIES = 64

Key = str | bytes
Ticks = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a pool: 0x-hex address (zero = native coin), decimals (None = unknown), symbol."""

    address: str
    decimals: int | None
    symbol: str


@dataclass(frozen=True, slots=True)
class PoolState:
    """Everything known about one pool, from one version.

    `block_number, tx_index, log_index` are the position of the last applied event; without one since the
    scrape they are (`base_block`, 0, 0). `protocol` is uniswap_v2, uniswap_v3 or uniswap_v4, `status`
    live, syncing, stale or removed. Fields the protocol does not have are None. V2 has reserves (wei);
    V3 and V4 have sqrt_price_x96 (Q64.96), tick, liquidity, tick_spacing and ticks, ascending (tick,
    liquidity_gross, liquidity_net); V4 also protocol_fee (24 bits as stored), lp_fee (pips), the
    fee_block at which one was read or told last, and hooks. `fee_pips` of a V4 pool is the fee of its
    pool key, 0x800000 when it is dynamic; what swaps pay is lp_fee and protocol_fee. Of a pool that was
    announced and not read yet all values are None, its blocks 0 and its status syncing.
    """

    protocol: str
    pool_key: str
    block_number: int
    tx_index: int
    log_index: int
    status: str
    token0: Token
    token1: Token
    fee_pips: int
    base_block: int
    factory: str
    reserve0: int | None = None
    reserve1: int | None = None
    sqrt_price_x96: int | None = None
    tick: int | None = None
    liquidity: int | None = None
    tick_spacing: int | None = None
    ticks: Ticks | None = None
    protocol_fee: int | None = None
    lp_fee: int | None = None
    fee_block: int | None = None
    hooks: str | None = None


def key_bytes(key: Key) -> bytes:
    """20 or 32 bytes of a key. ValueError when it is malformed, TypeError when it is no key at all."""
    if isinstance(key, str):
        if key[:2] not in ("0x", "0X") or len(key) not in (42, 66):
            raise ValueError(f"{key!r} is no pool key: 0x and 40 or 64 hex digits")
        try:
            return bytes.fromhex(key[2:])
        except ValueError:
            raise ValueError(f"{key!r} is no pool key: it has other than hex digits") from None
    if isinstance(key, bytes | bytearray | memoryview):
        data = bytes(key)
        if len(data) not in (20, 32):
            raise ValueError(f"a pool key has 20 or 32 bytes, not {len(data)}")
        return data
    raise TypeError(f"a pool key is a 0x-hex string or bytes, not {type(key).__name__}")


def key_text(data: bytes) -> str:
    """0x and lower-case hex digits."""
    return "0x" + data.hex()


def unknown(key: Key, name: str) -> UnknownPool:
    text = key if isinstance(key, str) else key_text(bytes(key))
    return UnknownPool(
        f"arena {name} has no pool {text}: it is not among the pools the writer was given, was left out "
        "as invalid (the writer's log says so), or the writer is not live yet",
        key=text,
        name=name,
    )


def token_of(spec: TokenSpec) -> Token:
    return Token(address=key_text(spec.address), decimals=spec.decimals, symbol=spec.symbol)


def find_pool(mapped: MappedArena, data: bytes) -> tuple[int, int] | None:
    """Slot and generation of a 20- or 32-byte key; None when the arena has none."""
    found = ffi.new("uint64_t *")
    if lib.psa_find(mapped.pointer, data.ljust(32, b"\0"), found):
        return None
    place = place_of(int(found[0]))
    return place if mapped.pointer.statics[place[0]].key_nbytes == len(data) else None


def place_of(reference: int) -> tuple[int, int]:
    """Slot and generation of a reference; generation 0 = any."""
    return reference & slots.NO_SLOT, reference >> 32


def find_pools(
    mapped: MappedArena, keys: Sequence[Key], commit: int, missing: Callable[[Key], Exception]
) -> npt.NDArray[np.uint64]:
    """(n,) references of n keys, all of pools that are there at `commit` (0: the newest). Raises
    `missing(key)` for one that is not."""
    wanted = [key_bytes(key) for key in keys]
    found = np.zeros(len(wanted), np.uint64)
    if wanted:
        data = b"".join([key.ljust(32, b"\0") for key in wanted])
        lib.psa_find_many(mapped.pointer, data, len(wanted), ffi.from_buffer("uint64_t *", found))
        sizes = np.fromiter(map(len, wanted), np.uint8, len(wanted))
        gone = found == slots.NO_SLOT
        numbers = np.where(gone, 0, slot_numbers(found))
        gone |= mapped.statics["key_nbytes"][numbers] != sizes
        if not gone.any():
            with contextlib.suppress(SnapshotTooOld):  # each pool then says so for itself
                lines = read_lines(mapped, found, commit) if commit else newest_lines(mapped, found)
                gone = ~is_visible(lines["status"])
        if gone.any():
            raise missing(wanted[int(gone.argmax())])
    return found


def slot_numbers(references: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """(n,) slots of n references."""
    return (references & slots.NO_SLOT).astype(np.uint32)


def slot_generations(references: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """(n,) generations of n references; 0 = any."""
    return (references >> np.uint64(32)).astype(np.uint32)


def pin(mapped: MappedArena) -> Any:
    """psa_commit_record of the newest commit, as a pointer."""
    record = ffi.new("psa_commit_record *")
    status = lib.psa_pin(mapped.pointer, record)
    if status:
        raise_status(status, "the commit record changed during every try to read it")
    return record


def read_lines(
    mapped: MappedArena,
    references: npt.NDArray[np.uint64],
    commit: int,
    out: npt.NDArray[np.void] | None = None,
) -> npt.NDArray[np.void]:
    """(n,) lines (dtype LINE) of n pools as of `commit`; all zero where there is no pool then."""
    lines = np.empty(len(references), slots.LINE) if out is None else out
    if len(references) == 0 or commit == 0:
        lines[:] = np.zeros((), slots.LINE)
        return lines
    failed = ffi.new("uint32_t *")
    status = lib.psa_snapshot(
        mapped.pointer,
        ffi.from_buffer("uint64_t *", references),
        len(references),
        commit,
        ffi.from_buffer("psa_line *", lines),
        failed,
    )
    if status:
        raise read_error(mapped, status, int(references[failed[0]]), commit)
    return lines


def newest_lines(mapped: MappedArena, references: npt.NDArray[np.uint64]) -> npt.NDArray[np.void]:
    """read_lines at the newest commit. SnapshotContended."""
    for _ in range(READ_TRIES):
        try:
            return read_lines(mapped, references, pin(mapped).stamp)
        except SnapshotTooOld:
            continue
    raise SnapshotContended(
        f"{len(references)} pools were overwritten during each of {READ_TRIES} tries to read them"
    )


def read_rows(
    mapped: MappedArena, lines: npt.NDArray[np.void], numbers: npt.NDArray[np.uint32], commit: int
) -> npt.NDArray[np.void]:
    """(n,) static rows of the pools whose lines were read. SnapshotTooOld when a slot has another
    pool since."""
    rows = np.empty(len(lines), slots.STATIC)
    if len(lines) == 0:
        return rows
    references = lines["generation"].astype(np.uint64) << np.uint64(32) | numbers
    failed = ffi.new("uint32_t *")
    status = lib.psa_rows_read(
        mapped.pointer,
        ffi.from_buffer("uint64_t *", references),
        len(references),
        ffi.from_buffer("psa_static *", rows),
        failed,
    )
    if status:
        raise _given_away(int(numbers[failed[0]]), commit)
    return rows


def _given_away(slot: int, commit: int, key: str | None = None) -> SnapshotTooOld:
    return SnapshotTooOld(
        f"slot {slot} was given to another pool since commit {commit}; take a new snapshot",
        commit=commit,
        key=key,
    )


def read_row(
    mapped: MappedArena, slot: int, generation: int, commit: int = 0, key: str | None = None
) -> npt.NDArray[np.void]:
    """(1,) static row of a slot. PoolRemoved when it is of another generation, SnapshotTooOld in a
    snapshot."""
    row = _row(mapped, slot | generation << 32)
    if row is None and commit:
        raise _given_away(slot, commit, key)
    if row is None:
        shown = f"pool {key}" if key else f"the pool of slot {slot}"
        raise PoolRemoved(f"{shown} was removed", key=key)
    return row


def _row(mapped: MappedArena, reference: int) -> npt.NDArray[np.void] | None:
    row = np.empty(1, slots.STATIC)
    status = lib.psa_rows_read(
        mapped.pointer,
        ffi.new("uint64_t *", reference),
        1,
        ffi.from_buffer("psa_static *", row),
        ffi.new("uint32_t *"),
    )
    return None if status else row


def reference_key(mapped: MappedArena, reference: int) -> str | None:
    """Key of the pool a reference leads to, as text; None when its slot is another's by now."""
    row = _row(mapped, reference)
    return None if row is None else key_text(row["key"][0].tobytes()[: int(row["key_nbytes"][0])])


def read_error(
    mapped: MappedArena, status: int, reference: int, commit: int, key: str | None = None
) -> Exception:
    """What kept a pool from being read; `key` where it is known, for the slot may be another's."""
    slot, generation = place_of(reference)
    if key is None and generation:
        key = reference_key(mapped, reference)
    pool = f"pool {key}" if key else f"the pool of slot {slot}"
    if status == lib.PSA_POOL_REMOVED:
        return PoolRemoved(f"{pool} was removed", key=key)
    if status == lib.PSA_SNAPSHOT_TOO_OLD:
        return SnapshotTooOld(
            f"{pool} was overwritten twice since commit {commit}; take a new snapshot, "
            "or snapshot(keys) to keep a copy",
            key=key,
            commit=commit,
        )
    try:
        raise_status(status, f"{pool} cannot be read", key=key)
    except Exception as error:
        return error
    raise AssertionError("a status that is no failure")


def is_visible(status: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which statuses belong to pools that exist."""
    found: npt.NDArray[np.bool_] = (status != slots.STATUS_ABSENT) & (
        status != slots.STATUS_REMOVED
    )
    return found


class FrozenPool(CopyQuotes):
    """One pool as it was: state and quotes, no shared memory, valid for ever. Pickles."""

    __slots__ = ("_gross", "_keep", "_line", "_net", "_row", "_ticks", "_tokens")

    def __init__(
        self,
        line: npt.NDArray[np.void],
        row: npt.NDArray[np.void],
        ticks: npt.NDArray[np.int32],
        net: npt.NDArray[np.uint64],
        gross: npt.NDArray[np.uint64],
        tokens: tuple[Token, Token],
    ) -> None:
        self._line = line  # (1,) LINE
        self._row = row  # (1,) STATIC
        self._ticks = ticks  # (n,)
        self._net = net  # (n, 2)
        self._gross = gross  # (n, 2)
        self._tokens = tokens
        self.key = key_text(row["key"][0].tobytes()[: int(row["key_nbytes"][0])])
        arrays = (
            ffi.from_buffer("psa_static *", row),
            ffi.from_buffer("int32_t *", ticks) if len(ticks) else ffi.NULL,
            ffi.from_buffer("uint64_t *", net) if len(ticks) else ffi.NULL,
        )
        pool = ffi.new("psa_pool_copy *")
        ffi.memmove(ffi.addressof(pool, "line"), line.tobytes(), slots.LINE.itemsize)
        pool.row, pool.ticks, pool.net = arrays
        self._pool = pool
        self._keep = arrays

    @property
    def status(self) -> str:
        """live, syncing, stale or removed, at the time of the copy."""
        return slots.STATUS_NAMES[int(self._line["status"][0])]

    @property
    def protocol(self) -> str:
        """uniswap_v2, uniswap_v3 or uniswap_v4."""
        return slots.PROTOCOL_NAMES[int(self._row["protocol"][0])]

    @property
    def token0(self) -> Token:
        """Token 0."""
        return self._tokens[0]

    @property
    def token1(self) -> Token:
        """Token 1."""
        return self._tokens[1]

    @property
    def is_read(self) -> bool:
        """False for a pool that was announced only: it has no values yet."""
        return not int(self._line["unsure"][0]) & slots.UNSURE_UNREAD

    def ticks(self) -> Ticks:
        """(tick, liquidity_gross, liquidity_net), ascending. PoolStale while there are no values."""
        if not self.is_read:
            raise PoolStale(
                f"pool {self.key} was announced and has not been read yet; wait until it is live",
                key=self.key,
            )
        return tuple(
            zip(
                self._ticks.tolist(),
                ints_from_limbs(self._gross),
                ints_from_limbs(self._net, signed=True),
                strict=True,
            )
        )

    def state(self) -> PoolState:
        """Everything about the pool."""
        line = self._pool.line
        row = self._pool.row
        position = (line.block_number, line.tx_index, line.log_index)
        block, tx, log = position if line.block_number else (line.base_block, 0, 0)
        fee = line.fee_status & 0xFFFFFF
        common = {
            "protocol": self.protocol,
            "pool_key": self.key,
            "block_number": block,
            "tx_index": tx,
            "log_index": log,
            "status": self.status,
            "token0": self._tokens[0],
            "token1": self._tokens[1],
            "fee_pips": fee if self.is_read else row.fee_pips,
            "base_block": line.base_block,
            "factory": key_text(bytes(ffi.buffer(row.factory))),
        }
        if not self.is_read:  # None, where zeros would pass for values
            spacing = None if row.protocol == slots.UNISWAP_V2 else row.tick_spacing
            is_v4 = row.protocol == slots.UNISWAP_V4
            hooks = key_text(bytes(ffi.buffer(row.hooks))) if is_v4 else None
            return PoolState(**common, tick_spacing=spacing, hooks=hooks)
        a = line.a[0] | line.a[1] << 64
        b = line.b[0] | line.b[1] << 64
        if row.protocol == slots.UNISWAP_V2:
            return PoolState(**common, reserve0=a, reserve1=b)
        common |= {
            "sqrt_price_x96": a | line.sqrt_price_hi << 128,
            "tick": line.tick,
            "liquidity": b,
            "tick_spacing": row.tick_spacing,
            "ticks": self.ticks(),
        }
        if row.protocol == slots.UNISWAP_V4:
            common |= {
                "fee_pips": row.fee_pips,
                "protocol_fee": line.protocol_fee,
                "lp_fee": fee,
                "fee_block": line.fee_block,
                "hooks": key_text(bytes(ffi.buffer(row.hooks))),
            }
        return PoolState(**common)

    def __repr__(self) -> str:
        return f"FrozenPool({self.key}, {self.protocol}, {self.status})"

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = (self._line, self._row, self._ticks, self._net, self._gross)
        return (FrozenPool, (*(array.copy() for array in arrays), self._tokens))


def read_frozen(
    mapped: MappedArena, slot: int, generation: int, commit: int, key: str | None = None
) -> FrozenPool:
    """Copy one pool with its ticks, as of `commit` (0: the newest)."""
    line = np.zeros(1, slots.LINE)
    pointer = ffi.from_buffer("psa_line *", line)
    capacity = 64
    reference = slot | generation << 32
    for _ in range(READ_TRIES):
        ticks = np.empty(capacity, np.int32)
        net = np.empty((capacity, 2), "<u8")
        gross = np.empty((capacity, 2), "<u8")
        status = lib.psa_pool_read_ticks(
            mapped.pointer,
            slot,
            generation,
            commit,
            pointer,
            ffi.from_buffer("int32_t *", ticks),
            ffi.from_buffer("uint64_t *", net),
            ffi.from_buffer("uint64_t *", gross),
            capacity,
        )
        if status == lib.PSA_BUFFER_TOO_SMALL:
            capacity = pointer.tick_count + 64  # the writer may add some before the next try
            continue
        if status == lib.PSA_OK and pointer.fee_status >> 24 == slots.STATUS_ABSENT:
            status = lib.PSA_UNKNOWN_POOL
        if status:
            raise read_error(mapped, status, reference, commit, key)
        count = pointer.tick_count
        row = read_row(mapped, slot, pointer.generation, commit, key)
        tokens = read_tokens(mapped, row)
        return FrozenPool(line, row, ticks[:count], net[:count], gross[:count], tokens)
    raise SnapshotContended(f"the ticks of pool {key or f'in slot {slot}'} outgrew every buffer")


def read_tokens(mapped: MappedArena, row: npt.NDArray[np.void]) -> tuple[Token, Token]:
    """The two tokens of a static row, (1,)."""
    first, second = row["token0"][0], row["token1"][0]
    return _read_token(mapped, int(first)), _read_token(mapped, int(second))


def _read_token(mapped: MappedArena, index: int) -> Token:
    found: Token | None = mapped.token_cache.get(index)
    if found is None:
        found = mapped.token_cache[index] = token_of(read_token(mapped.pointer, index))
    return found
