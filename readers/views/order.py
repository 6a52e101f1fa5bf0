"""Which pools a table shows, and in which order: columns to sort by, filters, search."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.layouts.protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS
from arena.readers.views.listing import Listing, Pools

COLUMNS = ("pair", "protocol", "fee", "price", "block", "status")
STATUSES = ("live", "syncing", "stale")
_DOWNWARDS = ("block",)  # what one wants to see first is the greatest


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of a table. `column` None keeps the order of the arena's slots; empty: no filter.

    Each word of `search` must stand in symbols, key, protocol or token addresses, in any case.
    ValueError for a column, status or protocol that there is not.
    """

    column: str | None = None
    is_reversed: bool = False
    touched_first: bool = False
    status: str = ""
    protocol: str = ""
    search: str = ""

    def __post_init__(self) -> None:
        for value, known in (
            (self.column, (None, *COLUMNS)),
            (self.status, ("", *STATUSES)),
            (self.protocol, ("", *PROTOCOL_NUMBERS)),
        ):
            if value not in known:
                names = ", ".join(each for each in known if each)
                raise ValueError(f"{value!r} is none of {names}")

    def by(self, column: str) -> "Choice":
        """Sorted by that column; by it already: the other way round, and then not at all."""
        if column != self.column:
            return replace(self, column=column, is_reversed=False)
        if not self.is_reversed:
            return replace(self, is_reversed=True)
        return replace(self, column=None, is_reversed=False)

    @property
    def goes_down(self) -> bool:
        """Whether the greatest comes first."""
        return self.is_reversed != (self.column in _DOWNWARDS)

    @property
    def words(self) -> tuple[str, ...]:
        """Filters in words; empty when everything is shown."""
        asked = (self.status, self.protocol, f"search {self.search!r}" if self.search else "")
        return tuple(each for each in asked if each)


def arrange(pools: Pools, choice: Choice) -> npt.NDArray[np.intp]:
    """(m,) places of the pools asked for, in the order asked for. What has no price comes last by price."""
    chosen = pools.is_there.copy()
    if choice.status:
        chosen &= pools.status == slots.STATUS_NAMES.index(choice.status)
    if choice.protocol:
        chosen &= pools.listing.protocol == PROTOCOL_NUMBERS[choice.protocol]
    if choice.search.split():
        chosen &= _found(pools.listing, choice.search.casefold())
    places = np.flatnonzero(chosen)
    if choice.column is not None:
        values = _values(pools, choice.column)[places]
        known = ~np.isnan(values)
        keys = -values[known] if choice.goes_down else values[known]
        places = np.concatenate((places[known][np.argsort(keys, kind="stable")], places[~known]))
    if choice.touched_first:
        places = places[np.argsort(~pools.is_touched[places], kind="stable")]
    return places


def _values(pools: Pools, column: str) -> npt.NDArray[np.float64]:
    match column:
        case "pair":
            return _ranks(pools.listing)
        case "protocol":
            return pools.listing.protocol.astype(np.float64)
        case "fee":
            return pools.fee.astype(np.float64)
        case "price":
            return pools.price
        case "block":
            return pools.block.astype(np.float64)
        case _:
            return pools.status.astype(np.float64)


@lru_cache(2)
def _ranks(listing: Listing) -> npt.NDArray[np.float64]:
    pairs = [pair.casefold() for pair in listing.pairs]
    place = {pair: rank for rank, pair in enumerate(sorted(set(pairs)))}
    return np.array([place[pair] for pair in pairs], np.float64)


@lru_cache(2)
def _texts(listing: Listing) -> tuple[str, ...]:
    names = [PROTOCOL_NAMES.get(number, "") for number in listing.protocol.tolist()]
    each = zip(listing.pairs, listing.keys, names, listing.tokens, strict=True)
    return tuple(
        f"{pair} {key} {name} {one.address} {two.address}".casefold()
        for pair, key, name, (one, two) in each
    )


@lru_cache(8)
def _found(listing: Listing, search: str) -> npt.NDArray[np.bool_]:
    words = search.split()
    return np.array([all(word in text for word in words) for text in _texts(listing)], np.bool_)
