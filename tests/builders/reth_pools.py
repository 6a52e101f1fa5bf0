"""The pools of the database fixtures as the product describes them, for tests of its scraper."""

from collections.abc import Iterable
from typing import Any

from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.storage import PoolTarget
from arena.writer.protocols.uniswap_v3 import PANCAKESWAP_V3_LAYOUT

PROTOCOLS = {"v2": UNISWAP_V2, "v3": UNISWAP_V3, "pancake_v3": UNISWAP_V3, "v4": UNISWAP_V4}


def from_hex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def target_of(pool: dict[str, Any], **changes: Any) -> PoolTarget:
    """The target a pool list would name; `changes` replace fields of its spec."""
    is_v4 = pool["protocol"] == "v4"
    names = ("currency0", "currency1") if is_v4 else ("token0", "token1")
    token0, token1 = (TokenSpec(from_hex(pool[name]), 18, "") for name in names)
    fields = {
        "key": from_hex(pool["key"]),
        "protocol": PROTOCOLS[pool["protocol"]],
        "token0": token0,
        "token1": token1,
        "fee_pips": int(pool.get("fee", 3000)),
        "tick_spacing": int(pool.get("tickSpacing", 0)),
        "factory": from_hex(pool["manager"] if is_v4 else pool["factory"]),
        "hooks": from_hex(pool["hooks"]) if is_v4 else bytes(20),
    }
    layout = PANCAKESWAP_V3_LAYOUT if pool["protocol"] == "pancake_v3" else None
    return pool_target(PoolSpec(**(fields | changes)), layout)


def targets_of(pools: Iterable[dict[str, Any]]) -> list[PoolTarget]:
    return [target_of(pool) for pool in pools]


def state_of(pool: dict[str, Any], values: PoolValues) -> dict[str, Any]:
    """Scraped values in the words of truth.json: what `true_state` gives for a correct scrape."""
    if pool["protocol"] == "v2":
        return {"reserve0": str(values.reserve0), "reserve1": str(values.reserve1)}
    state: dict[str, Any] = {
        "sqrtPriceX96": str(values.sqrt_price_x96),
        "tick": str(values.tick),
        "liquidity": str(values.liquidity),
        "ticks": [[str(number) for number in tick] for tick in values.ticks],
    }
    if pool["protocol"] == "v4":
        state |= {"protocolFee": str(values.protocol_fee), "lpFee": str(values.lp_fee)}
    return state


def true_state(pool: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """The part of a recorded state that the arena holds."""
    names = ["reserve0", "reserve1"]
    if pool["protocol"] != "v2":
        names = ["sqrtPriceX96", "tick", "liquidity", "ticks"]
    if pool["protocol"] == "v4":
        names += ["protocolFee", "lpFee"]
    return {name: state[name] for name in names}
