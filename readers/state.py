"""One pool as it was, as plain values: its key, its tokens and its state."""

from dataclasses import dataclass

from arena.errors import UnknownPool

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
    scrape they are (`base_block`, 0, 0). `protocol` is uniswap_v2, uniswap_v3, uniswap_v4 or solidly,
    `status` live, syncing, stale or removed. Fields the protocol does not have are None. V2 and Solidly
    have reserves (wei);
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
