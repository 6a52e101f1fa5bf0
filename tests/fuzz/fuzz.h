/* What the fuzz targets share: bytes of an input as numbers, a small arena with a history, damage. */
#ifndef PSA_FUZZ_H
#define PSA_FUZZ_H

#include "../../arena/native/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 u128;
typedef __int128 i128;

#define POOLS 8
#define FIRST_BLOCK 100
#define NO_SLOT UINT32_MAX

#define REQUIRE(condition)                                                                 \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

typedef struct {
    const uint8_t *at, *end;
} input;

static uint64_t number(input *in, size_t nbytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < nbytes && in->at < in->end; i++) value |= (uint64_t)*in->at++ << 8 * i;
    return value;
}

typedef struct {
    psa_writer writer;
    uint8_t *base;
    uint64_t nbytes;
    uint64_t touched[2 * POOLS];
    uint32_t dirty[2 * POOLS];
} segment;

/* Sized by the number of blocks that can be undone, of up to 24 records each. */
static uint64_t capacities_of(psa_capacities *c, uint32_t pools, uint64_t heap, uint32_t blocks) {
    *c = (psa_capacities){
        .max_pools = pools,
        .max_tokens = 16,
        .undo_entry_count = blocks,
        .undo_record_count = 24 * (uint64_t)blocks,
        .heap_nbytes = heap,
    };
    return psa_arena_nbytes(c);
}

/* Memory of its own, so that a step beyond its end is seen. */
static void segment_make(segment *s, uint32_t pools, uint64_t heap, uint32_t blocks) {
    static const uint8_t digest[32];
    psa_capacities c;
    s->nbytes = capacities_of(&c, pools, heap, blocks);
    s->base = aligned_alloc(4096, s->nbytes);
    REQUIRE(s->base != NULL);
    memset(s->base, 0, s->nbytes);
    REQUIRE(psa_arena_format(s->base, s->nbytes, &c, 1, digest) == PSA_OK);
}

static int segment_open(segment *s) {
    return psa_writer_open(&s->writer, s->base, s->nbytes, -1, s->touched, s->dirty);
}

static uint8_t protocol_of(uint32_t pool) {
    return pool < 2 ? PSA_UNISWAP_V2 : pool < 6 ? PSA_UNISWAP_V3 : PSA_UNISWAP_V4;
}

static void key_of(uint32_t pool, uint8_t *key) {
    memset(key, 0, 32);
    memset(key, 0x11 * (int)(pool + 1), protocol_of(pool) == PSA_UNISWAP_V4 ? 32 : 20);
}

static psa_line line_of(uint32_t pool, uint64_t block) {
    psa_line line = {.fee_status = 3000 | (uint32_t)PSA_STATUS_LIVE << 24, .base_block = block};
    if (protocol_of(pool) == PSA_UNISWAP_V2) line.a[0] = line.b[0] = 1000000;
    else line.a[1] = UINT64_C(1) << 32;
    return line;
}

static int add_pool(psa_writer *writer, uint32_t pool, uint32_t *slot) {
    psa_static row = {.protocol = protocol_of(pool), .token1 = 1, .fee_pips = 3000};
    key_of(pool, row.key);
    row.key_nbytes = row.protocol == PSA_UNISWAP_V4 ? 32 : 20;
    row.tick_spacing = row.protocol == PSA_UNISWAP_V2 ? 0 : 10;
    return psa_pool_add(writer, &row, slot);
}

/* Two ticks with a little liquidity, around or beside the price. */
static int install_pool(psa_writer *writer, uint32_t pool, uint32_t slot, uint64_t block) {
    static const int32_t ticks[2] = {-1000, 1000};
    static const uint64_t gross[4] = {500, 0, 500, 0};
    static const uint64_t net[4] = {500, 0, UINT64_C(-500), UINT64_MAX};
    psa_line line = line_of(pool, block);
    int has_ticks = protocol_of(pool) != PSA_UNISWAP_V2 && pool != 6;
    if (has_ticks) line.b[0] = 500;
    return psa_pool_install(writer, slot, &line, ticks, gross, net, has_ticks ? 2 : 0);
}

static psa_event mark(uint8_t kind, uint64_t block, uint8_t flags) {
    return (psa_event){.kind = kind, .block_number = block, .flags = flags, .stream_seq = 1};
}

/* An event as a producer sends it, on one of the pools. */
static psa_event event_of(input *in, uint64_t block, uint64_t at) {
    uint32_t pool = (uint32_t)number(in, 1);
    uint8_t what = (uint8_t)number(in, 1);
    psa_event event = {
        .block_number = block,
        .tx_index = at,
        .stream_seq = 1,
        .flags = PSA_EVENT_IN_BLOCK,
    };
    pool = pool % (POOLS + 1);
    key_of(pool, event.key);
    event.protocol = protocol_of(pool);
    event.key_nbytes = event.protocol == PSA_UNISWAP_V4 ? 32 : 20;
    if (event.protocol == PSA_UNISWAP_V2) {
        if (what % 3 != 0) {
            event.kind = PSA_EVENT_V2_SYNC;
            event.words[0] = number(in, 4);
            event.words[4] = number(in, 4);
        } else {
            event.kind = PSA_EVENT_V2_DELTA;
            event.update_type = what / 3 % 3;
            int64_t amounts[2] = {(int32_t)number(in, 4), (int32_t)number(in, 4)};
            for (int i = 0; i < 2; i++) {
                event.words[4 * i] = (uint64_t)amounts[i];
                for (int word = 1; word < 4; word++)
                    event.words[4 * i + word] = amounts[i] < 0 ? UINT64_MAX : 0;
            }
        }
    } else if (what % 2 != 0) {
        event.kind = PSA_EVENT_CL_SWAP;
        event.words[0] = number(in, 3);
        event.words[1] = UINT64_C(1) << 32;
        event.tick = 10 * (int8_t)number(in, 1) + what / 2 % 3 - 1;
        event.amount[0] = number(in, 3);
    } else {
        int64_t amount = (int64_t)(number(in, 2) % 600);
        event.kind = PSA_EVENT_CL_LIQUIDITY;
        event.update_type = what / 2 % 2 ? PSA_UPDATE_MINT : PSA_UPDATE_BURN;
        event.tick_lower = 10 * (int32_t)(number(in, 1) % 12) - 60;
        event.tick_upper = event.tick_lower + 10 * (int32_t)(1 + what / 4 % 12);
        if (event.protocol == PSA_UNISWAP_V4 && event.update_type == PSA_UPDATE_BURN) amount = -amount;
        event.amount[0] = (uint64_t)amount;
        event.amount[1] = amount < 0 ? UINT64_MAX : 0;
    }
    return event;
}

static void apply(psa_writer *writer, const psa_event *events, uint64_t count) {
    REQUIRE(psa_apply(writer, events, count, 0, NO_SLOT) == PSA_OK);
}

/* An arena with pools of each kind, one announced, one removed, and some blocks that can be undone. */
static void segment_fill(segment *s) {
    static const uint8_t seeds[] = "the same events in each run: swaps, syncs, mints, burns, and more of them";
    psa_event events[16];
    uint32_t slot;
    REQUIRE(segment_open(s) == PSA_OK);
    psa_token token = {.address = {1}, .decimals = 18, .flags = 1, .symbol_nbytes = 3, .symbol = "ONE"};
    REQUIRE(psa_token_add(&s->writer, &token, &slot) == PSA_OK);
    token.address[0] = 2;
    REQUIRE(psa_token_add(&s->writer, &token, &slot) == PSA_OK);
    for (uint32_t pool = 0; pool < POOLS - 1; pool++) {
        REQUIRE(add_pool(&s->writer, pool, &slot) == PSA_OK);
        REQUIRE((pool == 5 ? psa_pool_announce(&s->writer, slot)
                           : install_pool(&s->writer, pool, slot, FIRST_BLOCK)) == PSA_OK);
    }
    s->writer.record.block_number = FIRST_BLOCK;
    s->writer.pending = 1;
    REQUIRE(psa_commit(&s->writer) == PSA_OK);
    REQUIRE(psa_pool_remove(&s->writer, 4) == PSA_OK);
    REQUIRE(psa_commit(&s->writer) == PSA_OK);
    input in = {seeds, seeds + sizeof(seeds)};
    for (uint64_t block = FIRST_BLOCK + 1; block <= FIRST_BLOCK + 6; block++) {
        events[0] = mark(PSA_EVENT_BEGIN_BLOCK, block, 0);
        for (uint32_t i = 1; i < 7; i++) events[i] = event_of(&in, block, i);
        events[7] = mark(PSA_EVENT_END_BLOCK, block, 0);
        apply(&s->writer, events, 8);
    }
}

/* Change up to 24 places: bits, words, or words copied from elsewhere; mostly what is in use. */
static void damage(input *in, uint8_t *base, uint64_t nbytes) {
    static const uint64_t values[] = {
        0, 1, 2, 7, 8, 63, 64, 255, UINT32_MAX, UINT64_MAX, UINT64_C(1) << 31, UINT64_C(1) << 63,
        UINT64_C(0x7fffffff), UINT64_C(1) << 20, 40, 39,
    };
    uint64_t places = 1 + number(in, 1) % 24;
    for (uint64_t i = 0; i < places && in->at < in->end; i++) {
        uint64_t where = number(in, 3), what = number(in, 1), at = where % nbytes;
        uint64_t words = at & ~UINT64_C(7);
        if (what & 128) { /* in the header's first part, which counts most */
            at = where % 640;
            words = at & ~UINT64_C(7);
            if (words < 64 && what & 64) words += 192;
        }
        uint64_t value = values[number(in, 1) % 16];
        switch (what % 6) {
        case 0: base[at] ^= (uint8_t)(1 << where / nbytes % 8); break;
        case 1: base[at] = (uint8_t)number(in, 1); break;
        case 2: memcpy(base + words, &value, 8); break;
        case 3: memcpy(base + words + (where & 4), &value, 4); break;
        case 4: value = number(in, 2); memcpy(base + words, &value, 4); break;
        default: memmove(base + words, base + number(in, 3) % (nbytes / 8) * 8, 8); break;
        }
    }
}

/* Where something lies, in bytes of the segment: one page of the header, then up to 2,048 bytes of each
 * region, so that damage seldom misses. */
static void damage_used(input *in, uint8_t *base, const psa_arena *arena) {
    uint64_t starts[10] = {
        0,
        (uint64_t)((uint8_t *)arena->statics - arena->base),
        (uint64_t)((uint8_t *)arena->slots - arena->base),
        (uint64_t)((uint8_t *)arena->tokens - arena->base),
        (uint64_t)((uint8_t *)arena->buckets - arena->base),
        (uint64_t)((uint8_t *)arena->undo_entries - arena->base),
        (uint64_t)((uint8_t *)arena->undo_records - arena->base),
        (uint64_t)(arena->heap - arena->base),
        (uint64_t)((uint8_t *)arena->change_entries - arena->base),
        (uint64_t)((uint8_t *)arena->change_slots - arena->base),
    };
    uint64_t region = number(in, 2) & 0x3ff;
    for (; region != 0 && in->at < in->end; region &= region - 1)
        damage(in, base + starts[__builtin_ctzll(region)], region & 1 ? 4096 : 2048);
}

#endif
