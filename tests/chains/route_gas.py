"""What swaps cost in gas, from receipts: of routes of one to five swaps, and of swaps across ticks.

The caller is Swapper.sol, which has some of each token before and after, as have the pools, and every pool
was swapped in before, both ways and across its ticks: no slot that is written was zero. Tokens are as plain
as they can be. A swap's gas is what a further one adds to a route, its calldata and both transfers with it.
"""

import random
from dataclasses import dataclass

import numpy as np

from chains.evm import word
from chains.market import MAX_TICK, Kind, Market, Pool
from chains.process import Node
from chains.swapper import Leg, Swapper

KINDS: tuple[Kind, ...] = ("uniswap_v2", "uniswap_v3", "pancakeswap_v3", "uniswap_v4")
MOST_SWAPS = 5
TICKS = 8  # on either side
FEE, SPACING = 500, 10
BLOCK_S = 12
LIQUIDITY = 10**24
MIDDLE = 128 * SPACING  # tick; of a word of the bitmap, so that no swap comes to its end
PRICE = int(1.0001 ** (MIDDLE / 2) * 2**96)  # square root, Q64.96
AMOUNT = LIQUIDITY // 5000  # moves a price by four ticks, so that V3 writes into its oracle


@dataclass(frozen=True, slots=True)
class Measured:
    """Units of gas: `transaction` beside the swaps, of one swap by kind, of one crossed tick by kind."""

    transaction: dict[Kind, float]
    swaps: dict[Kind, float]
    ticks: dict[Kind, float]

    def of_route(self, kinds: list[Kind]) -> float:
        """What these would say of swaps that cross no tick."""
        return float(np.mean(list(self.transaction.values()))) + sum(self.swaps[k] for k in kinds)


class Line(Market):
    """A pool of each kind between each token and the next, those with ticks all at one price."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, seed=1, tokens=MOST_SWAPS + 1)
        node.call("anvil_setBlockTimestampInterval", BLOCK_S)  # in which oracles write once
        count = MOST_SWAPS
        self.create_pools(v2=count, v3=count, v4=count, cake=count)
        self.line = {kind: [p for p in self.pools if p.kind == kind] for kind in KINDS}
        self.swapper = Swapper(self)
        node.run(self.swapper.give(dict.fromkeys(self.tokens, 10**30)))
        for _ in range(2):
            for zero_for_one in (True, False):
                for pool in self.pools:
                    amount = AMOUNT
                    if pool in self._stepped():
                        amount = 6 * LIQUIDITY // 1000 if zero_for_one else 12 * LIQUIDITY // 1000
                    leg = Leg(pool.key, zero_for_one, amount)
                    node.run([self.swapper.transaction([leg])])
        for pool in self._stepped():  # back to the middle
            node.run([self.swapper.transaction([Leg(pool.key, True, self._over(pool))])])

    def _stepped(self) -> list[Pool]:
        """Those with ticks to cross."""
        return [self.line[kind][0] for kind in KINDS[1:]]

    def _over(self, pool: Pool) -> int:
        """Of token0, what brings the price back, about."""
        price = self.states("latest", [pool.key])[pool.key]["sqrt_price_x96"]
        return int(LIQUIDITY * (2**96 / PRICE - 2**96 / price))

    def _combinations(self, kind, tiers, count, *, coin=False):  # type: ignore[no-untyped-def]
        fee, spacing = (3000, 0) if kind == "uniswap_v2" else (FEE, SPACING)
        return [(*self.tokens[at : at + 2], fee, spacing) for at in range(count)]

    def _create_v4(self, count: int) -> list[Pool]:
        manager = self.manager
        pools = [
            Pool("uniswap_v4", "", manager, *item, manager)
            for item in self._combinations("uniswap_v4", (), count)
        ]
        for pool, key in zip(pools, self.node.keccak(*(p.v4_key for p in pools)), strict=True):
            pool.key = "0x" + key.hex()
        return pools

    def _first_liquidity(self, pool: Pool) -> list[dict[str, str]]:
        if pool.kind == "uniswap_v2":
            return [self._v2_mint(pool, LIQUIDITY, LIQUIDITY)]
        made = []
        if pool.kind == "uniswap_v4":
            name = "initialize((address,address,uint24,int24,address),uint160)"
            data = self.node.selector(name) + pool.v4_key + word(PRICE)
            made.append(self.node.transaction(self.manager, data))
        else:
            made.append(self._call(pool.address, "initialize(uint160)", PRICE))
        highest = MAX_TICK // SPACING * SPACING
        made.append(self._mint(pool, -highest, highest, LIQUIDITY))
        if (pool.token0, pool.token1) == tuple(self.tokens[:2]):
            for step in range(1, TICKS + 1):
                ends = MIDDLE - SPACING * step, MIDDLE + SPACING * step
                made.append(self._mint(pool, *ends, LIQUIDITY // 1000))
        return made

    def gas(self, kinds: list[Kind], zero_for_one: bool) -> int:
        """Of a route of so many swaps, from the second token on."""
        places = range(1, 1 + len(kinds))
        pools = [self.line[kind][at] for kind, at in zip(kinds, places, strict=True)]
        legs = [Leg(pool.key, zero_for_one, AMOUNT) for pool in pools]
        return self.swapper.execute(legs[:: 1 if zero_for_one else -1], {}).gas

    def crossing(self, kind: Kind, amount: int, zero_for_one: bool) -> tuple[int, int]:
        """Ticks that a swap crosses and its gas."""
        pool = self.line[kind][0]
        state = self.states("latest", [pool.key])[pool.key]
        done = self.swapper.execute([Leg(pool.key, zero_for_one, amount)], {})
        low, high = sorted((state["tick"], done.ticks[0]))
        return sum(low < tick <= high for tick, _, _ in state["ticks"]), done.gas


def slope(points: list[tuple[int, int]]) -> tuple[float, float]:
    """What one more adds, and what there is without any, by least squares."""
    more, none = np.polyfit(*np.array(points, float).T, 1)
    return float(more), float(none)


def measure(line: Line) -> Measured:
    """All figures, each the mean of both directions."""
    transaction, swaps, ticks = {}, {}, {}
    for kind in KINDS:
        fits = [
            slope([(n, line.gas([kind] * n, way)) for n in range(1, MOST_SWAPS)])
            for way in (True, False)
        ]
        swaps[kind], transaction[kind] = (float(each) for each in np.mean(fits, axis=0))
        if kind == "uniswap_v2":
            continue
        step = LIQUIDITY * SPACING // 20_000  # moves the price by a spacing
        crossed = []
        for way in (True, False):
            points = [line.crossing(kind, step // 2 + step * n, way) for n in range(TICKS)]
            assert len({count for count, _ in points}) >= TICKS - 1, points
            crossed.append(slope(points)[0])
        ticks[kind] = float(np.mean(crossed))
    return Measured(transaction, swaps, ticks)


def mixed(line: Line, measured: Measured, count: int) -> list[float]:
    """By what share routes of several kinds differ from what the figures say."""
    draw = random.Random(1)
    apart = []
    for _ in range(count):
        kinds = draw.choices(KINDS, k=draw.randrange(2, MOST_SWAPS))
        apart.append(line.gas(kinds, draw.random() < 0.5) / measured.of_route(kinds) - 1)
    return apart
