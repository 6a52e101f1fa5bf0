/* swap_cl.c: quotes of Uniswap V3 and V4, as the deployed contracts compute them, bit for bit. */
#include "atomics.h"
#include "jump.h"
#include "price_math.h"
#include "protocols.h"
#include "tick_math.h"

#define MAX_TICK_SPACING 32767

static double to_double(const uint64_t *w, unsigned count) {
    double out = 0.0, unit = 1.0;
    for (unsigned i = 0; i < count; i++) {
        /* two halves: signed conversions are one instruction */
        if (w[i]) out += ((double)(int64_t)(w[i] >> 32) * 0x1p32 + (double)(int64_t)(w[i] & UINT32_MAX)) * unit;
        unit *= 0x1p64;
    }
    return out;
}

/* Guess whether the step stops before `ticks_ahead` ticks. Only picks the order of exact work: a wrong
 * guess costs time. */
static int stops_early(const pool_state *pool, const position *at, const psa_u256 *left,
                       int zero_for_one, int exact_in, int32_t ticks_ahead) {
    double amount = to_double(left->w, 4);
    double price = to_double(at->price.w, 3) * 0x1p-96;
    double liquidity = (double)psa_high(at->liquidity) * 0x1p64 + (double)psa_low(at->liquidity);
    double distance = (double)ticks_ahead * 4.99975e-5;
    /* relative move of the price (or of its inverse): exp(distance) - 1 reaches the end */
    double reach = distance * (1.0 + distance * (0.5 + distance * (1.0 / 6 + distance * (1.0 / 24))));
    if (exact_in) amount *= (double)(PSA_PIPS - pool->fee) * 1e-6;
    else reach /= 1.0 + reach;
    if (zero_for_one == exact_in) return amount * price < reach * liquidity;
    return amount < reach * liquidity * price;
}

/* Finish inside the running step without knowing the target's price, when that is certain to be right.
 * Gives the price after and its tick. */
static int finish_before(const pool_state *pool, const position *at, const psa_u256 *left,
                         const psa_u192 *limit, int limited, int zero_for_one, int exact_in,
                         int32_t target_tick, psa_u192 *next, int32_t *tick) {
    psa_u256 amount = exact_in ? without_fee(pool, left) : *left;
    if (amount.w[3] != 0) return 0;
    psa_u192 narrow = {{amount.w[0], amount.w[1], amount.w[2]}};
    if (zero_for_one == exact_in) {
        if (exact_in ? !psa_price_after_adding_0(&at->price, at->liquidity, &narrow, next)
                     : !psa_price_after_removing_0(&at->price, at->liquidity, &narrow, next))
            return 0;
    } else if (!psa_price_after_moving_1(&at->price, at->liquidity, &narrow, exact_in, next)) {
        return 0;
    }
    if (zero_for_one ? !psa_less_192(limit, next) : !psa_less_192(next, limit)) return 0;
    int32_t found = psa_tick_at(next);
    if (exact_in) {
        if (zero_for_one ? found <= target_tick : found >= target_tick) return 0; /* F2 */
    } else {
        /* The step is made whole when what is left equals its yield, rounded down, so the target has to
         * pay at least one unit more than the price at `next` shows. A whole tick between them, more
         * than 2^-15 of the price, is worth one when liquidity * price >= 2^111 (token1) or
         * liquidity * 2^81 >= price (token0). */
        if (zero_for_one ? found <= target_tick : found > target_tick - 2) return 0;
        unsigned price_bits = next->w[2]   ? 192 - (unsigned)__builtin_clzll(next->w[2])
                              : next->w[1] ? 128 - (unsigned)__builtin_clzll(next->w[1])
                                           : 64 - (unsigned)__builtin_clzll(next->w[0] | 1);
        unsigned liquidity_bits =
            psa_high(at->liquidity) ? 128 - (unsigned)__builtin_clzll(psa_high(at->liquidity))
                                    : 64 - (unsigned)__builtin_clzll(psa_low(at->liquidity) | 1);
        if (zero_for_one ? liquidity_bits + price_bits < 111 + 2 : liquidity_bits + 81 < price_bits + 1)
            return 0;
        if (limited) { /* the limit is a target too */
            psa_u192 most = zero_for_one ? psa_amount1_between(limit, &at->price, at->liquidity, 0)
                                         : psa_amount0_between(&at->price, limit, at->liquidity, 0);
            if (!psa_less_192(&narrow, &most)) return 0;
        }
    }
    *tick = psa_equal_192(next, &at->price) ? at->tick : found;
    return 1;
}

/* The tick at a limit that stopped the swap inside empty words. The contract walks them one by one, so
 * moving down onto a word edge leaves the tick one below it. */
static int32_t tick_in_empty_words(const pool_state *pool, const psa_u192 *price, int zero_for_one) {
    int32_t tick = psa_tick_at(price);
    if (zero_for_one && tick % (256 * pool->spacing) == 0) {
        psa_u192 exact = psa_price_at(tick);
        tick -= psa_equal_192(&exact, price);
    }
    return tick;
}

int psa_cl_quote(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit_given,
                 int zero_for_one, int exact_in, psa_quote_result *result) {
    int status = psa_check_amount(pool, amount, exact_in);
    if (status != PSA_OK) return status;
    psa_u192 limit = psa_range_end(zero_for_one);
    if (limit_given) {
        psa_u192 given = {{limit_given->w[0], limit_given->w[1], limit_given->w[2]}};
        if (limit_given->w[3] != 0) return PSA_PRICE_LIMIT;
        if (zero_for_one ? psa_less_192(&given, &limit) : psa_less_192(&limit, &given))
            return PSA_PRICE_LIMIT;
        limit = given;
    }
    if (zero_for_one ? !psa_less_192(&limit, &pool->price) : !psa_less_192(&pool->price, &limit))
        return PSA_PRICE_LIMIT;

    position at;
    psa_position_start(pool, zero_for_one, &at);
    psa_u256 left = *amount, in = {{0}}, out = {{0}};
    const psa_depth *depth = pool->depth;
    const psa_u192 *stop = limit_given ? &limit : 0; /* no rung lies beyond the range's end */
    if (depth && psa_depth_jump(depth, 0, stop, exact_in, &at, &left, &in, &out)) depth = 0;
    int complete;
    for (;;) {
        complete = psa_is_zero_256(&left);
        if (complete || psa_equal_192(&at.price, &limit)) break;
        boundary to;
        status = psa_next_boundary(pool, &at, zero_for_one, &to);
        if (status != PSA_OK) return status;
        step_result step;
        int32_t ahead = zero_for_one ? at.tick - to.tick : to.tick - at.tick;
        if (at.liquidity != 0 && pool->fee < PSA_PIPS &&
            stops_early(pool, &at, &left, zero_for_one, exact_in, ahead)) {
            int32_t tick;
            if (finish_before(pool, &at, &left, &limit, limit_given != 0, zero_for_one, exact_in, to.tick,
                              &step.price, &tick)) {
                psa_last_step(pool, &at.price, at.liquidity, &left, zero_for_one, exact_in, &step);
                psa_u256 paid = psa_widen(&step.out);
                psa_add_256(&in, &step.in);
                psa_add_256(&out, &paid);
                at.price = step.price;
                at.tick = tick;
                complete = 1;
                break;
            }
        }
        psa_u192 end = psa_price_at(to.tick);
        if (zero_for_one ? psa_less_192(&at.price, &end) : psa_less_192(&end, &at.price))
            return PSA_TICK_DATA;
        int stops = zero_for_one ? psa_less_192(&end, &limit) : psa_less_192(&limit, &end);
        psa_whole_step(pool, &at.price, stops ? &limit : &end, at.liquidity, zero_for_one, &step);
        psa_u256 paid = psa_widen(&step.out);
        if (step.reached && exact_in ? !psa_less_256(&left, &step.in)
                                     : step.reached && !psa_less_256(&left, &paid)) {
            psa_sub_256(&left, exact_in ? &step.in : &paid);
        } else {
            status = psa_partial_step(pool, &at.price, at.liquidity, &left, zero_for_one, exact_in, &step);
            if (status != PSA_OK) return status;
            paid = psa_widen(&step.out);
            left = (psa_u256){{0}};
        }
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        int moved = !psa_equal_192(&step.price, &at.price);
        at.price = step.price;
        if (psa_equal_192(&at.price, &end)) {
            status = psa_pass_boundary(pool, &at, &to, zero_for_one);
            if (status != PSA_OK) return status;
            if (depth) {
                psa_depth_jump(depth, psa_depth_find(depth, at.tick), stop, exact_in, &at, &left, &in, &out);
                depth = 0; /* it went as far as whole steps go */
            }
        } else if (moved) {
            at.tick = to.skips ? tick_in_empty_words(pool, &at.price, zero_for_one) : psa_tick_at(&at.price);
        }
    }
    return psa_store_swap(pool, &in, &out, complete, &at.price, at.liquidity, at.tick, at.crossed, result);
}

int psa_cl_load(const psa_line *line, const row_fields *row, uint32_t flags, uint32_t lp_fee,
                const psa_tick_arrays *arrays, pool_state *pool) {
    uint32_t fee = line->fee_status & 0xffffff;
    /* Whoever allows hooks says which fee they set, and that they do nothing else to the amounts. */
    const uint32_t by_curve = PSA_ALLOW_HOOKS | PSA_FEE_GIVEN;
    if (row->flags & PSA_POOL_HOOKED && (flags & by_curve) != by_curve) return PSA_HOOKED_POOL;
    if (flags & PSA_FEE_GIVEN) {
        if (!(row->flags & (PSA_POOL_DYNAMIC_FEE | PSA_POOL_HOOKED)) || lp_fee > PSA_PIPS)
            return PSA_BAD_ARGUMENT;
        fee = lp_fee;
    } else if (row->flags & PSA_POOL_DYNAMIC_FEE && !(flags & PSA_ALLOW_DYNAMIC)) {
        return PSA_DYNAMIC_FEE;
    }
    pool->price = (psa_u192){{line->a[0], line->a[1], line->sqrt_price_hi}};
    if ((line->a[0] | line->a[1] | line->sqrt_price_hi) == 0) return PSA_NOT_INITIALIZED;
    if (row->protocol == PSA_UNISWAP_V4) { /* ProtocolFeeLibrary.calculateSwapFee */
        uint32_t protocol_fee =
            flags & PSA_ZERO_FOR_ONE ? line->protocol_fee & 0xfff : line->protocol_fee >> 12 & 0xfff;
        fee += protocol_fee - (uint32_t)((uint64_t)protocol_fee * fee / PSA_PIPS);
    }
    if (!psa_price_in_range(&pool->price) || line->tick < PSA_MIN_TICK || line->tick >= PSA_MAX_TICK ||
        row->tick_spacing < 1 || row->tick_spacing > MAX_TICK_SPACING || fee > PSA_PIPS ||
        (row->protocol == PSA_UNISWAP_V3 && fee == PSA_PIPS) || line->current_index > line->tick_count ||
        (line->tick_count != 0 && (!arrays->ticks || !arrays->net)))
        return PSA_TICK_DATA;
    pool->liquidity = psa_join(line->b[1], line->b[0]);
    pool->ticks = arrays->ticks;
    pool->net = arrays->net;
    pool->tick_count = line->tick_count;
    pool->index = line->current_index;
    pool->tick = line->tick;
    pool->spacing = row->tick_spacing;
    pool->fee = fee;
    pool->after_fee = psa_prepare(PSA_PIPS - fee);
    pool->depth = 0;
    /* The index says where the current tick stands; a wrong one would skip liquidity. */
    if ((pool->index > 0 && PSA_LOAD(&pool->ticks[pool->index - 1]) > pool->tick) ||
        (pool->index < pool->tick_count && PSA_LOAD(&pool->ticks[pool->index]) <= pool->tick))
        return PSA_TICK_DATA;
    return PSA_OK;
}

