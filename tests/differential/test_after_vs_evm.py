"""Recorded swaps of the published contracts, predicted one after another by `after` alone.

Method: a pool is taken from storage once it has a price, and then led from one recorded swap to the next
without another look at the chain: each is quoted on the state that the swaps before it left, and has to be
the logged one in both amounts, price, tick and liquidity, of a pair the reserves of its Sync. Events of
liquidity and fees, which `after` knows nothing of, end a series: the pool is taken from storage again at the
end of that block. So is a pair after a swap for less than it would have paid. Wherever a block's end is
recorded, what a series came to has to be there.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders.copies import frozen
from chains.evm import split
from chains.evm_data import (
    CHAINS,
    DYNAMIC_FEE,
    Block,
    Chain,
    Event,
    Pool,
    Reorg,
    is_initialised,
    load,
)
from chains.recorded_solidly import Recorded, chains

from arena.errors import QuoteError
from arena.layouts.slots import SOLIDLY, UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.readers import FrozenPool, Quote

NUMBERS = {"uniswap_v2": UNISWAP_V2, "uniswap_v3": UNISWAP_V3, "uniswap_v4": UNISWAP_V4}
# Of each recording: swaps predicted, of them those behind another one of the same series, and states compared
# behind at least one.
LEAST = {
    "v2_chain": (130, 60, 500),
    "v3_chain": (800, 370, 2000),
    "v4_chain": (490, 250, 2000),
    "reorg": (120, 30, 300),
}


def from_storage(pool: Pool, state: dict[str, Any]) -> FrozenPool:
    if pool.protocol == "uniswap_v2":
        return frozen(UNISWAP_V2, 3000, reserves=(state["reserve0"], state["reserve1"]))
    return frozen(
        NUMBERS[pool.protocol],
        state.get("lpFee", pool.fee_pips),
        sqrt_price=state["sqrtPriceX96"],
        tick=state["tick"],
        liquidity=state["liquidity"],
        spacing=pool.tick_spacing or 0,
        net=[(tick, net) for tick, _, net in state["ticks"]],
        protocol_fee=state.get("protocolFee", 0),
    )


def is_equal(now: FrozenPool, state: dict[str, Any]) -> bool:
    found = now.state()
    if now.protocol == "uniswap_v2":
        return (found.reserve0, found.reserve1) == (state["reserve0"], state["reserve1"])
    names = ("sqrtPriceX96", "tick", "liquidity")
    values = (found.sqrt_price_x96, found.tick, found.liquidity)
    return values == tuple(state[name] for name in names)


def logged(event: Event) -> tuple[bool, int, int]:
    """Direction, amount in and amount out of a swap's log."""
    args = event.args
    if event.protocol == "uniswap_v2":
        amounts = [args[f"amount{side}In"] - args[f"amount{side}Out"] for side in (0, 1)]
    else:
        sign = -1 if event.protocol == "uniswap_v4" else 1
        amounts = [sign * args["amount0"], sign * args["amount1"]]
    zero_for_one = amounts[0] > 0 or amounts[1] < 0
    paid, got = amounts if zero_for_one else amounts[::-1]
    return zero_for_one, paid, -got


def agrees(quote: Quote, event: Event) -> bool:
    if (quote.amount_in, quote.amount_out) != logged(event)[1:]:
        return False
    after = (quote.sqrt_price_x96_after, quote.tick_after, quote.liquidity_after)
    names = ("sqrtPriceX96", "tick", "liquidity")
    return event.protocol == "uniswap_v2" or after == tuple(event.args[name] for name in names)


def predicted(now: FrozenPool, event: Event) -> Quote | None:
    """The quote that is the logged swap. A log does not say whether the input or the output was given, nor
    with which limit: one of these asks has to give it."""
    zero_for_one, paid, got = logged(event)
    if paid == got == 0:  # only the price says which way
        zero_for_one = event.args["sqrtPriceX96"] < (now.state().sqrt_price_x96 or 0)
    asks: list[tuple[Any, int, dict[str, Any]]] = [
        (now.quote_exact_in, paid, {}),
        (now.quote_exact_out, got, {}),
    ]
    if event.protocol != "uniswap_v2":
        limit = {"sqrt_price_limit_x96": event.args["sqrtPriceX96"]}
        asks += [(now.quote_exact_in, 2 * paid + 1, limit), (now.quote_exact_in, paid, limit)]
    for ask, amount, options in asks:
        try:
            quote: Quote = ask(amount, zero_for_one=zero_for_one, **options)
        except QuoteError:
            continue
        if agrees(quote, event):
            return quote
    return None


class Series:
    """The pools of one chain, each as its series of swaps left it."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.now: dict[str, FrozenPool] = {}
        self.counts: Counter[str] = Counter()

    def block(self, block: Block) -> None:
        synced: dict[str, dict[str, Any]] = {}  # reserves told, by what is not known yet
        for event in block.events:
            now = self.now.get(event.pool)
            if event.kind == "Sync":
                if event.pool in synced:  # by a donation
                    self.now.pop(event.pool, None)
                synced[event.pool] = event.args
                continue
            told = synced.pop(event.pool, None)
            if now is None:
                continue
            del self.now[event.pool]
            if event.kind != "Swap":
                continue
            quote = predicted(now, event)
            if quote is None:
                self.counts[f"{event.protocol} not as quoted"] += 1
                continue
            self.counts["swaps"] += 1
            self.counts["behind another"] += now.swap_count > 0
            self.now[event.pool] = now.after(quote)
            assert told is None or is_equal(self.now[event.pool], told)
        for key in synced:
            self.now.pop(key, None)
        if self.chain.has_state(block.hash):
            self.compare(block)

    def compare(self, block: Block) -> None:
        for key, state in self.chain.state_at(block.hash).items():
            pool = self.chain.pools[key]
            if key in self.now:
                assert is_equal(self.now[key], state), (block.number, pool.name)
                self.counts["states"] += self.now[key].swap_count > 0
            elif is_initialised(state) and pool.fee_pips != DYNAMIC_FEE:
                self.now[key] = from_storage(pool, state)


@pytest.mark.parametrize("name", CHAINS)
def test_each_swap_follows_from_the_one_before(name: str) -> None:
    series = Series(load(name))
    for step in series.chain.steps:
        if isinstance(step, Reorg):
            series.now.clear()
            for block in step.replacement:
                series.block(block)
        else:
            series.block(step)
    counts = series.counts
    assert counts["uniswap_v3 not as quoted"] == counts["uniswap_v4 not as quoted"] == 0
    assert counts["uniswap_v2 not as quoted"] <= counts["swaps"] // 2
    for counted, least in zip(("swaps", "behind another", "states"), LEAST[name], strict=True):
        assert counts[counted] >= least, counts


# ---- Solidly pairs: a swap's Sync says what stays in the pair once the fee has left it


SYNC = "0xcf2aa50876cdfbb541206f89af0ee78d44a2abf8d328e37fa4917f982149848a"
SWAPS = (
    "0xb3e2773606abfd36b5bd91394b3a54d1398336c65005baf7bf7a05efeffaf75b",
    "0xd78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822",
)


@chains
def test_reserves_of_solidly_pairs_follow_without_the_fee(path: Path) -> None:
    chain = Recorded(path)
    now: dict[str, FrozenPool] = {}
    counts: Counter[str] = Counter()
    for block in chain.blocks:
        synced: dict[str, list[int]] = {}
        for log in block["logs"]:
            key, topic = log["address"], log["topics"][0]
            data = split(bytes.fromhex(log["data"][2:]))
            if topic == SYNC:
                if key in synced:  # by a donation
                    now.pop(key, None)
                synced[key] = data
            elif topic in SWAPS and key in synced:
                told, pool = synced.pop(key), now.pop(key, None)
                zero_for_one = data[0] > 0
                paid, got = (data[0], data[3]) if zero_for_one else (data[1], data[2])
                if pool is None:
                    continue
                quote = pool.quote_exact_in(paid, zero_for_one=zero_for_one)
                if quote.amount_out != got or (data[0] and data[1]):
                    counts["not as quoted"] += 1
                    continue
                after = pool.after(quote)
                assert [after.state().reserve0, after.state().reserve1] == told
                counts["swaps"] += 1
                counts["behind another"] += pool.swap_count > 0
                now[key] = after
        for key in synced:  # liquidity
            now.pop(key, None)
        for key, values in chain.truth(block["number"]).items():
            reserves = (values["reserve0"], values["reserve1"])
            if key in now:
                state = now[key].state()
                assert (state.reserve0, state.reserve1) == reserves
                if state.fee_pips == values["fee_pips"]:
                    continue
            now[key] = frozen(SOLIDLY, values["fee_pips"], reserves=reserves)
    assert counts["swaps"] >= 28, counts
    assert counts["behind another"] >= 7, counts
