/* tick_math.c: TickMath, bit for bit. */
#include "tick_math.h"

#include <string.h>

#include "arena.h"
#include "tick_powers.h"

psa_u192 psa_price_at(int32_t tick) {
    uint32_t magnitude = (uint32_t)(tick < 0 ? -tick : tick);
    uint32_t low = magnitude & 1023, high = magnitude >> 10;
    psa_u128 ratio;
    if (low != 0) {
        ratio = psa_join(psa_tick_low[low][1], psa_tick_low[low][0]);
    } else if (high != 0) { /* 2^128 times the next factor */
        unsigned bit = (unsigned)__builtin_ctz(high);
        ratio = psa_join(psa_tick_high[bit][1], psa_tick_high[bit][0]);
        high &= high - 1;
    } else {
        psa_u192 one = {{0, UINT64_C(1) << 32, 0}};
        return one;
    }
    while (high != 0) {
        unsigned bit = (unsigned)__builtin_ctz(high);
        ratio = psa_multiply_high(ratio, psa_join(psa_tick_high[bit][1], psa_tick_high[bit][0]));
        high &= high - 1;
    }
    uint64_t w[4] = {psa_low(ratio), psa_high(ratio), 0, 0};
    if (tick > 0) {
        /* floor((2^256 - 1) / ratio); ratio lies in [2^63, 2^128), so three limbs hold it */
        unsigned shift = (unsigned)__builtin_clzll(w[1]);
        psa_u128 d = ratio << shift;
        uint64_t v = psa_reciprocal_2(psa_high(d), psa_low(d));
        /* numerator (2^256 - 1) * 2^shift: limbs top = 2^shift - 1, three of ones, 2^64 - 2^shift */
        psa_u128 r = psa_join((UINT64_C(1) << shift) - 1, UINT64_MAX);
        w[2] = psa_digit_2(r, UINT64_MAX, d, v, &r);
        w[1] = psa_digit_2(r, UINT64_MAX, d, v, &r);
        w[0] = psa_digit_2(r, UINT64_MAX << shift, d, v, &r);
    }
    /* Q128.128 to Q64.96, rounded up */
    uint64_t up = (w[0] & UINT32_MAX) != 0;
    psa_u128 bottom = psa_join(w[1] >> 32, w[1] << 32 | w[0] >> 32) + ((psa_u128)(uint32_t)w[2] << 96);
    psa_u128 sum = bottom + up;
    psa_u192 out = {{psa_low(sum), psa_high(sum), (w[2] >> 32) + (sum < bottom)}};
    return out;
}

/* Estimate of the tick of a price, as a real number; off by less than 2^-12.
 *
 * log(price / 2^96) / log(sqrt(1.0001)) from the top 53 bits by the series of artanh: the truncated
 * series is off by 2^-45, rounding by 2^-43 of at most 64 binary digits, which is 2^-23 ticks. What
 * remains is how far TickMath's prices are from true powers: at most one unit in 2^32, 2^-17 ticks. */
static double tick_estimate(const psa_u192 *price) {
    unsigned top = price->w[2] ? 2 : price->w[1] ? 1 : 0;
    if (price->w[top] == 0) return PSA_MIN_TICK;
    unsigned zeros = (unsigned)__builtin_clzll(price->w[top]);
    uint64_t bits = price->w[top] << zeros;
    if (zeros && top) bits |= price->w[top - 1] >> (64 - zeros);
    int exponent = (int)(top * 64 + 63 - zeros) - 96;
    double m = (double)(int64_t)(bits >> 11) * 0x1p-52; /* [1, 2) */
    int above = m > 1.4142135623730951;
    m = above ? m * 0.5 : m;
    exponent += above;
    double s = (m - 1.0) / (m + 1.0), z = s * s; /* |s| < 0.1716 */
    double z2 = z * z, z4 = z2 * z2;
    double series = (1.0 + z * (1.0 / 3)) + z2 * (1.0 / 5 + z * (1.0 / 7)) +
                    z4 * ((1.0 / 9 + z * (1.0 / 11)) + z2 * (1.0 / 13 + z * (1.0 / 15)));
    /* 2 / log(sqrt(1.0001)) and log(2) / log(sqrt(1.0001)) */
    return s * series * 40001.99996666833 + (double)exponent * 13863.636746827591;
}

int32_t psa_tick_at(const psa_u192 *price) {
    double estimate = tick_estimate(price) + 1048576.0; /* positive, so conversion rounds down */
    int32_t whole = (int32_t)estimate;
    double part = estimate - (double)whole;
    whole -= 1048576;
    if (__builtin_expect(part > 0x1p-10 && part < 1.0 - 0x1p-10, 1)) return whole;
    int32_t nearest = part < 0.5 ? whole : whole + 1;
    if (nearest <= PSA_MIN_TICK) return PSA_MIN_TICK;
    if (nearest > PSA_MAX_TICK) nearest = PSA_MAX_TICK;
    psa_u192 exact = psa_price_at(nearest);
    return psa_less_192(price, &exact) ? nearest - 1 : nearest;
}

int psa_sqrt_price_at_tick(int32_t tick, uint64_t *sqrt_price_x96) {
    if (!sqrt_price_x96 || tick < PSA_MIN_TICK || tick > PSA_MAX_TICK) return PSA_BAD_ARGUMENT;
    psa_u256 wide;
    psa_u192 price = psa_price_at(tick);
    wide = psa_widen(&price);
    memcpy(sqrt_price_x96, wide.w, sizeof wide.w);
    return PSA_OK;
}

int psa_tick_at_sqrt_price(const uint64_t *sqrt_price_x96, int32_t *tick) {
    if (!sqrt_price_x96 || !tick || sqrt_price_x96[3] != 0) return PSA_BAD_ARGUMENT;
    psa_u192 price;
    memcpy(price.w, sqrt_price_x96, sizeof price.w);
    if (!psa_price_in_range(&price)) return PSA_BAD_ARGUMENT;
    *tick = psa_tick_at(&price);
    return PSA_OK;
}
