"""What never changes about a pool: PoolSpec and TokenSpec, and their rows in the segment."""

from dataclasses import dataclass, replace
from typing import Any

from arena.errors import LayoutMismatch
from arena.layouts import slots
from arena.layouts.words import cut_utf8
from arena.native import ffi

_SYMBOL_NBYTES = 32


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A token: 20-byte address (zero = native coin), decimals (None = unknown), symbol.

    A symbol longer than 32 bytes of UTF-8 is cut between two characters.
    """

    address: bytes
    decimals: int | None
    symbol: str


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What never changes about a pool.

    `key` is the 20-byte address (V2, V3) or the 32-byte pool id (V4); `protocol` one of
    layouts.slots.UNISWAP_*; `fee_pips` 1e-6, for V4 as in the pool key (0x800000 = dynamic);
    `factory` is the PoolManager for V4.
    """

    key: bytes
    protocol: int
    token0: TokenSpec
    token1: TokenSpec
    fee_pips: int
    tick_spacing: int = 0
    factory: bytes = bytes(20)
    hooks: bytes = bytes(20)

    def is_same(self, other: "PoolSpec") -> bool:
        """Whether both describe one pool; decimals and symbols of its tokens count for nothing."""
        mine, theirs = (
            replace(
                spec,
                token0=TokenSpec(spec.token0.address, None, ""),
                token1=TokenSpec(spec.token1.address, None, ""),
            )
            for spec in (self, other)
        )
        return mine == theirs


def read_token(arena: Any, index: int) -> TokenSpec:
    """Row of the token table."""
    token = arena.tokens[index]
    known = token.flags & slots.TOKEN_DECIMALS_KNOWN
    symbol = bytes(ffi.buffer(token.symbol))[: token.symbol_nbytes]
    return TokenSpec(
        address=bytes(ffi.buffer(token.address)),
        decimals=token.decimals if known else None,
        symbol=symbol.decode("utf-8", "replace"),
    )


def read_spec(arena: Any, slot: int) -> PoolSpec:
    """Static row of a slot, tokens resolved. IndexError for a slot never used."""
    if not 0 <= slot < arena.header.slots_used:
        raise IndexError(f"slot {slot} is not in use; {arena.header.slots_used} are")
    row = arena.statics[slot]
    if max(row.token0, row.token1) >= arena.max_tokens:
        raise LayoutMismatch(f"slot {slot} names tokens {row.token0} and {row.token1}")
    return PoolSpec(
        key=bytes(ffi.buffer(row.key))[: row.key_nbytes],
        protocol=row.protocol,
        token0=read_token(arena, row.token0),
        token1=read_token(arena, row.token1),
        fee_pips=row.fee_pips,
        tick_spacing=row.tick_spacing,
        factory=bytes(ffi.buffer(row.factory)),
        hooks=bytes(ffi.buffer(row.hooks)),
    )


def pad_key(key: bytes) -> bytes:
    """A pool key as a row and the index hold it."""
    if len(key) not in (20, 32):
        raise ValueError(f"a pool key has 20 or 32 bytes, not {len(key)}")
    return key.ljust(32, b"\0")


def _address(value: bytes, field: str) -> bytes:
    if len(value) != 20:
        raise ValueError(f"{field} address has 20 bytes, not {len(value)}")
    return value


def token_row(spec: TokenSpec) -> Any:
    """New psa_token of a token. ValueError for an address of a wrong length."""
    token = ffi.new("psa_token *")
    ffi.memmove(token.address, _address(spec.address, "token"), 20)
    if spec.decimals is not None:
        token.decimals = spec.decimals
        token.flags = slots.TOKEN_DECIMALS_KNOWN
    symbol = cut_utf8(spec.symbol, _SYMBOL_NBYTES)
    token.symbol_nbytes = len(symbol)
    ffi.memmove(token.symbol, symbol, len(symbol))
    return token


def pool_row(spec: PoolSpec) -> Any:
    """New psa_static of a pool, without the indices of its tokens. ValueError for a key or an address
    of a wrong length."""
    row = ffi.new("psa_static *")
    ffi.memmove(row.key, pad_key(spec.key), 32)
    ffi.memmove(row.factory, _address(spec.factory, "factory"), 20)
    ffi.memmove(row.hooks, _address(spec.hooks, "hooks"), 20)
    row.key_nbytes = len(spec.key)
    row.protocol = spec.protocol
    row.fee_pips = spec.fee_pips
    row.tick_spacing = spec.tick_spacing
    if spec.protocol == slots.UNISWAP_V4:
        if int.from_bytes(spec.hooks, "big") & slots.HOOKS_SWAP_BITS:
            row.flags |= slots.POOL_HOOKED
        if spec.fee_pips == slots.DYNAMIC_FEE_PIPS:
            row.flags |= slots.POOL_DYNAMIC_FEE
    return row
