/* check.c: whether a writer can go on from what lies in a segment.
 *
 * The rest of the writer believes the segment, for nobody but a writer writes to it: offsets, counts and
 * links are not looked at again on each use. So all of them are looked at here, once, before the first
 * change. What passes leads no writer outside the mapping, into an endless loop or past a table's end,
 * whatever the events that follow; values that no check can tell from right ones (a reserve, a price
 * within its range) are not the question.
 *
 * A writer killed at any instant leaves what passes. Lines stamped above the last commit and undo
 * entries above its head are its unfinished work and are not looked at: they are dropped or overwritten
 * before they are used. Rows may be half-written, from words of two good rows.
 */
#include "index.h"
#include "protocols.h"
#include "tick_math.h"

#include <string.h>

#define NUMBER_LIMIT (UINT64_C(1) << 62) /* of commits, undo numbers, changes: no sum of two wraps */
#define BLOCK_LIMIT (UINT64_C(1) << 63)

static int check_header(psa_writer *writer) {
    const psa_arena *arena = &writer->arena;
    const psa_header *header = arena->header;
    if (header->slots_used > arena->max_pools)
        return psa_damaged(writer, "slots in use", header->slots_used);
    if (header->tokens_used > arena->max_tokens)
        return psa_damaged(writer, "tokens in use", header->tokens_used);
    if (header->heap_top < 64 || header->heap_top % 64 != 0 || header->heap_top > arena->heap_nbytes)
        return psa_damaged(writer, "end of the tick slabs", header->heap_top);
    if (header->superseded != 0)
        return psa_damaged(writer, "mark of an old generation", header->superseded);
    if (header->committed >= NUMBER_LIMIT || header->undo_entry_reserved >= NUMBER_LIMIT ||
        header->undo_record_reserved >= NUMBER_LIMIT || header->change_reserved >= NUMBER_LIMIT ||
        header->slab_serial >= NUMBER_LIMIT)
        return psa_damaged(writer, "count of commits", header->committed);
    if (!psa_changes_fit(arena)) return psa_damaged(writer, "ring of changes at commit", header->committed);
    if (header->committed == 0) return PSA_OK;
    const psa_commit_record *record = &header->commits[header->committed & 1];
    if (record->stamp != header->committed || record->block_number >= BLOCK_LIMIT)
        return psa_damaged(writer, "record of commit", header->committed);
    if (record->undo_entry_head > header->undo_entry_reserved ||
        record->undo_record_head > header->undo_record_reserved ||
        record->undo_top > record->undo_entry_head)
        return psa_damaged(writer, "undo ring of commit", header->committed);
    return PSA_OK;
}

static int row_fits(const psa_arena *arena, const psa_static *row) {
    return row->token0 < arena->max_tokens && row->token1 < arena->max_tokens && row->token_count == 2 &&
           psa_family_of(row->protocol) != PSA_FAMILY_NONE && row->key_nbytes <= sizeof(row->key) &&
           row->generation <= UINT32_MAX - 2; /* each use of a slot takes the next one */
}

/* A line readers or the next commit may start from. */
static int line_fits(const psa_arena *arena, const psa_line *line) {
    psa_tick_arrays arrays;
    return (uint64_t)line->slab * 64 < arena->header->heap_top &&
           psa_line_arrays(arena, line, &arrays) && line->block_number < BLOCK_LIMIT &&
           line->base_block < BLOCK_LIMIT && line->scrape_block < BLOCK_LIMIT &&
           line->generation <= UINT32_MAX - 2;
}

/* The line the next commit starts from. */
static int base_fits(const psa_arena *arena, uint32_t slot, const psa_line *line) {
    const psa_static *row = &arena->statics[slot];
    uint32_t status = psa_line_status(line);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return line->slab == 0;
    if (status > PSA_STATUS_REMOVED || line->stamp == 0 || line->generation != row->generation) return 0;
    if (line->unsure & PSA_UNSURE_UNREAD) return line->slab == 0;
    return psa_families[psa_family_of(row->protocol)].fits(arena, row, line);
}

static int check_slots(psa_writer *writer) {
    const psa_arena *arena = &writer->arena;
    const psa_header *header = arena->header;
    for (uint32_t i = 0; i < header->tokens_used; i++)
        if (arena->tokens[i].symbol_nbytes > sizeof(arena->tokens[i].symbol))
            return psa_damaged(writer, "token", i);
    for (uint32_t slot = 0; slot < header->slots_used; slot++) {
        const psa_line *lines = arena->slots[slot].lines;
        if (!row_fits(arena, &arena->statics[slot])) return psa_damaged(writer, "static row", slot);
        int counts[2];
        for (int which = 0; which < 2; which++) {
            counts[which] = lines[which].stamp <= header->committed;
            if (counts[which] && !line_fits(arena, &lines[which]))
                return psa_damaged(writer, "version line of slot", slot);
            if (lines[which].stamp == 0 && lines[which].slab != 0)
                return psa_damaged(writer, "version line of slot", slot);
        }
        if (!counts[0] && !counts[1]) return psa_damaged(writer, "version line of slot", slot);
        uint32_t base = !counts[0] || (counts[1] && lines[1].stamp > lines[0].stamp);
        if (counts[0] && counts[1] && lines[0].stamp != 0 && lines[0].stamp == lines[1].stamp)
            return psa_damaged(writer, "version line of slot", slot);
        if (!base_fits(arena, slot, &lines[base]))
            return psa_damaged(writer, "newest version of slot", slot);
    }
    return PSA_OK;
}

/* Whether a search for the key of the slot named by a bucket ends there and not before. */
static int is_found(const psa_arena *arena, uint32_t bucket) {
    const uint8_t *key = arena->statics[arena->buckets[bucket] - 1].key;
    for (uint32_t at = psa_key_bucket(arena, key); at != bucket; at = (at + 1) & arena->bucket_mask) {
        uint32_t entry = arena->buckets[at];
        if (entry == 0) return 0;
        if (entry <= arena->max_pools && memcmp(arena->statics[entry - 1].key, key, 32) == 0) return 0;
    }
    return 1;
}

static int check_index(psa_writer *writer) {
    const psa_arena *arena = &writer->arena;
    const psa_header *header = arena->header;
    for (uint32_t bucket = 0; bucket <= arena->bucket_mask; bucket++) {
        uint32_t entry = arena->buckets[bucket];
        if (entry == 0 || entry == PSA_BUCKET_PASSED) continue;
        if (entry > header->slots_used || !is_found(arena, bucket))
            return psa_damaged(writer, "bucket of the key index", bucket);
    }
    for (uint32_t slot = 0; slot < header->slots_used; slot++) {
        const psa_line *lines = arena->slots[slot].lines;
        const uint8_t *key = arena->statics[slot].key;
        uint32_t found;
        uint32_t base = lines[0].stamp > header->committed ||
                        (lines[1].stamp <= header->committed && lines[1].stamp > lines[0].stamp);
        uint32_t status = psa_line_status(&lines[base]);
        if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) continue;
        if (psa_find_from(arena, key, psa_key_bucket(arena, key), &found) != PSA_OK || found != slot)
            return psa_damaged(writer, "key index of slot", slot);
    }
    return PSA_OK;
}

static int record_fits(const psa_arena *arena, const psa_undo_record *record, uint64_t seq) {
    if (record->entry_seq != seq || record->slot >= arena->header->slots_used) return 0;
    if (record->kind == 0 || record->kind > PSA_LAST_UNDO_KIND) return 0;
    if (record->kind == PSA_UNDO_FEES) return 1;
    if (record->tick < PSA_MIN_TICK || record->tick > PSA_MAX_TICK) return 0;
    const psa_static *row = &arena->statics[record->slot];
    return record->kind != PSA_UNDO_TICK || record->generation != row->generation ||
           !psa_has_reserves(row->protocol);
}

static int check_undo(psa_writer *writer) {
    const psa_arena *arena = &writer->arena;
    const psa_header *header = arena->header;
    if (header->committed == 0) return PSA_OK;
    const psa_commit_record *head = &header->commits[header->committed & 1];
    const psa_undo_entry *entry;
    for (uint64_t seq = head->undo_top; (entry = psa_undo_entry_of(arena, seq)) != NULL;
         seq = entry->prev) {
        if (entry->block_number >= BLOCK_LIMIT ||
            entry->first_record + entry->record_count > head->undo_record_head)
            return psa_damaged(writer, "undo entry", seq);
        for (uint64_t i = 0; i < entry->record_count; i++) {
            uint64_t number = entry->first_record + i;
            if (!record_fits(arena, &arena->undo_records[number % arena->undo_record_count], seq))
                return psa_damaged(writer, "undo record", number);
        }
    }
    return PSA_OK;
}

int psa_check(psa_writer *writer) {
    int status = check_header(writer);
    if (status == PSA_OK) status = check_slots(writer);
    if (status == PSA_OK) status = check_index(writer);
    if (status == PSA_OK) status = check_undo(writer);
    return status;
}
