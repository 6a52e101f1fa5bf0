"""Prices and quotes in whole tokens, beside the exact ones in wei."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from arena.errors import ArenaError, PoolStale
from arena.readers.amounts import fee_text, quotient
from arena.readers.quote import Quote, QuoteOptions
from arena.readers.shown import html_table
from arena.readers.state import PoolState
from arena.readers.token import Name, PoolPrice, Token, amount_text, pair_text, side_of

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True, repr=False)
class TokenQuote:
    """A quote in whole tokens: `quote` is the exact one, in wei, and everything here is made of it."""

    quote: Quote
    token_in: Token
    token_out: Token

    @property
    def amount_in(self) -> "Decimal":
        """Whole tokens into the pool, fee included; exact."""
        return self.token_in.from_wei(self.quote.amount_in)

    @property
    def amount_out(self) -> "Decimal":
        """Whole tokens out of the pool; exact."""
        return self.token_out.from_wei(self.quote.amount_out)

    @property
    def price(self) -> "Decimal | None":
        """Whole tokens that come out for one that goes in, fee and price impact included, correctly rounded
        to 40 significant digits; None when nothing goes in."""
        if self.quote.amount_in == 0:
            return None
        places = self.token_in._places() - self.token_out._places()
        return quotient(self.quote.amount_out, self.quote.amount_in, places)

    @property
    def is_complete(self) -> bool:
        """Whether the whole amount was swapped; else the amounts are those of the part that was."""
        return self.quote.is_complete

    def as_dict(self) -> dict[str, Any]:
        """A row of a frame: symbols, amounts and price as Decimals."""
        return {
            "token_in": self.token_in.label,
            "token_out": self.token_out.label,
            "amount_in": self.amount_in,
            "amount_out": self.amount_out,
            "price": self.price,
            "is_complete": self.is_complete,
            "block_number": self.quote.block_number,
        }

    def __repr__(self) -> str:
        paid = amount_text(self.quote.amount_in, self.token_in)
        got = amount_text(self.quote.amount_out, self.token_out)
        part = "" if self.is_complete else ", in part"
        return (
            f"TokenQuote({paid} {self.token_in.label} -> {got} {self.token_out.label}{part}, "
            f"block {self.quote.block_number})"
        )


class TokenQuotes:
    """The half of a pool that counts in whole tokens."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _head(self) -> PoolState: ...
        def quote_exact_in(
            self, amount_in: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
        ) -> Quote: ...
        def quote_exact_out(
            self, amount_out: int, *, zero_for_one: bool, **options: Unpack[QuoteOptions]
        ) -> Quote: ...

    @property
    def price(self) -> PoolPrice:
        """What the tokens are worth in each other, whole ones, fee left out; see PoolPrice.

        PoolStale unless the pool is live: state().price is that of any. UnknownDecimals;
        PoolNotInitialized. Of a handle also PoolRemoved, SnapshotTooOld, ArenaClosed.
        """
        state = self._head()
        if state.status != "live":
            raise PoolStale(
                f"pool {state.pool_key} is {state.status}: wait until it is live, or ask state().price",
                key=state.pool_key,
            )
        return state.price

    def quote(
        self,
        amount: "str | Decimal",
        *,
        sell: Name | None = None,
        buy: Name | None = None,
        **options: Unpack[QuoteOptions],
    ) -> TokenQuote:
        """What selling, or buying, an amount in whole tokens would do: the exact quote, and Decimals.

        `sell` names the token of which `amount` goes in, `buy` the one of which it comes out, by symbol or
        address; one of the two. `amount` is text, as "1.5", or a Decimal, with no more places than the
        token has; an int is refused, for it might be wei: Token.to_wei says more. Options and errors as of
        quote_exact_in and quote_exact_out; UnknownToken, AmbiguousToken, UnknownDecimals, ValueError,
        TypeError.
        """
        if (sell is None) == (buy is None):
            raise ValueError("give the token to sell or the token to buy, and one of them only")
        state = self._head()
        named = buy if sell is None else sell
        assert named is not None
        is_token0 = side_of(named, state.token0, state.token1)
        asked, other = (state.token0, state.token1)[:: 1 if is_token0 else -1]
        wei = asked.to_wei(amount)
        other._places()  # before anything is asked: UnknownDecimals
        if sell is not None:
            found = self.quote_exact_in(wei, zero_for_one=is_token0, **options)
            return TokenQuote(found, asked, other)
        found = self.quote_exact_out(wei, zero_for_one=not is_token0, **options)
        return TokenQuote(found, other, asked)

    def _repr_html_(self) -> str:
        try:
            state = self._head()
        except ArenaError:
            return html_table(repr(self), [])
        return html_table(f"{type(self).__name__} {state.pool_key}", pool_rows(state))


def pool_rows(state: PoolState) -> list[tuple[str, object]]:
    """What a notebook shows of a pool: names and texts."""
    rows: list[tuple[str, object]] = [
        ("protocol", state.protocol),
        ("pair", pair_text(state.token0, state.token1)),
        ("fee", fee_text(state.fee_pips)),
        ("status", state.status),
        ("block", state.block_number),
    ]
    try:
        price = state.price
    except ArenaError:  # no values, no price, or decimals that are unknown
        return rows
    one, other = state.token0.label, state.token1.label
    rows.append((f"{other} for 1 {one}", f"{price.token0_in_token1:.10g}"))
    rows.append((f"{one} for 1 {other}", f"{price.token1_in_token0:.10g}"))
    return rows


def pool_label(state: PoolState) -> str:
    """What people call a pool, and how it is."""
    pair = pair_text(state.token0, state.token1)
    return f"{state.pool_key}, {state.protocol} {pair} {fee_text(state.fee_pips)}, {state.status}"
