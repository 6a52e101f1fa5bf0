"""Plain text for a terminal: strange names made harmless, cut and padded by cells, readable numbers."""

import math
import unicodedata
from functools import lru_cache

NOTHING = "-"
_DIGITS = 7  # significant digits of a number in a table
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@lru_cache(65_536)
def harmless(text: str) -> str:
    """`text` with a question mark for whatever could do more than stand in its place.

    Symbols of tokens and words of nodes are anybody's: control characters, escape sequences, marks that
    turn the direction of writing or stack on their neighbours, separators of lines, characters
    without width, and spaces of other kinds.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if _is_harmless(each) else "?" for each in text)


def _is_harmless(each: str) -> bool:
    return each.isprintable() and not unicodedata.category(each).startswith("M")


def cells(text: str) -> int:
    """How many columns of a terminal harmless text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells; a tilde says that something is left out."""
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    kept, used = [], 0
    for each in text:
        used += cells(each)
        if used > width - 1:
            break
        kept.append(each)
    return "".join(kept) + "~"


def left(text: str, width: int) -> str:
    """Cut and padded behind to exactly `width` cells."""
    text = cut(text, width)
    return text + " " * (width - cells(text))


def right(text: str, width: int) -> str:
    """Cut and padded in front to exactly `width` cells."""
    text = cut(text, width)
    return " " * (width - cells(text)) + text


def number(value: float, digits: int = _DIGITS) -> str:
    """A few significant digits; powers of ten where the plain form would be long."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -5 <= size < 9:
        digit, _, power = f"{value:.{min(digits, 5) - 1}e}".partition("e")
        return f"{digit.rstrip('0').rstrip('.')}e{power}"
    text = f"{value:.{max(0, digits - 1 - size)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: int) -> str:
    """With a comma between thousands."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """In the two largest units that say something."""
    if not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for index, (size, unit) in enumerate(_STEPS):
        if whole >= size:
            rest = _STEPS[index + 1 : index + 2]
            first = f"{whole // size} {unit}"
            return " ".join([first, *(f"{whole % size // each} {unit}" for each, unit in rest)])
    return NOTHING


def percent(pips: int) -> str:
    """A fee in pips as percent, all digits."""
    return f"{pips / 10_000:.4f}".rstrip("0").rstrip(".") + " %"
