"""The liquidity of one pool above and below its price, range by range, for a chart of a few lines."""

import math
from dataclasses import dataclass

from arena.layouts.protocols import MAX_TICK, MIN_TICK
from arena.readers.state import PoolState

TICK_LOG = math.log(1.0001)
SPACINGS = 20  # what a chart spans to each side unless zoomed, in tick spacings
PAIR_SPACING = 60  # of pairs, which have no ticks


@dataclass(frozen=True, slots=True)
class Bar:
    """Ticks from `lower` up to `upper`: mean liquidity there, and what the pool pays out until the price
    has gone through them.

    `amount` is token 0 of a bar above the price, token 1 of one below, in smallest units.
    """

    lower: float
    upper: float
    liquidity: float
    amount: float
    is_above: bool


def bar_width(state: PoolState, count: int, zoom: int) -> int:
    """Ticks of a bar with `count` to each side; each zoom step halves or doubles it, down to a tick
    spacing."""
    spacing = state.tick_spacing or PAIR_SPACING
    whole = max(1, round(SPACINGS / max(1, count) * 2.0**-zoom))
    return min(whole * spacing, MAX_TICK)


def price_tick(state: PoolState) -> float | None:
    """Where the price lies, in ticks; None without values."""
    if state.sqrt_price_x96:
        return 2 * (math.log(state.sqrt_price_x96) - 96 * math.log(2)) / TICK_LOG
    if state.reserve0 and state.reserve1:
        return (math.log(state.reserve1) - math.log(state.reserve0)) / TICK_LOG
    return None


def bars(state: PoolState, count: int, zoom: int = 0) -> tuple[Bar, ...]:
    """Up to `count` bars above the price and as many below, all of one width but at the ends of the range
    of prices; the highest first. Empty without values."""
    place = price_tick(state)
    if place is None:
        return ()
    width = bar_width(state, count, zoom)
    edges = [
        (max(MIN_TICK, place + index * width), min(MAX_TICK, place + (index + 1) * width))
        for index in reversed(range(-count, count))
    ]
    reach = count * width
    steps = [
        each for each in _steps(state, place) if each[1] > place - reach and each[0] < place + reach
    ]
    return tuple(
        _bar(lower, upper, steps, upper > place) for lower, upper in edges if lower < upper
    )


def _steps(state: PoolState, place: float) -> list[tuple[float, float, int]]:
    """Stretches of equal liquidity, as (from, to, liquidity), ascending; the price is an edge."""
    if state.ticks is None:
        product = (state.reserve0 or 0) * (state.reserve1 or 0)
        return [(MIN_TICK, place, math.isqrt(product)), (place, MAX_TICK, math.isqrt(product))]
    above: list[tuple[float, float, int]] = []
    liquidity, start = state.liquidity or 0, place
    tick = state.tick or 0
    for each, _, net in state.ticks:
        if each > tick:
            above.append((start, max(start, each), liquidity))
            liquidity, start = liquidity + net, max(start, each)
    below: list[tuple[float, float, int]] = []
    liquidity, end = state.liquidity or 0, place
    for each, _, net in reversed(state.ticks):
        if each <= tick:
            below.append((min(end, each), end, liquidity))
            liquidity, end = liquidity - net, min(end, each)
    return [*reversed(below), *above]


def _bar(lower: float, upper: float, steps: list[tuple[float, float, int]], is_above: bool) -> Bar:
    weighted = amount = 0.0
    for start, end, liquidity in steps:
        low, high = max(start, lower), min(end, upper)
        if low >= high:
            continue
        weighted += liquidity * (high - low)
        way = 1 / _root(low) - 1 / _root(high) if is_above else _root(high) - _root(low)
        amount += liquidity * way
    return Bar(lower, upper, weighted / (upper - lower), amount, is_above)


def _root(tick: float) -> float:
    return math.exp(tick * TICK_LOG / 2)
