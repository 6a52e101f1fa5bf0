/* The hash both sides of the key index use, and the writer's search. */
#ifndef PSA_INDEX_H
#define PSA_INDEX_H

#include "arena.h"
#include "atomics.h"

#include <string.h>

/* Keys are addresses and hashes; multiply-and-fold spreads vanity prefixes too. */
static inline uint32_t psa_key_bucket(const psa_arena *arena, const uint8_t *key) {
    uint64_t words[4];
    memcpy(words, key, sizeof(words));
    uint64_t hash = words[0] * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ (hash >> 29) ^ words[1]) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 32) ^ words[2]) * UINT64_C(0x94d049bb133111eb);
    hash = (hash ^ (hash >> 29) ^ words[3]) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(hash >> 32) & arena->bucket_mask;
}

/* A bucket that was left: the search goes on behind it. */
#define PSA_BUCKET_PASSED UINT32_MAX

/* The writer's search, from a bucket that is known already: nothing changes meanwhile. */
static inline int psa_find_from(const psa_arena *arena, const uint8_t *key, uint32_t bucket,
                                uint32_t *slot) {
    uint64_t wanted[4];
    memcpy(wanted, key, sizeof(wanted));
    for (uint32_t probes = 0; probes <= arena->bucket_mask; probes++) {
        uint32_t entry = PSA_LOAD_ACQUIRE(&arena->buckets[bucket]);
        if (entry == 0) return PSA_UNKNOWN_POOL;
        if (entry <= arena->max_pools) {
            uint64_t found[4];
            memcpy(found, arena->statics[entry - 1].key, sizeof(found));
            if (((found[0] ^ wanted[0]) | (found[1] ^ wanted[1]) | (found[2] ^ wanted[2]) |
                 (found[3] ^ wanted[3])) == 0) {
                *slot = entry - 1;
                return PSA_OK;
            }
        }
        bucket = (bucket + 1) & arena->bucket_mask;
    }
    return PSA_UNKNOWN_POOL;
}

#endif
