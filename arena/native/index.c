/* index.c: pool key to slot, open addressing with linear probing, at most half full.
 *
 * A bucket holds slot + 1 and is stored with release after the static row it leads to, so whoever finds
 * the slot sees the row. Rows are immutable while their pool exists. Entries are never taken out: a
 * removed pool's key leads to its slot, whose line says that it is gone.
 */
#include "index.h"

#include <string.h>

int psa_find(const psa_arena *arena, const uint8_t *key, uint32_t *slot) {
    return psa_find_from(arena, key, psa_key_bucket(arena, key), slot);
}

uint32_t psa_find_many(const psa_arena *arena, const uint8_t *keys, uint32_t count, uint32_t *slots) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i + 4 < count)
            __builtin_prefetch(&arena->buckets[psa_key_bucket(arena, keys + 32 * (size_t)(i + 4))]);
        if (psa_find(arena, keys + 32 * (size_t)i, &slots[i]) == PSA_OK) found++;
        else slots[i] = PSA_NO_SLOT;
    }
    return found;
}

int psa_pool_add(psa_writer *writer, const psa_static *row, uint32_t *slot) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    if (psa_find(arena, row->key, slot) == PSA_OK) return PSA_OK;
    if (header->slots_used >= arena->max_pools) return PSA_FULL_POOLS;
    *slot = header->slots_used;
    psa_static *target = &arena->statics[*slot];
    memcpy(target, row, sizeof(*target));
    target->generation = 1;
    target->reserved0 = 0;
    memset(target->reserved1, 0, sizeof(target->reserved1));
    PSA_STORE_RELEASE(&header->slots_used, *slot + 1);
    uint32_t bucket = psa_key_bucket(arena, row->key);
    while (arena->buckets[bucket] != 0) bucket = (bucket + 1) & arena->bucket_mask;
    PSA_STORE_RELEASE(&arena->buckets[bucket], *slot + 1);
    PSA_STORE_RELEASE(&header->topology, header->topology + 1);
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
