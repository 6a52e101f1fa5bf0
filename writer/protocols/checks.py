"""What a scraped pool must satisfy before it may be installed (DESIGN 8), in exact integers."""

from arena.errors import PoolInvalid
from arena.layouts.slots import DYNAMIC_FEE_PIPS, UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.layouts.words import from_limbs
from arena.native import ffi, lib
from arena.specs import PoolSpec
from arena.values import PoolValues

MIN_TICK = -887272
MAX_TICK = 887272
# A V3 or V4 pool's price lies in [MIN_SQRT_RATIO, MAX_SQRT_RATIO) of the contracts' TickMath.
MIN_SQRT_PRICE_X96 = 4295128739
MAX_SQRT_PRICE_X96 = 1461446703485210103287273052203988822378723970342
FEE_DENOMINATOR_PIPS = 1_000_000
MAX_PROTOCOL_FEE_PIPS = 1000  # V4 ProtocolFeeLibrary, each direction
# V3 factory: tickSpacing < 16384; V4 TickMath.MAX_TICK_SPACING: the greatest int16.
MAX_TICK_SPACING = {UNISWAP_V3: 16383, UNISWAP_V4: 32767}


def sqrt_price_at_tick(tick: int) -> int:
    """Square root of 1.0001**tick as Q64.96, rounded up, for a tick in [MIN_TICK, MAX_TICK]."""
    limbs = ffi.new("uint64_t[4]")
    if lib.psa_sqrt_price_at_tick(tick, limbs):
        raise ValueError(f"tick {tick} is outside [{MIN_TICK}, {MAX_TICK}]")
    return from_limbs(list(limbs))


def check_pool(spec: PoolSpec, values: PoolValues) -> None:
    """Raise PoolInvalid, naming the field and the numbers, when a pool cannot be as described.

    Checked are key length, fee and spacing limits, and for V2 the range of the reserves;
    for V3 and V4 that the price is in range and agrees with the tick, that ticks are ascending,
    in range and multiples of the spacing, gross > 0 and |net| <= gross, that the net liquidities
    sum to 0, and that those at or below the current tick sum to the active liquidity.
    """
    expected_nbytes = 32 if spec.protocol == UNISWAP_V4 else 20
    if len(spec.key) != expected_nbytes:
        _refuse(spec, f"key has {len(spec.key)} bytes, this protocol needs {expected_nbytes}")
    if not 0 <= values.block_number < 1 << 64:
        _refuse(spec, f"block {values.block_number} does not fit 64 bits")
    if spec.protocol == UNISWAP_V2:
        _check_v2(spec, values)
    else:
        _check_fees(spec, values)
        _check_price(spec, values)
        _check_ticks(spec, values)


def _refuse(spec: PoolSpec, found: str) -> None:
    key = "0x" + spec.key.hex()
    raise PoolInvalid(f"pool {key} is not installed: {found}", key=spec.key, found=found)


def _check_v2(spec: PoolSpec, values: PoolValues) -> None:
    if not 0 <= spec.fee_pips < FEE_DENOMINATOR_PIPS:
        _refuse(spec, f"fee_pips {spec.fee_pips} is not in [0, {FEE_DENOMINATOR_PIPS})")
    for name, reserve in (("reserve0", values.reserve0), ("reserve1", values.reserve1)):
        if not 0 <= reserve < 1 << 112:
            _refuse(spec, f"{name} {reserve} does not fit uint112")


def _check_fees(spec: PoolSpec, values: PoolValues) -> None:
    highest = FEE_DENOMINATOR_PIPS - 1 if spec.protocol == UNISWAP_V3 else FEE_DENOMINATOR_PIPS
    dynamic = spec.protocol == UNISWAP_V4 and spec.fee_pips == DYNAMIC_FEE_PIPS
    if not dynamic and not 0 <= spec.fee_pips <= highest:
        _refuse(spec, f"fee_pips {spec.fee_pips} is not in [0, {highest}]")
    if spec.protocol == UNISWAP_V4:
        if not 0 <= values.lp_fee <= FEE_DENOMINATOR_PIPS:
            _refuse(spec, f"lp_fee {values.lp_fee} is not in [0, {FEE_DENOMINATOR_PIPS}]")
        if not 0 <= values.protocol_fee < 1 << 24:
            _refuse(spec, f"protocol_fee {values.protocol_fee} does not fit 24 bits")
        for half in (values.protocol_fee & 0xFFF, values.protocol_fee >> 12):
            if half > MAX_PROTOCOL_FEE_PIPS:
                _refuse(spec, f"protocol_fee half {half} is above {MAX_PROTOCOL_FEE_PIPS}")
    limit = MAX_TICK_SPACING[spec.protocol]
    if not 1 <= spec.tick_spacing <= limit:
        _refuse(spec, f"tick_spacing {spec.tick_spacing} is not in [1, {limit}]")


def _check_price(spec: PoolSpec, values: PoolValues) -> None:
    price, tick = values.sqrt_price_x96, values.tick
    if price == 0:
        _refuse(spec, "sqrt_price_x96 is 0: the pool is not initialized")
    if not MIN_SQRT_PRICE_X96 <= price < MAX_SQRT_PRICE_X96:
        _refuse(
            spec,
            f"sqrt_price_x96 {price} is not in [{MIN_SQRT_PRICE_X96}, {MAX_SQRT_PRICE_X96})",
        )
    if not MIN_TICK <= tick < MAX_TICK:
        _refuse(spec, f"tick {tick} is not in [{MIN_TICK}, {MAX_TICK})")
    low, high = sqrt_price_at_tick(tick), sqrt_price_at_tick(tick + 1)
    # The upper end belongs to it: a swap that ends exactly on a tick while the price falls leaves
    # slot0.tick one below that tick.
    if not low <= price <= high:
        _refuse(spec, f"tick {tick} spans prices {low} to {high}, sqrt_price_x96 is {price}")
    if not 0 <= values.liquidity < 1 << 128:
        _refuse(spec, f"liquidity {values.liquidity} does not fit uint128")


def _check_ticks(spec: PoolSpec, values: PoolValues) -> None:
    previous = MIN_TICK - 1
    total = active = 0
    for tick, gross, net in values.ticks:
        if not MIN_TICK <= tick <= MAX_TICK:
            _refuse(spec, f"tick {tick} is outside [{MIN_TICK}, {MAX_TICK}]")
        if tick <= previous:
            _refuse(spec, f"tick {tick} follows {previous}: ticks must ascend, each once")
        if tick % spec.tick_spacing:
            _refuse(spec, f"tick {tick} is not a multiple of the spacing {spec.tick_spacing}")
        if not 0 < gross < 1 << 128:
            _refuse(spec, f"tick {tick}: liquidity_gross {gross} is not in (0, 2**128)")
        if abs(net) > gross:
            _refuse(spec, f"tick {tick}: |liquidity_net| {abs(net)} is above gross {gross}")
        if not -(1 << 127) <= net < 1 << 127:
            _refuse(spec, f"tick {tick}: liquidity_net {net} does not fit int128")
        previous = tick
        total += net
        if tick <= values.tick:
            active += net
    if total:
        _refuse(spec, f"liquidity_net of all ticks sums to {total}, not 0")
    if active != values.liquidity:
        _refuse(
            spec,
            f"net of ticks at or below {values.tick} sums to {active}, "
            f"liquidity is {values.liquidity}",
        )
