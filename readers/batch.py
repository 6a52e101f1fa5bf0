"""Many quotes in one call: the call, and the answers as one array."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaError
from arena.native import EXCEPTIONS, ffi, lib
from arena.native._handle import ints_from_words
from arena.readers.quote import RESULT, Quote, make_quote, quote_error
from arena.readers.shown import html_table
from arena.readers.table import Frames

_CONTENDED: int = lib.PSA_CONTENDED

_SHOWN = 10  # rows in a notebook
_WIDE = ("amount_in", "amount_out", "sqrt_price_x96_after", "liquidity_after")
_NARROW = ("tick_after", "ticks_crossed", "is_complete", "fee_pips", "commit", "block_number")
_PRICES = ("spot_price", "marginal_price", "effective_price", "price_impact")  # as PSA_PRICE_*


class QuoteBatch(Sequence[Quote], Frames):
    """Answers of one batch, in the order asked.

    `results` is the (n,) structured array behind it (dtype RESULT), `statuses` its status codes. An item
    that has no answer raises its own error when it is taken; amount lists hold 0 for it. A batch of a
    snapshot or group is of one `commit` and its head, `block_number`; else both are None, and each item
    is of the newest version of its pool.
    """

    __slots__ = ("_amounts", "_flags", "_keys", "block_number", "commit", "results")
    block_number: int | None
    commit: int | None

    def __init__(
        self,
        results: npt.NDArray[np.void],
        keys: Sequence[str],
        amounts: npt.NDArray[np.uint64],
        flags: int | npt.NDArray[np.uint32],
    ) -> None:
        self.results = results
        self._keys = keys
        self._amounts = amounts
        self._flags = flags
        self.block_number = self.commit = None

    def _at(self, commit: int | None, block_number: int | None) -> Self:
        """Say of which commit all of it is."""
        self.commit, self.block_number = commit, block_number
        return self

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Quote: ...
    @overload
    def __getitem__(self, index: slice) -> "QuoteBatch": ...
    def __getitem__(self, index: int | slice) -> "Quote | QuoteBatch":
        if isinstance(index, slice):
            flags = self._flags if isinstance(self._flags, int) else self._flags[index]
            part = QuoteBatch(self.results[index], self._keys[index], self._amounts[index], flags)
            return part._at(self.commit, self.block_number)
        index = range(len(self))[index]
        error = self.error(index)
        if error is not None:
            raise error
        return make_quote(self.results[index].tobytes())

    def __iter__(self) -> Iterator[Quote]:
        raw, size = self.results.tobytes(), RESULT.itemsize
        for index, status in enumerate(self.statuses.tolist()):
            yield self[index] if status else make_quote(raw[size * index : size * (index + 1)])

    def error(self, index: int) -> Exception | None:
        """Why item `index` has no answer; None when it has one. Below 0 it counts from the end, as indices
        do; IndexError."""
        index = range(len(self))[index]
        status = int(self.results["status"][index])
        if status == 0:
            return None
        amount = ints_from_words(self._amounts[index : index + 1])[0]
        return quote_error(status, self._keys[index], amount, _of_item(self._flags, index))

    @property
    def statuses(self) -> npt.NDArray[np.uint32]:
        """(n,) PSA status codes, 0 = answered."""
        found: npt.NDArray[np.uint32] = self.results["status"]
        return found

    @property
    def amounts_in(self) -> list[int]:
        """Wei paid to the pools."""
        return ints_from_words(self.results["amount_in"])

    @property
    def amounts_out(self) -> list[int]:
        """Wei paid by the pools."""
        return ints_from_words(self.results["amount_out"])

    @property
    def sqrt_prices_x96_after(self) -> list[int]:
        """Q64.96; 0 for V2."""
        return ints_from_words(self.results["sqrt_price_x96_after"])

    @property
    def liquidities_after(self) -> list[int]:
        """Liquidity in range afterwards; 0 for V2."""
        return ints_from_words(self.results["liquidity_after"])

    @property
    def spot_prices(self) -> npt.NDArray[np.float64]:
        """(n,) as Quote.spot_price; NaN for an item without an answer, and where there is no price."""
        return self._prices(lib.PSA_PRICE_SPOT)

    @property
    def marginal_prices(self) -> npt.NDArray[np.float64]:
        """(n,) as Quote.marginal_price, NaN as in `spot_prices`."""
        return self._prices(lib.PSA_PRICE_MARGINAL)

    @property
    def effective_prices(self) -> npt.NDArray[np.float64]:
        """(n,) as Quote.effective_price, NaN as in `spot_prices`."""
        return self._prices(lib.PSA_PRICE_EFFECTIVE)

    @property
    def price_impacts(self) -> npt.NDArray[np.float64]:
        """(n,) as Quote.price_impact, NaN as in `spot_prices`."""
        return self._prices(lib.PSA_PRICE_IMPACT)

    def _prices(self, which: int) -> npt.NDArray[np.float64]:
        found = np.empty(len(self), np.float64)
        if len(self):
            results = np.ascontiguousarray(self.results)  # a slice may have steps
            pointer = ffi.from_buffer("psa_quote_result *", results)
            doubles = ffi.from_buffer("double *", found)
            lib.psa_quote_prices(pointer, len(self), which, doubles)
        return found

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict an item, in order, for a frame or JSON: integers are exact.

        `key`, `zero_for_one`, `exact_out` and `amount` are what was asked, `error` the class of the
        error's name or None; then the fields of Quote, all None for an item without an answer.
        """
        columns = self._exact_columns()
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def _exact_columns(self) -> dict[str, list[Any]]:
        results, statuses = self.results, self.statuses.tolist()
        flags = np.broadcast_to(np.asarray(self._flags, np.uint32), (len(self),))
        columns = {
            "key": [self._keys[index] for index in range(len(self))],
            "zero_for_one": (flags & lib.PSA_ZERO_FOR_ONE != 0).tolist(),
            "exact_out": (flags & lib.PSA_EXACT_OUT != 0).tolist(),
            "amount": ints_from_words(self._amounts),
            "error": [
                EXCEPTIONS.get(status, ArenaError).__name__ if status else None
                for status in statuses
            ],
        }
        answers: dict[str, list[Any]] = {name: ints_from_words(results[name]) for name in _WIDE}
        answers |= {name: results[name].tolist() for name in _NARROW}
        answers["is_complete"] = (results["is_complete"] != 0).tolist()
        for which, name in enumerate(_PRICES):
            prices = self._prices(which).tolist()
            answers[name] = [None if math.isnan(price) else price for price in prices]
        for name, values in answers.items():
            pairs = zip(values, statuses, strict=True)
            columns[name] = [None if status else value for value, status in pairs]
        return columns

    def _columns(self) -> dict[str, list[Any]]:
        columns = self._exact_columns()
        for name in ("amount", *_WIDE):
            columns[name] = [None if value is None else str(value) for value in columns[name]]
        return columns

    def _repr_html_(self) -> str:
        rows = self[:_SHOWN].to_rows()
        names = ("key", "amount_in", "amount_out", "is_complete", "error")
        more = f", the first {_SHOWN}" if len(self) > _SHOWN else ""
        texts = [["" if row[name] is None else row[name] for name in names] for row in rows]
        return html_table(repr(self) + more, texts, names)

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
        range(self._count)[index]  # IndexError
        return self._key


def _of_item(flags: int | npt.NDArray[np.uint32], index: int) -> int:
    return flags if isinstance(flags, int) else int(flags[index])


def ask(
    arena: Any,
    commit: int,
    references: npt.NDArray[np.uint64],
    words: npt.NDArray[np.uint64],
    flags: int | npt.NDArray[np.uint32],
) -> tuple[int, npt.NDArray[np.void]]:
    """One call into C: PSA_CONTENDED or PSA_SNAPSHOT_TOO_OLD when an item has that status, and the answers.

    `arena` is a psa_arena pointer, `commit` 0 for the newest version of each pool. `references` has one
    item for all, or one for each of `words`; `flags` is one for all, or one for each.
    """
    results = np.empty(len(words), RESULT)  # C writes every byte of it
    if len(words) == 0:
        return 0, results
    every, each = (flags, None) if isinstance(flags, int) else (0, flags)
    status = lib.psa_quote_batch(
        arena,
        ffi.from_buffer("uint64_t *", references),
        commit,
        ffi.from_buffer("uint64_t *", words),
        ffi.NULL if each is None else ffi.from_buffer("uint32_t *", each),
        every | (lib.PSA_ONE_POOL if len(references) == 1 else 0),
        len(words),
        ffi.from_buffer("psa_quote_result *", results),
    )
    if status not in (lib.PSA_OK, _CONTENDED, lib.PSA_SNAPSHOT_TOO_OLD):
        raise quote_error(status, "", None, 0)
    return status, results


def batch(
    arena: Any,
    commit: int,
    references: npt.NDArray[np.uint64],
    words: npt.NDArray[np.uint64],
    flags: int | npt.NDArray[np.uint32],
    keys: Sequence[str],
    copy: Any,
) -> QuoteBatch:
    """A batch as `ask` takes it; `copy(index)` gives a private copy of the pool of a contended item."""
    status, results = ask(arena, commit, references, words, flags)
    if status != _CONTENDED:
        return QuoteBatch(results, keys, words, flags)
    return answered(results, words, flags, keys, copy)


def answered(
    results: npt.NDArray[np.void],
    words: npt.NDArray[np.uint64],
    flags: int | npt.NDArray[np.uint32],
    keys: Sequence[str],
    copy: Any,
) -> QuoteBatch:
    """The batch, with items that the writer overtook answered by `copy(index)` of their pools."""
    for index in np.flatnonzero(results["status"] == _CONTENDED).tolist():
        data = words[index].tobytes()
        answers = ffi.from_buffer("psa_quote_result *", results)
        copy(index).store_answer(answers + index, data, _of_item(flags, index), ffi.NULL, 0)
    return QuoteBatch(results, keys, words, flags)
