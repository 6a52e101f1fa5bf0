/* ladder.c: the depth of a private copy, and many quotes on it. */
#include "jump.h"
#include "families.h"


uint32_t psa_depth_capacity(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee) {
    pool_state state;
    if (!pool || !pool->row || psa_load_copy(pool, flags & PSA_CALLER_FLAGS, lp_fee, &state) != PSA_OK ||
        psa_has_reserves(state.protocol))
        return 1;
    return psa_depth_rungs(&state) + 1;
}

static psa_depth_key key_of_copy(const psa_pool_copy *pool, const pool_state *state, uint32_t flags) {
    if (psa_has_reserves(state->protocol)) return (psa_depth_key){0};
    return psa_depth_key_of(state, 0, 0, pool->line.generation, (flags & PSA_ZERO_FOR_ONE) != 0);
}

int psa_depth_build(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                    uint32_t capacity, psa_depth *depth) {
    uint32_t from_price = flags & PSA_FROM_PRICE;
    flags &= ~(uint32_t)PSA_FROM_PRICE;
    if (!pool || !pool->row || !rungs || capacity == 0 || !depth || flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    pool_state state;
    int status = psa_load_copy(pool, flags, lp_fee, &state);
    if (status != PSA_OK) return status;
    memset(depth, 0, sizeof *depth);
    depth->rungs = rungs;
    depth->key = key_of_copy(pool, &state, flags);
    if (psa_has_reserves(state.protocol)) {
        memset(rungs, 0, sizeof *rungs);
        depth->count = 1;
    } else {
        depth->count = psa_depth_walk(&state, (flags & PSA_ZERO_FOR_ONE) != 0, from_price != 0, rungs,
                                      capacity);
    }
    return PSA_OK;
}

int psa_depth_quote(const psa_pool_copy *pool, const psa_depth *depth, const uint64_t *amounts,
                    const uint8_t *limit, uint32_t flags, uint32_t lp_fee, uint32_t count,
                    psa_quote_result *results) {
    if (!pool || !pool->row || !depth || !amounts || !results || flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    pool_state state;
    psa_u256 bound;
    int loaded = psa_load_copy(pool, flags, lp_fee, &state);
    if (limit) memcpy(bound.w, limit, sizeof bound.w);
    if (loaded == PSA_OK) {
        psa_depth_key key = key_of_copy(pool, &state, flags);
        if (psa_depth_same(&key, &depth->key)) state.depth = depth;
    }
    for (uint32_t i = 0; i < count; i++) {
        psa_u256 amount;
        int status = loaded;
        memcpy(amount.w, &amounts[4 * (size_t)i], sizeof amount.w);
        if (status == PSA_OK)
            status = psa_quote_family(&state, &amount, limit ? &bound : 0, (flags & PSA_ZERO_FOR_ONE) != 0,
                                      !(flags & PSA_EXACT_OUT), &results[i]);
        psa_finish_result(&pool->line, pool->line.slab, &state, flags, status, &results[i]);
    }
    return PSA_OK;
}
