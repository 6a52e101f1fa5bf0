/* outcome.h: what follows from an answered quote: its prices, and the pool after that swap.
 *
 * A part of the contract in arena.h; build.py reads what stands between the two cffi markers. Results may come
 * from anywhere, a pickle for one: nothing here traps whatever they hold.
 */
#ifndef PSA_OUTCOME_H
#define PSA_OUTCOME_H

#include "arena.h"

/* cffi: begin */

/* ---- prices.c ---------------------------------------------------------------------------------- */

/* Prices are raw units of the token that comes out for a raw unit of the token that goes in. */
#define PSA_PRICE_SPOT 0      /* of the pool before the swap, without fee */
#define PSA_PRICE_MARGINAL 1  /* of the pool after it, without fee */
#define PSA_PRICE_EFFECTIVE 2 /* amount_out / amount_in, fee included */
#define PSA_PRICE_IMPACT 3    /* 1 - effective / spot - fee: how far the swap moves its own price */

/* One of them, PSA_PRICE_*, the exact quotient rounded once to the nearest double. Returns 0, and NaN in
 * `price`, when there is none: no amount in, a pair with a reserve of 0, a result without an answer. */
int psa_quote_price(const psa_quote_result *result, uint32_t which, double *price);

/* The same of `count` results. */
void psa_quote_prices(const psa_quote_result *results, uint32_t count, uint32_t which, double *prices);

/* ---- after.c ----------------------------------------------------------------------------------- */

/* Change the head of a copy, whose line.tick_count ticks are `ticks`, to what the pool's contract holds after
 * the swap of `result`, an answer from this very state; nothing else of it changes, and nothing at all on
 * failure. PSA_BAD_ARGUMENT when the answer is of another pool, version or state; PSA_SWAP_REVERTS when
 * a pair refuses the swap: nothing comes out, a reserve would be used up, or one of V2 exceed 112 bits;
 * PSA_AMOUNT_OUT_OF_RANGE when the other pairs' would exceed 128. */
int psa_copy_after(psa_copy_head *head, const int32_t *ticks, const psa_quote_result *result);

/* cffi: end */

/* after.c: reserves of a pair after the swap of `result`: `in` of 5 limbs, and `out`. 0 when the swap takes
 * more than there is. What of the fee leaves the pair is not in it. */
int psa_reserves_after(const psa_quote_result *result, uint64_t in[5], uint64_t out[2]);

#endif
