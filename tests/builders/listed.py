"""Listed pools in the words of the oracle of pool lists."""

from oracle.whitelist_oracle import Described

from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.writer.protocols.storage import PoolTarget

VERSIONS = {UNISWAP_V2: "v2", UNISWAP_V3: "v3", UNISWAP_V4: "v4"}


def described(target: PoolTarget) -> Described:
    """A target as the oracle writes it."""
    spec = target.spec
    tokens = [(t.address.hex(), t.decimals, t.symbol) for t in (spec.token0, spec.token1)]
    return (
        spec.key.hex(),
        VERSIONS[spec.protocol],
        spec.fee_pips,
        spec.tick_spacing,
        spec.factory.hex(),
        spec.hooks.hex(),
        *tokens,
    )
