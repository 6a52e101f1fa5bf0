"""Many pools at once, named by keys, handles or references: found, and asked for quotes, in one call."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.mapping import MappedArena
from arena.native import lib
from arena.native._handle import references
from arena.readers.arguments import is_single, ordered
from arena.readers.batch import QuoteBatch, batch
from arena.readers.frozen_pool import FrozenPool
from arena.readers.lookup import (
    check_references,
    place_of,
    read_frozen,
    reference_key,
)
from arena.readers.pool import Pool
from arena.readers.quote import amounts_array, direction, resolve_options
from arena.readers.state import Key, key_bytes, key_text


def find_named(
    mapped: MappedArena,
    keys: Sequence[Key | Pool],
    commit: int,
    missing: Callable[[Key], Exception],
) -> tuple[npt.NDArray[np.uint64], Sequence[str]]:
    """(n,) references, and the keys as text, of pools that are there at `commit` (0: the newest). Raises
    `missing(key)` for one that is not."""
    items = tuple(keys)
    found, absent = references(mapped.address, mapped, commit, items)
    if absent >= 0:
        raise missing(_key_of(items[absent]))
    return np.frombuffer(found, np.uint64, len(items)), _Named(items)


def find_selected(
    mapped: MappedArena,
    pools: Sequence[Key | Pool] | npt.NDArray[Any],
    commit: int,
    missing: Callable[[Key], Exception],
) -> tuple[npt.NDArray[np.uint64], Sequence[str]]:
    """(n,) references, checked, and names for errors."""
    if not isinstance(pools, np.ndarray):
        return find_named(mapped, pools, commit, missing)
    found = check_references(pools, mapped.header.slots_used)
    return found, _Keys(mapped, found)


def quote_selected(
    mapped: MappedArena,
    commit: int,
    missing: Callable[[Key], Exception],
    pools: Sequence[Key | Pool] | npt.NDArray[Any],
    amounts: int | Sequence[int] | npt.NDArray[Any],
    zero_for_one: bool | Sequence[bool] | npt.NDArray[np.bool_],
    *,
    exact_out: bool,
    allow_stale: bool,
    allow_dynamic_fee: bool,
) -> QuoteBatch:
    """Quotes of many pools in one call, as Arena.quote_batch and Snapshot.quote_batch describe them."""
    chosen, names = find_selected(mapped, ordered("pools", pools), commit, missing)
    words = amount_words(amounts, len(chosen))
    flags = item_flags(
        zero_for_one,
        len(chosen),
        exact_out=exact_out,
        allow_stale=allow_stale,
        allow_dynamic_fee=allow_dynamic_fee,
    )

    def copy(index: int) -> FrozenPool:
        return read_frozen(mapped, int(chosen[index]), commit)

    return batch(mapped.pointer, commit, chosen, words, flags, names, copy)


def amount_words(amounts: Any, count: int) -> npt.NDArray[np.uint64]:
    """(count, 4) words of one amount for all or of one each. ValueError when they are not as many; else
    errors as amounts_array."""
    if is_single(amounts):
        return np.repeat(amounts_array([amounts]), count, axis=0)
    words = amounts_array(amounts)
    if len(words) != count:
        raise ValueError(f"{count} pools and {len(words)} amounts")
    return words


def item_flags(
    zero_for_one: bool | Sequence[bool] | npt.NDArray[np.bool_],
    count: int,
    *,
    exact_out: bool,
    allow_stale: bool,
    allow_dynamic_fee: bool,
) -> int | npt.NDArray[np.uint32]:
    """Flags for all, or (count,) of each. ValueError when there are not as many directions, TypeError for
    one that is no boolean."""
    base, _, _ = resolve_options(
        direction(False, exact_out),
        allow_stale=allow_stale,
        allow_dynamic_fee=allow_dynamic_fee,
    )
    directions = np.asarray(zero_for_one)
    if directions.ndim == 0:
        return base | direction(directions.item(), False)
    if directions.shape != (count,):
        shape = " x ".join(map(str, directions.shape))
        raise ValueError(f"{count} pools and {shape} directions")
    if directions.dtype.kind != "b":
        wrong = [each for each in directions.tolist() if each not in (True, False)]
        if wrong:
            raise TypeError(f"zero_for_one is True or False, not {wrong[0]!r}")
        directions = directions.astype(np.bool_)
    flags = directions.astype(np.uint32)
    flags *= lib.PSA_ZERO_FOR_ONE
    flags |= base
    return flags


def _key_of(item: Key | Pool) -> bytes:
    return key_bytes(item.key if isinstance(item, Pool) else item)


class _Named(Sequence[str]):
    """Keys of keys and handles as text, made when asked for."""

    def __init__(self, items: tuple[Key | Pool, ...]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Named(self._items[index])
        return key_text(_key_of(self._items[index]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (list, (list(self),))


class _Keys(Sequence[str]):
    """Keys of many references, made when asked for."""

    def __init__(self, mapped: MappedArena, references: npt.NDArray[np.uint64]) -> None:
        self._mapped = mapped
        self._references = references

    def __len__(self) -> int:
        return len(self._references)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Keys(self._mapped, self._references[index])
        reference = int(self._references[index])
        return reference_key(self._mapped, reference) or f"of slot {place_of(reference)[0]}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (list, (list(self),))
