"""Quotes on shared memory: the ways on when the C handle does not answer by itself, and batches."""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from arena.native import ffi, lib
from arena.native._handle import PoolHandle
from arena.readers.arguments import flag
from arena.readers.batch import QuoteBatch, Same, answered
from arena.readers.copy_quotes import CopyQuotes, Ladder
from arena.readers.quote import (
    RESULT,
    Quote,
    QuoteOptions,
    amount_bytes,
    amounts_array,
    direction,
    quote_error,
    resolve_options,
)
from arena.readers.token_quotes import TokenQuotes

_CONTENDED: int = lib.PSA_CONTENDED
_CLOSED: int = lib.PSA_CLOSED
_ZERO_FOR_ONE: int = lib.PSA_ZERO_FOR_ONE


class SharedQuotes(PoolHandle, TokenQuotes):
    """Quotes on shared memory; the half of a pool handle that answers them.

    `quote_exact_in` and `quote_exact_out` are PoolHandle's, in C. A call that is not plain (options, an
    amount or direction of another type) comes to `_exact_in` or `_exact_out`, one that C did not answer
    to `_without_answer`.
    """

    __slots__ = ()

    def _refresh(self) -> None:
        """Follow a re-created arena. ArenaClosed, ArenaReplaced, or UnknownPool."""
        raise NotImplementedError

    def _copy(self) -> CopyQuotes:
        raise NotImplementedError

    def _exact_in(
        self, amount_in: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        return self._any(amount_in, direction(zero_for_one, False), options)

    def _exact_out(
        self, amount_out: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        return self._any(amount_out, direction(zero_for_one, True), options)

    def _any(self, amount: int, flags: int, options: QuoteOptions) -> Quote:
        if options:
            flags, limit, lp_fee = resolve_options(flags, **options)
            self._refresh()
            return self._ask(amount_bytes(amount), flags, limit, lp_fee)
        number = int.from_bytes(amount_bytes(amount), "little")
        way = PoolHandle.quote_exact_out if flags & lib.PSA_EXACT_OUT else PoolHandle.quote_exact_in
        return way(self, number, zero_for_one=flags & _ZERO_FOR_ONE != 0)

    def _ask(self, data: bytes, flags: int, limit: Any, lp_fee: int) -> Quote:
        """Quote without looking whether the handle may be used."""
        found = self._quote_given(data, limit if isinstance(limit, bytes) else None, flags, lp_fee)
        if isinstance(found, int):
            return self._move_on(found, data, flags, limit, lp_fee)
        return found

    def _without_answer(self, status: int, amount: int, flags: int) -> Quote:
        """The answer or error of a plain call that C left with `status`."""
        return self._move_on(status, amount.to_bytes(32, "little"), flags, ffi.NULL, 0)

    def _move_on(self, status: int, data: bytes, flags: int, limit: Any, lp_fee: int) -> Quote:
        """Follow the arena, quote a copy when the writer was too fast, or raise the error."""
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
        pool."""
        self._refresh()
        if lp_fee is not None or flag("allow_hooks", allow_hooks):
            return self._copy().quote_many(
                amounts,
                zero_for_one=zero_for_one,
                exact_out=exact_out,
                allow_stale=allow_stale,
                allow_dynamic_fee=allow_dynamic_fee,
                lp_fee=lp_fee,
                allow_hooks=allow_hooks,
            )
        words = amounts_array(amounts)
        flags, _, _ = resolve_options(
            direction(zero_for_one, exact_out),
            allow_stale=allow_stale,
            allow_dynamic_fee=allow_dynamic_fee,
        )
        results = np.empty(len(words), RESULT)  # C writes every byte of it
        if len(words):
            self._quote_words(words, flags, results)
        return answered(
            results,
            words,
            flags,
            Same(self.key, len(words)),
            lambda index: self._copy(),
        )

    def ladder(
        self, *, zero_for_one: bool, exact_out: bool = False, **options: Unpack[QuoteOptions]
    ) -> Ladder:
        """Copy the pool and prepare it for many quotes in one direction, without a price limit."""
        self._refresh()
        return self._copy().ladder(zero_for_one=zero_for_one, exact_out=exact_out, **options)
