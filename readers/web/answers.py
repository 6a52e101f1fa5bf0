"""The bodies of the JSON API: plain dicts, integers of more than 53 bits as decimal text."""

import math
from typing import Any

from arena.errors import QuoteError
from arena.layouts.protocols import FEE_DENOMINATOR_PIPS
from arena.readers.amounts import shown
from arena.readers.frozen import FrozenSnapshot
from arena.readers.frozen_pool import FrozenPool
from arena.readers.quote import Quote, QuoteOptions
from arena.readers.state import PoolState, Token
from arena.readers.views.depth_bars import TICK_LOG, Bar, bars, price_tick
from arena.readers.views.monitor import View
from arena.readers.views.once import pool_dicts, status_dict, token_dict
from arena.readers.views.order import arrange
from arena.readers.web.asked import Page, Swap
from arena.readers.web.watcher import why_not_live

BARS = 20  # to each side of the price


def of_view(view: View) -> dict[str, Any]:
    """What every answer begins with."""
    return {"name": view.name, "block_number": view.block_number, "commit": view.commit}


def of_snapshot(view: View, snapshot: FrozenSnapshot) -> dict[str, Any]:
    """The same, at the block that an answer about one pool is of."""
    return {
        "name": view.name,
        "block_number": snapshot.block_number,
        "commit": snapshot.commit,
    }


def status(view: View) -> dict[str, Any]:
    """Everything but the pools, under the names of arena-top --json."""
    found = status_dict(view)
    return {
        **of_view(view),
        "is_live": why_not_live(view) is None,
        **{name: value for name, value in found.items() if name not in ("name", "committed")},
        "lag_ms": None if view.lag is None else int(view.lag * 1000),
        "events_per_s": view.events_per_s,
        "commits_per_s": view.commits_per_s,
    }


def pools(view: View, page: Page) -> dict[str, Any]:
    """One page of the pools asked for."""
    places = arrange(view.pools, page.choice)
    return {
        **of_view(view),
        "matching": len(places),
        "offset": page.offset,
        "pools": pool_dicts(view.pools, places[page.offset : page.offset + page.limit]),
    }


def pool(state: PoolState) -> dict[str, Any]:
    """One pool, all of it but the ticks."""
    return {
        "pool": state.pool_key,
        "protocol": state.protocol,
        "status": state.status,
        "token0": token_dict(state.token0),
        "token1": token_dict(state.token1),
        "factory": state.factory,
        "fee_pips": state.fee_pips,
        "price": price_of(state),
        "event": {
            "block_number": state.block_number,
            "tx_index": state.tx_index,
            "log_index": state.log_index,
        },
        "base_block": state.base_block,
        "reserve0": _text(state.reserve0),
        "reserve1": _text(state.reserve1),
        "sqrt_price_x96": _text(state.sqrt_price_x96),
        "tick": state.tick,
        "liquidity": _text(state.liquidity),
        "tick_spacing": state.tick_spacing,
        "ticks": None if state.ticks is None else len(state.ticks),
        "protocol_fee": state.protocol_fee,
        "lp_fee": state.lp_fee,
        "fee_block": state.fee_block,
        "hooks": state.hooks,
    }


def ticks(state: PoolState) -> dict[str, Any]:
    """The initialised ticks, ascending; of a pair none."""
    return {
        "tick": state.tick,
        "tick_spacing": state.tick_spacing,
        "liquidity": _text(state.liquidity),
        "ticks": [
            {"tick": tick, "liquidity_gross": str(gross), "liquidity_net": str(net)}
            for tick, gross, net in state.ticks or ()
        ],
    }


def price_of(state: PoolState) -> float | None:
    """Whole tokens 1 for a token 0, raw where decimals are unknown; None without values."""
    place = price_tick(state)
    return None if place is None else _price_at(state, place)


def quote(found: Quote, asked: Swap, tokens: tuple[Token, Token]) -> dict[str, Any]:
    """A quote, its amounts as exact integers and in whole tokens."""
    token_in, token_out = tokens if asked.zero_for_one else tokens[::-1]
    return {
        "exact": "out" if asked.is_exact_out else "in",
        "token_in": token_dict(token_in),
        "token_out": token_dict(token_out),
        "amount_in": _amount(found.amount_in, token_in),
        "amount_out": _amount(found.amount_out, token_out),
        "sqrt_price_x96_after": str(found.sqrt_price_x96_after),
        "tick_after": found.tick_after,
        "liquidity_after": str(found.liquidity_after),
        "ticks_crossed": found.ticks_crossed,
        "is_complete": found.is_complete,
        "fee_pips": found.fee_pips,
        "spot_price": _finite(found.spot_price),
        "marginal_price": _finite(found.marginal_price),
        "effective_price": _finite(found.effective_price),
        "price_impact": _finite(found.price_impact),
    }


def depth(pool: FrozenPool, state: PoolState, zoom: int, options: QuoteOptions) -> dict[str, Any]:
    """Liquidity around the price, and what swaps that would go so far give, each quoted exactly.

    `refusal` says why there are no quotes of a side: a fee that is not known, or hooks.
    """
    found = bars(state, BARS, zoom)
    above = [each for each in reversed(found) if each.is_above]
    below = [each for each in found if not each.is_above]
    tokens = (state.token0, state.token1)
    return {
        "price": price_of(state),
        "bars": [_bar(state, each) for each in found],
        "zero_for_one": _side(pool, below, tokens, True, options),
        "one_for_zero": _side(pool, above, tokens, False, options),
    }


def _bar(state: PoolState, bar: Bar) -> dict[str, Any]:
    return {
        "tick_lower": bar.lower,
        "tick_upper": bar.upper,
        "price_lower": _price_at(state, bar.lower),
        "price_upper": _price_at(state, bar.upper),
        "liquidity": bar.liquidity,
        "is_above": bar.is_above,
    }


def _side(
    pool: FrozenPool,
    going: list[Bar],
    tokens: tuple[Token, Token],
    zero_for_one: bool,
    options: QuoteOptions,
) -> dict[str, Any]:
    """Quotes for amounts that take the price about to the far end of each bar, the nearest first; before
    the first for parts of its amount."""
    token_in, token_out = tokens if zero_for_one else tokens[::-1]
    fee = _fee(pool.state(), options)
    quotes: list[dict[str, Any]] = []
    for wanted in _amounts(going, zero_for_one):
        amount = wanted * FEE_DENOMINATOR_PIPS // max(1, FEE_DENOMINATOR_PIPS - fee)
        if not 0 < amount < 2**255:
            continue
        try:
            found = pool.quote_exact_in(amount, zero_for_one=zero_for_one, **options)
        except QuoteError as error:
            return {
                "quotes": quotes,
                "refusal": {"type": type(error).__name__, "message": str(error)},
            }
        quotes.append(
            {
                "amount_in": _amount(found.amount_in, token_in),
                "amount_out": _amount(found.amount_out, token_out),
                "effective_price": _finite(found.effective_price),
                "price_impact": _finite(found.price_impact),
            }
        )
    return {"quotes": quotes, "refusal": None}


def _amounts(going: list[Bar], zero_for_one: bool) -> list[int]:
    whole, found = 0.0, []
    for bar in going:
        low, high = (math.exp(each * TICK_LOG / 2) for each in (bar.lower, bar.upper))
        whole += bar.liquidity * (1 / low - 1 / high if zero_for_one else high - low)
        parts = (1 / 16, 1 / 4, 1 / 2, 1) if bar is going[0] else (1,)
        found += [int(whole * part) for part in parts if math.isfinite(whole)]
    return found


def _fee(state: PoolState, options: QuoteOptions) -> int:
    """Pips of an amount that a swap pays, about: it only chooses amounts."""
    given = options.get("lp_fee")
    fee = given if given is not None else state.lp_fee
    return min(state.fee_pips if fee is None else fee, FEE_DENOMINATOR_PIPS)


def _price_at(state: PoolState, tick: float) -> float | None:
    one, two = state.token0.decimals, state.token1.decimals
    distance = 0 if one is None or two is None else one - two
    found = tick * TICK_LOG / math.log(10) + distance
    return 10.0**found if -300 < found < 300 else None


def _amount(wei: int, token: Token) -> dict[str, str | None]:
    return {
        "raw": str(wei),
        "amount": None if token.decimals is None else shown(wei, token.decimals),
    }


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
