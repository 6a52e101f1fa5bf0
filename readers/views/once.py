"""One look at an arena, printed: as the live view would show it, or as JSON."""

from typing import Any

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.layouts.protocols import PROTOCOL_NAMES
from arena.native._handle import ints_from_words
from arena.readers.state import Token
from arena.readers.views.lines import Line, fit, line
from arena.readers.views.listing import Pools
from arena.readers.views.monitor import View
from arena.readers.views.order import Choice, arrange
from arena.readers.views.summary import MOST_LINES, summary
from arena.readers.views.table import columns, heading, rows


def as_lines(view: View, choice: Choice, width: int, count: int | None) -> list[Line]:
    """Summary and table; the first `count` pools of those asked for, None: all."""
    places = arrange(view.pools, choice)
    shown = columns(width)
    chosen = places if count is None else places[: max(0, count)]
    found = [
        *summary(view, width, MOST_LINES),
        heading(shown, choice),
        *rows(view.pools, chosen, shown, None),
    ]
    if len(chosen) < len(places):
        found.append(line(f"and {len(places) - len(chosen)} more"))
    return [fit(each, width) for each in found]


def as_dict(view: View, choice: Choice, count: int | None) -> dict[str, Any]:
    """What JSON says: the names are those of `arena-writer status` where it has the same. Wide integers
    are decimal strings, times milliseconds, None is unknown."""
    places = arrange(view.pools, choice)
    chosen = places[: None if count is None else max(0, count)]
    return {
        **status_dict(view),
        "shown": pool_dicts(view.pools, chosen),
        "matching": len(places),
    }


def status_dict(view: View) -> dict[str, Any]:
    """The same without pools."""
    mappers = view.mappers
    return {
        "name": view.name,
        "trouble": view.trouble or None,
        "chain_id": view.chain_id,
        "generation": view.generation,
        "phase": view.phase.name,
        "reason": view.phase.reason,
        "phase_age_ms": _milliseconds(view.phase_age),
        "gap_first": view.phase.gap[0] or None,
        "gap_last": view.phase.gap[1] or None,
        "writer_pid": view.writer_pid,
        "writer_alive": view.writer_alive,
        "heartbeat_age_ms": _milliseconds(view.heartbeat_age),
        "committed": view.commit,
        "head_block": view.block_number,
        "head_timestamp": view.timestamp or None,
        "head_age_ms": _milliseconds(view.age),
        "base_fee": str(view.base_fee) if view.base_fee else None,
        "readers": None if mappers is None else list(mappers.pids),
        "hidden_processes": None if mappers is None else mappers.hidden,
        "pools": view.pools.counts(),
        "touched": int(view.pools.is_touched.sum()),
        "counters": dict(view.counters),
    }


def pool_dicts(pools: Pools, places: npt.NDArray[np.intp]) -> list[dict[str, Any]]:
    """What JSON says of the pools at these places."""
    listing = pools.listing
    lines = pools.lines[places]
    ones, twos = (ints_from_words(lines[name].copy()) for name in ("a", "b"))
    found = []
    for index, place in enumerate(places.tolist()):
        number = int(listing.protocol[place])
        is_known = pools.price[place] == pools.price[place]
        values: dict[str, Any] = {}
        if is_known and int(listing.rows["tick_spacing"][place]) == 0:
            values = {"reserve0": str(ones[index]), "reserve1": str(twos[index])}
        elif is_known:
            high = int(lines["sqrt_price_hi"][index]) << 128
            values = {
                "sqrt_price_x96": str(ones[index] | high),
                "tick": int(lines["tick"][index]),
                "liquidity": str(twos[index]),
            }
        one, two = listing.tokens[place]
        found.append(
            {
                "pool": listing.keys[place],
                "protocol": PROTOCOL_NAMES.get(number, str(number)),
                "status": slots.STATUS_NAMES[int(pools.status[place])],
                "token0": token_dict(one),
                "token1": token_dict(two),
                "fee_pips": int(pools.fee[place]),
                "price": float(pools.price[place]) if is_known else None,
                "is_raw": bool(listing.is_raw[place]),
                "block": int(pools.block[place]),
                "touched": bool(pools.is_touched[place]),
                **values,
            }
        )
    return found


def token_dict(token: Token) -> dict[str, Any]:
    """What JSON says of a token."""
    return {"address": token.address, "decimals": token.decimals, "symbol": token.symbol}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None or seconds == float("inf") else int(seconds * 1000)
