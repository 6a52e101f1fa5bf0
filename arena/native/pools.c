/* pools.c: pools installed, announced, removed, and their status. */
#include "protocols.h"

#include <string.h>

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
    uint32_t before = psa_newest_status(arena, slot);
    if (before == PSA_STATUS_REMOVED) return PSA_POOL_REMOVED;
    if (!psa_families[psa_family_of(row->protocol)].admits(row, values, ticks, gross, net, count))
        return PSA_INVALID_EVENT_DATA;
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
    uint32_t status = psa_newest_status(arena, slot);
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
    uint32_t status = psa_newest_status(arena, slot);
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
    int status = psa_cl_set_protocol_fee(&edit.line, &told);
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
