"""Which pools an arena has, and their values as columns, brought up to the newest block by what changed."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from arena.errors import SnapshotContended, SnapshotTooOld, UnknownPool
from arena.layouts import slots
from arena.layouts.protocols import CONSTANT_PRODUCT
from arena.readers.group import Group
from arena.readers.lookup import pin, row_keys, visible
from arena.readers.reader import Arena
from arena.readers.token import Token, tokens_of
from arena.readers.views.text import harmless
from arena.reads import READ_TRIES, is_visible

_WORD = 2.0**64


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The pools of an arena at one `topology`, in the order of their slots; arrays are (n,).

    `pairs` are both symbols, made harmless; `scale` turns a price in smallest units into one in whole
    tokens, 1 where `is_raw`, the decimals of a token being unknown.
    """

    topology: int
    origin: int
    keys: tuple[str, ...]
    references: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.void]
    tokens: tuple[tuple[Token, Token], ...]
    pairs: tuple[str, ...]
    scale: npt.NDArray[np.float64]
    is_raw: npt.NDArray[np.bool_]

    @property
    def protocol(self) -> npt.NDArray[np.uint8]:
        """layouts.slots.UNISWAP_* or SOLIDLY."""
        found: npt.NDArray[np.uint8] = self.rows["protocol"]
        return found

    def place(self, key: str) -> int | None:
        """Where the pool of that key stands; None when there is none."""
        return _places(self).get(key)


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """All pools at one block, `head`; every array (n,), read-only, in the order of the listing.

    `lines` of dtype layouts.slots.LINE; `price` whole tokens 1 for a token 0, NaN without values; `fee` in
    pips; `block` the last that touched the pool, or that its values were read at; `is_touched` by an event
    of the newest block; `is_there` not removed since the listing was made.
    """

    listing: Listing
    head: int
    lines: npt.NDArray[np.void]
    status: npt.NDArray[np.uint8]
    price: npt.NDArray[np.float64]
    fee: npt.NDArray[np.uint32]
    block: npt.NDArray[np.uint64]
    is_touched: npt.NDArray[np.bool_]
    is_there: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.listing.keys)

    def counts(self) -> dict[str, int]:
        """Pools by status, of those that are there."""
        found = np.bincount(self.status, minlength=slots.STATUS_REMOVED + 1).tolist()
        named = (slots.STATUS_LIVE, slots.STATUS_SYNCING, slots.STATUS_STALE)
        return {slots.STATUS_NAMES[number]: found[number] for number in named}


@lru_cache(2)
def _places(listing: Listing) -> dict[str, int]:
    return {key: place for place, key in enumerate(listing.keys)}


def symbol(token: Token) -> str:
    """Symbol made harmless, or the beginning of the address."""
    return harmless(token.symbol).strip() or token.address[:10]


def list_pools(arena: Arena) -> tuple[Listing, Group]:
    """The pools there are, and a group of them, read once. SnapshotContended."""
    for _ in range(READ_TRIES):
        mapped = arena._current()
        record = pin(mapped)
        try:
            numbers, lines, rows = visible(mapped, int(record.stamp))
            keys = row_keys(rows)
            group = arena.group(keys)
        except (
            SnapshotTooOld,
            UnknownPool,
        ):  # the writer overtook it; a pool was removed meanwhile
            continue
        used, places = np.unique(
            np.stack([rows["token0"], rows["token1"]], axis=1), return_inverse=True
        )
        tokens = tokens_of(mapped.tokens[used])
        symbols = [symbol(token) for token in tokens]
        decimals = np.array(
            [np.nan if each.decimals is None else each.decimals for each in tokens], np.float64
        )
        one, two = places.reshape(-1, 2).T
        distance = decimals[one] - decimals[two]
        both = list(zip(one.tolist(), two.tolist(), strict=True))
        listing = Listing(
            int(record.topology),
            mapped.origin,
            tuple(keys),
            lines["generation"].astype(np.uint64) << np.uint64(32) | numbers,
            rows,
            tuple((tokens[a], tokens[b]) for a, b in both),
            tuple(f"{symbols[a]}/{symbols[b]}" for a, b in both),
            10.0 ** np.nan_to_num(distance),
            np.isnan(distance),
        )
        for array in (listing.references, listing.rows, listing.scale, listing.is_raw):
            array.flags.writeable = False
        return listing, group
    raise SnapshotContended(
        f"the pools of {arena.name} changed during each of {READ_TRIES} tries to list them",
        name=arena.name,
    )


def prices(
    lines: npt.NDArray[np.void], protocol: npt.NDArray[np.uint8], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(n,) whole tokens 1 for a token 0; NaN where there are no values."""
    words = lines["a"].astype(np.float64)
    low = words[:, 0] + words[:, 1] * _WORD
    other = lines["b"].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (other[:, 0] + other[:, 1] * _WORD) / low
    root = (low + lines["sqrt_price_hi"] * _WORD**2) / 2.0**96
    is_pair = np.isin(protocol, CONSTANT_PRODUCT)
    found = np.where(is_pair, ratio, root * root) * scale
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)


def read_pools(group: Group, listing: Listing, before: Pools | None) -> Pools:
    """The pools at the newest block. Only prices of those that changed are worked out again.

    `before` is what an earlier call gave for the same group. Raises what Group.read raises; what was kept
    is then to be thrown away.
    """
    values = group.read()
    changed = group.touched
    is_followed = before is not None and before.listing is listing
    if (
        before is not None
        and is_followed
        and not len(changed)
        and before.head == group.block_number
    ):
        return before
    lines, status = values.copy(), group.statuses.copy()
    if before is None or not is_followed:
        price = prices(lines, listing.protocol, listing.scale)
    else:
        price = before.price.copy()
        price[changed] = prices(lines[changed], listing.protocol[changed], listing.scale[changed])
    is_unread = np.isnan(price) & (lines["fee_status"] & 0xFFFFFF == 0)
    pools = Pools(
        listing=listing,
        head=group.block_number,
        lines=lines,
        status=status,
        price=price,
        fee=np.where(is_unread, listing.rows["fee_pips"], lines["fee_status"] & 0xFFFFFF),
        block=np.where(lines["block_number"] != 0, lines["block_number"], lines["base_block"]),
        is_touched=(lines["block_number"] == group.block_number) & (lines["block_number"] != 0),
        is_there=is_visible(status),
    )
    for name in ("lines", "status", "price", "fee", "block", "is_touched", "is_there"):
        getattr(pools, name).flags.writeable = False
    return pools
