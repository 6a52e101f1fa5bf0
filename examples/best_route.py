"""The best path and the best split for an order, in whole tokens, over all pools of a running arena.

python best_route.py NAME SELL BUY AMOUNT

SELL and BUY are symbols or addresses. Swaps count as free: pass gas=arena.Gas() where SELL is the wrapped
coin, or name that as `native`.
"""

import sys
from decimal import Decimal

import arena


def whole(amount_wei: int, token: arena.Token) -> Decimal:
    return Decimal(amount_wei).scaleb(-token.decimals)


def show(title: str, found: arena.Route | arena.Split) -> None:
    first, last = found.swaps[0].token_in, found.swaps[-1].token_out
    print(
        f"{title} at block {found.block_number}: {whole(found.amount_in, first)} {first.symbol} buys "
        f"{whole(found.amount_out, last)} {last.symbol}"
    )
    for swap in found.swaps:
        print(
            f"  {swap.pool} {whole(swap.amount_in, swap.token_in)} {swap.token_in.symbol} -> "
            f"{whole(swap.amount_out, swap.token_out)} {swap.token_out.symbol}"
        )


def main(name: str, sell: str, buy: str, amount: str) -> None:
    with arena.attach(name, timeout=30) as pools:
        pools.wait_live(timeout=60)
        router = arena.Router(pools, numeraire=sell)
        token = router.token(sell)
        amount_in = int(Decimal(amount).scaleb(token.decimals))
        try:
            route = router.best(sell, buy, amount_in=amount_in)
            split = router.split(sell, buy, amount_in=amount_in)
        except arena.InsufficientLiquidity as error:
            raise SystemExit(f"{name}: {error}") from None
        show("best path", route)
        show("split", split)
        more = 10_000 * (split.amount_out / route.amount_out - 1)
        print(
            f"the split gives {more:.1f} bp more, and ends {10_000 * split.gap:.3f} bp below its bound"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
