"""Cycles and paths through pools by looking at all of them: slow, obvious, nothing left out.

Of the product it uses the fields of pool states and the integer quotes of private copies, nothing else. A
snapshot here is whatever gives pools by key, such as a FrozenSnapshot. A pool carries a route when it is
live, of V2, V3, V4 or Solidly, and nothing outside its state has a say in its swaps.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from arena.errors import ArenaError

Hop = tuple[str, bool]  # a pool's key, and whether token0 goes in
Route = tuple[Hop, ...]
Doubles = npt.NDArray[np.float64]

PIPS = 1_000_000
PAIRS = ("uniswap_v2", "solidly")  # two reserves and no ticks; Solidly's volatile ones
DYNAMIC_FEE = 0x800000
SWAP_HOOKS = 0xCC  # of an address of V4 hooks: bits of those that take part in swaps
LOG_TICK = math.log1p(0.0001)
LOG_MOST = 80.0  # of an input in raw units, beyond what any reserve holds
GOLDEN = (math.sqrt(5) - 1) / 2


class Pools(Protocol):
    """Pools by key; those of a FrozenSnapshot answer state() and quotes."""

    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, key: str, /) -> Any: ...


def carries_routes(state: Any) -> bool:
    """Whether swaps of a pool follow from its state alone, now."""
    if state.status != "live" or state.protocol not in (*PAIRS, "uniswap_v3", "uniswap_v4"):
        return False
    if state.protocol != "uniswap_v4":
        return True
    return state.fee_pips != DYNAMIC_FEE and int(state.hooks, 16) & SWAP_HOOKS == 0


# ---- cycles


class Graph:
    """From which token to which each pool leads; tokens are 0x-hex addresses."""

    def __init__(self, snapshot: Pools) -> None:
        self.ends: dict[str, tuple[str, str]] = {}
        self.hops: dict[str, dict[str, list[Hop]]] = {}
        for key in snapshot:
            state = snapshot[key].state()
            if carries_routes(state):
                self.add(key, state.token0.address, state.token1.address)

    def add(self, key: str, token0: str, token1: str) -> None:
        """Enter a pool, in both directions."""
        self.ends[key] = token0, token1
        for one, other, zero_for_one in ((token0, token1, True), (token1, token0, False)):
            self.hops.setdefault(one, {}).setdefault(other, []).append((key, zero_for_one))

    def ways(self, token: str, goal: str, most: int, seen: frozenset[str]) -> Iterator[Route]:
        """Every way from `token` to `goal` of up to `most` pools, no token twice and none of `seen`."""
        for hop in self.hops.get(token, {}).get(goal, ()):
            yield (hop,)
        if most == 1:
            return
        for other, hops in self.hops.get(token, {}).items():
            if other != goal and other not in seen:
                for rest in self.ways(other, goal, most - 1, seen | {other}):
                    for hop in hops:
                        yield (hop, *rest)


def canonical(cycle: Route) -> Route:
    """The same cycle, begun with its lowest hop."""
    start = cycle.index(min(cycle))
    return cycle[start:] + cycle[:start]


def cycles(
    snapshot: Pools | Graph, max_hops: int, through: Iterable[str] | None = None
) -> Iterator[Route]:
    """Every cycle of 2 to `max_hops` pools with one of `through` (None: all) in it, once for each way
    round, in canonical form. No pool comes twice, and no token."""
    graph = snapshot if isinstance(snapshot, Graph) else Graph(snapshot)
    done: set[str] = set()
    for key in sorted(graph.ends if through is None else set(through) & graph.ends.keys()):
        done.add(key)
        for zero_for_one in (True, False):
            start, token = graph.ends[key] if zero_for_one else graph.ends[key][::-1]
            for rest in graph.ways(token, start, max_hops - 1, frozenset((start, token))):
                if not any(hop in done for hop, _ in rest):
                    yield canonical(((key, zero_for_one), *rest))


# ---- one pool in doubles


class Step(NamedTuple):
    """Liquidity up to the next root of the price, how often a contract stops until then, and whether
    the root of the pool's state is the inverse of the one meant here."""

    liquidity: float
    end: float
    stops: int
    is_inverse: bool


class Side:
    """One direction of a pool as a chain of segments, each a constant product.

    `root` is the square root of the price, raw output for raw input, at the begin of each segment; `into`
    what has been paid when a swap comes to it, less the fee, and `out` what was received. `most` is
    what can be paid in all. Segments without liquidity are left out: there price jumps. `lost` is what
    rounding may have cost at the end of each, in units of output.
    """

    def __init__(self, fee_pips: int, root: float, steps: Iterable[Step]) -> None:
        """`steps` begin at the present price; an end of 0 means that liquidity goes on for ever."""
        self.keep = 1 - fee_pips / PIPS
        into, out, lost, liquidities, roots = [0.0], [0.0], [0.0], [], []
        for liquidity, end, stops, is_inverse in steps:
            if liquidity > 0 and end < root:
                liquidities.append(liquidity)
                roots.append(root)
                paid = liquidity * (1 / end - 1 / root) if end else math.inf
                into.append(into[-1] + paid)
                out.append(out[-1] + liquidity * (root - end))
                # At each stop of a contract one unit for the price and one for the fee are taken, and
                # one less is given; the price itself is a whole number of 2^-96.
                grain = liquidity * 2.0**-96 * (root**2 if is_inverse else 1)
                lost.append(lost[-1] + stops * (1 + grain + 2 * root**2))
            root = min(root, end)
        self.most = into.pop()
        self.out_most = out.pop()
        self.into, self.out, self.lost = np.array(into), np.array(out), np.array(lost[1:])
        self.liquidity, self.root = np.array(liquidities), np.array(roots)

    @property
    def rate(self) -> float:
        """Output for input at the present price, fee deducted; 0 where nothing can be got."""
        return self.keep * float(self.root[0]) ** 2 if len(self.root) else 0.0

    def segment(self, paid: float) -> int:
        """The one in which a swap ends that pays so much, the fee deducted."""
        return int(np.searchsorted(self.into, paid, "right")) - 1

    def swap(self, amount: float) -> float:
        """What an amount buys; beyond the end of liquidity no more than all there is."""
        paid = amount * self.keep
        if not paid < self.most:
            return self.out_most
        at = self.segment(paid)
        more, liquidity, root = paid - self.into[at], self.liquidity[at], self.root[at]
        return float(self.out[at] + liquidity * root * more * root / (liquidity + more * root))


@dataclass(frozen=True, slots=True)
class FloatPool:
    """A pool in doubles: its tokens' addresses, and both directions."""

    key: str
    token0: str
    token1: str
    down: Side  # token0 goes in
    up: Side

    def side(self, zero_for_one: bool) -> Side:
        """One direction."""
        return self.down if zero_for_one else self.up

    def out(self, zero_for_one: bool, amount: float) -> float:
        """What `amount` raw units buy, in raw units."""
        return self.side(zero_for_one).swap(amount)


def float_pool(state: Any) -> FloatPool:
    """A pool in doubles, from the fields of its state."""
    names = state.pool_key, state.token0.address, state.token1.address
    if state.protocol in PAIRS:
        liquidity = math.sqrt(state.reserve0 * state.reserve1)
        root = math.sqrt(state.reserve1 / state.reserve0)
        steps = [Step(liquidity, 0.0, 1, False)]
        fee = state.fee_pips
        return FloatPool(*names, Side(fee, root, steps), Side(fee, 1 / root, steps))
    fees = [state.fee_pips, state.fee_pips]
    if state.protocol == "uniswap_v4":
        taken = state.protocol_fee & 0xFFF, state.protocol_fee >> 12
        fees = [each + state.lp_fee - each * state.lp_fee // PIPS for each in taken]
    root = state.sqrt_price_x96 / 2**96
    below = [(tick, -net) for tick, _, net in reversed(state.ticks) if tick <= state.tick]
    above = [(tick, net) for tick, _, net in state.ticks if tick > state.tick]
    words = 256 * state.tick_spacing
    down = _steps(state, below, words)
    up = _steps(state, above, -words)
    return FloatPool(*names, Side(fees[0], root, down), Side(fees[1], 1 / root, up))


def _steps(state: Any, ahead: list[tuple[int, int]], words: int) -> Iterator[Step]:
    """The steps of a Side up to each of the ticks ahead, given with what crossing it adds. `words` is
    how many ticks a word of the bitmap spans, at each of which contracts stop; negative when prices rise.
    """
    sums = accumulate((change for _, change in ahead), initial=state.liquidity)
    before, sign = state.tick, 1 if words > 0 else -1
    for (tick, _), active in zip(ahead, sums, strict=False):
        end = math.exp(sign * tick / 2 * LOG_TICK)
        yield Step(float(active), end, 2 + (before - tick) // words, words < 0)
        before = tick


# ---- the best input of a cycle


class Sized(NamedTuple):
    """A cycle's input, output and profit in raw units, exact."""

    amount_in: int
    amount_out: int
    profit: int


def run_in(snapshot: Pools, route: Iterable[Hop], amount: int) -> int | None:
    """What comes out at the end, hop after hop in integers; None when a pool has no whole answer."""
    for key, zero_for_one in route:
        try:
            quote = snapshot[key].quote_exact_in(amount, zero_for_one=zero_for_one)
        except ArenaError:
            return None
        if not quote.is_complete:
            return None
        amount = quote.amount_out
    return amount


def run_out(snapshot: Pools, route: Route, amount: int) -> int | None:
    """What must go in for `amount` at the end; None when a pool has no whole answer."""
    for key, zero_for_one in reversed(route):
        try:
            quote = snapshot[key].quote_exact_out(amount, zero_for_one=zero_for_one)
        except ArenaError:
            return None
        if not quote.is_complete:
            return None
        amount = quote.amount_in
    return amount


def marginal_product(cycle: Iterable[Hop], floats: Mapping[str, FloatPool]) -> float:
    """Of the rates at the present prices. At most 1: no input gains, for outputs are concave."""
    return math.prod(floats[key].side(zero_for_one).rate for key, zero_for_one in cycle)


def best_float_input(cycle: Iterable[Hop], floats: Mapping[str, FloatPool]) -> float:
    """The input of the highest profit in doubles, by golden section over its logarithm.

    Profit is concave in the input, so it has one top over any increasing scale.
    """
    sides = [floats[key].side(zero_for_one) for key, zero_for_one in cycle]

    def profit(log_amount: float) -> float:
        start = amount = math.exp(log_amount)
        for side in sides:
            amount = side.swap(amount)
        return amount - start

    low, high = 0.0, LOG_MOST
    one, other = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_one, at_other = profit(one), profit(other)
    while high - low > 1e-9:
        if at_one < at_other:
            low, one, at_one = one, other, at_other
            other = low + GOLDEN * (high - low)
            at_other = profit(other)
        else:
            high, other, at_other = other, one, at_one
            one = high - GOLDEN * (high - low)
            at_one = profit(one)
    return math.exp((low + high) / 2)


def rounding_loss(cycle: Iterable[Hop], floats: Mapping[str, FloatPool], amount: float) -> float:
    """By how much integers may end lower than doubles, in raw units of the output: each pool's loss counts
    at the rates of those that follow."""
    loss = 0.0
    for key, zero_for_one in cycle:
        side = floats[key].side(zero_for_one)
        if len(side.lost):
            loss = loss * side.rate + float(side.lost[side.segment(amount * side.keep)])
        amount = side.swap(amount)
    return loss


def _tight(snapshot: Pools, cycle: Route, amount: int) -> Sized | None:
    """The profit at an amount, or at the least that brings the same: outputs are whole numbers, so most
    inputs have a part that buys nothing."""
    found = run_in(snapshot, cycle, amount)
    if not found:
        return None
    least = run_out(snapshot, cycle, found)
    if least is not None and least < amount:
        again = run_in(snapshot, cycle, least)
        if again is not None and again - least > found - amount:
            return Sized(least, again, again - least)
    return Sized(amount, found, found - amount)


def best_input(
    snapshot: Pools, cycle: Route, floats: Mapping[str, FloatPool] | None = None
) -> Sized | None:
    """The input of the highest profit, all in integers; None when no pool takes any.

    The top in doubles comes first, then integer quotes around it, at distances from an eighth of it down to
    2^-40 of it or 1. Rounding makes profit uneven, so that another input may gain more, but by no more
    than rounding_loss. The profit may be negative.
    """
    if floats is None:
        floats = {key: float_pool(snapshot[key].state()) for key, _ in cycle}
    start = max(1, round(best_float_input(cycle, floats)))
    best = _tight(snapshot, cycle, start)
    if best is None:
        return None
    step = max(1, start >> 3)
    while True:
        around = (best.amount_in - step, best.amount_in + step)
        tried = [_tight(snapshot, cycle, amount) for amount in around if amount > 0]
        better = [each for each in tried if each is not None and each.profit > best.profit]
        if better:
            best = max(better, key=lambda each: each.profit)
        elif step == 1 or step < best.amount_in >> 40:
            return best
        else:
            step = max(1, step >> 1)


# ---- the best path between two tokens


class Path(NamedTuple):
    """A path, what goes in and what comes out."""

    hops: Route
    amount_in: int
    amount_out: int


def paths(snapshot: Pools, sell: str, buy: str, max_hops: int) -> Iterator[Route]:
    """Every path from one token to another, with every pool of each pair; no token comes twice."""
    yield from Graph(snapshot).ways(sell, buy, max_hops, frozenset((sell, buy)))


def best_path_in(
    snapshot: Pools, sell: str, buy: str, amount: int, max_hops: int, graph: Graph | None = None
) -> Path | None:
    """The path that brings most for `amount`, with integer quotes; None when none has a whole answer.

    All token paths are looked at. Of each pair only the pool that gives most is followed: more into the
    next pool never gives less, so a path through another pool of the pair cannot end higher. That holds
    as long as the pool that gives most is not too much for what follows (no whole answer).
    """
    graph = graph or Graph(snapshot)
    best: Path | None = None

    def walk(token: str, held: int, taken: Route, seen: frozenset[str]) -> None:
        nonlocal best
        left = max_hops - len(taken)
        for other, hops in graph.hops.get(token, {}).items():
            if other in seen or not _can_arrive(graph, other, buy, left - 1):
                continue
            answers = [(run_in(snapshot, (hop,), held), hop) for hop in hops]
            whole = [(answer, hop) for answer, hop in answers if answer]
            if not whole:
                continue
            most, hop = max(whole)
            if other != buy:
                walk(other, most, (*taken, hop), seen | {other})
            elif best is None or most > best.amount_out:
                best = Path((*taken, hop), amount, most)

    walk(sell, amount, (), frozenset((sell,)))
    return best


def best_path_out(
    snapshot: Pools, sell: str, buy: str, amount: int, max_hops: int, graph: Graph | None = None
) -> Path | None:
    """The path that costs least for exactly `amount`; None when none has a whole answer.

    Walked from the end. Of each pair only the pool that costs least is followed: to get less out of the pool
    before never costs more.
    """
    graph = graph or Graph(snapshot)
    best: Path | None = None

    def walk(token: str, wanted: int, taken: Route, seen: frozenset[str]) -> None:
        nonlocal best
        left = max_hops - len(taken)
        for other, hops in graph.hops.get(token, {}).items():
            if other in seen or not _can_arrive(graph, other, sell, left - 1):
                continue
            backwards = [(key, not zero_for_one) for key, zero_for_one in hops]
            answers = [(run_out(snapshot, (hop,), wanted), hop) for hop in backwards]
            whole = [(answer, hop) for answer, hop in answers if answer is not None]
            if not whole:
                continue
            least, hop = min(whole)
            if other != sell:
                walk(other, least, (hop, *taken), seen | {other})
            elif best is None or least < best.amount_in:
                best = Path((hop, *taken), least, amount)

    walk(buy, amount, (), frozenset((buy,)))
    return best


def _can_arrive(graph: Graph, token: str, goal: str, left: int) -> bool:
    """False for a token from which the goal is out of reach with one pool, or none, left."""
    if left == 0:
        return token == goal
    return left > 1 or token == goal or goal in graph.hops[token]
