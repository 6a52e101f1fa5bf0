"""What a made-up market consists of, before there is an arena: tokens, pools, positions and prices.

Five hubs and ten middle tokens with many parallel pools, and a long tail in which four of five pools are
against WETH. Every pool knows the true price of its pair, and how far from it nobody gains by moving it.

A rough market has, besides, volatile pairs of Solidly, hooks that take part in swaps, pools that hold dust,
and no full ranges: liquidity of ticks ends, and swaps of some size use it up.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from oracle.swap_oracle import sqrt_price_at_tick

from arena.layouts import slots

LOG_TICK = math.log1p(0.0001)

WETH, USDC, USDT, DAI, WBTC = range(5)
# Symbol, decimals, true price in USD; the hubs, then the middle.
KNOWN = (
    *(("WETH", 18, 3_150.0), ("USDC", 6, 1.0), ("USDT", 6, 0.9995), ("DAI", 18, 1.0002)),
    *(("WBTC", 8, 97_400.0), ("WSTETH", 18, 3_790.0), ("LINK", 18, 13.8), ("UNI", 18, 8.1)),
    *(("PEPE", 18, 9.3e-6), ("FRAX", 18, 0.998), ("LUSD", 18, 1.004), ("CRV", 18, 0.47)),
    *(("MKR", 18, 1_420.0), ("AAVE", 18, 171.0), ("GUSD", 2, 1.0)),
)
HUBS = 5
# Parallel pools of two hubs, and of a middle token with each hub, in a market of 1,000 pools or more.
PARALLEL = (
    *((WETH, USDC, 14), (WETH, USDT, 13), (WETH, DAI, 9), (WETH, WBTC, 10), (USDC, USDT, 11)),
    *((USDC, DAI, 8), (USDC, WBTC, 7), (USDT, DAI, 5), (USDT, WBTC, 6), (DAI, WBTC, 2)),
)
MIDDLE = (6, 3, 2, 1, 1)
# What is on the other side of a tail pool: a hub, a middle token, or another of the tail.
TAIL_SIDES = np.cumsum([0.8, 0.08, 0.06, 0.02, 0.01, 0.015, 0.015])
TAIL_VALUE = (math.log(3e4), 2.0)
V2, V3, V4 = slots.UNISWAP_V2, slots.UNISWAP_V3, slots.UNISWAP_V4
SOLIDLY = slots.SOLIDLY
HOOKS = slots.HOOKS_SWAP_BITS.to_bytes(20, "big")
DUST = (math.log(1e-3), math.log(10.0))  # USD
SPACINGS = {100: 1, 500: 10, 3000: 60, 10000: 200}
MAX_TICK = 887272
LEFT_USD = 0.05  # gain that nobody takes, for it does not pay the gas


class MarketToken(NamedTuple):
    """A token: 0x-hex address, decimals, true price of a whole one in USD."""

    address: str
    decimals: int
    usd: float

    @property
    def raw_usd(self) -> float:
        """True price of its smallest unit."""
        return self.usd / 10.0**self.decimals


class Position(NamedTuple):
    """Liquidity from `lower` up to `upper`."""

    lower: int
    upper: int
    liquidity: int


class Ranges:
    """The positions of one pool, the widest first, and what they sum up to."""

    def __init__(self, positions: tuple[Position, ...]) -> None:
        gross: dict[int, int] = {}
        net: dict[int, int] = {}
        for lower, upper, liquidity in positions:
            for tick, sign in ((lower, 1), (upper, -1)):
                gross[tick] = gross.get(tick, 0) + liquidity
                net[tick] = net.get(tick, 0) + sign * liquidity
        self.positions = positions
        self.places = sorted(gross)
        self.ticks = tuple((tick, gross[tick], net[tick]) for tick in self.places)
        self.active = [0]  # liquidity once so many ticks lie at or below the price
        for tick in self.places:
            self.active.append(self.active[-1] + net[tick])

    def liquidity_at(self, tick: int) -> int:
        """What is active at that tick."""
        return self.active[bisect_right(self.places, tick)]


@dataclass(eq=False, slots=True)
class MarketPool:
    """One pool: 0x-hex key, indices of its tokens, a protocol of layouts.slots, fee in pips.

    `index` is its place among the market's pools. `status` is live, stale, syncing (announced, without
    values) or removed. `log_price` is the logarithm of the true price, raw token1 for raw token0; `band`
    how far from it the pool rests at most.
    """

    index: int
    key: str
    token0: int
    token1: int
    protocol: int
    fee: int
    protocol_fee: int  # V4: 24 bits as stored
    log_price: float
    tvl_usd: float
    band: float = 0.0
    strength: float = 0.0  # V2: root of the product of the reserves
    ranges: Ranges = field(default_factory=lambda: Ranges(()))  # V3 and V4
    status: str = "new"
    slot: int = -1
    installed_at: int = 0  # the block its first values are of
    hooks: bytes = bytes(20)

    @property
    def is_pair(self) -> bool:
        """Whether it has two reserves and no ticks."""
        return self.protocol in (V2, SOLIDLY)

    @property
    def spacing(self) -> int:
        """Of its ticks; 0 of a pair."""
        return 0 if self.is_pair else SPACINGS[self.fee]

    @property
    def is_removed(self) -> bool:
        """Whether it was taken away."""
        return self.status == "removed"


class Price(NamedTuple):
    """The state that moves: V2 has both reserves, the others root price (Q64.96), tick and liquidity."""

    a: int
    tick: int
    b: int


class Shape:
    """Draws everything from one stream of random numbers, in the order asked."""

    def __init__(self, pools: int, seed: int, *, is_rough: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.is_rough = is_rough
        self.tokens: list[MarketToken] = []
        self.pools: list[MarketPool] = []
        for _, decimals, usd in KNOWN:
            self.tokens.append(MarketToken("0x" + self.rng.bytes(20).hex(), decimals, usd))
        for _ in range(int(0.55 * pools)):
            self.draw_token()
        for one, other, value in self._plan(pools):
            self._draw_pool(one, other, value)

    def draw_token(self) -> int:
        """Index of a new token of the tail."""
        decimals = (6, 8, 9, *(18,) * 17)[int(self.rng.integers(20))]
        usd = min(max(math.exp(self.rng.normal(-2, 3)), 1e-7), 1e4)
        self.tokens.append(MarketToken("0x" + self.rng.bytes(20).hex(), decimals, usd))
        return len(self.tokens) - 1

    def draw_tail_pool(self, token: int | None) -> MarketPool:
        """A new pool of that token of the tail, or of a popular one."""
        chosen = self._popular() if token is None else token
        return self._draw_pool(chosen, self._other_side(chosen), TAIL_VALUE)

    def _plan(self, pools: int) -> list[tuple[int, int, tuple[float, float]]]:
        """The two tokens of each pool, and its value: between which sums in USD it lies or, when the
        second number is the lower one, mean and deviation of its logarithm."""
        scale = min(1.0, pools / 1000)
        found: list[tuple[int, int, tuple[float, float]]] = []
        for one, other, count in PARALLEL:
            found += [(one, other, (1e5, 1.5e8))] * math.ceil(count * scale)
        for middle in range(HUBS, len(KNOWN)):
            for hub, count in enumerate(MIDDLE):
                found += [(middle, hub, (2e4, 2e7))] * math.ceil(count * scale)
            following = HUBS + (middle - HUBS + 1) % (len(KNOWN) - HUBS)
            found.append((middle, following, (1e4, 1e6)))
        tail = len(self.tokens) - len(KNOWN)
        for number in range(pools - len(found)):
            token = len(KNOWN) + number if number < tail else self._popular()
            found.append((token, self._other_side(token), TAIL_VALUE))
        return found[:pools]

    def _popular(self) -> int:
        """A token of the tail; of the middle when there is none."""
        tail = len(self.tokens) - len(KNOWN)
        return len(KNOWN) + int(self.rng.random() ** 3 * tail) if tail else HUBS

    def _other_side(self, token: int) -> int:
        side = int(np.searchsorted(TAIL_SIDES, self.rng.random()))
        if side < HUBS:
            return side
        other = HUBS + int(self.rng.integers(len(KNOWN) - HUBS))
        if side > HUBS:
            other = self._popular()
        return WETH if other == token else other

    def _draw_pool(self, one: int, other: int, value: tuple[float, float]) -> MarketPool:
        is_hub = value[0] < value[1]
        if is_hub:
            tvl = math.exp(self.rng.uniform(math.log(value[0]), math.log(value[1])))
        else:
            tvl = min(max(math.exp(self.rng.normal(*value)), 500.0), 2e7)
        chance, which = self.rng.random(2).tolist()
        shares = (0.3, 0.75) if is_hub else (0.5, 0.87)
        protocol = (V2, V3, V4)[bisect_right(shares, chance)]
        fees = (0.25, 0.65, 0.95) if is_hub else (0.02, 0.08, 0.5)
        fee = 3000 if protocol == V2 else (100, 500, 3000, 10000)[bisect_right(fees, which)]
        taken = [0, 0]
        if protocol == V4 and self.rng.random() < 0.2:
            taken = self.rng.integers(0, 1001, 2).tolist()
        low, high = sorted((one, other), key=lambda index: self.tokens[index].address)
        raw_usd = self.tokens[high].raw_usd
        log_price = math.log(self.tokens[low].raw_usd / raw_usd)
        hooks = bytes(20)
        if self.is_rough:
            chance, which = self.rng.random(2).tolist()
            if protocol == V2 and chance < 0.3:
                protocol = SOLIDLY
            elif protocol == V4 and chance < 0.1:
                hooks = HOOKS
            if which < 0.05:
                tvl = math.exp(self.rng.uniform(*DUST))
        pool = MarketPool(
            len(self.pools),
            "0x" + self.rng.bytes(32 if protocol == V4 else 20).hex(),
            *(low, high, protocol, fee, taken[1] << 12 | taken[0], log_price, tvl),
            hooks=hooks,
        )
        if pool.is_pair:
            depth, pool.strength = tvl, tvl / 2 / raw_usd / math.exp(log_price / 2)
        else:
            wanted = self.rng.uniform(60, 300) if is_hub else 2 + 8 * math.exp(self.rng.normal())
            depth = self._fill(pool, min(int(wanted), 300))
        # Who moves a pool of that depth by d, in logarithms, gains about depth * d * d / 8.
        pool.band = min(0.9e-6 * fee + math.sqrt(8 * LEFT_USD / (depth + 1)), 0.3)
        self.pools.append(pool)
        return pool

    def _fill(self, pool: MarketPool, count: int) -> float:
        """Give the pool its full range, or a wide one, and `count` positions of about the same value; the
        value in USD of the reserves of a V2 pool that is as deep."""
        end = MAX_TICK // pool.spacing * pool.spacing
        share = pool.tvl_usd / (count + 1)
        root = math.exp(pool.log_price / 2)
        raw_usd = self.tokens[pool.token1].raw_usd
        whole = Position(-end, end, max(1000, int(share / raw_usd / 2 / root)))
        if self.is_rough:
            (whole,) = self.positions(pool, 1, share)
        pool.ranges = Ranges((whole, *self.positions(pool, count, share)))
        return 2 * pool.ranges.liquidity_at(math.floor(pool.log_price / LOG_TICK)) * root * raw_usd

    def positions(self, pool: MarketPool, count: int, usd: float) -> list[Position]:
        """So many around the true price, 1 % to 200 % wide in logarithms, each worth about `usd`."""
        width = 0.01 * 200 ** self.rng.random(count)
        half = np.ceil(width / 2 / LOG_TICK / pool.spacing)
        middle = np.round(pool.log_price / LOG_TICK / pool.spacing)
        middle = middle + np.round(self.rng.normal(0, 0.3, count) * half)
        value = usd / self.tokens[pool.token1].raw_usd * np.exp(self.rng.normal(0, 1, count))
        root = math.exp(pool.log_price / 2)
        liquidity = np.maximum(1000, value / (2 * root * -np.expm1(-width / 4)))
        end = MAX_TICK // pool.spacing
        lower = np.clip(middle - half, -end, end - 1).astype(int)
        upper = np.maximum(np.clip(middle + half, -end, end).astype(int), lower + 1)
        rows = zip(lower.tolist(), upper.tolist(), liquidity.tolist(), strict=True)
        return [Position(lo * pool.spacing, up * pool.spacing, int(liq)) for lo, up, liq in rows]

    def resting(self, pool: MarketPool) -> Price:
        """A state within the pool's band; now and then right on one of its ticks."""
        if self.rng.random() < 1 / 8:
            low, high = ((pool.log_price + side * pool.band) / LOG_TICK for side in (-1.0, 1.0))
            index = bisect_right(pool.ranges.places, low)
            if index < len(pool.ranges.places) and pool.ranges.places[index] < high:
                place = pool.ranges.places[index]
                tick = place - int(
                    self.rng.integers(2)
                )  # one below, as a swap down to it leaves it
                return Price(sqrt_price_at_tick(place), tick, pool.ranges.liquidity_at(tick))
        return self.price(pool, float(self.rng.uniform(-pool.band, pool.band)))

    def pushed(self, pool: MarketPool, shock: tuple[float, float]) -> Price:
        """A state out of the pool's band, by between the two of `shock`."""
        size = math.exp(self.rng.uniform(math.log(shock[0]), math.log(shock[1])))
        return self.price(pool, math.copysign(pool.band + size, self.rng.random() - 0.5))

    def price(self, pool: MarketPool, deviation: float) -> Price:
        """State at that distance from the true price, for V3 and V4 to within a hundredth of a tick."""
        noise = int(self.rng.integers(1 << 62))
        log_price = pool.log_price + deviation
        if pool.is_pair:
            root = math.exp(log_price / 2)
            reserve1 = _whole(pool.strength * root, noise >> 5)
            return Price(max(2000, _whole(pool.strength / root, noise)), 0, max(2000, reserve1))
        at = log_price / LOG_TICK
        tick = math.floor(at)
        at = tick + min(
            max(at - tick, 0.01), 0.99
        )  # doubles leave no doubt on which side of a tick
        price = _whole(math.exp(at * LOG_TICK / 2) * 2.0**96, noise)
        return Price(price, tick, pool.ranges.liquidity_at(tick))


def _whole(value: float, noise: int) -> int:
    """An integer of that size, with digits where a double has none."""
    found = int(value)
    spare = found.bit_length() - 53
    return found | noise % (1 << spare) if spare > 0 else found
