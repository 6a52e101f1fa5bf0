"""All cycles through some pools as arrays, for markets whose cycles come in tens of millions.

Nothing is left out: cycles are joined from pairs of tokens, walked from the end with fewer neighbours, and
multiplied out to pools. Inputs are found in doubles by halving; routes.py says what is exact. What a pool
gives is that module's Side, which here is rows of one table.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oracle.routes import LOG_MOST, Doubles, FloatPool, Side

Ints = npt.NDArray[np.int64]
HALVINGS = 48


class CycleRows(NamedTuple):
    """Some cycles of one length: `pools` (m, hops) and `zero_for_one` (m, hops), begun with the lowest
    of the touched pools in it; `log_rate` (m,) of the product of the marginal rates; `amount_in` and
    `profit` (m,) in raw units of the token that goes in first, 0 where the product is at most 1.
    """

    pools: Ints
    zero_for_one: npt.NDArray[np.bool_]
    log_rate: Doubles
    amount_in: Doubles
    profit: Doubles


class FloatMarket:
    """Pools in doubles as arrays. A side, one direction of pool i, is 2 i (token0 goes in) or 2 i + 1."""

    def __init__(self, pools: Sequence[FloatPool]) -> None:
        self.pools = list(pools)
        addresses = sorted({name for pool in pools for name in (pool.token0, pool.token1)})
        number = {address: index for index, address in enumerate(addresses)}
        both = [(number[pool.token0], number[pool.token1]) for pool in pools]
        self.token_count = len(addresses)
        self.source = np.array(both, np.int64).reshape(-1)
        self.target = np.array([pair[::-1] for pair in both], np.int64).reshape(-1)
        codes = self.source * self.token_count + self.target
        self._order = np.argsort(codes, kind="stable")
        self._codes, self._first_side, self._side_count = np.unique(
            codes[self._order], return_index=True, return_counts=True
        )
        self._neighbours = self._codes % self.token_count
        tokens = np.arange(self.token_count + 1)
        self._first_neighbour = np.searchsorted(self._codes // self.token_count, tokens)
        self.degree = np.diff(self._first_neighbour)
        self._lay_out()

    def replace(self, changed: dict[int, FloatPool]) -> None:
        """Other states of some pools, by their place."""
        for index, pool in changed.items():
            self.pools[index] = pool
        self._lay_out()

    def _lay_out(self) -> None:
        sides = [side for pool in self.pools for side in (pool.down, pool.up)]
        self._first = np.cumsum([0, *(len(side.root) for side in sides)])
        self._into, self._out, self._liquidity, self._root = (
            np.concatenate([getattr(side, name) for side in sides])
            for name in ("into", "out", "liquidity", "root")
        )
        self._keep, self._most, self._out_most, rate = (
            np.array([get(side) for side in sides]) for get in (_keep, _most, _out_most, _rate)
        )
        with np.errstate(divide="ignore"):
            self.log_rate = np.log(rate)
        longest = int(np.diff(self._first).max(initial=1))
        self._halvings = max(1, longest).bit_length()

    def swap(self, sides: Ints, amounts: Doubles) -> tuple[Doubles, Doubles]:
        """Output of each side for its amount, and what the next bit of input would bring."""
        paid = amounts * self._keep[sides]
        low, high = self._first[sides], self._first[sides + 1]
        high = np.maximum(high, low + 1)  # a side without liquidity: its answer is replaced below
        for _ in range(self._halvings):
            middle = (low + high) // 2
            is_behind = self._into[np.minimum(middle, len(self._into) - 1)] <= paid
            is_inner = (high - low > 1) & (middle > low)
            low = np.where(is_inner & is_behind, middle, low)
            high = np.where(is_inner & ~is_behind, middle, high)
        low = np.minimum(low, len(self._into) - 1)
        more, liquidity, root = paid - self._into[low], self._liquidity[low], self._root[low]
        share = liquidity * root / (liquidity + more * root)
        is_over = ~(paid < self._most[sides])
        out = np.where(is_over, self._out_most[sides], self._out[low] + more * root * share)
        return out, np.where(is_over, 0.0, self._keep[sides] * share * share)

    # Pairs of tokens that have a pool

    def pair(self, source: Ints, target: Ints) -> Ints:
        """Number of each directed pair; -1 where no pool leads from one to the other."""
        codes = source * self.token_count + target
        at = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.where(self._codes[at] == codes, at, -1)

    def neighbours(self, tokens: Ints) -> tuple[Ints, Ints]:
        """Every token next to each of `tokens`, and which of them it is next to."""
        counts = self.degree[tokens]
        rows = np.repeat(np.arange(len(tokens)), counts)
        return rows, self._neighbours[_within(counts) + self._first_neighbour[tokens][rows]]

    def sides_of(self, pairs: Ints, nth: Ints) -> Ints:
        """The nth side of each pair."""
        found: Ints = self._order[self._first_side[pairs] + nth]
        return found

    def side_counts(self, pairs: Ints) -> Ints:
        """How many parallel pools each pair has."""
        found: Ints = self._side_count[pairs]
        return found

    def tokens_of(self, pairs: Ints) -> tuple[Ints, Ints]:
        """Where each pair leads from, and to."""
        return self._codes[pairs] // self.token_count, self._neighbours[pairs]


def _keep(side: Side) -> float:
    return side.keep


def _most(side: Side) -> float:
    return side.most


def _out_most(side: Side) -> float:
    return side.out_most


def _rate(side: Side) -> float:
    return side.rate


def _within(counts: Ints) -> Ints:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


def token_cycles(market: FloatMarket, pairs: Ints, max_hops: int) -> Iterator[Ints]:
    """(m, hops) numbers of pairs: every cycle of tokens that begins with one of the directed `pairs`."""
    start, end = market.tokens_of(pairs)
    back = market.pair(end, start)
    yield np.stack((pairs, back), axis=1)
    if max_hops < 3:
        return
    # One more token, next to the end with fewer neighbours and to the other one as well.
    is_end = market.degree[end] <= market.degree[start]
    near, far = np.where(is_end, end, start), np.where(is_end, start, end)
    rows, third = market.neighbours(near)
    on, off = market.pair(end[rows], third), market.pair(third, start[rows])
    is_cycle = (on >= 0) & (off >= 0)
    yield np.stack((pairs[rows], on, off), axis=1)[is_cycle]
    if max_hops < 4:
        return
    # Two more: the first next to the end with fewer neighbours, the second between it and the other.
    is_new = third != far[rows]
    rows, first = rows[is_new], third[is_new]
    other = far[rows]
    is_first = market.degree[first] <= market.degree[other]
    more, second = market.neighbours(np.where(is_first, first, other))
    rows, first = rows[more], first[more]
    is_end = is_end[rows]
    third, fourth = np.where(is_end, first, second), np.where(is_end, second, first)
    legs = (
        market.pair(end[rows], third),
        market.pair(third, fourth),
        market.pair(fourth, start[rows]),
    )
    is_cycle = (third != start[rows]) & (fourth != end[rows]) & (third != fourth)
    for leg in legs:
        is_cycle &= leg >= 0
    yield np.stack((pairs[rows], *legs), axis=1)[is_cycle]


def cycle_sides(
    market: FloatMarket, touched: Ints, max_hops: int, *, rows: int = 1 << 19
) -> Iterator[Ints]:
    """(m, hops) sides: every cycle of 2 to `max_hops` pools through a touched one, once for each way
    round, begun with the lowest touched pool in it; m is about `rows` at most."""
    rank = np.full(len(market.pools), len(market.pools), np.int64)
    rank[touched] = touched
    sides = np.sort(np.concatenate((2 * touched, 2 * touched + 1)))
    of_side = market.pair(market.source[sides], market.target[sides])
    order = np.argsort(of_side, kind="stable")
    pairs, first, count = np.unique(of_side[order], return_index=True, return_counts=True)
    for found in token_cycles(market, pairs, max_hops):
        begin = np.searchsorted(pairs, found[:, 0])
        counts = market.side_counts(found)
        counts[:, 0] = count[begin]
        ends = np.cumsum(counts.prod(axis=1))
        at = 0
        while at < len(found):
            before = ends[at - 1] if at else 0
            to = max(at + 1, int(np.searchsorted(ends, before + rows, "right")))
            sizes = np.diff(ends[at:to], prepend=before)
            index = np.repeat(np.arange(at, to), sizes)
            digit = _within(sizes)
            made = np.empty((len(index), found.shape[1]), np.int64)
            for place in range(found.shape[1] - 1, 0, -1):
                made[:, place] = market.sides_of(found[index, place], digit % counts[index, place])
                digit = digit // counts[index, place]
            made[:, 0] = sides[order[first[begin[index]] + digit]]
            ranks = rank[made >> 1]
            is_first = ranks[:, 0] == ranks.min(axis=1)
            if found.shape[1] == 2:
                is_first &= made[:, 0] >> 1 != made[:, 1] >> 1
            yield made[is_first]
            at = to


def size_cycles(market: FloatMarket, sides: Ints) -> tuple[Doubles, Doubles]:
    """(m,) inputs of the highest profit and (m,) that profit, in raw units, at least 1 put in.

    Halves the logarithm of the input, by whether the next bit of it brings more than itself.
    """
    low, high = np.zeros(len(sides)), np.full(len(sides), LOG_MOST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        _, slope = _run(market, sides, np.exp(middle))
        low, high = np.where(slope > 1, middle, low), np.where(slope > 1, high, middle)
    amounts = np.exp(low)
    return amounts, _run(market, sides, amounts)[0] - amounts


def _run(market: FloatMarket, sides: Ints, amounts: Doubles) -> tuple[Doubles, Doubles]:
    slope = np.ones(len(sides))
    for place in range(sides.shape[1]):
        amounts, more = market.swap(sides[:, place], amounts)
        slope *= more
    return amounts, slope


def count_and_size_cycles(
    market: FloatMarket, touched: npt.NDArray[Any], max_hops: int, *, rows: int = 1 << 19
) -> Iterator[CycleRows]:
    """Every cycle through a touched pool, a part at a time; see CycleRows.

    Only those whose marginal rates have a product above 1 are sized: the others gain at no input, because
    every pool gives less for each further bit.
    """
    chosen = np.unique(touched.astype(np.int64))
    for sides in cycle_sides(market, chosen, max_hops, rows=rows):
        log_rate = market.log_rate[sides].sum(axis=1)
        amount_in, profit = np.zeros(len(sides)), np.zeros(len(sides))
        gains = np.flatnonzero(log_rate > 0)
        if len(gains):
            amount_in[gains], profit[gains] = size_cycles(market, sides[gains])
        yield CycleRows(sides >> 1, sides & 1 == 0, log_rate, amount_in, profit)
