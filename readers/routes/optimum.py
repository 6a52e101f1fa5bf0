"""The most that all pools of a market together would give away, and the prices at which nothing is left."""

from typing import Any

import numpy as np
import numpy.typing as npt

from arena.readers.routes.answers import Market, Moment, Swap, wei


class MarketOptimum:
    """What the pools of a router would give away at one block to somebody who trades against all at once.

    No trades that take no token from outside leave more than `bound`, gas aside; `profit` is what `swaps`
    leave: the numeraire they give, less `uncovered`, the worth of other tokens that they leave short, mostly
    by rounding. All three are in units of the numeraire. `is_settled` is False where the search ended before
    nothing was left at the prices: the bound holds, and may be high.
    """

    def __init__(
        self,
        market: Market,
        parts: npt.NDArray[np.void],
        tokens: npt.NDArray[np.uint32],
        log_prices: npt.NDArray[np.float64],
        total: Any,
        head: Moment,
    ) -> None:
        self._market = market
        self._parts = parts
        self._tokens = tokens
        self._log_prices = log_prices
        self._head = head
        self._swaps: tuple[Swap, ...] | None = None
        self._bound, self._profit = float(total.bound), float(total.profit)
        self._uncovered, self._is_settled = float(total.uncovered), bool(total.is_settled)

    @property
    def commit(self) -> int:
        """The commit it holds at."""
        return self._head.commit

    @property
    def block_number(self) -> int:
        """The block it holds at."""
        return self._head.block_number

    @property
    def bound(self) -> float:
        return self._bound

    @property
    def profit(self) -> float:
        return self._profit

    @property
    def uncovered(self) -> float:
        return self._uncovered

    @property
    def is_settled(self) -> bool:
        return self._is_settled

    @property
    def gap(self) -> float:
        """By which share of the bound the profit is below it; 0 where there is nothing to take."""
        return max(0.0, 1.0 - self.profit / self.bound) if self.bound > 0 else 0.0

    @property
    def prices(self) -> dict[str, float]:
        """By address: units of the numeraire for a unit of each token, at which no pool gives anything away
        but against the others' fees; of the tokens that a path of pools joins to the numeraire."""
        tokens = self._market.tokens
        values = np.exp(self._log_prices).tolist()
        return {
            tokens[index].address: value
            for index, value in zip(self._tokens.tolist(), values, strict=True)
            if value > 0
        }

    @property
    def swaps(self) -> tuple[Swap, ...]:
        """One a pool, equal to the pools' own quotes. All at once: no order passes tokens on from one to the
        next."""
        if self._swaps is None:
            self._swaps = tuple(
                self._market.swap(
                    int(part["pool"]),
                    bool(part["zero_for_one"]),
                    wei(part["amount_in"]),
                    wei(part["amount_out"]),
                )
                for part in self._parts
            )
        return self._swaps

    @property
    def left(self) -> dict[str, int]:
        """By address: what the swaps leave of each token that they trade, wei; below 0 what is short."""
        found: dict[str, int] = {}
        for swap in self.swaps:
            taken, given = swap.token_in.address, swap.token_out.address
            found[taken] = found.get(taken, 0) - swap.amount_in
            found[given] = found.get(given, 0) + swap.amount_out
        return found

    def __repr__(self) -> str:
        return (
            f"MarketOptimum({len(self._parts)} swaps leave {self.profit:.6g} of at most "
            f"{self.bound:.6g} at block {self.block_number})"
        )
