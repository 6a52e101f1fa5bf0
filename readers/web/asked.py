"""What a request asks for, read from its query; whatever is not understood is a ValueError."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from arena.readers.amounts import scaled
from arena.readers.quote import QuoteOptions
from arena.readers.state import Token
from arena.readers.views.order import Choice

MOST_ROWS = 500
USUAL_ROWS = 50
MOST_SEARCH = 128  # characters
MOST_ZOOM = 12
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_PAGE = ("sort", "reverse", "touched_first", "status", "protocol", "search", "offset", "limit")
_OPTIONS = ("sqrt_price_limit_x96", "lp_fee", "allow_dynamic_fee", "allow_hooks", "allow_stale")
_QUOTE = ("amount", "amount_raw", "exact", "token_in", *_OPTIONS)
_INTEGER = re.compile(r"-?[0-9]{1,80}")

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """Which pools a table shows: `limit` of those chosen, from the one numbered `offset` on."""

    choice: Choice
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class Swap:
    """What a quote is asked for; `amount` in smallest units."""

    amount: int
    is_exact_out: bool
    zero_for_one: bool
    options: QuoteOptions


def check_names(query: Query, known: tuple[str, ...]) -> None:
    """Refuse parameters that there are not."""
    for name in query:
        if name not in known:
            raise ValueError(f"there is no parameter {name!r}, but {', '.join(known)}")


def integer(query: Query, name: str, usual: int, low: int, high: int) -> int:
    """A number from `low` to `high`."""
    text = query.get(name)
    if text is None:
        return usual
    found = int(text) if _INTEGER.fullmatch(text) else None
    if found is None or not low <= found <= high:
        raise ValueError(f"{name} is a number from {low} to {high}, not {text[:80]!r}")
    return found


def flag(query: Query, name: str) -> bool:
    """true or false, false when it is not there."""
    text = query.get(name, "false")
    if text not in _FLAGS:
        raise ValueError(f"{name} is true or false, not {text[:80]!r}")
    return _FLAGS[text]


def page(query: Query, *more: str) -> Page:
    """Sorting, filters, search and which rows; `more` parameters may be there."""
    check_names(query, (*_PAGE, *more))
    search = query.get("search", "")
    if len(search) > MOST_SEARCH:
        raise ValueError(f"a search of more than {MOST_SEARCH} characters")
    choice = Choice(
        column=query.get("sort") or None,
        is_reversed=flag(query, "reverse"),
        touched_first=flag(query, "touched_first"),
        status=query.get("status", ""),
        protocol=query.get("protocol", ""),
        search=search,
    )
    offset = integer(query, "offset", 0, 0, 2**32)
    return Page(choice, offset, integer(query, "limit", USUAL_ROWS, 1, MOST_ROWS))


def swap(query: Query, tokens: tuple[Token, Token]) -> Swap:
    """A swap of one of these tokens for the other. `amount` is in whole tokens, `amount_raw` in smallest
    units; of the token that goes in, or with exact=out that comes out."""
    check_names(query, _QUOTE)
    exact = query.get("exact", "in")
    if exact not in ("in", "out"):
        raise ValueError(f"exact is in or out, not {exact[:80]!r}")
    token_in = integer(query, "token_in", 0, 0, 1)
    token = tokens[token_in if exact == "in" else 1 - token_in]
    found: QuoteOptions = {
        "allow_stale": flag(query, "allow_stale"),
        "allow_dynamic_fee": flag(query, "allow_dynamic_fee"),
        "allow_hooks": flag(query, "allow_hooks"),
    }
    if query.get("sqrt_price_limit_x96"):
        found["sqrt_price_limit_x96"] = integer(query, "sqrt_price_limit_x96", 0, 0, 2**160 - 1)
    if query.get("lp_fee"):
        found["lp_fee"] = integer(query, "lp_fee", 0, 0, 1_000_000)
    return Swap(_amount(query, token), exact == "out", token_in == 0, found)


def _amount(query: Query, token: Token) -> int:
    text, raw = query.get("amount"), query.get("amount_raw")
    if (text is None) == (raw is None):
        raise ValueError("one of amount (whole tokens) and amount_raw (smallest units) is needed")
    if text is None:
        return integer(query, "amount_raw", 0, 0, 2**256 - 1)
    if token.decimals is None:
        raise ValueError(f"the decimals of {token.address} are unknown: give amount_raw")
    found = scaled(text, token.decimals)
    if found < 0:
        raise ValueError(f"an amount is not below 0, as {text[:80]!r} is")
    return found
