"""Quotes on a private copy of one pool: one by one, many, and prepared as a ladder."""

from collections.abc import Sequence
from typing import Any, NoReturn, Unpack, overload

import numpy as np
import numpy.typing as npt

from arena.native import ffi, lib
from arena.readers.arguments import is_single
from arena.readers.batch import QuoteBatch, Same
from arena.readers.quote import (
    RESULT,
    Quote,
    QuoteOptions,
    amount_bytes,
    amounts_array,
    direction,
    make_quote,
    quote_error,
    resolve_options,
)
from arena.readers.token_quotes import TokenQuotes

_quote_copy = lib.psa_quote_copy
_FROM_PRICE: int = lib.PSA_FROM_PRICE


class CopyQuotes(TokenQuotes):
    """Quotes on a private copy of one pool; the half of a frozen pool that answers them.

    `_pool` is a psa_pool_copy; what it leads to lives as long as the object.
    """

    __slots__ = ()

    @property
    def _pool(self) -> Any:
        raise NotImplementedError

    @property
    def key(self) -> str:
        """0x-hex, lower case."""
        raise NotImplementedError

    def store_answer(self, result: Any, data: bytes, flags: int, limit: Any, lp_fee: int) -> int:
        """Quote into `result`; the status code."""
        return int(_quote_copy(self._pool, data, limit, flags, lp_fee, result))

    def answer(self, data: bytes, flags: int, limit: Any, lp_fee: int) -> Quote:
        """Quote 32-byte `data`; raises the quote's error."""
        result = ffi.new("psa_quote_result *")
        status = self.store_answer(result, data, flags, limit, lp_fee)
        if status:
            raise quote_error(status, self.key, int.from_bytes(data, "little"), flags)
        return make_quote(ffi.buffer(result))

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

    __slots__ = ("_depth", "_flags", "_lp_fee", "_rungs", "_source")

    def __init__(self, source: CopyQuotes, flags: int, lp_fee: int) -> None:
        self._source = source
        self._flags = flags
        self._lp_fee = lp_fee
        capacity = lib.psa_depth_capacity(source._pool, flags, lp_fee)
        self._rungs = ffi.new("psa_rung[]", capacity)
        self._depth = ffi.new("psa_depth *")
        status = lib.psa_depth_build(
            source._pool, flags | _FROM_PRICE, lp_fee, self._rungs, capacity, self._depth
        )
        if status:
            raise quote_error(status, source.key, 0, flags)

    def __len__(self) -> int:
        return int(self._depth.count)

    @overload
    def quote(self, amounts: int) -> Quote: ...
    @overload
    def quote(self, amounts: Sequence[int] | npt.NDArray[Any]) -> QuoteBatch: ...
    def quote(self, amounts: Any) -> Quote | QuoteBatch:
        """Quote of one amount, or a batch of many; exact input or output as the ladder was built."""
        if is_single(amounts):
            return self._ask(amounts_array([amounts]))[0]
        return self._ask(amounts_array(amounts))

    def _ask(self, words: npt.NDArray[np.uint64]) -> QuoteBatch:
        count = len(words)
        results = np.zeros(count, RESULT)
        every = np.full(count, self._flags, np.uint32)
        found = QuoteBatch(results, Same(self._source.key, count), words, every)
        if count == 0:
            return found
        status = lib.psa_depth_quote(
            self._source._pool,
            self._depth,
            ffi.from_buffer("uint64_t *", words),
            ffi.NULL,
            self._flags,
            self._lp_fee,
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
