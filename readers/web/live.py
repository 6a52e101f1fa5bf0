"""What a page is told after each look: only what has changed since the message before."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from arena.readers.views.listing import Pools, symbol
from arena.readers.views.monitor import Change, Monitor, View
from arena.readers.views.order import Choice, arrange
from arena.readers.views.table import cell
from arena.readers.views.text import NOTHING, count, duration, harmless, number
from arena.readers.web.asked import Page
from arena.readers.web.watcher import why_not_live

POINTS = 600  # of a price chart, at most
_CELLS = ("pair", "protocol", "fee", "price", "block", "status")


def words(view: View) -> dict[str, Any]:
    """The state of an arena in words, all of them harmless."""
    refusal = why_not_live(view)
    counters, gap = view.counters, view.phase.gap
    differ = counters["audit_differences"]
    head = str(view.block_number) if view.block_number else "no block yet"
    writer = "none" if view.writer_pid is None else str(view.writer_pid or "of another namespace")
    if view.writer_pid is not None:
        writer += " alive" if view.writer_alive else " silent"
    mappers = view.mappers
    return {
        "name": harmless(view.name),
        "chain": f"chain {view.chain_id}" if view.chain_id else "chain unknown",
        "generation": f"generation {view.generation}",
        "is_live": refusal is None,
        "trouble": harmless(view.trouble),
        "phase": view.phase.name,
        "phase_age": NOTHING if view.phase_age is None else duration(view.phase_age),
        "reason": harmless(view.phase.reason),
        "gap": f"blocks {gap[0]} to {gap[1]} missing" if any(gap) else "",
        "block": head,
        "age": "age unknown" if view.age is None else f"{duration(view.age)} old",
        "lag": NOTHING if view.lag is None else duration(view.lag),
        "base_fee": f"{number(view.base_fee / 1e9, 4)} gwei" if view.base_fee else NOTHING,
        "commit": count(view.commit),
        "events": _rate(view.events_per_s),
        "commits": _rate(view.commits_per_s),
        "writer": writer,
        "heartbeat": f"{duration(view.heartbeat_age)} ago",
        "readers": NOTHING if mappers is None else count(len(mappers.pids)),
        "hidden": ", some hidden" if mappers is not None and mappers.hidden else "",
        "pools": {name: count(many) for name, many in view.pools.counts().items()},
        "touched": count(int(view.pools.is_touched.sum())),
        "reorgs": count(counters["reorgs"]),
        "gaps": count(counters["gaps"]),
        "audit": f"{count(differ)} of {count(counters['audited'])} differ",
        "audit_differs": bool(differ),
    }


class Told:
    """What one page knows of the state in words; `news` gives the rest."""

    def __init__(self) -> None:
        self._words: dict[str, Any] = {}

    def news(self, view: View) -> dict[str, Any]:
        """The words that changed."""
        before, self._words = self._words, words(view)
        return {name: now for name, now in self._words.items() if before.get(name) != now}


class TableFeed:
    """One page's window on the table of pools."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._told = Told()
        self._arranged: tuple[Pools, Choice, npt.NDArray[np.intp]] | None = None
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._order: list[str] | None = None
        self._counts: tuple[int, int] | None = None

    def message(self, view: View) -> dict[str, Any]:
        """`status` has the words that changed, `rows` the rows; `order` the keys of all rows in their
        order, and `matching` and `total`, when they are others."""
        found: dict[str, Any] = {"status": self._told.news(view)}
        pools = view.pools
        if self._arranged is not None and self._arranged[0] is pools:
            return found
        every = arrange(pools, self._page.choice)
        self._arranged = (pools, self._page.choice, every)
        places = every[self._page.offset : self._page.offset + self._page.limit]
        keys = [pools.listing.keys[place] for place in places.tolist()]
        rows = dict(zip(keys, _values(pools, places), strict=True))
        changed = [
            _row(pools, place)
            for key, place in zip(keys, places.tolist(), strict=True)
            if self._rows.get(key) != rows[key]
        ]
        self._rows = rows
        if changed:
            found["rows"] = changed
        if keys != self._order:
            found["order"] = self._order = keys
        counts = (len(every), int(pools.is_there.sum()))
        if counts != self._counts:
            self._counts = counts
            found |= {"matching": counts[0], "total": counts[1], "offset": self._page.offset}
        return found


class PoolFeed:
    """One page on one pool."""

    def __init__(self, monitor: Monitor, key: str) -> None:
        self._monitor = monitor
        self._key = key
        self._told = Told()
        self._row: dict[str, Any] | None = None
        self._is_first = True
        self._pools: Pools | None = None
        self._seen = 0.0  # time of the newest point sent

    def message(self, view: View) -> dict[str, Any]:
        """Beside `status`: `pool`, when it changed, None when it is not there; `points` of its price that
        are new, each [Unix seconds, price, block]; `again` before the first of another arena."""
        found: dict[str, Any] = {"status": self._told.news(view)}
        pools = view.pools
        if pools is self._pools:
            return found
        if self._pools is not None and self._pools.listing.origin != pools.listing.origin:
            found["again"] = True
        self._pools = pools
        place = pools.listing.place(self._key)
        row = None if place is None or not pools.is_there[place] else _pool(pools, place)
        points = self._new_points()
        if points:
            found["points"] = points
        elif self._is_first and row is not None and place is not None:
            price = float(pools.price[place])
            found["points"] = [[view.seen, price, view.block_number]] if price == price else []
        if row != self._row or self._is_first:
            found["pool"] = row
        self._row, self._is_first = row, False
        return found

    def _new_points(self) -> list[list[float]]:
        changes = self._monitor.changes(self._key, POINTS)
        fresh = [each for each in changes if each.seen > self._seen]
        if fresh:
            self._seen = fresh[0].seen
        return [_point(each) for each in reversed(fresh) if math.isfinite(each.price)]


def _point(change: Change) -> list[float]:
    return [change.seen, change.price, change.block_number]


def _rate(value: float | None) -> str:
    return NOTHING if value is None else number(value, 3)


def _values(pools: Pools, places: npt.NDArray[np.intp]) -> list[tuple[Any, ...]]:
    """What a row is made from, to see whether it changed."""
    columns = (
        pools.listing.references[places],
        np.nan_to_num(pools.price[places], nan=-1.0),
        pools.fee[places],
        pools.block[places],
        pools.status[places],
        pools.is_touched[places],
    )
    return list(zip(*(each.tolist() for each in columns), strict=True))


def _row(pools: Pools, place: int) -> dict[str, Any]:
    return {
        "key": pools.listing.keys[place],
        "touched": bool(pools.is_touched[place]),
        **{name: cell(pools, place, name) for name in _CELLS},
    }


def _pool(pools: Pools, place: int) -> dict[str, Any]:
    one, two = pools.listing.tokens[place]
    line = pools.lines[place]
    return {
        **_row(pools, place),
        "event": [int(line[name]) for name in ("block_number", "tx_index", "log_index")],
        "tokens": [
            {"symbol": symbol(each), "address": each.address, "decimals": each.decimals}
            for each in (one, two)
        ],
    }
