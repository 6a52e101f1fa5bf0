"""A series of swaps in one pool, foretold by `after` alone, and then executed by a node.

Method: a pool's state is read once by the contracts' getters. Two dozen swaps are quoted one behind the other
on copies of it, and only then sent, six to a block. Each log has to say what was foretold, a pair may pay no
unit more, and the getters at the end have to say what the last copy holds.
"""

import random
from pathlib import Path
from typing import Any

import pytest
from builders.copies import frozen
from chains.evm import signed, split, tail
from chains.market import DYNAMIC_FEE, Market, Pool, traded_market
from chains.process import NodeError

from arena.errors import QuoteError
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.readers import FrozenPool, Quote

pytestmark = pytest.mark.node

SWAPS = 24
NUMBERS = {
    "uniswap_v2": UNISWAP_V2,
    "uniswap_v3": UNISWAP_V3,
    "pancakeswap_v3": UNISWAP_V3,
    "uniswap_v4": UNISWAP_V4,
}


def from_getters(pool: Pool, state: dict[str, Any]) -> FrozenPool:
    if pool.kind == "uniswap_v2":
        return frozen(UNISWAP_V2, 3000, reserves=(state["reserve0"], state["reserve1"]))
    return frozen(
        NUMBERS[pool.kind],
        state.get("lp_fee", pool.fee_pips),
        sqrt_price=state["sqrt_price_x96"],
        tick=state["tick"],
        liquidity=state["liquidity"],
        spacing=pool.tick_spacing,
        net=[(tick, net) for tick, _, net in state["ticks"]],
        protocol_fee=state.get("protocol_fee", 0),
    )


def foretell(
    source: random.Random, began: FrozenPool
) -> tuple[list[tuple[Quote, bool]], list[FrozenPool]]:
    """Quotes, each with whether its output was given, and the states behind them."""
    made: list[tuple[Quote, bool]] = []
    states = [began]
    while len(made) < SWAPS:
        exact_out = source.random() < 0.4
        now = states[-1]
        ask = now.quote_exact_out if exact_out else now.quote_exact_in
        amount = int(
            10 ** (source.uniform(3, 20) if source.random() < 0.3 else source.uniform(19, 22))
        )
        try:
            quote = ask(amount, zero_for_one=source.random() < 0.5)
            after = now.after(quote)
        except QuoteError:  # more than there is, or so little that a pair pays nothing
            continue
        if quote.ticks_crossed > 40 or not quote.is_complete:  # gas
            continue
        made.append((quote, exact_out))
        states.append(after)
    return made, states


def pair_swap(market: Market, pool: Pool, quote: Quote, more: int = 0) -> dict[str, str]:
    """Pay the input, and ask the pair for the output and `more`."""
    out = quote.amount_out + more
    outs = (0, out) if quote.zero_for_one else (out, 0)
    swap = market._inner("swap(uint256,uint256,address,bytes)", *outs, market.actor, 4 * 32)
    token = pool.token0 if quote.zero_for_one else pool.token1
    paid = market._transfer(token, pool.address, quote.amount_in)
    return market._act(paid, (pool.address, swap + tail(b"")))


def transaction(market: Market, pool: Pool, quote: Quote, exact_out: bool) -> dict[str, str]:
    if pool.kind == "uniswap_v2":
        return pair_swap(market, pool, quote)
    specified = -quote.amount_out if exact_out else quote.amount_in
    return market._swap(pool, quote.zero_for_one, specified)


def check_log(market: Market, pool: Pool, receipt: Any, quote: Quote, after: FrozenPool) -> None:
    logs = [log for log in receipt["logs"] if log["address"].lower() == pool.address]
    state = after.state()
    if pool.kind == "uniswap_v2":
        sync, swap = (split(bytes.fromhex(log["data"][2:])) for log in logs[-2:])
        assert sync == [state.reserve0, state.reserve1]
        amounts = (quote.amount_in, 0, 0, quote.amount_out)
        assert tuple(swap) == (amounts if quote.zero_for_one else (0, *amounts[0::3], 0))
        return
    data = split(bytes.fromhex(logs[-1]["data"][2:]))
    sign = -1 if pool.kind == "uniswap_v4" else 1
    amounts = tuple(sign * signed(each) for each in data[:2])
    paid, got = amounts if quote.zero_for_one else amounts[::-1]
    assert (paid, -got) == (quote.amount_in, quote.amount_out)
    assert (data[2], data[3], signed(data[4])) == (
        state.sqrt_price_x96,
        state.liquidity,
        state.tick,
    )


def run_series(market: Market, pool: Pool, source: random.Random) -> int:
    """Foretell, execute and compare; how many ticks were crossed."""
    node = market.node
    made, states = foretell(
        source, from_getters(pool, market.states("latest", [pool.key])[pool.key])
    )
    for start in range(0, SWAPS, 6):
        part = made[start : start + 6]
        if pool.kind == "uniswap_v2" and not part[0][1]:  # a unit more than foretold is refused
            greedy = pair_swap(market, pool, part[0][0], more=1)
            assert isinstance(node.batch([("eth_call", (greedy, "latest"))])[0], NodeError)
        receipts = node.run([transaction(market, pool, *each) for each in part])
        for at, (receipt, (quote, _)) in enumerate(zip(receipts, part, strict=True), start + 1):
            check_log(market, pool, receipt, quote, states[at])
    end, truth = states[-1].state(), market.states("latest", [pool.key])[pool.key]
    if pool.kind == "uniswap_v2":
        assert (end.reserve0, end.reserve1) == (truth["reserve0"], truth["reserve1"])
    else:
        held = (end.sqrt_price_x96, end.tick, end.liquidity)
        assert held == (truth["sqrt_price_x96"], truth["tick"], truth["liquidity"])
        assert [list(each[::2]) for each in end.ticks or ()] == [
            each[::2] for each in truth["ticks"]
        ]
    assert states[-1].swap_count == SWAPS
    return sum(quote.ticks_crossed for quote, _ in made)


def test_a_node_executes_what_was_foretold(tmp_path: Path) -> None:
    source = random.Random(24)
    crossed = done = 0
    with traded_market(tmp_path, seed=24, each=3, blocks=8, operations=12) as market:
        for pool in market.pools:
            if pool.fee_pips == DYNAMIC_FEE:
                continue
            crossed += run_series(market, pool, source)
            done += 1
    assert done >= 10
    assert crossed > 50
