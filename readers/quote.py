"""One question: how an amount, a direction and options reach C, and the errors of one without an answer.

The answer, Quote, is a type of arena/native/_quote.c that makes its fields when they are read.
"""

import operator
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from arena.errors import AmountOutOfRange, ArenaError
from arena.layouts.slots import record
from arena.native import EXCEPTIONS, ffi, lib, lib_name
from arena.native._handle import Quote as Quote
from arena.native._handle import make_quote as make_quote  # pickles name it here
from arena.native._handle import words_from_ints
from arena.readers.arguments import flag, ordered_amounts

# psa_quote_result in arena.h.
RESULT = record(
    192,
    [
        ("amount_in", ("<u8", 4), 0),  # wei, uint256
        ("amount_out", ("<u8", 4), 32),  # wei, uint256
        ("sqrt_price_x96_after", ("<u8", 4), 64),  # Q64.96; V2: 0
        ("liquidity_after", ("<u8", 2), 96),  # uint128; V2: 0
        ("tick_after", "<i4", 112),  # V2: 0
        ("ticks_crossed", "<u4", 116),  # initialised ticks
        ("is_complete", "u1", 120),  # 0: the limit or the end of liquidity stopped the swap
        ("zero_for_one", "u1", 121),
        ("protocol", "u1", 122),  # of arena.layouts.slots
        ("reserved0", "u1", 123),  # zero
        ("status", "<u4", 124),  # PSA_*; 0 = answered
        ("commit", "<u8", 128),  # version the answer was computed from
        ("block_number", "<u8", 136),  # block of the pool's last applied event
        ("sqrt_price_hi_before", "<u4", 144),  # the pool before the swap, these four as in LINE
        ("tick_before", "<i4", 148),
        ("a_before", ("<u8", 2), 152),
        ("b_before", ("<u8", 2), 168),
        ("fee_pips", "<u4", 184),  # of the whole swap, of LPs and protocol
        ("slot", "<u4", 188),  # of the pool
    ],
)

_ZERO_FOR_ONE: int = lib.PSA_ZERO_FOR_ONE
_EXACT_OUT: int = lib.PSA_EXACT_OUT
_ALLOW_STALE: int = lib.PSA_ALLOW_STALE
_ALLOW_DYNAMIC: int = lib.PSA_ALLOW_DYNAMIC
_FEE_GIVEN: int = lib.PSA_FEE_GIVEN
_ALLOW_HOOKS: int = lib.PSA_ALLOW_HOOKS


def quote_error(status: int, key: str, amount: int | None, flags: int) -> Exception:
    """The exception of a quote that has no answer."""
    cls = EXCEPTIONS.get(status, ArenaError)
    way = "token0 to token1" if flags & _ZERO_FOR_ONE else "token1 to token0"
    side = "out of" if flags & _EXACT_OUT else "into"
    what = "the batch's arguments" if amount is None else f"{amount} {side} pool {key}, {way}"
    if status == lib.PSA_BAD_ARGUMENT:
        return cls(
            f"{what}: an option does not fit the pool: pairs take no price limit, Solidly's "
            "no exact output, and only V4 pools with a dynamic fee or hooks take lp_fee"
        )
    text = f"{what}: {lib_name(status)}"
    remedy = {
        lib.PSA_POOL_STALE: "wait until it is live, or pass allow_stale=True",
        lib.PSA_DYNAMIC_FEE: "pass lp_fee, or allow_dynamic_fee=True",
        lib.PSA_HOOKED_POOL: "if its hooks only set the fee, pass that as lp_fee with allow_hooks=True",
        lib.PSA_PRICE_LIMIT: "the limit lies below the pool's price for token0 to token1, above it otherwise",
        lib.PSA_INSUFFICIENT_LIQUIDITY: "ask for less",
        lib.PSA_SNAPSHOT_TOO_OLD: "take a new snapshot, or snapshot(keys) to keep a copy",
        lib.PSA_POOL_REMOVED: "look it up again",
    }.get(status)
    if status == lib.PSA_POOL_STALE and flags & _ALLOW_STALE:
        remedy = "it was announced and has no values yet: wait until it is live"
    if remedy is not None:
        text = f"{text} {remedy}"
    if issubclass(cls, ArenaError):
        return cls(text, key=key, amount=amount, status=status)
    return cls(text)


def amount_bytes(amount: Any) -> bytes:
    """32 little-endian bytes. AmountOutOfRange outside uint256, TypeError when it is no integer."""
    number = operator.index(amount)
    try:
        return number.to_bytes(32, "little")
    except OverflowError:
        raise AmountOutOfRange(f"amount {number} is no uint256", amount=number) from None


def amounts_array(amounts: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """(n, 4) words of n amounts: ints, an unsigned integer array (n,), or words (n, 4) as they are.

    TypeError for what has no order, and for bytes, which are no amounts."""
    if isinstance(amounts, np.ndarray) and amounts.dtype.kind == "u":
        if amounts.ndim == 2 and amounts.shape[1] == 4:
            return np.ascontiguousarray(amounts, dtype="<u8")
        if amounts.ndim == 1:
            words = np.zeros((len(amounts), 4), "<u8")
            words[:, 0] = amounts
            return words
        raise ValueError(f"amounts have shape {amounts.shape}, not (n,) or (n, 4)")
    listed = ordered_amounts(amounts)
    return np.frombuffer(words_from_ints(listed, amount_bytes), "<u8").reshape(-1, 4)


def limit_bytes(limit: int | None) -> Any:
    """A price limit for C: 32 bytes, or null."""
    if limit is None:
        return ffi.NULL
    try:
        return operator.index(limit).to_bytes(32, "little")
    except OverflowError:
        raise ValueError(f"price limit {limit} is no Q64.96 number") from None


def direction(zero_for_one: bool, exact_out: bool) -> int:
    """Flags of a direction and of the side that is given. TypeError when it is no boolean."""
    flags = _ZERO_FOR_ONE if flag("zero_for_one", zero_for_one) else 0
    if exact_out is not False and flag("exact_out", exact_out):
        flags |= _EXACT_OUT
    return flags


class QuoteOptions(TypedDict, total=False):
    """Options of a quote.

    `sqrt_price_limit_x96` (Q64.96) ends the swap when the price reaches it; V2 takes none. `allow_stale`
    answers from a pool that is not live. A V4 pool with a dynamic fee needs `lp_fee` (pips), or
    `allow_dynamic_fee` to use the stored one. `allow_hooks`, with `lp_fee`, answers with the curve for
    a V4 pool whose hooks take part in swaps: the caller knows that they only set that fee.
    """

    sqrt_price_limit_x96: int | None
    allow_stale: bool
    allow_dynamic_fee: bool
    lp_fee: int | None
    allow_hooks: bool


def resolve_options(
    flags: int,
    *,
    sqrt_price_limit_x96: int | None = None,
    allow_stale: bool = False,
    allow_dynamic_fee: bool = False,
    lp_fee: int | None = None,
    allow_hooks: bool = False,
) -> tuple[int, Any, int]:
    """Flags, price limit and LP fee for C. TypeError for what is not True or False. ValueError for an lp_fee
    above 1,000,000 pips, and for allow_hooks without one."""
    # Most are not given, and a call costs as much as the rest of this.
    if allow_stale is not False and flag("allow_stale", allow_stale):
        flags |= _ALLOW_STALE
    if allow_dynamic_fee is not False and flag("allow_dynamic_fee", allow_dynamic_fee):
        flags |= _ALLOW_DYNAMIC
    if allow_hooks is not False and flag("allow_hooks", allow_hooks):
        if lp_fee is None:
            raise ValueError("allow_hooks needs lp_fee: the fee that the pool's hooks set")
        flags |= _ALLOW_HOOKS
    if lp_fee is None:
        return flags, limit_bytes(sqrt_price_limit_x96), 0
    if not 0 <= lp_fee <= 1_000_000:
        raise ValueError(f"lp_fee {lp_fee} is not between 0 and 1000000 pips")
    return flags | _FEE_GIVEN, limit_bytes(sqrt_price_limit_x96), lp_fee
