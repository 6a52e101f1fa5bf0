/* index.c: pool key to slot, open addressing with linear probing, at most half full of pools.
 *
 * A bucket holds slot + 1 and is stored with release after the static row it leads to, so whoever finds
 * the slot sees the row. A removed pool's key leads to its slot, whose line says that it is gone, until
 * the slot is given to another key; its bucket is then marked as passed over, or empty again when no
 * key's search comes by. Keys that stay are never moved, so a search that runs meanwhile misses none.
 *
 * A row is rewritten only after a removal was committed, with the slot's older line already stamped by
 * the open commit (W1, W2 in versions.c): whoever reads a row inside a read section of a line that named
 * it notices at R3. A row read on its own is between two looks at its generation, which is 0 meanwhile:
 *
 * G1  generation := 0, relaxed; release fence; the row's words, relaxed; the new generation, release.
 * G2  generation, acquire; words, relaxed; acquire fence; generation again, relaxed. Had one word been of
 *     a later row, the fences would show the 0, or what follows it, here.
 *
 * Generations of a slot never return, not even those a dead writer gave and nobody committed: a
 * reference that once was good leads to its pool or to none.
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
            uint32_t generation = PSA_LOAD_ACQUIRE(&row->generation); /* G2 */
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

static int read_row(const psa_static *row, uint32_t generation, psa_static *copy) {
    const uint32_t *from = (const uint32_t *)(const void *)row;
    uint32_t *to = (uint32_t *)(void *)copy;
    uint32_t found = PSA_LOAD_ACQUIRE(&from[GENERATION_WORD]); /* G2 */
    if (found == 0 || (generation != 0 && found != generation)) return PSA_POOL_REMOVED;
    for (size_t i = 0; i < ROW_WORDS; i++) to[i] = PSA_LOAD(&from[i]);
    PSA_FENCE_ACQUIRE();
    return PSA_LOAD(&from[GENERATION_WORD]) == found ? PSA_OK : PSA_POOL_REMOVED;
}

int psa_rows_read(const psa_arena *arena, const uint64_t *pools, uint32_t count, psa_static *rows,
                  uint32_t *failed) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)pools[i];
        int status = PSA_BAD_ARGUMENT;
        if (slot < arena->max_pools)
            status = read_row(&arena->statics[slot], (uint32_t)(pools[i] >> 32), &rows[i]);
        if (status != PSA_OK) {
            *failed = i;
            return status;
        }
    }
    return PSA_OK;
}

/* A key as text, with a line end; null when the row is of another generation. */
static char *put_key(char *text, const psa_static *row, uint32_t generation) {
    static const char digits[16] = "0123456789abcdef";
    const uint64_t *words = (const uint64_t *)(const void *)row->key;
    uint64_t key[4];
    uint32_t found = PSA_LOAD_ACQUIRE(&row->generation); /* G2 */
    for (int i = 0; i < 4; i++) key[i] = PSA_LOAD(&words[i]);
    uint32_t nbytes = PSA_LOAD(&row->key_nbytes);
    PSA_FENCE_ACQUIRE();
    if (found == 0 || (generation != 0 && found != generation) || PSA_LOAD(&row->generation) != found)
        return NULL;
    const uint8_t *bytes = (const uint8_t *)key;
    if (nbytes > sizeof(key)) nbytes = sizeof(key);
    *text++ = '0';
    *text++ = 'x';
    for (uint32_t i = 0; i < nbytes; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 15];
    }
    *text++ = '\n';
    return text;
}

int psa_keys_read(const psa_arena *arena, const uint64_t *pools, uint32_t count, char *text,
                  uint64_t *nbytes) {
    char *end = text;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)pools[i];
        if (i + 8 < count && (uint32_t)pools[i + 8] < arena->max_pools) {
            const uint8_t *ahead = (const uint8_t *)&arena->statics[(uint32_t)pools[i + 8]];
            __builtin_prefetch(ahead);
            __builtin_prefetch(ahead + 64);
        }
        if (slot >= arena->max_pools) return PSA_BAD_ARGUMENT;
        end = put_key(end, &arena->statics[slot], (uint32_t)(pools[i] >> 32));
        if (end == NULL) return PSA_POOL_REMOVED;
    }
    *nbytes = (uint64_t)(end - text);
    return PSA_OK;
}

static void enter(psa_arena *arena, const uint8_t *key, uint32_t slot) {
    uint32_t bucket = psa_key_bucket(arena, key);
    while (arena->buckets[bucket] != 0 && arena->buckets[bucket] != PSA_BUCKET_PASSED)
        bucket = (bucket + 1) & arena->bucket_mask;
    PSA_STORE_RELEASE(&arena->buckets[bucket], slot + 1);
}

/* Go down `count` buckets from `last` and empty the passed ones which no key behind them needs: `needed`
 * more must stay for a key seen already. `last` is followed by an empty bucket, or the first `quiet` ones
 * are only looked at. Without this a table that stays full while its keys change has no empty bucket left
 * in the end, and each search for an unknown key visits all of them. */
static void clean(psa_arena *arena, uint32_t last, uint32_t quiet, uint32_t count) {
    uint32_t mask = arena->bucket_mask, needed = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bucket = (last - i) & mask, entry = arena->buckets[bucket];
        if (entry != 0 && entry != PSA_BUCKET_PASSED) {
            uint32_t way = (bucket - psa_key_bucket(arena, arena->statics[entry - 1].key)) & mask;
            needed = needed > way + 1 ? needed - 1 : way;
        } else if (needed != 0) {
            needed--;
        } else if (i >= quiet) {
            PSA_STORE_RELEASE(&arena->buckets[bucket], 0);
        }
    }
}

/* A writer that died in the middle may have left a slot without a bucket: nothing to do then. */
static void leave(psa_arena *arena, const uint8_t *key, uint32_t slot) {
    uint32_t mask = arena->bucket_mask, first = psa_key_bucket(arena, key), bucket = first;
    for (uint32_t probes = 0; arena->buckets[bucket] != slot + 1; probes++) {
        if (arena->buckets[bucket] == 0 || probes > mask) return;
        bucket = (bucket + 1) & mask;
    }
    PSA_STORE_RELEASE(&arena->buckets[bucket], PSA_BUCKET_PASSED);
    uint32_t last = bucket;
    while (arena->buckets[(last + 1) & mask] != 0) {
        last = (last + 1) & mask;
        if (last == bucket) { /* none is empty: once around to know what is needed, once to empty */
            clean(arena, last, mask + 1, 2 * (mask + 1));
            return;
        }
    }
    clean(arena, last, 0, ((last - first) & mask) + 1);
}

/* Fill a row whose generation readers do not trust yet. */
static void write_row(psa_static *target, const psa_static *row, uint32_t generation) {
    psa_static fresh = *row;
    fresh.token_count = 2;
    memset(fresh.more_tokens, 0, sizeof(fresh.more_tokens));
    fresh.reserved0 = 0;
    const uint32_t *from = (const uint32_t *)(const void *)&fresh;
    uint32_t *to = (uint32_t *)(void *)target;
    PSA_STORE(&target->generation, 0); /* G1 */
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

/* Slot generations begin here: 20 bits a slot for each arena made from nothing or from an image, so that
 * a reference of the one before leads nowhere in the next. */
static uint32_t generation_floor(const psa_header *header) {
    return (uint32_t)((header->origin - 1) & 0xfff) << 20;
}

/* The next generation of a slot: above all that were ever seen in it. A row of generation 0 is one its
 * writer died over, while it stored the generation that follows. */
static uint32_t next_generation(const psa_arena *arena, uint32_t slot) {
    uint32_t highest = generation_floor(arena->header), own = arena->statics[slot].generation;
    if (own > highest) highest = own;
    for (int which = 0; which < 2; which++) {
        uint32_t used = arena->slots[slot].lines[which].generation + (own == 0);
        if (used > highest) highest = used;
    }
    return highest + 1;
}

/* Give the slot of a removed pool to `row`'s, in the open commit: whatever its line says until it is
 * installed, it is nobody's any more. */
static void use_again(psa_writer *writer, uint32_t slot, const psa_static *row, int other_key) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    uint32_t generation = next_generation(arena, slot);
    psa_edit edit;
    /* Before W2: a reader that misses a key for this finds it counted. */
    PSA_STORE(&header->reused, header->reused + 1);
    psa_edit_begin(writer, slot, &edit);
    if (other_key) leave(arena, arena->statics[slot].key, slot);
    write_row(&arena->statics[slot], row, generation);
    edit.line.generation = generation;
    psa_line_set_status(&edit.line, PSA_STATUS_ABSENT);
    psa_edit_end(writer, &edit);
}

/* Nothing is believed of what lies in a slot that was never given out. */
static void empty_slot(psa_slot *slot) {
    uint64_t *words = (uint64_t *)(void *)slot;
    for (size_t i = 0; i < sizeof(*slot) / sizeof(*words); i++) PSA_STORE(&words[i], 0);
}

int psa_pool_add(psa_writer *writer, const psa_static *row, uint32_t *slot) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    if (psa_find_from(arena, row->key, psa_key_bucket(arena, row->key), slot) == PSA_OK) {
        if (psa_newest_status(arena, *slot) != PSA_STATUS_REMOVED) return PSA_OK;
        const psa_slot *shared = &arena->slots[*slot];
        if (shared->lines[psa_newest_line(shared)].stamp == writer->next_commit) return PSA_BAD_ARGUMENT;
        use_again(writer, *slot, row, 0);
        return PSA_OK;
    }
    if (header->slots_used < arena->max_pools) {
        *slot = header->slots_used;
        empty_slot(&arena->slots[*slot]);
        write_row(&arena->statics[*slot], row, generation_floor(header) + 1);
        PSA_STORE_RELEASE(&header->slots_used, *slot + 1);
    } else {
        *slot = removed_slot(writer);
        if (*slot == PSA_NO_SLOT) return PSA_FULL_POOLS;
        use_again(writer, *slot, row, 1);
    }
    enter(arena, row->key, *slot);
    return PSA_OK;
}

int psa_pool_find(const psa_writer *writer, const uint8_t *key, uint32_t *slot) {
    const psa_arena *arena = &writer->arena;
    int status = psa_find_from(arena, key, psa_key_bucket(arena, key), slot);
    if (status == PSA_OK && psa_newest_status(arena, *slot) == PSA_STATUS_REMOVED) return PSA_UNKNOWN_POOL;
    return status;
}

/* Readers see neither status, so the lines may be changed where they are. */
int psa_slots_reclaim(psa_writer *writer) {
    psa_arena *arena = &writer->arena;
    for (uint32_t slot = 0; slot < arena->header->slots_used; slot++) {
        psa_static *row = &arena->statics[slot];
        psa_slot *shared = &arena->slots[slot];
        psa_line *line = &shared->lines[psa_newest_line(shared)];
        uint32_t status = psa_line_status(line), found;
        if (status != PSA_STATUS_ABSENT && status != PSA_STATUS_REMOVED) continue;
        if (status == PSA_STATUS_ABSENT) {
            if (row->generation > line->generation) PSA_STORE(&line->generation, row->generation);
            PSA_STORE(&line->fee_status, (uint32_t)PSA_STATUS_REMOVED << 24);
        }
        /* A row no bucket leads to is nobody's: the key may have another slot. */
        if (psa_find_from(arena, row->key, psa_key_bucket(arena, row->key), &found) != PSA_OK ||
            found != slot)
            PSA_STORE(&row->generation, 0);
    }
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

/* Rows have a bucket, or generation 0: see psa_slots_reclaim. */
void psa_index_rebuild(psa_writer *writer) {
    psa_arena *arena = &writer->arena;
    for (uint32_t slot = 0; slot < arena->header->slots_used; slot++)
        if (arena->statics[slot].generation != 0) enter(arena, arena->statics[slot].key, slot);
}
