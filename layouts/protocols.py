"""One row a protocol: its number and names, what its pools are known by, and within which bounds they lie.

Whatever names, counts or bounds pools takes it from here. How a node shows the pools of a protocol is
in writer/protocols, one file each.
"""

import re
from dataclasses import dataclass
from enum import Enum

from arena.layouts.slots import SOLIDLY, UNISWAP_V2, UNISWAP_V3, UNISWAP_V4

FEE_DENOMINATOR_PIPS = 1_000_000
# Concentrated liquidity (TickMath of v3-core and v4-core): a price lies in [MIN, MAX).
MIN_TICK = -887272
MAX_TICK = 887272
MIN_SQRT_PRICE_X96 = 4295128739
MAX_SQRT_PRICE_X96 = 1461446703485210103287273052203988822378723970342


class Family(Enum):
    """What the state of a pool consists of."""

    CONSTANT_PRODUCT = "constant product"  # two reserves
    CONCENTRATED = "concentrated liquidity"  # price, liquidity in range, ticks


@dataclass(frozen=True, slots=True)
class ProtocolRow:
    """What both sides know of a protocol.

    A pool's key is its address; with 32 bytes it is an id inside the one contract that holds all pools
    and is then the `factory` of each. `state_fields` follow in a line of a state file on what every
    pool has, in this order.
    """

    number: int  # `protocol` of a static row, and the feed's
    name: str  # in state files, counters and what readers show
    family: Family
    state_fields: tuple[str, ...]
    max_fee_pips: int
    default_fee_pips: int | None = None  # of a pool whose fee a list leaves out; None: it may not
    max_tick_spacing: int = 0
    key_nbytes: int = 20
    has_listed_fee: bool = True  # False: read with the state, may change; `fee_pips` of a spec is 0
    is_in_feeds: bool = True  # False: its events come from a node's logs alone

    @property
    def has_ticks(self) -> bool:
        return self.family is Family.CONCENTRATED

    @property
    def has_stored_fees(self) -> bool:
        """Its fees lie in storage and change: protocol_fee and lp_fee."""
        return "lp_fee" in self.state_fields

    @property
    def is_managed(self) -> bool:
        """All pools are in one contract, which holds their storage and emits their logs."""
        return self.key_nbytes == 32


_PRICE_AND_TICKS = ("tick_spacing", "sqrt_price_x96", "tick", "liquidity", "ticks")

PROTOCOLS = {
    row.number: row
    for row in (
        ProtocolRow(
            UNISWAP_V2,
            "uniswap_v2",
            Family.CONSTANT_PRODUCT,
            ("reserve0", "reserve1"),
            max_fee_pips=FEE_DENOMINATOR_PIPS - 1,
            default_fee_pips=3000,
        ),
        ProtocolRow(
            UNISWAP_V3,
            "uniswap_v3",
            Family.CONCENTRATED,
            _PRICE_AND_TICKS,
            max_fee_pips=FEE_DENOMINATOR_PIPS - 1,
            max_tick_spacing=16383,  # UniswapV3Factory: tickSpacing < 16384
        ),
        ProtocolRow(
            UNISWAP_V4,
            "uniswap_v4",
            Family.CONCENTRATED,
            (*_PRICE_AND_TICKS, "protocol_fee", "lp_fee", "fee_block", "hooks"),
            max_fee_pips=FEE_DENOMINATOR_PIPS,  # DYNAMIC_FEE_PIPS besides
            max_tick_spacing=32767,  # TickMath.MAX_TICK_SPACING: the greatest int16
            key_nbytes=32,
        ),
        ProtocolRow(
            SOLIDLY,
            "solidly",
            Family.CONSTANT_PRODUCT,
            ("reserve0", "reserve1"),
            max_fee_pips=FEE_DENOMINATOR_PIPS,
            has_listed_fee=False,
            is_in_feeds=False,
        ),
    )
}
CONSTANT_PRODUCT = tuple(number for number, row in PROTOCOLS.items() if not row.has_ticks)
UNLISTED_FEES = tuple(number for number, row in PROTOCOLS.items() if not row.has_listed_fee)
PROTOCOL_NAMES = {number: row.name for number, row in PROTOCOLS.items()}
FEED_NAMES = {number: row.name for number, row in PROTOCOLS.items() if row.is_in_feeds}
PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}

# What a feed brings besides, by its numbers: counted, never applied.
NOT_HELD = {
    3: "ekubo",
    4: "curve_stable",
    5: "curve_twocrypto",
    6: "curve_tricrypto",
    7: "balancer_v2_weighted",
    8: "fluid",
    15: "unknown",
}


def protocol_name(number: int) -> str:
    """Of any protocol that a feed brings; the number as text for one it has not."""
    return PROTOCOL_NAMES.get(number) or NOT_HELD.get(number, str(number))


@dataclass(frozen=True, slots=True)
class ListedName:
    """A name that lists, messages and state files have for pools of a protocol.

    `layout` names a storage layout other than the protocol's own. A state file needs none and has no
    room for it: there such pools go by the protocol's name.
    """

    name: str
    protocol: int
    short: str = ""
    layout: str = ""


LISTED_NAMES = (
    ListedName("uniswap_v2", UNISWAP_V2, "v2"),
    ListedName("uniswap_v3", UNISWAP_V3, "v3"),
    ListedName("pancakeswap_v3", UNISWAP_V3, layout="pancakeswap_v3"),
    ListedName("uniswap_v4", UNISWAP_V4, "v4"),
    # Contracts, storage and events are Uniswap's.
    ListedName("sushiswap_v2", UNISWAP_V2, "sushi_v2"),
    ListedName("sushiswap_v3", UNISWAP_V3, "sushi_v3"),
    # Volatile pairs: of the newer contracts, then of Solidly's own and Velodrome V1.
    ListedName("solidly", SOLIDLY, "aerodrome"),
    ListedName("velodrome_v2", SOLIDLY),
    ListedName("solidly_v1", SOLIDLY, "velodrome_v1", layout="solidly_v1"),
)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


_BY_SPELLING = {_plain(text): row for row in LISTED_NAMES for text in (row.name, row.short) if text}


def listed_name(text: str) -> ListedName | None:
    """The name spelled `text`, long or short, in any case, with any separators; None for another."""
    return _BY_SPELLING.get(_plain(text))
