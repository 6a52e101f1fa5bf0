"""What a reader shows and a scraper reads of a pool, as plain dicts in the words of the true states.

Imports nothing of the product.
"""

from typing import Any


def concentrated(values: Any) -> dict[str, Any]:
    """Price, liquidity and ticks of a PoolState or of PoolValues."""
    return {
        "sqrt_price_x96": values.sqrt_price_x96,
        "tick": values.tick,
        "liquidity": values.liquidity,
        "ticks": [list(tick) for tick in values.ticks],
    }


def shown(state: Any) -> dict[str, Any]:
    """What events tell of a pool, by its PoolState; of a Solidly pair the fee, too."""
    reserves = {"reserve0": state.reserve0, "reserve1": state.reserve1}
    if state.protocol == "solidly":
        return reserves | {"fee_pips": state.fee_pips}
    return reserves if state.protocol == "uniswap_v2" else concentrated(state)


def scraped(scrape: Any) -> dict[str, dict[str, Any]]:
    """By pool of a Scrape, the fields the getters give."""
    states = {}
    for pool in scrape.pools:
        values = pool.values
        state = {"reserve0": values.reserve0, "reserve1": values.reserve1}
        if pool.spec.tick_spacing:
            state = concentrated(values)
        if len(pool.spec.key) == 32:
            state |= {"protocol_fee": values.protocol_fee, "lp_fee": values.lp_fee}
        states["0x" + pool.spec.key.hex()] = state
    return states
