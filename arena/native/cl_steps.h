/* cl_steps.h: the steps a swap through concentrated liquidity is made of, for a quote and for its depth.
 *
 * V3 and V4 differ in which part of the input they call fee, in nothing that a quote shows, except at a
 * fee of 100 % and in the range of amounts. One step serves both. Three facts carry the shortcuts:
 *
 * F1  An exact-in step reaches its target exactly when the input left covers
 *     ceil(amount_in * 10^6 / (10^6 - fee)): the contract's floor(left * (10^6 - fee) / 10^6) >= amount_in
 *     says the same. That number is also what the step then consumes. A step that does not reach its
 *     target consumes all that is left.
 * F2  An exact-in step that does not reach its target ends strictly before it, and one that does would
 *     pass or hit it if the price were computed from the amount. So when the price computed from the
 *     amount lies before the target, no target price is needed.
 * F3  An exact-out step that does not reach its target pays exactly what is left; its price may still
 *     round onto the target, and then the tick there is crossed.
 */
#ifndef PSA_CL_STEPS_H
#define PSA_CL_STEPS_H

#include <string.h>

#include "atomics.h"
#include "price_math.h"
#include "swap.h"
#include "tick_math.h"

/* Where a swap has got to. */
typedef struct {
    psa_u192 price;
    psa_u128 liquidity;
    int32_t tick;
    int32_t edge;       /* word edge ahead, before clamping to the tick range */
    uint32_t index;     /* number of ticks <= tick */
    uint32_t crossed;
} position;

/* The end of the running step. */
typedef struct {
    int32_t tick;
    int32_t initialized;
    int32_t skips;      /* empty words were passed over */
} boundary;

/* What one step does to amounts and price. */
typedef struct {
    psa_u192 price;     /* after the step */
    psa_u256 in;        /* fee included */
    psa_u192 out;
    int reached;        /* the whole step to its target was made */
} step_result;

/* floor(amount * (10^6 - fee) / 10^6). */
PSA_INLINE psa_u256 without_fee(const pool_state *pool, const psa_u256 *amount) {
    if (pool->fee == 0) return *amount;
    const psa_divisor million = {UINT64_C(1000000) << 44, UINT64_C(0x0c6f7a0b5ed8d36b), 44};
    uint64_t rest = PSA_PIPS - pool->fee, product[5];
    psa_multiply(product, &rest, 1, amount->w, 4);
    psa_divide_small(product, 5, &million);
    psa_u256 out;
    memcpy(out.w, product, sizeof out.w);
    return out;
}

/* The price a swap cannot pass: one inside the range's end unless the caller is stricter. */
static inline psa_u192 psa_range_end(int zero_for_one) {
    psa_u192 end = zero_for_one ? psa_min_sqrt_price : psa_max_sqrt_price;
    end.w[0] += zero_for_one ? 1 : (uint64_t)-1;
    return end;
}

static inline int32_t floor_divide(int32_t a, int32_t b) {
    int32_t q = a / b;
    return q - (a % b < 0);
}

/* Edge of the bitmap word a step from `tick` searches: 256 * spacing ticks a word. */
static inline int32_t word_edge(int32_t tick, int32_t spacing, int zero_for_one) {
    int32_t word = 256 * spacing;
    if (zero_for_one) return floor_divide(tick, word) * word;
    return (floor_divide(tick + spacing, word) + 1) * word - spacing;
}

static inline void psa_position_start(const pool_state *pool, int zero_for_one, position *at) {
    at->price = pool->price;
    at->liquidity = pool->liquidity;
    at->tick = pool->tick;
    at->index = pool->index;
    at->crossed = 0;
    at->edge = word_edge(pool->tick, pool->spacing, zero_for_one);
}

/* V4 pays and takes int128. The contract computes an input of 2^127, but nobody can pay it. */
static inline int amounts_fit(const pool_state *pool, const psa_u256 *in, const psa_u256 *out) {
    if (pool->protocol != PSA_UNISWAP_V4) return 1;
    return ((in->w[1] | out->w[1]) >> 63 | in->w[2] | in->w[3] | out->w[2] | out->w[3]) == 0;
}

/* Every result field but status, commit and block. */
static inline int psa_store_swap(const pool_state *pool, const psa_u256 *in, const psa_u256 *out,
                                 int complete, const psa_u192 *price, psa_u128 liquidity,
                                 int32_t tick, uint32_t crossed, psa_quote_result *result) {
    if (!amounts_fit(pool, in, out)) return PSA_SWAP_REVERTS;
    for (int i = 0; i < 4; i++) { /* one by one: a load of two limbs that were just stored waits for both */
        result->amount_in[i] = PSA_LOAD(&in->w[i]);
        result->amount_out[i] = PSA_LOAD(&out->w[i]);
        result->sqrt_price_x96_after[i] = i < 3 ? price->w[i] : 0;
    }
    result->liquidity_after[0] = psa_low(liquidity);
    result->liquidity_after[1] = psa_high(liquidity);
    result->tick_after = tick;
    result->ticks_crossed = crossed;
    result->is_complete = (uint8_t)complete;
    return PSA_OK;
}

/* Refusals that depend on the amount and fee alone, in the contracts' order. */
static inline int psa_check_amount(const pool_state *pool, const psa_u256 *amount, int exact_in) {
    if (psa_is_zero_256(amount)) return PSA_AMOUNT_OUT_OF_RANGE;
    /* int256, whose minimum stands for 2^255 on the side that is negative: V3 out, V4 in */
    int top = amount->w[3] >> 63 != 0;
    int minimum = amount->w[3] == UINT64_C(1) << 63 && (amount->w[0] | amount->w[1] | amount->w[2]) == 0;
    int negative_in = pool->protocol == PSA_UNISWAP_V4;
    if (top && !(minimum && negative_in == exact_in)) return PSA_AMOUNT_OUT_OF_RANGE;
    if (pool->fee == PSA_PIPS && !exact_in) return PSA_FEE_TOO_HIGH;
    return PSA_OK;
}

/* Where the step from a position ends. */
static inline int psa_next_boundary(const pool_state *pool, const position *at, int zero_for_one,
                                    boundary *out) {
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

/* Step over a boundary whose price has been reached. */
static inline int psa_pass_boundary(const pool_state *pool, position *at, const boundary *to,
                                    int zero_for_one) {
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

/* The whole step from `from` to `target`, cost and yield. A fee of 100 % makes the cost of any input
 * infinite: `reached` is then 0. */
static inline void psa_whole_step(const pool_state *pool, const psa_u192 *from,
                                  const psa_u192 *target, psa_u128 liquidity, int zero_for_one,
                                  step_result *step) {
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

/* Amounts of a step that ends at `step->price` because nothing is left to swap. */
static inline void psa_last_step(const pool_state *pool, const psa_u192 *from, psa_u128 liquidity,
                                 const psa_u256 *left, int zero_for_one, int exact_in,
                                 step_result *step) {
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

/* A step known not to reach its target: where `left` moves the price. */
static inline int psa_partial_step(const pool_state *pool, const psa_u192 *from, psa_u128 liquidity,
                                   const psa_u256 *left, int zero_for_one, int exact_in,
                                   step_result *step) {
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

#endif
