"""Quotes on shared memory: one call into C, and the ways on when there is no answer.

Pool handles keep the arguments that never change, and results come from a free list.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from arena.native import ffi, lib
from arena.readers.batch import QuoteBatch, Same, batch
from arena.readers.copy_quotes import CopyQuotes, Ladder
from arena.readers.quote import (
    EXACT_IN_FLAGS,
    EXACT_OUT_FLAGS,
    Quote,
    QuoteOptions,
    amount_bytes,
    amounts_array,
    direction,
    make_quote,
    make_result,
    quote_error,
    resolve_options,
)

_CONTENDED: int = lib.PSA_CONTENDED
_CLOSED: int = lib.PSA_CLOSED
_WORD = (1 << 64) - 1

_quote_prepared = lib.psa_quote_prepared
_quote_word = lib.psa_quote_word
_quote_shared = lib.psa_quote

# Results not in use, each with a buffer over it. list.pop and list.append are atomic, so threads and
# signal handlers share it; it grows to the number of quotes asked at the same time.
_free: list[tuple[Any, Any]] = []
_pop = _free.pop
_push = _free.append


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

    def _copy(self) -> CopyQuotes:
        raise NotImplementedError

    def quote_exact_in(
        self, amount_in: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
    ) -> Quote:
        """What `amount_in` wei, fee included, would buy; options as in QuoteOptions.

        Raises the error the contract would revert with, PoolStale unless the pool is live or
        `allow_stale`, and DynamicFee. Without a price limit the swap runs to the end of the price range.
        """
        try:
            flags = EXACT_IN_FLAGS[zero_for_one]
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
            item = make_result()
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
            flags = EXACT_OUT_FLAGS[zero_for_one]
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
            item = make_result()
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
        result, buffer = make_result()
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
            call.arena,
            call.commit,
            np.array([call.slot | call.generation << 32], np.uint64),
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
