"""What do prices, paths, splits and cycles over all pools cost from Python, and keeping up with blocks?

Timed: calls of arena.Router on a made-up market, by thread time, with lists of results in hand. The last row
says how fast the machine is just then.
"""

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import Report, Row, arguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from builders.market import Market, make_market

import arena

HUBS = 15  # tokens of the market that most others trade against
CALM = {"shock_share": 0.03, "shock": (0.0005, 0.006)}
STORM = {"shock_share": 0.12, "shock": (0.0005, 0.03)}
CASES = (
    "build",
    "update, 150 touched, calm",
    "commit to cycles <= 3, calm",
    "commit to cycles <= 3, storm",
    "cycles <= 4, calm",
    "best path <= 3, hub to hub",
    "split, hub to hub",
    "prices of all tokens",
)
# Of those cases, by pools, ms.
GOALS = {
    5_000: (8, 0.13, 0.5, 0.8, 5, 0.105, 0.38, 0.8),
    20_000: (35, 0.16, 0.8, 1.2, 11, 0.435, 1.15, 3.5),
}


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
    for kind, how in (("calm", CALM), ("storm", STORM)):
        for _ in range(count):
            market.block(touched=150, **how)
            with timed.case(f"update, 150 touched, {kind}"):
                router.update()
            with timed.case(f"commit to cycles <= 3, {kind}"):
                list(router.cycles(max_hops=3, each=False))
            with timed.case(f"cycles <= 4, {kind}"):
                router.cycles(max_hops=4, each=False)


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
            amount = int(10 ** draws.uniform(4, 5) * usd / prices[sell.address]) + 1
            ask(
                timed,
                f"best path <= 3, {name}",
                lambda: router.best(sell.address, buy.address, amount_in=amount),
            )
            if name == "hub to hub":
                ask(
                    timed,
                    "split, hub to hub",
                    lambda: router.split(sell.address, buy.address, amount_in=amount),
                )


def ask(timed: Timed, name: str, call: Callable[[], object]) -> None:
    with contextlib.suppress(arena.ArenaError), timed.case(name):
        call()


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    report = Report(__doc__.splitlines()[0])
    count = 4 if options.smoke else 40
    for pools in (300,) if options.smoke else (5_000, 20_000):
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
    report.show(options)


if __name__ == "__main__":
    main()
