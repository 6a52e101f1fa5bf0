"""One pool as it was, as plain values: its key, its tokens and its state."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.errors import PoolNotInitialized, PoolStale, UnknownPool
from arena.layouts import slots
from arena.layouts.protocols import PROTOCOLS
from arena.layouts.words import to_limbs
from arena.native import ffi
from arena.native._handle import StateFields, describe, key_bytes
from arena.readers.shown import html_table
from arena.readers.token import PoolPrice, Token, pool_price, token_of

__all__ = [
    "Key",
    "PoolState",
    "TickArrays",
    "Ticks",
    "Token",
    "key_bytes",
    "key_text",
    "token_of",
    "unknown",
]

Key = str | bytes
Ticks = tuple[tuple[int, int, int], ...]

_HEAD_NBYTES: int = ffi.sizeof("psa_copy_head")


@dataclass(frozen=True, slots=True, eq=False)
class TickArrays:
    """The ticks of one pool as read-only arrays, ascending: `tick` (n,) int32, `gross` (n, 2) and `net`
    (n, 2) as little-endian words of 64 bits, uint128 and int128."""

    tick: npt.NDArray[np.int32]
    gross: npt.NDArray[np.uint64]
    net: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class PoolState(StateFields):
    """Everything known about one pool, from one version.

    `block_number, tx_index, log_index` are the position of the last applied event; without one since the
    scrape they are (`base_block`, 0, 0). `protocol` is uniswap_v2, uniswap_v3, uniswap_v4 or solidly,
    `status` live, syncing, stale or removed. Fields the protocol does not have are None. V2 and Solidly
    have reserves (wei);
    V3 and V4 have sqrt_price_x96 (Q64.96), tick, liquidity, tick_spacing and ticks, ascending (tick,
    liquidity_gross, liquidity_net); V4 also protocol_fee (24 bits as stored), lp_fee (pips), the
    fee_block at which one was read or told last, and hooks. `fee_pips` of a V4 pool is the fee of its
    pool key, 0x800000 when it is dynamic; what swaps pay is lp_fee and protocol_fee. Of a pool that was
    announced and not read yet all values are None, its blocks 0 and its status syncing.

    A state read from an arena keeps its bytes, and makes a field when it is asked for.
    """

    __slots__ = ()

    # field(), so that no value on the class stands before the fields of StateFields.
    protocol: str = field()
    pool_key: str = field()
    block_number: int = field()
    tx_index: int = field()
    log_index: int = field()
    status: str = field()
    token0: Token = field()
    token1: Token = field()
    fee_pips: int = field()
    base_block: int = field()
    factory: str = field()
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

    @property
    def tick_arrays(self) -> TickArrays | None:
        """`ticks` as arrays, of which nothing is copied; None where `ticks` is."""
        copy = self._copy
        if copy is not None:
            return None if self.sqrt_price_x96 is None else _arrays_over(copy)
        return None if self.ticks is None else _arrays_of(self.ticks)

    @property
    def price(self) -> PoolPrice:
        """What the tokens are worth in each other, whole ones; see PoolPrice.

        Of a state of any status: one that is not live may be wrong. UnknownDecimals; PoolStale without
        values; PoolNotInitialized without a price.
        """
        if self.reserve0 is not None and self.reserve1 is not None:
            amount0, amount1 = self.reserve0, self.reserve1
        elif self.sqrt_price_x96 is not None:
            amount0, amount1 = 1 << 192, self.sqrt_price_x96**2
        else:
            raise PoolStale(
                f"pool {self.pool_key} was announced and has no values yet: wait until it is live",
                key=self.pool_key,
            )
        if not amount0 or not amount1:
            raise PoolNotInitialized(f"pool {self.pool_key} has no price", key=self.pool_key)
        return pool_price(self.token0, self.token1, amount0, amount1)

    def _texts(self) -> Iterator[tuple[str, str]]:
        """What it has of its fields, and of the ticks how many."""
        for each in fields(self):
            if each.name == "ticks":
                arrays = self.tick_arrays
                if arrays is not None:
                    yield each.name, f"<{len(arrays.tick)}>"
            elif (value := getattr(self, each.name)) is not None:
                yield each.name, repr(value)

    def __repr__(self) -> str:
        return f"PoolState({', '.join(f'{name}={text}' for name, text in self._texts())})"

    def _repr_html_(self) -> str:
        return html_table(f"PoolState {self.pool_key}", self._texts())

    def __reduce__(self) -> tuple[Any, ...]:
        return (PoolState, tuple(getattr(self, each.name) for each in fields(self)))


for _field in fields(PoolState):  # defaults belong to __init__; see above
    if _field.default is not MISSING:
        delattr(PoolState, _field.name)


def _arrays_over(copy: bytes) -> TickArrays:
    count = (len(copy) - _HEAD_NBYTES) // 36
    words = np.frombuffer(copy, "<u8", 4 * count, _HEAD_NBYTES).reshape(2, count, 2)
    tick = np.frombuffer(copy, "<i4", count, _HEAD_NBYTES + 32 * count)
    return TickArrays(tick, gross=words[1], net=words[0])


def _arrays_of(ticks: Ticks) -> TickArrays:
    gross, net = (
        np.array([to_limbs(each[place], 2) for each in ticks], "<u8").reshape(-1, 2)
        for place in (1, 2)
    )
    tick = np.array([each[0] for each in ticks], "<i4")
    for array in (tick, gross, net):
        array.flags.writeable = False
    return TickArrays(tick, gross, net)


def key_text(data: bytes) -> str:
    """0x and lower-case hex digits."""
    return "0x" + data.hex()


describe(
    {number: (row.name, row.has_ticks, row.has_stored_fees) for number, row in PROTOCOLS.items()},
    slots.STATUS_NAMES,
    token_of,
    PoolState,
)


def unknown(key: Key, name: str) -> UnknownPool:
    text = key if isinstance(key, str) else key_text(bytes(key))
    return UnknownPool(
        f"arena {name} has no pool {text}: it is not among the pools the writer was given, was left out "
        "as invalid (the writer's log says so), or the writer is not live yet",
        key=text,
        name=name,
    )
