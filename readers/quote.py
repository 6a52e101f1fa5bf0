"""Exact-in and exact-out quotes: on shared memory, on copies, in batches and on ladders.

A quote is one call into C. Pool handles keep the arguments that never change, results come from a free
list, and a Quote decodes its fields when they are read, so that asking costs little more than the call.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt

from arena.errors import AmountOutOfRange, ArenaError
from arena.layouts.slots import record
from arena.layouts.words import ints_from_limbs
from arena.native import EXCEPTIONS, ffi, lib, lib_name

if TYPE_CHECKING:
    from arena.readers.state import FrozenPool

# psa_quote_result in arena.h.
RESULT = record(
    144,
    [
        ("amount_in", ("<u8", 4), 0),  # wei, uint256
        ("amount_out", ("<u8", 4), 32),  # wei, uint256
        ("sqrt_price_x96_after", ("<u8", 4), 64),  # Q64.96; V2: 0
        ("liquidity_after", ("<u8", 2), 96),  # uint128; V2: 0
        ("tick_after", "<i4", 112),  # V2: 0
        ("ticks_crossed", "<u4", 116),  # initialised ticks
        ("is_complete", "<u4", 120),  # 0: the limit or the end of liquidity stopped the swap
        ("status", "<u4", 124),  # PSA_*; 0 = answered
        ("commit", "<u8", 128),  # version the answer was computed from
        ("block_number", "<u8", 136),  # block of the pool's last applied event
    ],
)

_ZERO_FOR_ONE: int = lib.PSA_ZERO_FOR_ONE
_EXACT_OUT: int = lib.PSA_EXACT_OUT
_ALLOW_STALE: int = lib.PSA_ALLOW_STALE
_ALLOW_DYNAMIC: int = lib.PSA_ALLOW_DYNAMIC
_FEE_GIVEN: int = lib.PSA_FEE_GIVEN
_ALLOW_HOOKS: int = lib.PSA_ALLOW_HOOKS
_CONTENDED: int = lib.PSA_CONTENDED

_CLOSED: int = lib.PSA_CLOSED
_WORD = (1 << 64) - 1

_from_bytes = int.from_bytes
_quote_prepared = lib.psa_quote_prepared
_quote_word = lib.psa_quote_word
_quote_shared = lib.psa_quote
_quote_copy = lib.psa_quote_copy

# Results not in use, each with a buffer over it. list.pop and list.append are atomic, so threads and
# signal handlers share it; it grows to the number of quotes asked at the same time.
_free: list[tuple[Any, Any]] = []
_pop = _free.pop
_push = _free.append


def _make_result() -> tuple[Any, Any]:
    result = ffi.new("psa_quote_result *")
    return result, ffi.buffer(result)


class Quote:
    """What one swap would do.

    Amounts are wei of the tokens going in and out, fees included in `amount_in`. `is_complete` is False
    when the price limit or the end of liquidity stopped the swap before the whole amount was used. Two
    quotes are equal when they say the same, whatever commit they were computed from.
    """

    __slots__ = ("_raw",)
    _raw: bytes  # psa_quote_result; set by whoever makes a Quote, an __init__ would cost 50 ns

    @property
    def amount_in(self) -> int:
        """Wei paid to the pool, fee included."""
        return _from_bytes(self._raw[:32], "little")

    @property
    def amount_out(self) -> int:
        """Wei paid by the pool."""
        return _from_bytes(self._raw[32:64], "little")

    @property
    def sqrt_price_x96_after(self) -> int:
        """Square root of token1/token0 after the swap, Q64.96; 0 for V2."""
        return _from_bytes(self._raw[64:96], "little")

    @property
    def liquidity_after(self) -> int:
        """Liquidity in range after the swap; 0 for V2."""
        return _from_bytes(self._raw[96:112], "little")

    @property
    def tick_after(self) -> int:
        """slot0 tick after the swap; 0 for V2."""
        return _from_bytes(self._raw[112:116], "little", signed=True)

    @property
    def ticks_crossed(self) -> int:
        """Initialised ticks crossed."""
        return _from_bytes(self._raw[116:120], "little")

    @property
    def is_complete(self) -> bool:
        """Whether the whole amount was swapped."""
        return self._raw[120] != 0

    @property
    def commit(self) -> int:
        """Commit that wrote the version the answer was computed from."""
        return _from_bytes(self._raw[128:136], "little")

    @property
    def block_number(self) -> int:
        """Block of the pool's last applied event (its scrape block when there is none)."""
        return _from_bytes(self._raw[136:144], "little")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quote):
            return NotImplemented
        return self._raw[:128] == other._raw[:128]

    def __hash__(self) -> int:
        return hash(self._raw[:128])

    def __repr__(self) -> str:
        return (
            f"Quote(amount_in={self.amount_in}, amount_out={self.amount_out}, "
            f"sqrt_price_x96_after={self.sqrt_price_x96_after}, tick_after={self.tick_after}, "
            f"liquidity_after={self.liquidity_after}, ticks_crossed={self.ticks_crossed}, "
            f"is_complete={self.is_complete}, block_number={self.block_number})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (make_quote, (self._raw,))


def make_quote(raw: bytes) -> Quote:
    """Quote over the bytes of a psa_quote_result."""
    quote = Quote()
    quote._raw = raw
    return quote


def quote_error(status: int, key: str, amount: int | None, flags: int) -> Exception:
    """The exception of a quote that has no answer."""
    cls = EXCEPTIONS.get(status, ArenaError)
    way = "token0 to token1" if flags & _ZERO_FOR_ONE else "token1 to token0"
    side = "out of" if flags & _EXACT_OUT else "into"
    what = "the batch's arguments" if amount is None else f"{amount} {side} pool {key}, {way}"
    if status == lib.PSA_BAD_ARGUMENT:
        return cls(
            f"{what}: an option does not fit the pool: V2 takes no price limit, "
            "and only V4 pools with a dynamic fee or hooks take lp_fee"
        )
    text = f"{what}: {lib_name(status)}"
    remedy = {
        lib.PSA_POOL_STALE: "wait until it is live, or pass allow_stale=True",
        lib.PSA_DYNAMIC_FEE: "pass lp_fee, or allow_dynamic_fee=True",
        lib.PSA_HOOKED_POOL: "if its hooks only set the fee, pass that as lp_fee with allow_hooks=True",
        lib.PSA_PRICE_LIMIT: "the limit lies below the pool's price for token0 to token1, above it otherwise",
        lib.PSA_INSUFFICIENT_LIQUIDITY: "ask for less",
        lib.PSA_SNAPSHOT_TOO_OLD: "take a new snapshot, or snapshot(keys) to keep a copy",
        lib.PSA_POOL_REMOVED: "look it up again",
    }.get(status)
    if status == lib.PSA_POOL_STALE and flags & _ALLOW_STALE:
        remedy = "it was announced and has no values yet: wait until it is live"
    if remedy is not None:
        text = f"{text} {remedy}"
    if issubclass(cls, ArenaError):
        return cls(text, key=key, amount=amount, status=status)
    return cls(text)


def amount_bytes(amount: Any) -> bytes:
    """32 little-endian bytes. AmountOutOfRange outside uint256, TypeError when it is no integer."""
    number = operator.index(amount)
    try:
        return number.to_bytes(32, "little")
    except OverflowError:
        raise AmountOutOfRange(f"amount {number} is no uint256", amount=number) from None


def amounts_array(amounts: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """(n, 4) words of n amounts: ints, an unsigned integer array (n,), or words (n, 4) as they are."""
    if isinstance(amounts, np.ndarray) and amounts.dtype.kind == "u":
        if amounts.ndim == 2 and amounts.shape[1] == 4:
            return np.ascontiguousarray(amounts, dtype="<u8")
        if amounts.ndim == 1:
            words = np.zeros((len(amounts), 4), "<u8")
            words[:, 0] = amounts
            return words
        raise ValueError(f"amounts have shape {amounts.shape}, not (n,) or (n, 4)")
    try:
        data = b"".join([amount.to_bytes(32, "little") for amount in amounts])
    except (AttributeError, OverflowError, TypeError):
        data = b"".join([amount_bytes(amount) for amount in amounts])
    return np.frombuffer(data, "<u8").reshape(-1, 4)


def limit_bytes(limit: int | None) -> Any:
    """A price limit for C: 32 bytes, or null."""
    if limit is None:
        return ffi.NULL
    try:
        return operator.index(limit).to_bytes(32, "little")
    except OverflowError:
        raise ValueError(f"price limit {limit} is no Q64.96 number") from None


# A look-up, so that only what equals True or False names a direction: the string "false" must not.
_EXACT_IN_FLAGS = {True: _ZERO_FOR_ONE, False: 0}
_EXACT_OUT_FLAGS = {True: _ZERO_FOR_ONE | _EXACT_OUT, False: _EXACT_OUT}


def direction(zero_for_one: bool, exact_out: bool) -> int:
    """Flags of a direction and of the side that is given. TypeError when it is no boolean."""
    try:
        return (_EXACT_OUT_FLAGS if exact_out else _EXACT_IN_FLAGS)[zero_for_one]
    except (KeyError, TypeError):
        raise TypeError(f"zero_for_one is True or False, not {zero_for_one!r}") from None


class QuoteOptions(TypedDict, total=False):
    """Options of a quote.

    `sqrt_price_limit_x96` (Q64.96) ends the swap when the price reaches it; V2 takes none. `allow_stale`
    answers from a pool that is not live. A V4 pool with a dynamic fee needs `lp_fee` (pips), or
    `allow_dynamic_fee` to use the stored one. `allow_hooks`, with `lp_fee`, answers with the curve for
    a V4 pool whose hooks take part in swaps: the caller knows that they only set that fee.
    """

    sqrt_price_limit_x96: int | None
    allow_stale: bool
    allow_dynamic_fee: bool
    lp_fee: int | None
    allow_hooks: bool


def resolve_options(
    flags: int,
    *,
    sqrt_price_limit_x96: int | None = None,
    allow_stale: bool = False,
    allow_dynamic_fee: bool = False,
    lp_fee: int | None = None,
    allow_hooks: bool = False,
) -> tuple[int, Any, int]:
    """Flags, price limit and LP fee for C. ValueError for an lp_fee above 1,000,000 pips, and for
    allow_hooks without one."""
    if allow_stale:
        flags |= _ALLOW_STALE
    if allow_dynamic_fee:
        flags |= _ALLOW_DYNAMIC
    if allow_hooks:
        if lp_fee is None:
            raise ValueError("allow_hooks needs lp_fee: the fee that the pool's hooks set")
        flags |= _ALLOW_HOOKS
    if lp_fee is None:
        return flags, limit_bytes(sqrt_price_limit_x96), 0
    if not 0 <= lp_fee <= 1_000_000:
        raise ValueError(f"lp_fee {lp_fee} is not between 0 and 1000000 pips")
    return flags | _FEE_GIVEN, limit_bytes(sqrt_price_limit_x96), lp_fee


class QuoteBatch(Sequence[Quote]):
    """Answers of one batch, in the order asked.

    `results` is the (n,) structured array behind it (dtype RESULT), `statuses` its status codes. An item
    that has no answer raises its own error when it is taken; amount lists hold 0 for it.
    """

    __slots__ = ("_amounts", "_flags", "_keys", "results")

    def __init__(
        self,
        results: npt.NDArray[np.void],
        keys: Sequence[str],
        amounts: npt.NDArray[np.uint64],
        flags: npt.NDArray[np.uint32],
    ) -> None:
        self.results = results
        self._keys = keys
        self._amounts = amounts
        self._flags = flags

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Quote: ...
    @overload
    def __getitem__(self, index: slice) -> "QuoteBatch": ...
    def __getitem__(self, index: int | slice) -> "Quote | QuoteBatch":
        if isinstance(index, slice):
            return QuoteBatch(
                self.results[index], self._keys[index], self._amounts[index], self._flags[index]
            )
        index = range(len(self))[index]
        error = self.error(index)
        if error is not None:
            raise error
        return make_quote(self.results[index].tobytes())

    def __iter__(self) -> Iterator[Quote]:
        return (self[index] for index in range(len(self)))

    def error(self, index: int) -> Exception | None:
        """Why item `index` has no answer; None when it has one."""
        status = int(self.results["status"][index])
        if status == 0:
            return None
        amount = ints_from_limbs(self._amounts[index : index + 1])[0]
        return quote_error(status, self._keys[index], amount, int(self._flags[index]))

    @property
    def statuses(self) -> npt.NDArray[np.uint32]:
        """(n,) PSA status codes, 0 = answered."""
        found: npt.NDArray[np.uint32] = self.results["status"]
        return found

    @property
    def amounts_in(self) -> list[int]:
        """Wei paid to the pools."""
        return ints_from_limbs(self.results["amount_in"])

    @property
    def amounts_out(self) -> list[int]:
        """Wei paid by the pools."""
        return ints_from_limbs(self.results["amount_out"])

    @property
    def sqrt_prices_x96_after(self) -> list[int]:
        """Q64.96; 0 for V2."""
        return ints_from_limbs(self.results["sqrt_price_x96_after"])

    @property
    def liquidities_after(self) -> list[int]:
        """Liquidity in range afterwards; 0 for V2."""
        return ints_from_limbs(self.results["liquidity_after"])

    def __repr__(self) -> str:
        failed = int(np.count_nonzero(self.results["status"]))
        return f"QuoteBatch({len(self)} quotes, {failed} without an answer)"


class Same(Sequence[str]):
    """One key, `count` times."""

    __slots__ = ("_count", "_key")

    def __init__(self, key: str, count: int) -> None:
        self._key = key
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Same(self._key, len(range(self._count)[index]))
        return self._key


class SharedQuotes:
    """Quotes on shared memory; the half of a pool handle that answers them.

    `_call` is the handle's psa_quote_call; C refuses it once the handle is closed or has to move on.
    """

    __slots__ = ("_call", "key")
    _call: Any
    key: str

    def _refresh(self) -> None:
        """Follow a re-created arena. ArenaClosed, ArenaReplaced, or UnknownPool."""
        raise NotImplementedError

    def _copy(self) -> "FrozenPool":
        raise NotImplementedError

    def quote_exact_in(
        self, amount_in: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        """What `amount_in` wei, fee included, would buy; options as in QuoteOptions.

        Raises the error the contract would revert with, PoolStale unless the pool is live or
        `allow_stale`, and DynamicFee. Without a price limit the swap runs to the end of the price range.
        """
        try:
            flags = _EXACT_IN_FLAGS[zero_for_one]
        except (KeyError, TypeError):
            flags = direction(zero_for_one, False)
        if options:
            return self._with_options(amount_in, flags, options)
        try:
            item = _pop()
            if type(amount_in) is int and amount_in <= _WORD:
                status = _quote_word(self._call, amount_in, flags, item[0])
            else:
                data = amount_in.to_bytes(32, "little")
                status = _quote_prepared(self._call, data, flags, item[0])
        except (AttributeError, IndexError, OverflowError):
            item = _make_result()
            status = _quote_prepared(self._call, amount_bytes(amount_in), flags, item[0])
        if status:
            _push(item)
            return self._without_answer(status, amount_bytes(amount_in), flags, ffi.NULL, 0)
        quote = Quote()
        quote._raw = item[1][:]
        _push(item)
        return quote

    def quote_exact_out(
        self, amount_out: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        """What it would cost to get `amount_out` wei; otherwise as quote_exact_in."""
        # The same body again: a call in between would cost a tenth of the quote.
        try:
            flags = _EXACT_OUT_FLAGS[zero_for_one]
        except (KeyError, TypeError):
            flags = direction(zero_for_one, True)
        if options:
            return self._with_options(amount_out, flags, options)
        try:
            item = _pop()
            if type(amount_out) is int and amount_out <= _WORD:
                status = _quote_word(self._call, amount_out, flags, item[0])
            else:
                data = amount_out.to_bytes(32, "little")
                status = _quote_prepared(self._call, data, flags, item[0])
        except (AttributeError, IndexError, OverflowError):
            item = _make_result()
            status = _quote_prepared(self._call, amount_bytes(amount_out), flags, item[0])
        if status:
            _push(item)
            return self._without_answer(status, amount_bytes(amount_out), flags, ffi.NULL, 0)
        quote = Quote()
        quote._raw = item[1][:]
        _push(item)
        return quote

    def _with_options(self, amount: int, flags: int, options: QuoteOptions) -> Quote:
        flags, limit, lp_fee = resolve_options(flags, **options)
        self._refresh()
        return self._ask(amount_bytes(amount), flags, limit, lp_fee)

    def _ask(self, data: bytes, flags: int, limit: Any, lp_fee: int) -> Quote:
        """Quote without looking whether the handle may be used."""
        result, buffer = _make_result()
        call = self._call
        status = _quote_shared(
            call.arena,
            call.slot,
            call.generation,
            call.commit,
            data,
            limit,
            flags,
            lp_fee,
            result,
        )
        if status:
            return self._without_answer(status, data, flags, limit, lp_fee)
        return make_quote(buffer[:])

    def _without_answer(
        self, status: int, data: bytes, flags: int, limit: Any, lp_fee: int
    ) -> Quote:
        """Move on, quote a copy when the writer was too fast, or raise the error."""
        if status == _CLOSED:
            self._refresh()
            return self._ask(data, flags, limit, lp_fee)
        if status == _CONTENDED:
            return self._copy().answer(data, flags, limit, lp_fee)
        raise quote_error(status, self.key, int.from_bytes(data, "little"), flags)

    def quote_many(
        self,
        amounts: Sequence[int] | npt.NDArray[Any],
        *,
        zero_for_one: bool,
        exact_out: bool = False,
        allow_stale: bool = False,
        allow_dynamic_fee: bool = False,
        lp_fee: int | None = None,
        allow_hooks: bool = False,
    ) -> QuoteBatch:
        """Quotes of many amounts in one call; each item has its own answer or error.

        `amounts` are ints, or words (n, 4) of an array. With an `lp_fee` they are asked of a copy of the
        pool. For hundreds of amounts that cross many ticks a ladder is faster.
        """
        self._refresh()
        if lp_fee is not None or allow_hooks:
            return self._copy().quote_many(
                amounts,
                zero_for_one=zero_for_one,
                exact_out=exact_out,
                allow_stale=allow_stale,
                allow_dynamic_fee=allow_dynamic_fee,
                lp_fee=lp_fee,
                allow_hooks=allow_hooks,
            )
        call = self._call
        words = amounts_array(amounts)
        flags, _, _ = resolve_options(
            direction(zero_for_one, exact_out),
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )
        return batch(
            call,
            np.array([call.slot], np.uint32),
            np.array([call.generation], np.uint32),
            words,
            np.full(len(words), flags, np.uint32),
            Same(self.key, len(words)),
            lambda index: self._copy(),
        )

    def ladder(
        self, *, zero_for_one: bool, exact_out: bool = False, **options: Unpack[QuoteOptions]
    ) -> "Ladder":
        """Copy the pool and prepare it for many quotes in one direction, without a price limit."""
        self._refresh()
        return self._copy().ladder(zero_for_one=zero_for_one, exact_out=exact_out, **options)


def batch(
    call: Any,
    slots: npt.NDArray[np.uint32],
    generations: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint64],
    flags: npt.NDArray[np.uint32],
    keys: Sequence[str],
    copy: Any,
) -> QuoteBatch:
    """One call into C for a batch; `copy(index)` gives a private copy of an item's pool.

    `slots` has one item for all, or one for each of `words`.
    """
    count = len(words)
    results = np.zeros(count, RESULT)
    if count == 0:
        return QuoteBatch(results, keys, words, flags)
    status = lib.psa_quote_batch(
        call.arena,
        ffi.from_buffer("uint32_t *", slots),
        ffi.from_buffer("uint32_t *", generations),
        call.commit,
        ffi.from_buffer("uint64_t *", words),
        ffi.from_buffer("uint32_t *", flags),
        lib.PSA_ONE_POOL if len(slots) == 1 else 0,
        count,
        ffi.from_buffer("psa_quote_result *", results),
    )
    if status:
        raise quote_error(status, "", None, 0)
    for index in np.flatnonzero(results["status"] == _CONTENDED):
        item = _make_result()
        data = words[index].tobytes()
        copy(index).store_answer(item[0], data, int(flags[index]), ffi.NULL, 0)
        results[index] = np.frombuffer(item[1][:], RESULT)[0]
    return QuoteBatch(results, keys, words, flags)


class CopyQuotes:
    """Quotes on a private copy of one pool; the half of a frozen pool that answers them.

    `_pool` is a psa_pool_copy that keeps its arrays alive.
    """

    __slots__ = ("_pool", "key")
    _pool: Any
    key: str

    def store_answer(self, result: Any, data: bytes, flags: int, limit: Any, lp_fee: int) -> int:
        """Quote into `result`; the status code."""
        return int(_quote_copy(self._pool, data, limit, flags, lp_fee, result))

    def answer(self, data: bytes, flags: int, limit: Any, lp_fee: int) -> Quote:
        """Quote 32-byte `data`; raises the quote's error."""
        result, buffer = _make_result()
        status = self.store_answer(result, data, flags, limit, lp_fee)
        if status:
            raise quote_error(status, self.key, int.from_bytes(data, "little"), flags)
        return make_quote(buffer[:])

    def quote_exact_in(
        self, amount_in: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        """What `amount_in` wei would buy; errors and options as on a shared pool."""
        flags, limit, lp_fee = resolve_options(direction(zero_for_one, False), **options)
        return self.answer(amount_bytes(amount_in), flags, limit, lp_fee)

    def quote_exact_out(
        self, amount_out: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        """What it would cost to get `amount_out` wei; errors and options as on a shared pool."""
        flags, limit, lp_fee = resolve_options(direction(zero_for_one, True), **options)
        return self.answer(amount_bytes(amount_out), flags, limit, lp_fee)

    def quote_many(
        self,
        amounts: Sequence[int] | npt.NDArray[Any],
        *,
        zero_for_one: bool,
        exact_out: bool = False,
        **options: Unpack[QuoteOptions],
    ) -> QuoteBatch:
        """Quotes of many amounts; each item has its own answer or error."""
        flags, limit, lp_fee = resolve_options(direction(zero_for_one, exact_out), **options)
        words = amounts_array(amounts)
        results = np.zeros(len(words), RESULT)
        every = np.full(len(words), flags, np.uint32)
        if len(words):
            pointer = ffi.from_buffer("psa_quote_result *", results)
            data = words.tobytes()
            for index in range(len(words)):
                amount = data[32 * index : 32 * index + 32]
                self.store_answer(pointer + index, amount, flags, limit, lp_fee)
        return QuoteBatch(results, Same(self.key, len(words)), words, every)

    def ladder(
        self, *, zero_for_one: bool, exact_out: bool = False, **options: Unpack[QuoteOptions]
    ) -> "Ladder":
        """Prepare this copy for many quotes in one direction, without a price limit."""
        flags, limit, lp_fee = resolve_options(direction(zero_for_one, exact_out), **options)
        if limit != ffi.NULL:
            raise ValueError("a ladder takes no price limit")
        return Ladder(self, flags, lp_fee)


class Ladder:
    """One pool state and direction, prepared: cumulative amounts at every step boundary.

    A quote is then a binary search and one partial step, bit for bit what the pool answers. The state is
    a copy: it does not follow the pool. len() is the number of rungs.
    """

    __slots__ = ("_count", "_flags", "_lp_fee", "_rungs", "_source")

    def __init__(self, source: CopyQuotes, flags: int, lp_fee: int) -> None:
        self._source = source
        self._flags = flags
        self._lp_fee = lp_fee
        count = ffi.new("uint32_t *")
        capacity = source._pool.line.tick_count + 256
        while True:
            self._rungs = ffi.new("psa_rung[]", capacity)
            status = lib.psa_ladder_build(source._pool, flags, lp_fee, self._rungs, capacity, count)
            if status != lib.PSA_BUFFER_TOO_SMALL:
                break
            capacity = max(count[0], 2 * capacity)
        if status:
            raise quote_error(status, source.key, 0, flags)
        self._count = int(count[0])

    def __len__(self) -> int:
        return self._count

    @overload
    def quote(self, amounts: int) -> Quote: ...
    @overload
    def quote(self, amounts: Sequence[int] | npt.NDArray[Any]) -> QuoteBatch: ...
    def quote(self, amounts: int | Sequence[int] | npt.NDArray[Any]) -> Quote | QuoteBatch:
        """Quote of one amount, or a batch of many; exact input or output as the ladder was built."""
        if isinstance(amounts, int | np.integer):
            return self._ask(amounts_array([amounts]))[0]
        return self._ask(amounts_array(amounts))

    def _ask(self, words: npt.NDArray[np.uint64]) -> QuoteBatch:
        count = len(words)
        results = np.zeros(count, RESULT)
        every = np.full(count, self._flags, np.uint32)
        found = QuoteBatch(results, Same(self._source.key, count), words, every)
        if count == 0:
            return found
        status = lib.psa_ladder_quote(
            self._source._pool,
            self._flags,
            self._lp_fee,
            self._rungs,
            self._count,
            ffi.from_buffer("uint64_t *", words),
            count,
            ffi.from_buffer("psa_quote_result *", results),
        )
        if status:
            self._refused(status)
        return found

    def _refused(self, status: int) -> NoReturn:
        raise quote_error(status, self._source.key, None, self._flags)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ladder, (self._source, self._flags, self._lp_fee))
