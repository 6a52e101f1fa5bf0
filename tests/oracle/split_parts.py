"""What is sure of any split: an amount in parts over paths that share no pool, and that its swaps follow.

Of the product it uses what routes.py does.
"""

from collections.abc import Iterable
from typing import Any

from oracle.routes import Graph, Pools, run_in

PARTS = 20  # of five in a hundred each


def in_parts(frozen: Pools, graph: Graph, sell: str, buy: str, amount: int) -> int:
    """What routers do that try parts: each part goes to the path that gives most for it, of up to eight that
    share no pool."""
    taken: set[str] = set()
    chosen = []
    ways = [
        (out, hops)
        for hops in graph.ways(sell, buy, 3, frozenset((sell, buy)))
        if (out := run_in(frozen, hops, amount // PARTS))
    ]
    for _, hops in sorted(ways, key=lambda way: -way[0]):
        if not taken & {key for key, _ in hops} and len(chosen) < 8:
            taken |= {key for key, _ in hops}
            chosen.append(hops)
    if not chosen:
        return 0
    used, given = [0] * len(chosen), [0] * len(chosen)
    for part in range(PARTS):
        more = amount // PARTS + (amount % PARTS if part == 0 else 0)
        outs = [run_in(frozen, hops, used[i] + more) for i, hops in enumerate(chosen)]
        gains = [(out - given[i], i) for i, out in enumerate(outs) if out]
        if not gains:
            return 0  # they do not carry so much
        gain, best = max(gains)
        used[best], given[best] = used[best] + more, given[best] + gain
    return sum(given)


def check_split(frozen: Any, split: Any, slack: float = 1e-9) -> None:
    """Every swap is the pool's own quote, no pool comes twice, and each token that goes in was there."""
    check_amounts(frozen, split.swaps)
    assert len({swap.pool for swap in split.swaps}) == len(split.swaps)
    held = {split.swaps[0].token_in.address: split.amount_in}
    for swap in split.swaps:
        held[swap.token_in.address] -= swap.amount_in
        assert held[swap.token_in.address] >= 0
        held[swap.token_out.address] = held.get(swap.token_out.address, 0) + swap.amount_out
    bought = {address for address, amount in held.items() if amount}
    assert held[split.swaps[-1].token_out.address] == split.amount_out
    assert len(bought) == 1, "something was left lying"
    assert split.amount_out <= split.bound * (1 + slack)


def check_amounts(frozen: Pools, swaps: Iterable[Any]) -> None:
    """Every swap is the pool's own quote."""
    for swap in swaps:
        quote = frozen[swap.pool].quote_exact_in(swap.amount_in, zero_for_one=swap.zero_for_one)
        assert quote.amount_out == swap.amount_out
        assert quote.is_complete
