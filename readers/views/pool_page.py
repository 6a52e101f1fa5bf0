"""One pool in full, as lines: its price, its liquidity around it as bars, its last changes."""

import math
import time

from arena.layouts.protocols import FEE_DENOMINATOR_PIPS
from arena.layouts.slots import DYNAMIC_FEE_PIPS
from arena.readers.state import PoolState
from arena.readers.token import amount_text
from arena.readers.views.depth_bars import TICK_LOG, Bar, bar_width, bars, price_tick
from arena.readers.views.lines import Line, Part, line
from arena.readers.views.listing import symbol
from arena.readers.views.monitor import Change, OpenPool, View
from arena.readers.views.text import NOTHING, cut, number, percent, right

_MOST_BARS = 10  # to each side of the price
_SHARE = 9  # cells of a distance from the price beside a bar
_PRICE = 13
_AMOUNT = 12
_UNIT = 8


def pool_page(view: View, opened: OpenPool, width: int, height: int, zoom: int) -> list[Line]:
    """Up to `height` lines."""
    state = opened.state
    if state is None:
        return [
            line((opened.key, Part.TITLE)),
            line(("this pool is not in the arena now: it was removed", Part.BAD)),
            *_changes(opened.changes, height - 2),
        ]
    head = _facts(state)
    if price_tick(state) is None:
        return [*head, line(("it was announced, and has no values yet", Part.WARNING))]
    room = height - len(head)
    each_side = min(_MOST_BARS, (room - 2) // 3)
    chart = _chart(state, width, each_side, zoom) if each_side > 0 else []
    return [*head, *chart, *_changes(opened.changes, room - len(chart))]


def _facts(state: PoolState) -> list[Line]:
    one, two = state.token0, state.token1
    place = price_tick(state)
    status = Part.GOOD if state.status == "live" else Part.BAD
    found = [
        line(
            (f"{symbol(one)}/{symbol(two)}", Part.TITLE),
            f"  {state.protocol}  {_fee(state)}  ",
            (state.status, status),
            f"  block {state.block_number} tx {_index(state.tx_index)} log {_index(state.log_index)}",
        ),
        line(f"pool {state.pool_key}"),
        line((f"token0 {one.address} {symbol(one)}", Part.FAINT)),
        line((f"token1 {two.address} {symbol(two)}", Part.FAINT)),
    ]
    if place is None:
        return found
    price = _price(state, place)
    raw = " (raw: decimals unknown)" if _distance(state) is None else ""
    found.append(
        line(
            "price ",
            (number(price), Part.TITLE),
            f" {symbol(two)} for a {symbol(one)}, {number(1 / price)} the other way{raw}",
        )
    )
    if state.ticks is None:
        amounts = (amount_text(state.reserve0 or 0, one), amount_text(state.reserve1 or 0, two))
        found.append(line(f"reserves {amounts[0]} {symbol(one)}, {amounts[1]} {symbol(two)}"))
    else:
        found.append(
            line(
                f"tick {state.tick}, spacing {state.tick_spacing}, {len(state.ticks)} ticks, "
                f"liquidity {state.liquidity}"
            )
        )
    return found


def _fee(state: PoolState) -> str:
    if state.lp_fee is None:
        return percent(state.fee_pips)
    dynamic = " dynamic" if state.fee_pips == DYNAMIC_FEE_PIPS else ""
    taken = state.protocol_fee or 0
    more = f" + {percent(taken & 0xFFF)}/{percent(taken >> 12)} protocol" if taken else ""
    hooks = "  hooks" if state.hooks and int(state.hooks, 16) else ""
    return f"{percent(min(state.lp_fee, FEE_DENOMINATOR_PIPS))}{dynamic}{more}{hooks}"


def _index(value: int) -> str:
    return NOTHING if value == 0xFFFFFFFF else str(value)


def _distance(state: PoolState) -> int | None:
    one, two = state.token0.decimals, state.token1.decimals
    return None if one is None or two is None else one - two


def _price(state: PoolState, tick: float) -> float:
    """Whole tokens 1 for a token 0, as the tables have it; raw where decimals are unknown."""
    return math.exp(tick * TICK_LOG + (_distance(state) or 0) * math.log(10))


def _chart(state: PoolState, width: int, count: int, zoom: int) -> list[Line]:
    """A heading, and a line for each bar: `count` above the price and as many below."""
    found = bars(state, count, zoom)
    if not found:
        return []
    most = max(each.liquidity for each in found)
    room = max(1, width - _SHARE - _PRICE - _AMOUNT - _UNIT - 4)
    title = (
        f"liquidity up to each price, {bar_width(state, count, zoom)} ticks a line; + and - zoom"
    )
    return [line((title, Part.FAINT)), *(_bar(state, each, most, room) for each in found)]


def _bar(state: PoolState, bar: Bar, most: float, room: int) -> Line:
    length = round(bar.liquidity / most * room) if most else 0
    if bar.liquidity and not length:
        length = 1
    token = state.token0 if bar.is_above else state.token1
    unit = symbol(token) if token.decimals is not None else "wei"
    far = bar.upper if bar.is_above else bar.lower
    distance = (far - (price_tick(state) or 0.0)) * TICK_LOG
    return line(
        right(f"{number(math.expm1(distance) * 100, 3)} %", _SHARE),
        right(number(_price(state, far), 6), _PRICE),
        " ",
        ("#" * length + " " * (room - length), Part.GOOD if bar.is_above else Part.MARKED),
        right(number(bar.amount / 10.0 ** (token.decimals or 0), 5), _AMOUNT),
        f" {cut(unit, _UNIT)}",
    )


def _changes(changes: tuple[Change, ...], height: int) -> list[Line]:
    if height < 2:
        return []
    found = [line((f"changes seen by this view: {len(changes)}", Part.FAINT))]
    for index, each in enumerate(changes[: height - 1]):
        before = changes[index + 1].price if index + 1 < len(changes) else None
        moved = f"{(each.price / before - 1) * 100:+.4f} %" if before else ""
        clock = time.strftime("%H:%M:%S", time.localtime(each.seen))
        status = "" if each.status == "live" else f"  {each.status}"
        found.append(
            line(
                f"{clock} block {each.block_number} log {_index(each.log_index)}  "
                f"price {number(each.price)} {moved}{status}"
            )
        )
    return found
