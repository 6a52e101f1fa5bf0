"""Every answer of a router carried out on a node: paths both ways, splits and cycles.

A contract makes the swaps that holds what goes in and nothing else, at exactly the state of the block that
the answer names; the pools' own events tell the amounts.

PSA_PROFILE=long carries out some thousands.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders.chain_arena import chain_arena
from chains.market import ZERO
from chains.process import Node
from chains.routed import RoutedMarket
from chains.swapper import Leg, Made, Swapper
from conftest import PROFILE, SEED

import arena
from arena.errors import InsufficientLiquidity

pytestmark = pytest.mark.node

RUNS, BLOCKS, ASKED = {"quick": (2, 4, 24), "ci": (3, 6, 36), "long": (8, 12, 60)}[PROFILE]
ANSWERS = ("in", "out", "split", "cycle", "used up")
Answer = arena.Route | arena.Split


class Checked:
    """Answers at one block after another, and what the chain made of them."""

    def __init__(self, market: RoutedMarket, reader: arena.Arena, seed: int) -> None:
        self.swapper = Swapper(market)
        self.market = market
        self.reader = reader
        self.random = random.Random(seed)
        coin = self.numeraire()
        free = arena.Router(reader, numeraire=coin)
        self.routers = [free, arena.Router(reader, numeraire=coin, gas=arena.Gas())]
        self.counts: Counter[str] = Counter()

    def numeraire(self) -> str:
        """The token of most pools without hooks; the coin is only in V4."""
        ends = Counter(
            token
            for pool in self.market.pools
            if pool.hooks == ZERO
            for token in (pool.token0, pool.token1)
        )
        return ends.most_common(1)[0][0]

    def block(self, header: dict[str, Any]) -> None:
        """All kinds of answers of both routers at a block, each of them carried out."""
        hooked = self.market.hooked
        for router in self.routers:
            router.update()
            assert (router.pools, router.left_out) == (len(self.market.pools), len(hooked))
        for turn in range(ASKED):
            router = self.routers[turn % 2]
            kind = ("in", "out", "split")[turn % 3]
            answer = self.ask(router, kind)
            if answer is not None:
                assert not hooked & {swap.pool for swap in answer.swaps}
                self.carry_out(answer, header, exact_out=kind == "out")
                self.counts[kind] += 1
        for router in self.routers:
            found = router.cycles(everywhere=True, max_hops=self.random.randrange(2, 5))
            for at in self.random.sample(range(len(found)), min(ASKED // 4, len(found))):
                assert not hooked & {swap.pool for swap in found[at].swaps}
                self.carry_out(found[at], header, exact_out=False)
                self.counts["cycle"] += 1

        for key in self.random.sample(sorted(self.market.narrow - hooked), 2):
            self.use_up(key, header)

    def use_up(self, key: str, header: dict[str, Any]) -> None:
        """All that one pool takes, to the last wei; one more is refused."""
        pool, zero_for_one = self.reader[key], self.random.random() < 0.5
        sell, buy = (pool.token0, pool.token1)[:: 1 if zero_for_one else -1]
        most, more = 0, 1 << 120
        while more - most > 1:
            middle = (most + more) // 2
            quote = pool.quote_exact_in(middle, zero_for_one=zero_for_one)
            most, more = (middle, more) if quote.is_complete else (most, middle)
        if not most or not pool.quote_exact_in(most, zero_for_one=zero_for_one).amount_out:
            return  # it stands at that end already
        router = arena.Router(self.reader.group([key]), numeraire=sell.address)
        answer = router.best(sell.address, buy.address, amount_in=most)
        self.carry_out(answer, header, exact_out=False)
        with pytest.raises(InsufficientLiquidity):
            router.best(sell.address, buy.address, amount_in=most + 1)
        self.counts["used up"] += 1

    def ask(self, router: arena.Router, kind: str) -> Answer | None:
        draw, prices = self.random, router.prices()
        sell, buy = draw.sample(sorted(prices), 2)
        value = 10 ** draw.uniform(14, 23.5)
        hops = draw.randrange(1, 5)
        try:
            if kind == "split":
                given = int(value / prices[sell])
                return router.split(sell, buy, amount_in=given, max_hops=min(hops, 3))
            if kind == "in":
                given = int(value / prices[sell])
                return router.best(sell, buy, amount_in=given, max_hops=hops)
            return router.best(sell, buy, amount_out=int(value / prices[buy]), max_hops=hops)
        except InsufficientLiquidity:
            self.counts["none"] += 1
            return None

    def carry_out(self, answer: Answer, header: dict[str, Any], *, exact_out: bool) -> None:
        """The pools' events and what the contract holds at the end are what the answer says."""
        assert answer.block_number == header["number"]
        assert self.market.node.block()["hash"] == header["hash"], "the state it answered on"
        legs = [
            Leg(swap.pool, swap.zero_for_one, -swap.amount_out if exact_out else swap.amount_in)
            for swap in answer.swaps
        ]
        sold, bought = answer.swaps[0].token_in.address, answer.swaps[-1].token_out.address
        done = self.swapper.execute(legs, {sold: answer.amount_in})
        assert done.swaps == [
            Made(swap.pool, swap.amount_in, swap.amount_out) for swap in answer.swaps
        ]
        assert done.held == {bought: answer.amount_out}, (answer, done)
        if sold == bought:
            assert answer.amount_out > answer.amount_in
        self.counts["swaps"] += len(legs)
        self.counts["ticks"] += answer.ticks_crossed
        self.counts.update(self.market.by_key[leg.key].kind for leg in legs)
        self.counts["coin"] += any(
            ZERO in (swap.token_in.address, swap.token_out.address) for swap in answer.swaps
        )


@pytest.mark.parametrize("run", range(RUNS))
def test_every_answer_is_what_the_chain_does(tmp_path: Path, arena_name: str, run: int) -> None:
    seed = SEED + run
    with (
        Node(tmp_path) as node,
        chain_arena(arena_name, market := RoutedMarket(node, seed=seed)) as followed,
        arena.attach(arena_name, require_writer=False) as reader,
    ):
        checked = Checked(market, reader, seed)
        for _ in range(BLOCKS):
            market.step(15)
            checked.block(followed.follow())
    counts = checked.counts
    executed = sum(counts[kind] for kind in ANSWERS)
    print(f"seed {seed}: {executed} executed, {dict(counts)}")
    asked = BLOCKS * ASKED
    assert counts["in"] + counts["out"] + counts["split"] > asked // 2
    assert min(counts[kind] for kind in ANSWERS[:4]) > asked // 12
    kinds = ("uniswap_v2", "uniswap_v3", "uniswap_v4", "pancakeswap_v3", "coin", "ticks", "used up")
    assert min(counts[kind] for kind in kinds) > 0, counts
