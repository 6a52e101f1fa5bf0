"""A token, amounts of it in whole tokens, and what one is worth in another."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from arena.errors import AmbiguousToken, AmountOutOfRange, UnknownDecimals, UnknownToken
from arena.layouts import slots
from arena.native._handle import key_bytes
from arena.readers.amounts import TooFine, TooLarge, exact, quotient, scaled, shown

if TYPE_CHECKING:
    from decimal import Decimal

_WORD = 1 << 256
SHOWN = 10  # candidates in a message; error.candidates has all


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a pool: 0x-hex address (zero = native coin), decimals (None = unknown), symbol.

    Whoever deploys a token chooses its symbol: it may be empty, or another token's.
    """

    address: str
    decimals: int | None
    symbol: str

    def to_wei(self, amount: "str | Decimal") -> int:
        """Wei of an amount in whole tokens, exactly: text such as "1.5", "1e3" or "10_000", or a Decimal.

        TypeError for an int or float: an int could be meant as wei, a float is not exact. ValueError for
        what is no amount, or has more places than the token; AmountOutOfRange below 0 and above uint256.
        UnknownDecimals.
        """
        if isinstance(amount, str):
            text = amount
        elif _is_decimal(amount):
            text = str(amount)
        else:
            raise TypeError(
                f'an amount in whole tokens is text or a Decimal, such as "1.5", not {amount!r}: an int '
                "might be wei (quote_exact_in and quote_exact_out take those), a float is not exact"
            )
        places = self._places()
        try:
            found = scaled(text, places)
        except TooFine:
            raise ValueError(
                f"{text!r} has more digits than the {places} of {self.label}"
            ) from None
        except TooLarge as error:
            raise AmountOutOfRange(str(error)) from None
        if not 0 <= found < _WORD:
            raise AmountOutOfRange(f"amount {text!r} is no uint256", amount=found)
        return found

    def from_wei(self, wei: int) -> "Decimal":
        """An amount in whole tokens, exact, with as many places as the token has. UnknownDecimals."""
        return exact(operator.index(wei), self._places())

    def _places(self) -> int:
        if self.decimals is None:
            raise UnknownDecimals(
                f"the decimals of token {self.address} are unknown: count it in wei",
                address=self.address,
            )
        return self.decimals

    @property
    def label(self) -> str:
        """The symbol; the address where there is none, or one with characters that cannot be printed."""
        return self.symbol if self.symbol and self.symbol.isprintable() else self.address


def _is_decimal(amount: object) -> bool:
    from decimal import Decimal

    return isinstance(amount, Decimal)


def amount_text(wei: int, token: Token) -> str:
    """A whole-token amount, all digits; in wei where the decimals are unknown."""
    return f"{wei} wei" if token.decimals is None else shown(wei, token.decimals)


@dataclass(frozen=True, slots=True)
class PoolPrice:
    """What a pool's tokens are worth in each other, whole tokens, without fee or price impact.

    Each is correctly rounded to 40 significant digits by itself.
    """

    token0_in_token1: "Decimal"
    token1_in_token0: "Decimal"


def pool_price(token0: Token, token1: Token, amount0: int, amount1: int) -> PoolPrice:
    """The price at which `amount0` wei of token 0 are worth `amount1` wei of token 1; neither is 0."""
    places = token0._places() - token1._places()
    return PoolPrice(quotient(amount1, amount0, places), quotient(amount0, amount1, -places))


def tokens_of(rows: npt.NDArray[np.void]) -> list[Token]:
    """The tokens of rows of the token table."""
    known = (rows["flags"] & slots.TOKEN_DECIMALS_KNOWN) != 0
    columns = (known.tolist(), rows["decimals"].tolist(), rows["symbol_nbytes"].tolist())
    addresses, symbols = rows["address"].tobytes(), rows["symbol"].tobytes()
    return [
        Token(
            "0x" + addresses[20 * i : 20 * i + 20].hex(),
            decimals if is_known else None,
            symbols[32 * i : 32 * i + nbytes].decode("utf-8", "replace"),
        )
        for i, (is_known, decimals, nbytes) in enumerate(zip(*columns, strict=True))
    ]


@lru_cache(4096)  # a few tokens are in most pools
def token_of(row: bytes) -> Token:
    """The token of a row of the token table."""
    return tokens_of(np.frombuffer(row, slots.TOKEN))[0]


# Their names

Name = str | bytes | Token


def text_of(name: Name) -> str:
    """0x-hex of an address or key; a symbol as it is. TypeError."""
    if isinstance(name, Token):
        return name.address
    if not isinstance(name, str | bytes):
        raise TypeError(f"a name is a symbol, an address or a Token, not {name!r}")
    try:
        return "0x" + key_bytes(name).hex()
    except (ValueError, TypeError):
        return name if isinstance(name, str) else name.hex()


def only_token(name: Name, found: Sequence[Token], known: Iterable[Token] = ()) -> Token:
    """The one token of `found`. UnknownToken with those of `known` that may be meant, AmbiguousToken."""
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousToken(
            f"several tokens have the symbol {name!r}, give an address: {_listed(found)}",
            candidates=tuple(found),
        )
    text = text_of(name).casefold()
    near = tuple(token for token in known if token.symbol and token.symbol.casefold() == text)
    hint = f"; symbols are told apart by case: {_listed(near)}" if near else ""
    raise UnknownToken(f"no pool has a token {name!r}{hint}", candidates=near)


def _listed(tokens: Sequence[Token]) -> str:
    texts = [f"{token.address} {token.symbol!r}" for token in tokens[:SHOWN]]
    more = [f"and {len(tokens) - SHOWN} more"] if len(tokens) > SHOWN else []
    return ", ".join(texts + more)


def side_of(name: Name, token0: Token, token1: Token) -> bool:
    """Whether a name is that of token 0 of a pool, and not of token 1. UnknownToken, AmbiguousToken."""
    text, both = text_of(name), (token0, token1)
    found = [token for token in both if text and text in (token.address, token.symbol)]
    if not found:
        raise UnknownToken(f"the pool's tokens are {_listed(both)}, not {name!r}", candidates=both)
    return only_token(name, found) is token0


def pair_text(token0: Token, token1: Token) -> str:
    """Two tokens, as people write a pair."""
    return f"{token0.label}/{token1.label}"
