/* Applying, reverting, aborting, dying and growing, against a model that keeps a copy of each block.
 *
 * The model shares no code with the writer. Pools it sees fail are only required to be stale. */
#include "fuzz.h"

#define TICKS 48
#define DEPTH 12
#define EVENTS 8
#define HEAP 65536  /* for two slabs of TICKS ticks a pool */
#define BLOCKS 32   /* of the ring: no input begins more */

typedef struct {
    i128 a, b; /* reserves, or liquidity in b */
    int32_t tick;
    int is_stale;
    uint32_t count;
    struct {
        int32_t tick;
        i128 gross, net;
    } ticks[TICKS];
} pool_model;

typedef struct {
    pool_model pools[POOLS];
    psa_event events[EVENTS + 2];
    uint32_t count;
} block_model;

static segment whole, first, second;
static pool_model start[POOLS], now[POOLS];
static block_model blocks[DEPTH];
static uint32_t depth;
static uint64_t head, begun;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    uint32_t slot;
    (void)argc, (void)argv;
    segment_make(&whole, POOLS, HEAP, BLOCKS);
    REQUIRE(segment_open(&whole) == PSA_OK);
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        REQUIRE(add_pool(&whole.writer, pool, &slot) == PSA_OK && slot == pool);
        REQUIRE(install_pool(&whole.writer, pool, slot, FIRST_BLOCK) == PSA_OK);
        start[pool].a = start[pool].b = 1000000;
        if (protocol_of(pool) == PSA_UNISWAP_V2) continue;
        start[pool].a = 0;
        start[pool].b = pool == 6 ? 0 : 500;
        start[pool].count = pool == 6 ? 0 : 2;
        start[pool].ticks[0].tick = -1000;
        start[pool].ticks[1].tick = 1000;
        start[pool].ticks[0].gross = start[pool].ticks[1].gross = start[pool].ticks[0].net = 500;
        start[pool].ticks[1].net = -500;
    }
    whole.writer.record.block_number = FIRST_BLOCK;
    whole.writer.pending = 1;
    REQUIRE(psa_commit(&whole.writer) == PSA_OK);
    segment_make(&first, POOLS, HEAP, BLOCKS);
    segment_make(&second, POOLS, HEAP, BLOCKS);
    return 0;
}

static uint32_t find_tick(const pool_model *pool, int32_t tick) {
    uint32_t at = 0;
    while (at < pool->count && pool->ticks[at].tick < tick) at++;
    return at;
}

static int change_tick(pool_model *pool, int32_t tick, i128 change, i128 net) {
    uint32_t at = find_tick(pool, tick);
    if (at == pool->count || pool->ticks[at].tick != tick) {
        if (pool->count == TICKS) abort();
        memmove(&pool->ticks[at + 1], &pool->ticks[at], sizeof(pool->ticks[0]) * (pool->count++ - at));
        pool->ticks[at].tick = tick;
        pool->ticks[at].gross = pool->ticks[at].net = 0;
    }
    pool->ticks[at].gross += change;
    pool->ticks[at].net += net;
    if (pool->ticks[at].gross < 0) return 0;
    if (pool->ticks[at].gross != 0) return 1;
    if (pool->ticks[at].net != 0) return 0;
    memmove(&pool->ticks[at], &pool->ticks[at + 1], sizeof(pool->ticks[0]) * (--pool->count - at));
    return 1;
}

static void on_event(const psa_event *event) {
    uint32_t at = event->key[0] / 0x11u - 1;
    if (at >= POOLS) return; /* a pool nobody has */
    pool_model next = now[at];
    int fits = 1;
    switch (event->kind) {
    case PSA_EVENT_V2_SYNC:
        next.a = event->words[0];
        next.b = event->words[4];
        break;
    case PSA_EVENT_V2_DELTA: {
        i128 amounts[2] = {(int64_t)event->words[0], (int64_t)event->words[4]};
        for (int i = 0; i < 2; i++) {
            i128 size = amounts[i] < 0 ? -amounts[i] : amounts[i];
            if (event->update_type == PSA_UPDATE_MINT) amounts[i] = size;
            if (event->update_type == PSA_UPDATE_BURN) amounts[i] = -size;
        }
        next.a += amounts[0];
        next.b += amounts[1];
        fits = next.a >= 0 && next.b >= 0;
        break;
    }
    case PSA_EVENT_CL_SWAP:
        next.a = event->words[0];
        next.b = event->amount[0];
        next.tick = event->tick;
        break;
    default: {
        i128 change = (int64_t)event->amount[0];
        if (event->protocol == PSA_UNISWAP_V3 && event->update_type == PSA_UPDATE_BURN) change = -change;
        if (change == 0) break;
        fits = change_tick(&next, event->tick_lower, change, change) &&
               change_tick(&next, event->tick_upper, change, -change);
        if (next.tick >= event->tick_lower && next.tick < event->tick_upper) next.b += change;
        fits = fits && next.b >= 0;
    }
    }
    if (fits) now[at] = next;
    else now[at].is_stale = 1;
}

static void compare(const psa_arena *arena) {
    psa_line line;
    int32_t ticks[TICKS];
    uint64_t net[2 * TICKS], gross[2 * TICKS];
    psa_commit_record record;
    REQUIRE(psa_pin(arena, &record) == PSA_OK && record.block_number == head);
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        const pool_model *model = &now[pool];
        REQUIRE(psa_pool_read_ticks(arena, pool, 0, 0, &line, ticks, net, gross, TICKS) == PSA_OK);
        REQUIRE(line.fee_status >> 24 == (model->is_stale ? PSA_STATUS_STALE : PSA_STATUS_LIVE));
        if (model->is_stale) continue;
        REQUIRE(line.a[0] == (uint64_t)model->a && line.b[0] == (uint64_t)model->b && line.b[1] == 0);
        REQUIRE(line.tick == model->tick && line.tick_count == model->count);
        for (uint32_t i = 0; i < model->count; i++) {
            REQUIRE(ticks[i] == model->ticks[i].tick);
            REQUIRE(gross[2 * i] == (uint64_t)model->ticks[i].gross && gross[2 * i + 1] == 0);
            REQUIRE(net[2 * i] == (uint64_t)model->ticks[i].net);
            REQUIRE(net[2 * i + 1] == (model->ticks[i].net < 0 ? UINT64_MAX : 0));
        }
    }
}

static uint32_t make_block(input *in, psa_event *events) {
    uint32_t count = (uint32_t)number(in, 1) % (EVENTS + 1);
    events[0] = mark(PSA_EVENT_BEGIN_BLOCK, head + 1, 0);
    for (uint32_t i = 1; i <= count; i++) events[i] = event_of(in, head + 1, i);
    events[count + 1] = mark(PSA_EVENT_END_BLOCK, head + 1, 0);
    return count + 2;
}

static void forward(input *in, psa_writer *writer) {
    if (++begun >= BLOCKS) return;
    if (depth == DEPTH) memmove(&blocks[0], &blocks[1], sizeof(blocks[0]) * --depth);
    block_model *block = &blocks[depth++];
    memcpy(block->pools, now, sizeof(now));
    block->count = make_block(in, block->events);
    head++;
    apply(writer, block->events, block->count);
    for (uint32_t i = 1; i + 1 < block->count; i++) on_event(&block->events[i]);
}

static void back(psa_writer *writer) {
    if (depth == 0) return;
    block_model *block = &blocks[--depth];
    for (uint32_t i = 0; i < block->count; i++) block->events[i].flags |= PSA_EVENT_IS_REVERT;
    apply(writer, block->events, block->count);
    head--;
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        int is_stale = now[pool].is_stale; /* until it is read anew */
        now[pool] = block->pools[pool];
        now[pool].is_stale |= is_stale;
    }
}

static void enveloped(input *in, psa_writer *writer) {
    psa_event edge = mark(PSA_EVENT_REORG_START, head, 0);
    apply(writer, &edge, 1);
    for (uint64_t count = number(in, 1) % 4; count > 0; count--) back(writer);
    for (uint64_t count = number(in, 1) % 4; count > 0; count--) forward(in, writer);
    edge = mark(PSA_EVENT_REORG_COMPLETE, head, 0);
    apply(writer, &edge, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes) {
    static const uint8_t digest[32];
    input in = {data, data + nbytes};
    segment *s = &first, *other = &second;
    psa_event events[EVENTS + 2];
    psa_capacities c;
    memcpy(s->base, whole.base, whole.nbytes);
    memcpy(now, start, sizeof(now));
    depth = 0;
    begun = 0;
    head = FIRST_BLOCK;
    REQUIRE(segment_open(s) == PSA_OK);
    for (int step = 0; step < 60 && in.at < in.end && begun < BLOCKS; step++) {
        switch (number(&in, 1) % 8) {
        case 0: back(&s->writer); break;
        case 1: enveloped(&in, &s->writer); break;
        case 2: /* death inside a block */
            apply(&s->writer, events, make_block(&in, events) - 1);
            REQUIRE(segment_open(s) == PSA_OK);
            break;
        case 3:
            apply(&s->writer, events, make_block(&in, events) - 1);
            psa_abort(&s->writer);
            break;
        case 4:
            capacities_of(&c, POOLS, HEAP, BLOCKS);
            memset(other->base, 0, other->nbytes);
            REQUIRE(psa_arena_format(other->base, other->nbytes, &c, 1, digest) == PSA_OK);
            REQUIRE(psa_arena_copy(other->base, other->nbytes, -1, &s->writer.arena) == PSA_OK);
            other = s;
            s = s == &first ? &second : &first;
            REQUIRE(segment_open(s) == PSA_OK);
            break;
        default: forward(&in, &s->writer); break;
        }
        psa_commit(&s->writer);
        compare(&s->writer.arena);
    }
    REQUIRE(segment_open(s) == PSA_OK); /* what a writer leaves passes the check */
    compare(&s->writer.arena);
    return 0;
}
