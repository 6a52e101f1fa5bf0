/* ladder.c: the depth of a pool in one direction as rungs, and quotes by a search among them. */
#include "cl_steps.h"
#include "families.h"
#include "tick_math.h"

static void store_rung(const position *at, const psa_u256 *in, const psa_u256 *out, psa_rung *rung) {
    memset(rung, 0, sizeof *rung);
    memcpy(rung->amount_in, in->w, sizeof in->w);
    memcpy(rung->amount_out, out->w, sizeof out->w);
    memcpy(rung->sqrt_price_x96, at->price.w, sizeof at->price.w);
    rung->liquidity[0] = psa_low(at->liquidity);
    rung->liquidity[1] = psa_high(at->liquidity);
    rung->tick = at->tick;
    rung->ticks_crossed = at->crossed;
}

int psa_ladder_build(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                     uint32_t capacity, uint32_t *count) {
    if (!pool || !pool->row || !count || (!rungs && capacity) || flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    *count = 0;
    pool_state state;
    int status = psa_load_copy(pool, flags, lp_fee, &state);
    if (status != PSA_OK) return status;
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0;
    position at;
    psa_u256 in = {{0}}, out = {{0}};
    uint32_t used = 1;
    if (psa_has_reserves(state.protocol)) {
        memset(&at, 0, sizeof at);
        if (capacity > 0) store_rung(&at, &in, &out, &rungs[0]);
        *count = 1;
        return capacity > 0 ? PSA_OK : PSA_BUFFER_TOO_SMALL;
    }
    psa_u192 limit = psa_range_end(zero_for_one);
    psa_position_start(&state, zero_for_one, &at);
    if (capacity > 0) store_rung(&at, &in, &out, &rungs[0]);
    while (zero_for_one ? psa_less_192(&limit, &at.price) : psa_less_192(&at.price, &limit)) {
        boundary to;
        step_result step;
        status = psa_next_boundary(&state, &at, zero_for_one, &to);
        if (status != PSA_OK) return status;
        psa_u192 end = psa_price_at(to.tick);
        if (zero_for_one ? psa_less_192(&at.price, &end) : psa_less_192(&end, &at.price))
            return PSA_TICK_DATA;
        int stops = zero_for_one ? psa_less_192(&end, &limit) : psa_less_192(&limit, &end);
        psa_whole_step(&state, &at.price, stops ? &limit : &end, at.liquidity, zero_for_one, &step);
        if (!step.reached) break; /* a fee of 100 %: no input moves the price further */
        psa_u256 paid = psa_widen(&step.out);
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        at.price = step.price;
        if (!stops) {
            status = psa_pass_boundary(&state, &at, &to, zero_for_one);
            if (status != PSA_OK) return status;
        } else {
            at.tick = psa_tick_at(&at.price);
        }
        if (used < capacity) store_rung(&at, &in, &out, &rungs[used]);
        used++;
    }
    *count = used;
    return used <= capacity ? PSA_OK : PSA_BUFFER_TOO_SMALL;
}

static int ladder_answer(const pool_state *pool, const psa_rung *rungs, uint32_t rung_count,
                         const psa_u256 *amount, int zero_for_one, int exact_in,
                         psa_quote_result *result) {
    if (psa_has_reserves(pool->protocol))
        return psa_quote_family(pool, amount, NULL, zero_for_one, exact_in, result);
    int status = psa_check_amount(pool, amount, exact_in);
    if (status != PSA_OK) return status;
    psa_u192 limit = psa_range_end(zero_for_one);
    if (zero_for_one ? !psa_less_192(&limit, &pool->price) : !psa_less_192(&pool->price, &limit))
        return PSA_PRICE_LIMIT;
    /* the last rung whose total is below the amount; the first one's is 0 */
    uint32_t from = 0, to = rung_count;
    while (to - from > 1) {
        uint32_t middle = from + (to - from) / 2;
        psa_u256 total;
        memcpy(total.w, exact_in ? rungs[middle].amount_in : rungs[middle].amount_out, sizeof total.w);
        if (psa_less_256(&total, amount)) from = middle;
        else to = middle;
    }
    const psa_rung *rung = &rungs[from], *next = from + 1 < rung_count ? rung + 1 : 0;
    psa_u256 in, out, total, left = *amount;
    psa_u192 price;
    memcpy(in.w, rung->amount_in, sizeof in.w);
    memcpy(out.w, rung->amount_out, sizeof out.w);
    memcpy(price.w, rung->sqrt_price_x96, sizeof price.w);
    psa_u128 liquidity = psa_join(rung->liquidity[1], rung->liquidity[0]);
    int32_t tick = rung->tick;
    uint32_t crossed = rung->ticks_crossed;
    int complete = 0;
    if (next) {
        memcpy(total.w, exact_in ? next->amount_in : next->amount_out, sizeof total.w);
        if (memcmp(total.w, amount->w, sizeof total.w) == 0) {
            memcpy(in.w, next->amount_in, sizeof in.w);
            memcpy(out.w, next->amount_out, sizeof out.w);
            memcpy(price.w, next->sqrt_price_x96, sizeof price.w);
            return psa_store_swap(pool, &in, &out, 1, &price,
                                  psa_join(next->liquidity[1], next->liquidity[0]), next->tick,
                                  next->ticks_crossed, result);
        }
    }
    if (next || (pool->fee == PSA_PIPS && !psa_equal_192(&price, &limit))) {
        step_result step;
        psa_sub_256(&left, exact_in ? &in : &out);
        status = psa_partial_step(pool, &price, liquidity, &left, zero_for_one, exact_in, &step);
        if (status != PSA_OK) return status;
        psa_u256 paid = psa_widen(&step.out);
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        complete = 1;
        int onto_next = 0;
        if (next) {
            psa_u192 end;
            memcpy(end.w, next->sqrt_price_x96, sizeof end.w);
            onto_next = psa_equal_192(&end, &step.price); /* F3 */
        }
        if (onto_next) {
            liquidity = psa_join(next->liquidity[1], next->liquidity[0]);
            tick = next->tick;
            crossed = next->ticks_crossed;
        } else if (!psa_equal_192(&price, &step.price)) {
            if (!psa_price_in_range(&step.price)) return PSA_TICK_DATA;
            tick = psa_tick_at(&step.price);
        }
        price = step.price;
    }
    return psa_store_swap(pool, &in, &out, complete, &price, liquidity, tick, crossed, result);
}

int psa_ladder_quote(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee,
                     const psa_rung *rungs, uint32_t rung_count, const uint64_t *amounts,
                     uint32_t count, psa_quote_result *results) {
    if (!pool || !pool->row || !rungs || rung_count == 0 || !amounts || !results ||
        flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    pool_state state;
    int loaded = psa_load_copy(pool, flags, lp_fee, &state);
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0, exact_in = !(flags & PSA_EXACT_OUT);
    for (uint32_t i = 0; i < count; i++) {
        psa_u256 amount;
        int status = loaded;
        memcpy(amount.w, &amounts[4 * (size_t)i], sizeof amount.w);
        if (status == PSA_OK)
            status = ladder_answer(&state, rungs, rung_count, &amount, zero_for_one, exact_in,
                                   &results[i]);
        psa_finish_result(&pool->line, status, &results[i]);
    }
    return PSA_OK;
}
