/* cl_steps.c: from one word edge or initialised tick to the next, as the pools' swap loop goes. */
#include "cl_steps.h"

#include "atomics.h"
#include "price_math.h"

int psa_next_boundary(const pool_state *pool, const position *at, int zero_for_one, boundary *out) {
    int32_t end = at->edge;
    int found = 0;
    out->initialized = 0;
    out->skips = 0;
    if (zero_for_one) {
        if (end < PSA_MIN_TICK) end = PSA_MIN_TICK;
        if (at->index > 0) {
            int32_t next = PSA_LOAD(&pool->ticks[at->index - 1]);
            if (next > at->tick || next < PSA_MIN_TICK) return PSA_TICK_DATA;
            found = next >= end;
            if (found) end = next;
            else if (at->liquidity == 0) {
                found = out->skips = 1;
                end = next;
            }
        } else if (at->liquidity == 0) {
            out->skips = end > PSA_MIN_TICK;
            end = PSA_MIN_TICK;
        }
    } else {
        if (end > PSA_MAX_TICK) end = PSA_MAX_TICK;
        if (at->index < pool->tick_count) {
            int32_t next = PSA_LOAD(&pool->ticks[at->index]);
            if (next <= at->tick || next > PSA_MAX_TICK) return PSA_TICK_DATA;
            found = next <= end;
            if (found) end = next;
            else if (at->liquidity == 0) {
                found = out->skips = 1;
                end = next;
            }
        } else if (at->liquidity == 0) {
            out->skips = end < PSA_MAX_TICK;
            end = PSA_MAX_TICK;
        }
    }
    out->tick = end;
    out->initialized = found;
    return PSA_OK;
}

int psa_pass_boundary(const pool_state *pool, position *at, const boundary *to, int zero_for_one) {
    if (to->initialized) {
        uint32_t i = zero_for_one ? at->index - 1 : at->index;
        psa_u128 net = psa_join(PSA_LOAD(&pool->net[2 * (size_t)i + 1]), PSA_LOAD(&pool->net[2 * (size_t)i]));
        int negative = (int)(psa_high(net) >> 63);
        if (negative) net = -net;
        if (negative ^ zero_for_one) {
            if (net > at->liquidity) return PSA_TICK_DATA;
            at->liquidity -= net;
        } else {
            if (at->liquidity + net < net) return PSA_TICK_DATA;
            at->liquidity += net;
        }
        at->index = zero_for_one ? i : i + 1;
        at->crossed++;
    }
    at->tick = zero_for_one ? to->tick - 1 : to->tick;
    if (to->skips) {
        at->edge = word_edge(at->tick, pool->spacing, zero_for_one);
    } else if (to->tick == at->edge) {
        at->edge += zero_for_one ? -256 * pool->spacing : 256 * pool->spacing;
    }
    return PSA_OK;
}

/* What an exact-in step to the target consumes: amount_in and its fee (F1). Less than 2^213. */
PSA_INLINE psa_u256 with_fee(const pool_state *pool, const psa_u192 *amount_in) {
    psa_u256 out = psa_widen(amount_in);
    if (pool->fee == 0) return out;
    uint64_t million = PSA_PIPS, product[4];
    psa_multiply(product, &million, 1, amount_in->w, 3);
    if (psa_divide_small(product, 4, &pool->after_fee)) psa_increment(product, 4);
    memcpy(out.w, product, sizeof out.w);
    return out;
}

void psa_whole_step(const pool_state *pool, const psa_u192 *from, const psa_u192 *target,
                    psa_u128 liquidity, int zero_for_one, step_result *step) {
    const psa_u192 *low = zero_for_one ? target : from, *high = zero_for_one ? from : target;
    memset(step, 0, sizeof *step);
    step->price = *target;
    step->reached = 1;
    if (liquidity == 0) return;
    psa_u192 in = zero_for_one ? psa_amount0_between(low, high, liquidity, 1)
                               : psa_amount1_between(low, high, liquidity, 1);
    if (pool->fee == PSA_PIPS) {
        step->reached = (in.w[0] | in.w[1] | in.w[2]) == 0;
    } else {
        step->in = with_fee(pool, &in);
    }
    step->out = zero_for_one ? psa_amount1_between(low, high, liquidity, 0)
                             : psa_amount0_between(low, high, liquidity, 0);
}

void psa_last_step(const pool_state *pool, const psa_u192 *from, psa_u128 liquidity,
                   const psa_u256 *left, int zero_for_one, int exact_in, step_result *step) {
    const psa_u192 *low = zero_for_one ? &step->price : from;
    const psa_u192 *high = zero_for_one ? from : &step->price;
    if (exact_in) {
        step->in = *left;
        step->out = zero_for_one ? psa_amount1_between(low, high, liquidity, 0)
                                 : psa_amount0_between(low, high, liquidity, 0);
    } else {
        psa_u192 in = zero_for_one ? psa_amount0_between(low, high, liquidity, 1)
                                   : psa_amount1_between(low, high, liquidity, 1);
        step->in = with_fee(pool, &in);
        step->out = (psa_u192){{left->w[0], left->w[1], left->w[2]}};
    }
}

int psa_partial_step(const pool_state *pool, const psa_u192 *from, psa_u128 liquidity,
                     const psa_u256 *left, int zero_for_one, int exact_in, step_result *step) {
    psa_u256 amount = exact_in ? without_fee(pool, left) : *left;
    psa_u192 narrow = {{amount.w[0], amount.w[1], amount.w[2]}};
    step->reached = 0;
    if (amount.w[3] != 0 || liquidity == 0) return PSA_TICK_DATA;
    if (zero_for_one != exact_in) {
        if (!psa_price_after_moving_1(from, liquidity, &narrow, exact_in, &step->price))
            return PSA_SWAP_REVERTS;
    } else if (!exact_in) {
        if (!psa_price_after_removing_0(from, liquidity, &narrow, &step->price)) return PSA_SWAP_REVERTS;
    } else if (!psa_price_after_adding_0(from, liquidity, &narrow, &step->price)) {
        step->price = psa_price_after_adding_0_wide(from, liquidity, &narrow);
    }
    psa_last_step(pool, from, liquidity, left, zero_for_one, exact_in, step);
    return PSA_OK;
}
