"""What an argument may be, and the error that says so: truth values, times, counts, lists of amounts.

Nothing is taken for what it merely counts as: the text "no" is no False, and NaN is no time to wait.
"""

import math
import operator
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

# A look-up, so that only what equals True or False is one.
_TRUTH = {True: True, False: False}
_TRUTHS = (bool, np.bool_)
_NUMBERS = (float, int, np.integer, np.floating)
_NO_LISTS = (str, bytes, bytearray, memoryview, set, frozenset)


def flag(name: str, value: Any) -> bool:
    """True or False, or what equals one of them. TypeError."""
    if value is True:
        return True
    if value is False:
        return False
    try:
        return _TRUTH[value]
    except (KeyError, TypeError):
        raise TypeError(f"{name} is True or False, not {value!r}") from None


def whole(name: str, value: Any, least: int) -> int:
    """An int from `least` on. TypeError for what is none, a truth value too; ValueError below."""
    if type(value) is int and value >= least:
        return value
    try:
        if isinstance(value, _TRUTHS):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} is {number}, below {least}")
    return number


def remaining(name: str, value: Any) -> float:
    """What is left of a time, seconds; below 0 where it is over. TypeError for what is no number; ValueError
    for NaN."""
    if type(value) is float and value >= 0:
        return value
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise ValueError(f"{name} is not a number: give seconds")
    return number


def seconds(name: str, value: Any) -> float:
    """Seconds from 0 on, infinity too. TypeError for what is no number; ValueError for NaN and below 0."""
    number = remaining(name, value)
    if number < 0:
        raise ValueError(f"{name} is {number} s: seconds are counted from 0 on")
    return number


def deadline(timeout: float | None) -> float | None:
    """Time on the monotonic clock at which a wait ends; None: never. Below 0 it has ended already, so that
    what is left of some other wait can be given. Errors as `remaining`."""
    if timeout is None:
        return None
    end = time.monotonic() + remaining("timeout", timeout)
    return None if end == math.inf else end


def ordered(what: str, values: Any) -> Any:
    """A list as it is, or whatever else has an order of its own. TypeError for text, bytes and sets, and
    for what is one thing only."""
    if type(values) in (list, tuple, np.ndarray):
        return values
    if isinstance(values, _NO_LISTS) or not (
        hasattr(values, "__iter__") or hasattr(values, "__getitem__")
    ):
        raise TypeError(f"{what} are a list or an array, not {type(values).__name__}")
    return values


def ordered_amounts(values: Any) -> Any:
    """As `ordered`; TypeError for a mapping, too."""
    if isinstance(ordered("amounts", values), Mapping):
        raise TypeError(f"amounts are a list or an array, not {type(values).__name__}")
    return values


def is_single(amounts: Any) -> bool:
    """Whether it is one integer, as a single quote takes it, and no list of them."""
    if isinstance(amounts, np.ndarray):
        return amounts.ndim == 0
    return hasattr(type(amounts), "__index__")
