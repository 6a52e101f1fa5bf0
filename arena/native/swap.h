/* swap.h: what quotes of all protocols share: the state a swap starts from, and a result's frame. */
#ifndef PSA_SWAP_H
#define PSA_SWAP_H

#include <string.h>

#include "depth.h"
#include "ticks.h"
#include "u256.h"

#define PSA_PIPS 1000000

#define PSA_CALLER_FLAGS                                                                    \
    (PSA_EXACT_OUT | PSA_ALLOW_STALE | PSA_ALLOW_DYNAMIC | PSA_FEE_GIVEN | PSA_ALLOW_HOOKS | \
     PSA_ZERO_FOR_ONE)

/* What a swap starts from: fields of a line and a row, checked, and where the ticks are. */
typedef struct {
    psa_u192 price;
    psa_u128 liquidity;
    const int32_t *ticks;
    const uint64_t *net;
    uint32_t tick_count;
    uint32_t index;     /* number of ticks <= tick */
    int32_t tick;
    int32_t spacing;
    uint32_t fee;       /* whole swap fee, pips */
    uint32_t protocol;
    uint64_t reserves[2][2]; /* limbs, as they are stored: a load of both at once waits for two stores */
    psa_divisor after_fee; /* 10^6 - fee */
    const psa_depth *depth; /* of these ticks, spacing and fee, in the quote's direction; null: none */
} pool_state;

/* Of a static row, which may be rewritten meanwhile. */
typedef struct {
    int32_t tick_spacing;
    uint32_t generation;
    uint8_t protocol;
    uint8_t flags;
} row_fields;

static inline int psa_refuse_result(const psa_line *line, int status, psa_quote_result *result) {
    memset(result, 0, sizeof *result);
    result->status = (uint32_t)status;
    result->commit = line->stamp;
    result->block_number = line->block_number ? line->block_number : line->base_block;
    return status;
}

/* What an answer says besides the swap: which pool and version, and what the swap starts from. `pool` is
 * the state loaded from `line` with `flags`; not looked at after a refusal. */
static inline int psa_finish_result(const psa_line *line, uint32_t slot, const pool_state *pool,
                                    uint32_t flags, int status, psa_quote_result *result) {
    if (status != PSA_OK) return psa_refuse_result(line, status, result);
    result->zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0;
    result->protocol = (uint8_t)pool->protocol;
    result->reserved0 = 0;
    result->status = PSA_OK;
    result->commit = line->stamp;
    result->block_number = line->block_number ? line->block_number : line->base_block;
    result->sqrt_price_hi_before = line->sqrt_price_hi;
    result->tick_before = line->tick;
    for (int i = 0; i < 2; i++) {
        result->a_before[i] = line->a[i];
        result->b_before[i] = line->b[i];
    }
    result->fee_pips = pool->fee;
    result->slot = slot;
    return PSA_OK;
}

static inline void psa_load_reserves(const psa_line *line, pool_state *pool) {
    for (int i = 0; i < 2; i++) {
        pool->reserves[0][i] = line->a[i];
        pool->reserves[1][i] = line->b[i];
    }
}

/* The reserve of token 0 or 1. */
static inline psa_u128 psa_reserve(const pool_state *pool, int token) {
    return psa_join(pool->reserves[token][1], pool->reserves[token][0]);
}

/* quote.c */
int psa_load_copy(const psa_pool_copy *copy, uint32_t flags, uint32_t lp_fee, pool_state *pool);

#endif
