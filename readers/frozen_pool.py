"""A private copy of one pool, ticks included, that answers state and quotes for ever."""

from typing import Any

from arena.errors import PoolStale
from arena.native import ffi
from arena.readers.copy_quotes import CopyQuotes
from arena.readers.state import PoolState, Ticks, Token


class FrozenPool(CopyQuotes):
    """One pool as it was: state and quotes, no shared memory, valid for ever. Pickles."""

    __slots__ = ("_prepared", "_state")

    def __init__(self, copy: bytes) -> None:
        """Over a psa_copy_head and the arrays behind it. ValueError when the bytes are no such copy."""
        self._state = PoolState._over(copy)
        self._prepared: Any = None  # the psa_pool_copy over it, made by the first quote

    @property
    def _pool(self) -> Any:
        if self._prepared is None:
            self._prepared = _prepare(self._state._copy)
        return self._prepared

    @property
    def key(self) -> str:
        """0x-hex, lower case."""
        return self._state.pool_key

    @property
    def status(self) -> str:
        """live, syncing, stale or removed, at the time of the copy."""
        return self._state.status

    @property
    def protocol(self) -> str:
        """uniswap_v2, uniswap_v3, uniswap_v4 or solidly."""
        return self._state.protocol

    @property
    def token0(self) -> Token:
        """Token 0."""
        return self._state.token0

    @property
    def token1(self) -> Token:
        """Token 1."""
        return self._state.token1

    @property
    def is_read(self) -> bool:
        """False for a pool that was announced only: it has no values yet."""
        return self._state.reserve0 is not None or self._state.sqrt_price_x96 is not None

    def ticks(self) -> Ticks:
        """(tick, liquidity_gross, liquidity_net), ascending. PoolStale while there are no values."""
        if not self.is_read:
            raise PoolStale(
                f"pool {self.key} was announced and has not been read yet; wait until it is live",
                key=self.key,
            )
        return self._state.ticks or ()

    def state(self) -> PoolState:
        """Everything about the pool."""
        return self._state

    def __repr__(self) -> str:
        return f"FrozenPool({self.key}, {self.protocol}, {self.status})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenPool, (self._state._copy,))


def _prepare(copy: Any) -> Any:
    """New psa_pool_copy over a copy, which the caller keeps."""
    base = ffi.cast("uint8_t *", ffi.from_buffer(copy))
    head = ffi.cast("psa_copy_head *", base)
    net = base + ffi.sizeof("psa_copy_head")
    pool = ffi.new("psa_pool_copy *")
    pool.line = head.line
    pool.row = ffi.addressof(head, "row")
    pool.net = ffi.cast("uint64_t *", net)
    pool.ticks = ffi.cast("int32_t *", net + 32 * head.line.tick_count)
    return pool
