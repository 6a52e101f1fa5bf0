"""The most that an amount gives over pools at once, by the dual problem and a solver of scipy's.

With prices for the tokens, what goes in at its price and the most that each pool gives against them are
together at least what any routing gives; the lowest such sum is the bound. Pools are doubles of routes.py,
each direction a row of segments. Whatever was swapped, all that is held is worth no more than that sum, so no
pool is ever given more of a token than it buys: with that limit the bound is lower where pools stand apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from oracle.routes import Doubles, FloatPool, Side

TURNS = 12  # of lowering it by what can be held
BEGUN = 8  # times that the solver begins, each at the prices it came to


class Bound(NamedTuple):
    """`value` in units of the token bought; `left` is the share of it by which flows do not balance."""

    value: float
    left: float


class SplitProblem:
    """Pools between some tokens, the one sold first and the one bought second: nothing comes back to the
    first, and nothing leaves the second."""

    def __init__(self, pools: Sequence[FloatPool], tokens: Sequence[str], amount: int) -> None:
        place = {address: index for index, address in enumerate(tokens)}
        self.count, self.amount = len(tokens), float(amount)
        self.sides: list[Side] = []
        ends = []
        for pool in pools:
            if pool.token0 not in place or pool.token1 not in place:
                continue
            one, other = place[pool.token0], place[pool.token1]
            for side, source, target in ((pool.down, one, other), (pool.up, other, one)):
                if source != 1 and target != 0 and len(side.root):
                    self.sides.append(side)
                    ends.append((source, target))
        self.source, self.target = np.array(ends, np.int64).T
        width = max(len(side.root) for side in self.sides)
        self.start, self.end = np.ones((2, len(self.sides), width))
        self.liquidity = np.zeros((len(self.sides), width))
        for row, side in enumerate(self.sides):
            n = len(side.root)
            paid = np.diff([*side.into, side.most])
            with np.errstate(divide="ignore"):
                self.end[row, :n] = 1 / (1 / side.root + paid / side.liquidity)
            self.start[row, :n], self.liquidity[row, :n] = side.root, side.liquidity
        self.keep = np.array([side.keep for side in self.sides])

    def trades(self, prices: Doubles, most: Doubles) -> tuple[Doubles, Doubles]:
        """(n,) of what each side takes, and gives, at its best against the prices (tokens,), at most `most`
        (tokens,) of what goes in."""
        wanted = np.sqrt(prices[self.source] / prices[self.target] / self.keep)[:, None]
        reached = np.clip(wanted, self.end, self.start)
        taken = (self.liquidity * (1 / reached - 1 / self.start)).sum(axis=1) / self.keep
        given = (self.liquidity * (self.start - reached)).sum(axis=1)
        limit = most[self.source]
        for row in np.flatnonzero(taken > limit):
            taken[row] = limit[row]
            given[row] = self.sides[row].swap(limit[row])
        return taken, given

    def value(self, prices: Doubles, most: Doubles) -> tuple[float, Doubles]:
        """The sum at these prices, convex in them, and its slopes (tokens,): what is left of each token."""
        taken, given = self.trades(prices, most)
        left = np.bincount(self.target, given, self.count)
        left -= np.bincount(self.source, taken, self.count)
        left[0] += self.amount
        gains = given * prices[self.target] - taken * prices[self.source]
        return float(prices[0] * self.amount + gains.sum()), left

    def bounds(self, prices: Sequence[float]) -> tuple[Bound, Bound]:
        """The lowest sum, and the lowest limited by what can be held; `prices` (tokens,) to begin with."""
        most = np.full(self.count, np.inf)
        found, free = self._lowest(np.array(prices) / prices[1], most)
        best = free
        for _ in range(TURNS):
            most = best.value * (1 + 1e-9) / found
            found, lower = self._lowest(found, most)
            gained = best.value - lower.value
            if gained > 0:
                best = lower
            if gained < 1e-9 * best.value:
                break
        return free, best

    def _lowest(self, prices: Doubles, most: Doubles) -> tuple[Doubles, Bound]:
        others = np.delete(np.arange(self.count), 1)  # the token bought is worth 1
        for _ in range(BEGUN):
            unit, scale = prices, self.value(prices, most)[0]

            def scaled(
                shares: Doubles, unit: Doubles = unit, scale: float = scale
            ) -> tuple[float, Doubles]:
                at = unit.copy()
                at[others] *= shares
                value, left = self.value(at, most)
                return value / scale, (left * unit / scale)[others]

            found = minimize(
                *(scaled, np.ones(len(others))),
                jac=True,
                method="L-BFGS-B",
                bounds=[(1e-6, None)] * len(others),
                options={"maxiter": 1000, "maxfun": 2000, "ftol": 1e-16, "gtol": 1e-13},
            )
            prices = unit.copy()
            prices[others] *= found.x
            if found.fun > 1 - 1e-13:
                break
        value, left = self.value(prices, most)
        return prices, Bound(value, float(np.abs((left * prices)[others]).sum()) / value)
