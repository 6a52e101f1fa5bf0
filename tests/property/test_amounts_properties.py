"""Amounts as text, Decimals and wei, and prices, against Fractions of the same numbers.

What a text means is known from how it was put together, never read from it.
"""

from contextlib import suppress
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arena.errors import AmountOutOfRange
from arena.readers import PoolState, Token
from arena.readers.amounts import scaled, shown
from arena.readers.token import amount_text

WORD = 2**256
DIGITS = 40  # of a price, as the documentation says
PLACES = st.one_of(st.sampled_from([0, 2, 6, 8, 18, 30, 255]), st.integers(0, 255))
RUN = st.text("0123456789", max_size=90)


def token(places: int | None) -> Token:
    return Token("0x" + "11" * 20, places, "T")


def check(text: str | Decimal, value: Fraction, places: int) -> None:
    """What to_wei makes of an amount that is `value` whole tokens."""
    wanted = value * 10**places
    if wanted.denominator == 1 and 0 <= wanted < WORD:
        assert token(places).to_wei(text) == wanted
        return
    with pytest.raises(ValueError) as hit:  # noqa: PT011
        token(places).to_wei(text)
    if wanted.denominator == 1:
        assert isinstance(hit.value, AmountOutOfRange)
    elif wanted > 0:
        assert not isinstance(hit.value, AmountOutOfRange)
        assert f"more digits than the {places} of T" in str(hit.value)


@given(
    st.sampled_from(["", "+", "-"]),
    RUN,
    st.none() | RUN,
    st.none() | st.integers(-400, 400),
    st.sampled_from(["e", "E", "e+0", "E00"]),
    PLACES,
)
@example("", "1", "5", None, "e", 18)
@example("", "115792089237316195423570985008687907853269984665640564039457584007913129639935", None,
         None, "e", 0)  # fmt: skip
@example("", "115792089237316195423570985008687907853269984665640564039457584007913129639936", None,
         None, "e", 0)  # fmt: skip
@example("", "0", "0" * 80, None, "e", 6)
@example("-", "0", None, 400, "e", 0)
def test_a_number_means_what_it_was_put_together_from(
    sign: str, whole: str, part: str | None, exponent: int | None, mark: str, places: int
) -> None:
    text = sign + whole + ("" if part is None else f".{part}")
    value = Fraction(int("0" + whole + (part or "")), 10 ** len(part or ""))
    if exponent is not None:
        if len(mark) > 1 and exponent < 0:
            mark = mark[0]
        text += f"{mark}{exponent}"
        value *= Fraction(10) ** exponent
    if not whole and not part:
        with pytest.raises(ValueError, match="is no amount"):
            token(places).to_wei(text)
        return
    check(text, -value if sign == "-" else value, places)


@given(st.decimals(allow_nan=True, allow_infinity=True), PLACES)
@example(Decimal("sNaN"), 6)
@example(Decimal("-Infinity"), 6)
@example(Decimal("1E+999999"), 0)
@example(Decimal("1E-999999"), 255)
@example(Decimal("-0"), 6)
@example(Decimal("0E+999999"), 6)
def test_a_decimal_means_itself(amount: Decimal, places: int) -> None:
    if not amount.is_finite():
        with pytest.raises(ValueError, match="is no amount"):
            token(places).to_wei(amount)
        return
    if amount and abs(amount.adjusted()) > 10_000:  # whose Fraction would fill the memory
        with pytest.raises(ValueError, match=r"2\^256|no uint256|256 bits|more digits"):
            token(places).to_wei(amount)
        return
    check(amount, Fraction(amount) if amount else Fraction(0), places)


SOUND = set("0123456789+-._eE")


@given(st.text(max_size=20), PLACES)
@example("٣", 6)
@example("１", 6)
@example("²", 6)
@example(" 1", 6)
@example("1\n", 6)
@example("1\0", 6)
@example("1_000_", 6)
@example("_1", 6)
@example("1e٣", 6)
@example("0x10", 6)
@example("nan", 6)
@example("Infinity", 6)
@example("1e", 6)
@example("1.5.", 6)
@example("−1", 6)
@example("9" * 1001, 6)
@example("1e" + "9" * 900, 6)
@example("1e-" + "9" * 900, 6)
def test_any_other_text_is_refused_and_nothing_else_happens(text: str, places: int) -> None:
    found: int | None = None
    with suppress(ValueError):
        found = token(places).to_wei(text)
    if set(text) - SOUND or not set(text) & set("0123456789"):
        assert found is None
    elif found is not None:
        assert found == Fraction(text) * 10**places


@given(st.integers(0, WORD - 1), PLACES)
@example(0, 0)
@example(1, 255)
@example(WORD - 1, 0)
def test_wei_go_to_whole_tokens_and_back(wei: int, places: int) -> None:
    with localcontext(prec=2):  # the caller's context is not used
        amount = token(places).from_wei(wei)
    assert Fraction(amount) == Fraction(wei, 10**places)
    assert -amount.as_tuple().exponent == places  # type: ignore[operator]
    assert token(places).to_wei(amount) == wei
    text = amount_text(wei, token(places))
    assert Fraction(text) == Fraction(wei, 10**places)
    assert token(places).to_wei(text) == wei
    assert not ("." in text and text.endswith(("0", ".")))
    assert "e" not in text.lower()


@given(st.integers(-WORD, WORD), PLACES)
def test_integers_are_shown_exactly_with_their_sign(number: int, places: int) -> None:
    assert Fraction(shown(number, places)) == Fraction(number, 10**places)
    if abs(number) < 10**78:
        assert scaled(shown(number, places), places) == number


MAGNITUDES = st.one_of(st.integers(0, 2**112 - 1), st.integers(0, 112).map(lambda bits: 2**bits))
SQRT_PRICES = st.one_of(
    st.integers(4295128739, 1461446703485210103287273052203988822378723970341),
    st.integers(32, 159).map(lambda bits: (1 << bits) + 4295128739),
)


def state_of(places0: int, places1: int, **values: int) -> PoolState:
    ends = Token("0x" + "11" * 20, places0, "A"), Token("0x" + "22" * 20, places1, "B")
    name = "uniswap_v2" if "reserve0" in values else "uniswap_v3"
    return PoolState(name, "0x", 1, 0, 0, "live", *ends, 3000, 1, "0x", **values)


def is_rounded(found: Decimal, exact: Fraction) -> bool:
    unit = Fraction(10) ** (found.adjusted() - DIGITS + 1)
    return len(found.as_tuple().digits) <= DIGITS and abs(Fraction(found) - exact) <= unit / 2


@given(MAGNITUDES.filter(bool), MAGNITUDES.filter(bool), PLACES, PLACES)
def test_the_price_of_reserves_is_rounded_once(a: int, b: int, places0: int, places1: int) -> None:
    price = state_of(places0, places1, reserve0=a, reserve1=b).price
    exact = Fraction(b, a) * Fraction(10) ** (places0 - places1)
    assert is_rounded(price.token0_in_token1, exact)
    assert is_rounded(price.token1_in_token0, 1 / exact)


@given(SQRT_PRICES, PLACES, PLACES)
def test_the_price_of_a_curve_is_rounded_once(root: int, places0: int, places1: int) -> None:
    price = state_of(places0, places1, sqrt_price_x96=root).price
    exact = Fraction(root, 2**96) ** 2 * Fraction(10) ** (places0 - places1)
    assert is_rounded(price.token0_in_token1, exact)
    assert is_rounded(price.token1_in_token0, 1 / exact)
