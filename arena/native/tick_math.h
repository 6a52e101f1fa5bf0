/* tick_math.h: ticks and the square roots of prices that TickMath gives them. */
#ifndef PSA_TICK_MATH_H
#define PSA_TICK_MATH_H

#include "u256.h"

#define PSA_MIN_TICK (-887272)
#define PSA_MAX_TICK 887272

/* TickMath.getSqrtRatioAtTick at the least and the greatest tick (Uniswap v3-core, TickMath.sol) */
static const psa_u192 psa_min_sqrt_price = {{UINT64_C(4295128739), 0, 0}};
static const psa_u192 psa_max_sqrt_price = {
    {UINT64_C(0x5d951d5263988d26), UINT64_C(0xefd1fc6a50648849), UINT64_C(0xfffd8963)}};

/* Whether a pool can have this price. */
static inline int psa_price_in_range(const psa_u192 *price) {
    return !psa_less_192(price, &psa_min_sqrt_price) && psa_less_192(price, &psa_max_sqrt_price);
}

/* TickMath.getSqrtRatioAtTick for a tick in range. */
psa_u192 psa_price_at(int32_t tick);

/* TickMath.getTickAtSqrtRatio: the greatest tick whose price is at most `price`, which is in range. */
int32_t psa_tick_at(const psa_u192 *price);

#endif
