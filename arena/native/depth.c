/* depth.c: what a swap costs and pays to each place where its steps can end, and the jump over them.
 *
 * Why a jump answers what the walk would, bit for bit:
 *
 * D1  Where steps end depends on the ticks, the spacing and the direction: at initialised ticks and, where
 *     there is liquidity, at the edges of bitmap words. The next edge follows from the tick alone.
 * D2  A whole step between two neighbouring ends has a cost and a yield, with their rounding, that follow
 *     from the two prices, the liquidity between them and the fee.
 * D3  So a swap that stands on an end with the price, tick, liquidity and index the table's own walk had
 *     there makes the same whole steps from there on, and what they cost together is the difference of two
 *     sums. It makes a step whole while what is left covers it (F1, F3 in cl_steps.h). A jump goes over those
 *     after which something is left.
 *
 * What comes before the first end and after the jump is the walk's, also to stop as soon as nothing is left,
 * before steps that cost nothing. A Swap event changes no sum.
 */
#include "jump.h"

/* ---- building ---- */

static void store_rung(const position *at, const psa_u256 *in, const psa_u256 *out, psa_rung *rung) {
    memcpy(rung->amount_in, in->w, sizeof in->w);
    memcpy(rung->amount_out, out->w, sizeof out->w);
    memcpy(rung->sqrt_price_x96, at->price.w, sizeof at->price.w);
    rung->liquidity[0] = psa_low(at->liquidity);
    rung->liquidity[1] = psa_high(at->liquidity);
    rung->tick = at->tick;
    rung->index = at->index;
}

/* Before every tick a pool can have, where there is no liquidity. */
static void range_start(const pool_state *pool, int zero_for_one, position *at) {
    at->price = zero_for_one ? psa_max_sqrt_price : psa_min_sqrt_price;
    at->liquidity = 0;
    at->tick = zero_for_one ? PSA_MAX_TICK : PSA_MIN_TICK - 1;
    at->index = zero_for_one ? pool->tick_count : 0;
    at->crossed = 0;
    at->edge = word_edge(at->tick, pool->spacing, zero_for_one);
}

uint32_t psa_depth_rungs(const pool_state *pool) {
    if (pool->tick_count == 0) return 3;
    int64_t first = PSA_LOAD(&pool->ticks[0]), last = PSA_LOAD(&pool->ticks[pool->tick_count - 1]);
    if (first < PSA_MIN_TICK || last > PSA_MAX_TICK || first > last) return 0;
    return pool->tick_count + (uint32_t)((last - first) / (256 * pool->spacing)) + 5;
}

uint32_t psa_depth_walk(const pool_state *pool, int zero_for_one, int from_price, psa_rung *rungs,
                        uint32_t capacity) {
    position at;
    psa_u256 in = {{0}}, out = {{0}}; /* 1.8 million steps below 2^213 each */
    psa_u192 limit = psa_range_end(zero_for_one);
    uint32_t count = 0;
    if (from_price) psa_position_start(pool, zero_for_one, &at);
    else range_start(pool, zero_for_one, &at);
    while (count < capacity) {
        store_rung(&at, &in, &out, &rungs[count++]);
        if (zero_for_one ? !psa_less_192(&limit, &at.price) : !psa_less_192(&at.price, &limit)) break;
        boundary to;
        step_result step;
        if (psa_next_boundary(pool, &at, zero_for_one, &to) != PSA_OK) break;
        psa_u192 end = psa_price_at(to.tick);
        if (zero_for_one ? psa_less_192(&at.price, &end) : psa_less_192(&end, &at.price)) break;
        int stops = zero_for_one ? psa_less_192(&end, &limit) : psa_less_192(&limit, &end);
        psa_whole_step(pool, &at.price, stops ? &limit : &end, at.liquidity, zero_for_one, &step);
        if (!step.reached) break; /* a fee of 100 % */
        psa_u256 paid = psa_widen(&step.out);
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        at.price = step.price;
        if (stops) at.tick = psa_tick_at(&at.price);
        else if (psa_pass_boundary(pool, &at, &to, zero_for_one) != PSA_OK) break;
    }
    return count;
}

/* ---- jumping ---- */

static int stands_on(const position *at, const psa_rung *rung) {
    return rung->tick == at->tick && rung->index == at->index &&
           psa_join(rung->liquidity[1], rung->liquidity[0]) == at->liquidity &&
           memcmp(rung->sqrt_price_x96, at->price.w, sizeof at->price.w) == 0;
}

/* Sums lie in memory as they are compared: a copy of one on the way costs more than the comparison. */
static inline const uint64_t *total(const psa_rung *rung, int exact_in) {
    return exact_in ? rung->amount_in : rung->amount_out;
}

static inline int less(const uint64_t *a, psa_u128 high, psa_u128 low) {
    psa_u128 above = psa_join(a[3], a[2]), below = psa_join(a[1], a[0]);
    return (above < high) | ((above == high) & (below < low));
}

static inline psa_u256 difference(const uint64_t *a, const uint64_t *b) {
    psa_u256 out = {{a[0], a[1], a[2], a[3]}}, taken = {{b[0], b[1], b[2], b[3]}};
    psa_sub_256(&out, &taken);
    return out;
}

uint32_t psa_depth_find(const psa_depth *depth, int32_t tick) {
    const psa_rung *rungs = depth->rungs;
    uint32_t low = 0, length = depth->count;
    int falls = depth->key.zero_for_one != 0;
    while (length > 1) {
        uint32_t half = length / 2;
        int32_t here = rungs[low + half].tick;
        int not_past = falls ? here >= tick : here <= tick;
        low += not_past ? half : 0;
        length -= half;
    }
    return low;
}

/* One past the last rung from `from` on whose price does not lie beyond `limit`. */
static uint32_t within_limit(const psa_depth *depth, uint32_t from, const psa_u192 *limit) {
    uint32_t low = from, high = depth->count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        psa_u192 price;
        memcpy(price.w, depth->rungs[middle].sqrt_price_x96, sizeof price.w);
        int beyond = depth->key.zero_for_one ? psa_less_192(&price, limit) : psa_less_192(limit, &price);
        if (beyond) high = middle;
        else low = middle;
    }
    return high;
}

int psa_depth_jump(const psa_depth *depth, uint32_t from, const psa_u192 *limit, int exact_in,
                   position *at, psa_u256 *left, psa_u256 *in, psa_u256 *out) {
    const psa_rung *rungs = depth->rungs, *start = &rungs[from];
    if (from >= depth->count || !stands_on(at, start)) return 0;
    if (psa_is_zero_256(left)) return 1;
    const uint64_t *begin = total(start, exact_in);
    psa_u256 goal = {{begin[0], begin[1], begin[2], begin[3]}};
    psa_add_256(&goal, left); /* at most 2^255 and a sum below 2^234 */
    psa_u128 goal_high = psa_join(goal.w[3], goal.w[2]), goal_low = psa_join(goal.w[1], goal.w[0]);
    uint32_t end = limit ? within_limit(depth, from, limit) : depth->count;
    uint32_t low = from, length = end - from; /* the last rung whose total is below the goal */
    while (length > 1) {
        uint32_t half = length / 2;
        low += less(total(&rungs[low + half], exact_in), goal_high, goal_low) ? half : 0;
        length -= half;
    }
    const psa_rung *rung = &rungs[low];
    psa_u256 cost = difference(rung->amount_in, start->amount_in);
    psa_u256 paid = difference(rung->amount_out, start->amount_out);
    psa_sub_256(left, exact_in ? &cost : &paid);
    psa_add_256(in, &cost);
    psa_add_256(out, &paid);
    memcpy(at->price.w, rung->sqrt_price_x96, sizeof at->price.w);
    at->liquidity = psa_join(rung->liquidity[1], rung->liquidity[0]);
    at->tick = rung->tick;
    at->crossed += depth->key.zero_for_one ? at->index - rung->index : rung->index - at->index;
    at->index = rung->index;
    at->edge = word_edge(at->tick, depth->key.spacing, (int)depth->key.zero_for_one);
    return 1;
}
