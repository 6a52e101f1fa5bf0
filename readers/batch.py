"""Many quotes in one call: the call, and the answers as one array."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from arena.mapping import MappedArena
from arena.native import ffi, lib
from arena.native._handle import ints_from_words
from arena.readers.quote import RESULT, Quote, make_quote, quote_error

_CONTENDED: int = lib.PSA_CONTENDED


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
        raw, size = self.results.tobytes(), RESULT.itemsize
        for index, status in enumerate(self.statuses.tolist()):
            yield self[index] if status else make_quote(raw[size * index : size * (index + 1)])

    def error(self, index: int) -> Exception | None:
        """Why item `index` has no answer; None when it has one."""
        status = int(self.results["status"][index])
        if status == 0:
            return None
        amount = ints_from_words(self._amounts[index : index + 1])[0]
        return quote_error(status, self._keys[index], amount, int(self._flags[index]))

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


def batch(
    mapped: MappedArena,
    commit: int,
    slots: npt.NDArray[np.uint32],
    generations: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint64],
    flags: npt.NDArray[np.uint32],
    keys: Sequence[str],
    copy: Any,
) -> QuoteBatch:
    """One call into C for a batch at `commit` (0: the newest); `copy(index)` gives a private copy of an
    item's pool.

    `slots` has one item for all, or one for each of `words`.
    """
    count = len(words)
    results = np.zeros(count, RESULT)
    if count == 0:
        return QuoteBatch(results, keys, words, flags)
    status = lib.psa_quote_batch(
        mapped.pointer,
        ffi.from_buffer("uint32_t *", slots),
        ffi.from_buffer("uint32_t *", generations),
        commit,
        ffi.from_buffer("uint64_t *", words),
        ffi.from_buffer("uint32_t *", flags),
        lib.PSA_ONE_POOL if len(slots) == 1 else 0,
        count,
        ffi.from_buffer("psa_quote_result *", results),
    )
    if status:
        raise quote_error(status, "", None, 0)
    return answered(results, words, flags, keys, copy)


def answered(
    results: npt.NDArray[np.void],
    words: npt.NDArray[np.uint64],
    flags: npt.NDArray[np.uint32],
    keys: Sequence[str],
    copy: Any,
) -> QuoteBatch:
    """The batch, with items that the writer overtook answered by `copy(index)` of their pools."""
    for index in np.flatnonzero(results["status"] == _CONTENDED):
        data = words[index].tobytes()
        answers = ffi.from_buffer("psa_quote_result *", results)
        copy(index).store_answer(answers + int(index), data, int(flags[index]), ffi.NULL, 0)
    return QuoteBatch(results, keys, words, flags)
