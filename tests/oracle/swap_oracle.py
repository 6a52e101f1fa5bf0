"""Uniswap V2, V3 and V4 swaps in plain Python integers: slow, and close to the contracts' own text.

Every word edge is visited, nothing is skipped or estimated. A swap the contract would revert raises
RevertError with the contract's reason. Prices are sqrt(token1/token0) * 2^96, amounts raw units,
fees pips. Sources: v2-core UniswapV2Pair and v2-periphery UniswapV2Library; Pool.sol of
aerodrome-finance/contracts and Pair.sol of velodrome-finance/v1 (volatile pairs); v3-core TickMath,
TickBitmap, SqrtPriceMath, SwapMath and UniswapV3Pool.swap; v4-core SwapMath, ProtocolFeeLibrary and
Pool.swap.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

MIN_TICK = -887272
MAX_TICK = 887272
Q96 = 1 << 96
UINT256 = (1 << 256) - 1
PIPS = 1_000_000

# TickMath's literals: 2^128 / sqrt(1.0001)^(2^i)
FACTORS = (
    0xFFFCB933BD6FAD37AA2D162D1A594001,
    0xFFF97272373D413259A46990580E213A,
    0xFFF2E50F5F656932EF12357CF3C7FDCC,
    0xFFE5CACA7E10E4E61C3624EAA0941CD0,
    0xFFCB9843D60F6159C9DB58835C926644,
    0xFF973B41FA98C081472E6896DFB254C0,
    0xFF2EA16466C96A3843EC78B326B52861,
    0xFE5DEE046A99A2A811C461F1969C3053,
    0xFCBE86C7900A88AEDCFFC83B479AA3A4,
    0xF987A7253AC413176F2B074CF7815E54,
    0xF3392B0822B70005940C7A398E4B70F3,
    0xE7159475A2C29B7443B29C7FA6E889D9,
    0xD097F3BDFD2022B8845AD8F792AA5825,
    0xA9F746462D870FDF8A65DC1F90E061E5,
    0x70D869A156D2A1B890BB3DF62BAF32F7,
    0x31BE135F97D08FD981231505542FCFA6,
    0x9AA508B5B7A84E1C677DE54F3E99BC9,
    0x5D6AF8DEDB81196699C329225EE604,
    0x2216E584F5FA1EA926041BEDFE98,
    0x48A170391F7DC42444E8FA2,
)


class RevertError(Exception):
    """The contract would revert; the only argument is its reason."""


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise RevertError(reason)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@lru_cache(maxsize=1 << 20)
def sqrt_price_at_tick(tick: int) -> int:
    """TickMath.getSqrtRatioAtTick."""
    assert MIN_TICK <= tick <= MAX_TICK
    ratio = 1 << 128
    for i, factor in enumerate(FACTORS):
        if abs(tick) >> i & 1:
            ratio = ratio * factor >> 128
    if tick > 0:
        ratio = UINT256 // ratio
    return ceil_div(ratio, 1 << 32)


MIN_SQRT_PRICE = 4295128739
MAX_SQRT_PRICE = 1461446703485210103287273052203988822378723970342


def tick_at_sqrt_price(price: int) -> int:
    """Greatest tick whose price is at most `price` (TickMath.getTickAtSqrtRatio)."""
    assert MIN_SQRT_PRICE <= price < MAX_SQRT_PRICE
    return MIN_TICK - 1 + bisect_right(range(MIN_TICK, MAX_TICK + 1), price, key=sqrt_price_at_tick)


# UniswapV2Library


def _checked(value: int, what: str) -> int:
    require(0 <= value <= UINT256, f"ds-math-{what}")
    return value


def v2_amount_out(amount_in: int, reserve_in: int, reserve_out: int, rest: int, base: int) -> int:
    """getAmountOut with a fee of 1 - rest / base; 997 and 1000 in the router."""
    require(amount_in > 0, "UniswapV2Library: INSUFFICIENT_INPUT_AMOUNT")
    require(reserve_in > 0 and reserve_out > 0, "UniswapV2Library: INSUFFICIENT_LIQUIDITY")
    with_fee = _checked(amount_in * rest, "mul-overflow")
    numerator = _checked(with_fee * reserve_out, "mul-overflow")
    denominator = _checked(_checked(reserve_in * base, "mul-overflow") + with_fee, "add-overflow")
    return numerator // denominator


def v2_amount_in(amount_out: int, reserve_in: int, reserve_out: int, rest: int, base: int) -> int:
    """getAmountIn."""
    require(amount_out > 0, "UniswapV2Library: INSUFFICIENT_OUTPUT_AMOUNT")
    require(reserve_in > 0 and reserve_out > 0, "UniswapV2Library: INSUFFICIENT_LIQUIDITY")
    numerator = _checked(_checked(reserve_in * amount_out, "mul-overflow") * base, "mul-overflow")
    denominator = _checked(
        _checked(reserve_out - amount_out, "sub-underflow") * rest, "mul-overflow"
    )
    require(denominator != 0, "")
    return _checked(numerator // denominator + 1, "add-overflow")


def router_fraction(fee: int) -> tuple[int, int]:
    """What is left of an input after the fee, in pips, as routers write it: 3000 is 997 / 1000."""
    for digits in (3, 4, 5, 6):
        if fee % 10 ** (6 - digits) == 0:
            break
    return (PIPS - fee) // 10 ** (6 - digits), 10**digits


@dataclass
class Pair:
    """A pair's reserves. `swap` is UniswapV2Pair.swap behind a transfer of `amount_in`."""

    reserve0: int
    reserve1: int
    fee: int

    def ends(self, zero_for_one: bool) -> tuple[int, int]:
        """Reserves of the token that goes in and of the one that comes out."""
        reserves = (self.reserve0, self.reserve1)
        return reserves if zero_for_one else reserves[::-1]

    def quote(self, amount: int, zero_for_one: bool, exact_in: bool) -> tuple[int, int]:
        """Amounts in and out, as the router's library has them."""
        function = v2_amount_out if exact_in else v2_amount_in
        other = function(amount, *self.ends(zero_for_one), *router_fraction(self.fee))
        return (amount, other) if exact_in else (other, amount)

    def swap(self, amount_in: int, amount_out: int, zero_for_one: bool) -> None:
        reserve_in, reserve_out = self.ends(zero_for_one)
        require(amount_out > 0, "UniswapV2: INSUFFICIENT_OUTPUT_AMOUNT")
        require(amount_out < reserve_out, "UniswapV2: INSUFFICIENT_LIQUIDITY")
        balance_in, balance_out = reserve_in + amount_in, reserve_out - amount_out
        rest, base = router_fraction(self.fee)
        adjusted = balance_in * base - amount_in * (base - rest)
        require(adjusted * balance_out >= reserve_in * reserve_out * base, "UniswapV2: K")
        require(max(balance_in, balance_out) < 1 << 112, "UniswapV2: OVERFLOW")
        self._store(balance_in, balance_out, zero_for_one)

    def _store(self, balance_in: int, balance_out: int, zero_for_one: bool) -> None:
        balances = (balance_in, balance_out)
        self.reserve0, self.reserve1 = balances if zero_for_one else balances[::-1]


@dataclass
class SolidlyPair(Pair):
    """A volatile pair, whose fee is in 1/10,000 and goes to another contract before `_update`."""

    def quote(self, amount: int, zero_for_one: bool, exact_in: bool) -> tuple[int, int]:
        """getAmountOut; there is no exact output."""
        assert exact_in
        reserve_in, reserve_out = self.ends(zero_for_one)
        paid = amount - _checked(amount * self.fee, "mul") // 10000
        numerator = _checked(paid * reserve_out, "mul")
        denominator = _checked(reserve_in + paid, "add")
        require(denominator != 0, "division by zero")
        return amount, numerator // denominator

    def swap(self, amount_in: int, amount_out: int, zero_for_one: bool) -> None:
        reserve_in, reserve_out = self.ends(zero_for_one)
        require(amount_out > 0, "IOA")
        require(amount_out < reserve_out, "IL")
        balance_in, balance_out = reserve_in + amount_in, reserve_out - amount_out
        balance_in -= amount_in * self.fee // 10000
        require(balance_in * balance_out >= reserve_in * reserve_out, "K")
        self._store(balance_in, balance_out, zero_for_one)


# SqrtPriceMath


def amount0_delta(a: int, b: int, liquidity: int, round_up: bool) -> int:
    low, high = min(a, b), max(a, b)
    numerator = (liquidity << 96) * (high - low)
    if round_up:
        return ceil_div(ceil_div(numerator, high), low)
    return numerator // high // low


def amount1_delta(a: int, b: int, liquidity: int, round_up: bool) -> int:
    product = liquidity * abs(a - b)
    return ceil_div(product, Q96) if round_up else product // Q96


def next_price_from_amount0(price: int, liquidity: int, amount: int, add: bool) -> int:
    if amount == 0:
        return price
    numerator = liquidity << 96
    product = amount * price
    if add:
        if product <= UINT256 and numerator + product <= UINT256:
            return ceil_div(numerator * price, numerator + product)
        return ceil_div(numerator, numerator // price + amount)
    require(product <= UINT256 and numerator > product, "price overflow")
    result = ceil_div(numerator * price, numerator - product)
    require(result < 1 << 160, "uint160")
    return result


def next_price_from_amount1(price: int, liquidity: int, amount: int, add: bool) -> int:
    if add:
        result = price + (amount << 96) // liquidity
        require(result < 1 << 160, "uint160")
        return result
    quotient = ceil_div(amount << 96, liquidity)
    require(price > quotient, "price underflow")
    return price - quotient


def next_price_from_input(price: int, liquidity: int, amount: int, zero_for_one: bool) -> int:
    require(price > 0 and liquidity > 0, "no price or liquidity")
    next_price = next_price_from_amount0 if zero_for_one else next_price_from_amount1
    return next_price(price, liquidity, amount, True)


def next_price_from_output(price: int, liquidity: int, amount: int, zero_for_one: bool) -> int:
    require(price > 0 and liquidity > 0, "no price or liquidity")
    next_price = next_price_from_amount1 if zero_for_one else next_price_from_amount0
    return next_price(price, liquidity, amount, False)


# SwapMath: (price after, amount in, amount out, fee); `remaining` is positive for exact input


def v3_step(
    current: int, target: int, liquidity: int, remaining: int, fee: int
) -> tuple[int, int, int, int]:
    zero_for_one = current >= target
    exact_in = remaining >= 0
    amount_in = amount_out = 0
    if exact_in:
        less_fee = remaining * (PIPS - fee) // PIPS
        delta = amount0_delta if zero_for_one else amount1_delta
        amount_in = delta(target, current, liquidity, True)
        if less_fee >= amount_in:
            after = target
        else:
            after = next_price_from_input(current, liquidity, less_fee, zero_for_one)
    else:
        delta = amount1_delta if zero_for_one else amount0_delta
        amount_out = delta(target, current, liquidity, False)
        if -remaining >= amount_out:
            after = target
        else:
            after = next_price_from_output(current, liquidity, -remaining, zero_for_one)
    reached = target == after
    delta_in, delta_out = amount0_delta, amount1_delta
    if not zero_for_one:
        delta_in, delta_out = delta_out, delta_in
    if not (reached and exact_in):
        amount_in = delta_in(after, current, liquidity, True)
    if not (reached and not exact_in):
        amount_out = delta_out(after, current, liquidity, False)
    if not exact_in and amount_out > -remaining:
        amount_out = -remaining
    if exact_in and after != target:
        fee_amount = remaining - amount_in
    else:
        fee_amount = ceil_div(amount_in * fee, PIPS - fee)
    return after, amount_in, amount_out, fee_amount


def v4_step(
    current: int, target: int, liquidity: int, remaining: int, fee: int
) -> tuple[int, int, int, int]:
    zero_for_one = current >= target
    delta_in, delta_out = amount0_delta, amount1_delta
    if not zero_for_one:
        delta_in, delta_out = delta_out, delta_in
    if remaining >= 0:
        less_fee = remaining * (PIPS - fee) // PIPS
        amount_in = delta_in(target, current, liquidity, True)
        if less_fee >= amount_in:
            after = target
            fee_amount = amount_in if fee == PIPS else ceil_div(amount_in * fee, PIPS - fee)
        else:
            amount_in = less_fee
            after = next_price_from_input(current, liquidity, less_fee, zero_for_one)
            fee_amount = remaining - amount_in
        amount_out = delta_out(after, current, liquidity, False)
    else:
        amount_out = delta_out(target, current, liquidity, False)
        if -remaining >= amount_out:
            after = target
        else:
            amount_out = -remaining
            after = next_price_from_output(current, liquidity, amount_out, zero_for_one)
        amount_in = delta_in(after, current, liquidity, True)
        fee_amount = ceil_div(amount_in * fee, PIPS - fee)
    return after, amount_in, amount_out, fee_amount


def v4_total_fee(protocol_fee: int, lp_fee: int) -> int:
    return protocol_fee + lp_fee - protocol_fee * lp_fee // PIPS


# Pools


@dataclass
class ConcentratedPool:
    """A V3 or V4 pool. `fee` is what one swap pays in all; `net` maps tick to liquidity net."""

    version: int
    sqrt_price: int
    tick: int
    liquidity: int
    fee: int
    spacing: int
    net: dict[int, int]
    bitmap: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tick in self.net:
            word, bit = divmod(tick // self.spacing, 256)
            self.bitmap[word] = self.bitmap.get(word, 0) | 1 << bit

    def next_tick_within_one_word(self, tick: int, zero_for_one: bool) -> tuple[int, bool]:
        compressed = tick // self.spacing
        if zero_for_one:
            word, bit = divmod(compressed, 256)
            masked = self.bitmap.get(word, 0) & ((2 << bit) - 1)
            distance = bit - (masked.bit_length() - 1) if masked else bit
            return (compressed - distance) * self.spacing, masked != 0
        compressed += 1
        word, bit = divmod(compressed, 256)
        masked = self.bitmap.get(word, 0) >> bit
        distance = (masked & -masked).bit_length() - 1 if masked else 255 - bit
        return (compressed + distance) * self.spacing, masked != 0


@dataclass(frozen=True)
class Swapped:
    amount_in: int
    amount_out: int
    sqrt_price: int
    tick: int
    liquidity: int
    ticks_crossed: int
    is_complete: bool


def swap(
    pool: ConcentratedPool,
    amount: int,
    zero_for_one: bool,
    exact_in: bool,
    limit: int | None = None,
) -> Swapped:
    """UniswapV3Pool.swap or v4 Pool.swap; no limit means one inside the end of the range."""
    v4 = pool.version == 4
    negative = exact_in if v4 else not exact_in
    require(amount != 0, "AS")
    require(amount < 1 << 255 or (amount == 1 << 255 and negative), "int256")
    require(not (v4 and pool.fee >= PIPS and not exact_in), "InvalidFeeForExactOut")
    if limit is None:
        limit = MIN_SQRT_PRICE + 1 if zero_for_one else MAX_SQRT_PRICE - 1
    if zero_for_one:
        require(MIN_SQRT_PRICE < limit < pool.sqrt_price, "SPL")
    else:
        require(pool.sqrt_price < limit < MAX_SQRT_PRICE, "SPL")

    price, tick, liquidity = pool.sqrt_price, pool.tick, pool.liquidity
    remaining = amount if exact_in else -amount
    total_in = total_out = crossed = 0
    step = v4_step if v4 else v3_step
    while remaining != 0 and price != limit:
        start = price
        next_tick, initialized = pool.next_tick_within_one_word(tick, zero_for_one)
        next_tick = max(MIN_TICK, min(MAX_TICK, next_tick))
        next_price = sqrt_price_at_tick(next_tick)
        beyond = next_price < limit if zero_for_one else next_price > limit
        price, amount_in, amount_out, fee_amount = step(
            price, limit if beyond else next_price, liquidity, remaining, pool.fee
        )
        remaining += -(amount_in + fee_amount) if exact_in else amount_out
        total_in += amount_in + fee_amount
        total_out += amount_out
        if price == next_price:
            if initialized:
                liquidity += -pool.net[next_tick] if zero_for_one else pool.net[next_tick]
                require(0 <= liquidity < 1 << 128, "liquidity")
                crossed += 1
            tick = next_tick - 1 if zero_for_one else next_tick
        elif price != start:
            tick = tick_at_sqrt_price(price)
    if v4:
        require(total_in < 1 << 127 and total_out < 1 << 127, "SafeCastOverflow")
    return Swapped(total_in, total_out, price, tick, liquidity, crossed, remaining == 0)
