"""Decimal text and integers of a smallest unit: one way to read, to show and to divide, all of it exact."""

import re
from typing import TYPE_CHECKING

from arena.layouts.slots import DYNAMIC_FEE_PIPS

if TYPE_CHECKING:
    from decimal import (
        Decimal,  # loaded by whoever asks for one: half of what a reader takes to import
    )

PRICE_DIGITS = 40  # significant ones of a quotient, correctly rounded, half to even

# ASCII alone: int() and Decimal() would take digits of any script, spaces, NaN and infinities.
# Compiled when the first is read: that takes as long as the rest of this module.
_NUMBER = (
    r"(?P<sign>[+-]?)"
    r"(?:(?P<whole>[0-9]+(?:_[0-9]+)*)(?:\.(?P<part>[0-9]*))?|\.(?P<only>[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]+))?"
)
# More than any uint256 with 255 places has, and less than what int() refuses to read.
_LENGTH = 1000
_DIGITS = 78  # of the largest uint256


class TooFine(ValueError):
    """More places than the unit has."""


class TooLarge(ValueError):
    """More digits than a uint256 has."""


def scaled(text: str, places: int) -> int:
    """`text` times 10**places, exactly: "1.5" with 6 places is 1500000.

    Digits 0 to 9 with one point at most, as in "1.5", "1e18" or "10_000". ValueError for anything else,
    TooFine for what is finer than 10**-places, TooLarge for more than 78 digits.
    """
    match = re.fullmatch(_NUMBER, text) if len(text) <= _LENGTH else None
    if match is None:
        shown = text if len(text) <= 80 else text[:80] + "..."
        raise ValueError(f"{shown!r} is no amount")
    part = match["part"] or match["only"] or ""
    digits = ((match["whole"] or "").replace("_", "") + part).lstrip("0")
    number = digits.rstrip("0")
    if not number:
        return 0
    shift = int(match["exponent"] or 0) - len(part) + places + len(digits) - len(number)
    if shift < 0:
        raise TooFine(f"{text!r} has more than {places} places")
    if len(number) + shift > _DIGITS:
        raise TooLarge(f"{text!r} is more than 256 bits hold")
    found = int(number + "0" * shift)
    return -found if match["sign"] == "-" else found


def shown(number: int, places: int) -> str:
    """number / 10**places, every digit and no zero at the end: 1500000 with 6 places is "1.5"."""
    digits = f"{abs(number):0{places + 1}d}"
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :].rstrip("0")
    return f"{'-' if number < 0 else ''}{whole}{'.' if part else ''}{part}"


def exact(number: int, places: int) -> "Decimal":
    """number / 10**places with `places` places."""
    from decimal import Decimal

    return Decimal(f"{number}e-{places}")  # takes no digits from the caller's context


def quotient(numerator: int, denominator: int, places: int = 0) -> "Decimal":
    """numerator / denominator * 10**places, correctly rounded to PRICE_DIGITS in any context."""
    from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal

    context = Context(
        prec=PRICE_DIGITS, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[]
    )
    found = context.scaleb(context.divide(Decimal(numerator), Decimal(denominator)), places)
    return context.add(found, Decimal(0))  # 3000 and not 3E+3, which is the same number


def fee_pips(fee: int | str) -> int:
    """A fee in pips, from pips or from text in percent such as "0.05%". TypeError, ValueError."""
    if isinstance(fee, bool) or not isinstance(fee, int | str):
        raise TypeError(f'a fee is pips (500) or text in percent ("0.05%"), not {fee!r}')
    if isinstance(fee, int):
        return fee
    if not fee.endswith("%"):
        raise ValueError(f'fee {fee!r} is neither pips (500) nor text in percent ("0.05%")')
    try:
        return scaled(fee[:-1], 4)
    except ValueError:
        raise ValueError(f"fee {fee!r} is no percentage of at most four places") from None


def fee_text(fee_pips: int) -> str:
    """A fee in percent, as people write it."""
    return "dynamic fee" if fee_pips == DYNAMIC_FEE_PIPS else f"{shown(fee_pips, 4)}%"
