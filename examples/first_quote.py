"""What a thousandth of a token buys in every pool of a running arena.

python first_quote.py NAME
"""

import sys
from decimal import Decimal

import arena


def amount_text(amount_wei: int, token: arena.Token) -> str:
    return f"{Decimal(amount_wei).scaleb(-token.decimals):.12f} {token.symbol}"


def main(name: str) -> None:
    with arena.attach(name, timeout=30) as pools:  # by name; waits for the writer
        head = pools.wait_live(timeout=60)
        print(f"{name}: live at block {head}, {len(pools)} pools", flush=True)
        for key in pools:
            pool = pools[key]
            amount = 10**pool.token0.decimals // 1000
            try:
                quote = pool.quote_exact_in(amount, zero_for_one=True)
            except arena.QuoteError as error:  # no liquidity, hooks that can change a swap
                print(f"{pool.protocol} {key[:10]} gives no answer: {type(error).__name__}")
                continue
            print(
                f"{pool.protocol} {key[:10]} {amount_text(quote.amount_in, pool.token0)} buys "
                f"{amount_text(quote.amount_out, pool.token1)}, {quote.ticks_crossed} ticks crossed"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
