/* index.c: pool key to slot, open addressing with linear probing, at most half full of pools.
 *
 * A bucket holds slot + 1 and is stored with release after the static row it leads to, so whoever finds
 * the slot sees the row. A removed pool's key leads to its slot, whose line says that it is gone, until
 * the slot is given to another key; its bucket is then marked as passed over, or empty again when the
 * next one is.
 *
 * A row is rewritten only after a removal was committed, with the slot's older line already stamped by
 * the open commit (W1, W2 in versions.c): whoever reads a row inside a read section of a line that named
 * it notices at R3. A row read on its own is between two looks at its generation, which is 0 meanwhile.
 */
#include "index.h"

#include "writer.h"

#include <string.h>

#define ROW_WORDS (sizeof(psa_static) / sizeof(uint32_t))
#define GENERATION_WORD (offsetof(psa_static, generation) / sizeof(uint32_t))

int psa_find(const psa_arena *arena, const uint8_t *key, uint64_t *pool) {
    uint64_t wanted[4];
    memcpy(wanted, key, sizeof(wanted));
    uint32_t bucket = psa_key_bucket(arena, key);
    for (uint32_t probes = 0; probes <= arena->bucket_mask; probes++) {
        uint32_t entry = PSA_LOAD_ACQUIRE(&arena->buckets[bucket]);
        if (entry == 0) return PSA_UNKNOWN_POOL;
        if (entry <= arena->max_pools) {
            const psa_static *row = &arena->statics[entry - 1];
            const uint64_t *words = (const uint64_t *)(const void *)row->key;
            uint32_t generation = PSA_LOAD_ACQUIRE(&row->generation);
            uint64_t differs = 0;
            for (int i = 0; i < 4; i++) differs |= PSA_LOAD(&words[i]) ^ wanted[i];
            PSA_FENCE_ACQUIRE();
            if (differs == 0 && generation != 0 && PSA_LOAD(&row->generation) == generation) {
                *pool = (uint64_t)generation << 32 | (entry - 1);
                return PSA_OK;
            }
        }
        bucket = (bucket + 1) & arena->bucket_mask;
    }
    return PSA_UNKNOWN_POOL;
}

uint32_t psa_find_many(const psa_arena *arena, const uint8_t *keys, uint32_t count, uint64_t *pools) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i + 4 < count)
            __builtin_prefetch(&arena->buckets[psa_key_bucket(arena, keys + 32 * (size_t)(i + 4))]);
        if (psa_find(arena, keys + 32 * (size_t)i, &pools[i]) == PSA_OK) found++;
        else pools[i] = PSA_NO_SLOT;
    }
    return found;
}

int psa_static_read(const psa_arena *arena, uint32_t slot, uint32_t generation, psa_static *row) {
    if (slot >= arena->max_pools) return PSA_BAD_ARGUMENT;
    const uint32_t *from = (const uint32_t *)(const void *)&arena->statics[slot];
    uint32_t *to = (uint32_t *)(void *)row;
    if (PSA_LOAD_ACQUIRE(&from[GENERATION_WORD]) != generation) return PSA_POOL_REMOVED;
    for (size_t i = 0; i < ROW_WORDS; i++) to[i] = PSA_LOAD(&from[i]);
    PSA_FENCE_ACQUIRE();
    return PSA_LOAD(&from[GENERATION_WORD]) == generation ? PSA_OK : PSA_POOL_REMOVED;
}

static void enter(psa_arena *arena, const uint8_t *key, uint32_t slot) {
    uint32_t bucket = psa_key_bucket(arena, key);
    while (arena->buckets[bucket] != 0 && arena->buckets[bucket] != PSA_BUCKET_PASSED)
        bucket = (bucket + 1) & arena->bucket_mask;
    PSA_STORE_RELEASE(&arena->buckets[bucket], slot + 1);
}

/* A writer that died in the middle may have left a slot without a bucket: nothing to do then. */
static void leave(psa_arena *arena, const uint8_t *key, uint32_t slot) {
    uint32_t mask = arena->bucket_mask, bucket = psa_key_bucket(arena, key);
    for (uint32_t probes = 0; arena->buckets[bucket] != slot + 1; probes++) {
        if (arena->buckets[bucket] == 0 || probes > mask) return;
        bucket = (bucket + 1) & mask;
    }
    PSA_STORE_RELEASE(&arena->buckets[bucket], PSA_BUCKET_PASSED);
    if (arena->buckets[(bucket + 1) & mask] != 0) return;
    while (arena->buckets[bucket] == PSA_BUCKET_PASSED) {
        PSA_STORE_RELEASE(&arena->buckets[bucket], 0);
        bucket = (bucket + mask) & mask;
    }
}

/* Fill a row whose generation readers do not trust yet. */
static void write_row(psa_static *target, const psa_static *row, uint32_t generation) {
    psa_static fresh = *row;
    fresh.reserved0 = 0;
    memset(fresh.reserved1, 0, sizeof(fresh.reserved1));
    const uint32_t *from = (const uint32_t *)(const void *)&fresh;
    uint32_t *to = (uint32_t *)(void *)target;
    PSA_STORE(&target->generation, 0);
    PSA_FENCE_RELEASE();
    for (size_t i = 0; i < ROW_WORDS; i++)
        if (i != GENERATION_WORD) PSA_STORE(&to[i], from[i]);
    PSA_STORE_RELEASE(&target->generation, generation);
}

/* The slot whose pool was removed longest ago, by a committed removal; PSA_NO_SLOT when there is none. */
static uint32_t removed_slot(const psa_writer *writer) {
    const psa_arena *arena = &writer->arena;
    uint32_t found = PSA_NO_SLOT;
    uint64_t oldest = writer->next_commit;
    for (uint32_t slot = 0; slot < arena->header->slots_used; slot++) {
        const psa_line *line = &arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])];
        if (psa_line_status(line) != PSA_STATUS_REMOVED || line->stamp >= oldest) continue;
        oldest = line->stamp;
        found = slot;
    }
    return found;
}

/* Give the slot of a removed pool to `row`'s, in the open commit. */
static void use_again(psa_writer *writer, uint32_t slot, const psa_static *row) {
    psa_arena *arena = &writer->arena;
    psa_static *target = &arena->statics[slot];
    uint32_t generation = target->generation; /* 0: a writer died while it used the next one */
    uint32_t highest = generation == 0 ? 1 : generation;
    for (int which = 0; which < 2; which++) {
        uint32_t used = arena->slots[slot].lines[which].generation + (generation == 0);
        if (used > highest) highest = used;
    }
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    if (memcmp(target->key, row->key, sizeof(target->key)) != 0 || generation == 0)
        leave(arena, target->key, slot);
    write_row(target, row, highest + 1);
    edit.line.generation = highest + 1;
    psa_edit_end(writer, &edit);
}

int psa_pool_add(psa_writer *writer, const psa_static *row, uint32_t *slot) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    if (psa_find_from(arena, row->key, psa_key_bucket(arena, row->key), slot) == PSA_OK) {
        const psa_line *line = &arena->slots[*slot].lines[psa_newest_line(&arena->slots[*slot])];
        if (psa_line_status(line) != PSA_STATUS_REMOVED) return PSA_OK;
        if (line->stamp == writer->next_commit) { /* used again just now, or removed just now */
            const psa_line *before = &arena->slots[*slot].lines[1 - psa_newest_line(&arena->slots[*slot])];
            return psa_line_status(before) == PSA_STATUS_REMOVED ? PSA_OK : PSA_BAD_ARGUMENT;
        }
        use_again(writer, *slot, row);
        return PSA_OK;
    }
    if (header->slots_used < arena->max_pools) {
        *slot = header->slots_used;
        write_row(&arena->statics[*slot], row, 1);
        PSA_STORE_RELEASE(&header->slots_used, *slot + 1);
    } else {
        *slot = removed_slot(writer);
        if (*slot == PSA_NO_SLOT) return PSA_FULL_POOLS;
        use_again(writer, *slot, row);
    }
    enter(arena, row->key, *slot);
    return PSA_OK;
}

int psa_token_add(psa_writer *writer, const psa_token *token, uint32_t *index) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    for (uint32_t i = 0; i < header->tokens_used; i++)
        if (memcmp(arena->tokens[i].address, token->address, sizeof(token->address)) == 0) {
            *index = i;
            return PSA_OK;
        }
    if (header->tokens_used >= arena->max_tokens) return PSA_FULL_TOKENS;
    *index = header->tokens_used;
    memcpy(&arena->tokens[*index], token, sizeof(*token));
    PSA_STORE_RELEASE(&header->tokens_used, *index + 1);
    return PSA_OK;
}

void psa_index_rebuild(psa_writer *writer) {
    psa_arena *arena = &writer->arena;
    for (uint32_t slot = 0; slot < arena->header->slots_used; slot++) {
        const psa_line *line = &arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])];
        if (psa_line_status(line) != PSA_STATUS_ABSENT) enter(arena, arena->statics[slot].key, slot);
    }
}
