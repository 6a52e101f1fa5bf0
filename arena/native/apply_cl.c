/* apply_cl.c: events into price, liquidity and ticks of Uniswap V3 and V4 pools. */
#include "apply.h"
#include "tick_math.h"
#include "ticks.h"

#include <string.h>

static const psa_u128 INT128_MAX = ((psa_u128)1 << 127) - 1;

/* ProtocolFeeLibrary (v4-core): fees are in millionths, and a protocol's at most these, each way. */
#define PIPS UINT64_C(1000000)
#define MAX_PROTOCOL_FEE 1000u

/* ---- absolute state ---- */

/* Whether a pool can have this price (4 limbs) and tick. */
static int slot0_valid(const uint64_t *price, int32_t tick) {
    psa_u192 narrow = {{price[0], price[1], price[2]}};
    return price[3] == 0 && psa_price_in_range(&narrow) && tick >= PSA_MIN_TICK && tick <= PSA_MAX_TICK;
}

static int slot0_fits(const psa_line *line) {
    const uint64_t price[4] = {line->a[0], line->a[1], line->sqrt_price_hi, 0};
    return slot0_valid(price, line->tick);
}

static void set_slot0(const psa_writer *writer, psa_line *line, const psa_event *event) {
    memcpy(line->a, &event->words[0], sizeof(line->a));
    line->sqrt_price_hi = (uint32_t)event->words[2];
    memcpy(line->b, event->amount, sizeof(line->b));
    if (event->tick != line->tick)
        line->current_index = psa_ticks_index(&writer->arena, line, event->tick);
    line->tick = event->tick;
}

int psa_cl_set_protocol_fee(psa_line *line, const psa_event *event) {
    uint64_t fee = event->words[0];
    if ((fee & 0xfff) > MAX_PROTOCOL_FEE || fee >> 12 > MAX_PROTOCOL_FEE) return PSA_INVALID_EVENT_DATA;
    line->protocol_fee = (uint32_t)fee;
    line->fee_block = event->block_number;
    return PSA_OK;
}

/* What the whole fee of a swap says of the LP fee. v4-core takes p + l - floor(p * l / 10^6), with the
 * protocol fee p of the direction: p more than ceil(l * (10^6 - p) / 10^6), which grows by 0 or 1 with l.
 * So one or two LP fees lead to it; of two the pool's own is kept when it is among them, else the lower
 * one, with which a swap that way pays the same. A pool whose LP fee cannot change contradicts itself
 * when its own is not among them: then another protocol fee was missed. */
static int learn_lp_fee(psa_line *line, uint32_t flags, const psa_event *event) {
    if (!(event->present & PSA_HAS_SWAP_FEE)) return PSA_OK;
    uint64_t whole = event->words[4], own = psa_line_fee(line);
    uint64_t protocol = event->words[5] ? line->protocol_fee & 0xfff : line->protocol_fee >> 12;
    if (whole < protocol || whole > PIPS) return PSA_INVALID_EVENT_DATA;
    uint64_t rest = PIPS - protocol, lp_part = whole - protocol;
    uint64_t highest = lp_part * PIPS / rest;
    uint64_t lowest = lp_part == 0 ? 0 : (lp_part - 1) * PIPS / rest + 1;
    int is_own = lowest <= own && own <= highest;
    if (!(flags & PSA_POOL_DYNAMIC_FEE)) return is_own ? PSA_OK : PSA_INVALID_EVENT_DATA;
    if (!is_own) psa_line_set_fee(line, (uint32_t)lowest);
    line->fee_block = event->block_number;
    return PSA_OK;
}

/* ---- changes ---- */

typedef struct {
    psa_u128 gross;
    psa_i128 net;
    psa_u128 old_gross;
    psa_i128 old_net;
} tick_change;

static int plan_tick(const psa_arena *arena, const psa_line *line, int32_t tick, psa_i128 change,
                     psa_i128 net_change, tick_change *plan) {
    uint32_t index;
    plan->old_gross = 0;
    plan->old_net = 0;
    if (psa_ticks_find(arena, line, tick, &index))
        psa_ticks_get(arena, line, index, &plan->old_gross, &plan->old_net);
    psa_u128 magnitude = change < 0 ? (psa_u128)-change : (psa_u128)change;
    if (change < 0 ? magnitude > plan->old_gross : magnitude > ~(psa_u128)0 - plan->old_gross)
        return PSA_ARITHMETIC_OVERFLOW;
    plan->gross = change < 0 ? plan->old_gross - magnitude : plan->old_gross + magnitude;
    if (__builtin_add_overflow(plan->old_net, net_change, &plan->net)) return PSA_ARITHMETIC_OVERFLOW;
    /* A tick nobody references has no net; anything else means an earlier change was missed. */
    if (plan->gross == 0 && plan->net != 0) return PSA_ARITHMETIC_OVERFLOW;
    return PSA_OK;
}

/* Add `change` to the range [lower, upper). While the price is not known the active liquidity is left
 * alone: an absolute value is still to come. Not inline: swaps, which are most events, would save its
 * registers. */
static __attribute__((noinline)) int
change_liquidity(psa_writer *writer, psa_edit *edit, const psa_event *event, int invert) {
    psa_arena *arena = &writer->arena;
    psa_line *line = &edit->line;
    int price_known = !(line->unsure & (PSA_UNSURE_PRICE | PSA_UNSURE_ALL));
    int32_t lower = event->tick_lower, upper = event->tick_upper;
    int32_t spacing = arena->statics[edit->slot].tick_spacing;
    if (lower >= upper || lower < PSA_MIN_TICK || upper > PSA_MAX_TICK || spacing <= 0 ||
        lower % spacing != 0 || upper % spacing != 0)
        return PSA_INVALID_EVENT_DATA;
    psa_i128 change;
    int status = psa_signed_change(event, (psa_i128)psa_get_u128(event->amount), &change);
    if (status != PSA_OK) return status;
    if (change == 0) return PSA_OK;
    if (invert) change = -change;

    tick_change plans[2];
    status = plan_tick(arena, line, lower, change, change, &plans[0]);
    if (status != PSA_OK) return status;
    status = plan_tick(arena, line, upper, change, -change, &plans[1]);
    if (status != PSA_OK) return status;
    psa_u128 liquidity = psa_get_u128(line->b);
    if (price_known && lower <= line->tick && line->tick < upper) {
        psa_u128 magnitude = change < 0 ? (psa_u128)-change : (psa_u128)change;
        if (change < 0 ? magnitude > liquidity : magnitude > ~(psa_u128)0 - liquidity)
            return PSA_ARITHMETIC_OVERFLOW;
        liquidity = change < 0 ? liquidity - magnitude : liquidity + magnitude;
    }
    status = psa_ticks_reserve(writer, edit, 2);
    if (status != PSA_OK) return status;

    uint32_t generation = line->generation;
    psa_undo_note_tick(writer, edit->slot, generation, lower, plans[0].old_gross, plans[0].old_net);
    psa_undo_note_tick(writer, edit->slot, generation, upper, plans[1].old_gross, plans[1].old_net);
    psa_ticks_set(writer, edit, lower, plans[0].gross, plans[0].net);
    psa_ticks_set(writer, edit, upper, plans[1].gross, plans[1].net);
    psa_put_u128(line->b, liquidity);
    return PSA_OK;
}

int psa_cl_apply(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    psa_line *line = &edit->line;
    switch (event->kind) {
    case PSA_EVENT_CL_SWAP: {
        if (!slot0_valid(event->words, event->tick)) return PSA_INVALID_EVENT_DATA;
        int status = learn_lp_fee(line, writer->arena.statics[edit->slot].flags, event);
        if (status != PSA_OK) return status;
        set_slot0(writer, line, event);
        psa_settle_price(line);
        return PSA_OK;
    }
    case PSA_EVENT_CL_LIQUIDITY: return change_liquidity(writer, edit, event, 0);
    case PSA_EVENT_PROTOCOL_FEE: return psa_cl_set_protocol_fee(line, event);
    default: return PSA_INVALID_EVENT_DATA;
    }
}

int psa_cl_revert(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    int is_dynamic = writer->arena.statics[edit->slot].flags & PSA_POOL_DYNAMIC_FEE;
    switch (event->kind) {
    case PSA_EVENT_CL_LIQUIDITY: return change_liquidity(writer, edit, event, 1);
    case PSA_EVENT_CL_SWAP: {
        int has_brought_fee = event->present & PSA_HAS_SWAP_FEE && is_dynamic;
        psa_make_stale(writer, edit, has_brought_fee ? PSA_UNSURE_ALL : PSA_UNSURE_PRICE);
        return PSA_OK;
    }
    /* What the fee was before, as with such a swap, the event does not say, nor will any epilogue. */
    case PSA_EVENT_PROTOCOL_FEE: psa_make_stale(writer, edit, PSA_UNSURE_ALL); return PSA_OK;
    default: return PSA_REORG_TOO_DEEP;
    }
}

int psa_cl_settle(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    if (!slot0_valid(event->words, event->tick)) return PSA_INVALID_EVENT_DATA;
    set_slot0(writer, &edit->line, event);
    return PSA_OK;
}

/* ---- whole pools ---- */

static int ticks_fit(const psa_line *line, const psa_static *row, const psa_tick_arrays *arrays) {
    uint32_t count = line->tick_count, below = line->current_index;
    psa_u128 sum = 0;
    if (row->tick_spacing <= 0) return 0;
    for (uint32_t i = 0; i < count; i++) {
        int32_t tick = arrays->ticks[i];
        if (tick < PSA_MIN_TICK || tick > PSA_MAX_TICK || tick % row->tick_spacing != 0) return 0;
        if (i > 0 && tick <= arrays->ticks[i - 1]) return 0;
        if (psa_get_u128(&arrays->gross[2 * (size_t)i]) == 0) return 0;
        sum += psa_get_u128(&arrays->net[2 * (size_t)i]);
    }
    if (psa_line_status(line) == PSA_STATUS_LIVE && sum != 0) return 0;
    return (below == 0 || arrays->ticks[below - 1] <= line->tick) &&
           (below == count || arrays->ticks[below] > line->tick);
}

int psa_cl_fits(const psa_arena *arena, const psa_static *row, const psa_line *line) {
    psa_tick_arrays arrays;
    return slot0_fits(line) && psa_line_arrays(arena, line, &arrays) && ticks_fit(line, row, &arrays);
}

static int ticks_consistent(const psa_line *line, int32_t spacing, const int32_t *ticks,
                            const uint64_t *gross, const uint64_t *net, uint32_t count) {
    psa_i128 sum = 0, active = 0;
    for (uint32_t i = 0; i < count; i++) {
        psa_u128 tick_gross = psa_get_u128(&gross[2 * (size_t)i]);
        psa_i128 tick_net = (psa_i128)psa_get_u128(&net[2 * (size_t)i]);
        if (ticks[i] < PSA_MIN_TICK || ticks[i] > PSA_MAX_TICK || ticks[i] % spacing != 0) return 0;
        if (i > 0 && ticks[i] <= ticks[i - 1]) return 0;
        if (tick_gross == 0) return 0;
        if (__builtin_add_overflow(sum, tick_net, &sum)) return 0;
        if (ticks[i] <= line->tick) active = sum;
    }
    return sum == 0 && active >= 0 && (psa_u128)active == psa_get_u128(line->b) &&
           (psa_u128)active <= INT128_MAX;
}

int psa_cl_admits(const psa_static *row, const psa_line *values, const int32_t *ticks,
                  const uint64_t *gross, const uint64_t *net, uint32_t count) {
    return slot0_fits(values) && row->tick_spacing > 0 &&
           ticks_consistent(values, row->tick_spacing, ticks, gross, net, count);
}
