"""The table of pools as lines: only rows that are asked for are put into words."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.layouts.protocols import PROTOCOL_NAMES
from arena.readers.views.lines import Line, Part, line
from arena.readers.views.listing import Pools
from arena.readers.views.order import COLUMNS, Choice
from arena.readers.views.text import left, number, percent, right

_STATUS_PARTS = {"live": Part.PLAIN, "syncing": Part.WARNING, "stale": Part.BAD}
_KEY = "pool"
_WIDTHS = {"protocol": 11, "fee": 9, "price": 13, "block": 10, "status": 9, _KEY: 13}
_NUMBERS = ("fee", "price", "block")
_PAIR = (12, 24)  # cells of the pair at least, and at most
_DROPPED = (_KEY, "protocol", "fee", "block", "status", "price")  # where there is no room
_MARKS = 2  # cells in front: the cursor, and whether the newest block touched the pool


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a width has room for, with their widths, the pair first."""

    widths: tuple[tuple[str, int], ...]


def columns(width: int) -> Columns:
    """What fits, the least important left out first; the pair takes what is left."""
    shown = list(_WIDTHS)
    for name in _DROPPED:
        if _MARKS + _PAIR[0] + sum(1 + _WIDTHS[each] for each in shown) <= width:
            break
        shown.remove(name)
    rest = width - _MARKS - sum(1 + _WIDTHS[each] for each in shown)
    pair = max(1, min(rest, _PAIR[1]))
    return Columns((("pair", pair), *((name, _WIDTHS[name]) for name in shown)))


def heading(shown: Columns, choice: Choice) -> Line:
    """Names of the columns with the key that sorts by them; an arrow at the one that does."""
    texts = []
    for name, width in shown.widths:
        arrow = "" if name != choice.column else "v" if choice.goes_down else "^"
        text = f"{COLUMNS.index(name) + 1}{arrow} {name}" if name in COLUMNS else name
        texts.append(right(text, width) if name in _NUMBERS else left(text, width))
    return line((" " * _MARKS + " ".join(texts), Part.TITLE))


def rows(
    pools: Pools, places: npt.NDArray[np.intp], shown: Columns, cursor: int | None
) -> list[Line]:
    """A line for each of these places; `cursor` is the place that is chosen."""
    return [_row(pools, place, shown, place == cursor) for place in places.tolist()]


def _row(pools: Pools, place: int, shown: Columns, is_chosen: bool) -> Line:
    is_touched = bool(pools.is_touched[place])
    usual = Part.CURSOR if is_chosen else Part.MARKED if is_touched else Part.PLAIN
    marks = (">" if is_chosen else " ") + ("*" if is_touched else " ")
    pieces: list[tuple[str, Part]] = [(marks, usual)]
    for index, (name, width) in enumerate(shown.widths):
        text = cell(pools, place, name)
        text = right(text, width) if name in _NUMBERS else left(text, width)
        part = usual
        if name == "status" and not is_chosen:
            part = _STATUS_PARTS.get(text.strip(), Part.BAD)
        pieces.append((" " * (index > 0) + text, part))
    return line(*pieces)


def cell(pools: Pools, place: int, name: str) -> str:
    """One cell in words, harmless."""
    listing = pools.listing
    match name:
        case "pair":
            return listing.pairs[place]
        case "protocol":
            return PROTOCOL_NAMES.get(int(listing.protocol[place]), "?")
        case "fee":
            return fee_text(pools, place)
        case "price":
            price = float(pools.price[place])
            is_raw = bool(listing.is_raw[place]) and price == price
            return f"{number(price, 4)} raw" if is_raw else number(price)
        case "block":
            block = int(pools.block[place])
            return str(block) if block else "-"
        case "status":
            return slots.STATUS_NAMES[int(pools.status[place])]
        case _:
            key = listing.keys[place]
            return f"{key[:6]}..{key[-4:]}"


def fee_text(pools: Pools, place: int) -> str:
    """Percent; a d behind the stored fee of a pool whose fee is dynamic."""
    is_dynamic = int(pools.listing.rows["flags"][place]) & slots.POOL_DYNAMIC_FEE
    fee = int(pools.fee[place])
    if fee >= slots.DYNAMIC_FEE_PIPS:
        return "dynamic"
    return percent(fee) + ("d" if is_dynamic else "")
