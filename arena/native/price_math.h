/* price_math.h: SqrtPriceMath: amounts between two prices, and prices after amounts. */
#ifndef PSA_PRICE_MATH_H
#define PSA_PRICE_MATH_H

#include "u256.h"

/* token0 between two prices, low <= high: liquidity * 2^96 * (high - low) / (high * low). The contract
 * divides twice and rounds both times in one direction, which equals one division by the product. */
psa_u192 psa_amount0_between(const psa_u192 *low, const psa_u192 *high, psa_u128 liquidity,
                             int round_up);

/* token1 between two prices, low <= high: liquidity * (high - low) / 2^96. */
psa_u192 psa_amount1_between(const psa_u192 *low, const psa_u192 *high, psa_u128 liquidity,
                             int round_up);

/* getNextSqrtPriceFromAmount0RoundingUp, amount added. 0 when the contract's product or sum would
 * overflow and it takes its second formula; `next` is then left alone. */
int psa_price_after_adding_0(const psa_u192 *price, psa_u128 liquidity, const psa_u192 *amount,
                             psa_u192 *next);

/* The second formula: ceil(2^96 * liquidity / (floor(2^96 * liquidity / price) + amount)). */
psa_u192 psa_price_after_adding_0_wide(const psa_u192 *price, psa_u128 liquidity,
                                       const psa_u192 *amount);

/* The same, amount removed. 0 when the contract would refuse: the amount is not there. */
int psa_price_after_removing_0(const psa_u192 *price, psa_u128 liquidity, const psa_u192 *amount,
                               psa_u192 *next);

/* getNextSqrtPriceFromAmount1RoundingDown, added or removed. 0 when the result leaves uint160. */
int psa_price_after_moving_1(const psa_u192 *price, psa_u128 liquidity, const psa_u192 *amount,
                             int add, psa_u192 *next);

#endif
