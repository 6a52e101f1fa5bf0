"""arena-dump and arena-quote: an arena's pools as a state file, and one quote, from a shell.

Errors are one line on standard error and exit code 2.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import arena
from arena import statelines
from arena.errors import ArenaError, SnapshotContended, UnknownDecimals, UnknownPool
from arena.layouts.protocols import PROTOCOL_NUMBERS
from arena.output import printing
from arena.readers.amounts import fee_pips
from arena.readers.frozen import FrozenSnapshot
from arena.readers.gas import Gas
from arena.readers.pool import Pool
from arena.readers.quote import Quote
from arena.readers.reader import Arena, attach
from arena.readers.snapshot import Snapshot
from arena.readers.state import PoolState
from arena.readers.token import Token, amount_text, side_of
from arena.readers.token_quotes import TokenQuote
from arena.reads import READ_TRIES


def fail(program: str, error: BaseException) -> NoReturn:
    """One line on standard error, and exit code 2."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        text = "there is no more memory: raise its limit (ulimit -v), or free some"
    with suppress(OSError):  # nobody reads it
        print(f"{program}: {type(error).__name__}: {text}", file=sys.stderr)
    raise SystemExit(2)


class _Version(argparse.Action):
    """What is installed; looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(parser.prog, arena.__version__)
        parser.exit()


def parser_of(program: str, description: str) -> argparse.ArgumentParser:
    """With the options that every command on an arena has."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument("name", metavar="NAME", help="name of the arena, as given to arena-writer")
    parser.add_argument(
        "--timeout", type=float, default=1.0, help="seconds to wait for the arena (default 1)"
    )
    parser.add_argument(
        "--owner",
        metavar="USER",
        help="user whose arena it is, name or uid (default: this command's own)",
    )
    return parser


def attached(options: argparse.Namespace) -> Arena:
    """The arena that those options name."""
    return attach(options.name, timeout=options.timeout, require_writer=False, owner=options.owner)


def pool_line(state: PoolState, head_block: int) -> dict[str, Any]:
    """One line of a state file. Wide integers are decimal strings.

    `block` is the block the values belong to: the head for a live pool, since every event up to it is
    applied; otherwise the pool's own last block.
    """
    own_block = max(state.block_number, state.base_block)
    return statelines.pool_line(
        state.protocol,
        pool=state.pool_key,
        block=max(own_block, head_block) if state.status == "live" else own_block,
        status=state.status,
        tokens=(_token(state.token0), _token(state.token1)),
        factory=state.factory,
        fee_pips=state.fee_pips,
        value_of=partial(getattr, state),
    )


def _token(token: Token) -> dict[str, Any]:
    return statelines.token(token.address, token.decimals, token.symbol)


def state_lines(frozen: FrozenSnapshot) -> Iterator[str]:
    """The lines of a state file: a header, then one pool each. Pools without values are left out."""
    keys = [key for key in frozen if frozen[key].is_read]
    header = {
        "head_block": frozen.block_number,
        "block_hash": frozen.block_hash,
        "timestamp": frozen.timestamp,
        "pools": len(keys),
    }
    yield json.dumps(header)
    for key in keys:
        yield json.dumps(pool_line(frozen[key].state(), frozen.block_number))


def _snapshot_of_all(arena: Arena) -> FrozenSnapshot:
    """Copy of all pools; again when one of them was removed between listing and copying."""
    for _ in range(READ_TRIES):
        try:
            return arena.snapshot(list(arena))
        except UnknownPool:
            continue
    raise SnapshotContended(f"pools of {arena.name} were removed during each of {READ_TRIES} tries")


def dump(arguments: Sequence[str] | None = None) -> None:
    """Print all pools of an arena at one block, as a state file."""
    parser = parser_of("arena-dump", "Print all pools of an arena at one block, as a state file.")
    options = parser.parse_args(arguments)
    try:
        with attached(options) as arena:
            frozen = _snapshot_of_all(arena)
        with printing() as output:
            for line in state_lines(frozen):
                print(line)
                if not output.has_reader:
                    break
    except (ArenaError, ValueError, OSError, MemoryError) as error:
        fail("arena-dump", error)


def _integer(text: str) -> int:
    """For argparse, whose message names the option."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer") from None


def quote(arguments: Sequence[str] | None = None) -> None:
    """Print what one swap would do."""
    parser = _quote_parser()
    options = parser.parse_args(arguments)
    named = options.buy if options.sell is None else options.sell
    if named is None and "/" in options.pool:
        parser.error("with a pair, say what AMOUNT is of: --sell TOKEN or --buy TOKEN")
    if named is not None and options.exact_out:
        parser.error("--exact-out goes with wei alone: --buy TOKEN says that AMOUNT comes out")
    wei = None
    if named is None or options.wei:
        try:
            wei = int(options.amount, 0)
        except ValueError:
            parser.error(f"argument AMOUNT: {options.amount!r} is no integer, as wei is")
    try:
        with attached(options) as arena, arena.snapshot() as view:
            pool = _pool_of(view, options)
            state = pool.state()
            token_in, token_out = state.token0, state.token1
            zero_for_one, is_out = options.zero_for_one, options.exact_out
            if named is not None:
                is_out = options.sell is None
                is_token0 = side_of(named, state.token0, state.token1)
                zero_for_one = is_token0 != is_out
                if wei is None:
                    token = state.token0 if is_token0 else state.token1
                    wei = token.to_wei(options.amount)
            if not zero_for_one:
                token_in, token_out = token_out, token_in
            assert wei is not None
            ask = pool.quote_exact_out if is_out else pool.quote_exact_in
            found = ask(
                wei,
                zero_for_one=zero_for_one,
                sqrt_price_limit_x96=options.limit,
                allow_stale=options.allow_stale,
                allow_dynamic_fee=options.allow_dynamic_fee,
                lp_fee=options.lp_fee,
                allow_hooks=options.allow_hooks,
            )
            head = view.block_number
        answer = _quote_answer(found, token_in, token_out, head)
        if named is not None:
            whole = _in_whole_tokens(found, token_in, token_out)
            answer = {"pool": state.pool_key, **whole, **answer}
        with printing():
            if options.json:
                print(json.dumps(answer))
                return
            for name, value in answer.items():
                plain = value is None or isinstance(value, bool)
                print(f"{name:21}{str(value).lower() if plain else value}")
    except (ArenaError, ValueError, OSError, MemoryError) as error:
        fail("arena-quote", error)


def _pool_of(view: Snapshot, options: argparse.Namespace) -> Pool:
    """By its key, or its pair and what is said of it besides."""
    if "/" in options.pool:
        return view.find(options.pool, fee=options.fee, protocol=options.protocol)
    if options.fee is not None or options.protocol is not None:
        raise ValueError("--fee and --protocol choose a pool of a pair, and POOL is a key")
    return view[options.pool]


def _quote_answer(
    found: Quote, token_in: Token, token_out: Token, head_block: int
) -> dict[str, Any]:
    return {
        "amount_in": str(found.amount_in),
        "amount_out": str(found.amount_out),
        "token_in": token_in.address,
        "token_out": token_out.address,
        "sqrt_price_x96_after": str(found.sqrt_price_x96_after),
        "tick_after": found.tick_after,
        "liquidity_after": str(found.liquidity_after),
        "ticks_crossed": found.ticks_crossed,
        "is_complete": found.is_complete,
        "gas_estimate": Gas().units(found),
        "fee_pips": found.fee_pips,
        "spot_price": found.spot_price,
        "marginal_price": found.marginal_price,
        "effective_price": found.effective_price,
        "price_impact": found.price_impact,
        "block_number": found.block_number,
        "head_block": head_block,
    }


def _in_whole_tokens(found: Quote, token_in: Token, token_out: Token) -> dict[str, Any]:
    """Amounts and price as people write them; in wei, and no price, where decimals are unknown."""
    texts = {
        "sold": f"{amount_text(found.amount_in, token_in)} {token_in.label}",
        "bought": f"{amount_text(found.amount_out, token_out)} {token_out.label}",
    }
    with suppress(UnknownDecimals):
        price = TokenQuote(found, token_in, token_out).price
        if price is not None:
            texts["price"] = f"{price:f} {token_out.label} for 1 {token_in.label}"
    return texts


def _fee(text: str) -> int:
    """Pips, from pips or percent."""
    try:
        return int(text) if text.isascii() and text.isdecimal() else fee_pips(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _quote_parser() -> argparse.ArgumentParser:
    parser = parser_of("arena-quote", "Print what one swap would do, exact at one block.")
    parser.add_argument(
        "pool", metavar="POOL", help="0x-hex address or pool id; a pair of tokens, as USDC/WETH"
    )
    parser.add_argument(
        "amount",
        metavar="AMOUNT",
        help="with --sell or --buy in whole tokens, as 1.5; else wei, decimal or 0x-hex",
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--sell", metavar="TOKEN", help="AMOUNT of it goes in: address or symbol")
    way.add_argument("--buy", metavar="TOKEN", help="AMOUNT of it comes out: address or symbol")
    way.add_argument(
        "--zero-for-one",
        action="store_true",
        default=True,
        help="AMOUNT in wei; token0 goes in, token1 comes out (default)",
    )
    way.add_argument(
        "--one-for-zero",
        action="store_false",
        dest="zero_for_one",
        help="AMOUNT in wei; token1 goes in, token0 comes out",
    )
    parser.add_argument("--wei", action="store_true", help="AMOUNT is in wei beside --sell, --buy")
    parser.add_argument("--fee", type=_fee, metavar="FEE", help="of a pair: pips, or as 0.05%%")
    parser.add_argument(
        "--protocol", metavar="NAME", help=f"of a pair: {', '.join(PROTOCOL_NUMBERS)}"
    )
    parser.add_argument(
        "--exact-out", action="store_true", help="AMOUNT, in wei, is what comes out"
    )
    parser.add_argument(
        "--limit", type=_integer, metavar="X96", help="price limit, sqrt price as Q64.96"
    )
    parser.add_argument("--allow-stale", action="store_true", help="also when the pool is not live")
    parser.add_argument(
        "--allow-dynamic-fee", action="store_true", help="use the stored fee of a dynamic-fee pool"
    )
    parser.add_argument("--lp-fee", type=_integer, metavar="PIPS", help="LP fee of a V4 pool")
    parser.add_argument(
        "--allow-hooks",
        action="store_true",
        help="with --lp-fee: the pool's hooks set that fee and do nothing else to a swap",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, wide integers as strings"
    )
    return parser
