/* apply.c: events into pool state. Every check comes before the first write of its event. */
#include "index.h"
#include "ticks.h"
#include "writer.h"

#include <string.h>

#define BATCH 8
#define STAGES 4
#define PREFETCH_TICKS 64

static const psa_u128 UINT112_MAX = ((psa_u128)1 << 112) - 1;
static const psa_u128 INT128_MAX = ((psa_u128)1 << 127) - 1;

/* ProtocolFeeLibrary (v4-core): fees are in millionths, and a protocol's at most these, each way. */
#define PIPS UINT64_C(1000000)
#define MAX_PROTOCOL_FEE 1000u

/* TickMath: sqrt(1.0001^-887272) and sqrt(1.0001^887272) as Q64.96 (Uniswap v3-core, TickMath.sol). */
static const uint64_t MIN_SQRT_RATIO = UINT64_C(4295128739);
static const uint32_t MAX_SQRT_HI = UINT32_C(0xfffd8963);
static const uint64_t MAX_SQRT_MID = UINT64_C(0xefd1fc6a50648849);
static const uint64_t MAX_SQRT_LO = UINT64_C(0x5d951d5263988d26);

void psa_make_stale(psa_writer *writer, psa_edit *edit, uint32_t unsure) {
    uint32_t status = psa_line_status(&edit->line);
    edit->line.unsure |= (uint8_t)unsure;
    if (status != PSA_STATUS_LIVE && status != PSA_STATUS_SYNCING) return;
    psa_line_set_status(&edit->line, PSA_STATUS_STALE);
    writer->stale_count++;
    psa_count(writer, PSA_COUNTER_POOLS_STALE, 1);
}

static void fault(psa_writer *writer, const psa_event *event, uint32_t slot, int status, int stale) {
    psa_count(writer,
              status < PSA_POOL_NOT_FOUND
                  ? PSA_COUNTER_ARENA_FULL
                  : (uint32_t)(PSA_COUNTER_FAULTS + status - PSA_POOL_NOT_FOUND),
              1);
    if (writer->fault_count < PSA_FAULTS) {
        psa_fault *entry = &writer->faults[writer->fault_count];
        *entry = (psa_fault){
            .status = (uint32_t)status,
            .slot = slot,
            .block_number = event->block_number,
            .tx_index = event->tx_index,
            .log_index = event->log_index,
            .kind = event->kind,
            .protocol = event->protocol,
            .made_stale = (uint8_t)stale,
        };
        memcpy(entry->key, event->key, sizeof(entry->key));
    }
    writer->fault_count++;
}

/* ---- values ---- */

static int words_to_i128(const uint64_t *words, psa_i128 *value) {
    uint64_t sign = words[1] >> 63 ? UINT64_MAX : 0;
    *value = (psa_i128)psa_get_u128(words);
    return words[2] == sign && words[3] == sign;
}

/* Magnitude of a signed amount; PSA_ARITHMETIC_OVERFLOW for the one that has none. */
static int magnitude_of(psa_i128 value, psa_u128 *magnitude) {
    if ((psa_u128)value == (psa_u128)1 << 127) return PSA_ARITHMETIC_OVERFLOW;
    *magnitude = value < 0 ? (psa_u128)-value : (psa_u128)value;
    return PSA_OK;
}

/* The signed change an event means: Mint adds and Burn takes |value|, all else is signed as sent. */
static int signed_change(const psa_event *event, psa_i128 value, psa_i128 *change) {
    psa_u128 magnitude;
    int status = magnitude_of(value, &magnitude);
    if (status != PSA_OK) return status;
    int by_type = event->protocol != PSA_UNISWAP_V4;
    if (by_type && event->update_type == PSA_UPDATE_MINT) *change = (psa_i128)magnitude;
    else if (by_type && event->update_type == PSA_UPDATE_BURN) *change = -(psa_i128)magnitude;
    else *change = value;
    return PSA_OK;
}

static int add_reserve(const uint64_t *reserve, psa_i128 change, psa_u128 *sum) {
    psa_u128 before = psa_get_u128(reserve);
    psa_u128 magnitude = change < 0 ? (psa_u128)-change : (psa_u128)change;
    if (change < 0 ? magnitude > before : magnitude > UINT112_MAX - before)
        return PSA_ARITHMETIC_OVERFLOW;
    *sum = change < 0 ? before - magnitude : before + magnitude;
    return PSA_OK;
}

static int slot0_valid(const psa_event *event) {
    const uint64_t *price = event->words;
    if (price[3] != 0 || price[2] >> 32) return 0;
    uint32_t hi = (uint32_t)price[2];
    if (hi == 0 && price[1] == 0 && price[0] < MIN_SQRT_RATIO) return 0;
    if (hi > MAX_SQRT_HI) return 0;
    if (hi == MAX_SQRT_HI && (price[1] > MAX_SQRT_MID ||
                              (price[1] == MAX_SQRT_MID && price[0] >= MAX_SQRT_LO)))
        return 0;
    return event->tick >= PSA_MIN_TICK && event->tick <= PSA_MAX_TICK;
}

int psa_price_fits(const psa_line *line) {
    psa_event price = {.tick = line->tick};
    memcpy(price.words, line->a, sizeof(line->a));
    price.words[2] = line->sqrt_price_hi;
    return slot0_valid(&price);
}

/* ---- effects: absolute state ---- */

static int set_reserves(psa_line *line, const psa_event *event) {
    const uint64_t *words = event->words;
    if (words[2] | words[3] | words[6] | words[7]) return PSA_INVALID_EVENT_DATA;
    if (words[1] >> 48 || words[5] >> 48) return PSA_ARITHMETIC_OVERFLOW;
    memcpy(line->a, &words[0], sizeof(line->a));
    memcpy(line->b, &words[4], sizeof(line->b));
    return PSA_OK;
}

static int set_slot0(psa_writer *writer, psa_line *line, const psa_event *event) {
    if (!slot0_valid(event)) return PSA_INVALID_EVENT_DATA;
    memcpy(line->a, &event->words[0], sizeof(line->a));
    line->sqrt_price_hi = (uint32_t)event->words[2];
    memcpy(line->b, event->amount, sizeof(line->b));
    if (event->tick != line->tick)
        line->current_index = psa_ticks_index(&writer->arena, line, event->tick);
    line->tick = event->tick;
    return PSA_OK;
}

static int set_protocol_fee(psa_line *line, const psa_event *event) {
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

/* Price or reserves are known again; a pool stale for that reason alone is live again. */
static void settle_price(psa_line *line) {
    if (!(line->unsure & PSA_UNSURE_PRICE)) return;
    line->unsure &= (uint8_t)~PSA_UNSURE_PRICE;
    if (line->unsure == 0 && psa_line_status(line) == PSA_STATUS_STALE)
        psa_line_set_status(line, PSA_STATUS_LIVE);
}

/* ---- effects: changes ---- */

static int change_reserves(psa_line *line, const psa_event *event, int invert) {
    psa_i128 amounts[2], changes[2];
    psa_u128 sums[2];
    if (!words_to_i128(&event->words[0], &amounts[0]) ||
        !words_to_i128(&event->words[4], &amounts[1]))
        return PSA_ARITHMETIC_OVERFLOW;
    for (int i = 0; i < 2; i++) {
        int status = signed_change(event, amounts[i], &changes[i]);
        if (status != PSA_OK) return status;
        status = add_reserve(i == 0 ? line->a : line->b, invert ? -changes[i] : changes[i], &sums[i]);
        if (status != PSA_OK) return status;
    }
    psa_put_u128(line->a, sums[0]);
    psa_put_u128(line->b, sums[1]);
    return PSA_OK;
}

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

/* Add `change` to the range [lower, upper). With `price_known` 0 the active liquidity is left alone: an
 * absolute value is still to come. */
static int change_liquidity(psa_writer *writer, psa_edit *edit, const psa_event *event, int invert,
                            int price_known) {
    psa_arena *arena = &writer->arena;
    psa_line *line = &edit->line;
    int32_t lower = event->tick_lower, upper = event->tick_upper;
    int32_t spacing = arena->statics[edit->slot].tick_spacing;
    if (lower >= upper || lower < PSA_MIN_TICK || upper > PSA_MAX_TICK || spacing <= 0 ||
        lower % spacing != 0 || upper % spacing != 0)
        return PSA_INVALID_EVENT_DATA;
    psa_i128 change;
    int status = signed_change(event, (psa_i128)psa_get_u128(event->amount), &change);
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

/* ---- one event ---- */

static int protocol_fits(const psa_arena *arena, uint32_t slot, const psa_event *event) {
    uint8_t protocol = arena->statics[slot].protocol;
    switch (event->kind) {
    case PSA_EVENT_V2_SYNC:
    case PSA_EVENT_V2_DELTA:
    case PSA_EVENT_V2_FINAL: return protocol == PSA_UNISWAP_V2;
    case PSA_EVENT_CL_SWAP:
    case PSA_EVENT_CL_LIQUIDITY:
    case PSA_EVENT_SLOT0_FINAL:
        return protocol == event->protocol &&
               (protocol == PSA_UNISWAP_V3 || protocol == PSA_UNISWAP_V4);
    case PSA_EVENT_PROTOCOL_FEE:
        return protocol == PSA_UNISWAP_V4 && event->protocol == PSA_UNISWAP_V4;
    default: return 1;
    }
}

static int is_after(const psa_line *line, const psa_event *event) {
    if (event->block_number <= line->base_block) return 0;
    if (event->block_number != line->block_number) return event->block_number > line->block_number;
    if (event->tx_index != line->tx_index) return event->tx_index > line->tx_index;
    return event->log_index > line->log_index;
}

static int apply_forward(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    const psa_arena *arena = &writer->arena;
    psa_line *line = &edit->line;
    int price_known = !(line->unsure & (PSA_UNSURE_PRICE | PSA_UNSURE_ALL));
    switch (event->kind) {
    case PSA_EVENT_V2_SYNC: {
        int status = set_reserves(line, event);
        if (status == PSA_OK) settle_price(line);
        return status;
    }
    case PSA_EVENT_V2_DELTA: return change_reserves(line, event, 0);
    case PSA_EVENT_CL_SWAP: {
        if (!slot0_valid(event)) return PSA_INVALID_EVENT_DATA;
        int status = learn_lp_fee(line, arena->statics[edit->slot].flags, event);
        if (status == PSA_OK) status = set_slot0(writer, line, event);
        if (status == PSA_OK) settle_price(line);
        return status;
    }
    case PSA_EVENT_CL_LIQUIDITY: return change_liquidity(writer, edit, event, 0, price_known);
    case PSA_EVENT_PROTOCOL_FEE: return set_protocol_fee(line, event);
    default: return PSA_INVALID_EVENT_DATA;
    }
}

static void on_forward(psa_writer *writer, const psa_event *event, uint32_t slot) {
    psa_edit edit;
    const psa_slot *shared = &writer->arena.slots[slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) {
        fault(writer, event, slot, PSA_POOL_NOT_FOUND, 0);
        return;
    }
    if (newest->unsure & PSA_UNSURE_UNREAD) {
        psa_count(writer, PSA_COUNTER_EVENTS_SKIPPED, 1);
        return;
    }
    if (event->tx_index > UINT32_MAX - 1 || event->log_index > UINT32_MAX - 1 ||
        !protocol_fits(&writer->arena, slot, event)) {
        psa_edit_begin(writer, slot, &edit);
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        psa_edit_end(writer, &edit);
        fault(writer, event, slot, PSA_INVALID_EVENT_DATA, 1);
        return;
    }
    if (!is_after(newest, event)) {
        psa_count(writer, PSA_COUNTER_EVENTS_SKIPPED, 1);
        return;
    }
    psa_edit_begin(writer, slot, &edit);
    psa_undo_note_line(writer, &edit);
    if (edit.line.scrape_block > edit.line.base_block) edit.line.scrape_block = edit.line.base_block;
    psa_line before = edit.line;
    int result = apply_forward(writer, &edit, event);
    if (edit.line.fee_block != before.fee_block || edit.line.protocol_fee != before.protocol_fee ||
        psa_line_fee(&edit.line) != psa_line_fee(&before))
        psa_undo_note_fees(writer, slot, &before);
    if (result == PSA_OK) {
        edit.line.block_number = event->block_number;
        edit.line.tx_index = (uint32_t)event->tx_index;
        edit.line.log_index = (uint32_t)event->log_index;
        writer->record.event_count++;
        psa_count(writer, PSA_COUNTER_EVENTS_APPLIED, 1);
        psa_count(writer,
                  PSA_COUNTER_APPLIED + 8 * (uint32_t)writer->arena.statics[slot].protocol +
                      event->kind - PSA_EVENT_V2_SYNC,
                  1);
    } else {
        int was_sure = edit.line.unsure == 0;
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        if (was_sure) fault(writer, event, slot, result, 1);
    }
    psa_edit_end(writer, &edit);
}

/* ---- a reverted event: cross-check, or inverse where the ring does not reach ---- */

static void on_reverted(psa_writer *writer, const psa_event *event, uint32_t slot) {
    psa_arena *arena = &writer->arena;
    const psa_line *newest = &arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return;
    if (newest->unsure & PSA_UNSURE_UNREAD) return;
    /* Above the head before this series of reverts: the block was never applied, nor scraped. */
    if (writer->revert_block > writer->reverted_high && writer->revert_block > newest->scrape_block)
        return;
    int in_ring = writer->revert_known && writer->revert_block > newest->scrape_block;
    psa_edit edit;
    if (in_ring) {
        if (status != PSA_STATUS_LIVE || psa_undo_has_slot(writer, writer->revert_entry, slot)) return;
        psa_edit_begin(writer, slot, &edit);
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        psa_edit_end(writer, &edit);
        fault(writer, event, slot, PSA_REORG_MISMATCH, 1);
        return;
    }
    psa_edit_begin(writer, slot, &edit);
    psa_line *line = &edit.line;
    int result = PSA_OK;
    int price_known = !(line->unsure & (PSA_UNSURE_PRICE | PSA_UNSURE_ALL));
    switch (event->kind) {
    case PSA_EVENT_CL_LIQUIDITY:
        result = change_liquidity(writer, &edit, event, 1, price_known);
        break;
    case PSA_EVENT_V2_DELTA: result = change_reserves(line, event, 1); break;
    case PSA_EVENT_CL_SWAP: {
        int has_brought_fee = event->present & PSA_HAS_SWAP_FEE &&
                              arena->statics[slot].flags & PSA_POOL_DYNAMIC_FEE;
        psa_make_stale(writer, &edit, has_brought_fee ? PSA_UNSURE_ALL : PSA_UNSURE_PRICE);
        break;
    }
    case PSA_EVENT_V2_SYNC: psa_make_stale(writer, &edit, PSA_UNSURE_PRICE); break;
    /* What the fee was before, as with such a swap, the event does not say, nor will any epilogue. */
    case PSA_EVENT_PROTOCOL_FEE: psa_make_stale(writer, &edit, PSA_UNSURE_ALL); break;
    default: result = PSA_REORG_TOO_DEEP;
    }
    if (line->block_number >= event->block_number) { /* the branch that replaces it starts here */
        line->block_number = event->block_number - 1;
        line->tx_index = UINT32_MAX;
        line->log_index = UINT32_MAX;
    }
    if (result != PSA_OK) {
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        fault(writer, event, slot, result < PSA_POOL_NOT_FOUND ? result : PSA_REORG_TOO_DEEP, 1);
    }
    psa_edit_end(writer, &edit);
}

/* ---- an epilogue: absolute and authoritative ---- */

static void on_epilogue(psa_writer *writer, const psa_event *event, uint32_t slot) {
    const psa_slot *shared = &writer->arena.slots[slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return;
    if (newest->unsure & PSA_UNSURE_UNREAD) return;
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    psa_line before = edit.line;
    int result = PSA_INVALID_EVENT_DATA;
    if (protocol_fits(&writer->arena, slot, event))
        result = event->kind == PSA_EVENT_V2_FINAL ? set_reserves(&edit.line, event)
                                                   : set_slot0(writer, &edit.line, event);
    psa_count(writer, PSA_COUNTER_EPILOGUES, 1);
    if (result == PSA_OK) {
        int differs = memcmp(before.a, edit.line.a, sizeof(before.a)) != 0 ||
                      memcmp(before.b, edit.line.b, sizeof(before.b)) != 0 ||
                      before.sqrt_price_hi != edit.line.sqrt_price_hi ||
                      before.tick != edit.line.tick;
        /* A pool scraped on the reverted branch is not in the ring: there a difference is expected. */
        if (differs && psa_line_status(&before) == PSA_STATUS_LIVE &&
            before.base_block == before.scrape_block)
            fault(writer, event, slot, PSA_REORG_MISMATCH, 0);
        settle_price(&edit.line);
        /* Reserves are those of the new branch now, and no block of it has touched the pool. */
        if (event->kind == PSA_EVENT_V2_FINAL && edit.line.scrape_block > edit.line.base_block)
            edit.line.scrape_block = edit.line.base_block;
    } else {
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        fault(writer, event, slot, result, 1);
    }
    psa_edit_end(writer, &edit);
}

/* ---- blocks ---- */

static void on_begin(psa_writer *writer, const psa_event *event) {
    if (event->flags & PSA_EVENT_IS_REVERT) {
        psa_undo_revert(writer, event);
        return;
    }
    writer->reverted_top = 0;
    writer->reverted_high = 0;
    writer->in_revert = 0;
    writer->open_entry = 0;
    if (event->block_number > writer->record.block_number) {
        psa_undo_begin_block(writer, event);
        writer->record.block_number = event->block_number;
        writer->record.timestamp = event->timestamp;
        writer->record.base_fee = event->words[0];
        if (event->flags & PSA_EVENT_HAS_FEES && writer->record.fees_block + 1 == event->block_number)
            writer->record.fees_block = event->block_number;
        memset(writer->record.block_hash, 0, sizeof(writer->record.block_hash));
    }
    writer->pending = 1;
}

static void on_end(psa_writer *writer, const psa_event *event, uint64_t min_commit_ns) {
    if (writer->in_revert) psa_count(writer, PSA_COUNTER_BLOCKS_REVERTED, 1);
    else psa_count(writer, PSA_COUNTER_BLOCKS, 1);
    psa_undo_end_block(writer);
    writer->in_revert = 0;
    writer->record.stream_seq = event->stream_seq;
    writer->pending = 1;
    psa_commit_due(writer, min_commit_ns);
}

static int is_pool_event(const psa_event *event) {
    return event->kind >= PSA_EVENT_V2_SYNC && event->kind != PSA_EVENT_UNSUPPORTED;
}

static void on_pool_event(psa_writer *writer, const psa_event *event, uint32_t slot,
                          uint32_t only_slot) {
    if (only_slot != PSA_NO_SLOT) {
        if (slot != only_slot || event->flags & PSA_EVENT_IS_REVERT) return;
        if (event->kind == PSA_EVENT_SLOT0_FINAL || event->kind == PSA_EVENT_V2_FINAL) return;
    }
    if (slot == PSA_NO_SLOT) {
        fault(writer, event, slot, PSA_POOL_NOT_FOUND, 0);
        return;
    }
    if (event->kind == PSA_EVENT_SLOT0_FINAL || event->kind == PSA_EVENT_V2_FINAL)
        on_epilogue(writer, event, slot);
    else if (event->flags & PSA_EVENT_IS_REVERT) on_reverted(writer, event, slot);
    else on_forward(writer, event, slot);
}

static void on_unsupported(psa_writer *writer, const psa_event *event) {
    uint32_t protocol = event->protocol < 15 ? event->protocol : 15;
    int status = event->protocol <= PSA_UNISWAP_V4 ? PSA_UNSUPPORTED_EVENT_TYPE
                                                   : PSA_UNSUPPORTED_PROTOCOL;
    psa_count(writer, PSA_COUNTER_EVENTS_UNSUPPORTED, 1);
    psa_count(writer, PSA_COUNTER_UNSUPPORTED + protocol, 1);
    psa_count(writer, (uint32_t)(PSA_COUNTER_FAULTS + status - PSA_POOL_NOT_FOUND), 1);
}

static void prefetch_slab(const psa_arena *arena, const psa_line *line) {
    psa_tick_arrays arrays;
    if (line->tick_count == 0 || !psa_line_ticks(arena, line, &arrays)) return;
    uint32_t count = line->tick_count < PREFETCH_TICKS ? line->tick_count : PREFETCH_TICKS;
    for (uint32_t i = 0; i < count; i += 16) __builtin_prefetch(&arrays.ticks[i], 1);
    for (uint32_t i = 0; i < count; i += 4) {
        __builtin_prefetch(&arrays.net[2 * (size_t)i], 1);
        __builtin_prefetch(&arrays.gross[2 * (size_t)i], 1);
    }
}

/* A swap looks at the ticks around the current one. A liquidity change copies the whole slab, most often
 * into the one the older line gives back. */
static void prefetch_ticks(const psa_arena *arena, const psa_event *event, uint32_t slot) {
    const psa_slot *shared = &arena->slots[slot];
    uint32_t newest = psa_newest_line(shared);
    if (event->kind == PSA_EVENT_CL_LIQUIDITY) {
        prefetch_slab(arena, &shared->lines[newest]);
        prefetch_slab(arena, &shared->lines[1 - newest]);
    } else if (event->kind == PSA_EVENT_CL_SWAP) {
        const psa_line *line = &shared->lines[newest];
        psa_tick_arrays arrays;
        if (line->tick_count != 0 && psa_line_ticks(arena, line, &arrays))
            for (uint32_t i = 0; i < line->tick_count && i < PREFETCH_TICKS; i += 16)
                __builtin_prefetch(&arrays.ticks[i]);
    }
}

/* Events go through four stages, one batch apart, so that each stage finds in the cache what the stage
 * before asked for: hash the key; read the bucket; compare the key and look at the line; apply. */
typedef struct {
    const psa_event *events;
    uint32_t count;
    uint32_t buckets[BATCH];
    uint32_t slots[BATCH];
} batch;

static void hash_keys(const psa_arena *arena, batch *b) {
    for (uint32_t i = 0; i < b->count; i++) {
        b->buckets[i] = psa_key_bucket(arena, b->events[i].key);
        __builtin_prefetch(&arena->buckets[b->buckets[i]]);
    }
}

static void read_buckets(const psa_arena *arena, batch *b) {
    for (uint32_t i = 0; i < b->count; i++) {
        uint32_t entry = arena->buckets[b->buckets[i]];
        if (entry == 0 || entry > arena->max_pools) continue;
        const uint8_t *row = (const uint8_t *)&arena->statics[entry - 1];
        const uint8_t *slot = (const uint8_t *)&arena->slots[entry - 1];
        __builtin_prefetch(row);
        __builtin_prefetch(row + 64);
        for (int line = 0; line < 4; line++) __builtin_prefetch(slot + 64 * line, 1);
    }
}

static void find_slots(const psa_arena *arena, batch *b) {
    for (uint32_t i = 0; i < b->count; i++) {
        b->slots[i] = PSA_NO_SLOT;
        if (!is_pool_event(&b->events[i])) continue;
        if (psa_find_from(arena, b->events[i].key, b->buckets[i], &b->slots[i]) != PSA_OK)
            b->slots[i] = PSA_NO_SLOT;
        else prefetch_ticks(arena, &b->events[i], b->slots[i]);
    }
}

static void apply_batch(psa_writer *writer, const batch *b, uint64_t min_commit_ns,
                        uint32_t only_slot) {
    for (uint32_t i = 0; i < b->count; i++) {
        const psa_event *event = &b->events[i];
        if (is_pool_event(event)) {
            on_pool_event(writer, event, b->slots[i], only_slot);
            continue;
        }
        if (only_slot != PSA_NO_SLOT) continue;
        switch (event->kind) {
        case PSA_EVENT_BEGIN_BLOCK: on_begin(writer, event); break;
        case PSA_EVENT_END_BLOCK: on_end(writer, event, min_commit_ns); break;
        case PSA_EVENT_REORG_START:
            writer->in_reorg = 1;
            writer->reverted_top = 0;
            writer->reverted_high = 0;
            psa_count(writer, PSA_COUNTER_REORGS, 1);
            break;
        case PSA_EVENT_REORG_COMPLETE:
            writer->in_reorg = 0;
            writer->record.stream_seq = event->stream_seq;
            writer->pending = 1;
            psa_commit(writer);
            break;
        case PSA_EVENT_UNSUPPORTED: on_unsupported(writer, event); break;
        default: break;
        }
    }
}

/* A pool that was caught up alone has no before-images of the blocks it was caught up with, and those
 * the ring may hold are of values it had before: its values count as read at the head. */
static void rebase(psa_writer *writer, uint32_t slot) {
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    uint64_t head = writer->record.block_number;
    if (edit.line.scrape_block < head) edit.line.scrape_block = head;
    if (edit.line.base_block < head) edit.line.base_block = head;
    if (edit.line.base_block > writer->highest_base_block)
        writer->highest_base_block = edit.line.base_block;
    psa_edit_end(writer, &edit);
}

static uint32_t newest_status(const psa_arena *arena, uint32_t slot) {
    return psa_line_status(&arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])]);
}

int psa_apply(psa_writer *writer, const psa_event *events, uint64_t count, uint64_t min_commit_ns,
              uint32_t only_slot) {
    const psa_arena *arena = &writer->arena;
    batch batches[STAGES];
    if (only_slot != PSA_NO_SLOT) {
        if (only_slot >= arena->header->slots_used) return PSA_BAD_ARGUMENT;
        uint32_t status = newest_status(arena, only_slot);
        if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return PSA_POOL_REMOVED;
    }
    uint64_t total = (count + BATCH - 1) / BATCH;
    for (uint64_t step = 0; step < total + STAGES - 1; step++) {
        if (step < total) {
            batch *fresh = &batches[step % STAGES];
            fresh->events = events + step * BATCH;
            fresh->count = count - step * BATCH < BATCH ? (uint32_t)(count - step * BATCH) : BATCH;
            hash_keys(arena, fresh);
        }
        if (step >= 1 && step - 1 < total) read_buckets(arena, &batches[(step - 1) % STAGES]);
        if (step >= 2 && step - 2 < total) find_slots(arena, &batches[(step - 2) % STAGES]);
        if (step >= 3) apply_batch(writer, &batches[(step - 3) % STAGES], min_commit_ns, only_slot);
    }
    if (only_slot != PSA_NO_SLOT) rebase(writer, only_slot);
    return PSA_OK;
}

uint64_t psa_blocks_follow(const psa_event *events, uint64_t count, uint64_t tip) {
    for (uint64_t i = 0; i < count; i++) {
        const psa_event *event = &events[i];
        if (event->kind == PSA_EVENT_BEGIN_BLOCK) {
            if (event->flags & PSA_EVENT_IS_REVERT || event->block_number != tip + 1) return 0;
            tip = event->block_number;
        } else if (event->kind != PSA_EVENT_END_BLOCK && !(event->flags & PSA_EVENT_IN_BLOCK)) {
            return 0;
        }
    }
    return count == 0 ? 0 : tip;
}

/* ---- installing ---- */

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

/* Whether a line of that status has, or will have, values. */
static int is_of_a_pool(uint32_t status) {
    return status == PSA_STATUS_SYNCING || status == PSA_STATUS_LIVE || status == PSA_STATUS_STALE;
}

static void count_pool(psa_writer *writer, int by) {
    psa_header *header = writer->arena.header;
    PSA_STORE(&header->pool_count, header->pool_count + (uint64_t)(int64_t)by);
    writer->record.topology++;
    writer->pending = 1;
}

int psa_pool_install(psa_writer *writer, uint32_t slot, const psa_line *values, const int32_t *ticks,
                     const uint64_t *gross, const uint64_t *net, uint32_t count) {
    psa_arena *arena = &writer->arena;
    if (slot >= arena->header->slots_used) return PSA_BAD_ARGUMENT;
    const psa_static *row = &arena->statics[slot];
    uint32_t status = psa_line_status(values);
    if (values->unsure & PSA_UNSURE_UNREAD || !is_of_a_pool(status)) return PSA_BAD_ARGUMENT;
    uint32_t before = newest_status(arena, slot);
    if (before == PSA_STATUS_REMOVED) return PSA_POOL_REMOVED;
    if (row->protocol == PSA_UNISWAP_V2) {
        if (count != 0 || values->a[1] >> 48 || values->b[1] >> 48 || values->sqrt_price_hi != 0)
            return PSA_INVALID_EVENT_DATA;
    } else {
        if (!psa_price_fits(values) || row->tick_spacing <= 0 ||
            !ticks_consistent(values, row->tick_spacing, ticks, gross, net, count))
            return PSA_INVALID_EVENT_DATA;
    }
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    psa_line *line = &edit.line;
    psa_line saved = *line;
    line->tick = values->tick;
    int result = psa_ticks_replace(writer, &edit, ticks, gross, net, count);
    if (result != PSA_OK) {
        *line = saved;
        psa_edit_end(writer, &edit);
        return result;
    }
    line->sqrt_price_hi = values->sqrt_price_hi;
    memcpy(line->a, values->a, sizeof(line->a));
    memcpy(line->b, values->b, sizeof(line->b));
    line->fee_status = values->fee_status;
    line->block_number = 0;
    line->tx_index = 0;
    line->log_index = 0;
    line->base_block = values->base_block;
    line->scrape_block = values->base_block;
    line->protocol_fee = values->protocol_fee;
    line->unsure = values->unsure;
    line->fee_block = values->fee_block;
    line->generation = row->generation;
    psa_line_set_status(line, status);
    if (line->base_block > writer->highest_base_block) writer->highest_base_block = line->base_block;
    psa_edit_end(writer, &edit);
    if (before == PSA_STATUS_ABSENT) count_pool(writer, 1);
    return PSA_OK;
}

int psa_pool_announce(psa_writer *writer, uint32_t slot) {
    psa_arena *arena = &writer->arena;
    if (slot >= arena->header->slots_used) return PSA_BAD_ARGUMENT;
    uint32_t status = newest_status(arena, slot);
    if (status == PSA_STATUS_REMOVED) return PSA_POOL_REMOVED;
    if (status != PSA_STATUS_ABSENT) return PSA_BAD_ARGUMENT;
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    psa_line empty = {.stamp = edit.line.stamp, .unsure = PSA_UNSURE_UNREAD};
    empty.generation = arena->statics[slot].generation;
    psa_line_set_status(&empty, PSA_STATUS_SYNCING);
    edit.line = empty;
    psa_edit_end(writer, &edit);
    count_pool(writer, 1);
    return PSA_OK;
}

int psa_pool_remove(psa_writer *writer, uint32_t slot) {
    psa_arena *arena = &writer->arena;
    if (slot >= arena->header->slots_used) return PSA_BAD_ARGUMENT;
    uint32_t status = newest_status(arena, slot);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return PSA_BAD_ARGUMENT;
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    uint32_t own = edit.line.slab != edit.shared_slab ? edit.line.slab : 0;
    psa_line gone = {.stamp = edit.line.stamp, .generation = edit.line.generation};
    psa_line_set_status(&gone, PSA_STATUS_REMOVED);
    edit.line = gone;
    psa_edit_end(writer, &edit);
    if (own != 0) psa_slab_free(writer, own);
    count_pool(writer, -1);
    return PSA_OK;
}

static void set_status(psa_writer *writer, uint32_t slot, uint32_t status, uint32_t unsure) {
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    if (status == PSA_STATUS_STALE) psa_make_stale(writer, &edit, unsure);
    else {
        psa_line_set_status(&edit.line, status);
        edit.line.unsure = (uint8_t)unsure;
    }
    psa_edit_end(writer, &edit);
}

int psa_pool_set_status(psa_writer *writer, uint32_t slot, uint32_t status, uint32_t unsure) {
    const psa_arena *arena = &writer->arena;
    if (slot >= arena->header->slots_used || !is_of_a_pool(status)) return PSA_BAD_ARGUMENT;
    const psa_slot *shared = &arena->slots[slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    if (!is_of_a_pool(psa_line_status(newest)) || newest->unsure & PSA_UNSURE_UNREAD)
        return PSA_BAD_ARGUMENT;
    set_status(writer, slot, status, unsure);
    return PSA_OK;
}

int psa_pool_set_protocol_fee(psa_writer *writer, uint32_t slot, uint64_t protocol_fee,
                              uint64_t block_number) {
    const psa_arena *arena = &writer->arena;
    if (slot >= arena->header->slots_used || arena->statics[slot].protocol != PSA_UNISWAP_V4)
        return PSA_BAD_ARGUMENT;
    const psa_slot *shared = &arena->slots[slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    if (!is_of_a_pool(psa_line_status(newest)) || newest->unsure & PSA_UNSURE_UNREAD)
        return PSA_BAD_ARGUMENT;
    if (newest->fee_block >= block_number) return PSA_OK;
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    psa_event told = {.block_number = block_number, .words = {protocol_fee}};
    int status = set_protocol_fee(&edit.line, &told);
    psa_edit_end(writer, &edit);
    return status;
}

int psa_set_status_all(psa_writer *writer, uint32_t from, uint32_t to, uint32_t unsure) {
    psa_arena *arena = &writer->arena;
    if (!is_of_a_pool(from) || !is_of_a_pool(to)) return PSA_BAD_ARGUMENT;
    for (uint32_t slot = 0; slot < arena->header->slots_used; slot++) {
        const psa_slot *shared = &arena->slots[slot];
        const psa_line *newest = &shared->lines[psa_newest_line(shared)];
        if (psa_line_status(newest) != from) continue;
        if (newest->unsure & PSA_UNSURE_UNREAD) continue;
        set_status(writer, slot, to, unsure);
    }
    return PSA_OK;
}

int psa_undo_clear(psa_writer *writer) {
    writer->record.undo_top = 0;
    writer->pending = 1;
    return PSA_OK;
}
