"""A private copy of one pool, ticks included, that answers state and quotes for ever."""

from typing import Any, Self

from arena.errors import AmountOutOfRange, PoolStale, SwapReverts
from arena.native import ffi, lib
from arena.readers.copy_quotes import CopyQuotes
from arena.readers.quote import Quote
from arena.readers.state import PoolState, Ticks, Token
from arena.readers.token_quotes import pool_label


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

    @property
    def swap_count(self) -> int:
        """How many swaps `after` added: 0 is the pool as it was."""
        return int(_copy_head(self._state._copy).line.reserved1)

    def after(self, quote: Quote) -> Self:
        """The pool as the swap of `quote` would leave it; this one stays as it is.

        `quote` is of this very state: asked of it, of a ladder of it, or, before any swap was added, of the
        pool itself at the same version. One that did not use its whole amount (`is_complete`) leaves the
        pool where it stopped. Block, position, status and fees stay those of this copy; what the hooks of a
        V4 pool do after a swap is not known here.

        ValueError for a quote of another pool, version or state. SwapReverts where a pair's contract
        refuses the swap: nothing comes out, or a reserve of V2 would exceed 112 bits. AmountOutOfRange
        for a reserve of a Solidly pair above 128.
        """
        if not isinstance(quote, Quote):
            raise TypeError(f"after takes a Quote, not {type(quote).__name__}")
        copy = bytearray(self._state._copy or b"")
        head = ffi.from_buffer("psa_copy_head *", copy)
        result = ffi.from_buffer("psa_quote_result *", quote._raw)
        status = lib.psa_copy_after(head, _arrays(head)[1], result)
        if status == lib.PSA_BAD_ARGUMENT:
            raise ValueError(
                f"{quote!r} is not of this state of pool {self.key}: {_why(head, result)}"
            )
        if status:
            reason, error = _REFUSED[status]
            raise error(
                f"{quote.amount_in} into pool {self.key} for {quote.amount_out}: {reason}",
                key=self.key,
                amount=quote.amount_in,
                status=status,
            )
        return type(self)(bytes(copy))

    def __repr__(self) -> str:
        count = self.swap_count
        after = f", after {count} swap{'s'[: count > 1]}" if count else ""
        return f"FrozenPool({pool_label(self._state)}{after})"

    def _head(self) -> PoolState:
        return self._state

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenPool, (self._state._copy,))


_REFUSED: dict[int, tuple[str, type[AmountOutOfRange | SwapReverts]]] = {
    lib.PSA_SWAP_REVERTS: (
        "the pair refuses a swap that pays nothing, takes all of a reserve, or lets one exceed 112 bits",
        SwapReverts,
    ),
    lib.PSA_AMOUNT_OUT_OF_RANGE: ("a reserve would exceed 128 bits", AmountOutOfRange),
}


def _why(head: Any, result: Any) -> str:
    """What tells a quote from those of a state."""
    if result.slot != head.line.slab:
        return "it is of another pool"
    if result.protocol != head.row.protocol:
        return "it is of another protocol"
    if result.commit != head.line.stamp:
        return f"it is of commit {result.commit}, the state of commit {head.line.stamp}"
    return "it was made before or after another swap"


def _copy_head(copy: Any) -> Any:
    """psa_copy_head of a copy, which the caller keeps."""
    return ffi.cast("psa_copy_head *", ffi.from_buffer(copy))


def _arrays(head: Any) -> tuple[Any, Any]:
    """Net liquidity and ticks behind the head of a copy."""
    net = ffi.cast("uint8_t *", head) + ffi.sizeof("psa_copy_head")
    return ffi.cast("uint64_t *", net), ffi.cast("int32_t *", net + 32 * head.line.tick_count)


def _prepare(copy: Any) -> Any:
    """New psa_pool_copy over a copy, which the caller keeps."""
    head = _copy_head(copy)
    pool = ffi.new("psa_pool_copy *")
    pool.line = head.line
    pool.row = ffi.addressof(head, "row")
    pool.net, pool.ticks = _arrays(head)
    return pool
