"""Many pools at once, named by keys, handles or references: found, and asked for quotes, in one call."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.mapping import MappedArena
from arena.native import lib
from arena.readers.batch import QuoteBatch, batch
from arena.readers.frozen_pool import FrozenPool, read_frozen
from arena.readers.lookup import (
    check_references,
    find_pools,
    place_of,
    reference_key,
    slot_generations,
    slot_numbers,
)
from arena.readers.pool import Pool
from arena.readers.quote import amounts_array, direction, resolve_options
from arena.readers.state import Key, key_bytes, key_text


def find_named(
    mapped: MappedArena,
    keys: Sequence[Key | Pool],
    commit: int,
    missing: Callable[[Key], Exception],
) -> tuple[npt.NDArray[np.uint64], list[str]]:
    """(n,) references, and the keys as text, of pools that are there at `commit` (0: the newest). Raises
    `missing(key)` for one that is not."""
    names = [key.key if isinstance(key, Pool) else key for key in keys]
    found = find_pools(mapped, names, commit, missing)
    return found, [key_text(key_bytes(name)) for name in names]


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
    references, names = find_selected(mapped, pools, commit, missing)
    numbers, generations = slot_numbers(references), slot_generations(references)
    count = len(numbers)
    if isinstance(amounts, int | np.integer):
        words = np.repeat(amounts_array([int(amounts)]), count, axis=0)
    else:
        words = amounts_array(amounts)
    if len(words) != count:
        raise ValueError(f"{count} pools and {len(words)} amounts")
    base, _, _ = resolve_options(
        direction(False, exact_out),
        allow_stale=allow_stale,
        allow_dynamic_fee=allow_dynamic_fee,
    )
    directions = np.asarray(zero_for_one, np.bool_)
    if directions.ndim and len(directions) != count:
        raise ValueError(f"{count} pools and {len(directions)} directions")
    flags = np.empty(count, np.uint32)
    flags[:] = np.where(directions, base | lib.PSA_ZERO_FOR_ONE, base)

    def copy(index: int) -> FrozenPool:
        return read_frozen(mapped, int(numbers[index]), int(generations[index]), commit)

    return batch(mapped, commit, numbers, generations, words, flags, names, copy)


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
