"""A pool's values as Python holds them, and as they go into the segment and come out of it."""

import struct
from dataclasses import dataclass
from typing import Any

from arena.errors import ArenaError, InvalidEventData
from arena.layouts.protocols import PROTOCOLS
from arena.layouts.slots import NO_SLOT
from arena.native import EXCEPTIONS, ffi
from arena.native._handle import ints_from_words
from arena.reads import PoolWords


@dataclass(frozen=True, slots=True)
class PoolValues:
    """A pool's whole state at the end of `block_number`.

    `ticks` are (tick, liquidity_gross, liquidity_net), ascending. For V4 the stored fee is `lp_fee`, and
    `fee_block` is the block at which lp_fee and protocol_fee (24 bits as stored) were read.
    """

    block_number: int
    fee_pips: int
    reserve0: int = 0
    reserve1: int = 0
    sqrt_price_x96: int = 0
    tick: int = 0
    liquidity: int = 0
    ticks: tuple[tuple[int, int, int], ...] = ()
    protocol_fee: int = 0
    lp_fee: int = 0
    fee_block: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """One event that could not be applied; `slot` is None when its pool is not in the arena."""

    status: int
    error: type[Exception]
    slot: int | None
    key: bytes
    block_number: int
    tx_index: int
    log_index: int
    kind: int
    protocol: int
    made_stale: bool


def _limit(value: int, bits: int, field: str, *, signed: bool = False) -> int:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise InvalidEventData(
            f"{field} {value} does not fit {'int' if signed else 'uint'}{bits}",
            field=field,
            value=value,
        )
    return value


def pack_line(protocol: int, values: PoolValues, status: int, unsure: int) -> Any:
    """New psa_line of a pool, without its ticks. InvalidEventData for a value that does not fit."""
    line = ffi.new("psa_line *")
    row, fee = PROTOCOLS[protocol], values.fee_pips
    if not row.has_ticks:
        _limit(values.reserve0, 128, "reserve0")
        _limit(values.reserve1, 128, "reserve1")
        low, liquidity = values.reserve0, values.reserve1
    else:
        _limit(values.sqrt_price_x96, 160, "sqrt_price_x96")
        line.sqrt_price_hi = values.sqrt_price_x96 >> 128
        low = values.sqrt_price_x96 & ((1 << 128) - 1)
        liquidity = _limit(values.liquidity, 128, "liquidity")
        line.tick = _limit(values.tick, 24, "tick", signed=True)
    if row.has_stored_fees:
        fee = values.lp_fee
        line.protocol_fee = _limit(values.protocol_fee, 24, "protocol_fee")
        line.fee_block = values.fee_block
    ffi.memmove(line.a, low.to_bytes(16, "little"), 16)
    ffi.memmove(line.b, liquidity.to_bytes(16, "little"), 16)
    line.fee_status = _limit(fee, 24, "fee") | status << 24
    line.unsure = unsure
    line.base_block = _limit(values.block_number, 64, "block_number")
    return line


def pack_ticks(ticks: tuple[tuple[int, int, int], ...]) -> tuple[bytes, bytes, bytes]:
    """Ticks (int32), their gross (uint128) and their net liquidity (int128), as C takes them.

    InvalidEventData for a value that does not fit.
    """
    for tick, gross, net in ticks:
        _limit(tick, 24, "tick", signed=True)
        _limit(gross, 128, "liquidity_gross")
        _limit(net, 128, "liquidity_net", signed=True)
    return (
        struct.pack(f"<{len(ticks)}i", *(tick for tick, _, _ in ticks)),
        b"".join([gross.to_bytes(16, "little") for _, gross, _ in ticks]),
        b"".join([net.to_bytes(16, "little", signed=True) for *_, net in ticks]),
    )


def unpack(protocol: int, block_number: int, words: PoolWords) -> PoolValues:
    """Values of a pool's line and ticks."""
    line = ffi.from_buffer("psa_line *", words.line)
    fee = int(line.fee_status & 0xFFFFFF)
    low, high = line.a[0] | line.a[1] << 64, line.b[0] | line.b[1] << 64
    if not PROTOCOLS[protocol].has_ticks:
        return PoolValues(block_number, fee, reserve0=low, reserve1=high)
    columns = (
        words.ticks.tolist(),
        ints_from_words(words.gross),
        ints_from_words(words.net, signed=True),
    )
    return PoolValues(
        block_number,
        fee,
        sqrt_price_x96=low | line.sqrt_price_hi << 128,
        tick=int(line.tick),
        liquidity=high,
        ticks=tuple(zip(*columns, strict=True)),
        protocol_fee=int(line.protocol_fee),
        lp_fee=fee if PROTOCOLS[protocol].has_stored_fees else 0,
        fee_block=int(line.fee_block),
    )


def read_fault(fault: Any) -> Fault:
    """Fault of a psa_fault."""
    return Fault(
        status=fault.status,
        error=EXCEPTIONS.get(fault.status, ArenaError),
        slot=None if fault.slot == NO_SLOT else fault.slot,
        key=bytes(ffi.buffer(fault.key)),
        block_number=fault.block_number,
        tx_index=fault.tx_index,
        log_index=fault.log_index,
        kind=fault.kind,
        protocol=fault.protocol,
        made_stale=bool(fault.made_stale),
    )
