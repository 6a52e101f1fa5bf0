"""A private copy of one pool, ticks included, that answers state and quotes for ever."""

from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import PoolStale, SnapshotContended
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOLS
from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.native._handle import ints_from_words
from arena.readers.copy_quotes import CopyQuotes
from arena.readers.lookup import read_error, read_row, read_tokens
from arena.readers.state import PoolState, Ticks, Token, key_text
from arena.reads import READ_TRIES


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
        """uniswap_v2, uniswap_v3, uniswap_v4 or solidly."""
        return PROTOCOLS[int(self._row["protocol"][0])].name

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
                ints_from_words(self._gross),
                ints_from_words(self._net, signed=True),
                strict=True,
            )
        )

    def state(self) -> PoolState:
        """Everything about the pool."""
        line = self._pool.line
        row = self._pool.row
        protocol = PROTOCOLS[row.protocol]
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
            spacing = row.tick_spacing if protocol.has_ticks else None
            hooks = key_text(bytes(ffi.buffer(row.hooks))) if protocol.has_stored_fees else None
            return PoolState(**common, tick_spacing=spacing, hooks=hooks)
        a = line.a[0] | line.a[1] << 64
        b = line.b[0] | line.b[1] << 64
        if not protocol.has_ticks:
            return PoolState(**common, reserve0=a, reserve1=b)
        common |= {
            "sqrt_price_x96": a | line.sqrt_price_hi << 128,
            "tick": line.tick,
            "liquidity": b,
            "tick_spacing": row.tick_spacing,
            "ticks": self.ticks(),
        }
        if protocol.has_stored_fees:
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
    # As arena.reads.read_pool, which would cost a fifth more of a pool without ticks.
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
