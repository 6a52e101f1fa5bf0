"""What do prices, paths, splits and cycles over all pools cost from Python, and keeping up with blocks?

Timed: calls of arena.Router on a made-up market, by thread time, with lists of results in hand. Between a
block and the next the writer and the market's own Python run in the same process, so caches are cold. The
last row of a market says how fast the machine is just then. Beside it, in the same run: 1,000 paths of two
V2 pools, whose best inputs degenbot's engine finds again as well, and the arbitrage of CFMMRouter.jl's
benchmark beside scipy on the same dual; route_peers.py says how.
"""

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_peers import degenbot_python
from harness import Report, Row, SelfTimed, alternate, arguments
from route_peers import (
    FIRST_PAIR,
    NUMERAIRE,
    PathsByDegenbot,
    cfmm_market,
    dual_by_scipy,
    pairs_in_arena,
    two_pool_paths,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from builders.market import Market, make_market

import arena

HUBS = 15  # tokens of the market that most others trade against
CALM = {"shock_share": 0.03, "shock": (0.0005, 0.006)}
STORM = {"shock_share": 0.12, "shock": (0.0005, 0.03)}
SIZES = {"10-100 k$": (4, 5), "1-20 M$": (6, 7.3)}  # powers of ten of dollars
CASES = (
    "build",
    "update, 150 touched, calm",
    "commit to list of cycles <= 3, calm",
    "commit to list of cycles <= 3, storm",
    "cycles <= 4, calm",
    "cycles <= 4, storm",
    "best path <= 3, hub to hub",
    "best path <= 3, hub to tail",
    "best path <= 3, tail to tail",
    "split 10-100 k$, hub to hub",
    "split 1-20 M$, hub to hub",
    "prices of all tokens",
    "market, calm",
    "market, storm",
)
# Of those cases, by pools, ms; to a list of cycles: the sum of its parts. What Python adds to a call counts,
# though those of paths were set without it.
GOALS = {
    5_000: (8, 0.13, 0.5, 0.9, 5, 16, 0.105, 0.037, 0.004, 0.38, 0.72, 0.8, 3.1, 3.8),
    20_000: (35, 0.16, 0.8, 1.3, 11, 30, 0.435, 0.135, 0.004, 1.15, 1.45, 3.5, 12.5, 23.4),
}
CFMM_POOLS = 1_000
CFMM_PUBLISHED = (
    "~27 ms for 1,000 pools, the most of all tokens at drawn prices: "
    "README of CFMMRouter.jl, chart of benchmark/scaling.jl, MacBook i9"
)


def integers(amount: int) -> int:
    """A V2 quote in Python integers, as far as the machine's speed shows in it."""
    paid = amount * 997
    return paid * 10**21 // (10**21 * 1000 + paid)


class Timed:
    """Rows of one market, and their goals."""

    def __init__(self, report: Report, pools: int) -> None:
        self.report = report
        self.pools = pools
        self.rows: dict[str, Row] = {}

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.add(name, time.thread_time() - start)

    def add(self, name: str, seconds: float) -> None:
        title = f"{name}, {self.pools:,} pools"
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = self.report.add(Row(title, 1))
        row.samples.append(seconds)

    def aim(self, name: str, milliseconds: float) -> None:
        self.report.limit(self.rows[name], milliseconds * 1e6)


def blocks(timed: Timed, market: Market, router: arena.Router, count: int) -> None:
    """Cycles of the same pairs once, and all of them."""
    for kind, how in (("calm", CALM), ("storm", STORM)):
        for _ in range(count):
            market.block(touched=150, **how)
            with timed.case(f"commit to list of cycles <= 3, {kind}"):
                router.update()
                list(router.cycles(max_hops=3, each=False))
            market.block(touched=150, **how)
            with timed.case(f"update, 150 touched, {kind}"):
                router.update()
            with timed.case(f"cycles <= 4, {kind}"):
                router.cycles(max_hops=4, each=False)
            with timed.case(f"market, {kind}"):
                router.market()
            market.block(touched=150, **how)
            with timed.case(f"commit to list of cycles <= 3 by each pool, {kind}"):
                router.update()
                list(router.cycles(max_hops=3))


def trades(timed: Timed, market: Market, router: arena.Router, count: int) -> None:
    draws = random.Random(1)
    prices = router.prices()
    hubs, tail = market.tokens[:HUBS], market.tokens[HUBS:]
    kinds: dict[str, tuple[Any, Any]] = {
        "hub to hub": (hubs, hubs),
        "hub to tail": (hubs, tail),
        "tail to tail": (tail, tail),
    }
    usd = 1e18 / prices[router.token("WETH").address] / market.tokens[0].usd
    for name, (sells, buys) in kinds.items():
        for _ in range(count):
            sell, buy = draws.choice(sells), draws.choice(buys)
            if sell is buy or not {sell.address, buy.address} <= prices.keys():
                continue
            sizes = SIZES if name == "hub to hub" else {"10-100 k$": SIZES["10-100 k$"]}
            amounts = {
                size: int(10 ** draws.uniform(*powers) * usd / prices[sell.address]) + 1
                for size, powers in sizes.items()
            }
            amount = amounts["10-100 k$"]
            ask(
                timed,
                f"best path <= 3, {name}",
                lambda: router.best(sell.address, buy.address, amount_in=amount),
            )
            for size, amount in amounts.items():
                ask(
                    timed,
                    f"split {size}, {name}",
                    lambda: router.split(sell.address, buy.address, amount_in=amount),
                )


def ask(timed: Timed, name: str, call: Callable[[], object]) -> None:
    with contextlib.suppress(arena.ArenaError), timed.case(name):
        call()


def market_of(report: Report, pools: int, count: int) -> None:
    name, timed = f"psa-bench-routes-{os.getpid()}", Timed(report, pools)
    with (
        make_market(name, pools, 1) as market,
        arena.attach(name, require_writer=False) as reader,
    ):
        gas = arena.Gas(price=10**9)
        for _ in range(3):
            with timed.case("build"):
                router = arena.Router(reader, numeraire="WETH", gas=gas)
        blocks(timed, market, router, count)
        trades(timed, market, router, 3 * count)
        for _ in range(count):
            with timed.case("prices of all tokens"):
                router.prices()
        start = time.thread_time()
        for amount in range(10_000):
            integers(10**18 + amount)
        timed.add("V2 quote in Python integers", (time.thread_time() - start) / 10_000)
    for case, milliseconds in zip(CASES, GOALS.get(pools, ()), strict=False):
        timed.aim(case, milliseconds)


def beside_degenbot(report: Report, options: argparse.Namespace) -> None:
    """The router looks both ways through each two pools and asks the integers of all it finds."""
    paths = two_pool_paths(20 if options.smoke else 1_000)
    pairs = [(0, 1 + i, *reserves, 3000) for i, pools in enumerate(paths) for reserves in pools]
    python, peer = degenbot_python(options.degenbot), None
    title = f"{len(paths):,} paths of two V2 pools"
    with pairs_in_arena(pairs) as pools, contextlib.ExitStack() as opened:
        router = arena.Router(pools, numeraire=NUMERAIRE)
        if python is None:
            report.facts["skipped degenbot"] = "no Python on the path has it, none was given"
        else:
            peer = PathsByDegenbot(python, paths)
            opened.callback(peer.close)
            report.facts["degenbot"] = peer.version
            check_profits(router, peer.profits)
        cases: list[tuple[str, int, Callable[[], object]]] = [
            (f"{title}, both ways", 1, lambda: router.cycles(max_hops=2, everywhere=True))
        ]
        if peer is not None:
            cases.append((f"{title}: degenbot", 1, peer.solve))
        row, *others = alternate(cases, options.repeat, timer=time.thread_time)
    for each in (row, *others):
        report.add(each)
    for each in others:
        report.compare(row, each, 0.2)


def check_profits(router: arena.Router, profits: list[int]) -> None:
    """Of the paths' own direction: each best input may be off by a rounding."""
    found = {}
    for cycle in router.cycles(max_hops=2, everywhere=True):
        first, second = (int(swap.pool, 16) - FIRST_PAIR for swap in cycle.swaps)
        if first % 2 == 0 and second == first + 1:
            found[first // 2] = cycle.amount_out - cycle.amount_in
    assert len(found) == sum(profit > 0 for profit in profits)
    assert all(abs(found[path] - profits[path]) <= 1 + found[path] // 10**12 for path in found)


def beside_scipy(report: Report, options: argparse.Namespace) -> None:
    """Each time by a router that has not looked for it before."""
    pairs = cfmm_market(100 if options.smoke else CFMM_POOLS)
    title = f"arbitrage over {len(pairs):,} pools, {max(pair[1] for pair in pairs) + 1} tokens"
    solve = dual_by_scipy(pairs)
    report.facts["CFMMRouter.jl, published"] = CFMM_PUBLISHED
    with pairs_in_arena(pairs) as pools:

        def fresh() -> SelfTimed:
            router = arena.Router(pools, numeraire=NUMERAIRE)
            start = time.thread_time()
            router.market()
            return SelfTimed(time.thread_time() - start)

        cases: list[tuple[str, int, Callable[[], object]]] = [(title, 1, fresh)]
        if solve is None:
            report.facts["skipped scipy"] = "not installed"
        else:
            cases.append((f"{title}: scipy", 1, solve))
            optimum, bound = arena.Router(pools, numeraire=NUMERAIRE).market(), solve()
            assert optimum.is_settled
            assert abs(optimum.bound - bound) <= 1e-6 * bound
            report.facts["profit under the bound"] = f"{optimum.gap:.1e} of it"
        row, *others = alternate(cases, options.repeat, timer=time.thread_time)
    for each in (row, *others):
        report.add(each)
    for each in others:
        report.compare(row, each, 1)


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        values={"degenbot": "a Python that has degenbot; else one is looked for on the path"},
    )
    report = Report(__doc__.splitlines()[0])
    for pools in (300,) if options.smoke else (5_000, 20_000):
        market_of(report, pools, 4 if options.smoke else 40)
    beside_degenbot(report, options)
    beside_scipy(report, options)
    report.show(options)


if __name__ == "__main__":
    main()
