"""Pools at one block: views pinned to a commit, copies that stay valid for ever, and tables.

A pinned view reads shared memory as of its commit, so it costs nothing to take and ends when a pool it
reads has been overwritten twice (SnapshotTooOld). A frozen snapshot is a private copy, ticks included.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from arena.arena import MappedArena, OwnedArray, TokenSpec, read_token
from arena.errors import ArenaClosed, PoolRemoved, SnapshotContended, SnapshotTooOld, UnknownPool
from arena.layouts import header as layout
from arena.layouts import slots
from arena.layouts.words import ints_from_limbs
from arena.native import ffi, lib, raise_status
from arena.readers.quote import CopyQuotes, QuoteBatch

if TYPE_CHECKING:
    from arena.readers.reader import Arena, Pool

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
    fee_block at which both were read, and hooks. `fee_pips` of a V4 pool is the fee of its pool key,
    0x800000 when it is dynamic; what swaps pay is lp_fee and protocol_fee.
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
    return UnknownPool(f"arena {name} has no pool {text}", key=text, name=name)


def token_of(spec: TokenSpec) -> Token:
    return Token(address=key_text(spec.address), decimals=spec.decimals, symbol=spec.symbol)


def find_slot(mapped: MappedArena, data: bytes) -> int | None:
    """Slot of a 20- or 32-byte key; None when the arena has none."""
    slot = ffi.new("uint32_t *")
    if lib.psa_find(mapped.pointer, data.ljust(32, b"\0"), slot):
        return None
    found = int(slot[0])
    return found if mapped.pointer.statics[found].key_nbytes == len(data) else None


def find_slots(mapped: MappedArena, keys: Sequence[Key], name: str) -> npt.NDArray[np.uint32]:
    """(n,) slots of n keys. UnknownPool for one that the arena of that name has not."""
    wanted = [key_bytes(key) for key in keys]
    found = np.zeros(len(wanted), np.uint32)
    if wanted:
        data = b"".join([key.ljust(32, b"\0") for key in wanted])
        count = lib.psa_find_many(
            mapped.pointer, data, len(wanted), ffi.from_buffer("uint32_t *", found)
        )
        sizes = np.fromiter(map(len, wanted), np.uint8, len(wanted))
        if count < len(wanted):
            missing = found == slots.NO_SLOT
        else:
            missing = mapped.statics["key_nbytes"][found] != sizes
        if missing.any():
            raise unknown(wanted[int(missing.argmax())], name)
    return found


def pin(mapped: MappedArena) -> Any:
    """psa_commit_record of the newest commit, as a pointer."""
    record = ffi.new("psa_commit_record *")
    status = lib.psa_pin(mapped.pointer, record)
    if status:
        raise_status(status, "the commit record changed during every try to read it")
    return record


def read_lines(
    mapped: MappedArena,
    numbers: npt.NDArray[np.uint32],
    commit: int,
    out: npt.NDArray[np.void] | None = None,
) -> npt.NDArray[np.void]:
    """(n,) lines (dtype LINE) of n slots as of `commit`; all zero where there is no pool then."""
    lines = np.empty(len(numbers), slots.LINE) if out is None else out
    if len(numbers) == 0 or commit == 0:
        lines[:] = np.zeros((), slots.LINE)
        return lines
    failed = ffi.new("uint32_t *")
    status = lib.psa_snapshot(
        mapped.pointer,
        ffi.from_buffer("uint32_t *", numbers),
        len(numbers),
        commit,
        ffi.from_buffer("psa_line *", lines),
        failed,
    )
    if status:
        raise too_old(commit, key_of(mapped, int(numbers[failed[0]])), status)
    return lines


def too_old(commit: int, key: str, status: int = lib.PSA_SNAPSHOT_TOO_OLD) -> Exception:
    if status != lib.PSA_SNAPSHOT_TOO_OLD:
        try:
            raise_status(status, f"pool {key} cannot be read at commit {commit}", key=key)
        except Exception as error:
            return error
    return SnapshotTooOld(
        f"pool {key} was overwritten twice since commit {commit}; take a new snapshot, "
        "or snapshot(keys) to keep a copy",
        key=key,
        commit=commit,
    )


def key_of(mapped: MappedArena, slot: int) -> str:
    """Key of a slot as text."""
    row = mapped.pointer.statics[slot]
    return key_text(bytes(ffi.buffer(row.key))[: row.key_nbytes])


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

    def ticks(self) -> Ticks:
        """(tick, liquidity_gross, liquidity_net), ascending."""
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
            "fee_pips": fee,
            "base_block": line.base_block,
            "factory": key_text(bytes(ffi.buffer(row.factory))),
        }
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


def read_frozen(mapped: MappedArena, slot: int, generation: int, commit: int) -> FrozenPool:
    """Copy one pool with its ticks, as of `commit` (0: the newest)."""
    line = np.zeros(1, slots.LINE)
    pointer = ffi.from_buffer("psa_line *", line)
    capacity = 64
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
        raise_read(mapped, status, slot, commit)
        count = pointer.tick_count
        row = mapped.statics[slot : slot + 1].copy()
        return FrozenPool(
            line, row, ticks[:count], net[:count], gross[:count], read_tokens(mapped, slot)
        )
    raise SnapshotContended(f"the ticks of pool {key_of(mapped, slot)} outgrew every buffer")


def raise_read(mapped: MappedArena, status: int, slot: int, commit: int) -> None:
    """Raise what kept a pool from being read."""
    if status == 0:
        return
    key = key_of(mapped, slot)
    if status == lib.PSA_POOL_REMOVED:
        raise PoolRemoved(f"pool {key} was removed", key=key)
    if status == lib.PSA_SNAPSHOT_TOO_OLD:
        raise too_old(commit, key)
    raise_status(status, f"pool {key} cannot be read", key=key)


def read_tokens(mapped: MappedArena, slot: int) -> tuple[Token, Token]:
    """The two tokens of a slot's pool."""
    row = mapped.pointer.statics[slot]
    return (
        token_of(read_token(mapped.pointer, row.token0)),
        token_of(read_token(mapped.pointer, row.token1)),
    )


# Tables

TABLE = slots.record(
    232,
    [
        ("key", ("u1", 32), 0),  # address left aligned, or pool id
        ("key_nbytes", "u1", 32),  # 20 or 32
        ("protocol", "u1", 33),  # layouts.slots.UNISWAP_*
        ("status", "u1", 34),  # layouts.slots.STATUS_*
        ("unsure", "u1", 35),  # why it is stale
        ("fee_pips", "<u4", 36),  # V4: stored LP fee
        ("slot", "<u4", 40),
        ("tick_spacing", "<i4", 44),
        ("tick", "<i4", 48),
        ("tick_count", "<u4", 52),
        ("block_number", "<u8", 56),  # last applied event, or base_block
        ("tx_index", "<u4", 64),
        ("log_index", "<u4", 68),
        ("reserve0", ("<u8", 2), 72),  # wei; V3/V4: 0
        ("reserve1", ("<u8", 2), 88),
        ("sqrt_price_x96", ("<u8", 4), 104),  # Q64.96; V2: 0
        ("liquidity", ("<u8", 2), 136),
        ("token0", ("u1", 20), 152),
        ("token1", ("u1", 20), 172),
        ("protocol_fee", "<u4", 192),  # V4
        ("reserved0", "<u4", 196),  # zero
        ("base_block", "<u8", 200),
        ("fee_block", "<u8", 208),  # V4
        ("commit", "<u8", 216),  # commit that wrote the version
        ("reserved1", "<u8", 224),  # zero
    ],
)

_SAME_NAME = ("status", "unsure", "tick", "tick_count", "tx_index", "log_index", "protocol_fee")


def make_table(
    lines: npt.NDArray[np.void],
    rows: npt.NDArray[np.void],
    numbers: npt.NDArray[np.uint32],
    addresses: npt.NDArray[np.uint8],
) -> npt.NDArray[np.void]:
    """(n,) array of dtype TABLE. `addresses` is (tokens, 20), by token index."""
    table = np.zeros(len(lines), TABLE)
    for name in ("key", "key_nbytes", "protocol", "tick_spacing"):
        table[name] = rows[name]
    for name in (*_SAME_NAME, "base_block", "fee_block"):
        table[name] = lines[name]
    table["commit"] = lines["stamp"]
    table["slot"] = numbers
    table["fee_pips"] = lines["fee_status"] & 0xFFFFFF
    table["block_number"] = np.where(
        lines["block_number"] != 0, lines["block_number"], lines["base_block"]
    )
    is_v2 = rows["protocol"] == slots.UNISWAP_V2
    v2 = is_v2.astype("<u8")[:, None]  # 1 or 0 each: keep or blank
    table["reserve0"] = lines["a"] * v2
    table["reserve1"] = lines["b"] * v2
    table["sqrt_price_x96"][:, :2] = lines["a"] * (1 - v2)
    table["sqrt_price_x96"][:, 2] = lines["sqrt_price_hi"]
    table["liquidity"] = lines["b"] * (1 - v2)
    for name in ("token0", "token1"):
        table[name] = addresses[rows[name]]
    return table


def table_columns(table: npt.NDArray[np.void]) -> dict[str, list[Any] | npt.NDArray[Any]]:
    """Columns for data frames.

    Keys and addresses are 0x-hex, protocol and status names, wide integers decimal strings (no frame
    library holds 256 bits), None where the protocol has no such field.
    """
    protocols = table["protocol"].tolist()
    is_v2 = [protocol == slots.UNISWAP_V2 for protocol in protocols]

    def wide(name: str, wanted: bool) -> list[Any]:
        numbers = ints_from_limbs(table[name])
        return [str(n) if v2 is wanted else None for n, v2 in zip(numbers, is_v2, strict=True)]

    keys = zip(table["key"], table["key_nbytes"].tolist(), strict=True)
    return {
        "key": [key_text(key.tobytes()[:nbytes]) for key, nbytes in keys],
        "protocol": [slots.PROTOCOL_NAMES.get(number, str(number)) for number in protocols],
        "status": [slots.STATUS_NAMES[number] for number in table["status"].tolist()],
        "token0": [key_text(address.tobytes()) for address in table["token0"]],
        "token1": [key_text(address.tobytes()) for address in table["token1"]],
        "fee_pips": table["fee_pips"].copy(),
        "block_number": table["block_number"].copy(),
        "reserve0": wide("reserve0", True),
        "reserve1": wide("reserve1", True),
        "sqrt_price_x96": wide("sqrt_price_x96", False),
        "liquidity": wide("liquidity", False),
        "tick": table["tick"].copy(),
        "tick_spacing": table["tick_spacing"].copy(),
        "tick_count": table["tick_count"].copy(),
    }


def frame_module(name: str, extra: str | None) -> Any:
    """A frame library. ImportError names what to install: our extra, or itself when none has it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        wanted = name if extra is None else f"'pool-state-arena[{extra}]'"
        raise ImportError(f"{name} is not installed: pip install {wanted}") from error


class _Tables:
    """Tables of a snapshot, made from table()."""

    def table(self) -> npt.NDArray[np.void]:
        """(n,) structured copy (dtype TABLE) of all pools, consistent at one block."""
        raise NotImplementedError

    def to_arrow(self) -> Any:
        """pyarrow.Table with the columns of table_columns. ImportError without pyarrow."""
        return frame_module("pyarrow", "tables").table(table_columns(self.table()))

    def to_polars(self) -> Any:
        """polars.DataFrame with the columns of table_columns. ImportError without polars."""
        return frame_module("polars", "tables").DataFrame(table_columns(self.table()))

    def to_pandas(self) -> Any:
        """pandas.DataFrame with the columns of table_columns. ImportError without pandas."""
        return frame_module("pandas", None).DataFrame(table_columns(self.table()))


class Head:
    """The commit a snapshot belongs to."""

    __slots__ = ("_record",)

    def __init__(self, record: bytes) -> None:
        self._record = np.frombuffer(record, layout.COMMIT_RECORD)[0]

    @property
    def block_number(self) -> int:
        """Head block: every pool is as of its end. 0 = no block yet."""
        return int(self._record["block_number"])

    @property
    def block_hash(self) -> str | None:
        """0x-hex, None when the feed does not tell."""
        found: bytes = self._record["block_hash"].tobytes()
        return key_text(found) if any(found) else None

    @property
    def timestamp(self) -> int:
        """Of the head block, Unix seconds; 0 = unknown."""
        return int(self._record["timestamp"])

    @property
    def base_fee(self) -> int:
        """Of the head block, wei; 0 = unknown."""
        return int(self._record["base_fee"])

    @property
    def commit(self) -> int:
        """Number of the commit."""
        return int(self._record["stamp"])


class Snapshot(Head, _Tables):
    """All pools at one block, read where they are.

    Costs nothing to take and holds nothing up. Reading a pool that has been overwritten twice since
    raises SnapshotTooOld; Arena.at_one_block repeats for you, Arena.snapshot(keys) copies. After close
    its pools raise ArenaClosed. It stays with its generation when the arena is re-created.
    """

    __slots__ = ("_arena", "_gate", "_mapped", "_pools")

    def __init__(self, arena: "Arena", mapped: MappedArena, record: bytes) -> None:
        super().__init__(record)
        self._arena = arena
        self._mapped = mapped
        self._gate = [0]
        self._pools: dict[Key, Pool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the view. A second close does nothing."""
        self._gate[0] = 1
        self._pools.clear()

    def _open(self) -> MappedArena:
        if self._gate[0]:
            raise ArenaClosed(f"this snapshot of {self._arena.name} is closed")
        return self._mapped

    def __getitem__(self, key: Key) -> "Pool":
        found = self._pools.get(key) if isinstance(key, str | bytes) else None
        if found is None or self._gate[0]:
            mapped = self._open()
            data = key_bytes(key)
            slot = find_slot(mapped, data) if self.commit else None
            if slot is None or not self._exists(mapped, slot):
                raise unknown(data, self._arena.name)
            found = self._arena._make_pool(key_text(data), mapped, slot, self.commit, self._gate)
            if isinstance(key, str | bytes):
                self._pools[key] = found
        return found

    def _exists(self, mapped: MappedArena, slot: int) -> bool:
        lines = read_lines(mapped, np.array([slot], np.uint32), self.commit)
        return bool(is_visible(lines["status"])[0])

    def __contains__(self, key: Key) -> bool:
        mapped = self._open()
        slot = find_slot(mapped, key_bytes(key)) if self.commit else None
        return slot is not None and self._exists(mapped, slot)

    def _visible(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.void]]:
        mapped = self._open()
        numbers = np.arange(mapped.header.slots_used, dtype=np.uint32)
        lines = read_lines(mapped, numbers, self.commit)
        there = is_visible(lines["status"])
        return numbers[there], lines[there]

    def __len__(self) -> int:
        return len(self._visible()[0])

    def __iter__(self) -> Iterator[str]:
        mapped = self._open()
        return iter([key_of(mapped, int(slot)) for slot in self._visible()[0]])

    def table(self) -> npt.NDArray[np.void]:
        """(n,) structured copy (dtype TABLE) of all pools, consistent at one block."""
        numbers, lines = self._visible()
        mapped = self._open()
        return make_table(lines, mapped.statics[numbers], numbers, mapped.tokens["address"])

    def lines(
        self, numbers: npt.NDArray[np.uint32], out: npt.NDArray[np.void] | None = None
    ) -> npt.NDArray[np.void]:
        """(n,) version lines (dtype layouts.slots.LINE) of n slots, one call into C.

        `numbers` comes from Arena.slots; zero lines for slots without a pool at this block. `out` (n,)
        is filled instead of a new array, which saves a third of the time; ValueError when it does not
        fit.
        """
        if out is not None and (
            out.dtype != slots.LINE or out.shape != numbers.shape or not out.flags.c_contiguous
        ):
            raise ValueError(f"out must be ({len(numbers)},) of layouts.slots.LINE, contiguous")
        wanted = np.ascontiguousarray(numbers, np.uint32)
        return read_lines(self._open(), wanted, self.commit, out)

    def quote_batch(
        self,
        pools: "Sequence[Key | Pool] | npt.NDArray[np.uint32]",
        amounts: int | Sequence[int] | npt.NDArray[Any],
        *,
        zero_for_one: bool | Sequence[bool] | npt.NDArray[np.bool_],
        exact_out: bool = False,
        allow_stale: bool = False,
        allow_dynamic_fee: bool = False,
    ) -> QuoteBatch:
        """Many pools in one call, all at this block; arguments as Arena.quote_batch."""
        return self._arena._batch(
            self._open(),
            self.commit,
            pools,
            amounts,
            zero_for_one,
            exact_out=exact_out,
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )

    def __repr__(self) -> str:
        return f"Snapshot({self._arena.name}, block {self.block_number}, commit {self.commit})"

    def __reduce__(self) -> tuple[Any, ...]:
        mapped = self._open()
        return (_reopen, (self._arena, mapped.generation, self._record.tobytes()))


def _reopen(arena: "Arena", generation: int, record: bytes) -> Snapshot:
    """A pinned view in another process; SnapshotTooOld when the arena was re-created since."""
    mapped = arena._current()
    if mapped.generation != generation:
        raise SnapshotTooOld(
            f"{arena.name} is at generation {mapped.generation}, the snapshot at {generation}",
            name=arena.name,
        )
    return Snapshot(arena, mapped, record)


class FrozenSnapshot(Head, _Tables):
    """A private copy of some pools at one block, ticks included: valid for ever, and it pickles."""

    __slots__ = ("_arrays", "_keys", "_name", "_pools")

    def __init__(self, name: str, record: bytes, arrays: tuple[npt.NDArray[Any], ...]) -> None:
        super().__init__(record)
        self._name = name
        # lines (n,), rows (n,), slots (n,), starts (n + 1,), ticks (m,), net (m, 2), gross (m, 2),
        # token indices (k,) ascending, token rows (k,)
        self._arrays = arrays
        self._keys: dict[str, int] | None = None  # key -> index, made on first use
        self._pools: dict[Key, FrozenPool] = {}

    @property
    def _index(self) -> dict[str, int]:
        if self._keys is None:
            rows = self._arrays[1]
            data = rows["key"].tobytes().hex()
            self._keys = {
                "0x" + data[64 * index : 64 * index + 2 * size]: index
                for index, size in enumerate(rows["key_nbytes"].tolist())
            }
        return self._keys

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass  # owns no resource; closes for symmetry with Snapshot

    def __getitem__(self, key: Key) -> FrozenPool:
        found = self._pools.get(key) if isinstance(key, str | bytes) else None
        if found is None:
            text = key_text(key_bytes(key))
            index = self._index.get(text)
            if index is None:
                raise unknown(text, self._name)
            found = self._pools.get(text)
            if found is None:
                found = self._pools[text] = self._make(index)
            if isinstance(key, str | bytes):
                self._pools[key] = found
        return found

    def _make(self, index: int) -> FrozenPool:
        lines, rows, _, starts, ticks, net, gross = self._arrays[:7]
        first, last = int(starts[index]), int(starts[index + 1])
        row = rows[index : index + 1]
        tokens = (self._token(row["token0"][0]), self._token(row["token1"][0]))
        line = lines[index : index + 1]
        return FrozenPool(line, row, ticks[first:last], net[first:last], gross[first:last], tokens)

    def _token(self, index: np.uint32) -> Token:
        indices, rows = self._arrays[7:]
        row = rows[int(np.searchsorted(indices, index))]
        known = int(row["flags"]) & slots.TOKEN_DECIMALS_KNOWN
        return Token(
            address=key_text(row["address"].tobytes()),
            decimals=int(row["decimals"]) if known else None,
            symbol=bytes(row["symbol"]).decode("utf-8", "replace"),
        )

    def __contains__(self, key: Key) -> bool:
        return key_text(key_bytes(key)) in self._index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def table(self) -> npt.NDArray[np.void]:
        """(n,) structured copy (dtype TABLE) of the copied pools."""
        lines, rows, numbers = self._arrays[:3]
        indices, tokens = self._arrays[7:]
        addresses = np.zeros((int(indices.max(initial=0)) + 1, 20), np.uint8)
        addresses[indices] = tokens["address"]
        return make_table(lines, rows, numbers, addresses)

    def to_shared(self) -> "SharedSnapshot":
        """Put the copy into a shared_ndarray segment, to hand it to worker processes without copying.

        ImportError without the extra pool-state-arena[workers].
        """
        return SharedSnapshot.put(self)

    def __repr__(self) -> str:
        return f"FrozenSnapshot({self._name}, block {self.block_number}, {len(self)} pools)"

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = tuple(array.copy() for array in self._arrays)
        return (FrozenSnapshot, (self._name, self._record.tobytes(), arrays))


def freeze(
    name: str, mapped: MappedArena, numbers: npt.NDArray[np.uint32], tries: int
) -> FrozenSnapshot:
    """Copy n slots at one block. UnknownPool, or SnapshotContended when every try was overtaken."""
    count = len(numbers)
    lines = np.zeros(count, slots.LINE)
    starts = np.zeros(count + 1, np.uint64)
    failed = ffi.new("uint32_t *")
    capacity = 256
    for _ in range(tries):
        record = pin(mapped)
        ticks = np.empty(capacity, np.int32)
        net = np.empty((capacity, 2), "<u8")
        gross = np.empty((capacity, 2), "<u8")
        status = 0
        if count and record.stamp:
            status = lib.psa_snapshot_ticks(
                mapped.pointer,
                ffi.from_buffer("uint32_t *", numbers),
                count,
                record.stamp,
                ffi.from_buffer("psa_line *", lines),
                ffi.from_buffer("uint64_t *", starts),
                ffi.from_buffer("int32_t *", ticks),
                ffi.from_buffer("uint64_t *", net),
                ffi.from_buffer("uint64_t *", gross),
                capacity,
                failed,
            )
        if status == lib.PSA_BUFFER_TOO_SMALL:
            capacity = int(starts[count]) * 9 // 8 + 256  # the writer may add some meanwhile
            continue
        if status == lib.PSA_SNAPSHOT_TOO_OLD:
            continue
        if status:
            raise too_old(record.stamp, key_of(mapped, int(numbers[failed[0]])), status)
        there = is_visible(lines["status"])
        if not there.all():
            raise unknown(key_of(mapped, int(numbers[int(there.argmin())])), name)
        total = int(starts[count])
        rows = mapped.statics[numbers]
        indices = np.unique(np.concatenate((rows["token0"], rows["token1"])))
        arrays = (
            lines,
            rows,
            numbers,
            starts,
            ticks[:total].copy(),
            net[:total].copy(),
            gross[:total].copy(),
            indices,
            mapped.tokens[indices],
        )
        return FrozenSnapshot(name, bytes(ffi.buffer(record)), arrays)
    raise SnapshotContended(
        f"{count} pools of {name} could not be copied at one block in {tries} tries; ask for fewer",
        name=name,
        tries=tries,
    )


# Of FrozenSnapshot._arrays.
_DTYPES: tuple[Any, ...] = (
    *(slots.LINE, slots.STATIC, "<u4", "<u8", "<i4", "<u8", "<u8"),
    *("<u4", slots.TOKEN),
)


class SharedSnapshot:
    """A frozen snapshot in a segment of shared_ndarray; pickles as that segment's random name.

    `snapshot` reads from the segment and keeps it mapped. The object that to_shared returned removes the
    name when it is closed or collected: workers must have unpickled theirs by then.
    """

    def __init__(self, block: Any, lengths: tuple[int, ...], rest: tuple[Any, ...]) -> None:
        self._block = block  # shared_ndarray.SharedNDArray of bytes; unmaps when it goes
        self._lengths = lengths
        self._rest = rest
        self._creator = 0
        shared = block.array.view(
            OwnedArray
        )  # an array of the block alone would not keep it mapped
        shared.owner = block
        shared.flags.writeable = False
        arrays = []
        start = 0
        for length, dtype in zip(lengths, _DTYPES, strict=True):
            arrays.append(shared[start : start + length].view(dtype))
            start += _aligned(length)
        arrays[5] = arrays[5].reshape(-1, 2)
        arrays[6] = arrays[6].reshape(-1, 2)
        self.snapshot = FrozenSnapshot(*rest, tuple(arrays))

    @classmethod
    def put(cls, frozen: FrozenSnapshot) -> Self:
        """Copy a frozen snapshot into a new segment."""
        module = frame_module("shared_ndarray", "workers")
        lengths = tuple(array.nbytes for array in frozen._arrays)
        padded = [
            array.tobytes() + bytes(_aligned(array.nbytes) - array.nbytes)
            for array in frozen._arrays
        ]
        data = np.frombuffer(b"".join(padded) or bytes(64), np.uint8)
        block = module.SharedNDArray.copy(data)
        found = cls(block, lengths, (frozen._name, frozen._record.tobytes()))
        found._creator = os.getpid()
        return found

    def close(self) -> None:
        """Remove the segment's name, in the process that made it; what is mapped stays mapped."""
        if self._creator == os.getpid():
            self._creator = 0
            self._block.unlink()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (SharedSnapshot, (self._block, self._lengths, self._rest))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
