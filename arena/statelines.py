"""A pool as a line of a state file, for whoever writes one (docs/reference/state-file.md)."""

from collections.abc import Callable
from typing import Any

from arena.layouts.protocols import PROTOCOL_NUMBERS, PROTOCOLS

# May exceed 2**53, beyond which not every reader of JSON is exact.
_WIDE = frozenset({"reserve0", "reserve1", "sqrt_price_x96", "liquidity"})


def pool_line(
    protocol: str,
    *,
    pool: str,
    block: int,
    tokens: tuple[dict[str, Any], dict[str, Any]],
    factory: str,
    fee_pips: int,
    value_of: Callable[[str], Any],
    status: str | None = None,
) -> dict[str, Any]:
    """The object of one line. Wide integers are decimal strings; bytes come as hex.

    `block` is the block the values belong to, `value_of` is asked for each of the protocol's own
    fields. Without `status` the line has none, which means live.
    """
    line: dict[str, Any] = {"pool": pool, "protocol": protocol, "block": block}
    if status is not None:
        line["status"] = status
    line |= {
        "token0": tokens[0],
        "token1": tokens[1],
        "factory": factory,
        "fee_pips": fee_pips,
    }
    fields = PROTOCOLS[PROTOCOL_NUMBERS[protocol]].state_fields
    return line | {name: _written(name, value_of(name)) for name in fields}


def token(address: str, decimals: int | None, symbol: str | None) -> dict[str, Any]:
    """A token of a line."""
    return {"address": address, "decimals": decimals, "symbol": symbol}


def _written(name: str, value: Any) -> Any:
    if name == "ticks":
        return [[tick, str(gross), str(net)] for tick, gross, net in value]
    return str(value) if name in _WIDE else value
