"""arena-route and arena-cycles: what a trade is worth, and which cycles pay, from a shell.

Amounts are in whole tokens, as people write them. Errors are one line on standard error and exit code 2.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from arena.errors import ArenaError
from arena.output import Output, printing
from arena.readers.amounts import scaled
from arena.readers.cli import attached, fail, parser_of
from arena.readers.gas import Gas
from arena.readers.routes.answers import Cycles, Route
from arena.readers.routes.router import Router
from arena.readers.token import Token, amount_text


def _gwei(text: str) -> int:
    """Wei of an amount in gwei, for argparse."""
    with suppress(ValueError):
        found = scaled(text, 9)
        if found >= 0:
            return found
    raise argparse.ArgumentTypeError(
        f"{text!r} is no gas price in gwei, of 9 digits behind the point"
    )


def _add_options(parser: argparse.ArgumentParser, hops: int) -> None:
    parser.add_argument(
        "--max-hops", type=int, default=hops, metavar="N", help=f"pools at most (default {hops})"
    )
    parser.add_argument(
        "--numeraire",
        default="WETH",
        metavar="TOKEN",
        help="address or symbol of the wrapped coin that gas is paid in (default WETH)",
    )
    parser.add_argument(
        "--gas-price",
        type=_gwei,
        metavar="GWEI",
        help="instead of the block's base fee; 0: no gas",
    )
    parser.add_argument("--json", action="store_true", help="JSON, integers as strings")


def _router(options: argparse.Namespace, arena: Any) -> Router:
    gas: Gas | None = Gas()
    if options.gas_price is not None:
        gas = Gas(price=options.gas_price) if options.gas_price else None
    return Router(arena, numeraire=options.numeraire, gas=gas)


def as_json(route: Route) -> dict[str, Any]:
    """What --json prints of a route."""
    return {
        "block_number": route.block_number,
        "amount_in": str(route.amount_in),
        "amount_out": str(route.amount_out),
        "token_in": route.token_in.address,
        "token_out": route.token_out.address,
        "gas": route.gas,
        "gas_cost_wei": str(int(route.gas_cost)),
        "swaps": [
            {
                "pool": swap.pool,
                "zero_for_one": swap.zero_for_one,
                "token_in": swap.token_in.address,
                "token_out": swap.token_out.address,
                "amount_in": str(swap.amount_in),
                "amount_out": str(swap.amount_out),
            }
            for swap in route.swaps
        ],
    }


def _lines(route: Route) -> list[str]:
    return [
        f"  {amount_text(swap.amount_in, swap.token_in)} {swap.token_in.label} -> "
        f"{amount_text(swap.amount_out, swap.token_out)} {swap.token_out.label}  {swap.pool}"
        for swap in route.swaps
    ]


def route(arguments: Sequence[str] | None = None) -> None:
    """Print the best path for an amount."""
    parser = parser_of("arena-route", "Print the best path for an amount, exact at one block.")
    parser.add_argument("sell", metavar="SELL", help="token that goes in, address or symbol")
    parser.add_argument("buy", metavar="BUY", help="token that comes out")
    parser.add_argument("amount", metavar="AMOUNT", help="in whole tokens, as in 1.5")
    parser.add_argument("--exact-out", action="store_true", help="AMOUNT is what comes out")
    parser.add_argument("--wei", action="store_true", help="AMOUNT is in the token's smallest unit")
    _add_options(parser, 3)
    options = parser.parse_args(arguments)
    try:
        with attached(options) as arena:
            router = _router(options, arena)
        token = router.token(options.buy if options.exact_out else options.sell)
        wei = int(options.amount, 0) if options.wei else token.to_wei(options.amount)
        side = {"amount_out" if options.exact_out else "amount_in": wei}
        found = router.best(options.sell, options.buy, max_hops=options.max_hops, **side)
        with printing():
            if options.json:
                print(json.dumps(as_json(found)))
                return
            paid = amount_text(found.amount_in, found.token_in)
            got = amount_text(found.amount_out, found.token_out)
            print(f"{paid} {found.token_in.label} -> {got} {found.token_out.label}")
            print("\n".join(_lines(found)))
            print(f"block {found.block_number}, gas {found.gas}, {router.left_out} pools left out")
    except (ArenaError, ValueError, ArithmeticError, OSError, MemoryError) as error:
        fail("arena-route", error)


def cycles(arguments: Sequence[str] | None = None) -> None:
    """Print the cycles that pay."""
    parser = parser_of("arena-cycles", "Print the cycles of swaps that pay, exact at one block.")
    parser.add_argument(
        "--watch", action="store_true", help="go on, with each block's, until interrupted"
    )
    parser.add_argument(
        "--min-profit",
        default="0",
        metavar="AMOUNT",
        help="after gas, whole numeraire tokens (default 0)",
    )
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="a block (default 10)")
    _add_options(parser, 3)
    options = parser.parse_args(arguments)
    try:
        if options.limit < 1:
            raise ValueError(f"--limit {options.limit} is below 1")
        with attached(options) as arena, printing() as output:
            router = _router(options, arena)
            token = router.token(options.numeraire)
            least = token.to_wei(options.min_profit)
            while output.has_reader:
                found = router.cycles(
                    max_hops=options.max_hops, min_profit=least, each=False, limit=options.limit
                )
                _print_cycles(options, router, found, token)
                if not options.watch:
                    return
                _wait(arena, router, output)
                router.update()
    except KeyboardInterrupt:
        return
    except (ArenaError, ValueError, ArithmeticError, OSError, MemoryError) as error:
        fail("arena-cycles", error)


def _wait(arena: Any, router: Router, output: Output) -> None:
    """Until there is a newer commit, or nobody reads any more; a lost writer is said once."""
    is_lost = False
    while router.commit == arena.committed and output.has_reader:
        if arena.wait_commit(router.commit, timeout=1.0) is not None:
            return
        output.look()
        if not is_lost and not arena.writer_alive:
            is_lost = True
            said = f"arena-cycles: no living writer, waiting behind block {router.block_number}"
            print(said, file=sys.stderr, flush=True)


def _print_cycles(options: argparse.Namespace, router: Router, found: Cycles, token: Token) -> None:
    if options.json:
        for each in found:
            print(json.dumps({"profit_wei": str(int(each.profit)), **as_json(each)}), flush=True)
        return
    print(
        f"block {router.block_number}: {len(found)} cycles, {router.left_out} pools left out",
        flush=True,
    )
    for each in found:
        print(f"{amount_text(int(each.profit), token)} {token.label} after {each.gas} gas")
        print("\n".join(_lines(each)), flush=True)
