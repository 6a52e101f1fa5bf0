"""A market on a node whose prices agree but for a hundredth, so that there are paths and circles."""

import math
from typing import Any

from chains.market import MAX_TICK, ZERO, Market, Pool
from chains.process import Node

APART = 0.01  # standard deviation of a pool's log price
NARROW_SHARE = 0.35  # of the pools with ticks: all of their liquidity is in a few ranges


class RoutedMarket(Market):
    """Few tokens and the coin, several pools of most pairs. Of V4 at least one has hooks, and one of those
    that have none the coin."""

    def __init__(self, node: Node, *, seed: int, tokens: int = 6) -> None:
        super().__init__(node, seed=seed, tokens=tokens)
        self.values = {
            token: 10 ** self.random.uniform(-1, 1) for token in (ZERO, *self.tokens)
        }  # of a unit
        self.narrow: set[str] = set()  # keys of pools whose liquidity ends
        self.create_pools(v2=10, v3=12, v4=14, cake=6)
        while not self.hooked or not any(
            pool.token0 == ZERO and pool.hooks == ZERO for pool in self.pools
        ):
            self.create_pools(v4=1)

    @property
    def hooked(self) -> set[str]:
        """Keys of the pools with hooks."""
        return {pool.key for pool in self.pools if pool.hooks != ZERO}

    def _first_liquidity(self, pool: Pool) -> list[dict[str, str]]:
        draw = self.random
        ratio = self.values[pool.token0] / self.values[pool.token1]
        ratio *= math.exp(draw.gauss(0, APART))
        if pool.kind == "uniswap_v2":
            amount = 10 ** draw.uniform(20.5, 23) / self.values[pool.token0]
            return [self._v2_mint(pool, int(amount), int(amount * ratio))]
        pool.near_tick = math.floor(math.log(ratio) / math.log(1.0001))
        transactions = self._opened(pool, int(math.sqrt(ratio) * (1 << 96)))
        spacing = pool.tick_spacing
        highest = MAX_TICK // spacing * spacing
        if spacing <= 200 and draw.random() < NARROW_SHARE:
            self.narrow.add(pool.key)
            transactions.append(self._near(pool, 10 ** draw.uniform(21.5, 23)))
        else:
            amount = int(10 ** draw.uniform(21, 23))
            transactions.append(self._mint(pool, -highest, highest, amount))
        for _ in range(draw.randrange(3, 9)):
            transactions.append(self._near(pool, 10 ** draw.uniform(20, 22.5)))
        return transactions

    def _opened(self, pool: Pool, price: int) -> list[dict[str, str]]:
        """Initialized, some with a protocol fee."""
        draw = self.random
        if pool.kind != "uniswap_v4":
            return [self._call(pool.address, "initialize(uint160)", price)]
        key = "(address,address,uint24,int24,address)"
        data = self.node.selector(f"initialize({key},uint160)") + pool.v4_key
        made = [self.node.transaction(self.manager, data + price.to_bytes(32, "big"))]
        if draw.random() < 0.4:
            fees = draw.randrange(1001) << 12 | draw.randrange(1001)
            data = self.node.selector(f"setProtocolFee({key},uint24)") + pool.v4_key
            made.append(self.node.transaction(self.manager, data + fees.to_bytes(32, "big")))
        return made

    def _near(self, pool: Pool, liquidity: float) -> dict[str, str]:
        """A range around the first price."""
        spacing, draw = pool.tick_spacing, self.random
        middle, reach = pool.near_tick // spacing, max(2, 600 // spacing)
        low = max(-(MAX_TICK // spacing), middle - draw.randrange(1, reach))
        high = min(MAX_TICK // spacing, middle + draw.randrange(1, reach) + 1)
        return self._mint(pool, low * spacing, high * spacing, int(liquidity))

    def _range_operation(self, pool: Pool) -> dict[str, Any]:
        """On a pool whose liquidity ends, swaps that do not use it up."""
        if pool.key not in self.narrow:
            return super()._range_operation(pool)
        draw = self.random
        if draw.random() < 0.3:
            return self._near(pool, 10 ** draw.uniform(20, 22))
        amount = int(pool.positions[0][2] * 10 ** draw.uniform(-6, -2.5))
        return self._swap(pool, draw.random() < 0.5, amount)
