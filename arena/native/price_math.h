/* price_math.h: SqrtPriceMath: amounts between two prices, and prices after amounts. */
#ifndef PSA_PRICE_MATH_H
#define PSA_PRICE_MATH_H

#include <string.h>

#include "u256.h"

/* out = liquidity * x in as few limbs as x needs; returns their number. */
PSA_INLINE unsigned times_liquidity(uint64_t out[5], psa_u128 liquidity, const psa_u192 *x) {
    uint64_t l[2] = {psa_low(liquidity), psa_high(liquidity)};
    if (x->w[2] == 0) {
        psa_multiply(out, l, 2, x->w, 2);
        return 4;
    }
    psa_multiply(out, l, 2, x->w, 3);
    return 5;
}

/* token0 between two prices, low <= high: liquidity * 2^96 * (high - low) / (high * low). The contract
 * divides twice and rounds both times in one direction, which equals one division by the product. */
static inline psa_u192 psa_amount0_between(const psa_u192 *low, const psa_u192 *high,
                                           psa_u128 liquidity, int round_up) {
    psa_u192 difference = psa_sub_192(high, low), out;
    uint64_t n[5], d[6];
    unsigned n_count = times_liquidity(n, liquidity, &difference), d_count;
    if (high->w[2] == 0) {
        psa_multiply(d, low->w, 2, high->w, 2);
        d_count = 4;
    } else {
        psa_multiply(d, low->w, 3, high->w, 3);
        d_count = 6;
    }
    int more = psa_divide(out.w, 3, n, n_count, 96, d, d_count);
    if (round_up && more) psa_increment(out.w, 3);
    return out;
}

/* token1 between two prices, low <= high: liquidity * (high - low) / 2^96. */
static inline psa_u192 psa_amount1_between(const psa_u192 *low, const psa_u192 *high,
                                           psa_u128 liquidity, int round_up) {
    psa_u192 difference = psa_sub_192(high, low);
    uint64_t n[5];
    n[4] = 0;
    times_liquidity(n, liquidity, &difference);
    psa_u192 out = {{n[1] >> 32 | n[2] << 32, n[2] >> 32 | n[3] << 32, n[3] >> 32 | n[4] << 32}};
    if (round_up && (n[0] | (n[1] & UINT32_MAX))) psa_increment(out.w, 3);
    return out;
}

PSA_INLINE psa_u256 shift_96(psa_u128 liquidity) {
    uint64_t low = psa_low(liquidity), high = psa_high(liquidity);
    psa_u256 out = {{0, low << 32, high << 32 | low >> 32, high >> 32}};
    return out;
}

/* getNextSqrtPriceFromAmount0RoundingUp, amount added. 0 when the contract's product or sum would
 * overflow and it takes its second formula; `next` is then left alone. */
static inline int psa_price_after_adding_0(const psa_u192 *price, psa_u128 liquidity,
                                           const psa_u192 *amount, psa_u192 *next) {
    psa_u256 d;
    uint64_t product[6], n[5];
    psa_multiply(product, amount->w, 3, price->w, 3);
    if (product[4] | product[5]) return 0;
    memcpy(d.w, product, sizeof d.w);
    psa_u256 shifted = shift_96(liquidity);
    if (psa_add_256(&d, &shifted)) return 0;
    unsigned n_count = times_liquidity(n, liquidity, price);
    if (psa_divide(next->w, 3, n, n_count, 96, d.w, 4)) psa_increment(next->w, 3);
    return 1;
}

/* The second formula: ceil(2^96 * liquidity / (floor(2^96 * liquidity / price) + amount)). */
static inline psa_u192 psa_price_after_adding_0_wide(const psa_u192 *price, psa_u128 liquidity,
                                                     const psa_u192 *amount) {
    psa_u256 n = shift_96(liquidity), d, added = psa_widen(amount);
    psa_divide(d.w, 4, n.w, 4, 0, price->w, 3);
    psa_add_256(&d, &added); /* below 2^193 */
    psa_u192 out;
    if (psa_divide(out.w, 3, n.w, 4, 0, d.w, 4)) psa_increment(out.w, 3);
    return out;
}

/* The same, amount removed. 0 when the contract would refuse: the amount is not there. */
static inline int psa_price_after_removing_0(const psa_u192 *price, psa_u128 liquidity,
                                             const psa_u192 *amount, psa_u192 *next) {
    uint64_t product[6], n[5];
    psa_u256 d = shift_96(liquidity), taken;
    psa_multiply(product, amount->w, 3, price->w, 3);
    if (product[4] | product[5]) return 0;
    memcpy(taken.w, product, sizeof taken.w);
    if (!psa_less_256(&taken, &d)) return 0;
    psa_sub_256(&d, &taken);
    unsigned n_count = times_liquidity(n, liquidity, price);
    uint64_t q[4];
    int more = psa_divide(q, 4, n, n_count, 96, d.w, 4);
    if (more) psa_increment(q, 4);
    if (q[3] != 0 || q[2] >> 32 != 0) return 0;
    memcpy(next->w, q, sizeof next->w);
    return 1;
}

/* getNextSqrtPriceFromAmount1RoundingDown, added or removed. 0 when the result leaves uint160. */
static inline int psa_price_after_moving_1(const psa_u192 *price, psa_u128 liquidity,
                                           const psa_u192 *amount, int add, psa_u192 *next) {
    uint64_t q[5];
    uint64_t d[2] = {psa_low(liquidity), psa_high(liquidity)};
    int more = psa_divide(q, 5, amount->w, 3, 96, d, 2);
    if (q[3] | q[4]) return 0;
    psa_u192 move = {{q[0], q[1], q[2]}};
    if (add) {
        int carry;
        *next = psa_sum_192(price, &move, &carry);
        return !carry && next->w[2] >> 32 == 0;
    }
    if (more && psa_increment(move.w, 3)) return 0;
    if (!psa_less_192(&move, price)) return 0;
    *next = psa_sub_192(price, &move);
    return 1;
}

#endif
